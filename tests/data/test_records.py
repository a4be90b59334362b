"""Files of records: what is skipped and said, how imported data is divided, and that the OpenAI form loses nothing."""

import json

import pytest

import tools as toolbox
from playground.data import sources
from playground.data.exports import EXPORTS, to_openai
from playground.data.imports import reading, records
from playground.data.imports.conversation import ToolSet
from playground.data.leaks import leak_check
from playground.data.steps import read_prompt, write_prompt
from playground.run import recipe
from playground.run.errors import UserError
from tests.conftest import SHARED

TOOLS = toolbox.load_tools()
BFCL = SHARED / "bfcl"
needs_bfcl = pytest.mark.skipif(not BFCL.exists(), reason="needs ../shared/bfcl")


def record(prompt, tool="get_weather", **meta):
    args = {"get_weather": {"city": "Oslo"}, "respond": {"message": "Hi."}}[tool]
    completion = toolbox.to_json({"tool": tool, "args": args})
    return {"id": prompt, "prompt": prompt, "completion": completion, "source": "file", "meta": meta}


def write_lines(path, rows):
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return str(path)


GOOD = [record(f"What about town number {n}?") for n in range(20)]


# ---- bad input


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON"),
        (b'"text"', "not a JSON object"),
        (b"\xff{}", "not UTF-8"),
        (b'{"prompt": "' + b"a" * 1_000_000 + b'"}', "over 1 MB"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"prompt": "a"}', "lacks completion"),
        (b'{"prompt": 3, "completion": "{}"}', "prompt is not a text"),
        (b'{"prompt": "a", "completion": "hello"}', "completion is no call: not JSON"),
        (record("a") | {"completion": '{"tool": "fly", "args": {}}'}, "unknown tool 'fly'"),
        (record("a") | {"completion": '{"tool": "get_weather", "args": {"town": "Oslo"}}'}, "'city'"),
        (record("\ud800"), "lone surrogate"),
        (record("a") | {"meta": {"entities": 3}}, "meta.entities"),
        ({"system": "SYSTEM: a", "chat": "USER: a"}, "looks like Glaive"),
    ],
)
def test_a_bad_line_is_skipped_and_named_with_file_line_and_reason(line, reason, tmp_path, capsys):
    path = write_lines(tmp_path / "a.jsonl", [*GOOD[:7], line, *GOOD[7:]])
    found, _, report, _ = records.load(path, TOOLS)
    assert [row["prompt"] for row in found] == [row["prompt"] for row in GOOD] and report.rows == 21
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"{path}:8: ") and reason in said[0] and len(said[0]) < 500
    assert len(said) == 2 and said[1].startswith(f"{path}: 1 of 21 rows skipped: 1 ")
    assert said[1].endswith("(first: 8).")


def test_ten_bad_lines_are_named_and_the_others_counted(tmp_path, capsys):
    path = write_lines(tmp_path / "a.jsonl", [b"{"] * 15 + GOOD * 3)
    records.load(path, TOOLS)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 12 and said[10] == "... and 5 more"


def test_more_than_a_fifth_of_bad_lines_is_an_error(tmp_path):
    enough, too_many = [b"{"] * 5 + GOOD, [b"{"] * 6 + GOOD
    assert len(records.load(write_lines(tmp_path / "a.jsonl", enough), TOOLS)[0]) == 20
    with pytest.raises(UserError, match="6 of 26 rows cannot be used"):
        records.load(write_lines(tmp_path / "b.jsonl", too_many), TOOLS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no rows"),
        (b"\n\n", "has no rows"),
        (b'[1, {"a"', "entry 2 of the array"),
        (b"[" * 100_000, "nested too deep"),
        (b'["\xff"]', "not UTF-8"),
        (b'{"id": "a", "ground_truth": []}', "leaderboard's answers: give the file of questions"),
        (b'{"tree": {}, "answer_generation": {}}', "--source toolbench"),
        (b'{"id": "a", "conversations": [{"from": "assistant", "value": "Action Input: {}"}]}', "--source toolbench"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence(content, message, tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        records.load(str(path), TOOLS)


@pytest.mark.parametrize("block", [7, 100, 1_000_000])
def test_an_array_reads_as_its_lines_do(block, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_LINE", block)
    path = tmp_path / "a.json"
    path.write_text(json.dumps([3, "é", {"a": [1]}, 12345], indent=1, ensure_ascii=False), encoding="utf-8")
    rows = [row if not isinstance(row, ValueError) else "big" for _, row in reading.rows(path)]
    assert rows == [3, "é", "big" if block == 7 else {"a": [1]}, 12345]


@pytest.mark.parametrize("name", ["nowhere.jsonl", "a/nowhere.jsonl", "no name"])
def test_a_source_that_is_nothing_is_one_sentence(name):
    with pytest.raises(UserError, match=r"no such file: give one"):
        records.load(name, TOOLS)


def test_the_rows_of_a_dataset_on_the_hub_read_as_those_of_a_file(monkeypatch):
    import datasets

    # The hub's part is played by a dataset in memory; like the hub's, it fills what a row lacks with None.
    wave = {"role": "assistant", "tool_calls": [{"function": {"name": "wave", "arguments": "{}"}}]}
    hello = {"role": "assistant", "content": "Hello."}
    tools = '[{"type": "function", "function": {"name": "wave", "description": null}}]'
    rows = [{"messages": [{"role": "user", "content": "Hi"}, answer], "tools": tools} for answer in (wave, hello)]
    rows[1]["tools"] = None
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: datasets.Dataset.from_list(rows))
    found, tools, report, files = records.load("somebody/chats", {})
    assert [json.loads(row["completion"])["tool"] for row in found] == ["wave", "respond"]
    assert list(tools) == ["wave", "respond"] and report.format == "messages" and not files


def test_a_dataset_that_the_hub_does_not_give_is_one_sentence(monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="no such file, and as a dataset it cannot be loaded") as error:
        records.load("nobody/nothing-at-all", TOOLS)
    assert "\n" not in str(error.value)


# ---- the leaderboard's own files


@needs_bfcl
@pytest.mark.parametrize(("category", "rows"), [("simple_python", 60), ("multiple", 30), ("parallel", 30)])
def test_every_row_of_the_leaderboard_imports_with_an_accepted_answer(category, rows):
    path = BFCL / f"BFCL_v4_{category}.json"
    found, tools, report, files = records.load(str(path), TOOLS)
    assert len(found) == report.rows == rows and not report.reasons and len(files) == 2
    truths = [json.loads(line)["ground_truth"] for line in files[1].read_text(encoding="utf-8").splitlines()]
    for row, truth in zip(found, truths, strict=True):
        call = toolbox.parse_call(row["completion"])
        assert toolbox.validate_call(call, tools) == []
        ((name, accepted),) = truth[0].items()
        assert call["tool"].startswith(name.replace(".", "_"))  # two tools of one name differ in a number
        for key, values in accepted.items():
            flat = all(not isinstance(value, list | dict) for value in values)
            assert not flat or call["args"].get(key, "") in values, row


@needs_bfcl
def test_a_question_that_no_tool_answers_is_answered_so():
    found, *_ = records.load(str(BFCL / "BFCL_v4_irrelevance.json"), TOOLS)
    assert {json.loads(row["completion"])["args"]["message"] for row in found} == {
        "I am sorry, I have no tool for that."
    }
    assert len(found) == 40


@needs_bfcl
def test_a_row_of_the_leaderboard_that_is_none_is_skipped(tmp_path, capsys):
    lines = (BFCL / "BFCL_v4_irrelevance.json").read_bytes().splitlines()
    path = write_lines(tmp_path / "BFCL_v4_irrelevance.json", [*lines, b"[]", b'{"id": "a", "question": 3}'])
    assert len(records.load(path, TOOLS)[0]) == 40
    assert ":41: " in (said := capsys.readouterr().err) and ":42: lacks function" in said


# ---- division


def test_imported_data_is_divided_alike_in_any_order_and_shares_no_request():
    many = [record(f"Is it {word} in {n} places?") for n in range(50) for word in ("wet", "WET", "dry")]
    splits, left_out = records.divide(many, None, 100, 400)
    again, _ = records.divide(many[::-1], None, 100, 400)
    assert {name: sorted(r["id"] for r in rows) for name, rows in splits.items()} == {
        name: sorted(r["id"] for r in rows) for name, rows in again.items()
    }
    requests = {name: {row["prompt"].casefold() for row in rows} for name, rows in splits.items()}
    assert not requests["train"] & requests["test"] and not requests["val"] & requests["test"]
    assert [len(rows) for rows in splits.values()] == pytest.approx([105, 15, 30], abs=2) and not left_out
    assert len(records.divide(many, 10, 5, 5)[0]["train"]) == 10


def test_what_training_would_share_is_left_out_and_counted():
    many = [record(f"Tell me once more, please, how the weather over there is {n % 5} {'x' * n}") for n in range(40)]
    many += [record(f"{n}?", phrasing=f"p/{n // 5}", entities=[f"Town {n % 7}"]) for n in range(40)] + many[:3]
    splits, left_out = records.divide(many, None, 5, 5)
    assert sum(left_out.values()) + sum(map(len, splits.values())) == 83 and left_out["prompts that came before"] == 3
    leak_check(splits)


def test_what_training_would_share_with_a_test_that_is_given_is_left_out():
    own, wild = record("gloves needed up on Ben Nevis today or not"), record("Are gloves needed up on Ben Nevis today?")
    splits, left_out = records.divide([*GOOD, own], None, 2, 2, held_out={"test_wild": [wild]})
    assert own not in splits["train"] + splits["val"] + splits["test"] and left_out.total() == 1


def test_too_few_records_to_divide_are_an_error():
    with pytest.raises(UserError, match="too few"):
        records.divide(GOOD[:2], None, 10, 10)


# ---- there and back


def built(source, tmp_path, **changes):
    settings = recipe.load(None, [("dataset.source", str(source)), *((f"dataset.{k}", v) for k, v in changes.items())])
    return sources.build(settings), settings


def round_trip(dataset, settings, folder, export="openai"):
    """The splits as they come back from another form, with their tools."""
    folder.mkdir()
    settings["dataset"]["export"] = export
    sources.write(folder, dataset, settings)
    for split in dataset.splits:
        own = [json.loads(line) for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
        back, tools, *_ = records.load(str(folder / f"{split}.{export}.jsonl"), {})
        yield own, back, tools


@pytest.mark.parametrize("export", EXPORTS)
def test_templates_survive_every_form(export, tmp_path):
    dataset, settings = built("templates", tmp_path, size=300)
    for own, back, tools in round_trip(dataset, settings, tmp_path / "out", export):
        assert back == own and {name: tools[name] for name in TOOLS} == TOOLS


@needs_bfcl
def test_the_leaderboard_survives_the_openai_form(tmp_path):
    dataset, settings = built(BFCL / "BFCL_v4_multiple.json", tmp_path)
    for own, back, tools in round_trip(dataset, settings, tmp_path / "out"):
        assert back == own and all(dataset.tools[name] == tool for name, tool in tools.items())


def test_a_long_chat_survives_the_openai_form_and_only_its_last_message_is_trained_on(tmp_path):
    call = {"tool": "get_weather", "args": {"city": "Oslo"}}
    talk = {"tool": "respond", "args": {"message": "Line one.\nLine two."}}
    steps = [("user", "Hi"), ("call", talk), ("user", "Oslo?"), ("call", call, {"error": "down"}), ("call", talk, 3)]
    prompt = write_prompt(steps)
    assert read_prompt(prompt) == steps
    row = to_openai(record(prompt) | {"meta": {"system": "Be brief."}}, TOOLS)
    answers = [message for message in row["messages"] if message["role"] == "assistant"]
    assert [message.get("weight") for message in answers] == [0, 0, 0, None]
    path = write_lines(tmp_path / "a.openai.jsonl", [row])
    (back,), *_ = records.load(path, {})
    assert back["prompt"] == prompt and back["meta"]["system"] == "Be brief."


def test_a_prompt_that_only_looks_like_a_chat_is_one_request():
    for prompt in ("Dear all\nCall: me", "a\nResult: 3", "a\nb"):
        assert read_prompt(prompt) == [("user", prompt.replace("\n", " "))]


def test_openais_rows_name_every_tool_but_respond_which_is_text():
    row = to_openai(record("Hi", "respond"), TOOLS)
    assert row["messages"][-1] == {"role": "assistant", "content": "Hi."}
    assert {tool["function"]["name"] for tool in row["tools"]} == set(TOOLS) - {"respond"}
    assert "tools" not in to_openai(record("Hi", "respond"), {"respond": TOOLS["respond"]})
    assert ToolSet().ordered() == {"respond": TOOLS["respond"]}
