"""The plots of the stages and of the report."""

import math

from playground.report.tables import STEPS

# Okabe and Ito's colours, which differ for colour-blind readers too; one for each model, everywhere.
COLOURS = {"base": "#999999", "sft": "#0072B2", "dpo": "#009E73", "ppo": "#D55E00"}
OTHER = "#CC79A7"  # a model that is not of the story
KINDS = ["#0072B2", "#56B4E9", "#E69F00", "#D55E00", "#CC79A7", "#009E73", "#F0E442", "#999999"]


def colour(model):
    return COLOURS.get(model, OTHER)


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
    columns, rows = min(4, len(curves)), math.ceil(len(curves) / 4)
    figure, axes = _figure(4.2 * columns, 3.2 * rows, columns, rows)
    for axis in axes[len(curves) :]:
        axis.remove()
    for axis, (name, points) in zip(axes, curves.items(), strict=False):
        axis.plot(*zip(*points, strict=True), color=COLOURS["sft"], marker="." if len(points) < 30 else None)
        axis.set(xlabel=x_label, title=name)
        axis.grid(alpha=0.3)
    return figure


def draw_ladder(cells):
    """What each stage adds: three metrics by model and decoding, with error bars.

    cells: {model: {decoding: cell}} of one split, as metrics.json has it.
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
    said = "model; open circle: free decoding, filled: constrained, diamond: grounded; bars: 95% intervals"
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
