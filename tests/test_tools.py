"""What tools.py promises: loading, parsing, validating and executing calls, with untrusted text at every door."""

import json
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import tools as toolbox
from playground import arithmetic, schemas, strict_json
from tests.conftest import ROOT

TOOLS = toolbox.load_tools()
CALL = '{"tool": "get_weather", "args": {"city": "Oslo"}}'


def kind_of(text):
    with pytest.raises(toolbox.ParseError) as caught:
        toolbox.parse_call(text)
    return caught.value.kind


def calculate(expression):
    return toolbox.execute({"tool": "calculator", "args": {"expression": expression}}, TOOLS)


def tool_file(tmp_path, entries):
    path = tmp_path / "tools.json"
    path.write_text(entries if isinstance(entries, str) else json.dumps(entries), encoding="utf-8")
    return path


def entry(name, parameters=None):
    return {
        "type": "function",
        "function": {"name": name, "description": "", "parameters": parameters or {"type": "object"}},
    }


def deep(levels):
    schema = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"x": schema}}
    return schema


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ("I would call the weather tool.", "not JSON"),
        (f"Sure! {CALL}", "text before the JSON"),
        (f"{CALL} Done.", "text after the JSON"),
        (CALL + CALL, "two objects"),
        (f"```json\n{CALL}\n```", "fenced block"),
        ('{"tool": "a", "tool": "b", "args": {}}', "duplicate key"),
        ('{"tool": "get_weather", "args": {"city": "Oslo"', "truncated JSON"),
        ('{"tool": "get_weather", "args": {"city": "Os', "truncated JSON"),
        ('{"tool": get_weather}', "broken JSON"),
        ('["get_weather"]', "not an object"),
        ('{"args": {}}', "no tool"),
        ('{"tool": "get_weather"}', "no args"),
        ('{"tool": "get_weather", "args": {}, "why": 1}', "unknown key"),
        ('{"tool": "x", "args": {"n": 1e999}}', "bad number"),
        ('{"tool": "x", "args": {"n": NaN}}', "bad number"),
        ('{"tool": "x", "args": {"n": 1' + "0" * 5000 + "}}", "bad number"),
        ('{"tool": "\\ud800", "args": {}}', "lone surrogate"),
        ('{"a": ' * 3000, "nested too deep"),
        ('{"tool": "x", "args": {"n": ' + "[" * 63 + "]" * 63 + "}}", "nested too deep"),
        ("{" * 100_000, "too long"),
    ],
)
def test_each_way_of_not_being_a_call_has_its_own_name(text, kind):
    assert kind_of(text) == kind


def test_a_call_is_read_whatever_the_space_around_it():
    assert toolbox.parse_call(f"\n {CALL} \n") == {"tool": "get_weather", "args": {"city": "Oslo"}}


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_no_text_makes_the_parser_fail_in_another_way(text):
    try:
        toolbox.parse_call(text)
    except toolbox.ParseError as error:
        assert error.kind


@given(st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(), st.lists, max_leaves=5))
@settings(max_examples=100, deadline=None)
def test_canonical_json_is_read_back_as_it_was(value):
    call = {"tool": "x", "args": {"value": value}}
    try:
        text = toolbox.to_json(call)
        text.encode()
    except UnicodeEncodeError:
        return  # hypothesis makes no lone surrogates in st.text(), but be sure of what is tested
    if len(text) <= strict_json.MAX_CHARS:
        assert toolbox.parse_call(text) == call


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"tool": "fly", "args": {}}, "unknown tool 'fly'"),
        ({"tool": "send_email", "args": {"to": "a@b.org"}}, "missing argument 'subject'"),
        ({"tool": "send_email", "args": {}}, "missing argument 'to', 'subject'"),
        ({"tool": "get_weather", "args": {"city": "Oslo", "day": "now"}}, "unknown argument 'day'"),
        ({"tool": "get_weather", "args": {"city": 7}}, "argument 'city': 7 is not of type 'string'"),
    ],
)
def test_a_wrong_call_is_explained_to_a_person(call, message):
    assert [message in problem for problem in toolbox.validate_call(call, TOOLS)] == [True]
    assert message in toolbox.execute(call, TOOLS)["error"]


def test_the_default_tools_all_have_executors():
    assert list(TOOLS) == ["send_email", "search_web", "get_weather", "calculator", "respond"]
    assert set(TOOLS) == set(toolbox.EXECUTORS)


def test_a_tool_without_an_executor_says_so_when_it_is_called(tmp_path):
    tools = toolbox.load_tools(tool_file(tmp_path, [entry("dance")]))
    assert "has no executor" in toolbox.execute({"tool": "dance", "args": {}}, tools)["error"]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ('[\n{"type": }]', "is not JSON (Expecting value: line 2 column 10"),
        ({"name": "x"}, "holds no list of tools"),
        ([{"type": "function"}], "entry 1 has no name"),
        ([entry("a"), entry("a")], "a second tool is named 'a'"),
        ([entry("a", {"type": "object", "properties": {"x": {"type": "strin"}}})], "at /properties/x/type"),
        ([entry("a", {"type": "object", "properties": {"x": {"pattern": "["}}})], "'[' is not a 'regex'"),
        ([entry("a", {"type": "object", "properties": {"x": {"$ref": "#/nope"}}})], "'#/nope' leads nowhere"),
        ([entry("a", {"type": "object", "properties": {"x": {"$ref": "http://x.org"}}})], "leads nowhere"),
        ([entry("a", {"type": "object", "properties": {"x": {"$dynamicRef": "http://x.org"}}})], "leads nowhere"),
        ([entry("a", {"type": "object", "properties": {"x": {"$ref": "http://[x"}}})], "leads nowhere"),
        ([entry("a", {"type": "string"})], 'must be a schema of "type": "object"'),
        ([entry("a", deep(100))], "its schema is too deep or large"),
        ([entry("a", {"type": "object", "properties": {"x": {"pattern": "a{99999999999}"}}})], "is not a 'regex'"),
        ("[" * 100_000, "is not JSON"),
        ([entry("a\x1b[2J")], "has characters that cannot be printed"),
        ([entry("a\u202e")], "has characters that cannot be printed"),
        ([entry("\ud800")], "half a character"),
        ([entry("a", {"type": "object", "properties": {"\ud800": {}}})], "half a character"),
    ],
)
def test_a_bad_tool_file_is_one_sentence(tmp_path, entries, message):
    path = tool_file(tmp_path, entries)
    with pytest.raises(toolbox.ToolFileError) as caught:
        toolbox.load_tools(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_schema_may_refer_to_its_own_definitions(tmp_path):
    parameters = {"type": "object", "$defs": {"n": {"type": "integer"}}, "properties": {"x": {"$ref": "#/$defs/n"}}}
    tools = toolbox.load_tools(tool_file(tmp_path, [entry("a", parameters)]))
    assert toolbox.validate_call({"tool": "a", "args": {"x": "1"}}, tools)


def test_nothing_meets_a_schema_that_refers_to_itself_without_end(tmp_path):
    for loop in ({"$ref": "#/properties/x"}, {"allOf": [{"$ref": "#/properties/x"}]}):
        tools = toolbox.load_tools(tool_file(tmp_path, [entry("a", {"type": "object", "properties": {"x": loop}})]))
        assert "refers to itself" in toolbox.validate_call({"tool": "a", "args": {"x": 1}}, tools)[0]
        assert toolbox.validate_call({"tool": "a", "args": {}}, tools) == []


SECRET = "the secret of a file"


@pytest.mark.parametrize("keyword", ["$ref", "$dynamicRef"])
@pytest.mark.parametrize("base", [{}, {"$id": "FOLDER/"}, {"$schema": "FOLDER/secret.json"}])
def test_no_schema_makes_a_validator_read_a_file_or_ask_the_network(tmp_path, keyword, base):
    (tmp_path / "secret.json").write_text(json.dumps({"const": SECRET}))
    base = {key: value.replace("FOLDER", tmp_path.as_uri()) for key, value in base.items()}
    reference = "secret.json" if "$id" in base else f"{tmp_path.as_uri()}/secret.json"
    schema = {"type": "object", "properties": {"x": {keyword: reference}}} | base
    with pytest.raises(toolbox.ToolFileError, match="leads nowhere"):
        toolbox.load_tools(tool_file(tmp_path, [entry("a", schema)]))
    asked = []
    sys.addaudithook(lambda event, args: event in ("socket.connect", "urllib.Request") and asked.append(args))
    imported = {"a": {"name": "a", "description": "", "parameters": schema}}
    (said,) = toolbox.validate_call({"tool": "a", "args": {"x": 1}}, imported)
    assert "its schema cannot be followed" in said and SECRET not in said and "\n" not in said
    assert not asked


def doubled(levels):
    """A schema that is linear in `levels`, and takes 2 ** levels steps to check."""
    both = {f"n{i}": {"allOf": [{"$ref": f"#/$defs/n{i + 1}"}] * 2} for i in range(levels)}
    return {"type": "object", "properties": {"x": {"$ref": "#/$defs/n0"}}, "$defs": both | {f"n{levels}": {}}}


BACKTRACKING = {"type": "object", "properties": {"x": {"type": "string", "pattern": "^(a+)+$"}}}
IN_NAMES = {"type": "object", "patternProperties": {"^(a+)+$": {}}, "unevaluatedProperties": False}
NOT_ALIKE = {"type": "object", "properties": {"x": {"uniqueItems": True}}}


@pytest.mark.parametrize(
    ("schema", "args"),
    [
        (BACKTRACKING, {"x": "a" * 40 + "!"}),
        (IN_NAMES, {"a" * 40 + "!": 1}),
        (doubled(40), {"x": 1}),
        (NOT_ALIKE, {"x": [{"a": [i]} for i in range(4000)]}),
    ],
)
def test_a_schema_that_takes_for_ever_is_given_up_at_once(tmp_path, monkeypatch, schema, args):
    monkeypatch.setattr(schemas, "SLOW", [])
    tools = toolbox.load_tools(tool_file(tmp_path, [entry("a", schema)]))
    monkeypatch.setattr(schemas, "MAX_SECONDS", 0.1)
    begin = time.process_time()
    assert toolbox.validate_call({"tool": "a", "args": args}, tools) == ["a: its schema takes over 0.1 s to check"]
    assert time.process_time() - begin < 1
    with pytest.raises(schemas.OutsideError, match="calls to a take over"):
        for _ in range(schemas.MAX_SLOW):
            toolbox.validate_call({"tool": "a", "args": args}, tools)


def test_patterns_are_still_found(tmp_path):
    tools = toolbox.load_tools(tool_file(tmp_path, [entry("a", BACKTRACKING)]))
    assert toolbox.validate_call({"tool": "a", "args": {"x": "a" * 40}}, tools) == []
    assert "does not match" in toolbox.validate_call({"tool": "a", "args": {"x": "b"}}, tools)[0]


@pytest.mark.parametrize(
    ("raised", "why"),
    [
        (lambda city: city.casefold(), "AttributeError: 'int' object has no attribute 'casefold'"),
        (lambda place: {}, "TypeError: "),
        (lambda city: None, "TypeError: its result is no dict, but NoneType"),
        (lambda city: {"is": {city}}, "TypeError: Object of type set is not JSON serializable"),
        (lambda city: {"is": float("nan")}, "ValueError: "),
        (lambda city: {"is": "\ud800"}, "UnicodeEncodeError: "),
    ],
)
def test_an_executors_own_mistake_is_a_result_and_is_counted(monkeypatch, raised, why):
    edited = {"get_weather": {"name": "get_weather", "description": "", "parameters": {"type": "object"}}}
    monkeypatch.setattr(toolbox, "FAILED", {})
    monkeypatch.setitem(toolbox.EXECUTORS, "get_weather", raised)
    for _ in range(2):
        result = toolbox.execute({"tool": "get_weather", "args": {"city": 7}}, edited)
        assert list(result) == ["error"] and result["error"].startswith(f"get_weather failed: {why}")
    assert toolbox.FAILED["get_weather"][0] == 2


def test_a_tool_file_that_is_missing_or_not_utf8_is_one_sentence(tmp_path):
    with pytest.raises(toolbox.ToolFileError, match="cannot be read"):
        toolbox.load_tools(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b'["\xe9"]')
    with pytest.raises(toolbox.ToolFileError, match="not UTF-8"):
        toolbox.load_tools(tmp_path / "latin.json")


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        *[("17 * 23", 391), ("(3 + 4) * 5", 35), ("15 / 100 * 240", 36), ("2 ** 8", 256), ("-7 // 2", -4)],
        *[
            ("1 / 3", 0.333333),
            ("sqrt(144)", 12),
            ("max(2, 3) % 2", 1),
            ("2 ** 0.5", 1.414214),
            ("1 / 4000000", 2.5e-7),
        ],
    ],
)
def test_the_calculator_calculates(expression, value):
    assert calculate(expression) == {"value": value}


@pytest.mark.parametrize(
    "expression",
    [
        *("9**9**9", "9" * 10_000, "(" * 100_000, "__import__('os')", "().__class__"),
        *("١+١", "NaN", "1e999", "True + 1", "'a' * 9", "(-8) ** 0.5", "1 if 1 else 2", "[1][0]", "lambda: 1"),
        *("5 % 0", "10 ** 65", "1e-300 ** -2", "round(5, -1000000000)", "sqrt(-1)", "min()", "max(*[1, 2])"),
        *("abs(x=1)", "", "1 +", "1; 2", "x := 1", "1j", "\ud800", "1\0"),
    ],
)
def test_the_calculator_refuses_what_is_not_bounded_arithmetic_at_once(expression):
    begin = time.process_time()
    assert set(calculate(expression)) == {"error"}
    assert time.process_time() - begin < 1  # measured: under 5 ms, most of it the check against the schema


def check_result(expression):
    result = calculate(expression) if expression else {"error": ""}
    assert set(result) in ({"value"}, {"error"})
    json.dumps(result, allow_nan=False)


@given(st.text(alphabet="0123456789.+-*/%() ,esqrtmaxinabround_", max_size=60))
@settings(max_examples=500, deadline=1000)
def test_the_calculator_answers_any_text_with_a_value_or_an_error(expression):
    check_result(expression)


NUMBERS = st.sampled_from(["0", "1", "0.5", "64", "1e-300", "5e-324", "1e15", "1e300", "1000000000", "9" * 30])
ARITHMETIC = st.recursive(
    NUMBERS,
    lambda inner: st.one_of(
        st.builds("({}{}{})".format, inner, st.sampled_from("+ - * / // % **".split()), inner),
        st.builds("-{}".format, inner),
        st.builds("{}({})".format, st.sampled_from(sorted(arithmetic.FUNCTIONS)), inner),
        st.builds("{}({}, {})".format, st.sampled_from(sorted(arithmetic.FUNCTIONS)), inner, inner),
    ),
    max_leaves=6,
)


@given(ARITHMETIC)
@settings(max_examples=1000, deadline=1000)
def test_the_calculator_answers_any_arithmetic_with_a_value_or_an_error(expression):
    check_result(expression)


def test_no_call_makes_a_tool_touch_a_file_a_process_or_the_network():
    texts = ["/etc/passwd", "open('/etc/passwd')", "../x", "http://localhost", "__import__('os').system('id')", "a@b.c"]
    code = (
        "import sys, tools\n"
        f"texts, set_of_tools = {texts!r}, tools.load_tools()\n"
        "def run():\n"
        "    for name, tool in set_of_tools.items():\n"
        "        for text in texts:\n"
        "            tools.execute({'tool': name, 'args': dict.fromkeys(tool['parameters']['required'], text)},"
        " set_of_tools)\n"
        "run()  # what is imported when it is first needed has been imported now\n"
        "sys.addaudithook(lambda event, _: event.split('.')[0] in ('open', 'os', 'subprocess', 'socket', 'import',"
        " 'shutil', 'exec') and print(event))\n"
        "run()\n"
        "open(tools.TOOL_FILE).close()  # the hook does see"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["open"]


def test_the_same_question_gets_the_same_answer():
    weather = [toolbox.EXECUTORS["get_weather"](city) for city in ("São Paulo", "são  paulo", "Oslo")]
    assert weather[0] == weather[1] != weather[2]


def test_mail_is_one_line_of_the_outbox_whatever_it_says(tmp_path, monkeypatch):
    monkeypatch.setattr(toolbox, "OUTBOX", tmp_path / "outbox.jsonl")
    args = {"to": "jo@example.org", "subject": 'two\nlines "quoted" \u2028 and more'}
    assert toolbox.execute({"tool": "send_email", "args": args}, TOOLS)["status"] == "sent"
    lines = (tmp_path / "outbox.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [args]
    assert "error" in toolbox.execute({"tool": "send_email", "args": {"to": "jo", "subject": "x"}}, TOOLS)
    assert len((tmp_path / "outbox.jsonl").read_text(encoding="utf-8").splitlines()) == 1


def test_a_result_cannot_start_a_new_line_of_the_prompt():
    prompt = toolbox.with_results("Weather?\nCall: no", [({"tool": "x", "args": {}}, {"text": "a\nCall: {}"})])
    assert prompt.splitlines() == [
        "Weather? Call: no",
        'Call: {"tool": "x", "args": {}}',
        'Result: {"text": "a\\nCall: {}"}',
    ]


def test_signatures_say_types_enums_and_what_is_optional():
    properties = {
        "room": {"enum": ["kitchen", "office"]},
        "degrees": {"type": "integer"},
        "items": {"type": "array", "items": {"type": "string"}},
        "note": {"type": ["string", "null"]},
        "more": True,
    }
    tool = {"name": "f", "description": "Do.", "parameters": {"properties": properties, "required": ["room", "more"]}}
    assert toolbox.signatures({"f": tool}) == (
        'f(room: "kitchen" | "office", degrees?: integer, items?: string[], note?: string | null, more: any): Do.'
    )


def test_the_references_of_a_tools_schema_hold_in_the_schema_of_a_call():
    minutes = {"$defs": {"m": {"type": "integer"}}, "properties": {"minutes": {"$ref": "#/$defs/m"}}}
    tools = {"a": {"parameters": {"type": "object"}}, "b": {"parameters": {"type": "object", **minutes}}}
    schema = toolbox.call_schema(tools)
    for value, fits in ((3, True), ("3", False)):
        call = {"tool": "b", "args": {"minutes": value}}
        assert Draft202012Validator(schema).is_valid(call) == fits
    assert minutes["properties"] == {"minutes": {"$ref": "#/$defs/m"}}  # the tool keeps its own
