"""README.md: what is made is made from what is recorded, and what it says to type can be typed."""

import json
import os
import re
import subprocess
import sys
import textwrap

import pytest

import tools as toolbox
from playground.model import loading
from playground.report import readme
from playground.run import recipe
from playground.run.errors import UserError
from playground.run.files import read_json, read_records
from tests.conftest import README_BLOCKS, ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = "\n".join(re.findall(r"^ {4}.*|`[^`\n]+`", TEXT, re.MULTILINE))
COMMANDS = [
    (script, rest)
    for script, rest in re.findall(r"python (0\d_\w+\.py)([^#`\n]*)", CODE)
    if script not in README_BLOCKS or (ROOT / script).exists()  # else one that this page tells to write
]
SECTIONS = "dataset|teacher|baseline|sft|generate|constrained|dpo|ppo|evaluate"


def test_the_made_parts_are_those_of_the_recorded_runs():
    assert readme.filled(TEXT) == TEXT


def test_a_changed_number_is_put_right_and_an_unknown_part_is_refused():
    changed = TEXT.replace("| sft ", "| sft! ", 1)
    assert changed != TEXT and readme.filled(changed) == TEXT
    with pytest.raises(UserError, match="nothing makes 'weather'"):
        readme.filled("<!-- weather -->\nsunny\n<!-- /weather -->")


def test_every_command_exists_and_takes_the_flags_shown():
    scripts = {name for name, _ in COMMANDS}
    assert {path.name for path in ROOT.glob("0*.py")} == scripts
    for script in scripts:
        usage = subprocess.run([sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
        shown = {flag for name, rest in COMMANDS if name == script for flag in re.findall(r"--[a-z][\w-]*", rest)}
        assert shown <= set(re.findall(r"--[a-z][\w-]*", usage.stdout)), script


def test_every_setting_shown_is_accepted_and_every_recipe_there():
    for setting in re.findall(r"--set ([\w.]+=[^\s`,]+)", CODE):
        recipe.load(None, [recipe._split(setting)])
    for name in re.findall(r"--config (configs/\S+\.json)", CODE):
        recipe.load(ROOT / name)


def test_every_module_make_target_and_bench_script_shown_is_there():
    commands = subprocess.run([sys.executable, "-m", "playground", "-h"], cwd=ROOT, capture_output=True, text=True)
    for command in re.findall(r"python -m playground (\w+)", TEXT):
        assert f"python -m playground {command} " in commands.stdout, command
    for path in re.findall(r"python ((?:bench|base_model)/\w+\.py)", CODE):
        assert (ROOT / path).exists(), path
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for target in re.findall(r"(?:^ {4}|`)make ([\w-]+)", TEXT, re.MULTILINE):
        assert target in targets


def test_every_setting_named_is_one():
    settings = recipe.load()
    for name in re.findall(rf"`((?:{SECTIONS})\.(?!png)[a-z_.]+)`", TEXT):
        found = settings
        for key in name.split("."):
            assert key in found, name
            found = found[key]


def test_no_link_is_dead():
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", TEXT):
        assert re.match("https?://", target) or (ROOT / target).exists(), target
    headings = re.findall(r"^#+ (.*)", re.sub(r"^```.*?^```", "", TEXT, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    anchors = [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]
    assert len(anchors) == len(set(anchors))
    for anchor in re.findall(r"\]\(#([^)]+)\)", TEXT):
        assert anchor in anchors, anchor


def test_the_messages_in_troubleshooting_are_those_of_the_scripts():
    rows = re.findall(r"^\| (.*?) \|", TEXT.partition("## Troubleshooting")[2], re.MULTILINE)
    shown = {message.strip(". ") for row in rows for message in re.findall(r"`([^`]+)`", row) if " " in message}
    foreign = {"ensurepip is not available", "No matching distribution found for torch",
               "running scripts is disabled on this system"}  # fmt: skip
    code = "".join(path.read_text(encoding="utf-8") for path in [*ROOT.glob("0*.py"), *ROOT.glob("playground/**/*.py")])
    assert len(shown - foreign) >= 6
    for message in shown - foreign:
        for part in re.split(r" ?\.\.\. ?| N$|^distilgpt2 ", message):
            assert part in code, message


def test_every_line_quoted_from_a_file_stands_in_it():
    assert not re.findall(r"^```(?!text$)\w+$", TEXT, re.MULTILINE), "code without a name on its fence"
    quoted = {path: code for path, code in README_BLOCKS.items() if (ROOT / path).exists()}
    assert quoted.keys() > {"01_baseline.py", "03_finetune.py", "07_ppo.py"}
    for path, code in quoted.items():
        lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
        count = len(code.splitlines())
        starts = (textwrap.dedent("\n".join(lines[i : i + count])) for i in range(len(lines)))
        assert code.strip() in (start.strip() for start in starts), path


def test_the_mean_of_equal_rates_is_that_rate():
    for rate in (0.1, 11 / 400, 0.7):
        assert readme.mean_and_range([rate] * 3) == {"value": rate, "low": rate, "high": rate}


def test_what_is_said_of_the_results_is_so():
    recorded = read_json(readme.RECORDED)
    test, wild = recorded["splits"]["test"], recorded["splits"]["test_wild"]

    def value(cell, metric):
        return readme.mean_and_range(cell[metric])["value"]

    for model, cells in (*test.items(), *wild.items()):
        for decoding in ("constrained", "grounded"):
            assert value(cells[decoding], "schema_validity") == 1
        more = value(cells["constrained"], "exact_call") - value(cells["free"], "exact_call")
        assert abs(more) < (0.08 if model == "base" else 0.02)  # "nearly never right", "hardly one more is exact"
        assert model == "base" or value(cells["grounded"], "exact_call") > value(cells["constrained"], "exact_call")
    assert value(test["sft"]["constrained"], "tool_accuracy") > value(test["sft"]["free"], "tool_accuracy")
    assert 0.78 < value(test["sft"]["free"], "exact_call") < 0.82  # "one in five is not"
    for run in test["sft"]["free"]["failures"]:
        assert max(run, key=run.get) == "wrong value"
    for steps in recorded["differences"].values():  # "makes some of the wrong ones right"
        assert steps["grounded, beside constrained"]["low"] > 0
    assert recorded["differences"]["test"]["DPO, beside SFT"]["low"] > 0  # "hold apart from 0"


def test_the_masks_work_in_generate_as_shown(capsys):
    code = README_BLOCKS["masked_generate.py"].replace("outputs/03_finetune/model", loading.EMBEDDED.as_posix())
    exec(compile(code, "README.md", "exec"), {})
    assert not toolbox.validate_call(toolbox.parse_call(capsys.readouterr().out), toolbox.load_tools())


def test_the_schema_shown_allows_two_calls_only(tokenizer):
    from playground.grammar import compile_schema

    grammar = compile_schema(json.loads(README_BLOCKS["two_cities.json"]), tokenizer)

    def allows(call):
        matcher = grammar.matcher()
        for token in tokenizer(toolbox.to_json(call))["input_ids"]:
            if not matcher.mask(64)[token]:
                return False
            matcher.accept(token)
        return matcher.is_complete

    for city in ("Oslo", "Paris", "Madrid"):
        assert allows({"tool": "get_weather", "args": {"city": city}}) == (city != "Madrid")


def test_a_tool_can_be_added_as_shown(tmp_path, monkeypatch):
    tool_file, examples = tmp_path / "my_tools.json", tmp_path / "timers.jsonl"
    for path in (tool_file, examples):
        path.write_text(README_BLOCKS[path.name], encoding="utf-8")
    monkeypatch.setattr(toolbox, "EXECUTORS", dict(toolbox.EXECUTORS))
    exec(README_BLOCKS["set_timer.py"], {"executor": toolbox.executor})
    added = toolbox.load_tools(tool_file)
    for example in map(json.loads, examples.read_text(encoding="utf-8").splitlines()):
        assert toolbox.execute(example["call"], added) == example.get(
            "result", {"status": "set"} | example["call"]["args"]
        )
    assert "error" in toolbox.execute({"tool": "set_timer", "args": {"minutes": 0}}, added)

    def run(*arguments, status=0):
        done = subprocess.run(
            [sys.executable, str(ROOT / "02_create_dataset.py"), "--tools", str(tool_file), *arguments],
            cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        return done

    assert "no phrasings for the tool 'set_timer'" in run(status=2).stderr
    run("--examples", str(examples), "--output-dir", "timer")
    folder = tmp_path / "timer" / "02_create_dataset"
    assert set(toolbox.load_tools(folder / "tools.json")) == {"set_timer", *toolbox.load_tools()}
    phrasings = {}
    for split in ("train", "val", "test"):
        records = [row for row in read_records(folder / f"{split}.jsonl") if row["source"] == "examples"]
        phrasings[split] = {row["meta"]["phrasing"] for row in records}
        assert any("set_timer" in record["completion"] for record in records), split
    assert [len(found) for found in phrasings.values()] == [9, 1, 2]  # "of twelve, two are test's and one validation's"
    assert not phrasings["train"] & (phrasings["val"] | phrasings["test"])
    after = [row["completion"] for row in read_records(folder / "train.jsonl") if "set_timer" in row["prompt"]]
    assert after and all(re.search(r'"Set: \d+ minutes\."', completion) for completion in after)
