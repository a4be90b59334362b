"""When does learning from a reward help, and which part of stage 07 does what?

    python bench/rewards.py --out outputs/rewards
    python bench/rewards.py --out outputs/rewards --ablation
    python bench/rewards.py --out outputs/rewards --default

But for the last all by configs/few_labels.json: SFT on 100 records, and 3,000 other requests of which only the outcome
is known. The first command compares DPO and PPO on those with SFT alone, with SFT on the same 100 records for as many
steps as the last row takes, and with SFT on the right calls of all those requests, which is what labels would buy. The
second one leaves out or changes one thing of PPO's at a time, in runs a fifth as long. The third compares DPO and PPO
by the default recipe with its SFT continued, on the right calls of the requests that DPO asks, for as many steps. Each
row: exact calls, greedy and free, on the test and by hand; and of eight samples to every second test request how many
have the right outcome (pass@1), and for how many requests at least one has (pass@8). In brackets: the difference from
the first row, and its paired 95% interval over the requests. Kept as Markdown in bench/rewards.md, ablation.md and
continued.md, and PPO's curves in bench/few_labels.png; what is there is not run again.
"""

import argparse
import json
import random
import shutil
from pathlib import Path

import runs
from runs import DATA, ROOT, SFT, Answerer, keep, records

from playground.data import sources
from playground.judge import scoring, statistics
from playground.run import recipe
from playground.run.files import read_json, read_jsonl, read_log, write_json, write_jsonl

FEW, DEFAULT = "configs/few_labels.json", "configs/default.json"
EPOCHS = 2  # over all the right calls
SAMPLES, RESAMPLES = 8, 10_000
ABLATED_UPDATES = 20
ABLATION = {
    "PPO": {},
    "no KL penalty": {"kl_coef": 0},
    "no value head": {"value_coef": 0},  # it says 0 to everything for ever: returns less the mean (RLOO)
    "4 samples to twice the requests": {"samples": 4, "requests": 64},
    "16 samples to half the requests": {"samples": 16, "requests": 16},
    "samples under the schemas": {"decoding": "constrained"},
    "paid for the outcome alone": {"reward.tool": 0, "reward.format": 0},
}


def run(stage, output_dir, seed, settings=(), config=FEW, model="embedded"):
    more = [flag for key, value in settings for flag in ("--set", f"{key}={json.dumps(value)}")]
    runs.run(stage, output_dir, "--config", config, "--model", model, "--seed", seed, *more)


def beside(start, output_dir, *stages):
    """A folder with copies of the stages that another one starts from."""
    for stage in stages:
        if not (output_dir / stage).exists():
            shutil.copytree(start / stage, output_dir / stage)
    return output_dir


def labelled(start, seed):
    """The requests of rl.jsonl as records, with the calls that stage 02 does not write there."""
    settings = recipe.load(ROOT / FEW, [("seed", seed), ("output_dir", str(start))])
    prompts = [row["prompt"] for row in read_jsonl(start / DATA / "rl.jsonl")]
    more = {**settings["dataset"], "feedback": 2 * len(prompts), "unlabelled": 0}
    by_prompt = {row["prompt"]: row for row in sources.build({**settings, "dataset": more}).feedback}
    return [by_prompt[prompt] for prompt in prompts]


def fine_tuned(start, output_dir, seed, records, epochs):
    beside(start, output_dir, DATA)
    write_jsonl(output_dir / DATA / "train.jsonl", records)
    run(SFT, output_dir, seed, [("sft.epochs", epochs)])


def measured(output_dir, stage):
    """{column: a figure for each request} of a stage's model; made once."""
    kept = output_dir / "measured.json"
    found = read_json(kept) if kept.exists() else {}
    if stage not in found:
        answerer = Answerer(output_dir, stage)
        found[stage] = {
            name: [score["exact_call"] for score in answerer.judged(records(output_dir, split))[1]]
            for split, name in (("test", "test"), ("test_wild", "by hand"))
        }
        asked = records(output_dir, "test")[::2]
        answers = answerer([row["prompt"] for row in asked for _ in range(SAMPLES)], temperature=1.0)
        rungs = [
            scoring.judge_outcome(done.text, done.ended, asked[i // SAMPLES], answerer.tools)["outcome"]
            for i, done in enumerate(answers)
        ]
        right = [int(sum(rungs[i : i + SAMPLES])) for i in range(0, len(rungs), SAMPLES)]
        for k in (1, SAMPLES):
            found[stage][f"pass@{k}"] = [statistics.pass_at_k(count, SAMPLES, k) for count in right]
        write_json(kept, found)
    return found[stage]


def table(rows):
    """Markdown of {name: what `measured` says}: the means, and how far they are from the first row's."""
    first = next(iter(rows.values()))
    lines = ["| | " + " | ".join(first) + " |", "|---" * (len(first) + 1) + "|"]
    for name, row in rows.items():
        cells = [f"{sum(figures) / len(figures):.1%}" for figures in row.values()]
        if row is not first:
            changes = [statistics.paired_difference(first[key], row[key], RESAMPLES) for key in first]
            cells = [
                f"{cell} ({100 * change['value']:+.1f}: {100 * change['low']:+.1f} to {100 * change['high']:+.1f})"
                for cell, change in zip(cells, changes, strict=True)
            ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def compared(start, seed, out):
    few, calls = read_jsonl(start / DATA / "train.jsonl"), labelled(start, seed)
    everything = [*few, *calls]
    random.Random(seed).shuffle(everything)
    longer = EPOCHS * len(everything) / len(few)  # as many steps
    asked = recipe.load(ROOT / FEW)["dpo"]["requests"]
    for stage in ("06_dpo", "07_ppo"):
        run(stage, start, seed)
    shutil.copyfile(start / "07_ppo" / "ppo.png", Path(__file__).with_name("few_labels.png"))
    fine_tuned(start, out / "longer", seed, few, longer)
    fine_tuned(start, out / "labels", seed, everything, EPOCHS)
    return {
        "SFT on 100 records": measured(start, SFT),
        f"the same for {longer:.0f} epochs": measured(out / "longer", SFT),
        f"DPO on the outcomes of {min(asked, len(calls))} requests": measured(start, "06_dpo"),
        f"PPO on the outcomes of {len(calls)} requests": measured(start, "07_ppo"),
        f"SFT on the right calls of all {len(everything)}": measured(out / "labels", SFT),
    }


def continued(start, seed, out):
    for stage in ("06_dpo", "07_ppo"):
        run(stage, start, seed, config=DEFAULT)
    calls, sft = read_jsonl(start / DATA / "feedback.jsonl"), recipe.for_model(recipe.load(), "sft", "embedded")
    steps = max(row["step"] for row in read_log(start / "06_dpo" / "log.jsonl") if "step" in row)
    folder = beside(start, out / "continued", DATA)
    write_jsonl(folder / DATA / "train.jsonl", calls)
    kept = ("optimizer", "average_from", "batch_size", "group_by_length")
    settings = [(f"sft.{key}", sft[key]) for key in kept]
    settings += [
        ("sft.learning_rate", sft["learning_rate"] / 2),
        ("sft.epochs", steps * sft["batch_size"] / len(calls)),
    ]
    run(SFT, folder, seed, settings, DEFAULT, start / SFT / "model")
    return {
        "SFT on 500 records": measured(start, SFT),
        f"{steps} steps more on {len(calls)} right calls": measured(folder, SFT),
        "DPO": measured(start, "06_dpo"),
        "PPO": measured(start, "07_ppo"),
    }


def ablated(start, seed, out):
    rows = {}
    for name, changed in ABLATION.items():
        folder = beside(start, out / name.replace(" ", "_"), DATA, SFT)
        changed = {"updates": ABLATED_UPDATES, **changed}
        run("07_ppo", folder, seed, [(f"ppo.{key}", value) for key, value in changed.items()])
        rows[name] = measured(folder, "07_ppo")
    return {"PPO": rows.pop("PPO"), "the start, SFT on 100 records": measured(start, SFT), **rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("outputs/rewards"))
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--ablation", action="store_true", help="change one thing of PPO's at a time")
    asked.add_argument("--default", action="store_true", help="by the default recipe, beside SFT that goes on")
    options = parser.parse_args()
    out = options.out.resolve() / f"seed-{options.seed}"
    name = "ablation" if options.ablation else "continued" if options.default else "rewards"
    start, config = (out / "default", DEFAULT) if options.default else (out / "few", FEW)
    for stage in (DATA, SFT):
        run(stage, start, options.seed, config=config)
    compare = {"ablation": ablated, "continued": continued, "rewards": compared}[name]
    made = table(compare(start, options.seed, out))
    keep(name, f"{made}\n\nSeed {options.seed}.")


if __name__ == "__main__":
    main()
