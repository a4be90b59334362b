"""What stage 08 keeps, compares and shows, without a model."""

import html
import json
import shutil
import subprocess

import pytest

import tools as toolbox
from playground.judge import evaluation, scoring
from playground.report import markdown, page, tables
from playground.run import recipe
from playground.run.errors import UserError
from playground.run.files import read_jsonl, write_jsonl

TOOLS = toolbox.load_tools()
GROUP = {"split": "test", "decoding": "free", "sampling": "greedy"}
HASHES = {"greedy": "g", "sampled": "s"}
ATTACK = '</td></table><script>document.title="taken"</script><img src=x onerror="document.title=1">\x1b[2J\u202e'
RIGHT = '{"tool": "get_weather", "args": {"city": "Oslo"}}'


def predictions(path, dataset="d"):
    return evaluation.Predictions(path, {"test": dataset}, HASHES)


@pytest.fixture
def kept(tmp_path):
    """A predictions file with one output of one model."""
    made = predictions(tmp_path / "none.jsonl").add("sft", "m", GROUP, [{"id": "1", "output": "x\u2028"}])
    path = tmp_path / "predictions.jsonl"
    write_jsonl(path, [*made, *({**row, "model": "ppo"} for row in made)])  # PPO kept the SFT model
    return path


def test_outputs_are_used_again_for_the_same_model_data_and_requests_only(kept):
    again = predictions(kept)
    (row,) = again.kept("dpo", "m", GROUP, ["1"])
    assert row | {"model": "sft"} == read_jsonl(kept)[0]
    assert again.kept("sft", "other model", GROUP, ["1"]) is None
    assert again.kept("sft", "m", GROUP, ["1", "2"]) is None
    assert again.kept("sft", "m", GROUP | {"decoding": "constrained"}, ["1"]) is None


def test_outputs_of_another_dataset_are_refused_with_a_word(kept, capsys):
    assert predictions(kept, dataset="another").kept("sft", "m", GROUP, ["1"]) is None
    assert "2 outputs are of another dataset (d...) and refused" in capsys.readouterr().out


def test_a_predictions_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "p.jsonl").write_text("{\n")
    with pytest.raises(UserError, match=r"p\.jsonl cannot be read"):
        predictions(tmp_path / "p.jsonl")


def test_requests_are_spread_over_a_split():
    assert evaluation.evenly_spaced(list(range(10)), 5) == [0, 2, 4, 6, 8]
    assert evaluation.evenly_spaced([1, 2], 5) == evaluation.evenly_spaced([1, 2], None) == [1, 2]


def evaluated():
    """metrics, rows and splits of two models on two requests, one of the outputs being hostile."""
    records = [{"id": str(i), "prompt": f"Oslo {i}? {ATTACK}", "completion": RIGHT} for i in range(2)]
    records[1]["meta"] = {"asks": "city"}
    rows, scores, grid = [], {}, {"test": {}}
    for model, outputs in {"base": [ATTACK, ""], "sft": [RIGHT, ATTACK + RIGHT]}.items():
        for decoding in ("free", "constrained"):
            made = [
                {"model": model, **GROUP, "decoding": decoding, "id": record["id"], "output": output, "ended": True,
                 "tokens": 3, "forward_passes": 3}
                for record, output in zip(records, outputs, strict=True)
            ]  # fmt: skip
            judged = [scoring.score(row["output"], RIGHT, TOOLS) for row in made]
            rows += [{**row, "failure": score["failure"]} for row, score in zip(made, judged, strict=True)]
            cell = evaluation.greedy_cell(records, made, judged, 50)
            cell["sampled"] = evaluation.sampled_cell(judged, 2, 50)
            grid["test"].setdefault(model, {})[decoding] = cell
            scores.setdefault(model, {})[decoding] = judged
    metrics = {"splits": grid, "differences": {"test": evaluation.differences(scores, 50)}, "datasets": {"test": "d"},
               "models": {"base": "b", "sft": "s"}, "left_out": {"dpo": "06_dpo.py has not run"}}  # fmt: skip
    return metrics, rows, {"test": records}


@pytest.fixture
def report_folder(tmp_path):
    metrics, rows, splits = evaluated()
    settings = recipe.load(None, [("output_dir", str(tmp_path))])
    markdown.write(tmp_path, metrics, settings)
    page.write(tmp_path, metrics, rows, splits, settings)
    return tmp_path


def test_requests_that_lack_an_argument_are_counted_apart(report_folder):
    said = (report_folder / "report.md").read_text()
    assert "## test: requests that lack an argument" in said
    assert [row["n"] for row in tables.asking_rows(evaluated()[0]["splits"]["test"])] == ["1"] * 4


def test_a_cell_counts_costs_kinds_and_samples():
    cell = evaluated()[0]["splits"]["test"]["sft"]["free"]
    assert cell["exact_call"]["value"] == 0.5
    assert cell["failures"] == {"prose around JSON": 1}
    assert (cell["sampled"]["pass_at_k"]["value"], cell["sampled"]["always_right"]["value"]) == (1, 0)


def test_the_page_is_one_file_that_escapes_everything_and_names_what_is_left_out(report_folder):
    text = (report_folder / "report.html").read_text(encoding="utf-8")
    assert html.escape('<script>document.title="taken"</script>') in text
    assert text.count("<script>") == 1
    assert "<img" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "dpo is left out: 06_dpo.py has not run" in text
    said = (report_folder / "report.md").read_text(encoding="utf-8")
    assert all(
        (report_folder / f"test_{what}.png").exists() and f"test_{what}.png" in said for what in markdown.FIGURES
    )


def test_the_grid_for_the_terminal_has_every_row_in_80_columns():
    lines = tables.summary(evaluated()[0]).splitlines()
    assert [line.split("  ")[0] for line in lines[2:]] == ["base", "base, constrained", "sft", "sft, constrained"]
    assert "50.0%" in lines[4] and max(map(len, lines)) <= 80


def test_an_output_of_many_lines_is_cut_in_the_page():
    assert page._head("one\ntwo\n") == "one\ntwo"
    assert page._head("Call:\n\n" * 50).splitlines() == ["Call:", ""] * (page.MOST_LINES // 2) + ["..."]


def test_the_page_opens_in_a_browser_and_its_filter_works(report_folder):
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("needs chromium")
    path = report_folder / "report.html"
    probe = """<script>
    const chosen = document.getElementById("filter-kind");
    const count = () => document.getElementById("shown").textContent;
    const all = count(); chosen.value = "empty"; chosen.dispatchEvent(new Event("change"));
    document.title = [all, count(), document.querySelectorAll("#examples tbody tr:not([hidden])").length].join("; ");
    </script></body>"""
    path.write_text(path.read_text(encoding="utf-8").replace("</body>", probe), encoding="utf-8")
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom",
               f"--user-data-dir={report_folder / 'profile'}", path.as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "<title>2 of 2 examples; 1 of 2 examples; 1</title>" in done.stdout
    assert "CONSOLE" not in done.stderr


def test_runs_on_different_datasets_are_not_compared(tmp_path):
    metrics = evaluated()[0]
    for run, dataset in (("one", "d"), ("two", "d"), ("three", "other")):
        (tmp_path / run / "08_evaluate").mkdir(parents=True)
        text = json.dumps(metrics | {"datasets": {"test": dataset}})
        (tmp_path / run / "08_evaluate" / "metrics.json").write_text(text)
    assert "50.0%" in markdown.compare([str(tmp_path / "one"), str(tmp_path / "two")])
    with pytest.raises(UserError, match="different requests"):
        markdown.compare([str(tmp_path / "one"), str(tmp_path / "three")])


def test_dpo_and_ppo_are_compared_with_the_model_that_both_start_from():
    right, wrong = (scoring.score(text, RIGHT, TOOLS) for text in (RIGHT, ""))
    scores = {"base": {"free": [wrong]}, "sft": {"free": [wrong]}, "dpo": {"free": [right]}, "ppo": {"free": [right]}}
    changes = {(row["from"], row["to"]): row["exact_call"]["value"] for row in evaluation.differences(scores, 10)}
    assert changes == {("base, free", "sft, free"): 0, ("sft, free", "dpo, free"): 1, ("sft, free", "ppo, free"): 1}


def test_a_models_hash_changes_with_its_chat_template(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    hashes = set()
    for template in ("{{ messages }}", "{{ messages[0] }}"):
        (tmp_path / "chat_template.jinja").write_text(template)
        hashes.add(evaluation.hash_model(tmp_path))
    assert len(hashes) == 2
