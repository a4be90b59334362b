"""Where records come from: `build` asks the source that the recipe names, `write` writes what it gives."""

import json
import random
import sys
from dataclasses import dataclass, field
from pathlib import Path

import tools as toolbox
from playground.data import examples, leaks, templates, unseen_tools, writing
from playground.data.imports import formats, records, toolbench
from playground.data.steps import read_prompt
from playground.data.teacher import self_instruct, toolformer
from playground.run.errors import UserError
from playground.run.files import write_jsonl

WILD = Path(__file__).parent / "wild.jsonl"
TEMPLATE_RECORDS, LISTED_RECORDS = 500, 3000  # training records where the recipe names no size


@dataclass
class Dataset:
    """Records in splits, and the tools that they call."""

    splits: dict
    tools: dict
    source: str
    files: list = field(default_factory=list)  # what was read
    left_out: dict = field(default_factory=dict)  # {reason: how often, or "all"}
    # For the stages that learn from mistakes: records that SFT does not see, and requests with outcomes.
    feedback: list = field(default_factory=list)
    unlabelled: list = field(default_factory=list)
    pairs: list = field(default_factory=list)  # {"prompt", "chosen", "rejected"} that came with the data, for stage 06


def build(settings):
    """The Dataset that the recipe's `dataset` section asks for; validation and test do not depend on the seed."""
    section = settings["dataset"]
    if section["list_tools"] and section["source"] != "unseen_tools":
        raise UserError(f"dataset.list_tools: {section['source']} lists no tools: take --source unseen_tools.")
    asked = self_instruct.wanted(settings) and not section["examples"]
    if section["source"] != "teacher" and (settings["teacher"]["requests"] or asked):
        raise UserError("--teacher, --teacher-url and --requests need --source teacher (or --examples): add it.")
    if section["examples"]:
        if section["source"] != "templates":
            raise UserError(f"dataset.examples: {section['source']} brings its own records: leave out --source.")
        return _examples(settings)
    made = {"templates": _templates, "teacher": _teacher, "unseen_tools": _unseen_tools}
    if section["source"] in made:
        return made[section["source"]](settings)
    if section["source"] == "toolbench":
        path = section["path"] or "."
        found = toolbench.load(path)
        if found is None:
            missing = f"--path {path} holds no ToolBench data (answer/ or toolllama*.json)"
            if section["strict"]:
                raise UserError(f"{missing}: see github.com/OpenBMB/ToolBench for the download.")
            print(f"{missing}: using templates.", file=sys.stderr)
            return _templates(settings)
    else:
        own = toolbox.load_tools(settings["tools"]["file"])
        found = records.load(section["source"], own)
    return _imported(section, *found)


def _imported(section, imported, tools, report, files):
    """Imported records, divided into splits, beside the hand-written requests that their tools can answer."""
    wild = _wild(tools)
    sizes = (section[key] for key in ("size", "validation_size", "test_size"))
    splits, left_out = records.divide(imported, *sizes, held_out=wild)
    held_out = leaks.HeldOut(splits | wild)
    pairs = [pair for pair in report.pairs if not held_out.leaks(pair)]
    if len(pairs) < len(report.pairs):
        left_out["pairs too close to a held-out record"] = len(report.pairs) - len(pairs)
    left_out = {**report.reasons, **report.notes, **left_out}
    return Dataset(splits | wild, tools, formats.FORMATS[report.format].label, files, left_out, pairs=pairs)


def _templates(settings):
    path = Path(settings["tools"]["file"])
    tools = toolbox.load_tools(path)
    splits, following = _from_templates(settings, tools)
    feedback, pool = _later_requests(settings, tools, splits, following)
    return Dataset(splits | _wild(tools), tools, "templates", [path], {}, feedback, pool)


def _from_templates(settings, tools):
    """({split: records}, the records with which training would go on)."""
    section, sizes = settings["dataset"], _sizes(settings["dataset"], TEMPLATE_RECORDS)
    size, more = sizes["train"], section["feedback"] - section["feedback"] // 2
    splits = templates.build_splits(sizes | {"train": size + more}, tools, settings["seed"])
    return splits | {"train": splits["train"][:size]}, splits["train"][size:]


def _sizes(section, default):
    return {"train": section["size"] or default, "val": section["validation_size"], "test": section["test_size"]}


def _examples(settings):
    """The templates' dataset, and in every split records of the tools that the examples call.

    Of each such tool as many as of a default one. A tool file that names none of the default tools is taken as an
    addition to them; one that names some says which of them there are.
    """
    section, seed, path = settings["dataset"], settings["seed"], settings["dataset"]["examples"]
    tools, default = _with_default(toolbox.load_tools(settings["tools"]["file"]))
    found, added, left_out, files = examples.read(path, tools), [], {}, [Path(settings["tools"]["file"]), Path(path)]
    if self_instruct.wanted(settings):
        added, left_out, more = self_instruct.more_examples(found, tools, settings)
        files += more
    own = examples.Examples(found, tools, path, added)
    if silent := [name for name in tools if name not in {*default, *own.names}]:
        raise UserError(f"{path}: no example calls {silent[0]}: give ten to thirty requests for it, or take it out.")
    sizes = _sizes(section, TEMPLATE_RECORDS)
    each = {split: -(-count // len(default)) for split, count in sizes.items()}
    splits, following = _from_templates(settings, default)
    for split in ("val", "test"):
        splits[split] = [*splits[split], *own.records(split, each[split], "")]
        random.Random(f"examples/{split}").shuffle(splits[split])  # stage 03 validates on the first hundred
    feedback, pool = _later_requests(settings, default, splits, following)
    splits |= _wild(tools)
    held_out = leaks.HeldOut(splits)
    made = own.records("train", each["train"], seed, held_out)
    train = [row for row in splits["train"] if not held_out.leaks(row)] + made
    random.Random(f"examples/order/{seed}").shuffle(train)
    known = {row["prompt"] for row in made}
    count = -(-section["feedback"] // len(default))
    later = own.records("train", count, f"{seed}/feedback", held_out, known, len(made))
    feedback = [row for row in feedback if not held_out.leaks(row)] + later
    random.Random(f"examples/feedback/{seed}").shuffle(feedback)
    for name in own.without_answers:
        left_out[f"answers to a result of {name}, of which no example shows one"] = "all"
    pool = [row for row in pool if not held_out.leaks(row)]
    source = f"templates and the examples in {Path(path).name}"
    return Dataset(splits | {"train": train}, tools, source, files, left_out, feedback, pool)


def _with_default(own):
    """(the tools of a file and of the default ones those that it does not rule out, the latter alone)."""
    default = toolbox.load_tools()
    named = {name: own[name] for name in default if name in own}
    if not named.keys() - {"respond"}:
        named = default | named
    named = named | {"respond": named.get("respond", default["respond"])}
    tools = named | own
    return tools | {"respond": tools.pop("respond")}, named


def _unseen_tools(settings):
    section = settings["dataset"]
    splits = unseen_tools.build_splits(_sizes(section, LISTED_RECORDS), settings["seed"], section["list_tools"])
    return Dataset(splits, unseen_tools.all_tools(), "unseen_tools")


def _later_requests(settings, tools, splits, following):
    """(records, requests with outcomes): what a model meets after SFT, in other words than those that it learned from.

    Half of the records go on where training's end, and reach the phrasings that it lacks. The others, and all requests,
    are in phrasings and with entities that neither training nor a held-out split has. Of the requests' calls only what
    they bring about is kept: the one who asked knows that, whoever made the call.
    """
    held_out = leaks.HeldOut(splits | _wild(tools))
    section, seed = settings["dataset"], str(settings["seed"])
    worded = section["feedback"] // 2
    others = list(templates.distinct("unlabelled", worded + section["unlabelled"], tools, seed, held_out=held_out))
    labelled = following + others[:worded]
    random.Random(f"feedback/{seed}").shuffle(labelled)
    feedback = [{**record, "id": f"feedback-{i:06d}"} for i, record in enumerate(labelled)]
    pool = []
    for i, record in enumerate(others[worded:]):
        outcome = toolbox.outcome_of(json.loads(record["completion"]), tools)
        meta = {key: record["meta"][key] for key in ("phrasing", "entities")}
        asked = {"id": f"rl-{i:06d}", "prompt": record["prompt"], "outcome": outcome}
        pool.append(asked | {"source": "templates", "meta": meta})
    return feedback, pool


def _teacher(settings):
    """The templates' dataset, and in training, after the labelled records, what the teacher adds to them."""
    section, labelled = settings["teacher"], settings["dataset"]["size"] or TEMPLATE_RECORDS
    # One stream, so the labelled records are those of `--source templates`, and no request is asked that is labelled.
    sizes = settings["dataset"] | {"size": labelled + (0 if section["requests"] else section["unlabelled"])}
    dataset = _templates(settings | {"dataset": sizes})
    train, tools = dataset.splits["train"], dataset.tools
    if section["requests"]:
        requests = toolformer.read_requests(section["requests"])
        dataset.files.append(Path(section["requests"]))
    else:
        requests = [toolformer.drop_label(record, tools) for record in train[labelled:]]
    train = train[:labelled]
    held_out = leaks.HeldOut(dataset.splits)
    known = {record["prompt"] for record in train}
    new = {row["prompt"]: row for row in requests if row["prompt"] not in known and not held_out.leaks(row)}
    added, left_out, files = toolformer.add_records(list(new.values()), train, tools, settings)
    if len(new) < len(requests):
        left_out["requests that came before or are too close to a held-out one"] = len(requests) - len(new)
    dataset.source = f"teacher ({section['model']}), after {labelled} labelled records of the templates"
    dataset.splits["train"], dataset.left_out = train + added, dict(left_out)
    dataset.files += files
    return dataset


def _wild(tools):
    """{"test_wild": the hand-written requests that `tools` can answer}; {} for tools that none was written for."""
    found = []
    for line in WILD.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        steps = read_prompt(record["prompt"])
        calls = [json.loads(record["completion"]), *(step[1] for step in steps if step[0] == "call")]
        if not any(toolbox.validate_call(call, tools) for call in calls):
            found.append(record)
    # Every tool set can respond, but what it should respond to depends on its other tools.
    return {"test_wild": found} if any(record["meta"]["tool"] != "respond" for record in found) else {}


def write(folder, dataset, settings):
    """Write the splits to `folder`; returns the leak check's figures.

    Raises LeakError if training shares something with another split, and InvalidRecord.
    """
    writing.write(folder, dataset.splits, dataset.tools, settings["dataset"]["export"])
    later = {"feedback.jsonl": dataset.feedback, "rl.jsonl": dataset.unlabelled, "pairs.jsonl": dataset.pairs}
    for name, rows in later.items():
        if rows:
            leaks.leak_check(dataset.splits | {"train": rows})
            write_jsonl(folder / name, rows)
    return leaks.leak_check(dataset.splits)
