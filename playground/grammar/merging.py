"""Schemas put together: what `allOf`, `$ref` with neighbours, and `anyOf` with neighbours ask for at once."""

import itertools
import math

from playground.grammar.unsupported import UnsupportedSchema

# Said about values, not asked of them.
ANNOTATIONS = """title description default examples example deprecated readOnly writeOnly $comment $schema $id id
    $defs definitions contentMediaType contentEncoding discriminator externalDocs xml""".split()
DEPENDENT = ("dependentRequired", "dependentSchemas", "dependencies")  # the last is draft 7's name for both
MAX_OPTIONS = 500  # of one place, after its choices are multiplied out
MAX_DEPTH = 60  # $refs and combinations inside one another


def asserted(schema):
    """The keywords that ask something of a value; names beginning with "x-" are OpenAPI's remarks."""
    return {key: value for key, value in schema.items() if key not in ANNOTATIONS and not key.startswith("x-")}


def options(schema, resolve, pointer, depth=0):
    """`schema` as a list of (schema without $ref, allOf, anyOf and oneOf, pointer), of which a value meets one.

    resolve: from a $ref and the pointer of its place to (schema, pointer).
    """
    if depth > MAX_DEPTH:
        raise UnsupportedSchema(pointer, f"a chain of over {MAX_DEPTH} references and combinations")
    if schema is True:
        return [({}, pointer)]
    if schema is False:
        return []
    schema = asserted(schema)
    reference, every = schema.pop("$ref", None), schema.pop("allOf", [])
    some, one, never = (schema.pop(key, None) for key in ("anyOf", "oneOf", "not"))
    found = [(schema, pointer)]
    if reference is not None:
        target, place = resolve(reference, pointer)
        found = _product(found, options(target, resolve, place, depth + 1), pointer)
    for i, part in enumerate(every):
        found = _product(found, options(part, resolve, f"{pointer}/allOf/{i}", depth + 1), pointer)
    if some is not None:
        branches = (options(part, resolve, f"{pointer}/anyOf/{i}", depth + 1) for i, part in enumerate(some))
        found = _product(found, [*itertools.chain.from_iterable(branches)], pointer)
    for name, needed in [item for key in DEPENDENT for item in schema.pop(key, {}).items()]:
        # Either the property is missing, or what depends on it holds too.
        needed = {"required": needed} if isinstance(needed, list) else needed
        without = [({"properties": {name: False}}, pointer)]
        having = _product([({"required": [name]}, pointer)], options(needed, resolve, pointer, depth + 1), pointer)
        found = _product(found, without + having, pointer)
    if never is not None:
        found = _product(found, _negation(never, pointer), pointer)
    if one is not None:
        branches = [options(part, resolve, f"{pointer}/oneOf/{i}", depth + 1) for i, part in enumerate(one)]
        branches = [_product(found, branch, pointer) for branch in branches]
        found = _exactly_one(branches, one, resolve, f"{pointer}/oneOf")
    return found


def _negation(schema, pointer):
    """The options of `not`: of everything, and of required properties, one of which is then missing."""
    if schema in ({}, True):
        return []
    if schema is False:
        return [({}, pointer)]
    if list(asserted(schema)) == ["required"]:
        return [({"properties": {name: False}}, pointer) for name in schema["required"]]
    raise UnsupportedSchema(f"{pointer}/not", "'not' of anything but 'required'")


def _product(left, right, pointer):
    if len(left) * len(right) > MAX_OPTIONS:
        raise UnsupportedSchema(pointer, f"a choice among over {MAX_OPTIONS} combinations")
    found = []
    for (one, place), (two, other_place) in itertools.product(left, right):
        merged = merge(one, two, pointer)
        if merged is not None:
            found.append((merged, place if one else other_place))
    return found


def merge(left, right, pointer):
    """One schema for both, neither with combinations of its own; None where no value can meet both."""
    if not left or not right:
        return left or right
    merged = left | right
    for key in left.keys() & right.keys():
        one, two = left[key], right[key]
        if one == two and type(one) is type(two):
            continue
        match key:
            case "type":
                merged[key] = _common_types(one, two)
                if not merged[key]:
                    return None
            case "enum":
                merged[key] = [value for value in one if any(same(value, other) for other in two)]
            case "const":
                if not same(one, two):
                    return None
            case "required":
                merged[key] = list(dict.fromkeys([*one, *two]))
            case "minimum" | "exclusiveMinimum" | "minLength" | "minItems" | "minProperties":
                merged[key] = max(one, two)
            case "maximum" | "exclusiveMaximum" | "maxLength" | "maxItems" | "maxProperties":
                merged[key] = min(one, two)
            case "uniqueItems" | "nullable":
                merged[key] = (one or two) if key == "uniqueItems" else (one and two)
            case "items" | "additionalProperties":
                merged[key] = {"allOf": [one, two]}
            case "properties":
                pass
            case "multipleOf" if isinstance(one, int) and isinstance(two, int):
                merged[key] = math.lcm(one, two)
            case _:
                raise UnsupportedSchema(pointer, f"two different {key!r} for one value")
    if "properties" in merged:
        merged["properties"] = _merge_properties(left, right)
    return merged


def _merge_properties(left, right):
    names = dict.fromkeys([*left.get("properties", {}), *right.get("properties", {})])
    merged = {}
    for name in names:
        # A side that does not name a property speaks of it through additionalProperties.
        sides = [side.get("properties", {}).get(name, side.get("additionalProperties", True)) for side in (left, right)]
        sides = [side for side in sides if side is not True]
        merged[name] = sides[0] if len(sides) == 1 else {"allOf": sides} if sides else True
    return merged


# The keywords of each type: a schema that names no type is about those whose keywords it has.
KEYWORDS = {
    "object": {"properties", "required", "additionalProperties", "minProperties", "maxProperties"},
    "array": {"items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems"},
    "string": {"minLength", "maxLength", "pattern", "format"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
}
ALL_KEYWORDS = {"type", "nullable", "unevaluatedProperties"}.union(*KEYWORDS.values())


def types_of(schema):
    """The types that a schema without combinations allows, as a list; [] if nothing says."""
    if "type" in schema:
        found = [schema["type"]] if isinstance(schema["type"], str) else list(schema["type"])
    elif "enum" in schema or "const" in schema:
        found = ["null", "boolean", "number", "string", "array", "object"]
    else:
        found = [name for name, keywords in KEYWORDS.items() if keywords & schema.keys()]
    return [*found, "null"] if found and schema.get("nullable") is True and "null" not in found else found


def others_of(schema):
    """What an object's unnamed properties must meet: False (there are none) unless it says so or names none at all."""
    return schema.get("additionalProperties", not schema.get("properties"))


def _common_types(one, two):
    one, two = ([side] if isinstance(side, str) else side for side in (one, two))
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


def _exactly_one(branches, parts, resolve, pointer):
    """The options of all branches, each without what also meets another; UnsupportedSchema if that is not plain."""
    found = []
    for i, branch in enumerate(branches):
        for j, other in enumerate(branches):
            apart = all(disjoint(a, b, resolve, pointer) for (a, _), (b, _) in itertools.product(branch, other))
            if i != j and not apart:
                if not isinstance(parts[j], dict) or list(asserted(parts[j])) != ["required"]:
                    raise UnsupportedSchema(pointer, f"a value that may meet both branch {i} and branch {j} of 'oneOf'")
                branch = _product(branch, _negation(parts[j], pointer), pointer)
        found += branch
    return found


def disjoint(one, two, resolve, pointer, depth=0):
    """Whether it is plain that no value that the grammar writes for one schema meets the other."""
    if not _overlap(types_of(one) or ["any"], types_of(two) or ["any"]):
        return True
    values = [_values(schema) for schema in (one, two)]
    if None not in values:
        return not any(same(value, other) for value in values[0] for other in values[1])
    if set(types_of(one)) != {"object"} or set(types_of(two)) != {"object"} or depth > 4:
        return False
    names = [schema.get("properties", {}) for schema in (one, two)]
    required = [set(schema.get("required", ())) for schema in (one, two)]
    closed = [others_of(schema) is False for schema in (one, two)]
    # A property that one must have and the other, as it is written here, cannot.
    if all(closed) and (required[0] - names[1].keys() and required[1] - names[0].keys()):
        return True
    for this, other in ((0, 1), (1, 0)):
        if (one, two)[other].get("additionalProperties") is False and required[this] - names[other].keys():
            return True
        if any(not options(names[other][name], resolve, pointer) for name in required[this] & names[other].keys()):
            return True
    return any(
        all(
            disjoint(a, b, resolve, pointer, depth + 1)
            for a, _ in options(names[0][name], resolve, pointer)
            for b, _ in options(names[1][name], resolve, pointer)
        )
        for name in required[0] & required[1] & names[0].keys() & names[1].keys()
    )


def _overlap(one, two):
    numbers = {"integer", "number"}
    return "any" in (*one, *two) or set(one) & set(two) or (numbers & set(one) and numbers & set(two))


def _values(schema):
    if "const" in schema:
        return [schema["const"]]
    if "enum" in schema:
        return schema["enum"]
    return [True, False] if schema.get("type") == "boolean" else [None] if schema.get("type") == "null" else None
