"""The grammar engine on schemas put together of others, or written oddly: they mean what jsonschema says."""

import json
import random

import pytest
from jsonschema import Draft202012Validator, validators

from playground import grammar
from tests.grammar.test_grammar import DRAFT_7, accepts, walk, words

HOLDING_EACH_OTHER = [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}]
COMBINED = {
    "prefixItems beside another's items": {
        "allOf": [{"type": "array", "prefixItems": [{"minimum": 3}], "minItems": 1}, {"items": {"type": "integer"}}]
    },
    "a draft inside a schema, as tools in TypeScript have it": {
        "properties": {"args": {"$schema": DRAFT_7, "type": "object", "properties": {"a": {"type": "null"}}}}
    },
    "names that a cousin leaves unevaluated": {
        "allOf": [{"type": "object", "unevaluatedProperties": False}, {"properties": {"b": {"type": "integer"}}}]
    },
    "unevaluated names": {"type": "object", "unevaluatedProperties": {"type": "integer"}},
    "not required, for what is no object": {"type": ["string", "object"], "not": {"required": ["a"]}},
    "a text or a property": {"oneOf": [{"type": "string"}, {"required": ["a"]}]},
    "a property that another needs, beside allOf": {
        "allOf": [{"type": "object", "properties": {"a": {"type": "null"}, "b": {"type": "null"}}}],
        "dependentRequired": {"a": ["b"]},
    },
    "a bound that is no integer's float": {"type": "integer", "minimum": 99999999999999990000000, "maximum": 1e23},
    "schemas that hold each other": {
        "$defs": {"a": {"items": {"allOf": HOLDING_EACH_OTHER}}, "b": {"items": {"allOf": HOLDING_EACH_OTHER[::-1]}}},
        "allOf": HOLDING_EACH_OTHER,
    },
    "a pointer with an escape": {
        "$defs": {"a b": {"type": "string"}, "a%20b": {"type": "integer"}},
        "$ref": "#/$defs/a%20b",
    },
    "names that are no texts": {"properties": {1: {"type": "null"}}, "required": ["1"]},
    "a pattern of a length": {"type": "string", "pattern": "a|é", "minLength": 2, "maxLength": 4},
    "an address of a length": {"type": "string", "format": "email", "minLength": 2, "maxLength": 254},
    "a pattern of any length, cut short": {"type": "string", "pattern": "^(é|€)+(x|zz)?$", "maxLength": 3},
    "a shortest text of too many characters": {"type": "string", "pattern": "^(abc|😀)$", "maxLength": 2},
    "names of a pattern, one of them with more to meet": {
        "properties": {"a1": {"minimum": 3}, "b": {"type": "null"}},
        "required": ["b", "a2"],
        "patternProperties": {"^a[0-4]$": {"type": "integer"}},
    },
    "names of which a pattern leaves two": {"patternProperties": {"^(é|\\\\)$": {"type": "null"}}, "minProperties": 1},
    "an empty pattern, repeated": {"type": "string", "pattern": "(){4000}", "maxLength": 1},
}


@pytest.mark.parametrize("name", COMBINED)
def test_what_is_combined_or_oddly_written_means_what_jsonschema_says(tokenizer, name):
    schema = json.loads(json.dumps(COMBINED[name]))
    validator = validators.validator_for(schema, default=Draft202012Validator)(schema)
    compiled, rng = grammar.compile_schema(COMBINED[name], tokenizer), random.Random(name)
    for spare in [0, 1, 12] * 10:
        text = walk(compiled, tokenizer, compiled.matcher().min_tokens_to_complete + spare, rng)
        assert validator.is_valid(json.loads(text)), text


def test_del_is_written_as_json_dumps_writes_it_and_no_name_comes_twice(tokenizer):
    schema = {"properties": {"\x7f": {"type": "integer"}}, "additionalProperties": {"type": "string"}}
    compiled = grammar.compile_schema(schema, tokenizer)
    for text, valid in (('{"\x7f": 1, "a": "\x7f"}', True), ('{"\x7f": 1, "\\u007f": "a"}', False)):
        assert accepts(compiled, tokenizer(text, add_special_tokens=False)["input_ids"]) is valid


def test_an_open_object_stays_open_for_names_of_kilobytes_and_then_ends(tokenizer):
    compiled = grammar.compile_schema({"type": "object"}, tokenizer)
    frames = compiled.start.frames
    for byte in ('{"' + "a" * 20_000 + '": 1').encode():
        frames = compiled.frames.step(frames, byte)
    assert compiled.frames.step(frames, ord("}")) and not compiled.frames.step(frames, ord(","))


def test_a_large_enum_is_no_hang_and_wide_choices_are_measured_once(tokenizer):
    assert grammar.compile_schema({"enum": words(20_000)}, tokenizer).matcher().forced() == '"000'
