"""Records whose prompts list tools: what the test asks for is listed, and nothing of it is in training."""

import json

import pytest

import tools as toolbox
from playground.data import exports, sources, unseen_tools
from playground.data.leaks import leak_check
from playground.run import recipe
from playground.run.errors import UserError
from tests.conftest import ROOT

TOOLS = unseen_tools.all_tools()
SIZES = {"train": 600, "val": 60, "test": 200}


@pytest.fixture(scope="module")
def splits():
    return unseen_tools.build_splits(SIZES, 0, list_tools=True)


def listed_in(record):
    """{name: arguments} of the signatures in a record's prompt."""
    line = record["prompt"].split("\n")[1]
    offered = [name for name in record["meta"]["tools"] if name != "respond"]
    assert line == "Tools: " + " ".join(toolbox.signatures({name: TOOLS[name] for name in offered}).split())
    return {name: set(TOOLS[name]["parameters"]["properties"]) for name in offered}


def test_the_right_tool_is_listed_or_respond_says_that_none_is(splits):
    none_fits = 0
    for record in splits["train"] + splits["test"]:
        call, offered = json.loads(record["completion"]), listed_in(record)
        assert not toolbox.validate_call(call, TOOLS)
        assert 2 <= len(offered) <= 5
        if call["tool"] != "respond":
            assert set(call["args"]) == offered[call["tool"]]
            request = record["prompt"].split("\n")[0]
            assert all(str(value) in request for value in call["args"].values())
            properties = TOOLS[call["tool"]]["parameters"]["properties"]
            copied = {name for name, schema in properties.items() if schema.get("x-from") == "request"}
            assert copied == {name for name, value in call["args"].items() if isinstance(value, str)}
        elif record["meta"]["turn"] == 1:
            none_fits += 1
            assert call["args"]["message"] == unseen_tools.NO_TOOL
    assert 0.05 < none_fits / 800 < 0.15


def test_no_tool_argument_phrasing_or_entity_of_the_test_is_in_training(splits):
    leak_check(splits)
    seen, unseen = (
        {name for record in records for name in listed_in(record)}
        for records in (splits["train"] + splits["val"], splits["test"])
    )
    assert len(seen) > 60 and len(unseen) > 30
    assert not seen & unseen
    arguments = [{name for tool in part for name in TOOLS[tool]["parameters"]["properties"]} for part in (seen, unseen)]
    assert not arguments[0] & arguments[1]


def test_without_lists_the_requests_are_the_same(splits):
    alone = unseen_tools.build_splits(SIZES, 0, list_tools=False)
    for split, records in splits.items():
        for record, other in zip(records, alone[split], strict=True):
            lines = record["prompt"].split("\n")
            assert other == record | {"prompt": "\n".join(lines[:1] + lines[2:])}


def test_the_right_tool_stands_anywhere_in_the_list(splits):
    places = [
        list(listed_in(record)).index(tool) / (len(listed_in(record)) - 1)
        for record in splits["train"]
        if (tool := json.loads(record["completion"])["tool"]) != "respond"
    ]
    assert 0.4 < sum(places) / len(places) < 0.6


def test_the_seed_changes_training_alone(splits):
    other = unseen_tools.build_splits(SIZES, 1, list_tools=True)
    assert other["train"] != splits["train"]
    assert (other["val"], other["test"]) == (splits["val"], splits["test"])


def test_a_record_is_a_conversation_with_the_tools_that_it_lists(splits):
    record = next(record for record in splits["train"] if record["meta"]["turn"] == 2)
    row = exports.to_openai(record, TOOLS)
    assert [message["role"] for message in row["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert [tool["function"]["name"] for tool in row["tools"]] == list(listed_in(record))


def test_what_a_second_turn_says_was_returned():
    assert unseen_tools.answer({"price": 74, "distance_km": 3}) == "I got this: price 74, distance km 3."
    assert unseen_tools.answer({"error": "no"}) == "Sorry, that did not work: no."


def test_more_records_than_there_are_and_lists_of_another_source_are_refused(monkeypatch):
    monkeypatch.setattr(unseen_tools, "MAX_REPEATS", 1)  # or a million records are made before one is missing
    with pytest.raises(UserError, match=r"train: \d+ records are all .* dataset.size"):
        sources.build(recipe.load(ROOT / "configs" / "unseen_tools.json"))
    with pytest.raises(UserError, match="list_tools: templates lists no tools"):
        sources.build(recipe.load(None, [("dataset.list_tools", True)]))
