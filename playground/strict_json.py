"""JSON that nobody has vouched for, read strictly: each way of being wrong has its own name."""

import json
import math

MAX_CHARS = 20_000  # a longer text is refused before it is read
MAX_DEPTH = 64  # far below Python's own limit, which depends on who asks


class Refused(ValueError):
    """A text is not what was asked for; the message is a short name that statistics can count."""


def read_object(text):
    """The JSON object that a text holds, and nothing else but space around it. Raises Refused."""
    if len(text) > MAX_CHARS:
        raise Refused("too long")
    text = text.strip()
    if not text:
        raise Refused("empty")
    if text.startswith("```"):
        raise Refused("fenced block")
    if not text.startswith("{"):
        if _is_json(text):
            raise Refused("not an object")
        raise Refused("text before the JSON" if '{"' in text else "not JSON")
    try:
        value, end = _decoder.raw_decode(text)
    except RecursionError:
        raise Refused("nested too deep") from None
    except json.JSONDecodeError as error:
        # An error where the text ends means that more text could have mended it.
        truncated = error.pos >= len(text) or error.msg.startswith("Unterminated string")
        raise Refused("truncated JSON" if truncated else "broken JSON") from None
    rest = text[end:].strip()
    if rest:
        raise Refused("two objects" if rest.startswith("{") else "text after the JSON")
    if _depth(value) > MAX_DEPTH:
        raise Refused("nested too deep")
    if not is_text([text, value]):  # "\ud800" in the text is a lone surrogate in the value
        raise Refused("lone surrogate")
    return value


def is_text(value):
    """Whether a JSON value can be written as UTF-8, which has nothing for half of a surrogate pair."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _depth(value):
    """How many objects and arrays stand in each other, without recursion."""
    level, depth = [value], 0
    while level := [item for item in level if isinstance(item, dict | list)]:
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
        depth += 1
    return depth


def _is_json(text):
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse_duplicates(pairs):
    value = dict(pairs)
    if len(value) < len(pairs):
        raise Refused("duplicate key")
    return value


def _number(read):
    def checked(text):
        # Python reads integers of up to 4,300 digits and floats up to infinity; neither is a sensible argument.
        if len(text) > 100 or not math.isfinite(float(text)):
            raise Refused("bad number")
        return read(text)

    return checked


_decoder = json.JSONDecoder(
    object_pairs_hook=_refuse_duplicates,
    parse_int=_number(int),
    parse_float=_number(float),
    parse_constant=_number(float),  # NaN, Infinity and -Infinity are not JSON
)
