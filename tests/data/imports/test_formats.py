"""Each format reads its own published example and refuses the others by name; rows of all sorts become records."""

import collections
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tools as toolbox
from playground.data.imports import conversation, formats
from playground.data.imports.conversation import BadRow, ToolSet

TOOLS = toolbox.load_tools()
WEATHER = {
    "name": "get_current_weather",
    "description": "Get the current weather",
    "parameters": {
        "type": "object",
        "properties": {
            "location": {"type": "string", "description": "The city and country, eg. San Francisco, USA"},
            "format": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        },
        "required": ["location", "format"],
    },
}
RATE = {
    "name": "get_exchange_rate",
    "description": "Get the exchange rate between two currencies",
    "parameters": {
        "type": "object",
        "properties": {
            "base_currency": {"type": "string", "description": "The currency to convert from"},
            "target_currency": {"type": "string", "description": "The currency to convert to"},
        },
        "required": ["base_currency", "target_currency"],
    },
}
HERMES_SYSTEM = (
    "You are a function calling AI model. You are provided with function signatures within <tools> </tools> XML tags. "
    "Here are the available tools: <tools> [{'type': 'function', 'function': {'name': 'get_camera_live_feed', "
    "'description': 'Retrieves the live feed from a specified security camera.', 'parameters': {'type': 'object', "
    "'properties': {'camera_id': {'type': 'string', 'description': 'The unique identifier for the camera.'}, "
    "'stream_quality': {'type': 'string', 'enum': ['720p', '1080p']}}, 'required': ['camera_id']}}}] </tools>"
)

# One row each, in the words and the form in which the format's own documentation shows it, and the calls it holds.
EXAMPLES = {
    "project": ({"prompt": "Hello!", "completion": '{"tool": "respond", "args": {"message": "Hi."}}'}, None),
    "messages": (
        {
            "messages": [
                {"role": "user", "content": "What is the weather in San Francisco?"},
                {
                    "role": "assistant",
                    "tool_calls": [
                        {
                            "id": "call_id",
                            "type": "function",
                            "function": {
                                "name": "get_current_weather",
                                "arguments": '{"location": "San Francisco, USA", "format": "celsius"}',
                            },
                        }
                    ],
                },
            ],
            "parallel_tool_calls": False,
            "tools": [{"type": "function", "function": WEATHER}],
        },
        [("get_current_weather", {"location": "San Francisco, USA", "format": "celsius"})],
    ),
    "xlam": (
        {
            "id": 0,
            "query": "Where can I find live giveaways for beta access and games?",
            "answers": json.dumps(
                [
                    {"name": "live_giveaways_by_type", "arguments": {"type": "beta"}},
                    {"name": "live_giveaways_by_type", "arguments": {"type": "game"}},
                ]
            ),
            "tools": json.dumps(
                [
                    {
                        "name": "live_giveaways_by_type",
                        "description": "Retrieve live giveaways from the GamerPower API based on the specified type.",
                        "parameters": {
                            "type": {
                                "description": "The type of giveaways to retrieve (e.g., game, loot, beta).",
                                "type": "str",
                                "default": "game",
                            }
                        },
                    }
                ]
            ),
        },
        [("live_giveaways_by_type", {"type": "beta"})],
    ),
    "bfcl": (
        {
            "id": "simple_python_0",
            "question": [[{"role": "user", "content": "Find the area of a triangle with a base of 10 units."}]],
            "function": [
                {
                    "name": "math.area",
                    "description": "The area of a triangle.",
                    "parameters": {
                        "type": "dict",
                        "properties": {"base": {"type": "float"}, "unit": {"type": "string"}},
                        "required": ["base"],
                    },
                }
            ],
            "ground_truth": [{"math.area": {"base": [10], "unit": ["units", ""]}}],
        },
        [("math_area", {"base": 10})],
    ),
    "glaive": (
        {
            "system": "SYSTEM: You are a helpful assistant with access to the following functions. Use them if "
            "required -\n" + json.dumps(RATE, indent=4),
            "chat": "USER: Hi, I need to know the exchange rate from USD to EUR.\n\n\nASSISTANT: <functioncall> "
            '{"name": "get_exchange_rate", "arguments": \'{"base_currency": "USD", "target_currency": "EUR"}\'} '
            '<|endoftext|>\n\n\nFUNCTION RESPONSE: {"exchange_rate": 0.85}\n\n\nASSISTANT: The current exchange '
            "rate is 0.85. <|endoftext|>\n\n\nUSER: Can you book a flight?\n\n\nASSISTANT: I'm sorry, I can't. "
            "<|endoftext|>\n\n\n",
        },
        [
            ("get_exchange_rate", {"base_currency": "USD", "target_currency": "EUR"}),
            ("respond", {"message": "The current exchange rate is 0.85."}),
            ("respond", {"message": "I'm sorry, I can't."}),
        ],
    ),
    "conversations": (
        {
            "id": "85f398a4",
            "conversations": [
                {"from": "system", "value": HERMES_SYSTEM},
                {"from": "human", "value": "Can you check the live feed\nof my front door camera?"},
                {
                    "from": "gpt",
                    "value": "<tool_call>\n{'arguments': {'camera_id': 'front_door', 'stream_quality': '1080p'}, "
                    "'name': 'get_camera_live_feed'}\n</tool_call>\n",
                },
                {"from": "tool", "value": '<tool_response>\n{"status": "live"}\n</tool_response>'},
                {"from": "gpt", "value": "It is live."},
            ],
        },
        [
            ("get_camera_live_feed", {"camera_id": "front_door", "stream_quality": "1080p"}),
            ("respond", {"message": "It is live."}),
        ],
    ),
}
READ = [name for name in EXAMPLES if name != "project"]


def convert(row, name, notes=None):
    toolset = ToolSet()
    found = {"id": "row"} | formats.read(row, name)
    notes = collections.Counter() if notes is None else notes
    return conversation.to_records(found, toolset, name, notes), toolset.ordered()


def chat(*messages, tools=(WEATHER,)):
    return {"messages": list(messages), "tools": [{"type": "function", "function": tool} for tool in tools]}


def asks(text):
    return {"role": "user", "content": text}


def calls(*pairs):
    functions = [{"function": {"name": name, "arguments": arguments}} for name, arguments in pairs]
    return {"role": "assistant", "tool_calls": functions}


OSLO = ("get_current_weather", '{"format": "celsius", "location": "Oslo"}')


@pytest.mark.parametrize("name", READ)
def test_a_format_reads_its_own_published_example(name):
    row, expected = EXAMPLES[name]
    records, tools = convert(row, name)
    found = [toolbox.parse_call(record["completion"]) for record in records]
    assert [(call["tool"], call["args"]) for call in found] == expected
    assert not any(toolbox.validate_call(call, tools) for call in found)


@pytest.mark.parametrize(("name", "other"), [(name, other) for name in READ for other in EXAMPLES if name != other])
def test_a_format_refuses_anothers_example_by_the_name_of_that_format(name, other):
    with pytest.raises(BadRow, match=f"looks like {formats.FORMATS[other].label}"):
        formats.read(EXAMPLES[other][0], name)


@pytest.mark.parametrize("name", READ)
def test_a_row_that_lacks_a_key_is_refused_by_the_name_of_the_key(name):
    row = {key: value for key, value in EXAMPLES[name][0].items() if key != "ground_truth"}  # in a file of its own
    for missing in formats.FORMATS[name].keys[1:]:
        with pytest.raises(BadRow, match=f"lacks {missing}"):
            formats.read({key: value for key, value in row.items() if key != missing}, name)


@pytest.mark.parametrize("row", [[], 3, "text", None, {}, {"a": 1}])
def test_what_looks_like_no_format_is_refused(row):
    with pytest.raises(BadRow):
        formats.format_of(row)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "object", "{", "[]", '{"a": 1}', "\ud800"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["name", "type", "role"]), inner),
    max_leaves=4,
)


def places(value, path=()):
    """The path to every value inside a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def replaced(value, path, new):
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


@pytest.mark.parametrize("name", READ)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_row_with_anything_in_any_place_is_read_or_refused(name, data):
    row = EXAMPLES[name][0]
    if name == "xlam":  # its lists are texts: open them
        row = row | {key: json.loads(row[key]) for key in ("answers", "tools")}
    row = replaced(row, data.draw(st.sampled_from(list(places(row)))), data.draw(JSON))
    try:
        records, tools = convert(row, name)
    except BadRow as reason:
        assert str(reason)
        return
    for record in records:
        toolbox.to_json(record).encode("utf-8")
        assert not toolbox.validate_call(toolbox.parse_call(record["completion"]), tools)


# ---- what becomes of a conversation


def test_each_turn_is_a_record_with_what_came_before_as_its_prompt():
    row = chat(
        {"role": "system", "content": "Be brief."},
        asks("Weather in\n Oslo?"),
        calls(OSLO),
        {"role": "tool", "content": '{"sky": "clear"}'},
        {"role": "assistant", "content": "Clear."},
        asks("Thanks!"),
        {"role": "assistant", "content": "You are welcome!"},
    )
    records, _ = convert(row, "messages")
    lines = [
        "Weather in Oslo?",
        'Call: {"tool": "get_current_weather", "args": {"location": "Oslo", "format": "celsius"}}',
        'Result: {"sky": "clear"}',
        'Call: {"tool": "respond", "args": {"message": "Clear."}}',
        "User: Thanks!",
    ]
    assert [record["prompt"].split("\n") for record in records] == [lines[:1], lines[:3], lines]
    assert records[0]["completion"] == lines[1].removeprefix("Call: ")  # in the schema's order, not the row's
    assert [record["meta"]["turn"] for record in records] == [1, 2, 3]
    assert records[0]["meta"]["system"] == "Be brief." and len({record["id"] for record in records}) == 3


def test_calls_at_the_same_time_become_one_after_the_other_if_their_results_are_known():
    first, second = OSLO, ("get_current_weather", '{"location": "Rome", "format": "celsius"}')
    row = chat(asks("Both?"), calls(first, second))
    notes = collections.Counter()
    assert len(convert(row, "messages", notes)[0]) == 1 and notes.total() == 1
    row["messages"] += [{"role": "tool", "content": "cold"}, {"role": "tool", "content": "warm"}]
    one, two = convert(row, "messages", notes)[0]
    assert two["prompt"] == f'{one["prompt"]}\nCall: {one["completion"]}\nResult: "cold"'


def test_a_message_of_weight_nought_is_context_and_no_record():
    row = chat(asks("Hi"), {"role": "assistant", "content": "Hm.", "weight": 0}, asks("Hello?"))
    with pytest.raises(BadRow, match="no answer"):
        convert(row, "messages")
    row["messages"].append({"role": "assistant", "content": "Hi!"})
    assert [record["meta"]["turn"] for record in convert(row, "messages")[0]] == [2]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([asks("a"), calls(("book", "{}"))], "unknown tool 'book'"),
        ([asks("a"), calls((OSLO[0], "{"))], "arguments are not JSON"),
        ([asks("a"), calls((OSLO[0], '{"location": "Oslo"}'))], "missing argument 'format'"),
        ([asks("a"), calls((OSLO[0], '{"location": 3, "format": "celsius"}'))], "'location'"),
        ([asks("a"), calls((OSLO[0], "[]"))], "not an object"),
        ([asks("a"), calls(("respond", '{"message": "\\ud800"}'))], "surrogate"),
        ([asks("\ud800"), {"role": "assistant", "content": "a"}], "surrogate"),
        ([asks("a"), {"role": "assistant", "content": None}], "no text"),
        ([asks("a"), {"role": "assistant", "content": ""}], "message"),
        ([{"role": "assistant", "content": "a"}], "nothing was asked"),
        ([asks("a")], "no answer"),
        ([asks("a"), {"role": "judge", "content": "a"}], "'judge'"),
        (["a"], "not a list of objects"),
    ],
)
def test_a_bad_conversation_is_refused_with_its_reason(messages, reason):
    with pytest.raises(BadRow, match=reason):
        convert({"messages": messages, "tools": [{"function": WEATHER}]}, "messages")


@pytest.mark.parametrize(
    ("tool", "reason"),
    [
        ({"parameters": {"type": "object"}}, "no name"),
        ({"name": "a", "parameters": {"type": "string"}}, "not the schema of an object"),
        ({"name": "a", "parameters": {"type": "object", "properties": 3}}, "not a JSON Schema"),
        ({"name": "a", "parameters": {"type": "object", "$ref": "http://127.0.0.1/x"}}, "leads nowhere"),
        ({"name": "a", "parameters": {"type": "object", "title": "\ud800"}}, "surrogate"),
        ({"name": "a", "description": "\ud800"}, "surrogate"),
    ],
)
def test_a_bad_tool_is_refused_with_its_reason(tool, reason):
    with pytest.raises(BadRow, match=reason):
        ToolSet().add(tool)


def test_names_become_valid_and_unique_and_the_same_tool_keeps_its_name():
    toolset, other = ToolSet(), {"type": "object", "properties": {"a": {"type": "string"}}}
    assert toolset.add({"name": "math.sum é"}) == toolset.add({"name": "math.sum é"}) == "math_sum"
    assert toolset.add({"name": "math.sum é", "parameters": other}) == "math_sum_2"
    assert toolset.add({"name": "respond", "parameters": other}) == "respond_2"
    long = [toolset.add({"name": "x" * 99, "parameters": other | {"title": str(n)}}) for n in range(12)]
    assert len(set(long)) == 12 and max(map(len, long)) == 64
    assert list(toolset.ordered())[-1] == "respond"


@pytest.mark.parametrize(
    ("kind", "schema"),
    [
        ("int", {"type": "integer"}),
        ("str, optional", {"type": "string"}),
        ("List[float]", {"type": "array", "items": {"type": "number"}}),
        ("Optional[Dict[str, Any]]", {"type": "object"}),
        ("Any", {}),
    ],
)
def test_python_annotations_become_schemas(kind, schema):
    parameters = formats._xlam_schema({"a": {"type": kind}})
    assert parameters["properties"]["a"] == schema
    assert parameters["required"] == ([] if "ptional" in kind else ["a"])


def test_the_leaderboards_answers_take_the_first_accepted_value_at_every_depth():
    schema = {"properties": {"a": {"properties": {"b": {}}, "required": ["b"]}}, "required": ["a"]}
    assert formats._first_accepted({"a": [{"b": ["x", "y"], "c": ["", 1]}], "d": [2, ""]}, schema) == {"a": {"b": "x"}}
