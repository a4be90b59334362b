"""Automata over the bytes of JSON text: nondeterministic ones to build, deterministic ones to run.

A pattern, a format, a number between bounds: each is built as an NFA by Thompson's construction (Thompson 1968)
and made deterministic by the subset construction, whose size is bounded, because a short pattern can ask for
exponentially many states.
"""

import functools
from collections import deque

import numpy as np

MAX_NFA_STATES, MAX_DFA_CELLS = 30_000, 500_000  # a cell: where one state goes with one class of bytes
MAX_SUBSETS = 3_000_000  # states of the Nfa, summed over those of the Dfa
BEGIN, END = 256, 257  # stand for `^` and `$`: read before the first byte and after the last


class TooLarge(ValueError):
    """An automaton over the bounds above."""


class Nfa:
    """Numbered states; `arrows[state]` are (lowest byte, highest byte, next state), `empty[state]` read nothing.

    partial: the states between the bytes of one character.
    """

    def __init__(self):
        self.arrows, self.empty, self.partial = [], [], set()

    def state(self):
        if len(self.arrows) >= MAX_NFA_STATES:
            raise TooLarge(f"an automaton of more than {MAX_NFA_STATES} states")
        self.arrows.append([])
        self.empty.append([])
        return len(self.arrows) - 1

    def byte(self, state, low, high=None):
        """The state after reading one byte from low to high."""
        after = self.state()
        self.arrows[state].append((low, low if high is None else high, after))
        return after

    def join(self, state, after):
        self.empty[state].append(after)

    def close(self, states):
        seen, stack = set(), list(states)
        while stack:
            state = stack.pop()
            if state not in seen:
                seen.add(state)
                stack.extend(self.empty[state])
        return frozenset(seen)

    def move(self, states, byte):
        arrows = (arrow for state in states for arrow in self.arrows[state])
        return {after for low, high, after in arrows if low <= byte <= high}

    def determinize(self, start, final):
        """The Dfa of the texts from `start` to `final`."""
        edges = {0} | {edge for arrows in self.arrows for low, high, _ in arrows for edge in (low, high + 1)}
        cuts = sorted(edge for edge in edges if edge < 256)
        classes = (np.searchsorted(cuts, np.arange(256), side="right") - 1).tolist()
        begin = self.close([start])
        begin = self.close(begin | self.move(begin, BEGIN))
        work = 0

        @functools.cache
        def closed(states):
            nonlocal work
            found = self.close(states)
            work += len(found)
            if work > MAX_SUBSETS:
                raise TooLarge(f"an automaton of sets of over {MAX_SUBSETS} states")
            return found

        def row_of(state):
            reached = [set() for _ in cuts]
            for low, high, after in (arrow for part in state for arrow in self.arrows[part]):
                if high < 256:
                    for i in range(classes[low], classes[high] + 1):
                        reached[i].add(after)
            return [closed(frozenset(states)) if states else None for states in reached]

        states, rows = explore(begin, row_of)
        accepting = [final in state or final in self.close(self.move(state, END)) for state in states]
        return Dfa(classes, rows, accepting, [self.partial.isdisjoint(state) for state in states])


def explore(start, row_of):
    """(the states of an automaton as they are met, for each a row of the numbers of those that follow, -1 for none).

    row_of(state): for each class of bytes the state after it, or None.
    """
    numbers, states, rows = {start: 0}, [start], []
    for state in states:  # which grows
        row = row_of(state)
        for after in row:
            if after is not None and after not in numbers:
                if (len(numbers) + 1) * len(row) > MAX_DFA_CELLS:
                    raise TooLarge(f"an automaton of more than {len(numbers)} states")
                numbers[after] = len(numbers)
                states.append(after)
        rows.append([numbers.get(after, -1) for after in row])
    return states, rows


class Dfa:
    """State 0 is the first; table[state, classes[byte]] is the next one, or -1.

    accepting: where a text may end. whole: where a character has ended. distance: bytes to the nearest end; states
    from which no end can be reached are not entered. toward: the byte that leads there. next(state): {byte: state
    after it}.
    """

    def __init__(self, classes, rows, accepting, whole=None):
        self.classes, self.table = np.asarray(classes), np.asarray(rows, dtype=np.int64)
        self.accepting = np.asarray(accepting, dtype=bool)
        self.whole = np.ones(len(rows), dtype=bool) if whole is None else np.asarray(whole, dtype=bool)
        self.distance, self.toward = self._distances()
        dead = [state for state, distance in enumerate(self.distance) if distance is None]
        self.table[np.isin(self.table, dead)] = -1
        self.next = functools.cache(self._next)

    def _next(self, state):
        following = enumerate(self.table[state, self.classes].tolist())
        return {byte: after for byte, after in following if after >= 0}

    def _distances(self):
        byte_of = [int(np.flatnonzero(self.classes == c)[0]) for c in range(self.table.shape[1])]
        backwards = [[] for _ in self.table]
        for state, row in enumerate(self.table.tolist()):
            for c, after in enumerate(row):
                if after >= 0:
                    backwards[after].append((state, byte_of[c]))
        distance = [0 if accepting else None for accepting in self.accepting]
        toward, queue = [None] * len(distance), deque(np.flatnonzero(self.accepting).tolist())
        while queue:
            after = queue.popleft()
            for state, byte in backwards[after]:
                if distance[state] is None:
                    distance[state], toward[state] = distance[after] + 1, byte
                    queue.append(state)
        return distance, toward

    @functools.cached_property
    def characters(self):
        """Whole characters on the way to the nearest end, by state; None if one that is farther in bytes has fewer."""
        count = np.zeros(len(self.distance), dtype=np.int64)
        for state in sorted(np.flatnonzero(~self.accepting), key=lambda state: self.distance[state] or 0):
            if self.distance[state]:
                after = self.next(state)[self.toward[state]]
                count[state] = count[after] + self.whole[after]
        shortcuts = (self.table >= 0) & (count[self.table] + self.whole[self.table] < count[:, None])
        return None if shortcuts.any() else count.tolist()

    @property
    def is_empty(self):
        return self.distance[0] is None

    def shortest(self, state):
        """The bytes of a shortest way from `state` to an end, each state always going the same way on."""
        text = []
        while self.distance[state]:
            text.append(self.toward[state])
            state = self.next(state)[text[-1]]
        return bytes(text)

    def accepts(self, data):
        state = 0
        for byte in data:
            state = self.next(state).get(byte)
            if state is None:
                return False
        return bool(self.accepting[state])


@functools.lru_cache(maxsize=256)
def with_mark(dfa):
    """The Dfa of what another accepts and the quotation mark after it; in JSON none ends there that is escaped."""
    states, width = dfa.table.shape
    used, classes = np.unique(np.where(np.arange(256) == ord('"'), width, dfa.classes), return_inverse=True)
    table = np.full((states + 1, width + 1), -1)
    table[:-1, :-1] = dfa.table
    table[:-1, -1] = np.where(dfa.accepting, states, dfa.table[:, dfa.classes[ord('"')]])
    return Dfa(classes, table[:, used], np.arange(states + 1) == states, np.append(dfa.whole, True))


def intersect(left, right):
    """The Dfa of the texts that both accept (the product construction)."""
    pairs, classes = np.unique(np.stack([left.classes, right.classes]), axis=1, return_inverse=True)

    def row_of(state):
        following = zip(left.table[state[0], pairs[0]].tolist(), right.table[state[1], pairs[1]].tolist(), strict=True)
        return [after if min(after) >= 0 else None for after in following]

    states, rows = explore((0, 0), row_of)
    one, two = np.array(states).T
    accepting, whole = left.accepting[one] & right.accepting[two], left.whole[one] & right.whole[two]
    return Dfa(classes.reshape(-1), rows, accepting, whole)
