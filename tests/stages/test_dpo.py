"""Stage 06's preference pairs: what is chosen over what, and why."""

import importlib
import json
import random
from types import SimpleNamespace

import pytest

import tools as toolbox
from playground.judge import negatives
from playground.judge.checking import Checker
from playground.model import loading, prompting
from playground.model.generation import Completion
from playground.run import recipe

stage = importlib.import_module("06_dpo")
TOOLS = toolbox.load_tools()
RIGHT = '{"tool": "get_weather", "args": {"city": "Oslo"}}'
FAILING = '{"tool": "calculator", "args": {"expression": "1 / 0"}}'
WRONG = '{"tool": "get_weather", "args": {"city": "Paris"}}'
RECORD = {"id": "t-1", "prompt": "Weather in Oslo?", "completion": RIGHT}
CHECKER = Checker([RECORD], TOOLS)
REQUEST = {"id": "rl-1", "prompt": "Weather in Oslo?"}


def samples(*texts):
    return [Completion(text, [i], True, 1) for i, text in enumerate(texts)]


def test_each_wrong_sample_of_a_labelled_request_is_rejected_for_the_label():
    pairs = list(stage.find_mistakes(RECORD, samples(RIGHT, WRONG, "Sunny.", RIGHT), TOOLS))
    assert [(pair["kind"], pair["rejected"], pair["rejected_ids"]) for pair in pairs] == [
        ("wrong value", WRONG, [1]),
        ("prose", "Sunny.", [2]),
    ]
    assert {(pair["chosen"], pair["source"]) for pair in pairs} == {(RIGHT, "sampled, labelled")}


def test_without_a_label_what_two_samples_say_and_the_checks_like_best_is_chosen_over_the_worst():
    (pair,) = stage.rank_samples(REQUEST, samples(WRONG, RIGHT, "Sunny.", RIGHT), CHECKER)
    assert (pair["chosen"], pair["rejected"], pair["kind"]) == (RIGHT, "Sunny.", "not format_correctness")
    assert pair["source"] == "sampled, without label"


@pytest.mark.parametrize(
    "texts",
    [
        (RIGHT, RIGHT, RIGHT),  # nothing is wrong
        (RIGHT, WRONG, "Sunny."),  # nobody repeats it
        (FAILING, FAILING, "Sunny."),  # it does not execute
    ],
)
def test_without_a_label_doubt_gives_no_pair(texts):
    assert list(stage.rank_samples(REQUEST, samples(*texts), CHECKER)) == []


@pytest.mark.parametrize(("own", "given", "expected"), [(8, 0, (0, 8)), (8, 3, (3, 5)), (8, 9, (4, 4)), (1, 9, (7, 1))])
def test_pairs_that_came_with_the_data_take_up_to_half_of_the_places_or_what_is_free(own, given, expected, tokenizer):
    pairs = [stage.pair_of(RECORD, "prose", "sampled, labelled", RIGHT, "Sunny.", [2])] * own
    rows = [{"id": "a", "prompt": "Oslo?", "chosen": RIGHT, "rejected": WRONG}] * given
    found = stage.with_given(pairs, rows, tokenizer, {"max_pairs": 8})
    assert (sum(pair["kind"] == "given" for pair in found), sum(pair["kind"] == "prose" for pair in found)) == expected
    if given:
        assert found[0]["rejected_ids"] == prompting.encode_completion(WRONG, tokenizer)


def collect(monkeypatch, drawn, **dpo):
    """collect_pairs with samples that are told: drawn(temperature) gives those of every request."""
    settings = recipe.load()
    settings["dpo"] |= dpo
    records = [
        {**RECORD, "id": f"t-{i}", "completion": RIGHT.replace("Oslo", city), "prompt": f"Weather in {city}?"}
        for i, city in enumerate(("Oslo", "Rome", "Lima"))
    ]

    def draw(model, tokenizer, rows, count, settings, temperature, progress):
        return [(row, samples(*drawn(row, temperature))) for row in rows]

    monkeypatch.setattr(stage, "draw_samples", draw)
    tokenizer = SimpleNamespace(chat_template="x", eos_token_id=0)
    monkeypatch.setattr(prompting, "encode_completion", lambda text, _: [len(text)])
    return stage.collect_pairs(None, tokenizer, records, [], TOOLS, CHECKER, settings)


def test_there_is_one_pair_for_each_request_and_kind_of_mistake(monkeypatch):
    pairs = collect(monkeypatch, lambda row, _: [WRONG, WRONG, "Sunny.", row["completion"]], min_pairs=6)
    assert sorted((pair["id"], pair["kind"]) for pair in pairs) == [
        (f"t-{i}", kind) for i in range(3) for kind in ("prose", "wrong value")
    ]


def test_with_too_few_mistakes_the_temperature_is_raised_once_and_it_is_said(monkeypatch, capsys):
    asked = []

    def drawn(row, temperature):
        asked.append(temperature)
        return [WRONG if temperature > 1 else row["completion"]]

    pairs = collect(monkeypatch, drawn, min_pairs=3)
    assert asked == [1.0] * 3 + [1.5] * 3
    assert [pair["kind"] for pair in pairs] == ["wrong value"] * 3
    assert "0 pairs at temperature 1.0" in capsys.readouterr().out


def test_hard_negatives_fill_up_and_are_marked(monkeypatch):
    pairs = collect(monkeypatch, lambda row, _: [row["completion"]], min_pairs=2)
    assert [(pair["kind"], pair["source"]) for pair in pairs] == [("hard negative", "hard negative")] * 2
    for pair in pairs:
        chosen, rejected = (json.loads(pair[side]) for side in ("chosen", "rejected"))
        assert chosen["tool"] == rejected["tool"] and chosen["args"].keys() == rejected["args"].keys()
        assert chosen["args"] != rejected["args"]
        assert toolbox.validate_call(rejected, TOOLS) == []


def test_a_record_whose_arguments_all_others_share_has_no_hard_negative():
    assert list(negatives.hard_negatives([RECORD, {**RECORD, "id": "t-2"}], random.Random(0))) == []


def test_of_checkpoints_with_as_many_exact_calls_the_one_with_more_valid_json_is_better():
    rows = [{"exact_call": exact, "format_correctness": valid} for exact, valid in ((0.8, 0.97), (0.8, 0.98), (0.7, 1))]
    assert max(rows, key=stage.quality) == rows[1]


@pytest.mark.parametrize(("own", "used"), [(None, 1e-4), (1e-3, 1e-3)])
def test_the_optimizer_is_stage_03s_and_where_none_is_given_half_its_learning_rate(tmp_path, own, used):
    settings = recipe.load(None, [("dpo.learning_rate", own)])
    tokenizer, model = loading.load_tokenizer(loading.EMBEDDED), loading.load_model(loading.EMBEDDED, settings)
    pairs = [stage.pair_of({**RECORD, "id": "t"}, "wrong value", "test", RIGHT, WRONG, [1, 2])]
    sft = {"optimizer": "muon", "learning_rate": 2e-4}
    artifact = SimpleNamespace(path=tmp_path)
    trainer = stage.build_trainer(model, tokenizer, pairs, sft, settings, artifact, lambda *_: None)
    optimizer = trainer.create_optimizer()
    assert type(optimizer).__name__ == "MuonAdamW" and {group["lr"] for group in optimizer.param_groups} == {used}
