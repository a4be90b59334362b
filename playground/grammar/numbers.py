"""Numbers between bounds -> automata over their digits.

Canonical numbers are those of json.dumps: `-?(0|[1-9][0-9]*)`, for numbers with a fraction or an exponent if they
need one. Bounds become regular expressions, digit by digit; a multiple is counted by its remainder.
"""

import functools
import math
from decimal import Decimal

from playground.grammar.dfa import MAX_DFA_CELLS, Dfa, TooLarge, intersect
from playground.grammar.patterns import pattern_dfa

# json.loads refuses integers of over 4,300 digits, and a float of over 308 is infinite.
MAX_DIGITS = 40
INTEGER = rf"-?(0|[1-9]\d{{0,{MAX_DIGITS - 1}}})"
NUMBER = rf"-?((0|[1-9]\d{{0,{MAX_DIGITS - 1}}})(\.\d{{1,{MAX_DIGITS}}})?|[1-9](\.\d{{1,{MAX_DIGITS}}})?e[+-]\d\d)"


FAR = Decimal("1e100")


class Unsatisfiable(ValueError):
    """No value fits."""


def exact_bound(bound, integer):
    """A bound of a schema as a Decimal: as it is written while floats are dense, then as the float that is compared.

    None where no float is this bound, so that rounding would carry a number over it; integers are not rounded.
    """
    exact = Decimal(bound)
    if abs(exact) < 2**53:
        return Decimal(str(bound))
    return exact if integer or abs(exact) >= FAR or float(bound) == bound else None


@functools.lru_cache(maxsize=256)
def number_dfa(integer, low=None, high=None, open_low=False, open_high=False, multiple=None):
    """The Dfa of the integers (or numbers) between the bounds that are multiples of `multiple` (an integer).

    low, high: Decimal or None; open_low, open_high: without the bound itself. Raises Unsatisfiable or dfa.TooLarge.
    """
    # No canonical number reaches such bounds (1.8e308 is how some schemas say "any float").
    if (low is not None and low >= FAR) or (high is not None and high <= -FAR):
        raise Unsatisfiable(f"no number from {low} to {high}")
    low, high = (None if bound is None or abs(bound) >= FAR else bound for bound in (low, high))
    if integer or multiple:
        if low is not None:
            low = math.floor(low) + 1 if open_low else math.ceil(low)
        if high is not None:
            high = math.ceil(high) - 1 if open_high else math.floor(high)
        pattern = _integers(low, high)
    else:
        pattern = _numbers(low, high, open_low, open_high)
    if not (integer or multiple) and (open_low or open_high) and _digits_of(low, high) > 15:
        raise TooLarge("an exclusive bound where a bound has over 15 digits")
    if pattern is None:
        raise Unsatisfiable(f"no number from {low} to {high}")
    dfa = pattern_dfa(pattern, whole=True)
    if multiple and multiple != 1:
        dfa = intersect(dfa, _multiples(multiple))
    if dfa.is_empty:
        raise Unsatisfiable(f"no multiple of {multiple} from {low} to {high}")
    return dfa


def _multiples(divisor):
    """The Dfa of the integers, with or without a sign, that `divisor` divides: its state is the remainder."""
    if 12 * (divisor + 2) > MAX_DFA_CELLS:
        raise TooLarge(f"a multiple of {divisor}")
    classes = [0] * 256
    classes[ord("-")] = 1
    for digit in range(10):
        classes[ord("0") + digit] = 2 + digit
    remainders = [[-1, -1, *(2 + (10 * r + d) % divisor for d in range(10))] for r in range(divisor)]
    rows = [[-1, 1, *remainders[0][2:]], [-1, -1, *remainders[0][2:]], *remainders]
    return Dfa(classes, rows, [False, False, True, *[False] * (divisor - 1)])


# ---- regular expressions of bounds


def _integers(low, high):
    """A pattern of the integers from low to high (None: no bound); None where there is none."""
    if low is None and high is None:
        return INTEGER
    parts = []
    if low is None or low < 0:  # negative ones: the same with the bounds turned round
        top = -1 if high is None or high >= 0 else high
        part = _naturals(-top, None if low is None else -low)
        parts += [f"-({part})"] if part else []
    if high is None or high >= 0:
        part = _naturals(0 if low is None or low < 0 else low, high)
        parts += [part] if part else []
    return "|".join(parts) or None


def _naturals(low, high):
    if high is None:
        parts = [_naturals(low, 10 ** len(str(low)) - 1)]
        if len(str(low)) < MAX_DIGITS:
            parts.append(rf"[1-9]\d{{{len(str(low))},{MAX_DIGITS - 1}}}")
        return "|".join(parts)
    if low > high:
        return None
    parts = []
    while low <= high:
        top = min(high, 10 ** len(str(low)) - 1)
        parts.append(_between(str(low), str(top)))
        low = top + 1
    return "|".join(parts)


def _between(low, high):
    """A pattern of the digit strings from low to high, which are equally long."""
    if low == high:
        return low
    if len(low) == 1:
        return f"[{low}-{high}]"
    if low[0] == high[0]:
        return f"{low[0]}({_between(low[1:], high[1:])})"
    zeros, nines, parts = "0" * (len(low) - 1), "9" * (len(low) - 1), []
    first, last = int(low[0]), int(high[0])
    if low[1:] != zeros:
        parts.append(f"{first}({_between(low[1:], nines)})")
        first += 1
    if high[1:] != nines:
        parts.append(f"{last}({_between(zeros, high[1:])})")
        last -= 1
    if first <= last:
        parts.append(rf"[{first}-{last}]\d{{{len(zeros)}}}")
    return "|".join(parts)


def _numbers(low, high, open_low, open_high):
    if low is None and high is None:
        return NUMBER
    if low is not None and high is not None and (low > high or (low == high and (open_low or open_high))):
        return None
    parts = []
    if low is None or low < 0:
        inside = high is not None and high <= 0
        part = _positive(-high if inside else Decimal(0), inside and open_high, None if low is None else -low, open_low)
        parts += [f"-({part})"] if part else []
    if high is None or high > 0 or (high == 0 and not open_high):
        inside = low is not None and low >= 0
        part = _positive(low if inside else Decimal(0), inside and open_low, high, open_high)
        parts += [part] if part else []
    return "|".join(parts) or None


def _positive(low, open_low, high, open_high):
    """A pattern of the decimals from low >= 0 to high; equal values with more zeros are the same value."""
    digits = _fraction_digits(low, high)
    low_whole, low_rest = _split(low)
    if high is None:
        above = _naturals(low_whole + 1, None)
        return f"{low_whole}{_fraction(low_rest, None, open_low, False, digits)}|({above}){_any_fraction(digits)}"
    high_whole, high_rest = _split(high)
    if low_whole == high_whole:
        fraction = _fraction(low_rest, high_rest, open_low, open_high, digits)
        return None if fraction is None else f"{low_whole}{fraction}"
    parts = [(low_whole, _fraction(low_rest, None, open_low, False, digits))]
    parts.append((high_whole, _fraction("", high_rest, False, open_high, digits)))
    between = _naturals(low_whole + 1, high_whole - 1)
    parts.append((f"({between})" if between else None, _any_fraction(digits)))
    return "|".join(f"{whole}{rest}" for whole, rest in parts if whole is not None and rest is not None) or None


def _fraction_digits(*bounds):
    """How many digits a fraction may have: so few that a float cannot round a number onto a bound that is left out."""
    bounds = [bound for bound in bounds if bound is not None]
    longest = max((len(_split(bound)[1]) for bound in bounds), default=0)
    return max(longest, 15 - max(len(str(_split(bound)[0])) for bound in bounds), 1)


def _digits_of(*bounds):
    """How many digits the bounds can make a number have; up to 15, no two numbers are the same float."""
    split = [_split(abs(bound)) for bound in bounds if bound is not None]
    return max((len(str(whole)) for whole, _ in split), default=0) + max((len(rest) for _, rest in split), default=0)


def _split(bound):
    """(whole part, digits of the fraction without zeros at the end) of a Decimal >= 0."""
    whole, _, rest = f"{bound:f}".partition(".")
    return int(whole), rest.rstrip("0")


def _any_fraction(digits):
    return rf"(\.\d{{1,{digits}}})?"


def _fraction(low, high, open_low, open_high, digits):
    """A pattern of what may follow the whole part: fractions from 0.low (None: 0) to 0.high (None: below 1)."""
    parts = [""] if not low and not open_low and (high is None or high or not open_high) else []
    inner = _digits(low or "", high, open_low, open_high, digits)
    parts += [rf"\.({inner})"] if inner else []
    return f"({'|'.join(parts)})" if parts else None


def _digits(low, high, open_low, open_high, room):
    """One digit or more, together at least `low` and at most `high` (None: no bound); '' is zero."""
    if not room:
        return None
    first_low, first_high = int(low[:1] or 0), 9 if high is None else int(high[:1] or 0)
    parts = []
    for digit in range(first_low, first_high + 1):
        on_low, on_high = digit == first_low, high is not None and digit == first_high
        rest_low, rest_high = (low[1:] if on_low else ""), (high[1:] if on_high else None)
        rest_open_low, rest_open_high = open_low and on_low, open_high and on_high
        ends = (not rest_low and not rest_open_low) and (rest_high is None or rest_high or not rest_open_high)
        if not rest_low and not rest_open_low and rest_high is None:
            parts.append(rf"{digit}\d{{0,{room - 1}}}")
            continue
        more = _digits(rest_low, rest_high, rest_open_low, rest_open_high, room - 1)
        if more:
            parts.append(f"{digit}({more})?" if ends else f"{digit}({more})")
        elif ends:
            parts.append(str(digit))
    return "|".join(parts) or None
