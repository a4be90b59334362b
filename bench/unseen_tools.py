"""Can a model call tools that it has never seen? One trained with the tools listed in its prompts, and one without.

    python bench/unseen_tools.py -- --set dataset.size=1000 --set sft.epochs=1 --set sft.learning_rate=2e-4

For each seed stages 02 and 03 with the recipe unseen_tools, and again with the same requests but no lists, in
training and in the test: what a list is worth is the difference. Prints, as a Markdown table, exact calls on the
validation requests (tools of training, other phrasings) and the metrics on the test (tools that training has never
seen), greedy, mean over the seeds. What is there is not run again. The table is kept in bench/unseen_tools.md, and
`python -m playground readme` puts it into docs/results.md.
"""

import json
from statistics import mean

from runs import DATA, SFT, Answerer, command_line, keep, records, run

from playground.judge import scoring
from playground.model.decoding import DECODINGS
from playground.report import tables
from playground.run.files import read_json


def learned(seed, list_tools, options):
    """(exact calls on validation, {decoding: metrics on the test}) of one model."""
    output_dir = options.out.resolve() / f"seed-{seed}" / ("listed" if list_tools else "unlisted")
    flags = ["--config", "configs/unseen_tools.json", "--seed", seed, "--model", options.model, *options.flags]
    flags += ["--set", f"dataset.list_tools={json.dumps(list_tools)}"]
    run(DATA, output_dir, *flags)
    trained = read_json(run(SFT, output_dir, *flags) / "metrics.json")
    answerer, test = Answerer(output_dir), records(output_dir, "test")
    judged = {decoding: answerer.judged(test, decoding)[1] for decoding in DECODINGS}
    summaries = {decoding: scoring.summarize(scores) for decoding, scores in judged.items()}
    return trained["validation_after"]["exact_call"], summaries


def row(name, runs, decoding):
    cells = {"": tables.row_name(name, decoding)}
    cells["seen tools, exact"] = f"{mean(seen for seen, _ in runs):.1%}" if decoding == "free" else ""
    for column, metric in tables.STEPS.items():
        cells[f"unseen, {column}"] = f"{mean(unseen[decoding][metric] for _, unseen in runs):.1%}"
    return cells


if __name__ == "__main__":
    parser = command_line(__doc__, "unseen_tools")
    parser.add_argument("--model", default="smollm2")
    options = parser.parse_args()
    rows = []
    for name, list_tools in (("tools listed", True), ("not listed", False)):
        runs = [learned(seed, list_tools, options) for seed in options.seeds]
        rows += [row(name, runs, decoding) for decoding in DECODINGS]
    notes = f"`{' '.join(['--model', options.model, *options.flags])}`, seed {', '.join(map(str, options.seeds))}."
    keep("unseen_tools", f"{tables.table(rows)}\n\n{notes}")
