"""The results over several seeds: what README.md and docs/ show.

    python bench/seeds.py --seeds 0 1 2 --out outputs/seeds
    python bench/seeds.py --model smollm2 --out outputs/seeds-smollm2
    python bench/seeds.py --model smollm2 --out outputs/seeds-smollm2 --seeds 0 --without 06_dpo 07_ppo
    python -m playground readme

Runs the sequence once for each seed, each into a folder of its own (a stage that is there is not run again), and writes
bench/seeds.json, or bench/seeds-NAME.json of another model or recipe. From these the last command fills the marked
places of the pages. The first one also keeps the plots that the stages have drawn for the first seed.
"""

import argparse
import shutil
from pathlib import Path

from runs import Answerer, run

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
    "PPO grounded, beside PPO": (("ppo", "free"), ("ppo", "grounded")),
}
RESAMPLES = 10_000
MODELS = {"base": None, "sft": "03_finetune", "dpo": "06_dpo", "ppo": "07_ppo"}
CURVES = {"balance": "02_create_dataset", "loss": "03_finetune", "dpo": "06_dpo", "ppo": "07_ppo"}


def run_seed(seed, options):
    """The output folder of one seed, with every stage in it."""
    output_dir = Path(options.out) / f"seed-{seed}"
    for script in SCRIPTS:
        if script.stem not in options.without:
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
        if stage and not (output_dir / stage).exists():
            continue
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


def keep_curves(output_dir):
    for name, stage in CURVES.items():
        shutil.copyfile(output_dir / stage / f"{name}.png", readme.ROOT / "bench" / f"{name}.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", default="outputs/seeds")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--without", nargs="+", default=[], help="stages that are not run, such as 06_dpo")
    parser.add_argument("flags", nargs="*", help="further flags for every stage, after --")
    options = parser.parse_args()
    runs = [run_seed(seed, options) for seed in options.seeds]
    grids = [read_json(run / "08_evaluate" / "metrics.json")["splits"] for run in runs]
    stages = [path.stem for path in SCRIPTS if path.stem not in options.without]
    manifests = [{stage: artifacts.read_manifest(run, stage) for stage in stages} for run in runs]
    training = [
        {stage: read_json(run / stage / "metrics.json") for stage in TRAINING if stage in stages} for run in runs
    ]
    compared = {name: step for name, step in STEPS.items() if all(model in grids[0]["test"] for model, _ in step)}
    record = record_of(options)
    if record == readme.RECORDED:
        keep_curves(runs[0])
    recorded = {
        "model": options.model,
        "seeds": options.seeds,
        "flags": options.flags,
        "machine": manifests[0]["03_finetune"]["machine"],
        "libraries": manifests[0]["03_finetune"]["libraries"],
        "splits": {
            split: {
                model: {
                    decoding: {"n": cell["n"]}
                    | {
                        metric: [run[split][model][decoding][metric]["value"] for run in grids]
                        for metric in scoring.METRICS
                    }
                    | {"failures": [run[split][model][decoding]["failures"] for run in grids]}
                    for decoding, cell in decodings.items()
                }
                for model, decodings in cells.items()
            }
            for split, cells in grids[0].items()
        },
        "differences": {
            split: {name: paired(runs, split, *step) for name, step in compared.items()} for split in grids[0]
        },
        "answers": answers(runs[0]),
        "seconds": {stage: [run[stage]["seconds"] for run in manifests] for stage in manifests[0]},
        "peak_memory_mb": {stage: [run[stage]["peak_memory_mb"] for run in training] for stage in training[0]},
    }
    write_json(record, recorded)
    print("\n\n".join(part(recorded) for part in (readme.results, readme.differences, readme.costs)))


if __name__ == "__main__":
    main()
