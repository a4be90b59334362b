"""report.html: an evaluation as one page that needs nothing else, for a screen, a phone, a dark room and paper.

What models wrote is untrusted: every text goes through `text`, and the page's own policy forbids it to load anything.
"""

import io
import json
import re
from html import escape
from pathlib import Path

from playground.judge import scoring
from playground.report import html, plots, tables, tracing, training
from playground.report.html import note, table, text
from playground.report.tables import row_name
from playground.run.files import read_json, read_log

MOST_EXAMPLES = 120
MOST_LINES = 6  # of an output
STAGES = ("02_create_dataset", "03_finetune", "06_dpo", "07_ppo")


def write(folder, metrics, rows, splits, settings):
    """report.html into `folder`. rows: predictions.jsonl's, each with its "failure"; splits: {split: records}."""
    output_dir = Path(settings["output_dir"])
    sections = {"Results": _results(metrics), "What each step adds": _ladder(metrics)}
    sections |= {"Sampling": _by_split(metrics, tables.sampled_rows)}
    sections |= {"Requests that lack an argument": _by_split(metrics, tables.asking_rows)}
    sections |= {"Which tool": _tools(metrics), "How outputs are wrong": _failures(metrics)}
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


def _figure(figure, caption):
    """A drawing inline, so that it takes the page's colours and stays sharp."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": caption}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    return f'<figure role="img" aria-label="{text(caption)}">{svg}<figcaption>{text(caption)}</figcaption></figure>'


def _table(rows):
    """The rows of playground.report.tables, {column: text}."""
    return table(map(text, rows[0]), [map(text, row.values()) for row in rows])


def _by_split(metrics, rows_of):
    found = {split: rows_of(cells) for split, cells in metrics["splits"].items()}
    return "".join(f"<h3>{text(split)}</h3>{_table(rows)}" for split, rows in found.items() if rows)


# ---- sections


def _results(metrics):
    said = note(
        "Greedy decoding on held-out requests: test has phrasings and entities that no training record has, "
        "test_wild was written by hand. In parentheses: 95% bootstrap intervals. Passes: how often the model is asked "
        "for a call."
    )
    return said + _by_split(metrics, lambda cells: tables.grid_rows(cells, True))


def _ladder(metrics):
    parts = [note("Differences are taken request by request; where the interval includes 0, these requests show none.")]
    for split, cells in metrics["splits"].items():
        parts.append(_figure(plots.draw_ladder(cells), f"What each stage adds, on {split}"))
        parts.append(_table(tables.difference_rows(metrics["differences"][split])))
    return "".join(parts)


def _tools(metrics):
    parts = [note("Rows: the tool that was right; columns: the tool of the valid call; then precision and recall.")]
    cells = [
        (split, model, decoding, cell)
        for split, models in metrics["splits"].items()
        for model, decodings in models.items()
        for decoding, cell in decodings.items()
    ]
    for number, (split, model, decoding, cell) in enumerate(cells):
        matrix, rates = cell["confusion"], cell["by_tool"]
        called = list(dict.fromkeys([*matrix, *(name for counts in matrix.values() for name in counts)]))
        rows = []
        for tool, counts in matrix.items():
            shaded = [_heat(counts.get(name, 0), rates[tool]["n"]) for name in called]
            precision = rates[tool]["precision"]
            shown = "–" if precision is None else f"{precision:.1%}"
            rows.append([text(tool), *shaded, shown, f"{rates[tool]['recall']:.1%}"])
        columns = ["", *map(text, called), "precision", "recall"]
        title = text(f"{row_name(model, decoding)}, {split}")
        opened = " open" if (model, decoding) == ("sft", "free") and split == "test" else ""
        body = table(columns, rows, f'class="heat" id="confusion-{number}"')
        parts.append(f"<details{opened}><summary>{title}</summary>{body}</details>")
    return "".join(parts)


def _heat(count, total):
    share = 0.5 * count / total  # half at most, so that the figure can be read on it
    return f'<span style="background:rgba(var(--accent),{share:.2f});padding:.1rem .5rem">{count or ""}</span>'


def _failures(metrics):
    figures = [
        _figure(plots.draw_failures(cells, scoring.FAILURES), f"Kinds of failure by model, on {split}")
        for split, cells in metrics["splits"].items()
    ]
    return "".join(figures) + _by_split(metrics, tables.failure_rows)


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
