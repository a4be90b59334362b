"""The parts of README.md that are made, not written: the results of recorded runs and the table of settings.

    python bench/seeds.py                    # runs the sequence for three seeds and records bench/seeds.json
    python bench/teacher.py                  # and bench/unseen_tools.py: tables of their own, beside the scripts
    python -m playground readme              # fills README.md and draws bench/ladder.png

A made part stands between `<!-- name -->` and `<!-- /name -->`.
"""

import re
from pathlib import Path
from statistics import mean

from playground.judge import scoring
from playground.report import plots, tables
from playground.run import recipe
from playground.run.errors import UserError
from playground.run.files import read_json

ROOT = Path(__file__).parents[2]
RECORDED, PICTURE = ROOT / "bench" / "seeds.json", ROOT / "bench" / "ladder.png"
COLUMNS = {
    "schema valid": ("test", "schema_validity"),
    "right tool": ("test", "tool_accuracy"),
    "exact call": ("test", "exact_call"),
    "exact, by hand": ("test_wild", "exact_call"),
}

WRONG = [
    ("base", "constrained"),
    ("sft", "free"),
    ("sft", "constrained"),
    ("sft", "grounded"),
    ("ppo", "free"),
    ("ppo", "grounded"),
]
SPLITS = {"test": "test", "test_wild": "by hand"}


def mean_and_range(values):
    """{"value": the mean, "low": the lowest, "high": the highest}."""
    return {"value": mean(values), "low": min(values), "high": max(values)}  # rounded once: never beyond either


def results(recorded):
    """The grid as a Markdown table: mean over the seeds, and lowest to highest where they differ."""
    rows = []
    for model, decodings in recorded["splits"]["test"].items():
        for decoding in decodings:
            row = {"": tables.row_name(model, decoding)}
            for column, (split, metric) in COLUMNS.items():
                found = mean_and_range(recorded["splits"][split][model][decoding][metric])
                row[column] = tables.rate(found, bounds=found["low"] < found["high"])
            rows.append(row)
    return tables.table(rows, ["", *COLUMNS])


def differences(recorded):
    """What each step adds to the exact calls, with paired 95% intervals."""
    rows = [
        {"exact calls": step}
        | {SPLITS[split]: tables.rate(steps[step], sign="+") for split, steps in recorded["differences"].items()}
        for step in recorded["differences"]["test"]
    ]
    return tables.table(rows, list(rows[0]))


def failures(recorded):
    """How the wrong outputs to the test are wrong: each kind's share of the requests, mean over the seeds."""
    models = recorded["splits"]["test"]
    cells = {tables.row_name(*name): models[name[0]][name[1]] for name in WRONG}
    rows = []
    for kind in scoring.FAILURES:
        found = {
            name: mean_and_range([run.get(kind, 0) / cell["n"] for run in cell["failures"]])
            for name, cell in cells.items()
        }
        if any(share["value"] for share in found.values()):
            rows.append({"": kind} | {name: tables.rate(share, bounds=False) for name, share in found.items()})
    return tables.table(rows, list(rows[0]))


def costs(recorded):
    """Seconds and memory of the stages, and of all together."""
    rows = []
    for stage, seconds in recorded["seconds"].items():
        memory = recorded["peak_memory_mb"].get(stage)
        rows.append({
            "stage": stage, "seconds": f"{mean(seconds):.0f} ({min(seconds):.0f} to {max(seconds):.0f})",
            "peak memory": f"{max(memory) / 1000:.1f} GB" if memory else "",
        })  # fmt: skip
    whole = [sum(seconds) for seconds in zip(*recorded["seconds"].values(), strict=True)]
    rows.append(
        {"stage": "together", "peak memory": "", "seconds": f"{mean(whole):.0f} ({min(whole):.0f} to {max(whole):.0f})"}
    )
    return tables.table(rows, list(rows[0])) + f"\n\nMeasured on {recorded['machine']}."


def _kept(benchmark):
    """What a benchmark of learning has found when it was last run."""
    return (ROOT / "bench" / f"{benchmark}.md").read_text(encoding="utf-8").strip()


def draw(recorded):
    """The ladder of the seeds' means; the bars go from the lowest to the highest seed."""
    cells = {
        model: {
            decoding: {metric: mean_and_range(cell[metric]) for metric in tables.STEPS.values()}
            for decoding, cell in decodings.items()
        }
        for model, decodings in recorded["splits"]["test"].items()
    }
    plots.save(plots.draw_ladder(cells, "lowest to highest seed"), PICTURE)


def filled(text):
    """README.md's text with every made part made anew. Raises UserError for a part that nothing makes."""
    recorded = read_json(RECORDED)
    parts = {"results": results, "differences": differences, "failures": failures, "costs": costs,
             "settings": lambda _: recipe.table(),
             "teacher": lambda _: _kept("teacher"), "unseen_tools": lambda _: _kept("unseen_tools")}  # fmt: skip

    def make(match):
        if match[1] not in parts:
            raise UserError(f"README.md: nothing makes {match[1]!r}; there are {', '.join(parts)}.")
        return f"<!-- {match[1]} -->\n{parts[match[1]](recorded)}\n<!-- /{match[1]} -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- /\1 -->", make, text, flags=re.DOTALL)


def fill():
    """Make the made parts of README.md and its picture anew."""
    path = ROOT / "README.md"
    path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
    draw(read_json(RECORDED))
    print(f"Filled: {path}. Drawn: {PICTURE}")
