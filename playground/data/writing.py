"""Splits -> files, no record of which is written that its tool's schema rejects."""

import json

import tools as toolbox
from playground.data.exports import EXPORTS
from playground.run.errors import UserError
from playground.run.files import write_jsonl

META = {"id": str, "source": str, "meta": dict}  # what other forms have no place for stands in a file beside


class InvalidRecord(UserError):
    """A record must not be written; the message says what is wrong with its call."""


def write(folder, splits, tools, export=None):
    """Write every split to `folder`, with `export` in another form too. Raises InvalidRecord for a call not valid."""
    for split, records in splits.items():
        for record in records:
            if problems := toolbox.validate_call(json.loads(record["completion"]), tools):
                raise InvalidRecord(f"{record['id']}: {problems[0]}: give another --source or tool file.")
        write_jsonl(folder / f"{split}.jsonl", records)
        if export:
            write_jsonl(folder / f"{split}.{export}.jsonl", [EXPORTS[export](record, tools) for record in records])
            rows = ({key: record[key] for key in META} for record in records)
            write_jsonl(folder / f"{split}.{export}.meta.jsonl", rows)
