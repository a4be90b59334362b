"""What stage 02 writes: the same bytes again, nothing that is not valid, the data card."""

import json
import subprocess
import sys

import pytest

import tools as toolbox
from playground.data import templates, writing
from playground.data.sources import Dataset, write
from playground.data.steps import read_prompt
from playground.model import loading
from playground.run.errors import UserError
from playground.run.files import read_json, read_records
from tests.conftest import ROOT, SHARED

TOOLS = toolbox.load_tools()
SETTINGS = {"dataset": {"export": "openai"}}


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run(*arguments, status=0):
    done = subprocess.run(
        [sys.executable, "02_create_dataset.py", "--config", "configs/smoke.json", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.mark.parametrize("later", ["feedback", "unlabelled"])
def test_the_leak_check_sees_what_the_later_stages_learn_from(later, tmp_path):
    splits = templates.build_splits({"train": 10, "test": 10}, TOOLS, seed=3)
    with pytest.raises(UserError, match=r"the splits leak: .*test shares"):
        write(tmp_path, Dataset(splits, TOOLS, "", **{later: splits["test"][:1]}), SETTINGS)


@pytest.mark.parametrize("completion", [{"tool": "fly", "args": {}}, {"tool": "get_weather", "args": {"city": 3}}])
def test_a_record_that_is_not_valid_is_never_written(completion, tmp_path):
    record = {"id": "a", "prompt": "a", "completion": json.dumps(completion), "source": "", "meta": {}}
    with pytest.raises(UserError, match="a: "):
        write(tmp_path, Dataset({"train": [record]}, TOOLS, ""), SETTINGS)
    assert not any(files(tmp_path).values())


def test_the_openai_file_holds_what_openai_reads_and_no_other_key(tmp_path):
    splits = templates.build_splits({"train": 50}, TOOLS, seed=0)
    writing.write(tmp_path, splits, TOOLS, "openai")
    for line in (tmp_path / "train.openai.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        assert set(row) == {"messages", "tools", "parallel_tool_calls"}
        assert row["messages"][0]["role"] == "user" and row["messages"][-1]["role"] == "assistant"


def test_the_stage_writes_the_same_bytes_again_and_a_card_that_tells_what_there_is(tmp_path):
    for folder in ("a", "b"):
        done = run("--output-dir", tmp_path / folder, "--export", "openai")
    a, b = (files(tmp_path / folder / "02_create_dataset") for folder in "ab")
    assert {name for name in a if a[name] != b[name]} == {"manifest.json"}
    splits = ("train", "val", "test", "test_wild")
    assert {f"{split}.jsonl" for split in splits} | {f"{split}.openai.jsonl" for split in splits} < set(a)
    card = a["README.md"].decode()
    for heading in ("## Records", "## Lengths", "## Leak check", "## test_wild", "balance.png"):
        assert heading in card
    assert a["balance.png"].startswith(b"\x89PNG") and "184 test_wild records" in done.stdout
    assert not done.stderr


def test_lengths_in_tokens_are_those_of_the_embedded_models_tokenizer(tokenizer):
    texts = ["Hello!", "What's the weather in Tromsø?"]
    assert loading.count_tokens(texts) == [len(tokenizer(text)["input_ids"]) for text in texts]


def test_an_imported_file_brings_its_tools_and_says_what_was_left_out(tmp_path):
    tool = {"name": "book.flight", "parameters": {"type": "object", "properties": {"to": {"type": "string"}}}}
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "book.flight", "arguments": '{"to": "Oslo"}'}}]}
    rows = [
        {"messages": [{"role": "user", "content": f"Fly me to town {n}"}, call], "tools": [{"function": tool}]}
        for n in [*range(30), 3]
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("{\n" + "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    done = run("--source", path, "--output-dir", tmp_path / "out")
    folder = tmp_path / "out" / "02_create_dataset"
    assert set(toolbox.load_tools(folder / "tools.json")) == {"book_flight", "respond"}
    assert f"{path}:1: not JSON" in done.stderr and "Left out: 1 prompts that came before." in done.stdout
    assert not (folder / "test_wild.jsonl").exists() and read_records(folder / "train.jsonl")
    assert str(path) in read_json(folder / "manifest.json")["inputs"]


def test_the_stage_makes_records_of_ones_own_tools_and_writes_them_in_another_form(tmp_path):
    own = ("--tools", "configs/own_tools.json", "--examples", "configs/own_tools.jsonl", "--export", "sharegpt")
    done = run(*own, "--output-dir", tmp_path)
    folder = tmp_path / "02_create_dataset"
    tools = toolbox.load_tools(folder / "tools.json")
    assert set(tools) == {*TOOLS, "set_thermostat", "book_table", "add_to_list"} and not done.stderr
    train = read_records(folder / "train.jsonl")
    assert {json.loads(row["completion"])["tool"] for row in train} == set(tools)
    assert len((folder / "train.sharegpt.jsonl").read_text(encoding="utf-8").splitlines()) == len(train)
    assert "own_tools.jsonl" in (folder / "README.md").read_text(encoding="utf-8")
    inputs = read_json(folder / "manifest.json")["inputs"]
    assert {"configs/own_tools.json", "configs/own_tools.jsonl"} <= set(inputs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--teacher", "smollm2"], "need --source teacher"),
        (["--source", "nowhere.jsonl"], "no such file: give one"),
        (["--source", "toolbench", "--path", "tests", "--strict"], "holds no ToolBench data"),
        (["--source", "configs/tools.json"], "cannot be used"),
        (["--export", "xml"], "recipe key dataset.export"),
        (["--examples", "nowhere.jsonl"], "nowhere.jsonl cannot be read"),
        (["--examples", "configs/own_tools.jsonl"], "unknown tool"),
    ],
)
def test_a_source_that_cannot_be_used_is_one_sentence_and_nothing_is_written(arguments, message, tmp_path):
    done = run("--output-dir", tmp_path, *arguments, status=2)
    assert message in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(not (SHARED / "toolbench").exists(), reason="needs ../shared/toolbench")
def test_stage_02_imports_toolbench(tmp_path):
    run("--source", "toolbench", "--path", SHARED / "toolbench", "--output-dir", tmp_path)
    folder = tmp_path / "02_create_dataset"
    tools = toolbox.load_tools(folder / "tools.json")
    for split in ("train", "val", "test"):
        for record in read_records(folder / f"{split}.jsonl"):
            assert not toolbox.validate_call(json.loads(record["completion"]), tools)
            assert read_prompt(record["prompt"])
