"""Stage 06's preference pairs: what is chosen over what, and why."""

import importlib
import json
from types import SimpleNamespace

import pytest
import torch

import tools as toolbox
from playground.model import generation, likelihood, loading, prompting
from playground.model.generation import Completion
from playground.run import hardware, recipe

stage = importlib.import_module("06_dpo")
TOOLS = toolbox.load_tools()
RIGHT = '{"tool": "get_weather", "args": {"city": "Oslo"}}'
WRONG = '{"tool": "get_weather", "args": {"city": "Paris"}}'
LABELLED = {"id": "f-1", "prompt": "Weather in Oslo?", "completion": RIGHT}
REQUEST = {
    "id": "rl-1",
    "prompt": "Weather in Oslo?",
    "outcome": toolbox.outcome_of(json.loads(RIGHT), TOOLS),
}


def samples(*texts):
    return [Completion(text, [i], True, 1) for i, text in enumerate(texts)]


def test_the_loss_is_that_of_trl(tmp_path, monkeypatch):
    """On the same pairs, from log-probabilities that are worked out row by row."""
    from trl import DPOTrainer

    monkeypatch.setattr(hardware, "has_bf16", lambda: False)  # in which padding changes what is rounded how
    numbers = torch.Generator().manual_seed(0)
    chosen, rejected, reference_chosen, reference_rejected = -10 * torch.rand(4, 6, generator=numbers)
    found = stage.dpo_loss(chosen, rejected, reference_chosen, reference_rejected, 0.3)
    ratios = (chosen - rejected) - (reference_chosen - reference_rejected)
    assert torch.allclose(found, torch.log1p(torch.exp(-0.3 * ratios)), atol=1e-6)
    settings = recipe.load(None, [("dpo.nll_weight", 0), ("dpo.beta", 0.3), ("dpo.learning_rate", 1e-3)])
    tokenizer, model = loading.load_tokenizer(loading.EMBEDDED), loading.load_model(loading.EMBEDDED, settings)
    rows = [(LABELLED, RIGHT, WRONG), ({"prompt": "Is it raining in Rome, Italy?"}, RIGHT, "Sunny.")]
    pairs = [{"prompt": row["prompt"], "chosen": good, "rejected": bad,
              "rejected_ids": prompting.encode_completion(bad, tokenizer)} for row, good, bad in rows]  # fmt: skip
    sft = {"optimizer": "adamw", "learning_rate": 1e-3, "micro_batch_size": 8}
    trainer = stage.build_trainer(model, tokenizer, pairs, sft, settings, SimpleNamespace(path=tmp_path), None)
    assert isinstance(trainer, DPOTrainer)
    reference = [summed(model, tokenizer, pair) for pair in pairs]
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter += 0.01 * (number % 3)
    policy = [summed(model, tokenizer, pair) for pair in pairs]
    columns = [torch.stack(column) for side in (policy, reference) for column in zip(*side, strict=True)]
    expected = stage.dpo_loss(columns[0], columns[1], columns[2], columns[3], 0.3).mean()
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    with torch.no_grad():
        assert trainer.compute_loss(model, batch).item() == pytest.approx(expected.item(), abs=1e-4)


def summed(model, tokenizer, pair):
    """The log-probabilities of a pair's two answers, each alone and unpadded."""
    ids, found = stage.encode(pair, tokenizer), []
    for name in ("chosen_ids", "rejected_ids"):
        batch = likelihood.collate([ids["prompt_ids"]], [ids[name]], tokenizer.pad_token_id, "cpu")
        with torch.no_grad():
            found.append(likelihood.evaluate_tokens(model, batch)[0].sum())
    return found


def test_the_known_call_is_chosen_over_the_first_sample_with_another_outcome():
    pair = stage.find_pair(LABELLED, samples(RIGHT, WRONG, "Sunny."), TOOLS)
    assert (pair["chosen"], pair["rejected"], pair["rejected_ids"]) == (RIGHT, WRONG, [1])
    assert (pair["kind"], pair["source"]) == ("not the right outcome", "label")


def test_without_a_known_call_a_sample_with_the_right_outcome_is_chosen():
    pair = stage.find_pair(REQUEST, samples("Sunny.", WRONG, RIGHT), TOOLS)
    assert (pair["chosen"], pair["rejected"]) == (RIGHT, "Sunny.")
    assert (pair["kind"], pair["source"]) == ("not the right format", "samples")


@pytest.mark.parametrize(
    ("request_", "texts"),
    [
        (LABELLED, (RIGHT, RIGHT)),  # nothing is wrong
        (REQUEST, (RIGHT, RIGHT)),
        (REQUEST, (WRONG, "Sunny.")),  # nobody knows better
    ],
)
def test_without_a_right_and_a_wrong_answer_there_is_no_pair(request_, texts):
    assert stage.find_pair(request_, samples(*texts), TOOLS) is None


def collect(monkeypatch, texts, requests, given=(), **dpo):
    settings = recipe.load()
    settings["dpo"] |= {"samples": len(texts)} | dpo
    monkeypatch.setattr(generation, "generate", lambda *_, **__: samples(*texts) * len(requests))
    monkeypatch.setattr(prompting, "encode_completion", lambda text, _: [len(text)])
    return stage.collect_pairs(None, None, requests, list(given), TOOLS, settings)


def test_there_is_one_pair_for_each_request(monkeypatch):
    requests = [{**LABELLED, "id": f"t-{i}"} for i in range(5)]
    pairs = collect(monkeypatch, [WRONG, "Sunny.", RIGHT], requests)
    assert sorted(pair["id"] for pair in pairs) == [f"t-{i}" for i in range(5)]


@pytest.mark.parametrize(("own", "given", "expected"), [(8, 0, (0, 8)), (8, 3, (3, 5)), (8, 9, (4, 4)), (1, 9, (7, 1))])
def test_pairs_that_came_with_the_data_take_up_to_half_of_the_places_or_what_is_free(monkeypatch, own, given, expected):
    requests = [{**LABELLED, "id": f"t-{i}"} for i in range(own)]
    rows = [{"id": "a", "prompt": "Oslo?", "chosen": RIGHT, "rejected": WRONG}] * given
    found = collect(monkeypatch, [WRONG], requests, rows, max_pairs=8)
    assert tuple(sum((pair["kind"] == "given") == given for pair in found) for given in (True, False)) == expected
    if given:
        assert found[0]["rejected_ids"] == [len(WRONG)]


def test_of_checkpoints_with_as_many_exact_calls_the_one_with_more_valid_json_is_better():
    rows = [{"exact_call": exact, "format_correctness": valid} for exact, valid in ((0.8, 0.97), (0.8, 0.98), (0.7, 1))]
    assert max(rows, key=stage.quality) == rows[1]


@pytest.mark.parametrize(("own", "used"), [(None, 1e-4), (1e-3, 1e-3)])
def test_the_optimizer_is_stage_03s_and_where_none_is_given_half_its_learning_rate(tmp_path, own, used):
    settings = recipe.load(None, [("dpo.learning_rate", own)])
    tokenizer, model = loading.load_tokenizer(loading.EMBEDDED), loading.load_model(loading.EMBEDDED, settings)
    pairs = [{"prompt": "Weather in Oslo?", "chosen": RIGHT, "rejected": WRONG, "rejected_ids": [1, 2]}]
    sft = {"optimizer": "muon", "learning_rate": 2e-4, "micro_batch_size": 8}
    artifact = SimpleNamespace(path=tmp_path)
    trainer = stage.build_trainer(model, tokenizer, pairs, sft, settings, artifact, lambda *_: None)
    optimizer = trainer.create_optimizer()
    assert type(optimizer).__name__ == "MuonAdamW" and {group["lr"] for group in optimizer.param_groups} == {used}
    assert trainer.args.per_device_train_batch_size == 2  # a quarter of stage 03's records
    small = stage.build_trainer(model, tokenizer, pairs, sft | {"micro_batch_size": 1}, settings, artifact, None)
    assert (small.args.per_device_train_batch_size, small.args.gradient_accumulation_steps) == (1, 16)
