"""Does the teacher pay? 100 labelled requests against the same 100 and what a teacher trained on them adds.

    python bench/teacher.py --seeds 0 1 2 --out outputs/teacher --model embedded

For each seed: stage 03 on the labelled records alone; the same for as many steps as the third row takes, because more
steps help by themselves; and on the labelled records and those that the first model added as a teacher. Prints mean
(lowest to highest) on the test split, greedy and free, as a Markdown table, kept in bench/teacher.md and put into
docs/results.md by `python -m playground readme`. What is there is not run again.
"""

from statistics import mean

from runs import DATA, SFT, Answerer, command_line, keep, records, run

import tools as toolbox
from playground.data import templates
from playground.data.steps import read_prompt
from playground.judge import scoring
from playground.report import tables
from playground.run import recipe
from playground.run.files import read_json

LABELLED = 100  # requests


def evaluate(output_dir):
    """The metrics on the test split of the model in `output_dir`."""
    _, scores = Answerer(output_dir).judged(records(output_dir, "test"))
    return scoring.summarize(scores)


def right(added, seed, sizes):
    """The share of the teacher's calls that are the labels that its requests have lost."""
    calls = {}
    for record in templates.build_splits(sizes, toolbox.load_tools(), seed)["train"]:
        (_, request), *turns = read_prompt(record["prompt"])
        calls[request] = toolbox.to_json(turns[0][1]) if turns else record["completion"]
    first = [row for row in added if row["meta"]["turn"] == 1]
    return sum(row["completion"] == calls[row["prompt"]] for row in first) / len(first)


def run_seed(seed, options):
    """([metrics of the three models of one seed], how many records the teacher added and how many calls are right)."""
    folders = [options.out.resolve() / f"seed-{seed}" / name for name in ("labelled", "longer", "teacher")]
    labelled, longer, teacher = folders
    flags = ["--seed", seed, "--model", options.model, *options.flags]
    size = ["--size", LABELLED]
    for folder in (labelled, longer):
        run(DATA, folder, *flags, *size)
    run(SFT, labelled, *flags)
    run(DATA, teacher, *flags, *size, "--source", "teacher", "--teacher", labelled / SFT)
    run(SFT, teacher, *flags)
    manifest = read_json(teacher / SFT / "manifest.json")
    train = records(teacher, "train")
    epochs = recipe.for_model(manifest["recipe"], "sft", manifest["base_model"]["kind"])["epochs"]
    run(SFT, longer, *flags, "--epochs", round(epochs * len(train) / LABELLED))
    data = read_json(teacher / DATA / "manifest.json")["recipe"]
    sizes = {"train": LABELLED + data["teacher"]["unlabelled"]}
    sizes |= {"val": data["dataset"]["validation_size"], "test": data["dataset"]["test_size"]}
    added = [row for row in train if row["source"] == "teacher"]
    kept = {"added": len(added), "right": right(added, seed, sizes)}
    print(f"seed {seed}: {kept['added']} records added, {kept['right']:.1%} of their calls right", flush=True)
    return [evaluate(folder) for folder in folders], kept


def table(seeds):
    names = ["labelled", "labelled, as many steps as the next", "labelled and the teacher's"]
    rows = []
    for name, metrics in zip(names, zip(*seeds, strict=True), strict=True):
        row = {"": f"{LABELLED} {name}"}
        for column, key in tables.STEPS.items():
            values = [found[key] for found in metrics]
            row[column] = tables.rate({"value": mean(values), "low": min(values), "high": max(values)})
        rows.append(row)
    return tables.table(rows, ["", *tables.STEPS])


if __name__ == "__main__":
    parser = command_line(__doc__, "teacher", (0, 1, 2))
    parser.add_argument("--model", default="embedded")
    options = parser.parse_args()
    seeds, kept = zip(*[run_seed(seed, options) for seed in options.seeds], strict=True)
    added = ", ".join(f"{one['added']} ({one['right']:.0%} of their calls right)" for one in kept)
    of = ", ".join(map(str, options.seeds))
    notes = f"{options.model.capitalize()} model, seeds {of}. Records added: {added}."
    keep("teacher", f"{table(seeds)}\n\n{notes}")
