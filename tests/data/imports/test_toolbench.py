"""ToolBench's files: the real ones, a training file in the form that is described, and files that are broken."""

import contextlib
import json
import time
from collections import Counter

import pytest

import tools as toolbox
from playground.data import sources
from playground.data.imports import conversation, toolbench
from playground.data.imports.conversation import BadRow, ToolSet
from playground.data.steps import read_prompt
from playground.run import recipe
from playground.run.errors import UserError
from tests.conftest import SHARED

TOOLBENCH = SHARED / "toolbench"
needs_toolbench = pytest.mark.skipif(not TOOLBENCH.exists(), reason="needs ../shared/toolbench")
FUNCTIONS = [
    {
        "name": "racecards_for_greyhound_racing_uk",
        "description": 'This is the subfunction for tool "greyhound_racing_uk", you can use this tool.',
        "parameters": {
            "type": "object",
            "properties": {"date": {"type": "string", "description": "", "example_value": "2023-07-01"}},
            "required": [],
            "optional": ["date"],
        },
    },
    {
        "name": "race_for_greyhound_racing_uk",
        "description": "Get one race.",
        "parameters": {
            "type": "object",
            "properties": {"is_id": {"type": "integer", "description": ""}},
            "required": ["is_id"],
            "optional": [],
        },
    },
    {"name": "Finish", "description": "", "parameters": {"type": "object", "properties": {}, "required": []}},
]
SYSTEM = (
    "You are AutoGPT, you can use many tools(functions) to do the following task.\n...\nRemember: [1] be short.\n"
    f"Specifically, you have access to the following APIs: {FUNCTIONS!r}"
)
ANSWER = {"return_type": "give_answer", "final_answer": "There are 2 races."}


def step(action, given, thought="I look."):
    given = given if isinstance(given, str) else json.dumps(given)
    return {"from": "assistant", "value": f"\nThought: {thought}\nAction: {action}\nAction Input: {given}"}


def result(value):
    return {"from": "function", "value": json.dumps({"error": "", "response": value})}


RACECARDS = [step("racecards_for_greyhound_racing_uk", {"date": "2023-07-02"}), result("[1, 2]")]


def row(*steps, query="\nWhich greyhound races\nare on?\nBegin!\n"):
    start = [{"from": "system", "value": SYSTEM}, {"from": "user", "value": query}]
    return {"id": "Step 3: ...", "conversations": [*start, *steps]}


def load(tmp_path, *rows):
    path = tmp_path / "toolllama_G123_dfs_train.json"
    path.write_text(json.dumps(list(rows)), encoding="utf-8")
    return toolbench.load(tmp_path)


@needs_toolbench
def test_every_real_file_with_answers_imports_and_every_call_validates_against_its_produced_schema():
    records, tools, report, files = toolbench.load(TOOLBENCH)
    assert len(files) == report.rows == 10 and not report.reasons
    made = Counter(record["id"].partition(".")[0] for record in records)
    assert sorted(made.values()) == [3, 3, 4, 4, 4, 5]
    for record in records:
        calls = [json.loads(record["completion"]), *(step[1] for step in read_prompt(record["prompt"])[1:])]
        assert not any(toolbox.validate_call(call, tools) for call in calls), record
        assert set(record["meta"]["tools"]) <= set(tools)
    assert set(report.notes) == {"paths that do not end in an answer"}


@needs_toolbench
def test_the_real_apis_become_tools_with_types_and_required_parameters():
    tools = toolbench.load(TOOLBENCH)[1]
    assert tools["il_for_turkey_postal_codes"]["parameters"]["properties"]["il"]["type"] == "integer"
    track = tools["packages_track_deprecated_for_trackingmore_v2"]["parameters"]
    assert track["required"] == ["carriercode", "trackingnumber"] and "lang" in track["properties"]
    assert "Finish" not in tools and "respond" in tools


def test_a_path_becomes_the_query_the_later_calls_and_the_answer(tmp_path):
    steps = [*RACECARDS, step("race_for_greyhound_racing_uk", {"is_id": 1}), result("?"), step("Finish", ANSWER)]
    records, tools, report, _ = load(tmp_path, row(*steps))
    query = "Which greyhound races are on?"
    first = {"tool": "racecards_for_greyhound_racing_uk", "args": {"date": "2023-07-02"}}
    second = {"tool": "race_for_greyhound_racing_uk", "args": {"is_id": 1}}
    one, two = ({"error": "", "response": response} for response in ("[1, 2]", "?"))
    assert [record["prompt"] for record in records] == [
        query,
        toolbox.with_results(query, [(first, one)]),
        toolbox.with_results(query, [(first, one), (second, two)]),
    ]
    answer = {"tool": "respond", "args": {"message": "There are 2 races."}}
    assert [json.loads(record["completion"]) for record in records] == [first, second, answer]
    assert list(tools) == [first["tool"], second["tool"], "respond"] and not report.notes
    assert tools[first["tool"]]["parameters"] == {
        "type": "object",
        "properties": {"date": {"type": "string", "description": "", "examples": ["2023-07-01"]}},
        "required": [],
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    ("steps", "kept", "note"),
    [
        ([*RACECARDS, step("Finish", {"return_type": "give_up_and_restart"})], 0, "do not end in an answer"),
        ([*RACECARDS], 0, "do not end in an answer"),
        ([*RACECARDS, {"from": "assistant", "value": "It is late."}], 0, "without an action"),
        ([*RACECARDS, step("no_such_function", {}), result(""), step("Finish", ANSWER)], 1, "unknown tool"),
        ([*RACECARDS, step(RACECARDS and "race_for_greyhound_racing_uk", {"is_id": "1"}), result(""),
          step("Finish", ANSWER)], 1, "not valid"),
        ([*RACECARDS, step("race_for_greyhound_racing_uk", "{"), result(""), step("Finish", ANSWER)], 1, "not JSON"),
    ],
)  # fmt: skip
def test_a_path_is_followed_to_the_first_call_that_is_not_valid_and_the_reason_is_counted(tmp_path, steps, kept, note):
    good = row(*RACECARDS, step("Finish", ANSWER))
    records, _, report, _ = load(tmp_path, good, row(*steps, query="Others?"))
    assert len(records) == 2 + kept
    assert any(note in reason for reason in report.notes), report.notes


def test_a_row_that_is_none_is_skipped_and_named(tmp_path, capsys):
    good = [row(*RACECARDS, step("Finish", ANSWER), query=f"Query {n}") for n in range(9)]
    records, *_ = load(tmp_path, *good, {"id": "a", "conversations": [{"from": "user", "value": "a"}]})
    assert len(records) == 18
    assert "toolllama_G123_dfs_train.json:10: a part is missing" in capsys.readouterr().err


def test_a_folder_of_broken_answers_is_an_error(tmp_path):
    folder = tmp_path / "answer" / "G1_answer"
    folder.mkdir(parents=True)
    for name, content in (("1_a.json", "{"), ("2_a.json", "[]"), ("3_a.json", '{"tree": {}, "answer_generation": 3}')):
        (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match="3 of 3 rows cannot be used"):
        toolbench.load(tmp_path)


def build(path, strict=False):
    overrides = [("dataset.source", "toolbench"), ("dataset.path", str(path)), ("dataset.strict", strict)]
    return sources.build(recipe.load(None, overrides))


def test_without_toolbench_data_templates_are_used_and_one_line_says_so(tmp_path, capsys):
    assert build(tmp_path).source == "templates"
    (said,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path} holds no ToolBench data" in said and "using templates" in said
    with pytest.raises(UserError, match="holds no ToolBench data"):
        build(tmp_path, strict=True)


@needs_toolbench
def test_toolbenchs_tools_and_splits_come_out_of_the_source():
    dataset = build(TOOLBENCH)
    assert set(dataset.splits) == {"train", "val", "test"} and "respond" in dataset.tools
    assert sum(map(len, dataset.splits.values())) == 23


@pytest.mark.parametrize("text", ["[{'name'" * 100_000, "Action:" * 120_000, "\n" * 800_000])
def test_a_conversation_takes_time_that_grows_with_its_text(text):
    turns = [
        {"from": "system", "value": f"[{{'name': 1}}] {text}"},
        {"from": "user", "value": "Hi"},
        {"from": "assistant", "value": f"Action:{text}"},
    ]
    begin = time.process_time()
    with contextlib.suppress(BadRow), conversation.in_form():
        toolbench._conversation("a", ToolSet(), Counter(), 1, {"conversations": turns})
    assert time.process_time() - begin < 2
