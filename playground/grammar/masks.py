"""A grammar and a tokenizer -> masks over the vocabulary.

For each state of the text, and once only, the vocabulary is walked through the grammar. What is kept is, for each
frame that a token can lead to, the tokens that do. A mask is then a question to each of these frames: can the text
still be completed from there with the tokens that are left? So no mask ever leads to a dead end or to a text that
cannot be completed in time.

The walk is cheap because the vocabulary is sorted. Fixed text narrows it down to the few tokens that agree with it,
and what a string may hold is run through an automaton for all tokens at once, whose answer serves every string.
"""

import functools

import torch

from playground.grammar import spans
from playground.grammar.frames import Frames, TooManyWays, shortest_text
from playground.grammar.nodes import INFINITE, Key, Scan, Text
from playground.grammar.schema import build
from playground.grammar.unsupported import UnsupportedSchema
from playground.grammar.vocabulary import vocabulary_of

MAX_STATES, MAX_KEPT = 2_000, 100_000_000  # kept with their masks; tokens in those masks
LONG = 20_000  # bytes; what is longer is not spelled out to count its tokens
MAX_FORCED = 2_000  # bytes


class BudgetTooSmall(ValueError):
    """Fewer tokens than the shortest text in the grammar needs."""


def compile_schema(schema, tokenizer, leading_space=False):
    """The Grammar of the canonical JSON texts that `schema` allows; with leading_space, one comes before.

    Raises UnsupportedSchema, naming the place and the keyword.
    """
    try:
        vocabulary = vocabulary_of(tokenizer)
        return Grammar(build(schema, vocabulary), vocabulary, leading_space)
    except TooManyWays as error:
        raise UnsupportedSchema("", f"a schema whose text can begin in so many ways ({error})") from None


class Grammar:
    """A compiled schema. matcher() begins a text; grounded(request) is the grammar for one request."""

    def __init__(self, root, vocabulary, leading_space=False, sharing=None):
        """sharing: the Grammar of which this one has most nodes, and so what has been found out about them."""
        self.root, self.vocabulary, self.leading_space = root, vocabulary, leading_space
        self.frames = sharing.frames if sharing else Frames()
        kept = min(MAX_STATES, MAX_KEPT // len(vocabulary.token_bytes))
        # The State of a set of ready frames.
        self.state = sharing.state if sharing else functools.lru_cache(kept)(functools.partial(State, self))
        nodes = (Text(b" "), root) if leading_space else (root,)
        self.start = self.state(self.frames.ready([self.frames.push(nodes, self.frames.end)]))

    def matcher(self):
        return Matcher(self)

    @functools.cached_property
    def _copied(self):
        return spans.holders(self.root)

    def grounded(self, request):
        """The Grammar in which values that the schema says are copied from the request (a text) are spans of it.

        An object is ruled out if one of its required values has no span in the request. Where the schema allows no
        other, it is this Grammar.
        """
        if not self._copied:
            return self
        root = spans.ground(self.root, self._copied, spans.Request(request, self.vocabulary))
        return Grammar(root, self.vocabulary, self.leading_space, self) if root.size < INFINITE else self

    def tokens_missing(self, frame):
        """Tokens that suffice to complete a text from a frame: those of the shortest way."""
        return self.vocabulary.fewest_tokens(shortest_text(frame)) if frame.missing < LONG else frame.missing

    def walk(self, frames):
        """[(frame, ids)]: the tokens that lead from ready frames to each frame, which need not be ready itself."""
        found, stack = {}, [(frame, self.vocabulary.everything) for frame in frames if frame is not self.frames.end]
        while stack:
            frame, tokens = stack.pop()
            read = self._read_at_once if isinstance(frame.node, (Scan, Key)) else self._read_bytes
            for after, ids in read(frame, tokens, stack):
                found.setdefault(after, []).append(ids)
        if self.frames.end in frames:
            found[self.frames.end] = [[self.vocabulary.eos_token_id]]
        return [(frame, torch.cat([torch.as_tensor(part) for part in ids])) for frame, ids in found.items()]

    def _read_bytes(self, frame, tokens, stack):
        """Yield (frame, ids) of the tokens that end within a Text or a Span; those that go on after it are stacked."""
        walked = [(frame.node, tokens)]
        while walked:
            node, tokens = walked.pop()
            for byte in node.bytes_after():
                ids, rest = self.vocabulary.ended(self.vocabulary.child(tokens, byte))
                after = node.step(byte) if len(ids) or rest[0] < rest[1] else None
                if len(ids):
                    yield self.frames.push((after,), frame.below), ids
                if rest[0] < rest[1]:
                    walked.append((after, rest))
                    if after.ends() is not None:
                        stack.extend((then, rest) for then in self.frames.ready([frame.below]) if then.node)

    def _read_at_once(self, frame, tokens, stack):
        """The same of a Scan or a Key, for all tokens at once."""
        node = frame.node
        after_it = self.frames.ready([self.frames.push(node.then, frame.below)])
        firsts = frozenset(byte for after in after_it if after.node for byte in after.node.bytes_after())
        inside, exits = self.vocabulary.scan(node.dfa, node.state, tokens, firsts)
        for state, characters, ids in inside:
            after = node.advance(state, characters)
            if after is not None:
                yield self.frames.push((after,), frame.below), ids
        for characters, rest in exits:
            if isinstance(node, Key) or (node.low <= characters and (node.high is None or characters <= node.high)):
                stack.extend((after, rest) for after in after_it if after.node)


class State:
    """Where a text can stand, with its masks."""

    def __init__(self, grammar, frames):
        self.grammar, self.frames = grammar, frames
        self.is_complete, self.only_end = grammar.frames.end in frames, frames == {grammar.frames.end}
        self.most_missing = max(frame.missing for frame in frames)
        self.stable = None  # jump.py keeps here what it finds out
        self._masks = {}

    @functools.cached_property
    def tokens_missing(self):
        return min(map(self.grammar.tokens_missing, self.frames))

    @functools.cached_property
    def _groups(self):
        return self.grammar.walk(self.frames)

    @functools.cached_property
    def _most_after(self):
        return max((frame.missing for frame, _ in self._groups), default=0)

    def mask(self, tokens_left):
        """(allowed, forbidden): bool tensors over the vocabulary. After an allowed token, one fewer must suffice."""
        left = min(tokens_left - 1, self._most_after)  # bytes suffice: each has a token of its own
        if left not in self._masks:
            if len(self._masks) > 64:
                self._masks.clear()
            mask = torch.zeros(len(self.grammar.vocabulary.token_bytes), dtype=torch.bool)
            for frame, ids in self._groups:
                if frame.missing <= left or self.grammar.tokens_missing(frame) <= left:
                    mask[ids] = True
            self._masks[left] = mask, ~mask
        return self._masks[left]

    @functools.cached_property
    def ahead(self):
        """(the bytes that are the only way on, the set of bytes that may follow them)."""
        text, frames, end = bytearray(), self.frames, self.grammar.frames.end
        while True:
            following = {byte for frame in frames if frame.node for byte in frame.node.bytes_after()}
            if end in frames or len(following) != 1 or len(text) == MAX_FORCED:
                return bytes(text), following
            text.append(*following)
            frames = self.grammar.frames.step(frames, text[-1])


class Matcher:
    """Where one text stands in a grammar."""

    def __init__(self, grammar):
        self.grammar, self.state = grammar, grammar.start

    @property
    def is_complete(self):
        """Whether the text may end here."""
        return self.state.is_complete

    @property
    def min_tokens_to_complete(self):
        """With so many tokens, not counting one for the end of the sequence, the text can be completed."""
        return self.state.tokens_missing

    def forced(self):
        """The text that is the only way on; "" where there is a choice or the text may end."""
        return self.state.ahead[0].decode("utf-8", errors="ignore")

    def mask(self, tokens_left):
        """Bool tensor over the vocabulary: the tokens after which the text can still be completed in time.

        Not a copy: it must not be written to. Raises BudgetTooSmall where not even the shortest text fits, which only
        a first call can meet.
        """
        return self._masks(tokens_left)[0]

    def forbidden(self, tokens_left):
        """The opposite of mask(), ready for `logits.masked_fill_`."""
        return self._masks(tokens_left)[1]

    def _masks(self, tokens_left):
        if tokens_left <= self.state.most_missing and self.min_tokens_to_complete > tokens_left:
            raise BudgetTooSmall(
                f"a valid text needs {self.min_tokens_to_complete} tokens, and only {tokens_left} are left"
            )
        return self.state.mask(tokens_left)

    def accept(self, token_id):
        """Move on by one token. Raises ValueError for one that the grammar does not allow here."""
        known = self.grammar.vocabulary.token_bytes
        data = known[token_id] if token_id < len(known) else None
        if not data:
            raise ValueError(f"token {token_id} is special: it stands in no text")
        frames = self.state.frames
        for byte in data:
            frames = self.grammar.frames.step(frames, byte)
            if not frames:
                raise ValueError(f"token {token_id} ({data!r}) is not allowed here")
        self.state = self.grammar.state(frames)
