"""Records from a file in a format that people already have, and the division of imported records into splits."""

import hashlib
from collections import Counter
from pathlib import Path

from playground.data.imports import formats, reading
from playground.data.imports.conversation import BadRow, ToolSet, read_call, to_records, writable
from playground.data.leaks import HeldOut
from playground.data.steps import read_prompt, record_of, write_prompt
from playground.data.writing import META
from playground.run.errors import UserError

VALIDATION_SHARE, TEST_SHARE = 0.1, 0.2  # at most, of imported records; the recipe's sizes are the other limit


def load(source, tools):
    """(records, tools, report, files) of a file or of a dataset on the hub, whose first row tells the format.

    `tools` is the set that the project's own records call; other formats bring their own. Bad rows are named on
    standard error.
    """
    path = Path(source)
    if path.is_file():
        rows, files = reading.rows(path), [path]
    elif reading.HUB_NAME.fullmatch(source):
        rows, files = reading.hub_rows(source), []
    else:
        raise UserError(
            f"--source {source}: no such file: give one, OWNER/NAME on the hub, or a name that --help lists."
        )
    report, toolset, answers, written = reading.Report(source), ToolSet(), {}, {}

    def read(number, row):
        identity = f"{path.stem}-{number:06d}"
        if report.format is None:
            report.format = _settle(source, row)
            beside = path.parent / "possible_answer" / path.name
            if report.format == "bfcl" and beside.is_file():
                files.append(beside)
                answers.update((row.get("id"), row) for _, row in reading.rows(beside) if isinstance(row, dict))
            beside = path.with_suffix(".meta.jsonl")
            if report.format != "project" and beside.is_file():  # of an export of ours, one answer a row
                files.append(beside)
                written.update((line, row) for line, row in reading.rows(beside) if _is_meta(row))
        if report.format == "project":
            return [_own(row, identity, tools)]
        if report.format == "bfcl" and row.get("id") in answers:
            row = row | answers[row["id"]]
        conversation = {"id": identity} | formats.read(row, report.format)
        found = to_records(conversation, toolset, report.format, report.notes)
        return [found[-1] | written[number]] if number in written else found

    records = [record for found in report.read(rows, read) for record in found]
    report.finish()
    for record in records:
        if "rejected" in record:
            pair = {"chosen": record["completion"], "rejected": record.pop("rejected")}
            report.pairs.append({key: record[key] for key in ("id", "prompt", "meta")} | pair)
    return records, tools if report.format == "project" else toolset.ordered(), report, files


def _is_meta(row):
    return isinstance(row, dict) and all(isinstance(row.get(key), kind) for key, kind in META.items())


def _settle(source, row):
    """The format of a file, from its first row. Raises UserError for one that --source does not read."""
    name = formats.format_of(row)
    seems = f"{source} looks like {formats.FORMATS[name].label}"
    if name.startswith("toolbench"):
        raise UserError(f"{seems}: give --source toolbench --path {Path(source).parent}.")
    if name == "bfcl_answers":
        raise UserError(f"{seems}: give the file of questions in the folder above.")
    return name


def _own(row, number, tools):
    """A row of the project's own format as a record in canonical form. Raises BadRow."""
    formats.require(row, "project")
    for key in ("prompt", "completion"):
        if not isinstance(row[key], str) or not row[key].strip():
            raise BadRow(f"{key} is not a text")
    call = read_call(row["completion"], tools, "completion")
    steps, meta = read_prompt(row["prompt"]), row.get("meta", {})
    if not isinstance(meta, dict) or not isinstance(meta.get("phrasing", ""), str):
        raise BadRow("meta is not an object with a text as its phrasing")
    entities = meta.get("entities", [])
    if not isinstance(entities, list) or not all(isinstance(entity, str) for entity in entities):
        raise BadRow("meta.entities is not a list of texts")
    identity, source = str(row.get("id", number)), str(row.get("source", "file"))
    meta = meta | {"tool": call["tool"], "turn": 1 + sum(step[0] == "call" for step in steps)}
    return writable(record_of(identity, write_prompt(steps), call, source, meta), "the record")


def divide(records, size, validation_size, test_size, held_out=None):
    """({split: records}, {reason: how many were left out}): the same for the same records in any order.

    Records with the same request, or of the same phrasing where their meta names one, stay together; what training
    would then share with them, or with the splits of `held_out`, is left out of training. `size` limits training.
    """
    left_out, groups, seen = Counter(), {}, set()
    for record in records:
        if record["prompt"] in seen:
            left_out["prompts that came before"] += 1
            continue
        seen.add(record["prompt"])
        request = " ".join(record["prompt"].split("\n", 1)[0].casefold().split())
        groups.setdefault(record["meta"].get("phrasing") or request, []).append(record)
    shuffled = sorted(groups, key=lambda group: hashlib.sha256(group.encode()).digest())
    limits = {"test": min(test_size, TEST_SHARE * len(seen)), "val": min(validation_size, VALIDATION_SHARE * len(seen))}
    splits = {"train": [], "val": [], "test": []}
    for group in shuffled:
        split = next((name for name, limit in limits.items() if len(splits[name]) < limit), "train")
        splits[split] += groups[group]
    measuring = HeldOut(splits | (held_out or {}))
    train = [record for record in splits["train"] if not measuring.leaks(record)]
    left_out["training records too close to a held-out one"] += len(splits["train"]) - len(train)
    splits["train"] = train[:size]
    if not all(splits.values()):
        few = f"{len(seen)} different prompts, {len(groups)} groups of them, are too few"
        raise UserError(f"{few} for a training, a validation and a test split that share nothing: give more data.")
    return splits, +left_out
