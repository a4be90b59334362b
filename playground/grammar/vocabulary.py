"""A tokenizer's vocabulary as bytes, sorted, so that all tokens that begin alike stand together."""

import functools

import numpy as np

from playground.grammar.dfa import without
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
        # How many first bytes each token shares with the one before it.
        differs = np.ones((len(spelled), self.longest + 1), dtype=bool)
        differs[1:, :-1] = self.matrix[1:] != self.matrix[:-1]
        self.shared = np.minimum(differs.argmax(axis=1), np.minimum(self.lengths, np.roll(self.lengths, 1)))
        self.shared[:1] = 0
        self.known = set(self.sorted)
        self.everything = (0, len(spelled), 0)
        self._scans, self._long = {}, {}
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
            return without(any_string(), frozenset(self.missing))
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

    def scan(self, dfa, state, tokens, firsts):
        """Run all tokens of a range through a DFA at once. Returns (inside, exits).

        inside: [(state after, ends passed, ids)], the tokens that the DFA reads to their ends, and how often it
        could have stopped on the way (for the DFA of any string: how many characters it read).
        exits: [(ends passed, range)], where it may stop in the middle of tokens that go on with a byte in `firsts`.
        """
        key = (dfa, state, tokens, firsts)
        if key not in self._scans:
            if len(self._scans) > 2000:
                self._scans.clear()
            self._scans[key] = self._scan(*key)
        return self._scans[key]

    def _scan(self, dfa, state, tokens, firsts):
        low, high, depth = tokens
        rows = np.arange(low, high)
        states, counts = np.full(len(rows), state), np.zeros(len(rows), dtype=np.int64)
        wanted = np.isin(np.arange(256), list(firsts))
        ends, exits, begin = [], [], depth
        while len(rows):
            done = self.lengths[rows] == depth
            ends.append((states[done] * (self.longest + 1) + counts[done], rows[done]))
            rows, states, counts = rows[~done], states[~done], counts[~done]
            if not len(rows):
                break
            following = self.matrix[rows, depth]
            if depth > begin:
                leaving = np.flatnonzero(dfa.accepting[states] & wanted[following])
                exits += self._ranges(rows[leaving], counts[leaving], depth)
            states = dfa.table[states, dfa.classes[following]]
            alive = states >= 0
            rows, states = rows[alive], states[alive]
            counts = counts[alive] + dfa.whole[states]
            depth += 1
        if not any(len(keys) for keys, _ in ends):
            return [], exits
        keys, found = (np.concatenate(column) for column in zip(*ends, strict=True))
        unique, place = np.unique(keys, return_inverse=True)
        members = np.split(found[np.argsort(place, kind="stable")], np.cumsum(np.bincount(place))[:-1])
        inside = [
            (*divmod(int(key), self.longest + 1), self.ids[rows]) for key, rows in zip(unique, members, strict=True)
        ]
        return inside, exits

    def _ranges(self, rows, counts, depth):
        """[(ends passed, range)] of rows that are alike up to `depth`."""
        ranges, begin = [], 0
        for i in range(1, len(rows) + 1):
            if i == len(rows) or rows[i] != rows[i - 1] + 1 or self.shared[rows[i]] < depth:
                ranges.append((int(counts[begin]), (int(rows[begin]), int(rows[i - 1]) + 1, depth)))
                begin = i
        return ranges

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
            fewest[begin] = 1 + min(fewest[end] for end in ends if text[begin:end] in self.known)
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


def _byte_level(token):
    try:
        return token.translate(_BYTE_OF).encode("latin-1")
    except UnicodeEncodeError:  # a token that was added as it reads
        return token.encode()


def _byte_of_character():
    """GPT-2's printable stand-ins for the 256 bytes, backwards (github.com/openai/gpt-2, encoder.py)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    stand_for_nothing = dict.fromkeys(others, 0xFFFF)  # what Latin-1 cannot encode
    return stand_for_nothing | {byte: byte for byte in printable} | {256 + i: byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_of_character()
