"""Whether a value meets a JSON Schema, in words for people and within a time limit.

Schemas are programs of other people's, and so are the regular expressions in them: a short one can take for ever. So
nothing here works longer than MAX_SECONDS, and nothing that a schema refers to is fetched from elsewhere.
"""

import contextlib
import itertools
import re
import signal
import threading
import warnings

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

MAX_SECONDS = 0.5  # of the processor's
MAX_ERRORS = 100  # of a value that are told
MAX_SLOW = 5  # values whose check ran out of time before the run stops; until then each counts as invalid
SLOW = []  # the names of what they belonged to


class OutOfTime(Exception):
    """What `time_limit` raises."""


class OutsideError(Exception):
    """A schema that somebody has written cannot be used; the message says which and why."""


@contextlib.contextmanager
def time_limit(seconds):
    """A block that OutOfTime ends after so many seconds of work; on Windows, and in threads, it has no limit."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_):
        raise OutOfTime

    before = signal.signal(signal.SIGVTALRM, end)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, seconds)  # again and again: Python forgets what finalizers raise
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@Draft202012Validator.FORMAT_CHECKER.checks("regex", (re.error, OverflowError, RecursionError))
def is_regex(text):
    """What `check_schema` asks of a pattern. jsonschema's own check ends in a traceback at `a{99999999999}`."""
    with warnings.catch_warnings(action="ignore"):  # of sets that Python may read in another way some day
        return not isinstance(text, str) or bool(re.compile(text))


def check(schema):
    """Raise ValueError, with what is to be said of it, for what is not a JSON Schema or refers to nothing."""
    try:
        with time_limit(MAX_SECONDS):
            Draft202012Validator.check_schema(schema)
            reference = _dangling_reference(schema)
    except SchemaError as error:
        at = "/".join(map(str, error.absolute_path))
        raise ValueError(f"parameters are not a JSON Schema, at /{at}: {error.message[:200]}") from None
    except (RecursionError, OutOfTime):
        raise ValueError("its schema is too deep or large to be checked.") from None
    if reference:
        raise ValueError(f'"$ref": {reference!r} leads nowhere: put it under "$defs" there.')


def _dangling_reference(schema):
    """The first reference of a schema that it does not hold itself, or None."""
    resolver, nodes = Registry().resolver_with_root(DRAFT202012.create_resource(schema)), [schema]
    while nodes:
        node = nodes.pop()
        for key in ("$ref", "$dynamicRef") if isinstance(node, dict) else ():
            try:
                if isinstance(node.get(key), str):
                    resolver.lookup(node[key])
            except (Unresolvable, ValueError):
                return node[key]
        nodes += node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return None


def validator(schema, kind=Draft202012Validator):
    """What checks a value under a JSON Schema; see `problems`."""
    return kind(schema, registry=Registry())


def problems(checker, value, name):
    """What a `validator` finds wrong with a value, as sentences for people; [] for nothing.

    name: what the value belongs to. Raises OutsideError where too many values have taken too long.
    """
    try:
        with time_limit(MAX_SECONDS):
            errors = list(itertools.islice(checker.iter_errors(value), MAX_ERRORS))
            return list(dict.fromkeys(map(_in_words, sorted(errors, key=lambda error: error.json_path))))
    except OutOfTime:
        SLOW.append(name)
        if len(SLOW) != MAX_SLOW:
            return [f"its schema takes over {MAX_SECONDS} s to check"]
    except RecursionError:
        return ["its schema refers to itself without end or is too deep, so nothing can be said to meet it"]
    except (Unresolvable, ValueError, ArithmeticError) as error:
        return [f"its schema cannot be followed: {str(error)[:200]}"]
    names = ", ".join(sorted(set(SLOW)))
    raise OutsideError(f"calls to {names} take over {MAX_SECONDS} s each to be validated: simplify the schemas.")


def _in_words(error):
    where = ".".join(map(str, error.absolute_path))
    if error.validator == "required":
        missing = [name for name in error.validator_value if name not in error.instance]
        return "missing argument " + ", ".join(map(repr, missing))
    if error.validator == "additionalProperties" and error.validator_value is False:
        extra = [name for name in error.instance if name not in error.schema.get("properties", {})]
        return "unknown argument " + ", ".join(map(repr, extra))
    message = error.message if len(error.message) <= 200 else error.message[:200] + "..."
    return f"argument {where!r}: {message}" if where else message


def moved(schema, place):
    """The schema as it reads at a place (`#/...`) in another: its references into itself lead there."""
    if isinstance(schema, list):
        return [moved(part, place) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: moved(part, place) for key, part in schema.items()}
    if re.match("#(?:/|$)", str(schema.get("$ref"))):
        found["$ref"] = place + schema["$ref"][1:]
    return found
