"""Values that are copied from a request: any words of it, from a word's start to a word's end.

An argument whose schema says `"x-from": "request"` may be any such *span* that also meets the keywords beside it. What
may come next is read off the request itself: the spans that agree with the text so far are known by where they start,
as in a suffix trie of which only the part is made that is walked.
"""

import functools
import re
import unicodedata
from bisect import bisect_left, bisect_right
from itertools import accumulate

from playground.grammar.frames import measure, users_of
from playground.grammar.nodes import NEVER, Copied, Reader, Rule
from playground.grammar.patterns import written

JOINERS = set(".@_-+'’&%")  # stand inside words; other marks part them
MAX_PATTERNED = 500  # bytes of a span that has to meet a pattern: each is tried
# Scripts without spaces between words: each of their characters may be one.
UNSPACED = [(0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x31F0, 0x31FF),
            (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xFF66, 0xFF9D), (0x20000, 0x3FFFF)]  # fmt: skip


@functools.lru_cache(maxsize=100_000)
def _kind(character):
    """A character's kind, as a letter."""
    if character.isspace():
        return " "
    if unicodedata.category(character)[0] == "M":
        return "a"  # an accent belongs to the character before it
    if character.isalnum():
        return "s" if any(low <= ord(character) <= high for low, high in UNSPACED) else "l"  # a sign; a letter or digit
    return "j" if character in JOINERS else "m"  # a joiner, or another mark


# After a space; at a letter that nothing joins to one before it; at each sign, and at the letter after one.
STARTS = [
    re.compile(f"(?:^|(?<=[{before}]))(?=[{skipped}]*([{first}]))")
    for before, skipped, first in ((" ", "a", "jlms"), (" ms", "aj", "ls"))
] + [re.compile("(s)")]
POSSESSIVE = re.compile(r"(?<=\w)['’][sS](?!\w)")


def _starts(kinds):
    """Where words start."""
    return sorted({match.start(1) for pattern in STARTS for match in pattern.finditer(kinds)})


def _ends(text, kinds):
    """Where words end: the mirror image, and before the 's of a possessive."""
    length = len(text)
    # A letter's accents come before it now; they are not to be parted from it.
    found = {length - i for i in _starts(kinds[::-1])} | {match.start() for match in POSSESSIVE.finditer(text)}
    while parted := {end for end in found if end < length and kinds[end] == "a"}:
        found = found - parted | {end + 1 for end in parted}
    return sorted(found)


class Request:
    """A request's words, from which `Copied` nodes make the spans that they allow.

    Its lines hold spans of their own; runs of spaces count as one space.
    """

    def __init__(self, text, vocabulary):
        text = "\n".join(" ".join(line.split()) for line in text.splitlines())
        text = text.encode("utf-8", "replace").decode()  # half of a surrogate pair stands in no token
        kinds, data = "".join(map(_kind, text)), [written(c) for c in text]
        self.data = b"".join(data)
        self.offsets = [0, *accumulate(map(len, data))]  # of characters, in bytes
        self.starts, self.ends = _starts(kinds), _ends(text, kinds)
        self.end_offsets = [self.offsets[end] for end in self.ends]
        apart = {c for c in set(text) if c == "\n" or not vocabulary.spells(written(c))}
        self.barriers = [i for i, c in enumerate(text) if c in apart]
        self.barriers.append(len(text))
        self.spaces = [i for i, kind in enumerate(kinds) if kind == " "]

    @functools.cached_property
    def every_span(self):
        return self.spans()

    def has(self, text):
        """Whether a JSON text (bytes) is a span; of a string, what stands between its quotation marks."""
        span = self.every_span
        for byte in text[1:-1] if text[:1] == b'"' else text:
            span = span and span.step(byte)
        return bool(span and span.ends() is not None)

    def spans(self, dfa=None, low=1, high=None, words=None):
        """A Span of those of `low` to `high` characters and at most so many words that a Dfa accepts; None of none."""
        stops = {}
        for start in self.starts:
            last = self.barriers[bisect_left(self.barriers, start)]
            last = last if high is None else min(last, start + high)
            if words is not None:
                nth = bisect_left(self.spaces, start) + words - 1
                last = min(last, self.spaces[nth]) if nth < len(self.spaces) else last
            begin, end = bisect_left(self.ends, start + max(low, 1)), bisect_right(self.ends, last)
            if begin < end:
                stops[self.offsets[start]] = (self.end_offsets, begin, end)
        if dfa is not None:
            stops = {start: found for start, stop in stops.items() if (found := self._accepted(dfa, start, *stop))}
        return Span(self.data, stops, tuple(stops), 0) if stops else None

    def _accepted(self, dfa, start, ends, begin, end):
        """Of the places at which a span from `start` may stop, those where the Dfa does; None if there are none."""
        found, state, wanted = [], 0, set(ends[begin:end])
        for offset in range(start, min(ends[end - 1], start + MAX_PATTERNED)):
            state = dfa.next(state).get(self.data[offset])
            if state is None:
                break
            if dfa.accepting[state] and offset + 1 in wanted:
                found.append(offset + 1)
        return (found, 0, len(found)) if found else None


class Span(Reader):
    """Reads one of the spans that start at `members` and agree in the `read` bytes so far.

    stops: {start: (sorted ends, first, last)}, the ends at which a span from there may stop being ends[first:last].
    """

    def __init__(self, data, stops, members, read):
        self.data, self.stops, self.members, self.read = data, stops, members, read
        self.shortest, self._can_end, self._following, self._after = None, False, {}, {}
        for start in members:
            ends, first, last = stops[start]
            here = start + read
            i = bisect_left(ends, here, first, last)
            if i < last and ends[i] == here:
                self._can_end, self.shortest, i = True, b"", i + 1
            if i < last:
                self._following.setdefault(data[here], []).append(start)
                if self.shortest is None or ends[i] - here < len(self.shortest):
                    self.shortest = data[here : ends[i]]
        self.size = len(self.shortest)

    def step(self, byte):
        if byte not in self._after:
            starts = self._following.get(byte)
            self._after[byte] = Span(self.data, self.stops, tuple(starts), self.read + 1) if starts else None
        return self._after[byte]

    def ends(self):
        return () if self._can_end else None

    def bytes_after(self):
        return self._following


# ---- the Copied nodes of a grammar


def ground(root, copied, request):
    """`root` for a Request: its Copied nodes and those that hold them, `copied`, are made anew, the rest is shared."""
    made = {}

    def anew(node):
        if node not in copied:
            return node
        if node not in made:
            if isinstance(node, Rule):  # first, because it may hold itself
                made[node] = Rule()
                made[node].define(anew(node.parts[0]))
            elif isinstance(node, Copied):
                made[node] = node.find(request) or NEVER
            else:
                made[node] = node.with_parts(map(anew, node.parts))
        return made[node]

    root = anew(root)
    measure(root, set(made.values()))
    return root


def holders(root):
    """The Copied nodes under `root` and all nodes that hold one."""
    users = users_of(root)
    found = {node for node in users if isinstance(node, Copied)}
    stack = list(found)
    while stack:
        new = set(users[stack.pop()]) - found
        found |= new
        stack += new
    return found
