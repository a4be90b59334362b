"""Grammars that copy from a request: all of its spans that meet the schema, and nothing else."""

import json
import random
import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from playground import grammar
from playground.grammar.spans import Request
from playground.grammar.vocabulary import vocabulary_of
from tests.conftest import embedded_tokenizer

ANY = {"type": "string", "x-from": "request"}
REQUESTS = {
    "english": 'Email jo.berg@kelp.org, not mum@home, about "the Lyon trip" (Oslo\'s).',
    "japanese": "東京の天気は？ Tokyo も。",
    "hindi": "दिल्ली में मौसम कैसा है?",
    "arabic": "ما هو الطقس في القاهرة؟",
    "emoji": "party🎉 in São Paulo 👩‍👩‍👧 ❤️!",
    "marks": '\\"quoted\\" C:\\dir\\new \'n\' """ a/b, x=1;y',
    "numbers": "Set 3 alarms, 17.50 at 8:30, -4 or 1,000.",
    "two lines": "first line\nsecond one",
    "empty": "",
    "only marks": "\"\\\" \\\\ ''' \"",
    "one word": "x" * 4000,
}


def is_accent(character):
    return unicodedata.category(character)[0] == "M"


def is_sign(character):
    return unicodedata.name(character, "").split(" ")[0] in ("CJK", "HIRAGANA", "KATAKANA", "THAI")


def is_word(character):
    return character.isalnum()


def spans_of(text):
    """All spans of a text, from the definition: slow, and in other words than the engine's."""
    found = set()
    for line in text.splitlines():
        line = " ".join(line.split())
        begins = [i for i in range(len(line)) if starts_at(line, i)]
        stops = [i for i in range(1, len(line) + 1) if ends_at(line, i)]
        found |= {line[a:b] for a in begins for b in stops if a < b}
    return found


def joined(line, left, right):
    """Whether a word goes on from its letter at `left` to the letter at `right`."""
    if not (is_word(line[left]) and is_word(line[right])) or is_sign(line[left]) or is_sign(line[right]):
        return False
    return all(c in ".@_-+'’&%" or is_accent(c) for c in line[left + 1 : right])


def starts_at(line, i):
    before = i
    while before and is_accent(line[before - 1]):
        before -= 1
    if line[i] == " " or is_accent(line[i]):
        return False
    if before == 0 or line[before - 1] == " ":
        return True
    return is_word(line[i]) and not any(joined(line, left, i) for left in range(i))


def ends_at(line, i):
    last = i - 1
    while last and is_accent(line[last]):
        last -= 1
    if (i < len(line) and is_accent(line[i])) or line[last] == " " or is_accent(line[last]):
        return False
    if i == len(line) or line[i] == " " or (re.match(r"['’][sS](?!\w)", line[i:]) and is_word(line[i - 1])):
        return True
    return is_word(line[last]) and not any(joined(line, last, right) for right in range(i, len(line)))


def content(span):
    """All texts that a Span node reads."""
    found, stack = set(), [(span, b"")] if span else []
    while stack:
        node, data = stack.pop()
        if node.ends() is not None:
            found.add(json.loads(b'"' + data + b'"'))
        stack += [(node.step(byte), data + bytes([byte])) for byte in node.bytes_after()]
    return found


def walk(compiled, budget, rng):
    tokenizer, matcher, ids = embedded_tokenizer(), compiled.matcher(), []
    for left in range(budget, 0, -1):
        token = rng.choice(matcher.mask(left).nonzero().flatten().tolist())
        if token == tokenizer.eos_token_id:
            break
        matcher.accept(token)
        ids.append(token)
    assert matcher.is_complete
    return json.loads(tokenizer.decode(ids))


def request_of(text):
    return Request(text, vocabulary_of(embedded_tokenizer()))


@pytest.mark.parametrize("name", [name for name in REQUESTS if name != "one word"])
def test_the_spans_are_those_of_the_definition(name):
    assert content(request_of(REQUESTS[name]).spans()) == spans_of(REQUESTS[name])


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from("aZ9é東も.@-'’&s ,\"\\/(\n🎉\u0301"), max_size=14))
def test_the_spans_of_any_text_are_those_of_the_definition(text):
    assert content(request_of(text).spans()) == spans_of(text)


def test_what_a_person_would_copy_is_a_span():
    spans = content(request_of(REQUESTS["english"]).spans())
    assert {"jo.berg@kelp.org", "the Lyon trip", '"the Lyon trip"', "Oslo", "mum@home"} <= spans
    assert not spans & {"berg@kelp.org", "jo.berg", "kelp.org", "the Ly", "yon trip"}
    assert {"東京", "東京の天気", "Tokyo"} <= content(request_of(REQUESTS["japanese"]).spans())


KEYWORDS = [
    {"format": "email"},
    {"pattern": "^[A-Z]"},
    {"pattern": "o", "maxLength": 9},
    {"minLength": 4, "maxLength": 12},
    {"x-max-words": 2},
    {"enum": ["Oslo", "Lyon", "Madrid", "the Lyon trip"]},
    {"const": "about"},
]


@pytest.mark.parametrize("keywords", KEYWORDS, ids=str)
@pytest.mark.parametrize("name", REQUESTS)
def test_spans_meet_the_keywords_beside_them_and_all_that_do_are_let_through(name, keywords):
    schema, text = {**ANY, **keywords}, REQUESTS[name]
    wanted = {
        span
        for span in (spans_of(text) if name != "one word" else {text})
        if Draft202012Validator(schema).is_valid(span)
        and len(span.split(" ")) <= keywords.get("x-max-words", 99)
        and ("format" not in keywords or re.fullmatch(r"[^@ ]+@[a-z]+(\.[a-z]+)*", span))
    }
    compiled = grammar.compile_schema(schema, embedded_tokenizer())
    grounded = compiled.grounded(text)
    if not wanted:
        assert grounded is compiled
        return
    for span in wanted:
        matcher = grounded.matcher()
        for token in embedded_tokenizer()(json.dumps(span, ensure_ascii=False)).input_ids:
            assert matcher.mask(10_000)[token], span
            matcher.accept(token)
        assert matcher.is_complete
    rng = random.Random(0)
    assert {walk(grounded, grounded.start.tokens_missing + i, rng) for i in range(12)} <= wanted


MAIL = {
    "type": "object",
    "properties": {"tool": {"const": "mail"}, "to": {**ANY, "format": "email"}},
    "required": ["tool", "to"],
}
ALARM = {
    "type": "object",
    "properties": {"tool": {"const": "alarm"}, "at": {"type": "number", "x-from": "request"}},
    "required": ["tool", "at"],
}
ASK = {
    "type": "object",
    "properties": {"tool": {"const": "ask"}, "message": {"type": "string"}},
    "required": ["tool", "message"],
}
CALLS = {"anyOf": [MAIL, ALARM, ASK]}


@pytest.mark.parametrize("spare", [0, 1, 5, 30])
@pytest.mark.parametrize("name", REQUESTS)
def test_random_walks_at_any_budget_end_in_values_of_the_request(name, spare):
    grounded = grammar.compile_schema(CALLS, embedded_tokenizer()).grounded(REQUESTS[name])
    rng = random.Random(spare)
    for _ in range(8):
        value = walk(grounded, grounded.start.tokens_missing + spare, rng)
        Draft202012Validator(CALLS).validate(value)
        spans = {REQUESTS[name]} if name == "one word" else spans_of(REQUESTS[name])
        assert value.get("to", "Lyon") in spans | {"Lyon"} and value.get("to") != "mum"
        assert "at" not in value or json.dumps(value["at"]) in spans


def test_a_tool_whose_argument_the_request_lacks_is_left_out():
    compiled, rng = grammar.compile_schema(CALLS, embedded_tokenizer()), random.Random(0)
    without, with_address = compiled.grounded("Email mum"), compiled.grounded("Email mum@home.org")
    assert {walk(without, 40, rng)["tool"] for _ in range(30)} == {"ask"}
    assert {walk(with_address, 40, rng)["tool"] for _ in range(30)} == {"ask", "mail"}


def test_optional_arguments_and_items_may_be_left_out_where_there_is_no_span():
    schema = {"type": "object", "properties": {"to": {"type": "array", "items": {**ANY, "format": "email"}}, "cc": ANY}}
    compiled, rng = grammar.compile_schema(schema, embedded_tokenizer()), random.Random(0)
    values = [walk(compiled.grounded("a@b.c d@e.f"), 60, rng) for _ in range(40)]
    assert {item for value in values for item in value.get("to", [])} == {"a@b.c", "d@e.f"}
    assert all(walk(compiled.grounded(""), 60, rng) in ({}, {"to": []}) for _ in range(5))


def test_after_the_first_letters_of_a_word_the_rest_is_forced():
    matcher = grammar.compile_schema(MAIL, embedded_tokenizer()).grounded("ask jo@fjord.no or al@rim.is").matcher()
    assert matcher.forced() == '{"tool": "mail", "to": "'
    for token in embedded_tokenizer()('{"tool": "mail", "to": "j').input_ids:
        matcher.accept(token)
    assert matcher.forced() == 'o@fjord.no"}'


def test_requests_share_what_has_no_span_in_it():
    compiled = grammar.compile_schema(CALLS, embedded_tokenizer())
    states = []
    for text in ("a@b.c", "Oslo 3"):
        matcher = compiled.grounded(text).matcher()
        for token in embedded_tokenizer()('{"tool": "ask", "message": "Which').input_ids:
            matcher.accept(token)
        states.append(matcher.state)
    assert states[0] is states[1]


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "boolean", "x-from": "request"}, r"#/properties/a/x-from: copying a value of the type 'boolean'"),
        ({"type": "object", "x-from": "request"}, r"#/properties/a/x-from: copying a value of the type 'object'"),
        ({"type": "string", "x-from": "history"}, r"#/properties/a/x-from: the source 'history'"),
    ],
)
def test_an_annotation_that_cannot_be_followed_is_refused_by_its_place(schema, said):
    with pytest.raises(grammar.UnsupportedSchema, match=said):
        grammar.compile_schema({"type": "object", "properties": {"a": schema}}, embedded_tokenizer())
