"""The generated parts of README.md and docs/: results of recorded runs, the table of settings, pictures.

    python bench/seeds.py                    # runs the sequence for three seeds and records bench/seeds.json
    python bench/seeds.py --model smollm2    # the same for another model: bench/seeds-smollm2.json
    python bench/teacher.py                  # so do unseen_tools.py, own_tools.py and others: a table each, beside it
    python -m playground readme              # fills the pages and draws bench/ladder.png and bench/ladder-dark.png

A generated part stands between `<!-- name -->` and `<!-- /name -->`.
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
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
KEPT = ("rewards", "ablation", "continued", "teacher", "unseen_tools", "bfcl", "own_tools")  # bench/NAME.md
RECORDED = ROOT / "bench" / "seeds.json"
MODELS = {"embedded": RECORDED, "SmolLM2": ROOT / "bench" / "seeds-smollm2.json"}
SIZES = {"embedded": ("7.5 million", "none"), "SmolLM2": ("135 million", "93 MB")}  # parameters, what is fetched
PICTURES = {"light": ROOT / "bench" / "ladder.png", "dark": ROOT / "bench" / "ladder-dark.png"}
INKS = {"light": ("#ffffff", "#1f2328"), "dark": ("#0d1117", "#e6edf3")}  # GitHub's paper and text
COLUMNS = {
    "schema valid": ("test", "schema_validity"),
    "right tool": ("test", "tool_accuracy"),
    "exact call": ("test", "exact_call"),
    "exact, by hand": ("test_wild", "exact_call"),
}
STEPS = {
    "base model": ("base", "free"),
    "fine-tuned (SFT)": ("sft", "free"),
    "SFT, constrained": ("sft", "constrained"),
    "SFT, grounded": ("sft", "grounded"),
    "from mistakes (DPO)": ("dpo", "free"),
    "DPO, grounded": ("dpo", "grounded"),
    "from a reward (PPO)": ("ppo", "free"),
    "PPO, grounded": ("ppo", "grounded"),
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


def recordings():
    """{model: what bench/seeds.py has recorded of it}, of the models that it has run."""
    return {name: read_json(path) for name, path in MODELS.items() if path.exists()}


def mean_and_range(values):
    """{"value": the mean, "low": the lowest, "high": the highest}."""
    return {"value": mean(values), "low": min(values), "high": max(values)}  # rounded once: never beyond either


# ---- README.md


def summary(found):
    """The ladder in one small table: means over the seeds, for each recorded model."""
    rows = []
    for step, (model, decoding) in STEPS.items():
        row = {"": step}
        for name, recorded in found.items():
            for column in ("schema valid", "exact call", "exact, by hand"):
                split, metric = COLUMNS[column]
                value = mean_and_range(recorded["splits"][split][model][decoding][metric])
                row[f"{name}: {column}" if len(found) > 1 else column] = tables.rate(value, bounds=False)
        rows.append(row)
    return tables.table(rows)


def minutes(found):
    """How long the sequence took for each recorded model, as a sentence."""
    took = {name: sum(map(mean, recorded["seconds"].values())) / 60 for name, recorded in found.items()}
    said = [f"{took[name]:.0f} minutes with the {name} model ({found[name]['machine']})" for name in found]
    return f"The whole sequence took {' and '.join(said)}."


def models(found):
    """What the recorded models are and need, and what they have learned."""
    rows = []
    for name, recorded in found.items():
        parameters, download = SIZES[name]
        memory = max(max(peaks) for peaks in recorded["peak_memory_mb"].values())
        row = {"": name, "weights": parameters, "download": download, "memory": f"{memory / 1000:.1f} GB"}
        for column in ("exact call", "exact, by hand"):
            split, metric = COLUMNS[column]
            seeds = recorded["splits"][split]["sft"]["grounded"][metric]
            row[column] = tables.rate(mean_and_range(seeds), bounds=False)
        rows.append(row)
    return tables.table(rows)


# ---- docs/results.md


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
    seeds = ", ".join(map(str, recorded["seeds"]))
    return f"{tables.table(rows, ['', *COLUMNS])}\n\nSeeds: {seeds}."


def differences(recorded):
    """What each step adds to the exact calls, with paired 95% intervals."""
    rows = [
        {"exact calls": step}
        | {SPLITS[split]: tables.rate(steps[step], sign="+") for split, steps in recorded["differences"].items()}
        for step in recorded["differences"]["test"]
    ]
    return tables.table(rows)


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
    return tables.table(rows)


def costs(recorded):
    """Seconds and memory of the stages, and of all together."""
    rows = []
    for stage, seconds in recorded["seconds"].items():
        memory = recorded["peak_memory_mb"].get(stage)
        rows.append(
            {
                "stage": stage,
                "seconds": _seconds(seconds),
                "peak memory": f"{max(memory) / 1000:.1f} GB" if memory else "",
            }
        )
    whole = [sum(seconds) for seconds in zip(*recorded["seconds"].values(), strict=True)]
    rows.append({"stage": "together", "peak memory": "", "seconds": _seconds(whole)})
    return tables.table(rows) + f"\n\nMeasured on {recorded['machine']}."


def _seconds(runs):
    return f"{mean(runs):.0f}" + (f" ({min(runs):.0f} to {max(runs):.0f})" if len(runs) > 1 else "")


def each(part):
    """That part for every recorded model, under the model's name where there are several."""
    return lambda found: "\n\n".join(
        f"**{name}**\n\n{part(recorded)}" if len(found) > 1 else part(recorded) for name, recorded in found.items()
    )


def kept(benchmark):
    """What a benchmark of learning found when it was last run."""
    path = ROOT / "bench" / f"{benchmark}.md"
    flags = {"ablation": "rewards.py --ablation", "continued": "rewards.py --default"}
    command = flags.get(benchmark, f"{benchmark}.py")
    missing = f"Not recorded yet: `python bench/{command}` does it."
    return path.read_text(encoding="utf-8").strip() if path.exists() else missing


# ---- the chapters


def first_line(text, most=100):
    line = (text.strip().splitlines() or ["(nothing)"])[0]
    return line if len(line) <= most else f"{line[:most]} ..."


def answers(found):
    """What each model answers first to the requests of configs/requests.jsonl, left free and grounded (seed 0)."""
    said = []
    for name, recorded in found.items():
        for request, texts in recorded.get("answers", {}).items():
            lines = [f"{model:14} {first_line(text)}" for model, text in texts.items()]
            said.append("\n".join([f"{request}   ({name})", *lines]))
    if not said:
        return "Not recorded yet: `python bench/seeds.py` does it."
    return "```text\n" + "\n\n".join(said) + "\n```"


def curves(name):
    """The picture that a stage has drawn of itself, where bench/seeds.py has kept it."""
    return lambda _: f"![{name}](../bench/{name}.png)" if (ROOT / "bench" / f"{name}.png").exists() else ""


# ---- the picture


def draw(found, shade):
    """Exact calls after every step, a panel for each model, narrow enough for a phone."""
    from matplotlib.figure import Figure

    paper, ink = INKS[shade]
    figure = Figure(figsize=(4.8, 0.6 + 0.4 * len(STEPS) * len(found)), layout="constrained", facecolor=paper)
    panels = figure.subplots(len(found), 1, squeeze=False).flatten()
    for axis, (name, recorded) in zip(panels, found.items(), strict=True):
        for place, (model, decoding) in enumerate(STEPS.values()):
            for split, height, shift in (("test", 0.44, -0.2), ("test_wild", 0.3, 0.2)):
                seeds = mean_and_range(recorded["splits"][split][model][decoding]["exact_call"])
                share = seeds["value"]
                axis.barh(place + shift, share, height, color=plots.colour(model), alpha=1 if split == "test" else 0.5)
                axis.text(share + 0.015, place + shift, f"{share:.0%}", va="center", color=ink, fontsize=8)
        axis.set_yticks(range(len(STEPS)), STEPS, color=ink, fontsize=10)
        axis.set(xlim=(0, 1.08), xticks=[])
        axis.set_title(f"{name} model: exact calls", color=ink, fontsize=11, loc="left")
        axis.invert_yaxis()
        axis.set_facecolor(paper)
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
    figure.supxlabel("full: held-out templates; pale: written by hand", color=ink, fontsize=9)
    return figure


# ---- the pages


def filled(text):
    """A page's text with every generated part made anew. Raises UserError for a part that nothing makes."""
    parts = {
        "summary": summary, "minutes": minutes, "models": models, "answers": answers,
        "results": each(results), "differences": each(differences), "failures": each(failures), "costs": each(costs),
        "settings": lambda _: recipe.table(),
        **{name: lambda _, name=name: kept(name) for name in KEPT},
        **{name: curves(name) for name in ("balance", "loss", "dpo", "ppo", "few_labels")},
    }  # fmt: skip
    found = recordings()

    def make(match):
        if match[1] not in parts:
            raise UserError(f"nothing makes {match[1]!r}; there are {', '.join(parts)}.")
        return f"<!-- {match[1]} -->\n{parts[match[1]](found)}\n<!-- /{match[1]} -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- /\1 -->", make, text, flags=re.DOTALL)


def fill():
    """Make the generated parts of all pages and the picture anew."""
    for path in PAGES:
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
    for shade, path in PICTURES.items():
        plots.save(draw(recordings(), shade), path)
    print(f"Filled: {', '.join(path.name for path in PAGES)}. Drawn: {', '.join(map(str, PICTURES.values()))}")
