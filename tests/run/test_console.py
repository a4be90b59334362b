"""What a script prints: nothing that an outside text says takes over the terminal, and no name breaks a plot."""

import json
import subprocess
import sys
import warnings

import pytest

import tools as toolbox
from playground.judge import scoring
from playground.report import plots, tables
from playground.run import console
from playground.run.errors import UserError
from tests.conftest import ROOT

EVIL = "\x1b]0;owned\x07\x1b[2J\u202egnp.exe\x9b31m\ud800\r"
FORBIDDEN = set("\x1b\x07\u202e\x9b\r")


def script(name, *arguments):
    line = [sys.executable, f"{name}.py", *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, check=False)


def test_whatever_a_script_prints_and_raises_is_printable(capsys):
    def main():
        print(f"a row: {EVIL}", "and é, 東京,\u00a0…\ttoo", sep=EVIL)
        print(EVIL, file=sys.stderr)
        raise UserError(f"no such file {EVIL}\nor two")

    with pytest.raises(SystemExit) as stop:
        console.run(main)
    said = capsys.readouterr()
    assert stop.value.code == 2 and not FORBIDDEN & set(said.out + said.err)
    assert "and é, 東京,\u00a0…\ttoo\n" in said.out
    assert said.err.splitlines()[1].startswith("error: no such file \ufffd")
    assert said.err.endswith("\ufffd or two\n")


def test_progress_bars_still_move(capsys):
    from tqdm import tqdm

    def main():
        with tqdm(total=2, desc=EVIL) as outer, tqdm(total=2, position=1) as inner:
            outer.update()
            inner.update()
            inner.refresh()

    console.run(main)
    drawn = capsys.readouterr().err
    assert "\r" in drawn and "\x1b[A" in drawn and "50%" in drawn
    assert "\x1b]" not in drawn and "\u202e" not in drawn


def test_rows_and_names_of_others_cannot_write_to_the_terminal(tmp_path):
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"How is it in town {n}, {EVIL[:-2]}?"},
                {"role": "assistant", "content": f"Fine, {EVIL[:-2]}."},
            ],
            "tools": [{"type": "function", "function": {"name": f"tool{EVIL}{n % 2}", "parameters": schema}}],
        }
        for n in range(40)
    ]
    rows += [{"messages": EVIL}, {EVIL: EVIL}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = script("02_create_dataset", "--source", tmp_path / "rows.jsonl", "--output-dir", tmp_path / "outputs")
    assert done.returncode == 0, done.stderr
    assert not FORBIDDEN & set((done.stdout + done.stderr).decode())
    done = script("02_create_dataset", "--source", f"/nowhere{EVIL[:-2]}", "--output-dir", tmp_path / "outputs")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert not FORBIDDEN & set(done.stderr.decode())


def test_a_name_is_a_name_on_plots_and_no_mathematics(tmp_path):
    name = r"$\frac{$"
    interval = {"value": 0.5, "low": 0.4, "high": 0.6}
    cell = {"n": 2, "failures": {"prose": 1}, **dict.fromkeys(tables.STEPS.values(), interval)}
    figures = [
        plots.draw_ladder({name: {"free": cell}}),
        plots.draw_failures({name: {"free": cell}}, scoring.FAILURES),
        plots.draw_curves({name: [(0, 1), (1, 2)]}, name),
    ]
    with warnings.catch_warnings(action="error"):
        for figure in figures:
            plots.save(figure, tmp_path / "plot.png")
        plots.plot_balance(tmp_path / "plot.png", {name: {name: 1}})


def test_a_tool_file_whose_conversations_cannot_end_is_told(tmp_path):
    entries = json.loads(toolbox.TOOL_FILE.read_text(encoding="utf-8"))
    (tmp_path / "tools.json").write_text(json.dumps([e for e in entries if e["function"]["name"] != "respond"]))
    flags = ("--config", "configs/smoke.json", "--output-dir", tmp_path)
    flags += ("--tools", tmp_path / "tools.json")
    assert toolbox.NO_RESPOND in script("02_create_dataset", *flags).stderr.decode()


def test_a_schema_that_an_executor_does_not_expect_ends_no_stage(tmp_path):
    entries = json.loads(toolbox.TOOL_FILE.read_text(encoding="utf-8"))
    for entry in entries:
        if entry["function"]["name"] == "get_weather":
            entry["function"]["parameters"]["properties"]["city"] = {"type": ["integer", "string"]}
    (tmp_path / "tools.json").write_text(json.dumps(entries))
    tools = toolbox.load_tools(tmp_path / "tools.json")
    asked = json.dumps({"tool": "get_weather", "args": {"city": 7}})
    scores = scoring.score(asked, asked, tools)
    assert scores["schema_validity"] == 1 and scores["execution_success"] is None
