"""JSON Schema -> the nodes of a grammar of canonical JSON.

Canonical is what `json.dumps(value, ensure_ascii=False)` writes: `", "` and `": "` between things, properties in the
order of the schema. An object that names properties is closed unless `additionalProperties` opens it; others then come
last.
A schema without `type` is about the types that its keywords are about. Whatever the grammar writes is valid under the
schema; what it cannot promise that for it refuses, by name.
"""

import functools
import hashlib
import json

from playground.grammar import merging
from playground.grammar.dfa import TooLarge, intersect
from playground.grammar.document import Document, dumps
from playground.grammar.formats import FORMATS, REFUSED
from playground.grammar.frames import measure
from playground.grammar.nodes import NEVER, Choice, Copied, Distinct, Others, Repeat, Rule, Scan, Sequence, Text
from playground.grammar.numbers import exact_bound, number_dfa
from playground.grammar.patterns import UnsupportedPattern, any_string, length_dfa, pattern_dfa
from playground.grammar.unsupported import UnsupportedSchema, below

MAX_NODES = 300_000
MAX_BYTES = 100_000  # that a shortest text may need
MAX_MEMBERS = 20_000  # states of one object: properties, times those written if they are counted
MAX_OPTIONAL = 1_500  # properties of one object: each of them may come next
MAX_DISTINCT = 200  # items that differ: what is left of them is kept for each choice
BOUNDS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
COPYABLE = {"string", "number", "integer", "values", "null"}
PLAIN = {"type", "minLength", "maxLength"} | merging.KEYWORDS["number"]  # that jsonschema answers at once
EMPTY = Sequence(())


def build(schema, vocabulary):
    """The node of all canonical texts of `schema` that a Vocabulary can spell.

    Raises UnsupportedSchema, also for one that nothing can satisfy.
    """
    if not vocabulary.spells(b'{}[]":, '):
        raise UnsupportedSchema("", "a tokenizer that cannot spell JSON's own characters")
    try:
        document = Document(schema)
        root = Builder(document, vocabulary).node(document.root, "")
        measure(root)
    except RecursionError:
        raise UnsupportedSchema("", "a schema with so many levels and references") from None
    if root.size > MAX_BYTES:
        what = "a schema that nothing satisfies" if root.size == float("inf") else f"a value of over {MAX_BYTES} bytes"
        raise UnsupportedSchema("", what)
    return root


class Builder:
    def __init__(self, document, vocabulary):
        self.document, self.vocabulary = document, vocabulary
        self.made, self.count = {}, 0  # {hash of a schema as text: its node, or the Rule that will be}

    def node(self, schema, pointer):
        """The node of any schema; the same one for equal schemas, so that a schema may contain itself."""
        key = hashlib.sha256(json.dumps(schema).encode()).digest()
        if key not in self.made:
            self.made[key] = rule = Rule()
            self.count += 1
            rule.define(self._make(schema, pointer))
        return self.made[key]

    def _make(self, schema, pointer):
        if schema is False:
            return NEVER
        asserted = {} if schema is True else self.document.asserted(schema, pointer)
        if not asserted:
            return self._anything(pointer)
        if list(asserted) == ["$ref"]:
            return self.node(*self.document.resolve(asserted["$ref"], pointer))
        if list(asserted) == ["anyOf"]:
            parts = asserted["anyOf"]
            return choice([self.node(part, f"{pointer}/anyOf/{i}") for i, part in enumerate(parts)])
        found = merging.options(schema, self.document, pointer)
        return choice([self._plain(option, place) for option, place in found])

    def _anything(self, pointer):
        return choice([self._type(name, {"additionalProperties": True}, pointer) for name in merging.TYPES])

    def _plain(self, schema, pointer):
        """A schema without references and combinations."""
        _refuse(schema.keys() - merging.ALL_KEYWORDS - {"enum", "const"}, pointer)
        if "enum" in schema or "const" in schema:
            return self._type("values", schema, pointer)
        if not schema:
            return self._anything(pointer)
        types = merging.types_of(schema)
        if not types:
            raise UnsupportedSchema(pointer, f"the keyword {sorted(schema)[0]!r}")
        return choice([self._type(name, schema, pointer) for name in dict.fromkeys(types)])

    def _values(self, schema, pointer):
        values = [schema["const"]] if "const" in schema else schema["enum"]
        if "const" in schema and "enum" in schema:
            values = [value for value in values if any(merging.same(value, other) for other in schema["enum"])]
        # jsonschema is asked about the plain keywords alone: others may hold references and patterns that take long.
        ask = self.document.validator.evolve(schema={key: schema[key] for key in PLAIN & schema.keys()})
        values = [value for value in values if ask.is_valid(value)]
        inner = (merging.KEYWORDS["object"] | merging.KEYWORDS["array"]) & schema.keys()
        if any(isinstance(value, (list, dict)) for value in values):
            _refuse(inner, pointer)
        if "pattern" in schema:
            found = pattern_dfa(schema["pattern"])
            values = [v for v in values if not isinstance(v, str) or found.accepts(dumps(v, pointer)[1:-1])]
        texts = [self._text(dumps(value, pointer), pointer).data for value in values]
        plain = choice([Text(text) for text in texts])
        return _copied(plain, schema, lambda request: Choice([Text(text) for text in texts if request.has(text)]))

    def _text(self, data, pointer):
        if not self.vocabulary.spells(data):
            raise UnsupportedSchema(pointer, f"{data.decode()[:100]}, which this model's tokenizer cannot spell,")
        return Text(data)

    def _spellable(self, dfa):
        return dfa if self.vocabulary.spellable is None else intersect(dfa, self.vocabulary.spellable)

    def _type(self, name, schema, pointer):
        if self.count > MAX_NODES:
            raise UnsupportedSchema("", f"a schema of over {MAX_NODES} nodes")
        source = schema.get("x-from", "request")
        if source != "request":
            raise UnsupportedSchema(below(pointer, "x-from"), f"the source {source!r} (only 'request' is)")
        if "x-from" in schema and name not in COPYABLE:
            raise UnsupportedSchema(below(pointer, "x-from"), f"copying a value of the type {name!r} from the request")
        try:
            return getattr(self, f"_{name}")(schema, pointer)
        except UnsupportedPattern as error:
            pattern = next(iter(schema["patternProperties"])) if name == "object" else schema["pattern"]
            raise UnsupportedSchema(pointer, f"the pattern {pattern[:100]!r} ({error})") from None
        except TooLarge as error:
            raise UnsupportedSchema(pointer, str(error)) from None

    def _null(self, schema, pointer):
        return Text(b"null")

    def _boolean(self, schema, pointer):
        return Choice((Text(b"false"), Text(b"true")))

    def _integer(self, schema, pointer):
        return self._number(schema, pointer, integer=True)

    def _number(self, schema, pointer, integer=False):
        bounds = {key: exact_bound(schema[key], integer) for key in BOUNDS if key in schema}
        for key, bound in bounds.items():
            if bound is None:
                raise UnsupportedSchema(below(pointer, key), "a bound that no float can hold")
        # The narrower of two; of equal ones the exclusive one.
        lows = [(bounds[key], key == "exclusiveMinimum") for key in ("minimum", "exclusiveMinimum") if key in bounds]
        highs = [(bounds[key], key == "maximum") for key in ("maximum", "exclusiveMaximum") if key in bounds]
        low, open_low = max(lows, default=(None, False))
        high, closed_high = min(highs, default=(None, True))
        multiple = schema.get("multipleOf")
        if isinstance(multiple, float) and multiple.is_integer():
            multiple = int(multiple)
        if multiple is not None and not isinstance(multiple, int):
            raise UnsupportedSchema(f"{pointer}/multipleOf", "a multiple of a fraction")
        dfa = number_dfa(integer, low, high, open_low, not closed_high, multiple)
        if dfa is None:
            return NEVER
        return _copied(Scan(dfa), schema, lambda request: request.spans(dfa, words=schema.get("x-max-words")))

    def _string(self, schema, pointer):
        low, high = _limits(schema, "minLength", "maxLength")
        if high is not None and low > high:
            return NEVER
        dfas = [pattern_dfa(schema["pattern"])] if "pattern" in schema else []
        if schema.get("format") in FORMATS:
            dfas.append(pattern_dfa(FORMATS[schema["format"]], whole=True))
        elif schema.get("format") in REFUSED:
            raise UnsupportedSchema(f"{pointer}/format", f"the format {schema['format']!r}")
        if dfas:
            if low:
                dfas.append(length_dfa(low, None))
            dfa = self._spellable(functools.reduce(intersect, dfas))
            if high is not None and dfa.characters is None:  # its shortest text may have too many of them
                dfa, high = intersect(dfa, length_dfa(low, high)), None
            scan = Scan(dfa, 0, 0, high)
        else:
            dfa, scan = None, Scan(self.vocabulary.spellable or any_string(), 0, low, high)

        def from_request(request):
            span = request.spans(dfa, low, high, schema.get("x-max-words"))
            return span and Sequence((Text(b'"'), span, Text(b'"')))

        return _copied(Sequence((Text(b'"'), scan, Text(b'"'))), schema, from_request)

    def _array(self, schema, pointer):
        low, high = _limits(schema, "minItems", "maxItems")
        first, rest = merging.items_of(schema)
        if schema.get("uniqueItems") is True and (high is None or high > 1):
            return self._distinct(first, rest, low, high, pointer)
        if high is not None and low > high:
            return NEVER
        items = [self.node(item, f"{pointer}/prefixItems/{i}") for i, item in enumerate(first)]
        others = self.node(rest, f"{pointer}/items")
        if high is not None and len(items) >= high:
            items, others = items[:high], NEVER
        self.count += len(items)
        # From the back: what may follow when i items are written.
        begun = max(len(items), 1)
        most = None if high is None else max(0, high - begun)
        then = Repeat(Sequence((Text(b", "), others)), max(0, low - begun), most)
        first_item = Sequence((others, then))
        for i, item in reversed([*enumerate(items)]):
            first_item = Sequence((item, then))
            then = Sequence((Text(b", "), first_item))
            then = then if i < low else Choice((EMPTY, then))
        body = EMPTY if high == 0 else first_item if low else Choice((EMPTY, first_item))
        return Sequence((Text(b"["), body, Text(b"]")))

    def _distinct(self, first, rest, low, high, pointer):
        values = rest.get("enum", [rest["const"]] if "const" in rest else None) if isinstance(rest, dict) else None
        if first or values is None or set(self.document.asserted(rest, f"{pointer}/items")) - {"enum", "const", "type"}:
            raise UnsupportedSchema(f"{pointer}/uniqueItems", "'uniqueItems' of items that are no enum")
        if len(values) > MAX_DISTINCT:
            raise UnsupportedSchema(f"{pointer}/uniqueItems", f"'uniqueItems' of over {MAX_DISTINCT} values")
        ask, kept = self.document.validator.evolve(schema=rest), []
        for value in values:
            if ask.is_valid(value) and not any(merging.same(value, other) for other in kept):
                kept.append(value)
        texts = frozenset(self._text(dumps(value, pointer), pointer).data for value in kept)
        high = len(texts) if high is None else min(high, len(texts))
        if low > high:
            return NEVER
        starts = [Sequence((Text(text), Distinct(texts - {text}, max(0, low - 1), high - 1))) for text in sorted(texts)]
        return Sequence((Text(b"["), Choice(starts if low else [EMPTY, *starts]), Text(b"]")))

    def _object(self, schema, pointer):
        properties, required = schema.get("properties", {}), set(schema.get("required", ()))
        others, allowed = self._others(schema, pointer)
        low, high = _limits(schema, "minProperties", "maxProperties")
        names = [*properties, *sorted(required - properties.keys())]
        keys = [self._text(dumps(name, pointer), pointer).data for name in names]
        values = [self.node(*self._named(schema, name, others, allowed, pointer)) for name in names]
        # How many are written: exactly, if the schema counts them, else whether there is any (and so a comma).
        most = len(names) if low > 1 or high is not None else 1
        if len(names) - len(required) > MAX_OPTIONAL:
            raise UnsupportedSchema(pointer, f"an object of over {MAX_OPTIONAL} optional properties")
        if len(names) * (most + 1) > MAX_MEMBERS:
            raise UnsupportedSchema(pointer, f"an object of {len(names)} properties that are counted")
        other = self.node(others, f"{pointer}/additionalProperties") if others is not False else NEVER
        taken = frozenset(key[1:] for key in keys)
        other = functools.partial(Others, other, allowed, taken) if other is not NEVER else None
        ends = [self._end(other, written, low, high, pointer) for written in range(most + 1)]
        for key, name, value in reversed(list(zip(keys, names, values, strict=True))):
            with_it = [
                Sequence((Text((b", " if written else b"") + key + b": "), value, ends[min(written + 1, most)]))
                if high is None or written < high
                else NEVER
                for written in range(most + 1)
            ]
            ends = [one if name in required else Choice((skip, one)) for skip, one in zip(ends, with_it, strict=True)]
            self.count += len(ends)
        return Sequence((Text(b"{"), ends[0], Text(b"}")))

    def _others(self, schema, pointer):
        """(the schema of properties that the schema does not name: False for none, the Dfa of what they are called)."""
        patterns = schema.get("patternProperties", {})
        if len(patterns) > 1 or (patterns and schema.get("additionalProperties", False) is not False):
            what = "several patterns of properties, or one in an object that is open to others"
            raise UnsupportedSchema(f"{pointer}/patternProperties", what)
        return merging.others_of(schema), self._spellable(pattern_dfa(*patterns) if patterns else any_string())

    def _named(self, schema, name, others, allowed, pointer):
        """(the schema of a property that is named, or only required, where it stands)."""
        properties, place = schema.get("properties", {}), below(pointer, "properties", name)
        if not schema.get("patternProperties"):
            return properties.get(name, schema.get("additionalProperties", True)), place
        if not (name.isascii() and name.isprintable()):  # Python and ECMA 262 may differ on whether the pattern is met
            raise UnsupportedSchema(place, "a name beside 'patternProperties' that is not plain ASCII")
        asked = [properties[name]] if name in properties else []
        asked += [others] if allowed.accepts(dumps(name, pointer)[1:-1]) else []
        return functools.reduce(merging.both, asked) if asked else False, place

    def _end(self, other, written, low, high, pointer):
        """What may follow the named properties, of which so many are written."""
        missing = max(0, low - written)
        if other is None or (high is not None and written >= high):
            return NEVER if missing or (high is not None and written > high) else EMPTY
        if missing > 1:
            raise UnsupportedSchema(f"{pointer}/minProperties", "two or more properties that no schema names")
        return other(bool(written), missing, None if high is None else high - written)


def _refuse(keywords, pointer):
    for keyword in sorted(keywords):
        raise UnsupportedSchema(below(pointer, keyword), f"the keyword {keyword!r} here")


def _limits(schema, least, most):
    high = schema.get(most)
    return int(schema.get(least, 0)), None if high is None else int(high)


def _copied(plain, schema, find):
    """`plain`, or a node that a request can replace, where the schema says that the value is copied from one."""
    return Copied(plain, find) if "x-from" in schema else plain


def choice(parts):
    """A Choice in which texts that begin alike are read once: a tree instead of a list."""
    parts = [flat for part in parts for flat in (part.parts if isinstance(part, Choice) else (part,))]
    groups = {}
    for part in dict.fromkeys(parts):
        data, rest = _opening(part)
        groups.setdefault(data[:1] if data else part, []).append((part, data, rest))
    found = []
    for members in groups.values():
        if len(members) == 1:
            found.append(members[0][0])
            continue
        common = _common_prefix([data for _, data, _ in members])
        tails = [Sequence(([Text(data[len(common) :])] if data != common else []) + rest) for _, data, rest in members]
        found.append(Sequence((Text(common), choice(tails))))
    return found[0] if len(found) == 1 else Choice(found)


def _opening(part):
    """(the bytes that a node begins with, the nodes after them); (b"", []) where it does not begin with a Text."""
    rest = [part]
    while rest and isinstance(rest[0], Sequence) and not isinstance(rest[0], Copied) and len(rest) < 50:
        if isinstance(rest[0], Rule) and not rest[0].parts:
            break
        rest = [*rest[0].parts, *rest[1:]]
    return (rest[0].data, rest[1:]) if rest and isinstance(rest[0], Text) and rest[0].data else (b"", [])


def _common_prefix(texts):
    low, high = min(texts), max(texts)
    length = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    return low[:length]
