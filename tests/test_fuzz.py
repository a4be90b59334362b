"""Tool files, schemas, recipes and rows of other people, at random: read or refused in a sentence, soon, in little.

    pytest tests/test_fuzz.py -m slow                     # ten minutes
    FUZZ_SECONDS=60 pytest tests/test_fuzz.py -m slow     # one

What once failed stands below as it was found; what a recipe or a tool file once did is in their own tests.
"""

import contextlib
import copy
import io
import json
import os
import random
import resource
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

import tools as toolbox
from playground import grammar, schemas
from playground.data import writing
from playground.data.imports import records
from playground.grammar.schema import build
from playground.grammar.vocabulary import vocabulary_of
from playground.run import recipe
from playground.run.errors import UserError
from tests.conftest import embedded_tokenizer
from tests.data.imports.test_formats import EXAMPLES, places, replaced

MAX_SECONDS, MAX_BYTES = 5, 1_000_000_000
QUICK = settings(max_examples=30, deadline=MAX_SECONDS * 1000, suppress_health_check=list(HealthCheck))
LONG = settings(QUICK, max_examples=400)

NASTY = ["", "a" * 40 + "!", "\ud800", "\x1b[2J", "\u202e", "$\\frac{$", "\0", "\u2028", "__proto__", "é" * 300, "\n"]
TEXTS = st.sampled_from(NASTY) | st.text(max_size=20)
NUMBERS = st.sampled_from([0, -1, 1, 0.5, 1e308, 10**400, -(10**20), 2**53 + 1, float("inf"), float("nan")])
LEAVES = st.none() | st.booleans() | NUMBERS | st.integers() | TEXTS
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=12
)
PATTERNS = st.sampled_from(["^(a+)+$", "(a|a)*b", "(?=a)b", "(a?){30}a{30}", "a{99999999999}", "(", "[[:x", "\\p{L}"])
PATTERNS |= st.text("()[]{}*+?|^$.\\dwsbx1a,-", max_size=12)
PLACES = ["#", "#/$defs/a", "#/properties/x", "#/allOf/x", "#/~2", "#a", "file:///etc/passwd", "http://[", "x.json"]
REFERENCES = st.sampled_from(PLACES) | TEXTS
NAMES = st.sampled_from(["x", "y", "a" * 40 + "!"]) | TEXTS
TYPES = st.sampled_from("string integer number boolean array object null".split())


def objects(inner):
    """Schemas with some of the keywords, whose values have the right form more often than not."""
    many, named = st.lists(inner, min_size=1, max_size=3), st.dictionaries(NAMES, inner, max_size=3)
    forms = {
        "type": TYPES | st.lists(TYPES, max_size=2), "enum": st.lists(VALUES, max_size=4), "const": VALUES,
        "properties": named, "$defs": st.fixed_dictionaries({"a": inner}) | named, "required": st.lists(NAMES),
        "patternProperties": st.dictionaries(PATTERNS, inner, max_size=2), "pattern": PATTERNS,
        **dict.fromkeys(["allOf", "anyOf", "oneOf", "prefixItems"], many),
        **dict.fromkeys(["items", "additionalProperties", "not", "if", "then", "else", "contains"], inner),
        **dict.fromkeys(["unevaluatedProperties", "unevaluatedItems", "propertyNames"], inner),
        **dict.fromkeys(["$ref", "$dynamicRef", "$id", "$schema", "$anchor", "$dynamicAnchor"], REFERENCES),
        **dict.fromkeys(["minLength", "maxLength", "minItems", "maxItems", "multipleOf", "minimum"], NUMBERS),
        "uniqueItems": st.booleans(), "format": TEXTS, "description": VALUES, "dependentSchemas": named,
    }  # fmt: skip
    chosen = st.lists(st.sampled_from(list(forms)), max_size=5, unique=True)
    return chosen.flatmap(lambda keys: st.fixed_dictionaries({key: forms[key] for key in keys}))


SCHEMAS = st.recursive(st.booleans() | objects(st.booleans()), objects, max_leaves=8) | VALUES
ENTRIES = st.builds(
    lambda name, schema, more: {"function": {"name": name, "parameters": schema} | more},
    st.sampled_from("abc") | TEXTS,
    st.builds(lambda schema: {"type": "object"} | schema if isinstance(schema, dict) else schema, SCHEMAS),
    st.dictionaries(st.sampled_from(["description", "strict", "parameters"]), VALUES, max_size=1),
)


def write(folder, value):
    path = Path(folder, "file.json")
    path.write_text(json.dumps(value))
    return path


def read_tool_file(entries, value, args):
    schemas.SLOW.clear()
    with tempfile.TemporaryDirectory() as folder:
        try:
            tools = toolbox.load_tools(write(folder, entries))
        except toolbox.ToolFileError as error:
            assert len(str(error)) < 3000
            return
    for name in tools:
        for given_args in (args, {"x": value}):
            found = toolbox.validate_call({"tool": name, "args": given_args}, tools)
            assert all(isinstance(problem, str) for problem in found)
            assert set(toolbox.execute({"tool": name, "args": given_args}, tools)) == {"error"}
    toolbox.signatures(tools)
    try:
        build(toolbox.call_schema(tools), vocabulary_of(embedded_tokenizer()))
    except grammar.UnsupportedSchema:
        return


def read_recipe(value, data):
    defaults = recipe.load()
    section = data.draw(st.sampled_from(list(defaults)))
    inside = list(defaults[section]) if isinstance(defaults[section], dict) else ["x"]
    key = data.draw(st.sampled_from(inside) | TEXTS)
    told = data.draw(st.sampled_from([{section: value}, {section: {key: value}}, {key: value}, value]))
    with tempfile.TemporaryDirectory() as folder:
        try:
            recipe.load(write(folder, told), data.draw(st.sampled_from([[], [(f"{section}.{key}", value)]])))
        except UserError as error:
            assert len(str(error)) < 3000


def read_schema(schema):
    try:
        build(schema, vocabulary_of(embedded_tokenizer()))
    except grammar.UnsupportedSchema as error:
        assert len(str(error)) < 3000


def read_rows(data):
    name = data.draw(st.sampled_from(list(EXAMPLES)))
    row = copy.deepcopy(EXAMPLES[name][0])
    if name == "xlam":  # its lists are texts: open them
        row |= {key: json.loads(row[key]) for key in ("answers", "tools")}
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from(list(places(row))))
        row = replaced(row, place, data.draw(VALUES | SCHEMAS | TEXTS.map(lambda text: text * 50)))
    read_row(name, row)


def read_row(name, row):
    """Read a row after nine good ones of format `name`, and write what becomes of them."""
    schemas.SLOW.clear()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.jsonl")
        path.write_text("".join(json.dumps(each) + "\n" for each in [*[EXAMPLES[name][0]] * 9, row]))
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                found, tools, _, _ = records.load(str(path), toolbox.load_tools())
            writing.write(Path(folder), {"train": found}, tools, "openai")
        except (UserError, schemas.OutsideError):
            return


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("xlam", ("tools", 0, "parameters", "type", "description"), "\ud800"),
        ("bfcl", ("function", 0, "parameters", "properties", "base"), {"pattern": "a{99999999999}"}),
    ],
)
def test_a_row_that_once_ended_in_a_traceback_is_read_or_refused(name, path, value):
    row = copy.deepcopy(EXAMPLES[name][0])
    if name == "xlam":
        row |= {key: json.loads(row[key]) for key in ("answers", "tools")}
    read_row(name, replaced(row, path, value))


@pytest.mark.parametrize("schema", [{"$schema": "http://["}, {"\n": None}])
def test_a_schema_that_once_ended_in_a_traceback_is_read_or_refused(schema):
    read_schema(schema)


READERS = {
    read_tool_file: given(st.lists(ENTRIES, max_size=3) | VALUES, VALUES, st.dictionaries(NAMES, VALUES, max_size=3)),
    read_recipe: given(VALUES, st.data()),
    read_schema: given(SCHEMAS),
    read_rows: given(st.data()),
}


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_what_others_have_written_is_read_or_refused_soon(reader):
    QUICK(READERS[reader](reader))()


@pytest.mark.slow
def test_what_others_have_written_is_read_or_refused_soon_for_ten_minutes():
    until = time.time() + float(os.environ.get("FUZZ_SECONDS", 600))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    while time.time() < until:
        reader = random.choice(list(READERS))
        LONG(seed(random.getrandbits(64))(READERS[reader](reader)))()
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MAX_BYTES
