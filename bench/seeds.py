"""The results table over several seeds: what README.md shows.

    python bench/seeds.py --seeds 0 1 2 --out outputs/seeds --model embedded

Runs stages 02, 03, 06, 07 and 08 once for each seed, each into a folder of its own (one that is there is not run
again), and prints mean (lowest to highest) of each metric as a Markdown table for each test.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
STAGES = ("02_create_dataset", "03_finetune", "06_dpo", "07_ppo", "08_evaluate")
COLUMNS = {"schema valid": "schema_validity", "right tool": "tool_accuracy", "exact call": "exact_call"}


def run_seed(seed, options):
    """{split: grid} of metrics.json for one seed."""
    output_dir = Path(options.out) / f"seed-{seed}"
    flags = ["--seed", str(seed), "--output-dir", str(output_dir), "--model", options.model, *options.flags]
    for stage in STAGES:
        if not (output_dir / stage).exists():
            subprocess.run([sys.executable, f"{stage}.py", *flags], cwd=ROOT, check=True)
    return json.loads((output_dir / "08_evaluate" / "metrics.json").read_text())["splits"]


def table(grids):
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for model in grids[0]:
        for decoding in ("free", "constrained"):
            cells = []
            for metric in COLUMNS.values():
                values = [grid[model][decoding][metric]["value"] for grid in grids]
                mean, low, high = sum(values) / len(values), min(values), max(values)
                cells.append(f"{mean:.1%}" + (f" ({low:.1%} to {high:.1%})" if high > low else ""))
            name = model if decoding == "free" else f"{model}, constrained"
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", default="outputs/seeds")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("flags", nargs="*", help="further flags for every stage, after --")
    options = parser.parse_args()
    runs = [run_seed(seed, options) for seed in options.seeds]
    for split in runs[0]:
        print(f"\n{split}, greedy, seeds {', '.join(map(str, options.seeds))}\n\n{table([run[split] for run in runs])}")
