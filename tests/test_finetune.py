"""What stage 03 learns from: the completion and its end, and nothing else."""

import importlib
import random

import pytest
import torch
import torch.nn.functional as F

import tools as toolbox
from playground import scoring
from playground.exchange import Exchange

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
    prompt = toolbox.encode_prompt(record["prompt"], tokenizer)
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
    facts = scoring.judge_answer(toolbox.parse_call(changed["completion"])["args"]["message"], changed["prompt"])
    assert facts["response_quality"] == 1 and facts["answer_supported"] == 1
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
