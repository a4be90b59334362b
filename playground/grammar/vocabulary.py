"""A tokenizer's vocabulary as bytes, sorted, so that all tokens that begin alike stand together."""

import functools
import itertools
import math

import numpy as np
from transformers.convert_slow_tokenizer import bytes_to_unicode

from playground.grammar.dfa import Dfa, intersect
from playground.grammar.patterns import any_string, strings_of

SHORT = 48  # bytes
TEXT_BYTES = [*range(0x20, 0xC0), *range(0xC2, 0xF5)]  # all that stand in canonical JSON


class Vocabulary:
    """The bytes of every token.

    A *range* (low, high, depth) stands for the tokens low to high of the sorted list, which share their first
    `depth` bytes: what a node of a trie would be, without the trie. `everything` is the range of them all.
    """

    def __init__(self, token_bytes, eos_token_id):
        self.token_bytes, self.eos_token_id = token_bytes, eos_token_id  # None for special tokens
        spelled = sorted((data, token_id) for token_id, data in enumerate(token_bytes) if data)
        self.sorted = [data for data, _ in spelled]
        self.ids = np.array([token_id for _, token_id in spelled], dtype=np.int64)
        self.lengths = np.array(list(map(len, self.sorted)), dtype=np.int64)
        self.longest = int(self.lengths.max())
        # Column by column in memory: `child` searches in one, and numpy would copy it otherwise.
        self.matrix = np.zeros((len(spelled), self.longest), dtype=np.uint8, order="F")
        rows = np.repeat(np.arange(len(spelled)), self.lengths)
        columns = np.arange(len(rows)) - np.repeat(self.lengths.cumsum() - self.lengths, self.lengths)
        self.matrix[rows, columns] = np.frombuffer(b"".join(self.sorted), dtype=np.uint8)
        self.known = set(self.sorted)
        self.everything = (0, len(spelled), 0)
        self._long = {}
        self.missing = {byte for byte in TEXT_BYTES if bytes([byte]) not in self.known}

    @functools.cached_property
    def spellable(self):
        """The Dfa of the strings that tokens can spell, however they are begun; None where that is every string.

        A tokenizer may lack the bytes that its training texts lacked, or know characters only. Each character of these
        strings is a token or has a token for each of its bytes, so as many tokens as bytes are always enough.
        """
        if not self.missing:
            return None
        if any(not _is_text(data) for data in self.sorted):  # bytes are tokens, though not all of them
            known = [byte not in self.missing for byte in range(256)]
            return intersect(any_string(), Dfa(known, [[-1, 0]], [True]))
        characters = {data.decode() for data in self.sorted if len(data.decode()) == 1}
        return strings_of(frozenset(characters))

    def spells(self, data):
        """Whether any text that holds the bytes `data` can be spelled, whatever token has begun it."""
        if self.missing.isdisjoint(data):
            return True
        return self.spellable.accepts(data.replace(b"\\", b"\\\\").replace(b'"', b'\\"'))

    def ended(self, tokens):
        """(ids of the tokens of a range that have no further byte, the range of the others)."""
        low, high, depth = tokens
        after = low
        while after < high and self.lengths[after] == depth:
            after += 1
        return self.ids[low:after], (after, high, depth)

    def child(self, tokens, byte):
        """The tokens of a range, all of them longer than its depth, that go on with `byte`."""
        low, high, depth = tokens
        column, byte = self.matrix[low:high, depth], np.uint8(byte)
        return low + int(column.searchsorted(byte)), low + int(column.searchsorted(byte, "right")), depth + 1

    @functools.lru_cache(maxsize=2000)  # noqa: B019 - a vocabulary lives as long as the program
    def scan(self, dfa, state, tokens, firsts):
        """Run all tokens of a range through a DFA at once. Returns (inside, exits).

        inside: [(state after, ends passed, ids)], the tokens that the DFA reads to their ends, and how often it
        could have stopped on the way (for the DFA of any string: how many characters it read).
        exits: [(ends passed, range)], where it may stop in the middle of tokens that go on with a byte in `firsts`.
        """
        low, high, begin = tokens
        lengths, matrix = self.lengths[low:high], self.matrix[low:high]
        states, counts = np.full(high - low, state), np.zeros(high - low, dtype=np.int64)
        wanted = np.isin(np.arange(256), list(firsts))
        rows, depth, exits = np.flatnonzero(lengths > begin), begin, []
        while len(rows):
            before, following = states[rows], matrix[rows, depth]
            if depth > begin:
                leaving = rows[dfa.accepting[before] & wanted[following]].tolist()
                exits += self._ranges(leaving, counts, low, depth)
            after = dfa.table[before, dfa.classes[following]]
            states[rows] = after
            rows, after = rows[after >= 0], after[after >= 0]
            counts[rows] += dfa.whole[after]
            depth += 1
            rows = rows[lengths[rows] > depth]
        read = np.flatnonzero(states >= 0)
        keys = states[read] * (self.longest + 1) + counts[read]
        order = np.argsort(keys, kind="stable")
        keys, begins = np.unique(keys[order], return_index=True)
        members = np.split(self.ids[low + read[order]], begins[1:])
        # Of no tokens at all, `split` makes one part.
        inside = [(*divmod(int(key), self.longest + 1), ids) for key, ids in zip(keys, members, strict=False)]
        return inside, exits

    def _ranges(self, rows, counts, low, depth):
        """[(ends passed, range)] of rows, counted from `low`, that are alike up to `depth`."""
        for _, alike in itertools.groupby(rows, key=lambda row: self.sorted[low + row][:depth]):
            alike = list(alike)
            yield int(counts[alike[0]]), (low + alike[0], low + alike[-1] + 1, depth)

    def fewest_tokens(self, text):
        """The fewest tokens that spell `text` (bytes)."""
        if len(text) <= SHORT:
            return self._fewest(text)[0]
        # Most are the end of a text that was asked for before, when less of it had been written.
        known = next((before for before in self._long if before.endswith(text)), None)
        if known is None:
            self._long[text], known = self._fewest(text), text
            if len(self._long) > 32:
                self._long.pop(next(iter(self._long)))
        return self._long[known][len(known) - len(text)]

    @functools.lru_cache(maxsize=10_000)  # noqa: B019 - a vocabulary lives as long as the program
    def _fewest(self, text):
        """[fewest tokens that spell text[i:]]: one more than that of where a token ends."""
        longest = min(self.longest, 48)
        fewest = [0] * (len(text) + 1)
        for begin in range(len(text) - 1, -1, -1):
            ends = range(begin + 1, min(begin + longest, len(text)) + 1)
            fewest[begin] = 1 + min((fewest[end] for end in ends if text[begin:end] in self.known), default=math.inf)
        return fewest


@functools.lru_cache(maxsize=8)
def vocabulary_of(tokenizer):
    """The Vocabulary of a Hugging Face tokenizer: byte-level BPE (GPT-2, Llama 3), Metaspace (Llama 2), WordPiece.

    Special tokens have no bytes: they stand in no text.
    """
    special = set(tokenizer.all_special_ids) | {
        token_id for token_id, token in getattr(tokenizer, "added_tokens_decoder", {}).items() if token.special
    }
    tokens = tokenizer.get_vocab()
    read = _metaspace
    if "<0x0A>" not in tokens:  # with those of Metaspace, "Ġ" is a letter
        read = _byte_level if "Ġ" in tokens else _word_piece if "##s" in tokens else _metaspace
    token_bytes = [None] * (max(tokens.values()) + 1)
    for token, token_id in tokens.items():
        if token_id not in special:
            token_bytes[token_id] = read(token)
    return Vocabulary(token_bytes, tokenizer.eos_token_id)


def _is_text(data):
    try:
        return bool(data.decode())
    except UnicodeDecodeError:
        return False


def _metaspace(token):
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace("▁", " ").encode("utf-8")


def _word_piece(token):
    return token[2:].encode() if token.startswith("##") else f" {token}".encode()


BYTE_OF = {character: byte for byte, character in bytes_to_unicode().items()}  # GPT-2's stand-ins for the 256 bytes


def _byte_level(token):
    try:
        return bytes(BYTE_OF[character] for character in token)
    except KeyError:  # a token that was added as it reads
        return token.encode()
