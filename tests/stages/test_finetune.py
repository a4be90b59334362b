"""What stage 03 learns from: the completion and its end, and nothing else."""

import importlib
import random
import re
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, TrainerCallback

import tools as toolbox
from playground.data.augment import Exchange
from playground.judge import scoring
from playground.model import prompting
from playground.model.muon import MuonAdamW, orthogonalized
from playground.run import artifacts, recipe
from tests.conftest import save_random_model

stage = importlib.import_module("03_finetune")
RECORDS = [
    {"prompt": "Weather in Oslo?", "completion": '{"tool": "get_weather", "args": {"city": "Oslo"}}'},
    {"prompt": "hi", "completion": '{"tool": "respond", "args": {"message": "Hello! How can I help?"}}'},
]


@pytest.fixture
def batch(tokenizer):
    from transformers import DataCollatorForSeq2Seq

    encoded = [stage.encode(record, tokenizer) for record in RECORDS]
    return DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=stage.IGNORE)(encoded)


def test_labels_are_the_completion_and_the_end_of_sequence(tokenizer):
    for record in RECORDS:
        labels = [label for label in stage.encode(record, tokenizer)["labels"] if label != stage.IGNORE]
        assert labels[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(labels[:-1]) == f" {record['completion']}"


def test_training_reads_the_tokens_that_generation_starts_from(tokenizer):
    record = RECORDS[0]
    prompt = prompting.encode_prompt(record["prompt"], tokenizer)
    encoded = stage.encode(record, tokenizer)
    assert encoded["input_ids"][: len(prompt)] == prompt
    assert encoded["labels"][: len(prompt)] == [stage.IGNORE] * len(prompt)


def test_the_loss_is_the_mean_over_completion_tokens_of_each_record_alone(base_model, batch, tokenizer):
    losses = []
    for record in RECORDS:
        encoded = stage.encode(record, tokenizer)
        ids, labels = torch.tensor([encoded["input_ids"]]), torch.tensor(encoded["labels"])
        logits = base_model(ids).logits[0]
        losses.append(F.cross_entropy(logits[:-1], labels[1:], ignore_index=stage.IGNORE, reduction="none"))
    losses = torch.cat(losses)
    assert stage.completion_loss(base_model, batch).item() == pytest.approx(losses[losses > 0].mean().item(), rel=1e-4)


def test_padding_and_prompt_tokens_carry_no_gradient_from_the_labels(base_model, batch):
    changed = {name: tensor.clone() for name, tensor in batch.items()}
    padding = changed["attention_mask"] == 0
    assert padding.any()
    changed["input_ids"][padding] = 7
    assert torch.equal(stage.completion_loss(base_model, batch), stage.completion_loss(base_model, changed))


EMAIL = {
    "prompt": "Email jo.berg@kelp.org about the Lyon trip",
    "completion": '{"tool": "send_email", "args": {"to": "jo.berg@kelp.org", "subject": "the Lyon trip"}}',
    "source": "templates",
}
OTHER = {
    "prompt": "Write to ada@fern.net: lunch",
    "completion": '{"tool": "send_email", "args": {"to": "ada@fern.net", "subject": "lunch"}}',
    "source": "templates",
}


def test_exchanged_words_still_stand_in_the_request():
    changed = Exchange([EMAIL, OTHER], 0, 1)(EMAIL, random.Random(0))
    values = toolbox.parse_call(changed["completion"])["args"].values()
    assert all(value in changed["prompt"] for value in values)
    assert "Lyon" not in changed["prompt"] and changed["prompt"].startswith("Email ")


def test_whole_arguments_come_from_other_records_of_that_tool():
    changed = Exchange([OTHER], 1, 0)(EMAIL, random.Random(0))
    assert changed["prompt"] == "Email ada@fern.net about lunch"
    assert changed["completion"] == OTHER["completion"]


def test_what_a_tool_found_is_exchanged_in_result_and_answer_alike():
    call = '{"tool": "get_weather", "args": {"city": "Oslo"}}'
    prompt = f'Is it raining in Oslo?\nCall: {call}\nResult: {{"temperature_c": 14, "sky": "stormy"}}'
    answer = '{"tool": "respond", "args": {"message": "It is 14 °C and stormy in Oslo."}}'
    record = {"prompt": prompt, "completion": answer, "source": "templates"}
    changed = Exchange([EMAIL, record], 0, 1)(record, random.Random(1))
    message = toolbox.parse_call(changed["completion"])["args"]["message"]
    assert scoring.share_of_facts(message, changed["prompt"]) == 1
    assert "stormy" not in changed["completion"] and "Result: {" in changed["prompt"]


@pytest.mark.parametrize("argument", ["tool city", "the args", "a timer"])
def test_an_exchanged_word_that_is_also_a_name_leaves_the_calls_form_alone(argument):
    call = toolbox.to_json({"tool": "timer", "args": {"city": argument}})
    record = {"prompt": f"{argument}?\nCall: {call}\nResult: {{}}", "completion": call, "source": "templates"}
    found = Exchange([EMAIL, record], 0, 1)(record, random.Random(0))
    shown = toolbox.parse_call(found["prompt"].split("\n")[1].removeprefix("Call: "))
    assert shown == toolbox.parse_call(found["completion"])
    assert shown["tool"] == "timer" and list(shown["args"]) == ["city"] and shown["args"]["city"] != argument


def test_records_are_read_as_they_are_where_nothing_is_exchanged_or_the_source_is_another():
    assert Exchange([EMAIL, OTHER], 0, 0)(EMAIL, random.Random(0)) == EMAIL
    completion = '{"tool": "set_unit", "args": {"unit": "metric", "places": 4}}'
    record = {"prompt": 'metric, 4 places {"tool": x', "completion": completion, "source": "xlam"}
    assert Exchange([EMAIL, record], 1, 1)(record, random.Random(0)) == record


def test_a_batch_in_parts_has_the_loss_of_the_whole(base_model, batch):
    whole = stage.completion_loss(base_model, batch)
    tokens = (batch["labels"] != stage.IGNORE).sum()
    parts = [
        stage.completion_loss(base_model, {k: v[i : i + 1] for k, v in batch.items()}, tokens)
        for i in range(len(batch["labels"]))
    ]
    assert torch.allclose(sum(parts), whole)
    nothing = {**batch, "labels": torch.full_like(batch["labels"], stage.IGNORE)}
    assert stage.completion_loss(base_model, nothing, tokens) == 0


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def fine_tune(folder, tokenizer, killed_after=None, **changed):
    """(the weights after each step, the weights validated after each epoch) of four epochs of two steps."""
    sft = recipe.for_model(recipe.load(), "sft", "embedded") | {"epochs": 4, "batch_size": 2} | changed
    steps, epochs = {}, {}

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **_):
            steps[state.global_step] = weights(model)

        def on_save(self, args, state, control, **_):
            if state.epoch == killed_after:
                raise KeyboardInterrupt

    def after_epoch(epoch, model):
        epochs[epoch] = weights(model)

    model, artifact = AutoModelForCausalLM.from_pretrained(folder / "base"), SimpleNamespace(path=folder / "run")
    told = (sft, {"seed": 0}, artifact, after_epoch, lambda *_: None)
    trainer = stage.build_trainer(model, tokenizer, RECORDS * 2, *told)
    trainer.add_callback(Watch())
    trainer.train(resume_from_checkpoint=artifacts.last_checkpoint(artifact.path))
    return steps, epochs


SMALL = {
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2},
    "llama": {"hidden_size": 16, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2},
}


@pytest.fixture
def folder(tmp_path, tokenizer):
    save_random_model(tmp_path / "base", tokenizer, "llama", **SMALL["llama"])
    return tmp_path


def test_from_a_share_of_the_steps_on_the_mean_of_their_weights_is_validated(folder, tokenizer):
    steps, epochs = fine_tune(folder, tokenizer, average_from=0.5)
    assert torch.equal(epochs[1], steps[2]) and torch.equal(epochs[2], steps[4])
    assert torch.allclose(epochs[3], (steps[5] + steps[6]) / 2)
    assert torch.allclose(epochs[4], (steps[5] + steps[6] + steps[7] + steps[8]) / 4)
    assert not torch.allclose(epochs[4], steps[8])


def test_an_average_that_was_interrupted_goes_on(folder, tokenizer):
    changed = {"average_from": 0.3, "optimizer": "muon"}
    _, unbroken = fine_tune(folder, tokenizer, **changed)
    (folder / "run").rename(folder / "unbroken")
    with pytest.raises(KeyboardInterrupt):
        fine_tune(folder, tokenizer, killed_after=3, **changed)
    assert torch.equal(fine_tune(folder, tokenizer, **changed)[1][4], unbroken[4])


def test_a_part_of_an_epoch_is_validated_as_one(folder, tokenizer):
    assert list(fine_tune(folder, tokenizer, average_from=1, epochs=1.5)[1]) == [1, 2]


def test_without_an_average_the_last_weights_count_and_nothing_is_kept_of_one(folder, tokenizer):
    steps, epochs = fine_tune(folder, tokenizer, average_from=1)
    assert all(torch.equal(epochs[epoch], steps[2 * epoch]) for epoch in epochs)
    assert not list(folder.rglob("average.pt"))


@pytest.mark.parametrize("architecture", SMALL)
def test_muon_takes_the_matrices_inside_and_adamw_the_rest(tmp_path, tokenizer, architecture):
    folder = save_random_model(tmp_path, tokenizer, architecture, **SMALL[architecture])
    model = AutoModelForCausalLM.from_pretrained(folder)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = MuonAdamW(model, 0.1, 0.0)
    matrices, rest = ({names[id(parameter)] for parameter in group["params"]} for group in optimizer.param_groups)
    assert matrices | rest == set(names.values()) and not matrices & rest
    assert matrices == {name for name in names.values() if re.search(r"(attn|mlp)\..*weight", name)}


def test_muon_steps_by_an_orthogonal_matrix_of_adamws_size_and_adamw_by_signs(folder):
    model = AutoModelForCausalLM.from_pretrained(folder / "base")
    matrix, embedding = model.model.layers[0].mlp.up_proj.weight, model.model.embed_tokens.weight
    before = matrix.detach().clone(), embedding.detach().clone()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    MuonAdamW(model, lr=0.01, weight_decay=0.0).step()
    step = (before[0] - matrix.detach()) / 0.01
    # Five Newton-Schulz iterations bring the singular values near 1; 0.2 sqrt(longer side) is the scale to AdamW's.
    values = torch.linalg.svdvals(step) / (0.2 * max(matrix.shape) ** 0.5)
    assert values.min() > 0.6 and values.max() < 1.3
    assert torch.allclose(before[1] - embedding.detach(), 0.01 * embedding.grad.sign(), atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 24, 40), (2, 40, 24)])
def test_the_orthogonal_factor_is_that_of_the_svd_and_of_pytorchs_muon(shape):
    from torch.optim._muon import DEFAULT_A, DEFAULT_B, DEFAULT_C, _zeropower_via_newtonschulz

    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = orthogonalized(matrices)
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    # The iteration stops with singular values around 1; along the singular vectors it is exact.
    along = torch.diagonal(u.mT @ found @ v.mT, dim1=1, dim2=2)
    assert along.min() > 0.6 and along.max() < 1.3
    assert torch.allclose(found, u @ torch.diag_embed(along) @ v, atol=1e-3)
    for matrix, one in zip(matrices, found, strict=True):
        pytorchs = _zeropower_via_newtonschulz(matrix, (DEFAULT_A, DEFAULT_B, DEFAULT_C), 5, 1e-7).float()
        assert torch.allclose(one, pytorchs, atol=0.03)  # which is bfloat16's


def test_muon_makes_the_steps_of_pytorchs_optimizers(folder):
    ours, theirs = (AutoModelForCausalLM.from_pretrained(folder / "base") for _ in range(2))
    optimizer = MuonAdamW(ours, lr=0.01, weight_decay=0.1, dtype=torch.bfloat16)
    names = dict(theirs.named_parameters())
    chosen = {id(parameter) for parameter in optimizer.param_groups[0]["params"]}
    inside = [names[name] for name, parameter in ours.named_parameters() if id(parameter) in chosen]
    rest = [parameter for parameter in names.values() if not any(parameter is one for one in inside)]
    reference = torch.optim.Muon(inside, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    generator = torch.Generator().manual_seed(0)
    adamw = torch.optim.AdamW(rest, lr=0.01, weight_decay=0.0)
    for _ in range(3):
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.grad = other.grad = torch.randn(mine.shape, generator=generator)
        for each in (optimizer, reference, adamw):
            each.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(mine, other, atol=2e-3)


def test_muon_trains_alone_where_there_are_matrices_only(folder):
    model = AutoModelForCausalLM.from_pretrained(folder / "base").requires_grad_(False)
    matrix = model.model.layers[0].mlp.up_proj.weight.requires_grad_()
    before = matrix.detach().clone()
    matrix.grad = torch.ones_like(matrix)
    MuonAdamW(model, lr=0.01, weight_decay=0.0).step()
    assert not torch.equal(matrix, before)
