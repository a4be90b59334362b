"""Tables in Markdown and for the terminal."""

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
    """Some (record, completion, reward) of stage 07 as lines for the terminal: request, answer, what it earned."""
    lines = [f"\n{title}, sampled:"]
    for record, completion, reward in answers:
        reached = ", ".join(name for name, there in reward.items() if there and name != "mean")
        lines += [f"  {line}" for line in record["prompt"].split("\n")]
        lines += [
            f"  -> {completion.text.strip()}",
            f"     reward {reward['mean']:.2g}, reached: {reached or 'nothing'}",
        ]
    return "\n".join(lines)


def table(rows, columns=None):
    """A Markdown table: rows are {column: text}; columns: which to show, all of the first row's if None."""
    columns = columns or list(rows[0])
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


def _rows(cells, columns):
    """For `table`: a row for each model and decoding, its name and columns(cell)."""
    return [{"": row_name(model, how)} | columns(cell) for model, ways in cells.items() for how, cell in ways.items()]


def grid_rows(cells, bounds):
    """The headline grid, technique x metric."""

    def columns(cell):
        rates = {column: rate(cell[metric], bounds) for column, metric in SHOWN.items()}
        return rates | {"passes": f"{cell['forward_passes_per_call']:.0f}"}

    return _rows(cells, columns)


def summary(metrics):
    """The headline grid of each split for the terminal, in 80 columns as long as no model's name is long."""
    grids = []
    for split, cells in metrics["splits"].items():
        rows = [["", *BRIEF, "passes"], *(row.values() for row in grid_rows(cells, False))]
        lines = [f"{name:18}" + "".join(f"{value:>7}" for value in values) for name, *values in rows]
        grids.append("\n".join([f"{split}, {count(cells)} requests, greedy:", *lines]))
    return "\n\n".join(grids)


def count(cells):
    return next(iter(next(iter(cells.values())).values()))["n"]


def sampled_rows(cells):
    def columns(cell):
        drawn = cell["sampled"]
        rates = {"greedy exact": cell["exact_call"], "sampled exact": drawn["exact_call"]}
        rates |= {f"one of {drawn['k']} right": drawn["pass_at_k"], "always right": drawn["always_right"]}
        return {title: rate(interval) for title, interval in rates.items()}

    return _rows(cells, columns)


def failure_rows(cells):
    return _rows(cells, lambda cell: {kind: str(cell["failures"].get(kind, "")) for kind in FAILURES})


def asking_rows(cells):
    """Of requests that lack an argument: how often the model asks for it, as it should."""
    asked = {
        model: {how: cell["asks_back"] for how, cell in ways.items() if "asks_back" in cell}
        for model, ways in cells.items()
    }
    return _rows(asked, lambda found: {"asks back": rate(found["exact_call"]), "n": str(found["n"])})


def difference_rows(differences):
    return [
        {
            "step": f"{row['from']} → {row['to']}",
            **{title: rate(row[metric], sign="+") for title, metric in STEPS.items()},
        }
        for row in differences
    ]
