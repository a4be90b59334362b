"""Can a model call tools that it has never seen? One trained with the tools listed in its prompts, and one without.

    python bench/unseen_tools.py --seeds 0 --out outputs/unseen_tools --model embedded

For each seed stages 02, 03 and 08 with the recipe unseen_tools, and again with the same requests but no lists, in
training and in the test: what a list is worth is the difference. Prints, as a Markdown table, exact calls on the
validation requests (tools of training, other phrasings) and the metrics on the test (tools that training has never
seen), greedy, mean over the seeds. What is there is not run again. The table is kept in bench/unseen_tools.md, and
`python -m playground readme` puts it into docs/results.md.
"""

import argparse
import json
from pathlib import Path

from runs import DATA, SFT, keep, run

from playground.model.decoding import DECODINGS
from playground.report.tables import STEPS, row_name
from playground.run.files import read_json


def learned(seed, list_tools, options):
    """(exact calls on validation, {decoding: metrics on the test}) of one model."""
    output_dir = Path(options.out).resolve() / f"seed-{seed}" / ("listed" if list_tools else "unlisted")
    flags = ["--config", "configs/unseen_tools.json", "--seed", seed, "--model", options.model, *options.flags]
    flags += ["--set", f"dataset.list_tools={json.dumps(list_tools)}"]
    run(DATA, output_dir, *flags)
    trained, evaluated = (read_json(run(stage, output_dir, *flags) / "metrics.json") for stage in (SFT, "08_evaluate"))
    return trained["validation_after"]["exact_call"], evaluated["splits"]["test"]["sft"]


def row(name, runs, decoding):
    cells = [f"{sum(seen for seen, _ in runs) / len(runs):.1%}" if decoding == "free" else ""]
    for metric in STEPS.values():
        cells.append(f"{sum(cells[decoding][metric]['value'] for _, cells in runs) / len(runs):.1%}")
    return f"| {row_name(name, decoding)} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", default="outputs/unseen_tools")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("flags", nargs="*", help="further flags for every stage, after --")
    options = parser.parse_args()
    models = {
        name: [learned(seed, list_tools, options) for seed in options.seeds]
        for name, list_tools in (("tools listed", True), ("not listed", False))
    }
    lines = ["| | seen tools, exact | " + " | ".join(f"unseen, {column}" for column in STEPS) + " |"]
    lines.append("|---" * (len(STEPS) + 2) + "|")
    for name, runs in models.items():
        lines += [row(name, runs, decoding) for decoding in DECODINGS]
    lines += ["", f"{options.model.capitalize()} model, seed {', '.join(map(str, options.seeds))}."]
    keep("unseen_tools", "\n".join(lines))
