"""Does a tool of one's own need more than thirty examples? Three tools of other shapes, and requests written by hand.

    python bench/own_tools.py --models embedded smollm2 --seeds 0 --out outputs/own_tools
    python bench/own_tools.py --models embedded -- --config configs/smoke.json          # does it run?

configs/own_tools.json has an integer with bounds beside an enum, two optional arguments (a time and a boolean), and an
array; configs/own_tools.jsonl thirty examples of each. For each model and seed: stage 02 with those examples, stage 03,
and then the sixty requests of bench/own_tools.jsonl, twenty of each tool, which were written by hand and which nothing
is trained or validated on. Prints exact calls on them, greedy, free and under the tools' grammar, mean over the seeds,
as a Markdown table, kept in bench/own_tools.md. What is there is not run again.
"""

from collections import defaultdict
from statistics import mean

from runs import DATA, ROOT, SFT, Answerer, command_line, keep, run

import tools as toolbox
from playground.model.decoding import DECODINGS
from playground.report import tables
from playground.run.files import read_jsonl

TOOL_FILE, EXAMPLES, HELD_OUT = "configs/own_tools.json", "configs/own_tools.jsonl", "bench/own_tools.jsonl"


def train(model, seed, options):
    """The output folder with stage 03's model."""
    output_dir = options.out.resolve() / model / f"seed-{seed}"
    flags = ["--seed", seed, "--model", model, *options.flags]
    run(DATA, output_dir, *flags, "--tools", TOOL_FILE, "--examples", EXAMPLES)
    run(SFT, output_dir, *flags)
    return output_dir


def evaluate(output_dir):
    """{decoding: {tool: share of exact calls}} of the model in `output_dir`."""
    asked = read_jsonl(ROOT / HELD_OUT)
    requests = [{"prompt": row["prompt"], "completion": toolbox.to_json(row["call"])} for row in asked]
    answerer, found = Answerer(output_dir), {}
    for decoding in DECODINGS:
        _, scores = answerer.judged(requests, decoding)
        by_tool = defaultdict(list)
        for row, score in zip(asked, scores, strict=True):
            by_tool[row["call"]["tool"]].append(score["exact_call"])
        by_tool["all three"] = [score["exact_call"] for score in scores]
        found[decoding] = {tool: mean(exact) for tool, exact in by_tool.items()}
    return found


def rows(model, seeds):
    """Of the table, from what `evaluate` says of each seed."""
    for decoding in DECODINGS:
        shares = {tool: f"{mean(found[decoding][tool] for found in seeds):.1%}" for tool in seeds[0][decoding]}
        yield {"exact calls": tables.row_name(model, decoding), **shares}


if __name__ == "__main__":
    parser = command_line(__doc__, "own_tools")
    parser.add_argument("--models", nargs="+", default=["embedded", "smollm2"])
    options = parser.parse_args()
    lines = []
    for model in options.models:
        lines += rows(model, [evaluate(train(model, seed, options)) for seed in options.seeds])
    notes = f"Sixty requests written by hand, seed {', '.join(map(str, options.seeds))}."
    keep("own_tools", f"{tables.table(lines)}\n\n{notes}")
