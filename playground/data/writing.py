"""Splits -> files: written as they are made, the training split by several processes, and counted on the way."""

import contextlib
import json
import multiprocessing
import os
import threading
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from tqdm import tqdm

import tools as toolbox
from playground import schemas
from playground.data.exports import EXPORTS
from playground.data.leaks import HeldOut, Shared
from playground.run.errors import UserError

SAMPLE = 1000  # records of a split that are kept to be looked at: examples, lengths in tokens
META = {"id": str, "source": str, "meta": dict}  # what other forms have no place for stands in a file beside


class InvalidRecord(UserError):
    """A record must not be written; the message says what is wrong with its call."""


@dataclass
class Summary:
    """What a split holds, in memory that does not grow with it."""

    n: int = 0
    calls: Counter = field(default_factory=Counter)  # {tool: records}
    sources: Counter = field(default_factory=Counter)
    prompt_chars: Counter = field(default_factory=Counter)  # {length: records}
    completion_chars: Counter = field(default_factory=Counter)
    first: list = field(default_factory=list)

    def add(self, later):
        self.n += later.n
        self.calls += later.calls
        self.sources += later.sources
        self.prompt_chars += later.prompt_chars
        self.completion_chars += later.completion_chars
        self.first += later.first[: SAMPLE - len(self.first)]


class Writer:
    """Makes the text of records: the project's own JSON lines, and with `export` another form beside them."""

    def __init__(self, tools, export=None):
        self.tools, self.export = tools, export
        self.validators = {name: schemas.validator(tool["parameters"]) for name, tool in tools.items()}

    def names(self, split):
        other = [f"{split}.{self.export}.jsonl", f"{split}.{self.export}.meta.jsonl"] if self.export else []
        return [f"{split}.jsonl", *other]

    def text(self, records):
        """([text for each of `names`], Summary). Raises InvalidRecord for a call that its schema rejects."""
        lines, summary = [[] for _ in self.names("")], Summary()
        for record in records:
            call = json.loads(record["completion"])
            validator = self.validators.get(call["tool"])
            if not validator or schemas.problems(validator, call["args"], call["tool"]):
                problem = toolbox.validate_call(call, self.tools)[0]
                raise InvalidRecord(f"{record['id']}: {problem}: give another --source or tool file.")
            lines[0].append(toolbox.to_json(record))
            if self.export:
                lines[1].append(toolbox.to_json(EXPORTS[self.export](record, self.tools)))
                lines[2].append(toolbox.to_json({key: record[key] for key in META}))
            summary.calls[call["tool"]] += 1
            summary.sources[record["source"]] += 1
        summary.n, summary.first = len(records), records[:SAMPLE]
        summary.prompt_chars.update(len(record["prompt"]) for record in records)
        summary.completion_chars.update(len(record["completion"]) for record in records)
        return ["".join(f"{line}\n" for line in own) for own in lines], summary


def write(folder, splits, tools, export=None, processes=None):
    """Write every split to `folder`; returns ({split: Summary}, the leak check's figures).

    A training split that is made in chunks (see templates.Train) is made by that many processes, by default one for
    each core; the bytes are the same for any number. Raises InvalidRecord and LeakError.
    """
    writer = Writer(tools, export)
    held_out = HeldOut(splits)
    summaries, shared = {}, Shared()
    for split, records in splits.items():
        if split == "train" and hasattr(records, "chunk"):
            parts = _in_order((records, held_out, tools, export), records.chunks, processes or os.cpu_count())
        else:
            parts = [_part(list(records), writer, held_out if split == "train" else None)]
        summaries[split] = Summary()
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context((folder / name).open("w", encoding="utf-8")) for name in writer.names(split)]
            hidden = None if len(records) > SAMPLE else True
            bar = stack.enter_context(tqdm(total=len(records), desc=split, unit=" records", disable=hidden))
            for texts, summary, own in parts:
                for file, text in zip(files, texts, strict=True):
                    file.write(text)
                summaries[split].add(summary)
                shared.add(own)
                bar.update(summary.n)
    return summaries, held_out.figures(shared)


def _part(records, writer, held_out):
    return *writer.text(records), held_out.compare(records) if held_out else Shared()


_job = None  # of this process, that makes parts of it: it gets the job once, then the numbers of chunks


def _start(train, held_out, tools, export):
    global _job
    _job = train, held_out, Writer(tools, export)
    if parent := multiprocessing.parent_process():
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent):
    parent.join()
    os._exit(1)  # killed, it has told nobody: a worker would wait for chunks for ever


def _work(index):
    train, held_out, writer = _job
    return _part(list(train.chunk(index)), writer, held_out)


def _in_order(job, chunks, processes):
    if processes == 1 or chunks == 1:
        _start(*job)
        yield from map(_work, range(chunks))
        return
    with ProcessPoolExecutor(min(processes, chunks), initializer=_start, initargs=job) as pool:
        yield from pool.map(_work, range(chunks))
