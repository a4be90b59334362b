"""A schema as a document: what may stand in one at all, what its references lead to, and how much work it may make.

Schemas come from anywhere, so nothing is taken for granted: not that one is JSON, not that it is finite.
"""

import json
import urllib.parse

import jsonschema
from jsonschema import Draft202012Validator
from referencing import Registry

from playground.grammar.unsupported import UnsupportedSchema, below

MAX_DEPTH = 100  # of arrays and objects inside one another in a schema
MAX_VALUES = 100_000  # in a schema
MAX_MIXED = 1_000  # values of a list that are not all texts: jsonschema compares each with each
MAX_WORK = 1_000_000  # steps of putting schemas together
# Annotations, which constrain nothing.
ANNOTATIONS = """title description default examples example deprecated readOnly writeOnly $comment $schema $id id
    $defs definitions contentMediaType contentEncoding discriminator externalDocs xml nullable""".split()
OURS = {"x-from", "x-max-words"}  # the value is copied from the request; so many words of it at most
CHECKED = {"$defs", "definitions"}  # what stands there is a schema, and has been checked with the whole


def dumps(value, pointer):
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:  # NaN, or half of a surrogate pair
        raise UnsupportedSchema(pointer, "a value that JSON cannot write") from None


def _contents(value):
    """Yield (value, depth) of a value and all that it holds."""
    stack = [(value, 1)]
    while stack:
        value, depth = stack.pop()
        yield value, depth
        if isinstance(value, (dict, list)):
            stack.extend((part, depth + 1) for part in (value.values() if isinstance(value, dict) else value))


class Document:
    """root: the schema. validator: of draft 2020-12, as which every schema is read, whichever draft it names.

    What an older draft means otherwise is refused, or asks for less there: what is written is valid under that too.
    """

    def __init__(self, schema):
        self._values = self._work = 0
        self._count(schema)
        try:
            self.root = json.loads(json.dumps(schema))  # 1 as a name becomes "1", a tuple a list
        except (TypeError, ValueError) as error:
            raise UnsupportedSchema("", f"not JSON ({error})", "") from None
        if not isinstance(self.root, (dict, bool)):
            raise UnsupportedSchema("", f"not a valid JSON Schema ({type(schema).__name__})", "")
        self.validator = Draft202012Validator(self.root, registry=Registry())  # which fetches nothing
        self._check(self.root, "")
        self._targets = {}
        parts = (value for value, depth in _contents(self.root) if depth > 1 and isinstance(value, dict))
        self._has_bases = any(isinstance(part.get("$id"), str) and part["$id"][:1] != "#" for part in parts)

    def _count(self, schema):
        """Refuse what is too deep or too large, before anything else looks at it."""
        for value, depth in _contents(schema):
            self._values += 1
            if depth > MAX_DEPTH:
                raise UnsupportedSchema("", f"a schema of over {MAX_DEPTH} levels")
            if self._values > MAX_VALUES:
                raise UnsupportedSchema("", f"a schema of over {MAX_VALUES} values")
            if isinstance(value, list) and len(value) > MAX_MIXED and not all(isinstance(v, str) for v in value):
                raise UnsupportedSchema("", f"a list of over {MAX_MIXED} values that are not all texts")
            if value != value or (isinstance(value, int) and value.bit_length() > 1000):
                raise UnsupportedSchema("", "a number that is none, or that no float can hold,")

    def _check(self, schema, pointer):
        try:
            # Without the format checker, which would have `re` compile the patterns, however large.
            type(self.validator).check_schema(schema, format_checker=None)
        except jsonschema.SchemaError as error:
            what = f"not a valid JSON Schema ({error.message[:200]})"
            raise UnsupportedSchema(below(pointer, *error.absolute_path), what, "") from None

    def asserted(self, schema, pointer):
        """The keywords that ask something of a value; names beginning with "x-" are remarks, but for two of ours."""
        remarks = {key for key in schema if key in ANNOTATIONS or key.startswith("x-")} - OURS
        found = {key: value for key, value in schema.items() if key not in remarks}
        if schema.get("nullable") is True and "type" in found:  # as OpenAPI 3.0 says "or null"
            types = [found["type"]] if isinstance(found["type"], str) else found["type"]
            found["type"] = [*types, "null"] if "null" not in types else types
        return found

    def resolve(self, reference, pointer):
        """(schema, pointer) of a $ref inside this document."""
        place, shown = below(pointer, "$ref"), repr(reference[:100])
        if not reference.startswith("#") or (reference != "#" and not reference.startswith("#/")):
            raise UnsupportedSchema(place, f"the reference {shown}, which is not to `#/...`,")
        if self._has_bases:
            raise UnsupportedSchema(place, "a reference in a schema whose parts have an identifier of their own")
        if reference not in self._targets:
            self._targets[reference] = self._find(urllib.parse.unquote(reference[1:]), place, shown)
        return self._targets[reference]

    def _find(self, target_pointer, place, shown):
        parts = [part.replace("~1", "/").replace("~0", "~") for part in target_pointer.split("/")[1:]]
        target = self.root
        for part in parts:
            try:
                target = target[int(part) if part.isdecimal() else None] if isinstance(target, list) else target[part]
            except (KeyError, IndexError, TypeError, ValueError):
                raise UnsupportedSchema(place, f"the reference {shown} to nothing") from None
        if not isinstance(target, (dict, bool)):
            raise UnsupportedSchema(place, f"the reference {shown} to what is no schema")
        if parts and not (len(parts) == 2 and parts[0] in CHECKED):
            self._count(target)
            self._check(target, target_pointer)
        return target, target_pointer

    def spend(self, steps, pointer):
        """Count work that grows faster than a schema does."""
        self._work += steps
        if self._work > MAX_WORK:
            raise UnsupportedSchema(pointer, f"a schema that takes over {MAX_WORK} steps to put together")
