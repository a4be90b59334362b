"""Entities: what fills a template's slots, from the lists and grammars of entities.json, dealt to the splits."""

import functools
import json
import re
import unicodedata
import zlib
from pathlib import Path

HERE = Path(__file__).parent
DEAL = ("train", "train", "test", "train", "val", "train", "test", "train")  # the split of entry i is DEAL[i % 8]
DECIMAL = 0.1  # the rate of decimals among the calculator's numbers
LOW = "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen"
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
NUMBER_WORDS = [(word, str(n)) for n, word in enumerate([*LOW.split(), "nineteen"], 2)]
NUMBER_WORDS += [(word, str(10 * n)) for n, word in enumerate(TENS.split(), 2)]
KINDS = {"to": "address", "query": "topic"}  # what fills `{to}`; any other slot is filled by its own name


@functools.cache
def read_data(name):
    """The JSON in the file `name` beside this module, read once."""
    return json.loads((HERE / name).read_text(encoding="utf-8"))


def deal(entries, split):
    """The entries that belong to `split`, by their position."""
    return [entry for index, entry in enumerate(entries) if DEAL[index % len(DEAL)] == split]


def parse_template(text, synonyms=None):
    """A tuple of choices, `["this", "that"]` (of one for plain text), and slots, `(argument, kind)`."""
    parts, at = [], 0
    for match in re.finditer(r"\{(\w+)(?::(\w+))?\}|\[([^]]+)\]", text):
        parts.append([text[at : match.start()]])
        slot, kind, choice = match.groups()
        if slot:
            parts.append((slot, kind or KINDS.get(slot, slot)))
        elif "|" in choice:
            parts.append(choice.split("|"))
        else:
            words = synonyms[choice.lower()]
            parts.append([word.capitalize() for word in words] if choice[0].isupper() else words)
        at = match.end()
    return tuple(part for part in [*parts, [text[at:]]] if part != [""])


class Entities:
    """What fills the slots in one split. `draw(kind)` returns a value; lists are split, grammars are over the lists."""

    def __init__(self, split, rng):
        data = read_data("entities.json")
        own = data["unlabelled"] if split == "unlabelled" else {}
        self.split, self.rng = "train" if own else split, rng
        self.shared = data["shared"]
        self.pools = {name: own.get(name) or deal(pool, self.split) for name, pool in data["pools"].items()}
        self.pools |= self.shared
        self.grammars = {name: [parse_template(rule) for rule in rules] for name, rules in data["grammars"].items()}
        self.addresses = data["addresses"]

    def draw(self, kind):
        if kind == "address":
            return self._address()
        if kind in self.pools:
            return self.rng.choice(self.pools[kind])
        values = []
        for part in self.rng.choice(self.grammars[kind]):
            value = part[0] if isinstance(part, list) else self.draw(part[1])
            while isinstance(part, tuple) and value in values:  # "the difference between figs and figs"
                value = self.draw(part[1])
            values.append(value)
        return "".join(values)

    def _address(self):
        first, last = (_ascii(self.draw(kind)) for kind in ("first_name", "last_name"))
        number = self.rng.choice((self.rng.randrange(1, 100), self.rng.randrange(1950, 2010)))
        return self.rng.choice(self.addresses).format(
            first=first, last=last, f=first[0], n=number, plus=self.draw("plus"), domain=self.draw("domain"),
            mailbox=self.draw("mailbox"), work=self.draw("company") + "." + self.draw("tld"),
        )  # fmt: skip

    def numbers(self, slots, worded):
        """`({slot: as written}, {slot: digits}, operands)`: operands are dealt to the splits as a whole."""
        while True:
            digits = {slot: self._number(slot) for slot in slots}
            written = dict(digits)
            if worded:
                slot = self.rng.choice([slot for slot in slots if slot in "abcnm"])
                written[slot], digits[slot] = self.rng.choice(NUMBER_WORDS)
            operands = " ".join(sorted(digits.values()))
            if DEAL[zlib.crc32(operands.encode()) % len(DEAL)] == self.split:
                return written, digits, operands

    def _number(self, slot):
        rng = self.rng
        match slot:
            case "p":
                return str(rng.choice((rng.randrange(5, 100, 5), rng.randrange(1, 100))))
            case "k":
                return str(rng.randrange(2, 21))
            case "e":
                return str(rng.choice([e for e in deal(range(10), self.split) if e > 1]))
            case "s":
                return str(rng.choice((rng.randrange(2, 41) ** 2, rng.randrange(2, 200))))
            case "n":
                return str(rng.randrange(10, rng.choice((100, 1000))))
            case "m":
                return str(rng.randrange(2, 40))
        size = rng.choice((1, 1, 2, 2, 2, 3, 3, 4))
        if rng.random() < DECIMAL:
            return f"{rng.randrange(11, 1000) / 10:.1f}" if size < 3 else f"{rng.randrange(101, 10_000) / 100:.2f}"
        return str(rng.randrange(max(2, 10 ** (size - 1)), 10**size))


@functools.cache
def _ascii(name):
    return unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
