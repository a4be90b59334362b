"""An evaluation as Markdown: its report, and several beside each other."""

from playground.judge import scoring
from playground.report import plots, tables
from playground.run import artifacts
from playground.run.console import printable
from playground.run.errors import UserError
from playground.run.files import read_json

FIGURES = ("ladder", "failures")


def write(folder, metrics, settings):
    """report.md and the plots of an evaluation, into `folder`."""
    parts = [
        "# What each technique adds",
        f"Held-out requests, greedy decoding unless it says otherwise, seed {settings['seed']}. In parentheses: "
        "95% intervals, bootstrap over requests.",
    ]
    for split, cells in metrics["splits"].items():
        figures = plots.draw_ladder(cells), plots.draw_failures(cells, scoring.FAILURES)
        for figure, what in zip(figures, FIGURES, strict=True):
            plots.save(figure, folder / f"{split}_{what}.png")
        sections = {
            f"{tables.count(cells)} requests": tables.grid_rows(cells, True),
            "what each step changed, request by request": tables.difference_rows(metrics["differences"][split]),
            "with sampling": tables.sampled_rows(cells),
            "requests that lack an argument": tables.asking_rows(cells),
        }
        parts += [f"## {split}: {title}\n\n{tables.table(rows)}" for title, rows in sections.items() if rows]
        parts += [f"![{what}]({split}_{what}.png)" for what in FIGURES]
    parts += [f"{name} is left out: {printable(why)}" for name, why in metrics["left_out"].items()]
    (folder / "report.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def read_evaluation(run):
    """metrics.json of the evaluation in an output folder. Raises UserError where there is none."""
    return read_json(artifacts.require(run, "08_evaluate", "metrics.json"))


def compare(runs):
    """Several runs' exact calls and more side by side, as Markdown; a run is an output folder with stage 08 in it.

    Raises UserError for a folder without an evaluation, or where two runs answered different requests.
    """
    found = {run: read_evaluation(run) for run in runs}
    first, *others = found
    for run in others:
        if found[run]["datasets"] != found[first]["datasets"]:
            raise UserError(
                f"{run} and {first} answered different requests (by the test files' hashes): "
                "evaluate both on the same dataset."
            )
    rows = []
    for split, cells in found[first]["splits"].items():
        models = dict.fromkeys(model for metrics in found.values() for model in metrics["splits"][split])
        for model in models:
            for decoding in next(iter(cells.values())):
                for title, metric in tables.STEPS.items():
                    there = {run: metrics["splits"][split].get(model) for run, metrics in found.items()}
                    rates = {run: tables.rate(cell and cell[decoding][metric]) for run, cell in there.items()}
                    rows.append({"": f"{split}: {tables.row_name(model, decoding)}", "metric": title, **rates})
    return tables.table(rows)
