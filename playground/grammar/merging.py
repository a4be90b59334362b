"""Schemas put together: what `allOf`, `$ref` with neighbours, and `anyOf` with neighbours ask for at once."""

import functools
import itertools
import json
import math

from playground.grammar.unsupported import UnsupportedSchema

DEPENDENT = ("dependentRequired", "dependentSchemas", "dependencies")  # the last is draft 7's name for both
MAX_OPTIONS = 500  # of one place, after its choices are multiplied out
MAX_DEPTH = 60  # $refs and combinations inside one another


def options(schema, document, pointer, depth=0):
    """`schema` as a list of (schema without $ref, allOf, anyOf and oneOf, pointer), of which a value meets one.

    document: the Document in which it stands, for its references and to count the work.
    """
    if depth > MAX_DEPTH:
        raise UnsupportedSchema(pointer, f"a chain of over {MAX_DEPTH} references and combinations")
    if schema is True:
        return [({}, pointer)]
    if schema is False:
        return []
    schema = document.asserted(schema, pointer)
    document.spend(1 + len(schema), pointer)
    reference, never = schema.pop("$ref", None), schema.pop("not", None)
    every, some, one = (schema.pop(key, []) for key in ("allOf", "anyOf", "oneOf"))
    dependent = [item for key in DEPENDENT for item in schema.pop(key, {}).items()]
    unevaluated = schema.pop("unevaluatedProperties", True)
    factors = [[(schema, pointer)]]  # one option of each has to be met
    if reference is not None:
        target, place = document.resolve(reference, pointer)
        factors.append(options(target, document, place, depth + 1))
    factors += [options(part, document, f"{pointer}/allOf/{i}", depth + 1) for i, part in enumerate(every)]
    if some:
        branches = (options(part, document, f"{pointer}/anyOf/{i}", depth + 1) for i, part in enumerate(some))
        factors.append([*itertools.chain.from_iterable(branches)])
    for name, needed in dependent:  # either the property is missing, or what depends on it holds too
        needed = {"required": needed} if isinstance(needed, list) else needed
        needed = options(needed, document, pointer, depth + 1)
        having = _product([({"required": [name]}, pointer)], needed, document, pointer)
        factors.append([({"properties": {name: False}}, pointer), *having])
    if never is not None:
        factors.append(_negation(never, document, pointer))
    found = functools.reduce(lambda left, right: _product(left, right, document, pointer), factors)
    if one:
        branches = [options(part, document, f"{pointer}/oneOf/{i}", depth + 1) for i, part in enumerate(one)]
        branches = [_product(found, branch, document, pointer) for branch in branches]
        found = _exactly_one(branches, one, document, f"{pointer}/oneOf")
    if unevaluated is not True:  # what no part names, now that the parts are together
        found = [({"additionalProperties": unevaluated} | option, place) for option, place in found]
    return found


def _negation(schema, document, pointer):
    """The options of `not`: of everything, and of required properties, one of which is then missing."""
    if schema is True or schema == {}:
        return []
    if schema is False:
        return [({}, pointer)]
    if list(document.asserted(schema, f"{pointer}/not")) == ["required"]:  # which everything but objects meets
        return [({"type": "object", "properties": {name: False}}, pointer) for name in schema["required"]]
    raise UnsupportedSchema(f"{pointer}/not", "'not' of anything but 'required'")


def _product(left, right, document, pointer):
    if len(left) * len(right) > MAX_OPTIONS:
        raise UnsupportedSchema(pointer, f"a choice among over {MAX_OPTIONS} combinations")
    found = []
    for (one, place), (two, other_place) in itertools.product(left, right):
        document.spend(_steps(one, two), pointer)
        merged = merge(one, two, pointer)
        if merged is not None:
            found.append((merged, place if one else other_place))
    return found


def _steps(one, two):
    """Roughly what it takes to merge them."""
    enums = len(one.get("enum", ())) * len(two.get("enum", ())) // 8
    return len(one) + len(two) + len(one.get("properties", ())) + len(two.get("properties", ())) + enums


def merge(left, right, pointer):
    """One schema for both, neither with combinations of its own; None where no value can meet both."""
    if not left or not right:
        return left or right
    if "patternProperties" in left | right and left.keys() & MEMBERS and right.keys() & MEMBERS:
        raise UnsupportedSchema(pointer, "'patternProperties' beside another schema's properties")
    merged = left | right
    for key in left.keys() & right.keys():
        one, two = left[key], right[key]
        if same(one, two):
            continue
        match key:
            case "type":
                merged[key] = _common_types(types_of(left), types_of(right))
                if not merged[key]:
                    return None
            case "enum":
                merged[key] = [value for value in one if any(same(value, other) for other in two)]
            case "const":
                return None
            case "required":
                merged[key] = list(dict.fromkeys([*one, *two]))
            case "minimum" | "exclusiveMinimum" | "minLength" | "minItems" | "minProperties":
                merged[key] = max(one, two)
            case "maximum" | "exclusiveMaximum" | "maxLength" | "maxItems" | "maxProperties":
                merged[key] = min(one, two)
            case "uniqueItems":
                merged[key] = one or two
            case "additionalProperties":
                merged[key] = both(one, two)
            case "properties" | "items" | "prefixItems":
                pass
            case "multipleOf" if isinstance(one, int) and isinstance(two, int):
                merged[key] = math.lcm(one, two)
            case _:
                raise UnsupportedSchema(pointer, f"two different {key!r} for one value")
    if "properties" in merged:
        merged["properties"] = _merge_properties(left, right)
    if left.keys() & ITEMS and right.keys() & ITEMS:
        merged = {key: value for key, value in merged.items() if key not in ITEMS} | _merge_items(left, right)
    return merged


def both(one, two):
    """The allOf of two schemas: flat and without repeats, so that schemas that hold each other come to an end."""
    sides = [side["allOf"] if isinstance(side, dict) and list(side) == ["allOf"] else [side] for side in (one, two)]
    parts = {json.dumps(part): part for part in [*sides[0], *sides[1]] if part is not True}
    return {"allOf": [*parts.values()]} if len(parts) > 1 else next(iter(parts.values()), True)


def _merge_properties(left, right):
    names = dict.fromkeys([*left.get("properties", {}), *right.get("properties", {})])
    merged = {}
    for name in names:
        # A side that does not name a property speaks of it through additionalProperties.
        sides = [side.get("properties", {}).get(name, side.get("additionalProperties", True)) for side in (left, right)]
        merged[name] = both(*sides)
    return merged


def _merge_items(left, right):
    (first, rest), (other_first, other_rest) = items_of(left), items_of(right)
    length = max(len(first), len(other_first))
    first = first + [rest] * (length - len(first))
    other_first = other_first + [other_rest] * (length - len(other_first))
    return {"prefixItems": [*map(both, first, other_first)], "items": both(rest, other_rest)}


def items_of(schema):
    """(the schemas of an array's first items, that of the others)."""
    return schema.get("prefixItems", []), schema.get("items", True)


TYPES = ["null", "boolean", "number", "string", "array", "object"]
# The keywords of each type: a schema that names no type is about those whose keywords it has.
MEMBERS = {"properties", "patternProperties", "additionalProperties"}
KEYWORDS = {
    "object": {"required", "minProperties", "maxProperties"}.union(MEMBERS),
    "array": {"items", "prefixItems", "minItems", "maxItems", "uniqueItems"},
    "string": {"minLength", "maxLength", "pattern", "format", "x-from", "x-max-words"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
}
ITEMS = {"items", "prefixItems"}
ALL_KEYWORDS = {"type"}.union(*KEYWORDS.values())


def types_of(schema):
    """The types that a schema without combinations allows, as a list; [] if nothing says."""
    if "type" in schema:
        return [schema["type"]] if isinstance(schema["type"], str) else list(schema["type"])
    if "enum" in schema or "const" in schema:
        return TYPES
    return [name for name, keywords in KEYWORDS.items() if keywords & schema.keys()]


def others_of(schema):
    """What an object's unnamed properties must meet: False (there are none) unless it says so or names none at all."""
    if schema.get("patternProperties"):
        return next(iter(schema["patternProperties"].values()))
    return schema.get("additionalProperties", not schema.get("properties"))


def _common_types(one, two):
    common = [name for name in one if name in two]
    if "integer" not in common and (("integer" in one and "number" in two) or ("number" in one and "integer" in two)):
        common.append("integer")
    return common


def same(one, two):
    """Equality of JSON values: 1 is 1.0, and true is not 1."""
    if isinstance(one, bool) or isinstance(two, bool):
        return one is two
    if isinstance(one, list) and isinstance(two, list):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    return one == two


# ---- oneOf


def _exactly_one(branches, parts, document, pointer):
    """The options of all branches, each without what also meets another; UnsupportedSchema if that is not plain."""
    found = []
    for i, branch in enumerate(branches):
        for j, other in enumerate(branches):
            pairs = itertools.product(branch, other) if i != j else ()
            if not all(disjoint(a, b, document, pointer) for (a, _), (b, _) in pairs):
                place = f"{pointer}/{j}"
                if not isinstance(parts[j], dict) or list(document.asserted(parts[j], place)) != ["required"]:
                    raise UnsupportedSchema(pointer, f"a value that may meet both branch {i} and branch {j} of 'oneOf'")
                branch = _product(branch, _negation(parts[j], document, place), document, pointer)
        found += branch
    return found


def disjoint(one, two, document, pointer, depth=0):
    """True only if no value that the grammar writes for `one` can meet `two`; False where that is costly to show."""
    document.spend(1, pointer)
    # What a schema without a type is about says what is written for it, not what meets it.
    if types_of(one) and "type" in two and not _common_types(types_of(one), types_of(two)):
        return True
    values = [_values(schema) for schema in (one, two)]
    if None not in values:
        return not any(same(value, other) for value in values[0] for other in values[1])
    if set(types_of(one)) != {"object"} or set(types_of(two)) != {"object"} or depth > 4:
        return False
    names = [schema.get("properties", {}) for schema in (one, two)]
    required = [set(schema.get("required", ())) for schema in (one, two)]
    # A property that the other must have and that is not written here.
    if others_of(one) is False and required[1] - names[0].keys() - required[0]:
        return True
    for this, other in ((0, 1), (1, 0)):
        closed = (one, two)[other].get("additionalProperties") is False and "patternProperties" not in (one, two)[other]
        if closed and required[this] - names[other].keys():
            return True
        if any(not options(names[other][name], document, pointer) for name in required[this] & names[other].keys()):
            return True
    return any(
        all(
            disjoint(a, b, document, pointer, depth + 1)
            for a, _ in options(names[0][name], document, pointer)
            for b, _ in options(names[1][name], document, pointer)
        )
        for name in required[0] & required[1] & names[0].keys() & names[1].keys()
    )


def _values(schema):
    if "const" in schema:
        return [schema["const"]]
    if "enum" in schema:
        return schema["enum"]
    return [True, False] if schema.get("type") == "boolean" else [None] if schema.get("type") == "null" else None
