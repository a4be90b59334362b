"""Stage 02: make the records that the model learns from, and the ones it is judged on.

    python 02_create_dataset.py
    python 02_create_dataset.py --size 1000000
    python 02_create_dataset.py --source toolbench --path ToolBench/data
    python 02_create_dataset.py --source my_chats.jsonl --export openai      # or a dataset's name on the hub
    python 02_create_dataset.py --tools my_tools.json --examples my_examples.jsonl
    python 02_create_dataset.py --config configs/unseen_tools.json           # prompts that list the tools there are
    python 02_create_dataset.py --source teacher --size 100                  # a model writes its own records
    python 02_create_dataset.py --source teacher --teacher-url http://localhost:8000/v1 --teacher NAME

The test's phrasings *and* entities never occur in training, and a second one, test_wild, was written by hand: a model
that had only memorized would fail both. A leak check stops the stage where anything is shared.

Writes outputs/02_create_dataset/: train.jsonl, val.jsonl, test.jsonl, test_wild.jsonl; for the stages after SFT
feedback.jsonl, records that SFT does not see, rl.jsonl, requests with outcomes, and pairs.jsonl where the source has
chosen and rejected answers; tools.json, README.md, balance.png, metrics.json; train.openai.jsonl with --export openai.
The key of an endpoint is OPENAI_API_KEY; what a teacher said is kept in 02_create_dataset.asked.jsonl beside it.
Next: 03_finetune.py
"""

import collections
import sys

import tools as toolbox
from playground.data import sources
from playground.data.exports import EXPORTS
from playground.model import loading
from playground.report import plots, tables
from playground.run import artifacts, console, recipe
from playground.run.files import write_json

STAGE = "02_create_dataset"
SHOWN = 6  # records printed
SAMPLE = 1000  # records of a split whose tokens are counted
EXAMPLE = 400  # characters of an example in the data card; ToolBench's results can be pages long
LEAKS = ("shared_phrasings", "shared_entities", "near_duplicates")  # printed; the data card has the overlaps too
TOOLS_SHOWN = 40  # rows of the data card's table


def add_flags(parser):
    flag = parser.add_argument
    flag("--source", dest="dataset.source", help="templates, toolbench, teacher, unseen_tools, a file or hub dataset")
    flag("--path", dest="dataset.path", metavar="DIR", help="where ToolBench's data is")
    flag("--strict", dest="dataset.strict", action="store_true", default=None, help="no ToolBench data is an error")
    flag("--size", dest="dataset.size", type=int, help="training records, of a teacher the labelled ones (500)")
    flag("--teacher", dest="teacher.model", metavar="NAME", help="stage, folder or name of a model (03_finetune)")
    flag("--teacher-url", dest="teacher.url", metavar="URL", help="OpenAI-compatible endpoint of the teacher")
    flag("--requests", dest="teacher.requests", metavar="FILE", help="requests to label: .txt or {prompt, answer} rows")
    flag("--tools", dest="tools.file", metavar="FILE", help="tool set, in OpenAI's JSON format")
    flag("--examples", dest="dataset.examples", metavar="FILE", help="requests with their calls, for tools of your own")
    flag("--export", dest="dataset.export", metavar="NAME", help=f"a second form to write: {', '.join(EXPORTS)}")


# ---- the data card


def count_rows(kind, names, counts):
    return [{kind: name} | {split: str(own[name]) for split, own in counts.items()} for name in names]


def calls_table(counts):
    """Markdown: how many records of each split call each tool, the commonest tools first."""
    total = sum(counts.values(), collections.Counter())
    names = sorted(total, key=lambda name: (-total[name], name))
    rows, others = count_rows("call", names[:TOOLS_SHOWN], counts), names[TOOLS_SHOWN:]
    if others:
        rest = {split: str(sum(own[name] for name in others)) for split, own in counts.items()}
        rows.append({"call": f"{len(others)} others"} | rest)
    rows.append({"call": "all"} | {split: str(own.total()) for split, own in counts.items()})
    return tables.table(rows, ["call", *counts])


def lengths_table(splits):
    """Markdown: how long prompts and completions are: the median, the 95th percentile and the longest."""
    columns, rows = ["split", "length of", "median", "95%", "longest"], []
    for split, records in splits.items():
        kinds = {f"{key}, characters": [len(row[key]) for row in records] for key in ("prompt", "completion")}
        tokens = loading.count_tokens([f"{row['prompt']}{row['completion']}" for row in records[:SAMPLE]])
        kinds[f"both, tokens (of {len(tokens)})"] = tokens
        for kind, lengths in kinds.items():
            ordered = sorted(lengths)
            shown = (ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.95)], ordered[-1])
            rows.append(dict(zip(columns, (split, kind, *map(str, shown)), strict=True)))
    return tables.table(rows, columns)


def in_words(figures):
    return ", ".join(f"{value:g} {name.replace('_', ' ')}" for name, value in figures.items())


def in_short(row):
    texts = (row["prompt"], row["completion"])
    short = (text if len(text) <= EXAMPLE else f"{text[: EXAMPLE // 2]} ... {text[-EXAMPLE // 2 :]}" for text in texts)
    return "\n    -> ".join(short)


def data_card(dataset, calls, leaks, seed):
    """README.md of the dataset: what is in it, where it is from, and what the leak check found."""
    by_source = {
        split: collections.Counter(row["source"] for row in records) for split, records in dataset.splits.items()
    }
    names = sorted(set().union(*by_source.values()))
    sources_table = tables.table(count_rows("source", names, by_source), ["source", *by_source])
    card = [
        f"# Dataset card\n\nSource: {dataset.source}, {len(dataset.tools)} tools, seed {seed}. "
        "Validation and test are the same for every seed."
        + " test_wild was written by hand in this project and is never trained on."
        * ("test_wild" in dataset.splits),
        f"## Records\n\n{calls_table(calls)}\n\n{sources_table}\n\n![balance](balance.png)",
        f"## Lengths\n\n{lengths_table(dataset.splits)}",
        "## Leak check, training against the other splits\n\n"
        + "\n".join(f"- {split}: {in_words(figures)}" for split, figures in leaks.items()),
    ]
    if dataset.left_out:
        card.append("## Left out\n\n" + "\n".join(f"- {count}: {why}" for why, count in dataset.left_out.items()))
    for split, records in dataset.splits.items():
        examples = "\n".join(map(in_short, records[:SHOWN]))
        card.append(f"## {split}\n\n```\n{examples}\n```")
    return "\n\n".join(card) + "\n"


# ---- the stage


def main():
    settings, _ = recipe.arguments(__doc__, add_flags)
    artifacts.lock(settings)
    print(f"Making records for training, validation and test from {settings['dataset']['source']}.\n")
    dataset = sources.build(settings)
    for why, count in dataset.left_out.items():
        print(f"Left out: {count} {why}.")
    if "respond" not in dataset.tools:
        print(toolbox.NO_RESPOND, file=sys.stderr)
    with artifacts.stage(settings, STAGE, inputs=dataset.files) as artifact:
        leaks = sources.write(artifact.path, dataset, settings)
        entries = [{"type": "function", "function": tool} for tool in dataset.tools.values()]
        write_json(artifact / "tools.json", entries)
        calls = {
            split: collections.Counter(row["meta"]["tool"] for row in records)
            for split, records in dataset.splits.items()
        }
        card = data_card(dataset, calls, leaks, settings["seed"])
        (artifact / "README.md").write_text(card, encoding="utf-8", errors="replace")
        plots.plot_balance(artifact / "balance.png", calls)
        counts = {split: len(records) for split, records in dataset.splits.items()}
        write_json(artifact / "metrics.json", {"n": counts, "leaks": leaks, "left_out": dataset.left_out})

    for row in dataset.splits["train"][:SHOWN]:
        print(f"{in_short(row)}\n")
    print(", ".join(f"{count} {split}" for split, count in counts.items()), "records.")
    if dataset.feedback or dataset.unlabelled:
        print(
            f"For stages 06 and 07: {len(dataset.feedback)} more records in feedback.jsonl, "
            f"{len(dataset.unlabelled)} requests with outcomes in rl.jsonl."
        )
    print("Leak check, training against the others:")
    for split, figures in leaks.items():
        print(f"  {split}: {in_words({name: figures[name] for name in LEAKS})}")
    print(f"Written: {artifact.final}. Next: {console.command('03_finetune.py')}")


if __name__ == "__main__":
    console.run(main)
