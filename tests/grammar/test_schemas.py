"""The grammar engine against jsonschema: random schemas in both directions, and real ones with their instances."""

import json
import random
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import tools as toolbox
from playground import grammar
from tests.conftest import SHARED, embedded_tokenizer

SETTINGS = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)
TEXT = st.characters(exclude_categories=["Cs"])
NAMES = "^[xy][0-9]{1,3}$"  # of properties
PATTERNS = [r"^[A-Z]{3}-\d{2,4}$", r"\d+", r"^(ja|nein)$", r"^\S+@\w+\.(de|org)$", "colou?r", r"^[^aeiou]{1,5}$", "é|ü"]


# Each strategy draws a pair: a schema and a strategy for its instances.


@st.composite
def strings(draw):
    low, room = draw(st.integers(0, 4)), draw(st.integers(0, 6))
    schema = {"type": "string"}
    if draw(st.booleans()):
        schema |= {"minLength": low, "maxLength": low + room}
        return schema, st.text(TEXT, min_size=low, max_size=low + room)
    return schema, st.text(TEXT, max_size=20)


@st.composite
def patterns(draw):
    pattern = draw(st.sampled_from(PATTERNS))
    instances = st.from_regex(pattern, alphabet=st.characters(max_codepoint=0xFF, min_codepoint=32))
    # Where \d, \w and \s mean more in Python than in ECMA 262, the engine takes the narrower reading.
    ascii_classes = instances.filter(lambda text: text.isascii() or pattern == "é|ü" or pattern.startswith("^[^"))
    longest = draw(st.none() | st.integers(8, 12))
    schema = {"type": "string", "pattern": pattern} | ({"maxLength": longest} if longest else {})
    fits = ascii_classes.filter(lambda text: not text.endswith("\n") and len(text) <= (longest or len(text)))
    return schema, fits


def formats():
    kinds = {
        "date": st.dates().map(str),
        "uuid": st.uuids().map(str),
        "ipv4": st.ip_addresses(v=4).map(str),
        "date-time": st.datetimes().map(lambda moment: f"{moment.isoformat()}Z"),
        "email": st.sampled_from(["a@b.co", "o'neil+x@mail.example.org"]),
    }
    return st.sampled_from(sorted(kinds)).map(lambda name: ({"type": "string", "format": name}, kinds[name]))


@st.composite
def integers(draw):
    low, room = draw(st.integers(-300, 300)), draw(st.integers(7, 500))
    step = draw(st.sampled_from([1, 1, 5, 7]))
    schema, values = {"type": "integer"}, st.integers(-(10**15), 10**15)
    if draw(st.booleans()):
        schema |= {"minimum": low, "exclusiveMaximum": low + room}
        values = st.integers(low, low + room - 1)
    if step > 1:
        schema["multipleOf"] = step
        values = values.map(lambda value: value // step * step).filter(
            lambda value: value >= schema.get("minimum", value)
        )
    return schema, values


@st.composite
def numbers(draw):
    low, room = draw(st.integers(-20, 20)) / 4, draw(st.integers(1, 40)) / 4
    schema = {"type": "number", "exclusiveMinimum": low, "maximum": low + room}
    if draw(st.booleans()):
        return schema, st.floats(low, low + room, exclude_min=True).map(lambda value: round(value, 3)).filter(
            lambda v: v > low
        )
    return {"type": "number"}, st.floats(-1e6, 1e6).map(lambda value: round(value, 4) + 0.0)


def constants():
    values = st.one_of(st.none(), st.booleans(), st.integers(-99, 99), st.text(TEXT, max_size=5))
    chosen = st.lists(values, min_size=1, max_size=5)
    return chosen.map(lambda values: ({"enum": values}, st.sampled_from(values)))


LEAVES = st.one_of(
    strings(), patterns(), formats(), integers(), numbers(), constants(),
    st.just(({"type": "boolean"}, st.booleans())), st.just(({"type": "null"}, st.none())),
)  # fmt: skip


@st.composite
def arrays(draw, inner):
    schema, items = draw(inner)
    low, room = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    if draw(st.booleans()):
        first, first_item = draw(inner)
        with_first = st.tuples(first_item, st.lists(items, max_size=2)).map(lambda pair: [pair[0], *pair[1]])
        return {"type": "array", "prefixItems": [first], "items": schema, "minItems": 1}, with_first
    return {"type": "array", "items": schema, "minItems": low, "maxItems": low + room}, st.lists(
        items, min_size=low, max_size=low + room
    )


@st.composite
def unique_arrays(draw):
    values = draw(st.lists(st.text("abcde", max_size=3), min_size=1, max_size=5, unique=True))
    low = draw(st.integers(0, len(values)))
    schema = {"type": "array", "items": {"enum": values}, "uniqueItems": True, "minItems": low}
    return schema, st.lists(st.sampled_from(values), min_size=low, unique=True)


@st.composite
def objects(draw, inner):
    others_are = draw(st.sampled_from(["none", "open", "of a pattern"]))
    letters = st.characters(min_codepoint=32, max_codepoint=126) if others_are == "of a pattern" else TEXT
    named = st.text(letters, max_size=6).filter(lambda name: not re.search(NAMES, name))
    names = draw(st.lists(named, min_size=1, max_size=4, unique=True))
    pairs = {name: draw(inner) for name in names}
    required = draw(st.lists(st.sampled_from(names), unique=True))
    schema = {"type": "object", "properties": {name: pair[0] for name, pair in pairs.items()}, "required": required}
    instances = st.fixed_dictionaries(
        {name: pairs[name][1] if name in required else st.one_of(st.just(...), pairs[name][1]) for name in names}
    ).map(lambda value: {name: value[name] for name in names if value[name] is not ...})
    if others_are != "none":
        keyword = (
            {"additionalProperties": {"type": "integer"}}
            if others_are == "open"
            else {"patternProperties": {NAMES: {"type": "integer"}}, "additionalProperties": False}
        )
        schema |= keyword
        other = st.text(TEXT, max_size=4) if others_are == "open" else st.from_regex(NAMES, fullmatch=True)
        others = st.dictionaries(other.filter(lambda name: name not in names), st.integers(0, 9))
        instances = st.tuples(instances, others).map(lambda pair: pair[0] | pair[1])
    if draw(st.booleans()):
        low = draw(st.integers(0, len(names)))
        schema |= {"minProperties": low}
        instances = instances.filter(lambda value: len(value) >= low)
    return schema, instances


@st.composite
def choices(draw, inner):
    pairs = draw(st.lists(inner, min_size=1, max_size=3))
    if draw(st.booleans()):
        schema = {"anyOf": [pair[0] for pair in pairs]}
    else:
        schema = {"$defs": {"a": {"anyOf": [pair[0] for pair in pairs]}}, "allOf": [{"$ref": "#/$defs/a"}]}
        schema = schema["$defs"]["a"]
    return schema, st.one_of([pair[1] for pair in pairs])


SCHEMAS = st.recursive(
    LEAVES | unique_arrays(), lambda inner: st.one_of(arrays(inner), objects(inner), choices(inner)), max_leaves=5
)


def compiled_or_skipped(schema):
    """A Grammar; None for an object of which nothing in this grammar can have so many properties."""
    try:
        return grammar.compile_schema(schema, embedded_tokenizer())
    except grammar.UnsupportedSchema as error:
        assert "no schema names" in str(error)  # two or more unnamed properties needed
        return None


@settings(SETTINGS, max_examples=300)
@given(SCHEMAS, st.sampled_from([0, 1, 2, 5, 20, 100]), st.randoms(use_true_random=False))
def test_every_random_walk_ends_in_text_that_jsonschema_accepts(pair, spare, rng):
    compiled = compiled_or_skipped(pair[0])
    if compiled is None:
        return
    matcher, ids = compiled.matcher(), []
    eos = embedded_tokenizer().eos_token_id
    for left in range(matcher.min_tokens_to_complete + spare, 0, -1):
        token = rng.choice(matcher.mask(left).nonzero().flatten().tolist())
        if token == eos:
            break
        matcher.accept(token)
        ids.append(token)
    assert matcher.is_complete
    data = b"".join(compiled.vocabulary.token_bytes[token] for token in ids)
    value = json.loads(data)
    assert Draft202012Validator(pair[0]).is_valid(value), (pair[0], data)


def tokenizations(text, compiled, rng):
    """The tokenizer's own, one byte at a time, and at random among the tokens that fit."""
    tokenizer, known = embedded_tokenizer(), compiled.vocabulary
    id_of = {data: token_id for token_id, data in enumerate(known.token_bytes) if data}
    data, random_one = text.encode(), []
    yield tokenizer(text, add_special_tokens=False)["input_ids"]
    yield [id_of[bytes([byte])] for byte in data]
    while data:
        length = rng.choice([n for n in range(1, min(len(data), 8) + 1) if data[:n] in id_of])
        random_one.append(id_of[data[:length]])
        data = data[length:]
    yield random_one


@SETTINGS
@given(SCHEMAS, st.data(), st.randoms(use_true_random=False))
def test_every_instance_is_accepted_under_three_tokenizations(pair, data, rng):
    compiled = compiled_or_skipped(pair[0])
    if compiled is None:
        return
    text = json.dumps(data.draw(pair[1]), ensure_ascii=False)
    for ids in tokenizations(text, compiled, rng):
        matcher = compiled.matcher()
        for token in ids:
            assert matcher.mask(100_000)[token], (pair[0], text)
            matcher.accept(token)
        assert matcher.is_complete


def reads(compiled, value):
    frames = compiled.start.frames
    for byte in json.dumps(value, ensure_ascii=False).encode():
        frames = compiled.frames.step(frames, byte)
    return compiled.frames.end in frames


def in_schema_order(schema, value, root):
    """Whether every object names its properties in the order of some `properties` that lists them all."""
    orders = []

    def collect(part):
        if isinstance(part, dict):
            orders.extend(list(names) for key, names in part.items() if key == "properties" and isinstance(names, dict))
            list(map(collect, part.values()))
        elif isinstance(part, list):
            list(map(collect, part))

    def check(part):
        if isinstance(part, list):
            return all(map(check, part))
        if not isinstance(part, dict):
            return True
        fits = any([name for name in order if name in part] == list(part) for order in orders)
        return (fits or not part) and all(map(check, part.values()))

    collect(root)
    return check(value)


def test_real_function_call_schemas_accept_their_valid_instances_and_no_invalid_one(tokenizer):
    path = SHARED / "maskbench" / "function_calls.jsonl"
    if not path.exists():
        pytest.skip("needs ../shared/maskbench")
    refused, order, passed = [], [], 0
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        try:
            compiled = grammar.compile_schema(row["schema"], tokenizer)
        except grammar.UnsupportedSchema as error:
            refused.append(f"{row['id']} {error}")
            continue
        wrong = [test for test in row["tests"] if reads(compiled, test["data"]) != test["valid"]]
        assert not [test for test in wrong if not test["valid"]], row["id"]
        for test in wrong:
            assert not in_schema_order(row["schema"], test["data"], row["schema"]), (row["id"], test)
        order += [row["id"]] if wrong else []
        passed += not wrong
    assert (len(refused), len(order)) == (5, 6) and passed >= 538, (refused, order)


@pytest.mark.parametrize("spare", [0, 1, 2, 5, 20, 100])
def test_real_schemas_are_completed_at_any_budget(tokenizer, spare):
    path = SHARED / "maskbench" / "function_calls.jsonl"
    if not path.exists():
        pytest.skip("needs ../shared/maskbench")
    rng = random.Random(spare)
    for line in rng.sample(path.read_text(encoding="utf-8").splitlines(), 12):
        schema = json.loads(line)["schema"]
        try:
            compiled = grammar.compile_schema(schema, tokenizer)
        except grammar.UnsupportedSchema:
            continue
        matcher, data = compiled.matcher(), b""
        for left in range(matcher.min_tokens_to_complete + spare, 0, -1):
            token = rng.choice(matcher.mask(left).nonzero().flatten().tolist())
            if token == tokenizer.eos_token_id:
                break
            matcher.accept(token)
            data += compiled.vocabulary.token_bytes[token]
        assert Draft202012Validator(schema).is_valid(json.loads(data)), data


def test_along_a_valid_call_the_mask_is_that_of_llguidance(gpt2_tokenizer):
    """The same tokens at each step, or other spellings of the same text."""
    import llguidance.hf
    import llguidance.numpy

    tools = toolbox.load_tools()
    tools["send_email"]["parameters"]["properties"]["to"].pop("format")  # there, an address may end in [IPv6:::1]
    schema = toolbox.call_schema(tools)
    canonical = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}
    theirs_of = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema | {"x-guidance": canonical}))
    compiled = grammar.compile_schema(schema, gpt2_tokenizer)
    vocabulary = compiled.vocabulary.token_bytes
    theirs = llguidance.LLMatcher(llguidance.hf.from_tokenizer(gpt2_tokenizer), theirs_of)
    matcher = compiled.matcher()
    bitmask = llguidance.numpy.allocate_token_bitmask(1, len(gpt2_tokenizer))
    call = {"tool": "send_email", "args": {"to": "o'neil@x.org", "subject": "São (Paulo)"}}
    for token in gpt2_tokenizer(toolbox.to_json(call), add_special_tokens=False)["input_ids"]:
        llguidance.numpy.fill_next_token_bitmask(theirs, bitmask, 0)
        bits = np.unpackbits(bitmask.view(np.uint8), bitorder="little")[: len(vocabulary)].astype(bool)
        ours, forced = matcher.mask(100_000).numpy(), matcher.forced().encode()
        assert not (bits & ~ours).any(), [vocabulary[i] for i in np.flatnonzero(bits & ~ours)]
        # llguidance leaves out the other spellings of what is forced, and DEL, which json.dumps does not escape.
        more = [vocabulary[i] for i in np.flatnonzero(ours & ~bits)]
        assert all(forced.startswith(data) or b"\x7f" in data for data in more), more
        matcher.accept(token)
        theirs.consume_token(token)
    assert matcher.is_complete and theirs.is_accepting()
