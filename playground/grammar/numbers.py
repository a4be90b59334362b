"""Numbers between bounds -> automata over their digits.

Canonical numbers are those of json.dumps: `-?(0|[1-9][0-9]*)`, for numbers with a fraction or an exponent if they
need one. A bound is an automaton that compares with it while it reads; a multiple is counted by its remainder.
"""

import functools
from decimal import Decimal

from playground.grammar.dfa import MAX_DFA_CELLS, Dfa, TooLarge, explore, intersect
from playground.grammar.patterns import pattern_dfa

# json.loads refuses integers of over 4,300 digits, and a float of over 308 is infinite.
MAX_DIGITS = 40
INTEGER = rf"-?(0|[1-9]\d{{0,{MAX_DIGITS - 1}}})"
NUMBER = rf"-?((0|[1-9]\d{{0,{MAX_DIGITS - 1}}})(\.\d{{1,{MAX_DIGITS}}})?|[1-9](\.\d{{1,{MAX_DIGITS}}})?e[+-]\d\d)"
FAR = Decimal("1e100")  # no canonical number reaches such bounds (1.8e308 is how some schemas say "any float")
EXACT_DIGITS = 15  # no two numbers of so many digits are the same float


def exact_bound(bound, integer):
    """A bound of a schema as a Decimal: as it is written while floats are dense, then as the float that is compared.

    None where no float is this bound, so that rounding would carry a number over it; integers are not rounded.
    """
    exact = Decimal(bound)
    if abs(exact) < 2**53:
        return Decimal(str(bound))
    return exact if integer or abs(exact) >= FAR or float(bound) == bound else None


@functools.lru_cache(maxsize=256)
def number_dfa(integer, low, high, open_low, open_high, multiple):
    """The Dfa of the integers (or numbers) between the bounds that are multiples of `multiple` (an integer or None).

    low, high: Decimal or None; open_low, open_high: without the bound itself. None if there is no such number; raises
    dfa.TooLarge.
    """
    if (low is not None and low >= FAR) or (high is not None and high <= -FAR):
        return None
    low, high = (None if bound is None or abs(bound) >= FAR else bound for bound in (low, high))
    integer = integer or multiple is not None
    if not integer and (open_low or open_high) and sum(_digits(low, high)) > EXACT_DIGITS:
        raise TooLarge(f"an exclusive bound where a bound has over {EXACT_DIGITS} digits")
    dfa = pattern_dfa(_shape(low, high, integer), whole=True)
    if low is not None:
        dfa = intersect(dfa, _compared(low, ">" if open_low else ">="))
    if high is not None:
        dfa = intersect(dfa, _compared(high, "<" if open_high else "<="))
    if multiple is not None:
        dfa = intersect(dfa, _multiples(multiple))
    return None if dfa.is_empty else dfa


def _shape(low, high, integer):
    """A pattern of numbers that are long enough for the bounds; without a minus sign where none can come."""
    if low is None and high is None:
        return INTEGER if integer else NUMBER
    positive, negative = (max(low or 0, 0), high), (max(-(high or 0), 0), low)
    found = [f"0|{_whole(*positive)}" if integer else _decimals(*positive)]
    if low is None or low < 0:
        found.append(f"-{_whole(*negative)}" if integer else f"-{_decimals(*negative)}")
    return "|".join(found)


def _whole(*bounds):
    before, _ = _digits(*bounds)
    return rf"[1-9]\d{{0,{max(before, MAX_DIGITS) - 1}}}"


def _decimals(*bounds):
    """A pattern of numbers with so few digits that a float cannot round one onto a bound that is left out."""
    before, after = _digits(*bounds)
    return rf"(0|{_whole(*bounds)})(\.\d{{1,{max(after, EXACT_DIGITS - before, 1)}}})?"


def _digits(*bounds):
    """(digits before the point, digits after it without zeros at the end) that bounds have at most."""
    parts = [f"{abs(bound):f}".partition(".") for bound in bounds if bound is not None]
    before = max((len(whole) for whole, _, _ in parts), default=0)
    return before, max((len(fraction.rstrip("0")) for _, _, fraction in parts), default=0)


# ---- automata that read a number character by character


CHARACTERS = "0123456789.-"
CLASSES = [CHARACTERS.find(chr(byte)) + 1 for byte in range(256)]  # class 0: all others, which no number has


def _reading(start, after, accepts):
    """The Dfa in which after(state, character) follows a state."""
    states, rows = explore(start, lambda state: [None, *(after(state, character) for character in CHARACTERS)])
    return Dfa(CLASSES, rows, [accepts(state) for state in states])


def _multiples(divisor):
    """The Dfa of the integers that `divisor` divides: its state is the remainder."""
    if len(CHARACTERS) * (divisor + 2) > MAX_DFA_CELLS:
        raise TooLarge(f"a multiple of {divisor}")

    def after(remainder, character):
        if character == "-":
            return remainder
        return None if character == "." else (10 * remainder + int(character)) % divisor

    return _reading(0, after, lambda remainder: remainder == 0)


def _compared(bound, wanted):
    """The Dfa of the numbers without exponents that are less than (<), equal to (=) or greater than (>) `bound`.

    wanted: one or two of these signs. A state: the number's sign, its place in the bound's digits (None where those to
    come no longer matter), and how it compares so far, both without their signs.
    """
    whole, _, fraction = f"{abs(bound):f}".partition(".")
    digits, point = f"{whole}.{fraction.rstrip('0')}", len(whole)

    def after(state, character):
        sign, place, order = state
        if character == "-":
            return "-", place, order
        if place is None:
            return state
        if place < point and character == ".":  # the shorter whole part is the smaller one
            return sign, None, "<"
        if place == point and character != ".":
            return sign, None, ">"
        digit = digits[place] if place < len(digits) else "0"
        if order == "=" and character != digit:
            order = "<" if character < digit else ">"
        return sign, None if order != "=" and place >= point else min(place + 1, len(digits)), order

    def accepts(state):
        sign, place, order = state
        if place is not None and (place < point or (order == "=" and digits[place:].strip("."))):
            order = "<"
        if bound and (sign == "-") != (bound < 0):
            order = "<" if sign else ">"
        elif sign:
            order = {"<": ">", "=": "=", ">": "<"}[order]
        return order in wanted

    return _reading(("", 0, "="), after, accepts)
