"""The results over several seeds: what README.md and docs/ show.

    python bench/seeds.py --seeds 0 1 2 --times outputs
    python bench/seeds.py --model smollm2 --out outputs/seeds-smollm2 --seeds 0
    python -m playground readme

Runs the sequence once for each seed, each into a folder of its own (a stage that is there is not run again), and writes
bench/seeds.json, or bench/seeds-NAME.json of another model or recipe. From these the last command fills the marked
places of the pages. The first one also keeps the plots that the stages have drawn for the first seed.
"""

import shutil
from pathlib import Path

from runs import Answerer, command_line, run

from playground.judge import scoring, statistics
from playground.report import readme, tables
from playground.run import artifacts
from playground.run.files import read_json, read_jsonl, write_json

SCRIPTS = sorted(readme.ROOT.glob("0*.py"))
TRAINING = ("03_finetune", "06_dpo", "07_ppo")
# What is compared request by request: {name: (model and decoding before, after)}.
STEPS = {
    "constrained, beside free": (("sft", "free"), ("sft", "constrained")),
    "grounded, beside constrained": (("sft", "constrained"), ("sft", "grounded")),
    "DPO, beside SFT": (("sft", "free"), ("dpo", "free")),
    "PPO, beside SFT": (("sft", "free"), ("ppo", "free")),
    "PPO, beside DPO": (("dpo", "free"), ("ppo", "free")),
    "DPO grounded, beside DPO": (("dpo", "free"), ("dpo", "grounded")),
    "PPO grounded, beside PPO": (("ppo", "free"), ("ppo", "grounded")),
}
RESAMPLES = 10_000
MODELS = {"base": None, "sft": "03_finetune", "dpo": "06_dpo", "ppo": "07_ppo"}
CURVES = {"balance": "02_create_dataset", "loss": "03_finetune", "dpo": "06_dpo", "ppo": "07_ppo"}


def run_seed(seed, options):
    """The output folder of one seed, with every stage in it."""
    output_dir = options.out / f"seed-{seed}"
    for script in SCRIPTS:
        run(script.stem, output_dir, "--seed", seed, "--model", options.model, *options.flags)
    return output_dir


def exact(output_dir, split, model, decoding):
    """{record id: 1.0 where the greedy call is exact}."""
    rows = read_jsonl(output_dir / "08_evaluate" / "predictions.jsonl")
    asked = {"split": split, "model": model, "decoding": decoding, "sampling": "greedy"}
    return {row["id"]: float(row["failure"] is None) for row in rows if asked.items() <= row.items()}


def paired(runs, split, *step):
    """The `paired_difference` of the exact calls of two (model, decoding), each request's mean over the runs."""
    before, after = ([exact(run, split, *side) for run in runs] for side in step)
    means = [[sum(one[key] for one in side) / len(runs) for key in before[0]] for side in (before, after)]
    return statistics.paired_difference(*means, RESAMPLES)


def answers(output_dir):
    """{request: {model and decoding: its text}} of the requests of stage 04, greedy, as the first turn."""
    requests = [row["request"] for row in read_jsonl(readme.ROOT / "configs" / "requests.jsonl")]
    found = {request: {} for request in requests}
    for name, stage in MODELS.items():
        answerer = Answerer(output_dir, stage)
        for way in ("free", "grounded") if name in ("base", "ppo") else ("free",):
            for request, completion in zip(requests, answerer(requests, way, temperature=0.0), strict=True):
                found[request][tables.row_name(name, way)] = completion.text
    return found


def record_of(options):
    """The file that a run is recorded in: bench/seeds.json of the embedded model by the default recipe."""
    recipes = [Path(flag).stem for flag in options.flags if flag.endswith(".json")]
    names = [name for name in (options.model, *recipes) if name != "embedded"]
    return readme.RECORDED.with_stem("-".join([readme.RECORDED.stem, *names]))


def cell(cells):
    """What is kept of one model under one decoding, of its metrics of every seed."""
    kept = {metric: [found[metric]["value"] for found in cells] for metric in scoring.METRICS}
    return {"n": cells[0]["n"], **kept, "failures": [found["failures"] for found in cells]}


def main():
    parser = command_line(__doc__, "seeds", (0, 1, 2))
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--times", type=Path, help="a finished run with nothing beside it, whose times are recorded")
    options = parser.parse_args()
    runs = [run_seed(seed, options) for seed in options.seeds]
    grids = [read_json(run / "08_evaluate" / "metrics.json")["splits"] for run in runs]
    stages = [script.stem for script in SCRIPTS]
    timed = [options.times] if options.times else runs
    manifests = [{stage: artifacts.read_manifest(run, stage) for stage in stages} for run in timed]
    record = record_of(options)
    if record == readme.RECORDED:
        for name, stage in CURVES.items():
            shutil.copyfile(runs[0] / stage / f"{name}.png", readme.ROOT / "bench" / f"{name}.png")
    recorded = {
        "model": options.model,
        "seeds": options.seeds,
        "flags": options.flags,
        "machine": manifests[0]["03_finetune"]["machine"],
        "libraries": manifests[0]["03_finetune"]["libraries"],
        "splits": {
            split: {
                model: {how: cell([grid[split][model][how] for grid in grids]) for how in decodings}
                for model, decodings in models.items()
            }
            for split, models in grids[0].items()
        },
        "differences": {
            split: {name: paired(runs, split, *step) for name, step in STEPS.items()} for split in grids[0]
        },
        "answers": answers(runs[0]),
        "seconds": {stage: [run[stage]["seconds"] for run in manifests] for stage in stages},
        "peak_memory_mb": {
            stage: [read_json(run / stage / "metrics.json")["peak_memory_mb"] for run in timed] for stage in TRAINING
        },
    }
    write_json(record, recorded)
    print("\n\n".join(part(recorded) for part in (readme.results, readme.differences, readme.costs)))


if __name__ == "__main__":
    main()
