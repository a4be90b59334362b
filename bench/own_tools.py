"""Does a tool of one's own need more than thirty examples? Three tools of other shapes, and requests written by hand.

    python bench/own_tools.py --models embedded smollm2 --seeds 0 --out outputs/own_tools
    python bench/own_tools.py --models embedded -- --config configs/smoke.json          # does it run?

configs/own_tools.json has an integer with bounds beside an enum, two optional arguments (a time and a boolean), and an
array; configs/own_tools.jsonl thirty examples of each. For each model and seed: stage 02 with those examples, stage 03,
and then the sixty requests of bench/own_tools.jsonl, twenty of each tool, which were written by hand and which nothing
is trained or validated on. Prints exact calls on them, greedy, free and under the tools' grammar, mean over the seeds,
as a Markdown table, kept in bench/own_tools.md. What is there is not run again.
"""

import argparse
from pathlib import Path

from runs import DATA, ROOT, SFT, Answerer, keep, run

import tools as toolbox
from playground.model.decoding import DECODINGS
from playground.report.tables import row_name
from playground.run.files import read_json, read_jsonl, write_json, write_jsonl

TOOL_FILE, EXAMPLES, HELD_OUT = "configs/own_tools.json", "configs/own_tools.jsonl", "bench/own_tools.jsonl"
ALL = "all three"


def train(model, seed, options):
    """The output folder with stage 03's model."""
    output_dir = Path(options.out).resolve() / model / f"seed-{seed}"
    flags = ["--seed", seed, "--model", model, *options.flags]
    run(DATA, output_dir, *flags, "--tools", TOOL_FILE, "--examples", EXAMPLES)
    run(SFT, output_dir, *flags)
    return output_dir


def evaluate(output_dir):
    """{decoding: {tool: share of exact calls}} of the model in `output_dir`; made once."""
    path = output_dir / "held_out.json"
    if not path.exists():
        asked = read_jsonl(ROOT / HELD_OUT)
        records = [{"prompt": row["prompt"], "completion": toolbox.to_json(row["call"])} for row in asked]
        answerer, found = Answerer(output_dir), {}
        for decoding in DECODINGS:
            outputs, scores = answerer.judged(records, decoding)
            by_tool = {ALL: [score["exact_call"] for score in scores]}
            for row, score in zip(asked, scores, strict=True):
                by_tool.setdefault(row["call"]["tool"], []).append(score["exact_call"])
            found[decoding] = {tool: sum(exact) / len(exact) for tool, exact in by_tool.items()}
            answers = zip(asked, outputs, scores, strict=True)
            write_jsonl(
                output_dir / f"held_out.{decoding}.jsonl",
                [row | {"output": output.text, "failure": score["failure"]} for row, output, score in answers],
            )
        write_json(path, found)
    return read_json(path)


def table(results):
    """Markdown of {model: [what `evaluate` says of each seed]}."""
    tools = list(next(iter(results.values()))[0]["free"])
    columns = [tool for tool in tools if tool != ALL] + [ALL]
    rows = ["| exact calls | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for model, seeds in results.items():
        for decoding in seeds[0]:
            means = [sum(found[decoding][tool] for found in seeds) / len(seeds) for tool in columns]
            rows.append(f"| {row_name(model, decoding)} | " + " | ".join(f"{mean:.1%}" for mean in means) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["embedded", "smollm2"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", default="outputs/own_tools")
    parser.add_argument("flags", nargs="*", help="further flags for every stage, after --")
    options = parser.parse_args()
    results = {}
    for model in options.models:
        results[model] = [evaluate(train(model, seed, options)) for seed in options.seeds]
    keep("own_tools", f"{table(results)}\n\nSixty requests written by hand, seed {', '.join(map(str, options.seeds))}.")
