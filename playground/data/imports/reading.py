"""Rows of imported files, one at a time: JSON lines, a JSON array, or a dataset on the hub."""

import codecs
import contextlib
import json
import re
import sys
from collections import Counter
from pathlib import Path

from playground.data.imports.conversation import BadRow, general, in_form
from playground.run.errors import UserError

MAX_LINE = 1_000_000  # bytes
MAX_ENTRY = 64 * MAX_LINE  # characters of an array's entry; a longer one cannot be passed over
MAX_BAD = 0.2  # of the rows; with more, the file is not what it was taken for
SHOWN = 10  # bad rows that are named
REASONS = 5  # for which rows were refused, named with their counts
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(?<!\.json)(?<!\.jsonl)(?<!\.ndjson)(?<!\.txt)")


class Report:
    """What became of the rows of one source: how many were read, which were bad, what was left out of good ones."""

    def __init__(self, path):
        self.path, self.rows, self.format, self.pairs = path, 0, None, []
        self.reasons, self.first = Counter(), {}  # why rows were refused: how many were, and which was the first
        self.notes = Counter()  # what was left out of the others

    @contextlib.contextmanager
    def row(self, place):
        """Context manager around reading one row: counts it, and notes a BadRow in it with its place, "file:line"."""
        self.rows += 1
        try:
            with in_form():
                yield
        except BadRow as bad:
            reason = " ".join(str(bad).split())
            if self.reasons.total() < SHOWN:
                print(f"{place}: {reason[:300]}", file=sys.stderr)
            self.reasons[general(reason)] += 1
            self.first.setdefault(general(reason), str(place).rpartition(":")[2])

    def read(self, rows, parse, path=None):
        """Iterator over parse(number, row) of the `rows` that can be used; the others are noted. path: their file."""
        for number, row in rows:
            with self.row(f"{path or self.path}:{number}"):
                if isinstance(row, BadRow):
                    raise row
                yield parse(number, row)

    def commonest(self):
        """Why rows were refused, in words: the commonest reasons with their counts and the first row of each."""
        known = self.reasons.most_common(REASONS)
        rest = self.reasons.total() - sum(count for _, count in known)
        told = [f"{count} {reason} (first: {self.first[reason]})" for reason, count in known]
        return "; ".join([*told, f"{rest} for other reasons"] if rest else told)

    def finish(self):
        """Say on standard error what was skipped. Raises UserError for no rows at all, or too many bad ones."""
        skipped = self.reasons.total()
        if skipped > SHOWN:
            print(f"... and {skipped - SHOWN} more", file=sys.stderr)
        if not self.rows:
            raise UserError(f"{self.path} has no rows: give a file with one JSON object on each line.")
        if skipped > MAX_BAD * self.rows:
            raise UserError(
                f"{self.path}: {skipped} of {self.rows} rows cannot be used, more than {MAX_BAD:.0%}: "
                f"{self.commonest()}. Mend the file."
            )
        if skipped:
            print(f"{self.path}: {skipped} of {self.rows} rows skipped: {self.commonest()}.", file=sys.stderr)


def rows(path, text=False):
    """Iterator over (number, row) of a file of JSON lines, of one JSON array, or with `text` of lines of text.

    A bad row is a BadRow. Memory is that of one row.
    """
    try:
        with Path(path).open("rb") as file:
            start = file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()[:1]
            file.seek(0)
            yield from _array(path, file) if start == b"[" and not text else _lines(file, text)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None


def _lines(file, text):
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE)
            yield number, BadRow("over 1 MB")
        elif line.strip():
            yield number, _parsed(line, text)


def _parsed(line, text):
    try:
        line = line.decode("utf-8-sig")
        return line if text else json.loads(line)
    except UnicodeDecodeError:
        return BadRow("not UTF-8")
    except ValueError as error:  # a number of thousands of digits, too
        return BadRow(f"not JSON ({str(error)[:80]})")
    except RecursionError:
        return BadRow("nested too deep")


def _array(path, file):
    """The entries of a JSON array, of which no more than one and a block is in memory."""
    decoder, json_decoder = codecs.getincrementaldecoder("utf-8-sig")(), json.JSONDecoder()
    text, at, number, ended = "", 0, 0, False
    try:
        while True:
            start = re.compile(r"[\s,]*" if number else r"\s*\[?\s*").match(text, at).end()
            if text[start : start + 1] == "]":
                return
            try:
                row, end = json_decoder.raw_decode(text, start)
                is_whole, why = end < len(text) or ended, ""  # a number may go on in the next block
            except ValueError as error:
                is_whole, why = False, getattr(error, "msg", str(error)[:100])
            if is_whole:
                number, at = number + 1, end
                yield number, BadRow("over 1 MB") if end - start > MAX_LINE else row
            elif ended or len(text) - start > MAX_ENTRY:
                size = "" if ended else f" or is over {MAX_ENTRY // MAX_LINE} MB"
                raise UserError(f"{path}: entry {number + 1} of the array is not JSON ({why}){size}.")
            else:
                block = file.read(max(MAX_LINE, len(text)))  # twice as much of an entry each time that it is tried
                text, at, ended = text[at:] + decoder.decode(block, not block), 0, not block
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8: save it as UTF-8.") from None
    except RecursionError:
        raise UserError(f"{path}: entry {number + 1} of the array is nested too deep.") from None


def hub_rows(name):
    """Iterator over (number, row) of the training split of a dataset on the Hugging Face hub, or in its cache."""
    import datasets
    import huggingface_hub

    from playground.model.loading import PROBE_SECONDS, within

    try:
        if not datasets.config.HF_HUB_OFFLINE:
            # The client retries for a minute before it says that there is no network: ask once, briefly.
            answer = within(PROBE_SECONDS, lambda: huggingface_hub.HfApi().dataset_info(name, timeout=PROBE_SECONDS))
            if isinstance(answer, Exception):  # what is in the cache can be used all the same
                datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True
        found = datasets.load_dataset(name, split="train")
    except Exception as error:  # whatever the hub, the network or the dataset's own files can do
        reason = str(error).strip().partition("\n")[0][:200]
        raise UserError(f"--source {name}: no such file, and as a dataset it cannot be loaded ({reason}).") from None
    for number, row in enumerate(found, 1):
        size = len(json.dumps(row, default=str, ensure_ascii=False))
        yield number, BadRow("over 1 MB") if size > MAX_LINE else row
