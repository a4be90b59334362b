"""Plots, tables and Markdown: how the stages show what they measured."""

import math
import sys
import textwrap
from pathlib import Path

from playground import artifacts
from playground.artifacts import UserError
from playground.terminal import printable

# Okabe and Ito's colours, which differ for colour-blind readers too; one for each model, everywhere.
COLOURS = {"base": "#999999", "sft": "#0072B2", "dpo": "#009E73", "ppo": "#D55E00"}
OTHER = "#CC79A7"  # a model that is not of the story
KINDS = ["#0072B2", "#56B4E9", "#E69F00", "#D55E00", "#CC79A7", "#009E73", "#F0E442", "#999999"]
SHOWN = {
    "one JSON object": "format_correctness",
    "schema valid": "schema_validity",
    "right tool": "tool_accuracy",
    "arguments": "argument_accuracy",
    "exact call": "exact_call",
    "executes right": "execution_success",
    "answer's facts": "response_quality",
}
BRIEF = ("JSON", "valid", "tool", "args", "exact", "runs", "facts")  # the same for a terminal's 80 columns
STEPS = {"schema valid": "schema_validity", "right tool": "tool_accuracy", "exact call": "exact_call"}
FIGURES = ("ladder", "failures", "confusion")


def colour(model):
    return COLOURS.get(model, OTHER)


def sampled_answers(title, answers):
    """Some (record, completion, {component: reward}) as lines for the terminal: request, answer, what it earned."""
    lines = [f"\n{title}, sampled:"]
    for record, completion, parts in answers:
        earned = ", ".join(f"{name}={value:.2g}" for name, value in parts.items())
        lines += [f"  {line}" for line in record["prompt"].split("\n")]
        lines += [f"  -> {completion.text.strip()}", textwrap.indent(textwrap.fill(earned, 75), " " * 5)]
    return "\n".join(lines)


# ---- plots; Figure rather than pyplot, which keeps every figure and picks a window system


def _figure(width, height, columns=1, rows=1):
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["text.parse_math"] = False  # a tool may have two dollar signs in its name
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False).flatten()


def save(figure, path):
    figure.savefig(path, dpi=160)


def draw_curves(curves, x_label):
    """One panel for each curve, {name: [(x, y), ...]}, at most four side by side."""
    curves = {name: points for name, points in curves.items() if points}
    columns, rows = min(4, len(curves)), math.ceil(len(curves) / 4)
    figure, axes = _figure(4.2 * columns, 3.2 * rows, columns, rows)
    for axis in axes[len(curves) :]:
        axis.remove()
    for axis, (name, points) in zip(axes, curves.items(), strict=False):
        axis.plot(*zip(*points, strict=True), color=COLOURS["sft"], marker="." if len(points) < 30 else None)
        axis.set(xlabel=x_label, title=name)
        axis.grid(alpha=0.3)
    return figure


def plot_curves(path, curves, x_label):
    save(draw_curves(curves, x_label), path)


def draw_ladder(cells, bars="95% intervals"):
    """What each stage adds: three metrics by model and decoding, with error bars.

    cells: {model: {decoding: cell}} of one split, as metrics.json has it. bars: what the error bars are.
    """
    figure, axes = _figure(10, 3.4, len(STEPS))
    for axis, (title, metric) in zip(axes, STEPS.items(), strict=True):
        for place, (model, decodings) in enumerate(cells.items()):
            for shift, (decoding, cell) in zip((-0.2, 0, 0.2), decodings.items(), strict=False):
                bar = cell[metric]
                errors = [[bar["value"] - bar["low"]], [bar["high"] - bar["value"]]]
                fill = "none" if decoding == "free" else colour(model)
                marker = "D" if decoding == "grounded" else "o"
                axis.errorbar(place + shift, bar["value"], yerr=errors, color=colour(model), marker=marker,
                              markersize=6, markerfacecolor=fill, capsize=3, linestyle="none")  # fmt: skip
        axis.set_xticks(range(len(cells)), cells)
        axis.set(title=title, ylim=(-0.03, 1.05), xlim=(-0.6, len(cells) - 0.4))
        axis.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel("share of requests")
    said = f"model; open circle: free decoding, filled: constrained, diamond: grounded; bars: {bars}"
    figure.supxlabel(said, fontsize=9)
    return figure


def draw_failures(cells, kinds):
    """Which share of the requests each model and decoding gets wrong, and how."""
    rows = [(model, decoding, cell) for model, decodings in cells.items() for decoding, cell in decodings.items()]
    figure, (axis,) = _figure(8, 1.3 + 0.36 * len(rows))
    left = [0.0] * len(rows)
    there = [kind for kind in kinds if any(cell["failures"].get(kind) for _, _, cell in rows)]
    for kind in there:
        index = len(kinds) - 1 - kinds.index(kind)  # the same colour on every plot; plain for those of real calls
        shares = [cell["failures"].get(kind, 0) / cell["n"] for _, _, cell in rows]
        hatch = "///" if index >= len(KINDS) else None  # more kinds than colours that can be told apart
        axis.barh(range(len(rows)), shares, left=left, label=kind, color=KINDS[index % len(KINDS)], hatch=hatch)
        left = [a + b for a, b in zip(left, shares, strict=True)]
    axis.set_yticks(range(len(rows)), [f"{model}, {decoding}" for model, decoding, _ in rows])
    axis.invert_yaxis()
    axis.set(xlabel="share of requests", xlim=(0, 1))
    if there:
        figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    axis.grid(axis="x", alpha=0.3)
    return figure


def draw_confusion(matrix, title):
    """Which tool was called for which: a heat map of {expected: {called: count}} with the counts in it."""
    columns = list(dict.fromkeys([*matrix, *(called for counts in matrix.values() for called in counts)]))
    shares = [[counts.get(called, 0) / sum(counts.values()) for called in columns] for counts in matrix.values()]
    figure, (axis,) = _figure(2.4 + 0.75 * len(columns), 1.8 + 0.5 * len(matrix))
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for y, counts in enumerate(matrix.values()):
        for x, called in enumerate(columns):
            if counts.get(called):
                axis.text(x, y, counts[called], ha="center", va="center", color="white" if shares[y][x] > 0.5 else "k")
    axis.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
    axis.set_yticks(range(len(matrix)), matrix)
    axis.set(xlabel="called", ylabel="expected", title=title)
    return figure


def plot_balance(path, counts, most=20):
    """A PNG of what share of each split calls each tool: {split: {tool: records}}, the `most` commonest tools."""
    totals = {split: sum(tools.values()) for split, tools in counts.items()}
    shares = {tool: 0.0 for tools in counts.values() for tool in tools}
    for split, tools in counts.items():
        for tool, count in tools.items():
            shares[tool] += count / totals[split]
    names = sorted(shares, key=lambda tool: -shares[tool])[:most]
    height = 0.8 / len(counts)
    figure, (axis,) = _figure(7, 1 + 0.45 * len(names))
    for s, (split, tools) in enumerate(counts.items()):
        places = [place + (s - (len(counts) - 1) / 2) * height for place in range(len(names))]
        values = [tools.get(name, 0) / totals[split] for name in names]
        axis.barh(places, values, height, label=f"{split} ({totals[split]})", color=list(COLOURS.values())[s % 4])
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set(xlabel="share of the split's records")
    axis.legend(frameon=False)
    axis.grid(axis="x", alpha=0.3)
    save(figure, path)


# ---- tables


def table(rows, columns):
    """A Markdown table: rows are {column: text}."""
    widths = {column: max(len(column), *(len(row[column]) for row in rows)) for column in columns}
    lines = [{column: column for column in columns}, {column: "-" * widths[column] for column in columns}, *rows]
    return "\n".join(
        "| " + " | ".join(line[column].ljust(widths[column]) for column in columns) + " |" for line in lines
    )


def rate(interval, bounds=True, sign=""):
    """An interval as people read it: "83.0% (80.1% to 85.6%)"; "-" for a metric that applies to no request."""
    if interval is None:
        return "-"
    value, low, high = (f"{interval[key]:{sign}.1%}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})" if bounds else value


def row_name(model, decoding):
    return model if decoding == "free" else f"{model}, {decoding}"


def grid_rows(cells, bounds):
    """The headline grid, technique x metric, as rows for `table`."""
    return [
        {"": row_name(model, decoding),
         **{column: rate(cell[metric], bounds) for column, metric in SHOWN.items()},
         "ms a call": f"{1000 * cell['seconds_per_call']:.0f}"}
        for model, decodings in cells.items() for decoding, cell in decodings.items()
    ]  # fmt: skip


def summary(metrics):
    """The headline grid of each split for the terminal, in 80 columns as long as no model's name is long."""
    grids = []
    for split, cells in metrics["splits"].items():
        rows = [["", *BRIEF, "ms"], *(row.values() for row in grid_rows(cells, False))]
        lines = [f"{name:18}" + "".join(f"{value:>7}" for value in values) for name, *values in rows]
        grids.append("\n".join([f"{split}, {_n(cells)} requests, greedy:", *lines]))
    return "\n\n".join(grids)


def _n(cells):
    return next(iter(next(iter(cells.values())).values()))["n"]


def sampled_rows(cells):
    return [
        {"": row_name(model, decoding), "greedy exact": rate(cell["exact_call"]),
         "sampled exact": rate(cell["sampled"]["exact_call"]),
         f"one of {cell['sampled']['k']} right": rate(cell["sampled"]["pass_at_k"]),
         "always right": rate(cell["sampled"]["always_right"])}
        for model, decodings in cells.items() for decoding, cell in decodings.items()
    ]  # fmt: skip


def asking_rows(cells):
    """Of requests that lack an argument: how often the model asks for it, as it should."""
    return [
        {"": row_name(model, decoding), "asks back": rate(cell["asks_back"]["exact_call"]),
         "n": str(cell["asks_back"]["n"])}
        for model, decodings in cells.items() for decoding, cell in decodings.items() if "asks_back" in cell
    ]  # fmt: skip


def difference_rows(differences):
    return [
        {"step": f"{row['from']} → {row['to']}",
         **{title: rate(row[metric], sign="+") for title, metric in STEPS.items()}}
        for row in differences
    ]  # fmt: skip


def confused_most(cells):
    """(name, confusion matrix) of the story's last model, decoding freely: the one that a reader would use."""
    model, decodings = list(cells.items())[-1]
    return f"{model}, free", decodings["free"]["confusion"]


def write(folder, metrics, settings):
    """report.md and the plots of an evaluation, into `folder`."""
    from playground import scoring

    lines = ["# What each technique adds", "",
             f"Held-out requests, greedy decoding unless it says otherwise, seed {settings['seed']}. In parentheses: "
             "95% intervals, bootstrap over requests."]  # fmt: skip
    for split, cells in metrics["splits"].items():
        name, matrix = confused_most(cells)
        figures = draw_ladder(cells), draw_failures(cells, scoring.FAILURES), draw_confusion(matrix, name)
        for figure, what in zip(figures, FIGURES, strict=True):
            save(figure, folder / f"{split}_{what}.png")
        sampled, steps = sampled_rows(cells), difference_rows(metrics["differences"][split])
        asked = asking_rows(cells)
        asking = [f"## {split}: requests that lack an argument", "", table(asked, list(asked[0])), ""] if asked else []
        lines += [
            "" if split == "test" else f"\n## {split}", "",
            table(grid_rows(cells, True), ["", *SHOWN, "ms a call"]), "",
            f"{_n(cells)} requests of {split}.", "", f"![what each stage adds]({split}_ladder.png)", "",
            f"## {split}: what each step changed, request by request", "", table(steps, list(steps[0])), "",
            f"## {split}: with sampling", "", table(sampled, list(sampled[0])), "",
            *asking,
            f"## {split}: how the wrong outputs are wrong", "", f"![kinds of failure]({split}_failures.png)", "",
            f"![which tool was called]({split}_confusion.png)", "",
        ]  # fmt: skip
    lines += [f"{name} is left out: {printable(why)}" for name, why in metrics["left_out"].items()]
    (folder / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_evaluation(run):
    """metrics.json of the evaluation in an output folder. Raises UserError where there is none."""
    return artifacts.read_json(artifacts.require(run, "08_evaluate", "metrics.json"))


def compare(runs):
    """Several runs' exact calls and more side by side, as Markdown; a run is an output folder with stage 08 in it.

    Raises UserError for a folder without an evaluation, or where two runs answered different requests.
    """
    found = {run: read_evaluation(run) for run in runs}
    first, *others = found
    for run in others:
        if found[run]["datasets"] != found[first]["datasets"]:
            raise UserError(f"{run} and {first} answered different requests (by the test files' hashes): "
                            "evaluate both on the same dataset.")  # fmt: skip
    rows = []
    for split, cells in found[first]["splits"].items():
        models = dict.fromkeys(model for metrics in found.values() for model in metrics["splits"][split])
        for model in models:
            for decoding in next(iter(cells.values())):
                for title, metric in STEPS.items():
                    there = {run: metrics["splits"][split].get(model) for run, metrics in found.items()}
                    rates = {run: rate(cell and cell[decoding][metric]) for run, cell in there.items()}
                    rows.append({"": f"{split}: {row_name(model, decoding)}", "metric": title, **rates})
    return table(rows, ["", "metric", *found])


def read_log(path):
    """The rows of a stage's log.jsonl; [] where there is none."""
    return artifacts.read_jsonl(path) if Path(path).exists() else []


if __name__ == "__main__":
    from playground import readme

    match sys.argv[1:]:
        case ["readme"]:
            artifacts.run(readme.main)
        case ["summary", run]:
            artifacts.run(lambda: print(summary(read_evaluation(run))))
        case _:
            sys.exit("usage: python -m playground.report readme, or summary DIR")
