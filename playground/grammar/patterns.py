"""Regular expressions (JSON Schema's `pattern`) -> automata over the bytes of JSON strings.

A schema's patterns are ECMA 262's, found anywhere in the string unless `^` and `$` say otherwise. Python's own
parser reads them; what the two languages understand differently is read as the narrower of the two: `\\d`, `\\w`
and `\\s` are ASCII, a dot is no line end, `$` is the very end. Look-around and back-references are not regular and
are refused.
"""

import functools
import json
import re
import warnings
from re import _parser as sre_parser  # what `re` itself uses; private, but unchanged since Python 3.11

import numpy as np

from playground.grammar.dfa import BEGIN, END, MAX_DFA_CELLS, Dfa, Nfa, TooLarge

LAST = 0x10FFFF
SURROGATES = (0xD800, 0xDFFF)  # no UTF-8 encodes them
LINE_ENDS = [(10, 10), (13, 13), (0x2028, 0x2029)]
ASCII_SPACES = [(9, 13), (32, 32)]
SPACES = [*ASCII_SPACES, (0x1C, 0x1F), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A)]
SPACES += [(0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)]
WORD = [(48, 57), (65, 90), (95, 95), (97, 122)]
# What every dialect counts among them, and what any does.
CATEGORIES = {
    "DIGIT": ([(48, 57)], [(48, 57), (0x80, LAST)]),
    "SPACE": (ASCII_SPACES, SPACES),
    "WORD": (WORD, [*WORD, (0x80, LAST)]),
}


class UnsupportedPattern(ValueError):
    """Not regular, or not understood."""


@functools.lru_cache(maxsize=256)
def pattern_dfa(pattern, whole=False):
    """The Dfa of what may stand between the quotation marks of a JSON string in which `pattern` is found.

    whole: the pattern is all of the string, and has no anchors of its own. Raises UnsupportedPattern or dfa.TooLarge.
    """
    nfa = Nfa()
    start, begin, end, final = (nfa.state() for _ in range(4))
    nfa.join(start, begin)
    nfa.join(end, final)
    if not whole:
        before = nfa.state()
        nfa.arrows[start].append((BEGIN, BEGIN, before))
        nfa.arrows[end].append((END, END, final))
        nfa.join(before, begin)
        for anything in (before, end):
            nfa.join(_character(nfa, anything, _complement([])), anything)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Python warns of sets that it may read differently some day
            tree = sre_parser.parse(pattern)
        if tree.state.flags & ~re.UNICODE:
            raise UnsupportedPattern("flags in a pattern")
        nfa.join(_sequence(nfa, begin, tree), end)
    except UnsupportedPattern:
        raise
    except (ValueError, OverflowError, RecursionError, Warning, sre_parser.error) as error:
        raise UnsupportedPattern(str(error) or type(error).__name__) from None
    return nfa.determinize(start, final)


@functools.cache
def any_string():
    """The Dfa of any string's content; it may end after each whole character, and only there."""
    nfa = Nfa()
    start = nfa.state()
    nfa.join(_character(nfa, start, _complement([])), start)
    return nfa.determinize(start, start)


@functools.lru_cache(maxsize=8)
def strings_of(characters):
    """The Dfa of strings of ASCII and these characters, as far as the characters can write them in JSON."""
    arrows = [{}]  # a trie whose leaves are its root
    for character in {*map(chr, range(0x80)), *characters}:
        if characters.issuperset(written(character).decode()):
            *before, last = written(character)
            state = 0
            for byte in before:
                if byte not in arrows[state]:
                    arrows[state][byte] = len(arrows)
                    arrows.append({})
                state = arrows[state][byte]
            arrows[state][last] = 0
    rows = [[following.get(byte, -1) for byte in range(256)] for following in arrows]
    is_root = np.arange(len(rows)) == 0
    return Dfa(np.arange(256), rows, is_root, is_root)


@functools.lru_cache(maxsize=256)
def length_dfa(low, high):
    """The Dfa of strings of low to high (None: no bound) characters: that of any string, once for each count."""
    one = any_string()
    size, most = len(one.table), low if high is None else high
    if one.table.size * (most + 1) > 2 * MAX_DFA_CELLS:
        raise TooLarge(f"a length of {most} beside a pattern or a format")
    rows, accepting, whole = [], [], np.tile(one.whole, most + 1)
    for count in range(most + 1):
        after = np.minimum(count + one.accepting[one.table], most + (high is not None))  # a last one, that is cut off
        known = (one.table >= 0) & (after <= most)
        rows.append(np.where(known, one.table + size * after, -1))
        accepting.append(one.accepting & (count >= low))
    return Dfa(one.classes, np.concatenate(rows), np.concatenate(accepting), whole)


def _sequence(nfa, state, items):
    for op, argument in items:
        state = _piece(nfa, state, str(op), argument)
    return state


def _piece(nfa, state, op, argument):
    match op:
        case "LITERAL" | "NOT_LITERAL" | "ANY" | "IN":
            return _character(nfa, state, _ranges(op, argument))
        case "BRANCH":
            after = nfa.state()
            for branch in argument[1]:
                nfa.join(_sequence(nfa, state, branch), after)
            return after
        case "SUBPATTERN":
            _, add_flags, del_flags, items = argument
            if add_flags or del_flags:
                raise UnsupportedPattern("flags in a pattern")
            return _sequence(nfa, state, items)
        case "MAX_REPEAT" | "MIN_REPEAT":  # greedy or not, the same texts match
            return _repeat(nfa, state, *argument)
        case "AT" if str(argument) in ("AT_BEGINNING", "AT_END"):
            return nfa.byte(state, BEGIN if str(argument) == "AT_BEGINNING" else END)
    raise UnsupportedPattern(f"{op.lower().replace('_', ' ')} in a pattern")


def _repeat(nfa, state, low, high, items):
    for _ in range(low):
        before, state = state, _sequence(nfa, state, items)
        if state == before:  # nothing to repeat: no need to do so a billion times
            return state
    after = nfa.state()
    nfa.join(state, after)
    if high is sre_parser.MAXREPEAT:
        loop = nfa.state()
        nfa.join(state, loop)
        nfa.join(_sequence(nfa, loop, items), loop)
        nfa.join(loop, after)
        return after
    for _ in range(high - low):
        before, state = state, _sequence(nfa, state, items)
        if state == before:
            break
        nfa.join(state, after)
    return after


# ---- sets of characters, as sorted ranges of code points


def _ranges(op, argument):
    if op == "ANY":
        return _complement(LINE_ENDS)
    items = argument if op == "IN" else [("LITERAL", argument)]
    found, negated = [], op == "NOT_LITERAL"
    for kind, value in items:
        match str(kind):
            case "NEGATE":
                negated = True
            case "LITERAL":
                found.append((value, value))
            case "RANGE":
                found.append(value)
            case "CATEGORY":
                name = str(value).removeprefix("CATEGORY_")
                found += _category(name.removeprefix("NOT_"), name.startswith("NOT_"), negated)
            case other:
                raise UnsupportedPattern(f"{other.lower()} in a set")
    return _complement(found) if negated else _complement(_complement(found))  # twice: sorted and without overlaps


def _category(name, negated_name, negated_set):
    """A class such as \\w or \\W. In a negated set the widest reading leaves the narrowest set."""
    narrow, wide = CATEGORIES[name]
    if negated_name:
        narrow, wide = _complement(wide), _complement(narrow)
    return wide if negated_set else narrow


def _complement(ranges):
    """All other characters, but for surrogates, which are none."""
    found, begin = [], 0
    for low, high in sorted([*ranges, SURROGATES]):
        if low > begin:
            found.append((begin, low - 1))
        begin = max(begin, high + 1)
    return [*found, (begin, LAST)] if begin <= LAST else found


# ---- a character as the bytes of a JSON string


@functools.lru_cache(maxsize=100_000)
def written(character):
    """The bytes that json.dumps(..., ensure_ascii=False) writes for a character."""
    return json.dumps(character, ensure_ascii=False)[1:-1].encode()


def _character(nfa, state, ranges):
    after = nfa.state()
    for low, high in ranges:
        for code in range(low, min(high, 0x7F) + 1):
            _path(nfa, state, [(byte, byte) for byte in written(chr(code))], after)
        for path in utf8_ranges(max(low, 0x80), high):
            _path(nfa, state, path, after)
    return after


def _path(nfa, state, path, after):
    for low, high in path[:-1]:
        state = nfa.byte(state, low, high)
        nfa.partial.add(state)
    nfa.arrows[state].append((*path[-1], after))


def utf8_ranges(low, high):
    """Sequences of byte ranges that together are the UTF-8 of the characters low to high (RFC 3629)."""
    if low > high:
        return
    cuts = [0x800, 0x10000]  # where UTF-8 gets longer
    for bits in (6, 12, 18):  # where the bytes after one that differs would not run over their whole range
        cuts += [((low - 1 >> bits) + 1) << bits, (high + 1 >> bits) << bits]
    cut = next((cut for cut in cuts if low < cut <= high), None)
    if cut is None:
        yield list(zip(chr(low).encode(), chr(high).encode(), strict=True))
    else:
        yield from utf8_ranges(low, cut - 1)
        yield from utf8_ranges(cut, high)
