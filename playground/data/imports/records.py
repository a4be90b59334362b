"""Records from a file in a format that people already have, and the division of imported records into splits."""

import hashlib
from collections import Counter
from pathlib import Path

import tools as toolbox
from playground.data.imports import formats, reading
from playground.data.imports.conversation import BadRow, ToolSet, checked_call, last_only, to_records, writable
from playground.data.leaks import HeldOut
from playground.data.steps import read_prompt, write_prompt
from playground.run.errors import UserError

VALIDATION_SHARE, TEST_SHARE = 0.1, 0.2  # at most, of imported records; the recipe's sizes are the other limit


def load(source, tools, expected=None):
    """(records, tools, report, files) of a file or of a dataset on the hub.

    `tools` is the set that the project's own records call; other formats bring their own. `expected` is the name of
    a format, by default the one that the first row looks like. Raises UserError for a file that cannot be read, is
    in another format, or has too many bad rows; those are named on standard error.
    """
    path = Path(source)
    if path.is_file():
        rows, files = reading.rows(path), [path]
    elif reading.HUB_NAME.fullmatch(source):
        rows, files = reading.hub_rows(source), []
    else:
        raise UserError(f"--source {source}: neither templates nor toolbench nor a file that exists.")
    report, toolset, beside = reading.Report(source), ToolSet(), {}

    def read(number, row):
        identity = f"{path.stem}-{number:06d}"
        if report.format is None:
            report.format = _settle(source, row, expected)
            beside.update(_beside(path, report.format, files))
        if report.format == "project":
            return [_own(row, identity, tools)]
        if report.format == "bfcl" and row.get("id") in beside:
            row = row | {"ground_truth": beside[row["id"]]["ground_truth"]}
        conversation = {"id": identity} | formats.read(row, report.format)
        if report.format != "bfcl" and number in beside:
            conversation |= {"record": beside[number], "messages": last_only(conversation["messages"])}
        return to_records(conversation, toolset, report.format, report.notes)

    records = [record for found in report.read(rows, read) for record in found]
    report.finish()
    for record in records:
        if "rejected" in record:
            pair = {"chosen": record["completion"], "rejected": record.pop("rejected")}
            report.pairs.append({key: record[key] for key in ("id", "prompt", "meta")} | pair)
    return records, tools if report.format == "project" else toolset.ordered(), report, files


def _settle(source, row, expected):
    """The format of a file, from its first row. Raises UserError where it is another than expected."""
    name = formats.look(row)
    label = formats.FORMATS[name].label
    if name.startswith("toolbench"):
        raise UserError(f"{source} looks like {label}: give --source toolbench --path {Path(source).parent}.")
    if name == "bfcl_answers":
        raise UserError(f"{source} looks like {label}: give the file of questions in the folder above.")
    if expected and name != expected:
        raise UserError(f"{source} looks like {label}, not like {formats.FORMATS[expected].label}: leave out --format.")
    return name


def _beside(path, name, files):
    """{key: row} of what a second file, which joins `files`, knows: by id for the leaderboard, else by line."""
    second = path.parent / "possible_answer" / path.name if name == "bfcl" else path.with_suffix(".meta.jsonl")
    if name == "project" or not second.is_file():
        return {}
    files.append(second)
    rows = ((number, row) for number, row in reading.rows(second) if isinstance(row, dict))
    if name == "bfcl":
        return {row.get("id"): row for _, row in rows if "ground_truth" in row}
    whole = {"id": str, "source": str, "meta": dict}
    return {
        number: {key: row[key] for key in whole}
        for number, row in rows
        if all(isinstance(row.get(key), kind) for key, kind in whole.items())
    }


def _own(row, number, tools):
    """A row of the project's own format as a record in canonical form. Raises BadRow."""
    if formats.look(row) != "project":
        raise BadRow(f"looks like {formats.FORMATS[formats.look(row)].label}, not like the project's own records")
    for key in ("prompt", "completion"):
        if key not in row:
            raise BadRow(f"lacks {key}")
        if not isinstance(row[key], str) or not row[key].strip():
            raise BadRow(f"{key} is not a text")
    try:
        call = toolbox.parse_call(row["completion"])
    except toolbox.ParseError as error:
        raise BadRow(f"completion is no call: {error.kind}") from None
    call = checked_call(call["tool"], call["args"], tools)
    steps, meta = read_prompt(row["prompt"]), row.get("meta", {})
    if not isinstance(meta, dict) or not isinstance(meta.get("phrasing", ""), str):
        raise BadRow("meta is not an object with a text as its phrasing")
    entities = meta.get("entities", [])
    if not isinstance(entities, list) or not all(isinstance(entity, str) for entity in entities):
        raise BadRow("meta.entities is not a list of texts")
    record = {
        "id": str(row.get("id", number)),
        "prompt": write_prompt(steps),
        "completion": toolbox.to_json(call),
        "source": str(row.get("source", "file")),
        "meta": meta | {"tool": call["tool"], "turn": 1 + sum(step[0] == "call" for step in steps)},
    }
    return writable(record, "the record")


def divide(records, size, validation_size, test_size, held_out=None):
    """({split: records}, {reason: how many were left out}): the same for the same records in any order.

    Records with the same request, or of the same phrasing where their meta names one, stay together; what training
    would then share with them, or with the splits of `held_out`, is left out of training. `size` limits training,
    None does not. Raises UserError for too few records.
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
        raise UserError(
            f"{len(seen)} different prompts, {len(groups)} groups of them, are too few for a training, a validation "
            "and a test split that share nothing: give more data."
        )
    return splits, +left_out
