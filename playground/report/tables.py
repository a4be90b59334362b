"""Tables in Markdown and for the terminal."""

import textwrap

from playground.judge.scoring import FAILURES

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


def sampled_answers(title, answers):
    """Some (record, completion, {component: reward}) as lines for the terminal: request, answer, what it earned."""
    lines = [f"\n{title}, sampled:"]
    for record, completion, parts in answers:
        earned = ", ".join(f"{name}={value:.2g}" for name, value in parts.items())
        lines += [f"  {line}" for line in record["prompt"].split("\n")]
        lines += [f"  -> {completion.text.strip()}", textwrap.indent(textwrap.fill(earned, 75), " " * 5)]
    return "\n".join(lines)


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
        {
            "": row_name(model, decoding),
            **{column: rate(cell[metric], bounds) for column, metric in SHOWN.items()},
            "ms a call": f"{1000 * cell['seconds_per_call']:.0f}",
        }
        for model, decodings in cells.items()
        for decoding, cell in decodings.items()
    ]


def summary(metrics):
    """The headline grid of each split for the terminal, in 80 columns as long as no model's name is long."""
    grids = []
    for split, cells in metrics["splits"].items():
        rows = [["", *BRIEF, "ms"], *(row.values() for row in grid_rows(cells, False))]
        lines = [f"{name:18}" + "".join(f"{value:>7}" for value in values) for name, *values in rows]
        grids.append("\n".join([f"{split}, {count(cells)} requests, greedy:", *lines]))
    return "\n\n".join(grids)


def count(cells):
    return next(iter(next(iter(cells.values())).values()))["n"]


def sampled_rows(cells):
    return [
        {
            "": row_name(model, decoding),
            "greedy exact": rate(cell["exact_call"]),
            "sampled exact": rate(cell["sampled"]["exact_call"]),
            f"one of {cell['sampled']['k']} right": rate(cell["sampled"]["pass_at_k"]),
            "always right": rate(cell["sampled"]["always_right"]),
        }
        for model, decodings in cells.items()
        for decoding, cell in decodings.items()
    ]


def cost_rows(cells):
    costs = {"forward passes a call": "forward_passes_per_call", "tokens a call": "tokens_per_call"}
    return [
        {"": row_name(model, decoding), "ms a call": f"{1000 * cell['seconds_per_call']:.1f}",
         **{title: f"{cell[cost]:.1f}" for title, cost in costs.items()}}
        for model, decodings in cells.items() for decoding, cell in decodings.items()
    ]  # fmt: skip


def failure_rows(cells):
    return [
        {"": row_name(model, decoding), **{kind: str(cell["failures"].get(kind, "")) for kind in FAILURES}}
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
        {
            "step": f"{row['from']} → {row['to']}",
            **{title: rate(row[metric], sign="+") for title, metric in STEPS.items()},
        }
        for row in differences
    ]
