"""README.md and docs/: what is generated is what is recorded, and what they say to type can be typed."""

import importlib
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import tools as toolbox
from playground.model import generation, loading
from playground.report import readme, tables
from playground.run import recipe
from playground.run.errors import UserError
from playground.run.files import read_json, read_records
from tests.conftest import BLOCKS, PAGES, ROOT, TO_WRITE

TEXT = "\n".join(PAGES.values())
CODE = "\n".join(re.findall(r"^ {4}.*|`[^`\n]+`", TEXT, re.MULTILINE))
COMMANDS = [
    (script, rest)
    for script, rest in re.findall(r"python (0\d_\w+\.py)([^#`\n]*)", CODE)
    if script not in TO_WRITE  # a script that a page tells to write
]
README_MOST, CHAPTER = 15_000, (3_000, 6_000)  # bytes: a page that is read, chapters that are finished
SECTIONS = "dataset|teacher|baseline|sft|generate|constrained|dpo|ppo|evaluate"


def test_the_front_page_and_the_chapters_are_short():
    sizes = {page: len(text.encode()) for page, text in PAGES.items()}
    assert sizes["README.md"] <= README_MOST
    chapters = {page: size for page, size in sizes.items() if re.match(r"docs/0\d_", page)}
    assert [Path(page).stem for page in chapters] == sorted(path.stem for path in ROOT.glob("0*.py"))
    for page, size in chapters.items():
        prose = re.sub(r"<!-- (\w+) -->.*?<!-- /\1 -->", "", PAGES[page], flags=re.DOTALL)
        assert CHAPTER[0] <= len(prose.encode()) and size <= 2 * CHAPTER[1], page
        assert len(prose.encode()) <= CHAPTER[1], page


@pytest.mark.parametrize("page", PAGES)
def test_the_generated_parts_are_those_of_the_recorded_runs(page):
    assert readme.filled(PAGES[page]) == PAGES[page], "run `python -m playground readme`"


def test_a_changed_number_is_put_right_and_an_unknown_part_is_refused():
    text = PAGES["docs/results.md"]
    changed = text.replace("| sft ", "| sft! ", 1)
    assert changed != text and readme.filled(changed) == text
    with pytest.raises(UserError, match="nothing makes 'weather'"):
        readme.filled("<!-- weather -->\nsunny\n<!-- /weather -->")


def test_a_second_model_gets_columns_and_panels_of_its_own():
    recorded = read_json(readme.RECORDED)
    both = {"embedded": recorded, "SmolLM2": recorded}
    assert "SmolLM2: exact call" in readme.summary(both) and "SmolLM2" not in readme.summary({"embedded": recorded})
    assert readme.each(readme.costs)(both).count("Measured on") == 2
    assert len(readme.draw(both, "dark").axes) == 2


def test_the_answers_of_every_stage_are_shown_a_line_each():
    said = readme.answers({"embedded": {"answers": {"Hello!": {"base": "x" * 500 + "\nmore", "sft": ""}}}})
    assert "Hello!   (embedded)" in said and max(map(len, said.split("\n"))) < 130
    assert "(nothing)" in said and "more" not in said
    assert "Not recorded yet" in readme.answers({"embedded": {}})


@pytest.mark.parametrize("page", PAGES)
def test_no_command_is_broken_over_two_lines(page):  # the tests below would not see it
    prose = re.sub(r"^```.*?^```", "", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    assert [line for line in prose.split("\n") if line.count("`") % 2] == []


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


def anchors(text):
    """What the headings of a page are called in links, as GitHub makes it."""
    headings = re.findall(r"^#+ (.*)", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("page", PAGES)
def test_no_link_is_dead(page):
    text = PAGES[page]
    assert len(anchors(text)) == len(set(anchors(text)))
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)
    assert targets
    for target in targets:
        if re.match("https?://", target):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path.read_text(encoding="utf-8")), target


def test_every_page_is_reached_from_the_front_page():
    reached, waiting = set(), ["README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        links = re.findall(r"\]\(([\w./]+\.md)(?:#[\w-]+)?\)", PAGES[page])
        named = {((ROOT / page).parent / link).resolve().relative_to(ROOT.resolve()).as_posix() for link in links}
        waiting += sorted((named & PAGES.keys()) - reached)
    assert reached == PAGES.keys()


def test_the_messages_in_troubleshooting_are_those_of_the_scripts():
    page = PAGES["docs/install.md"].partition("## Troubleshooting")[2]
    rows = re.findall(r"^\| (.*?) \|", page, re.MULTILINE)
    shown = {message.strip(". ") for row in rows for message in re.findall(r"`([^`]+)`", row) if " " in message}
    foreign = {
        "ensurepip is not available",
        "No matching distribution found for torch",
        "running scripts is disabled on this system",
    }
    code = "".join(path.read_text(encoding="utf-8") for path in [*ROOT.glob("0*.py"), *ROOT.glob("playground/**/*.py")])
    assert len(shown - foreign) >= 6
    for message in shown - foreign:
        for part in re.split(r" ?\.\.\. ?| N$|^distilgpt2 ", message):
            assert part in code, message


def test_every_line_quoted_from_a_file_stands_in_it():
    assert not re.findall(r"^```(?!text$)\w+$", TEXT, re.MULTILINE), "code without a name on its fence"
    quoted = [block for block in BLOCKS if (ROOT / block[1]).exists()]
    front = {path for page, path, _ in quoted if page == "README.md"}
    assert {path.name for path in ROOT.glob("0*.py")} - front == {"02_create_dataset.py", "08_evaluate.py"}
    for page, path, code in quoted:
        lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
        count = len(code.splitlines())
        starts = (textwrap.dedent("\n".join(lines[i : i + count])) for i in range(len(lines)))
        assert code.strip() in (start.strip() for start in starts), (page, path)


def test_the_record_shown_token_by_token_is_what_stage_03_learns(tokenizer):
    encode = importlib.import_module("03_finetune").encode
    call = {"tool": "get_weather", "args": {"city": "Oslo"}}
    row = encode({"prompt": "What is the weather in Oslo?", "completion": toolbox.to_json(call)}, tokenizer)
    shown = re.findall(r"^('.*?') +(\d+) +(-?\d+)(?: |$)", PAGES["docs/03_finetune.md"], re.MULTILINE)
    made = zip(row["input_ids"], row["labels"], strict=True)
    assert shown == [(repr(tokenizer.decode([i])), str(i), str(label)) for i, label in made]


def test_the_base_model_writes_what_the_front_page_shows(base_model, tokenizer):
    request, line = re.search(r"^USER:   (.*)\nMODEL:  (.*)$", PAGES["README.md"], re.MULTILINE).groups()
    [done] = generation.generate(base_model, tokenizer, [request], recipe.load())
    assert done.text.split("\n")[0] == line


def test_the_call_in_other_peoples_formats_is_the_same_call():
    here = json.loads(TO_WRITE["here"])
    function = json.loads(TO_WRITE["OpenAI"])["tool_calls"][0]["function"]
    block = json.loads(TO_WRITE["Anthropic"])["content"][0]
    assert here == {"tool": function["name"], "args": json.loads(function["arguments"])}
    assert here == {"tool": block["name"], "args": block["input"]}


def test_the_answer_shown_with_its_reward_is_paid_that():
    reward_of, paid = importlib.import_module("07_ppo").reward_of, recipe.load()["ppo"]["reward"]
    request, call, shown = re.search(
        r"^ *(.*in herat.*)\n *-> (.*)\n *(reward .*)", PAGES["README.md"], re.MULTILINE
    ).groups()
    right = toolbox.to_json({"tool": "get_weather", "args": {"city": "herat"}})
    done = generation.Completion(text=call, token_ids=[], ended=True, forward_passes=0)
    record = {"prompt": request, "completion": right}
    reward = reward_of(done, record, toolbox.load_tools(), paid)
    assert tables.sampled_answers("", [(record, done, reward)]).endswith(shown)


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
            assert value(cells[decoding], "schema_validity") == 1  # "makes every call valid"
        more = value(cells["constrained"], "exact_call") - value(cells["free"], "exact_call")
        assert abs(more) < (0.08 if model == "base" else 0.02)  # "nearly never right", "hardly one more is exact"
    assert value(test["sft"]["constrained"], "tool_accuracy") > value(test["sft"]["free"], "tool_accuracy")
    assert 0.8 < value(test["sft"]["free"], "exact_call") < 0.88  # "one call in five or six is wrong"
    for run in test["sft"]["free"]["failures"]:
        assert max(run, key=run.get) == "wrong value"
    for steps in recorded["differences"].values():  # "makes some of the wrong ones right"
        assert steps["grounded, beside constrained"]["low"] > 0


def test_the_masks_work_in_generate_as_shown(capsys):
    code = TO_WRITE["masked_generate.py"].replace("outputs/03_finetune/model", loading.EMBEDDED.as_posix())
    exec(compile(code, "masked_generate.py", "exec"), {})
    assert not toolbox.validate_call(toolbox.parse_call(capsys.readouterr().out), toolbox.load_tools())


def test_the_schema_shown_allows_two_calls_only(tokenizer):
    from playground.grammar import compile_schema

    grammar = compile_schema(json.loads(TO_WRITE["two_cities.json"]), tokenizer)

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
        path.write_text(TO_WRITE[path.name], encoding="utf-8")
    monkeypatch.setattr(toolbox, "EXECUTORS", dict(toolbox.EXECUTORS))
    exec(TO_WRITE["set_timer.py"], {"executor": toolbox.executor})
    added = toolbox.load_tools(tool_file)
    for example in map(json.loads, examples.read_text(encoding="utf-8").splitlines()):
        assert toolbox.execute(example["call"], added) == example.get(
            "result", {"status": "set"} | example["call"]["args"]
        )
    assert "error" in toolbox.execute({"tool": "set_timer", "args": {"minutes": 0}}, added)

    small = ["--set", "dataset.feedback=8", "--set", "dataset.unlabelled=8"]

    def run(*arguments, status=0):
        done = subprocess.run(
            [sys.executable, str(ROOT / "02_create_dataset.py"), "--tools", str(tool_file), *arguments, *small],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
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
