"""The hand-written test requests, and what stage 02 makes of them."""

import json
import re

import pytest

import tools as toolbox
from playground.data import leaks, sources, templates
from playground.data.entities import read_data
from playground.data.steps import read_prompt, write_prompt

TOOLS = toolbox.load_tools()
RECORDS = [json.loads(line) for line in sources.WILD.read_text(encoding="utf-8").splitlines()]


def first_call(record):
    """The call that the request asks for: in the prompt, where the record is a second turn."""
    _, *steps = read_prompt(record["prompt"])
    return steps[0][1] if steps else json.loads(record["completion"])


def test_there_are_a_hundred_and_fifty_for_all_five_tools_and_some_second_turns():
    assert len({record["prompt"] for record in RECORDS}) == len(RECORDS) >= 150
    first = [record["meta"]["tool"] for record in RECORDS if record["meta"]["turn"] == 1]
    assert all(first.count(tool) >= 25 for tool in TOOLS)
    assert sum(record["meta"]["turn"] == 2 for record in RECORDS) >= 8


def test_every_one_is_a_canonical_record_whose_call_validates():
    for record in RECORDS:
        call = toolbox.parse_call(record["completion"])
        assert list(record) == ["id", "prompt", "completion", "source", "meta"] and record["source"] == "wild"
        assert toolbox.validate_call(call, TOOLS) == [] and record["completion"] == toolbox.to_json(call)
        assert write_prompt(read_prompt(record["prompt"])) == record["prompt"]


def test_the_arguments_follow_the_templates_conventions():
    replies = read_data("phrasings.json")["replies"].values()
    number = r"(sqrt\()?\(*\d+(\.\d+)?\)*"
    for record in RECORDS:
        call, request = first_call(record), record["prompt"].split("\n")[0]
        if call["tool"] == "calculator":
            assert re.fullmatch(rf"{number}( (\+|-|\*|/|\*\*) {number})*", call["args"]["expression"]), record
            assert "value" in toolbox.execute(call, TOOLS), record
        elif call["tool"] == "respond":
            assert call["args"]["message"] in replies, record
        else:
            assert all(value in request for value in call["args"].values()), record


def test_training_shares_nothing_with_them():
    splits = templates.build_splits({"train": 3000}, TOOLS, seed=5) | {"test_wild": RECORDS}
    figures = leaks.leak_check(splits)["test_wild"]
    assert figures["shared_entities"] == figures["near_duplicates"] == 0 and figures["max_overlap"] < 0.25


@pytest.mark.parametrize("names", [["calculator", "respond"], ["get_weather"]])
def test_a_subset_of_the_tools_gets_its_own_and_an_imported_set_none(names):
    wild = sources._wild({name: TOOLS[name] for name in names})["test_wild"]
    assert {record["meta"]["tool"] for record in wild} == set(names)
    assert sources._wild({"respond": TOOLS["respond"], "book": TOOLS["calculator"] | {"name": "book"}}) == {}
