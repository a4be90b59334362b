"""Names of properties -> the automaton of all other names."""

import functools

from playground.grammar.dfa import MAX_DFA_CELLS, Dfa, TooLarge, intersect, with_mark


@functools.lru_cache(maxsize=100)
def names_but(taken, names):
    """The Dfa of `names` (a Dfa) and a closing quotation mark, but for those in `taken` (bytes, with their marks)."""
    if not fits(taken, names):
        raise TooLarge("an open object whose properties' names are so many or so long")
    arrows, ends = [{}], set()  # a trie
    for name in sorted(taken):
        state = 0
        for byte in name:
            if byte not in arrows[state]:
                arrows[state][byte] = len(arrows)
                arrows.append({})
            state = arrows[state][byte]
        ends.add(state)
    used, free = sorted({byte for name in taken for byte in name}), len(arrows)
    classes = [used.index(byte) + 1 if byte in used else 0 for byte in range(256)]
    rows = [[free, *(following.get(byte, free) for byte in used)] for following in arrows]
    others = Dfa(classes, [*rows, [free] * (len(used) + 1)], [state not in ends for state in range(free + 1)])
    return intersect(with_mark(names), others)


def fits(taken, names):
    """Whether the automaton of all names but these stays under its bound."""
    states = with_mark(names).table.shape
    return (sum(map(len, taken)) + states[0] + 1) * (len(set(b"".join(taken))) + states[1]) < MAX_DFA_CELLS
