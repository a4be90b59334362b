"""The grammar engine: whatever it lets through is valid, in time, and what it cannot do it refuses."""

import json
import random
import time

import pytest
from jsonschema import Draft202012Validator

import tools as toolbox
from playground import grammar

TOOLS = toolbox.load_tools()
DRAFT_4, DRAFT_7 = (f"http://json-schema.org/draft-0{draft}/schema#" for draft in (4, 7))
SCHEMAS = {
    "the default tools": toolbox.call_schema(TOOLS),
    "optional properties": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": ["string", "null"]}, "c": {"type": "boolean"}},
        "required": ["b"],
    },
    "nested": {
        "type": "object",
        "properties": {
            "in": {"type": "object", "properties": {"x": {"type": "number"}}},
            "é": {"enum": ["ä", 1, None]},
        },
        "required": ["é"],
    },
    "short strings": {"type": "string", "minLength": 3},
}


def walk(compiled, tokenizer, budget, rng):
    """Random allowed tokens until the end-of-sequence token or the budget; returns the text."""
    matcher, ids = compiled.matcher(), []
    for left in range(budget, 0, -1):
        token = rng.choice(matcher.mask(left).nonzero().flatten().tolist())
        if token == tokenizer.eos_token_id:
            assert matcher.is_complete
            break
        matcher.accept(token)
        ids.append(token)
    assert matcher.is_complete
    return tokenizer.decode(ids)


def accepts(compiled, ids):
    matcher = compiled.matcher()
    try:
        for token in ids:
            assert matcher.mask(10_000)[token]
            matcher.accept(token)
    except AssertionError:
        return False
    return matcher.is_complete


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("spare", [0, 1, 5, 50])
def test_every_random_walk_ends_in_valid_text_at_any_budget(tokenizer, name, spare):
    compiled = grammar.compile_schema(SCHEMAS[name], tokenizer)
    budget = compiled.matcher().min_tokens_to_complete + spare
    rng = random.Random(f"{name}{spare}")
    for _ in range(20):
        text = walk(compiled, tokenizer, budget, rng)
        value = json.loads(text)
        Draft202012Validator(SCHEMAS[name]).validate(value)


def test_random_walks_with_gpt2s_vocabulary_are_valid_too(gpt2_tokenizer):
    compiled = grammar.compile_schema(SCHEMAS["the default tools"], gpt2_tokenizer)
    rng = random.Random(0)
    for _ in range(10):
        text = walk(compiled, gpt2_tokenizer, 120, rng)
        assert toolbox.validate_call(toolbox.parse_call(text), TOOLS) == []


def test_valid_calls_are_accepted_in_more_than_one_tokenization(tokenizer):
    compiled = grammar.compile_schema(toolbox.call_schema(TOOLS), tokenizer)
    for city in ("Oslo", "São Paulo", 'say "hi"\\\n', "日本 🎉"):
        text = toolbox.to_json({"tool": "get_weather", "args": {"city": city}})
        by_characters = [token for c in text for token in tokenizer(c, add_special_tokens=False)["input_ids"]]
        assert accepts(compiled, tokenizer(text, add_special_tokens=False)["input_ids"])
        assert accepts(compiled, by_characters)


@pytest.mark.parametrize(
    "text",
    ['{"tool": "dance", "args": {}}', '{"tool": "get_weather", "args": {}}', '{"tool": "get_weather"}', "Oslo",
     '{"tool": "get_weather", "args": {"city": ""}}', '{"tool": "get_weather", "args": {"city": "Oslo", "day": "x"}}',
     '{"args": {"city": "Oslo"}, "tool": "get_weather"}', '{"tool": "get_weather", "args": {"city": "a\nb"}}'],
)  # fmt: skip
def test_invalid_calls_are_not_accepted(tokenizer, text):
    compiled = grammar.compile_schema(toolbox.call_schema(TOOLS), tokenizer)
    assert not accepts(compiled, tokenizer(text, add_special_tokens=False)["input_ids"])


def test_a_leading_space_comes_only_where_asked_for(tokenizer):
    ids = tokenizer(' "ab"', add_special_tokens=False)["input_ids"]
    assert accepts(grammar.compile_schema({"type": "string"}, tokenizer, leading_space=True), ids)
    assert not accepts(grammar.compile_schema({"type": "string"}, tokenizer), ids)


def test_special_tokens_stand_in_no_value_and_the_end_only_at_the_end(tokenizer):
    matcher = grammar.compile_schema({"type": "string"}, tokenizer).matcher()
    matcher.accept(tokenizer('"', add_special_tokens=False)["input_ids"][0])
    assert not matcher.mask(100)[tokenizer.eos_token_id]
    with pytest.raises(ValueError, match="special"):
        matcher.accept(tokenizer.eos_token_id)


def test_a_budget_below_the_shortest_text_is_an_error_with_both_numbers(tokenizer):
    matcher = grammar.compile_schema({"const": "Oslo"}, tokenizer).matcher()
    fewest = matcher.min_tokens_to_complete
    assert fewest < len('"Oslo"') and matcher.mask(fewest).any()
    with pytest.raises(grammar.BudgetTooSmall, match=f"needs {fewest} tokens, and only {fewest - 1}"):
        matcher.mask(fewest - 1)


def test_openapis_nullable_allows_null_and_the_type(tokenizer):
    compiled = grammar.compile_schema({"type": "string", "nullable": True}, tokenizer)
    for text, valid in (("null", True), ('"a"', True), ("1", False)):
        assert accepts(compiled, tokenizer(text, add_special_tokens=False)["input_ids"]) is valid


def test_what_is_forced_is_the_text_up_to_the_next_choice(tokenizer):
    matcher = grammar.compile_schema(toolbox.call_schema(TOOLS), tokenizer).matcher()
    assert matcher.forced() == '{"tool": "'
    for token in tokenizer('{"tool": "g', add_special_tokens=False)["input_ids"]:
        matcher.accept(token)
    assert matcher.forced() == 'et_weather", "args": {"city": "'
    assert grammar.compile_schema({"enum": [1, 12]}, tokenizer).matcher().forced() == "1"


@pytest.mark.parametrize(
    ("schema", "pointer"),
    [
        ({"type": "string", "pattern": "(?=a)b"}, "#: the pattern '(?=a)b' (assert in a pattern)"),
        ({"type": "object", "properties": {"a": {"type": "string", "format": "ipv6"}}}, "#/properties/a/format"),
        ({"type": "array", "uniqueItems": True, "items": {"type": "integer"}}, "#/uniqueItems"),
        ({"type": "array", "contains": {"const": 1}}, "#/contains"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "#/oneOf"),
        ({"not": {"type": "null"}}, "#/not"),
        ({"$ref": "https://example.org/s.json"}, "#/$ref"),
        ({"$ref": "#/$defs/gone"}, "#/$ref"),
        ({"type": "number", "multipleOf": 0.1}, "#/multipleOf"),
        ({"type": "object", "flavour": "sweet"}, "#/flavour"),
        ({"type": "strnig"}, "#/type: not a valid JSON Schema"),
        ({"properties": {"a/b~": {"not": {"type": "null"}}}}, "#/properties/a~1b~0/not"),
        ({"oneOf": [{"minLength": 3}, {"minimum": 5}]}, "#/oneOf"),
        ({"$defs": {"a": {"$id": "http://o/"}}, "$ref": "#/$defs/a"}, "#/$ref"),
        ({"examples": [{"minLength": "a"}], "$ref": "#/examples/0"}, "#/examples/0/minLength"),
        ({"$schema": DRAFT_7, "items": [{}]}, "#/items: not a valid JSON Schema"),
        ({"$schema": DRAFT_7, "additionalItems": False}, "#/additionalItems"),
        ({"$schema": DRAFT_4, "minimum": 3, "exclusiveMinimum": True}, "#/exclusiveMinimum: not a valid JSON Schema"),
        ({"$schema": []}, "#/$schema"),
        ({"type": "number", "minimum": 2**53 + 1}, "#/minimum"),
        ({"type": "number", "exclusiveMaximum": 0.9000000000000004}, "over 15 digits"),
        ({"enum": [{"a": 1}], "properties": {"a": {"$ref": "http://127.0.0.1/"}}}, "#/properties"),
        ({"type": "string", "pattern": "(?i)[^a]"}, "flags in a pattern"),
        ({"type": "string", "pattern": "a{99999999999}"}, "the repetition number"),
        ({"type": "string", "format": "date", "minLength": 5 * 10**9}, "#: a length"),
        ({"patternProperties": {"a": {}, "b": {}}}, "#/patternProperties: several patterns"),
        ({"patternProperties": {"a": {}}, "additionalProperties": True}, "#/patternProperties"),
        ({"patternProperties": {"(": {}}}, "#: the pattern '('"),
        ({"enum": ["a"], "pattern": "("}, "#: the pattern '('"),
        ({"patternProperties": {"a": {}}, "properties": {"é": {}}}, "#/properties/é: a name beside"),
        ({"patternProperties": {"a": {}}, "allOf": [{"properties": {"b": {}}}]}, "#: 'patternProperties' beside"),
        (
            {
                "oneOf": [
                    {"patternProperties": {"a": {}}, "type": "object", "additionalProperties": False},
                    {"type": "object", "properties": {"a": {}}, "required": ["a"]},
                ]
            },
            "#/oneOf",
        ),
        (None, "#: not a valid JSON Schema"),
        ({"const": float("nan")}, "#: a number"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(tokenizer, schema, pointer):
    with pytest.raises(grammar.UnsupportedSchema) as caught:
        grammar.compile_schema(schema, tokenizer)
    assert pointer in str(caught.value)


@pytest.mark.parametrize(
    "schema",
    [False, {"$ref": "#"}, {"anyOf": [{"$ref": "#"}]}, {"enum": [], "type": "string"},
     {"type": "array", "items": {"$ref": "#"}, "minItems": 1}, {"type": "integer", "minimum": 1, "maximum": 0},
     {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
     {"allOf": [{"type": "string"}, {"type": "null"}]}, {"type": "string", "minLength": 3, "maxLength": 2},
     {"type": "array", "items": {"enum": [1, 1.0, 2]}, "uniqueItems": True, "minItems": 3},
     {"type": "number", "minimum": 1e100}, {"type": "integer", "maximum": float("-inf")},
     {"allOf": [{"enum": [1]}, {"enum": [True]}]}, {"type": "string", "not": {"required": ["a"]}},
     {"type": "object", "required": ["a"], "unevaluatedProperties": False}],
)  # fmt: skip
def test_a_schema_that_nothing_satisfies_is_refused(tokenizer, schema):
    with pytest.raises(grammar.UnsupportedSchema, match="nothing satisfies"):
        grammar.compile_schema(schema, tokenizer)


def nested(levels):
    schema = {"type": "null"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def doubled(levels):
    """Each level asks twice for the one below: 2 ** levels schemas, if each is looked at."""
    return {f"a{i}": {"allOf": [{"$ref": f"#/$defs/a{i - 1}"}] * 2} for i in range(1, levels)} | {"a0": {}}


def words(count):
    return [f"{i * 7919 % 99991:08}" for i in range(count)]


HOSTILE = {
    "10,000 nested arrays": nested(10_000),
    "a pattern with exponentially many states": {"type": "string", "pattern": "^(a|b)*a(a|b){30}$"},
    "a pattern of nested repeats": {"type": "string", "pattern": "((((a{9}){9}){9}){9}){9}"},
    "a pattern of 10,000 parentheses": {"type": "string", "pattern": "(" * 10_000 + ")" * 10_000},
    "a string of a gigabyte": {"type": "string", "minLength": 10**9},
    "a billion items": {"type": "array", "items": {"type": "null"}, "minItems": 10**9},
    "a counted object of 1,000 properties": {"properties": {f"p{i}": {} for i in range(1000)}, "minProperties": 500},
    "a circle of references": {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    "a circle with neighbours": {"$ref": "#", "minLength": 1},
    "a choice that multiplies": {"allOf": [{"anyOf": [{"minLength": i}, {"maxLength": 99 + i}]} for i in range(20)]},
    "a large multiple": {"type": "integer", "multipleOf": 10**12},
    "half of a surrogate pair": {"const": "\ud800"},
    "an allOf that doubles": {"$defs": doubled(30), "$ref": "#/$defs/a29"},
    "a slow pattern beside an enum": {"enum": ["a" * 40 + "!"], "pattern": "^(a+)+$"},
    "a pattern of 5,000 options": {"type": "string", "pattern": "^(a?){5000}$"},
    "2,000 optional properties": {"properties": {word: {} for word in words(2000)}},
    "1,000 distinct items": {"type": "array", "uniqueItems": True, "items": {"enum": words(1000)}},
    "an enum of 4,000 mixed values": {"enum": [*words(2000), *range(2000)]},
    "a long name in an open object": {"properties": {"a" * 10**6: {}}, "additionalProperties": True},
    "a number of 5,000 digits": {"const": 10**5000},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_schema_is_refused_at_once(tokenizer, name):
    begin = time.process_time()
    with pytest.raises(grammar.UnsupportedSchema):
        grammar.compile_schema(HOSTILE[name], tokenizer)
    assert time.process_time() - begin < 20  # far above what it takes: a guard against hanging, not a measurement


def test_too_many_readings_at_once_are_an_error_and_no_hang(tokenizer):
    tree = {"anyOf": [{"type": "array", "items": {"$ref": "#"}, "maxItems": i} for i in range(1, 9)]}
    matcher = grammar.compile_schema(tree, tokenizer).matcher()
    with pytest.raises(grammar.TooManyWays):
        for _ in range(20):
            matcher.accept(tokenizer("[", add_special_tokens=False)["input_ids"][0])


def test_metaspace_tokens_are_read_as_the_bytes_they_stand_for():
    from playground.grammar.vocabulary import _metaspace

    assert [_metaspace(token) for token in ("▁a", "<0xC3>", "é")] == [b" a", b"\xc3", "é".encode()]


def test_a_special_tokens_name_in_a_constant_is_only_text(tokenizer):
    from playground.grammar.jump import jump

    matcher = grammar.compile_schema({"const": tokenizer.eos_token}, tokenizer).matcher()
    *ids, end = jump(matcher, tokenizer, [], 50)
    assert tokenizer.eos_token_id not in ids and end == tokenizer.eos_token_id
    assert tokenizer.decode(ids) == json.dumps(tokenizer.eos_token)


def test_an_open_object_may_have_names_with_quotation_marks_in_them(tokenizer):
    compiled = grammar.compile_schema({"type": "object", "properties": {"": {}}, "additionalProperties": {}}, tokenizer)
    assert accepts(compiled, tokenizer(json.dumps({'"': 0, 'a"b': 1})).input_ids)


@pytest.mark.parametrize("uri", ["http://a:b", "http://a@b@c/", "a://b:c/d"])
def test_a_uri_has_a_port_of_digits_and_one_user(tokenizer, uri):
    compiled = grammar.compile_schema({"type": "string", "format": "uri"}, tokenizer)
    assert not accepts(compiled, tokenizer(json.dumps(uri), add_special_tokens=False)["input_ids"])
    good = "http://u:p@a.org:80/b/c?d=/e#f?"
    assert accepts(compiled, tokenizer(json.dumps(good), add_special_tokens=False)["input_ids"])
