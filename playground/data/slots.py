"""Where a call's arguments stand in its request, so that both can be given other values.

    shape = find("Set a timer for 25 minutes", {"minutes": 25})
    fill(shape, {("minutes",): 40})                   # ("Set a timer for 40 minutes", {"minutes": 40})

An argument that stands in the request once is a slot: a text, word for word or in other case; a number, in digits or as
a word; a list, as its items with commas and "and" between them; a value of an enum such as `dark_roast` in words, and
`true` or `false` by a word such as "on" or "off", where other requests show which is which. What stands there twice, or
not at all, is no slot: it stays as it is.
"""

import contextlib
import copy
import itertools
import json
import re
from collections import Counter
from dataclasses import dataclass

from playground.data.entities import NUMBER_WORDS

OPPOSITES = [
    ("on", "off"), ("with", "without"), ("enable", "disable"), ("enabled", "disabled"), ("yes", "no"),
    ("true", "false"), ("allow", "block"), ("lock", "unlock"), ("open", "close"), ("mute", "unmute"),
    ("include", "exclude"), ("inside", "outside"), ("indoors", "outdoors"), ("public", "private"), ("start", "stop"),
]  # fmt: skip
WORDS = {"1": "one"} | {digits: word for word, digits in NUMBER_WORDS}
BETWEEN = re.compile(r"\s*,\s*(?:and |or |& )?|\s+(?:and|or|plus)\s+|\s*[&+]\s*")
SEPARATOR, LAST = ", ", " and "  # of a list of which the request shows no other


@dataclass(frozen=True)
class Slot:
    """A place of a request. path: where in the arguments its value stands; form: how it is written there."""

    path: tuple
    form: tuple
    value: object


@dataclass(frozen=True)
class Shape:
    """A request as texts and slots in turn, and the arguments of its call."""

    parts: tuple
    args: dict

    @property
    def slots(self):
        return [part for part in self.parts if isinstance(part, Slot)]

    @property
    def wording(self):
        """The request without its values: what two requests of one phrasing share."""
        marked = "".join(part if isinstance(part, str) else f"{{{part.path[0]}}}" for part in self.parts)
        return " ".join(marked.casefold().strip(" .!?").split())

    @property
    def says_all(self):
        """Whether the request says every value of the arguments, once."""
        return {slot.path for slot in self.slots} == {path for path, _ in leaves(self.args)}


def find(request, args, cues=None):
    """The Shape of a request. cues: {path: (the word for true, the word for false)} for its booleans."""
    found = []
    for path, value in leaves(args):
        if isinstance(value, bool):
            cue = (cues or {}).get(path, ())
            pattern = "|".join(map(_whole, sorted(cue, key=len, reverse=True)))
            span = cue and _once(pattern, request, ("choice", *cue), re.IGNORECASE)
        elif isinstance(value, list):
            span = _list(request, value)
        else:
            span = _scalar(request, value)
        if span:
            found.append((*span, path, value))
    parts, at = [], 0
    for one in sorted(found, key=lambda one: one[0]):
        start, end, form, path, value = one
        if any(start < other[1] and other[0] < end for other in found if other is not one):
            continue  # one place, two values: which of them it is cannot be told
        parts += [request[at:start], Slot(path, form, value)]
        at = end
    return Shape(tuple(part for part in [*parts, request[at:]] if part != ""), args)


def leaves(value, path=()):
    """(path, scalar or list of scalars) of all values in the arguments; a list that holds others is left out."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        if value and all(isinstance(item, str | int | float) and not isinstance(item, bool) for item in value):
            yield path, value
    elif value is not None and value != "":
        yield path, value


def _once(pattern, request, form, flags=0):
    """(start, end, form) of what stands in the request exactly once."""
    matches = list(re.finditer(pattern, request, flags))
    return (*matches[0].span(), form) if len(matches) == 1 else None


def _whole(text):
    return rf"(?<!\w){re.escape(text)}(?!\w)"


def _scalar(request, value):
    if not isinstance(value, str):
        return _number(request, value)
    exact = _once(_whole(value), request, ("text", "verbatim" if "_" in value else "exact"))
    if exact or re.search(_whole(value), request):
        return exact
    for form, written in (("case", value), ("words", re.sub(r"[_-]+", " ", value))):
        if span := _once(_whole(written), request, ("text", form), re.IGNORECASE):
            return span
    return None


def _number(request, value):
    whole = isinstance(value, int) or float(value).is_integer()
    spellings = {_written(value, "digits"), str(value)} | ({f"{int(value):,}"} if whole else set())
    digits = "|".join(sorted(map(re.escape, spellings), key=len, reverse=True))
    pattern = rf"(?<![\w.,:/-])(?:{digits})(?![\d:/]|[.,]\d|\s?[ap]\.?m\b)"
    word = WORDS.get(str(value))
    written = list(re.finditer(_whole(word), request, re.IGNORECASE)) if word else []
    if written:
        alone = len(written) == 1 and not re.search(pattern, request)
        return (*written[0].span(), ("number", "word")) if alone else None
    return _once(pattern, request, ("number", "digits"))


def _list(request, values):
    """The span from a list's first item to its last, where nothing but commas and the like stands between them."""
    spans = [_scalar(request, value) for value in values]
    if not all(spans) or spans != sorted(spans, key=lambda span: span[0]):
        return None
    between = [request[one[1] : other[0]] for one, other in itertools.pairwise(spans)]
    if not all(BETWEEN.fullmatch(text) for text in between):
        return None
    separator = between[0] if len(between) > 1 else SEPARATOR
    return spans[0][0], spans[-1][1], ("list", spans[0][2][1], separator, between[-1] if between else LAST)


def learn_cues(examples):
    """{(tool, path): (word for true, word for false)} of [(request, call)]: what the booleans of a tool are told by.

    Words are a cue if each of the two stands in some request with its value, and neither in one with the other.
    """
    seen, cues = Counter(), {}
    for request, call in examples:
        words = set(re.findall(r"\w+", request.casefold()))
        for path, value in leaves(call["args"]):
            if isinstance(value, bool):
                seen.update(((call["tool"], path), word, value) for pair in OPPOSITES for word in pair if word in words)
    for key in {key for key, _, _ in seen}:
        for one, other in OPPOSITES:
            for yes, no in ((one, other), (other, one)):
                right = seen[key, yes, True] and seen[key, no, False]
                if right and not seen[key, yes, False] and not seen[key, no, True]:
                    cues.setdefault(key, (yes, no))
    return cues


def shape_of(request, call, cues):
    """The Shape of a request and its call, with `learn_cues`'s cues; `respond` has no slots, its message is no copy."""
    if call["tool"] == "respond":
        return Shape((request,), call["args"])
    return find(request, call["args"], {path: cue for (tool, path), cue in cues.items() if tool == call["tool"]})


def fill(shape, values):
    """(request, args) of the shape with other values at some of its slots, {path: value}."""
    args, written = copy.deepcopy(shape.args), []
    for part in shape.parts:
        if isinstance(part, Slot):
            value = values.get(part.path, part.value)
            *outer, last = part.path
            place = args
            for key in outer:
                place = place[key]
            place[last] = value
            part = write(value, part)
        written.append(part)
    return "".join(written), args


def write(value, slot):
    """How a value is written where another stood."""
    kind, how, *more = slot.form
    if isinstance(value, list):
        items = [_written(item, how) for item in value]
        separator, last = more or (SEPARATOR, LAST)
        return items[0] if len(items) == 1 else f"{separator.join(items[:-1])}{last}{items[-1]}"
    if kind == "choice":
        return how if value else more[0]
    return _written(value, how)


def _written(value, how):
    if isinstance(value, str):
        # `living_room` where `kitchen` stood: nobody says it so.
        identifier = re.fullmatch(r"[a-z0-9]+(?:_[a-z0-9]+)+", value)
        return re.sub(r"[_-]+", " ", value) if how == "words" or (identifier and how != "verbatim") else value
    if how == "word" and str(value) in WORDS:
        return WORDS[str(value)]
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def replaced(text, old, new):
    """A text about a call with the values of other arguments in place of its own: a result, or an answer to it."""
    values = {}
    for (_, value), (_, other) in zip(leaves(old), leaves(new), strict=False):
        if not isinstance(value, bool | list) and value != other:
            values |= {_written(value, how): _written(other, how) for how in ("verbatim", "words")}
    if not values:
        return text
    pattern = re.compile("|".join(map(_whole, sorted(values, key=len, reverse=True))))
    return pattern.sub(lambda match: values[match[0]], text)


def replaced_json(result, old, new):
    """The same for a result: its texts and numbers, at any depth."""
    if isinstance(result, dict):
        return {key: replaced_json(value, old, new) for key, value in result.items()}
    if isinstance(result, list):
        return [replaced_json(value, old, new) for value in result]
    if isinstance(result, str):
        return replaced(result, old, new)
    if isinstance(result, int | float) and not isinstance(result, bool):
        with contextlib.suppress(ValueError):  # "007" and "12B" are no numbers
            return json.loads(replaced(json.dumps(result), old, new))
    return result
