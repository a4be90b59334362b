"""report.html: an evaluation as one page that needs nothing else, for a screen, a phone, a dark room and paper.

What models wrote is untrusted: every text goes through `text`, and the page's own policy forbids it to load anything.
"""

import io
import json
import re
from html import escape
from pathlib import Path

from playground.judge import scoring
from playground.report import html, plots, tracing, training
from playground.report.html import note, table, text
from playground.report.tables import SHOWN, STEPS, row_name
from playground.run.files import read_json, read_log

MOST_EXAMPLES = 120
MOST_LINES = 6  # of an output
STAGES = ("02_create_dataset", "03_finetune", "06_dpo", "07_ppo")


def write(folder, metrics, rows, splits, settings):
    """report.html into `folder`. rows: predictions.jsonl's, each with its "failure"; splits: {split: records}."""
    output_dir = Path(settings["output_dir"])
    sections = {"Results": _results(metrics), "What each step adds": _ladder(metrics)}
    sections |= {"Sampling": _sampling(metrics), "Cost": _cost(metrics), "Which tool": _tools(metrics)}
    sections |= {"How outputs are wrong": _failures(metrics)}
    sections |= {"Learning curves": _curves(output_dir), "Examples": _examples(rows, splits)}
    sections |= {"Constrained decoding": _trace(output_dir), "Provenance": _provenance(metrics, settings, output_dir)}
    sections = {title: body for title, body in sections.items() if body}
    links = "".join(f'<a href="#{_slug(title)}">{title}</a>' for title in sections)
    left_out = "".join(f"<p>{text(name)} is left out: {text(why)}</p>" for name, why in metrics["left_out"].items())
    body = "".join(f'<h2 id="{_slug(title)}">{title}</h2>\n{body}\n' for title, body in sections.items())
    content = f"<h1>What each technique adds</h1>\n<nav>{links}</nav>\n{left_out}\n{body}"
    html.write(folder / "report.html", content)


# ---- pieces


def _head(output):
    lines = output.strip().splitlines()
    return "\n".join(lines if len(lines) <= MOST_LINES else [*lines[:MOST_LINES], "..."])


def _slug(title):
    return title.lower().replace(" ", "-")


def _name(model, decoding):
    return f'<span class="dot" style="background:{plots.colour(model)}"></span>{text(row_name(model, decoding))}'


def _rate(interval, sign=""):
    if interval is None:
        return "–"
    value, low, high = (f"{100 * interval[key]:{sign}.1f}" for key in ("value", "low", "high"))
    return f"{value}%<small>{low} to {high}</small>"


def _figure(figure, caption):
    """A drawing inline, so that it takes the page's colours and stays sharp."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": caption}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    return f'<figure role="img" aria-label="{text(caption)}">{svg}<figcaption>{text(caption)}</figcaption></figure>'


def _cells(metrics):
    """(split, model, decoding, cell) of all there is."""
    for split, cells in metrics["splits"].items():
        for model, decodings in cells.items():
            for decoding, cell in decodings.items():
                yield split, model, decoding, cell


def _by_split(metrics, columns, row):
    """A table for each split, with row(cell) for each model and decoding."""
    return "".join(
        f"<h3>{text(split)}</h3>"
        + table(
            ["", *columns],
            [[_name(model, decoding), *row(cell)] for at, model, decoding, cell in _cells(metrics) if at == split],
        )
        for split in metrics["splits"]
    )


# ---- sections


def _results(metrics):
    said = note(
        "Greedy decoding on held-out requests: test has phrasings and entities that no training record has, "
        "test_wild was written by hand. Small print: 95% bootstrap intervals."
    )
    grid = _by_split(metrics, SHOWN, lambda cell: [_rate(cell[metric]) for metric in SHOWN.values()])
    return said + grid


def _ladder(metrics):
    parts = [note("Differences are taken request by request; where the interval includes 0, these requests show none.")]
    for split, cells in metrics["splits"].items():
        parts.append(_figure(plots.draw_ladder(cells), f"What each stage adds, on {split}"))
        rows = [
            [
                f"{text(step['from'])} → {text(step['to'])}",
                *(_rate(step[metric], "+") for metric in STEPS.values()),
            ]
            for step in metrics["differences"][split]
        ]
        parts.append(table(["step", *STEPS], rows))
    return "".join(parts)


def _sampling(metrics):
    k = next(_cells(metrics))[3]["sampled"]["k"]

    def row(cell):
        sampled = cell["sampled"]
        shown = [sampled[key] for key in ("schema_validity", "exact_call", "pass_at_k", "always_right")]
        return [_rate(cell["exact_call"]), *map(_rate, shown), sampled["n"]]

    columns = ["exact, greedy", "valid, sampled", "exact, sampled", f"one of {k} right", f"all {k} right", "requests"]
    return _by_split(metrics, columns, row)


def _cost(metrics):
    def row(cell):
        return [
            f"{1000 * cell['seconds_per_call']:.1f}",
            f"{cell['forward_passes_per_call']:.1f}",
            f"{cell['tokens_per_call']:.1f}",
        ]

    said = note("Of requests in batches, greedily; seconds are wall time on the machine named below.")
    return said + _by_split(metrics, ["ms a call", "forward passes a call", "tokens a call"], row)


def _tools(metrics):
    parts = [note("Rows: the tool that was right; columns: the tool of the valid call; then precision and recall.")]
    for number, (split, model, decoding, cell) in enumerate(_cells(metrics)):
        matrix, rates = cell["confusion"], cell["by_tool"]
        called = list(dict.fromkeys([*matrix, *(name for counts in matrix.values() for name in counts)]))
        rows = []
        for tool, counts in matrix.items():
            cells = [_heat(counts.get(name, 0), rates[tool]["n"]) for name in called]
            precision = rates[tool]["precision"]
            shown = "–" if precision is None else f"{precision:.1%}"
            rows.append([text(tool), *cells, shown, f"{rates[tool]['recall']:.1%}"])
        columns = ["", *map(text, called), "precision", "recall"]
        title = f"{_name(model, decoding)}, {text(split)}"
        opened = " open" if (model, decoding) == ("sft", "free") and split == "test" else ""
        body = table(columns, rows, f'class="heat" id="confusion-{number}"')
        parts.append(f"<details{opened}><summary>{title}</summary>{body}</details>")
    return "".join(parts)


def _heat(count, total):
    share = 0.5 * count / total  # half at most, so that the figure can be read on it
    return f'<span style="background:rgba(var(--accent),{share:.2f});padding:.1rem .5rem">{count or ""}</span>'


def _failures(metrics):
    parts = []
    for split, cells in metrics["splits"].items():
        caption = f"Kinds of failure by model, on {split}"
        parts.append(_figure(plots.draw_failures(cells, scoring.FAILURES), caption))
    return "".join(parts) + _by_split(
        metrics, scoring.FAILURES, lambda cell: [cell["failures"].get(kind, "") for kind in scoring.FAILURES]
    )


def _curves(output_dir):
    parts = []
    for stage, (_, unit, _) in training.CURVES.items():
        curves = training.curves(stage, read_log(output_dir / stage / "log.jsonl"))
        if curves:
            parts.append(_figure(plots.draw_curves(curves, unit), f"Learning curves of {stage}"))
    return "".join(parts)


def _examples(rows, splits):
    """The requests on which the greedy outputs of the models differ in kind, as a table that can be filtered."""
    records = {(split, record["id"]): record for split, found in splits.items() for record in found}
    outputs = {}
    for row in rows:
        if row["sampling"] == "greedy":
            outputs.setdefault((row["split"], row["id"]), []).append(row)
    differing = {key: found for key, found in outputs.items() if len({row["failure"] for row in found}) > 1}
    chosen = list(differing)[:: max(1, -(-len(differing) // MOST_EXAMPLES))]
    if not chosen:
        return ""
    names = list(dict.fromkeys(row_name(row["model"], row["decoding"]) for row in rows))
    kinds = [kind for kind in scoring.FAILURES if any(row["failure"] == kind for key in chosen for row in outputs[key])]
    filters = "".join(
        f'<label>{name} <select id="filter-{name}"><option value="">all</option>'
        + "".join(f"<option>{text(option)}</option>" for option in options)
        + "</select></label>"
        for name, options in (("split", splits), ("model", names), ("kind", ["right", *kinds]))
    )
    body = "".join(_example(key[0], records[key], outputs[key]) for key in chosen)
    said = note(f"Requests on which models differ: {len(chosen)} of {len(differing)}.")
    head = "<thead><tr><th>request</th><th>right call</th><th>outputs</th></tr></thead>"
    bar = f'<div class="filters">{filters}<span id="shown"></span></div>'
    return f'{said}{bar}<table id="examples">{head}<tbody>{body}</tbody></table>'


def _example(split, record, rows):
    groups = {}
    for row in rows:
        groups.setdefault((row["output"], row["failure"]), []).append(row_name(row["model"], row["decoding"]))
    outputs = "".join(
        f'<div class="output" data-models="{text("|".join(names))}" data-kind="{text(kind or "right")}">'
        f'<span class="kind">{text("; ".join(names))}: {text(kind or "right")}</span>\n<code>{text(_head(output))}'
        "</code></div>"
        for (output, kind), names in groups.items()
    )
    request, right = text(record["prompt"]), text(record["completion"])
    return f'<tr data-split="{text(split)}"><td>{request}</td><td><code>{right}</code></td><td>{outputs}</td></tr>\n'


def _trace(output_dir):
    """The steps of outputs/05_constrained/trace.jsonl."""
    lines = read_log(output_dir / "05_constrained" / "trace.jsonl")
    return tracing.steps_of(lines[0]["request"], lines[0]["text"], lines[1:]) if lines else ""


def _provenance(metrics, settings, output_dir):
    facts = {f"dataset {split}": digest for split, digest in metrics["datasets"].items()}
    facts |= {f"model {name}": digest for name, digest in metrics["models"].items()} | {"seed": settings["seed"]}
    for stage in STAGES:
        path = output_dir / stage / "manifest.json"
        if path.exists():
            made = read_json(path)
            commit = (made.get("git_commit") or "no git")[:12]
            facts[stage] = f"{made['started']}, {made['seconds']} s, commit {commit}, {made.get('device', 'cpu')}"
            facts["machine"], facts["base model"] = made["machine"], (made.get("base_model") or {}).get("name", "-")
            facts["libraries"] = ", ".join(f"{name} {version}" for name, version in made["libraries"].items())
    listed = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in facts.items())
    recipe = escape(json.dumps(settings, indent=2))
    return f"<dl>{listed}</dl><details><summary>The recipe</summary><pre>{recipe}</pre></details>"
