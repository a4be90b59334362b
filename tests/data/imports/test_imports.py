"""The formats that fine-tuners use most, each on rows in its exact layout: what is read, refused and written again."""

import collections
import contextlib
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tools as toolbox
from playground.data import sources, writing
from playground.data.exports import EXPORTS
from playground.data.imports import calls, chats, conversation, formats, reading, records
from playground.data.imports.conversation import BadRow, ToolSet
from playground.run import recipe
from playground.run.errors import UserError
from playground.run.files import read_records
from tests.data.imports.test_formats import EXAMPLES, JSON, places, replaced

# ---- a row of each, written for this test


def object_of(*required, **properties):
    return {"type": "object", "properties": properties, "required": list(required)}


CITY = {"type": "string", "description": "Name of the city"}
WEATHER = {
    "name": "get_weather",
    "description": "The weather of the next days",
    "parameters": object_of("city", city=CITY, days={"type": "integer"}),
}
TIDES = {"name": "tide_table", "description": "Tides at a port", "parameters": object_of("port", port=CITY)}
PARIS = {"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}
SAID = "It will rain for three days."
TOOLACE_SYSTEM = (
    "You are an expert in composing functions. You are given a question and a set of possible functions. Based on the "
    "question, you will need to make one or more function/tool calls to achieve the purpose. If none of the function "
    "can be used, point it out. You should only return the function call in tools call sections.\nHere is a list of "
    'functions in JSON format that you can invoke:\n[{"name": "Get Weather", "description": "The weather", '
    '"parameters": {"type": "dict", "properties": {"city": {"type": "string"}, "days": {"type": "int", "default": 1}, '
    '"spots": {"type": "list", "items": {"type": "dict"}}}, "required": ["city"]}, "required": null}, '
    '{"name": "tides.list", "description": "All tides", "parameters": {"type": "dict", "properties": {}}}]. \n'
    "Should you decide to return the function call(s). Put it in the format of [func1(params_name=params_value, "
    "params_name2=params_value2...), func2(params)]\n"
)
TOOLACE = {
    "system": TOOLACE_SYSTEM,
    "conversations": [
        {"from": "user", "value": "Weather in Paris for 3 days, and the tides?"},
        {
            "from": "assistant",
            "value": '[Get Weather(city="Paris", days=3, spots=[{"at": (2, 48.8), "near": None}]), tides.list()]',
        },
        {
            "from": "tool",
            "value": '[{"name": "Get Weather", "results": {"sky": "rain"}}, {"name": "tides.list", "results": []}]',
        },
        {"from": "assistant", "value": SAID},
    ],
}
SHAREGPT = {
    "system": "Be brief.",
    "conversations": [
        {"from": "human", "value": "Weather in Paris for 3 days?"},
        {"from": "function_call", "value": json.dumps(PARIS)},
        {"from": "observation", "value": '{"sky": "rain"}'},
        {"from": "gpt", "value": SAID},
        {"from": "human", "value": "Thanks!"},
        {"from": "gpt", "value": "You are welcome."},
    ],
    "tools": json.dumps([WEATHER, TIDES]),
}
TRL = {
    "messages": [
        {"role": "user", "content": "Weather in Paris for 3 days?"},
        {"role": "assistant", "tool_calls": [{"type": "function", "function": PARIS}]},
        {"role": "tool", "name": "get_weather", "content": '{"sky": "rain"}'},
        {"role": "assistant", "content": SAID},
    ],
    "tools": [{"type": "function", "function": WEATHER}],
}
MOBILE = {
    "metadata": "train",
    "tools": [
        {
            "function": {
                "name": "create_calendar_event",
                "description": "Creates a new calendar event.",
                "parameters": {
                    "type": "OBJECT",
                    "properties": {
                        "title": {"type": "STRING", "description": "The title of the event."},
                        "datetime": {"type": "STRING", "description": "YYYY-MM-DDTHH:MM:SS"},
                        "guests": {"type": "ARRAY", "items": {"type": "STRING"}},
                    },
                    "required": ["title", "datetime"],
                },
            }
        },
        {"function": {"name": "turn_on_flashlight", "description": "Turns the flashlight on.",
                      "parameters": {"type": "OBJECT", "properties": {}}}},
    ],
    "messages": [
        {"role": "developer", "content": "Current date and time, as YYYY-MM-DDTHH:MM:SS: 2026-03-01T10:00:00"},
        {"role": "user", "content": "Put lunch with Ada into my calendar for noon tomorrow."},
        {
            "role": "assistant",
            "tool_calls": [
                {"function": {"name": "create_calendar_event",
                              "arguments": {"title": "lunch with Ada", "datetime": "2026-03-02T12:00:00"}}}
            ],
        },
    ],
}  # fmt: skip
WHEN2CALL = {
    "tools": [json.dumps(WEATHER), json.dumps(TIDES)],
    "messages": [
        {"role": "user", "content": "What will the weather be for 3 days?"},
        {"role": "assistant", "content": "Which city do you mean?"},
    ],
}
WHEN2CALL_CALL = {
    "tools": [json.dumps(WEATHER)],
    "messages": [
        {"role": "user", "content": "What will the weather be in Paris for 3 days?"},
        {"role": "assistant", "content": f"<TOOLCALL>[{json.dumps(PARIS)}]</TOOLCALL>"},
    ],
}
WHEN2CALL_PAIR = {
    "tools": [json.dumps(WEATHER)],
    "messages": [{"role": "user", "content": "What will the weather be for 3 days?"}],
    "chosen_response": {"role": "assistant", "content": "Which city do you mean?"},
    "rejected_response": {"role": "assistant", "content": f"<TOOLCALL>[{json.dumps(PARIS)}]</TOOLCALL>"},
}
HERMES_TOOLS = json.dumps([{"type": "function", "function": WEATHER}])
HERMES = {
    "id": "0a1b2c3d",
    "conversations": [
        {
            "from": "system",
            "value": "You are a function calling AI model. You are provided with function signatures within <tools> "
            "</tools> XML tags. You may call one or more functions to assist with the user query. Don't make "
            f"assumptions about what values to plug into functions.\n<tools>\n{HERMES_TOOLS}\n</tools>\nFor each "
            "function call return a JSON object with function name and arguments within <tool_call> </tool_call> tags "
            "with the following schema:\n<tool_call>\n{'arguments': <args-dict>, 'name': <function-name>}\n"
            "</tool_call>\n",
        },
        {"from": "human", "value": "Weather in Paris for 3 days?\n"},
        {
            "from": "gpt",
            "value": "<tool_call>\n{'arguments': {'city': 'Paris', 'days': 3}, 'name': 'get_weather'}\n</tool_call>\n",
        },
    ],
    "tools": HERMES_TOOLS,
    "category": "Weather",
    "subcategory": "Forecasts",
    "task": "Ask for a forecast",
}
CALL = ("get_weather", {"city": "Paris", "days": 3})
ROWS = {
    "toolace": (
        TOOLACE,
        [
            ("Get_Weather", {"city": "Paris", "days": 3, "spots": [{"at": [2, 48.8], "near": None}]}),
            ("tides_list", {}),
            ("respond", {"message": SAID}),
        ],
    ),
    "sharegpt": (SHAREGPT, [CALL, ("respond", {"message": SAID}), ("respond", {"message": "You are welcome."})]),
    "trl": (TRL, [CALL, ("respond", {"message": SAID})]),
    "mobile_actions": (
        MOBILE,
        [("create_calendar_event", {"title": "lunch with Ada", "datetime": "2026-03-02T12:00:00"})],
    ),
    "when2call": (WHEN2CALL, [("respond", {"message": "Which city do you mean?"})]),
    "hermes": (HERMES, [CALL]),
}


def convert(row):
    name = formats.format_of(row)
    toolset, notes = ToolSet(), collections.Counter()
    found = conversation.to_records({"id": "row"} | formats.read(row, name), toolset, name, notes)
    return found, toolset.ordered(), notes


def format_of(row):
    return "messages" if "messages" in row else "conversations"


def calls_of(found):
    return [(call["tool"], call["args"]) for call in (toolbox.parse_call(row["completion"]) for row in found)]


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", ROWS)
def test_a_format_is_recognized_and_read_with_its_tools(name):
    row, expected = ROWS[name]
    assert formats.format_of(row) == format_of(row)
    found, tools, notes = convert(row)
    assert calls_of(found) == expected and not notes
    assert not any(toolbox.validate_call(toolbox.parse_call(record["completion"]), tools) for record in found)


@pytest.mark.parametrize("name", ROWS)
def test_a_file_of_forty_rows_is_read_whole(name, tmp_path, capsys):
    row, expected = ROWS[name]
    found, _, report, _ = records.load(write_lines(tmp_path / "a.jsonl", [row] * 40), {})
    assert len(found) == 40 * len(expected) and report.format == format_of(row) and not report.reasons
    assert not capsys.readouterr().err


@pytest.mark.parametrize("name", ROWS)
def test_the_types_of_python_and_of_gemini_become_those_of_json_schema(name):
    _, tools, _ = convert(ROWS[name][0])
    types = {kind["type"] for tool in tools.values() for kind in tool["parameters"].get("properties", {}).values()}
    assert types <= {"string", "integer", "array"}


def test_what_was_said_before_stands_in_the_prompt():
    found, _, _ = convert(TOOLACE)
    assert found[-1]["prompt"].split("\n")[2::2] == ['Result: {"sky": "rain"}', "Result: []"]
    assert convert(SHAREGPT)[0][0]["meta"]["system"] == "Be brief."
    assert convert(MOBILE)[0][0]["meta"]["system"].endswith("10:00:00")


def test_trls_other_layouts_are_read_too():
    parted = {"prompt": TRL["messages"][:1], "completion": TRL["messages"][1:2], "tools": json.dumps(TRL["tools"])}
    assert calls_of(convert(parted)[0]) == [CALL]
    filled = json.loads(json.dumps(TRL))
    filled["messages"][1]["tool_calls"][0]["function"]["arguments"]["port"] = None  # another tool's, on the hub
    filled["tools"][0]["function"]["parameters"]["properties"]["port"] = None
    assert calls_of(convert(filled)[0])[0] == CALL


def test_a_row_without_a_call_is_an_answer():
    talk = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]}
    for row in (talk | {"tools": "[]"}, talk):
        assert calls_of(convert(row)[0]) == [("respond", {"message": "Hello."})]


def test_a_result_that_is_a_list_stays_one():
    turns = [*SHAREGPT["conversations"][:2], {"from": "observation", "value": '[{"sky": "rain"}]'}]
    found, *_ = convert(SHAREGPT | {"conversations": [*turns, {"from": "gpt", "value": SAID}]})
    assert found[-1]["prompt"].endswith('Result: [{"sky": "rain"}]')


def test_calls_in_tags_are_read_in_when2call():
    assert calls_of(convert(WHEN2CALL_CALL)[0]) == [CALL]


def test_a_preferred_response_makes_a_record_and_with_the_other_a_pair(tmp_path):
    found, _, report, _ = records.load(write_lines(tmp_path / "a.jsonl", [WHEN2CALL_PAIR]), {})
    assert calls_of(found) == [("respond", {"message": "Which city do you mean?"})] and "rejected" not in found[0]
    (pair,) = report.pairs
    assert pair["prompt"] == found[0]["prompt"] and pair["chosen"] == found[0]["completion"]
    assert toolbox.parse_call(pair["rejected"]) == {"tool": "get_weather", "args": {"city": "Paris", "days": 3}}


def test_stage_02_writes_the_pairs_that_are_not_too_close_to_a_held_out_request(tmp_path):
    rows = []
    for number in range(40):
        asked = {"role": "user", "content": f"What will the weather be for {number} days from now on?"}
        rows.append(WHEN2CALL_PAIR | {"messages": [asked]})
    settings = recipe.load(None, [("dataset.source", write_lines(tmp_path / "a.jsonl", rows))])
    dataset = sources.build(settings)
    held_out = {row["prompt"] for split in ("val", "test") for row in dataset.splits[split]}
    assert held_out and not held_out & {pair["prompt"] for pair in dataset.pairs}
    assert len(dataset.pairs) == 40 - len(held_out)
    sources.write(tmp_path, dataset, settings)
    assert len(read_records(tmp_path / "pairs.jsonl", ("prompt", "chosen", "rejected"))) == len(dataset.pairs)


@pytest.mark.parametrize("rejected", ["<TOOLCALL>[]</TOOLCALL>", "Which city do you mean?"])
def test_a_rejected_response_that_makes_no_pair_is_counted(rejected, tmp_path):
    row = WHEN2CALL_PAIR | {"rejected_response": {"role": "assistant", "content": rejected}}
    if "TOOLCALL" in rejected:
        with pytest.raises(BadRow, match="no call"):
            convert(row)
        return
    found, _, notes = convert(row)
    assert len(found) == 1 and "rejected" not in found[0] and notes.total() == 1


def test_chosen_and_rejected_messages_of_trl_are_a_pair():
    row = {
        "prompt": TRL["messages"][:1],
        "chosen": TRL["messages"][1:2],
        "tools": TRL["tools"],
        "rejected": [{"role": "assistant", "content": "It will rain."}],
    }
    (record,), _, _ = convert(row)
    assert calls_of([record]) == [CALL]
    assert json.loads(record["rejected"]) == {"tool": "respond", "args": {"message": "It will rain."}}


FUZZED = {name: row for name, (row, _) in ROWS.items()} | {"when2call": WHEN2CALL_PAIR, "trl": TRL}


@pytest.mark.parametrize("name", FUZZED)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_row_with_anything_in_any_place_is_read_or_refused(name, data):
    row = replaced(FUZZED[name], data.draw(st.sampled_from(list(places(FUZZED[name])))), data.draw(JSON))
    try:
        found, tools, _ = convert(row)
    except BadRow as reason:
        assert str(reason)
        return
    for record in found:
        toolbox.to_json(record).encode("utf-8")
        assert not toolbox.validate_call(toolbox.parse_call(record["completion"]), tools)


# ---- no call is ever an answer

LOOKALIKES = [
    '[Get Weather(city="Paris")]',
    '[get_weather("Paris")]',
    'Sure: get_weather(city="Paris")',
    '{"name": "get_weather", "arguments": {"city": "Paris"}}',
    "{'name': 'get_weather', 'arguments': {'city': 'Paris'}}",
    '```json\n[{"name": "get_weather", "parameters": {"city": "Paris"}}]\n```',
    '{"tool": "get_weather", "args": {"city": "Paris"}}',
    '{"get_weather": {"city": "Paris"}}',
    '{"type": "function", "function": {"name": "get_weather", "arguments": "{}"}}',
    '<tool_call>{"name": "get_weather", "arguments"',
    '<functioncall> {"name": "get_weather"',
    "<function=get_weather>{}</function>",
    '<|python_tag|>{"name": "get_weather"}',
    '[TOOL_CALLS] [{"name": "get_weather"}]',
    "<start_function_call>call:get_weather{city:Paris}",
    '<invoke name="get_weather">',
    "<｜tool▁calls▁begin｜>get_weather",
    'Thought: rain?\nAction: get_weather\nAction Input: {"city": "Paris"}',
    '<|channel|>commentary to=functions.get_weather {"city": "Paris"}',
    '[get_weather(city="Paris"',
]
ANSWERS = [
    "It is 18 °C (cloudy) in Paris.",
    "See [the docs](https://example.org/?name=x) for more.",
    'Her name is "Ada"; the function f(x) = x + 1 grows.',
    '{"name": "Ada", "age": 36}',
    "[1, 2, 3]",
    "[Note] this is a list (of notes).",
    "I sent your email about the get_weather tool (see below).",
]


def said_in(name, text):
    """A row of a format whose last answer is `text`."""
    turns = [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": text}]
    messages = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": text}]
    glaive = f"SYSTEM: You are a helpful assistant with access to the following functions. -\n{json.dumps(WEATHER)}"
    return {
        "project": {"prompt": "Hi?", "completion": toolbox.to_json({"tool": "respond", "args": {"message": text}})},
        "openai": {"messages": messages, "tools": [{"type": "function", "function": WEATHER}]},
        "trl": {"messages": messages, "tools": json.dumps([{"type": "function", "function": WEATHER}])},
        "mobile_actions": MOBILE | {"messages": messages, "tools": [*MOBILE["tools"], {"function": WEATHER}]},
        "when2call": WHEN2CALL | {"messages": messages},
        "toolace": {
            "system": f"Functions: {json.dumps([WEATHER])}",
            "conversations": [{"from": "user", "value": "Hi?"}, {"from": "assistant", "value": text}],
        },
        "sharegpt": {"conversations": turns, "tools": json.dumps([WEATHER])},
        "hermes": {"conversations": [HERMES["conversations"][0], *turns]},
        "glaive": {"system": glaive, "chat": f"USER: Hi?\n\n\nASSISTANT: {text} <|endoftext|>\n\n\n"},
    }[name]


@pytest.mark.parametrize(
    "name", ["project", "openai", "trl", "mobile_actions", "when2call", "toolace", "sharegpt", "hermes", "glaive"]
)
def test_no_format_takes_what_looks_like_a_call_for_an_answer(name, tmp_path):
    """It is read as a call where it is one in the format's own form, and refused where it is not."""
    own = toolbox.load_tools() | {"get_weather": WEATHER}
    for text in LOOKALIKES:
        path = write_lines(tmp_path / "a.jsonl", [said_in(name, "Hello!")] * 9 + [said_in(name, text)])
        found, _, report, _ = records.load(path, own)
        assert [row["completion"] for row in found[9:] if json.loads(row["completion"])["tool"] == "respond"] == []
        assert len(found) + report.reasons.total() == 10, text


@pytest.mark.parametrize("name", ["project", "openai", "trl", "toolace", "sharegpt", "hermes", "glaive"])
def test_answers_with_brackets_and_quotes_are_answers(name, tmp_path):
    rows = [said_in(name, text) for text in ANSWERS]
    found, *_ = records.load(write_lines(tmp_path / "a.jsonl", rows), toolbox.load_tools())
    assert [json.loads(row["completion"])["args"]["message"] for row in found] == ANSWERS


def test_a_call_that_cannot_be_read_is_refused_and_not_left_out():
    half = "<tool_call>\n{'name': 'get_weather', 'arguments': {'city': 'Paris', 'days': 3}}\n</tool_call>\n<tool_call>"
    row = {"conversations": [*HERMES["conversations"][:2], {"from": "gpt", "value": half}]}
    with pytest.raises(BadRow, match="does not end"):
        convert(row)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[f()]", [("f", {})]),
        (
            "[a.b c(x=1, from='y', max-n=2), d(z=[1, {'k': (2, 3)}])]",
            [("a.b c", {"x": 1, "from": "y", "max-n": 2}), ("d", {"z": [1, {"k": [2, 3]}]})],
        ),
        (
            """[f(a="it's, (really) =]", b='say "hi"', c="\\n")]""",
            [("f", {"a": "it's, (really) =]", "b": 'say "hi"', "c": "\n"})],
        ),
        ("[f(a=true, b=None, c=null, d=-1.5e3,)]", [("f", {"a": True, "b": None, "c": None, "d": -1500.0})]),
        ("[Weather (v2)(a=1)]", [("Weather (v2)", {"a": 1})]),
    ],
)
def test_pythons_calls_are_read(text, expected):
    assert chats.read_calls(text, ["Weather (v2)"]) == expected


@pytest.mark.parametrize(
    "text",
    ["", "f(a=1)", "[]", "[f(1)]", "[f(a=b)]", "[f(a=g(1))]", "[f(a=1) and more]", "[f(a=1]", "[f(a='x)]", "[f(a={1})]",
     "[f(a=1, a=2)]", "[f(a=__import__('os').getcwd())]", "[(a=1)]", "[f(a=" + "[" * 5000 + "]" * 5000 + ")]"],
)  # fmt: skip
def test_what_is_no_list_of_calls_is_refused(text):
    with pytest.raises(BadRow):
        chats.read_calls(text)


# ---- what is refused is counted and said


def test_the_commonest_reasons_are_said_with_their_counts_and_first_rows(tmp_path, capsys):
    strange = json.loads(json.dumps(SHAREGPT).replace("get_weather", "fly"))
    strange["tools"] = SHAREGPT["tools"]
    broken = SHAREGPT | {"conversations": SHAREGPT["conversations"][:1]}
    rows = [SHAREGPT] * 30 + [broken] * 2 + [strange] * 3
    records.load(write_lines(tmp_path / "a.jsonl", rows), {})
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith("5 of 35 rows skipped: 3 unknown tool … (first: 33); 2 no answer to learn from (first: 31).")
    )
    with pytest.raises(UserError, match=r"5 of 6 rows cannot be used.*: 3 unknown tool … \(first: 4\); 2 no answer"):
        records.load(write_lines(tmp_path / "b.jsonl", rows[-6:]), {})


# ---- there and back


PUBLISHED = {f"{name}, published": row for name, (row, _) in EXAMPLES.items() if name != "project"}
ALL_ROWS = {name: row for name, (row, _) in ROWS.items()} | PUBLISHED


@pytest.mark.parametrize("export", EXPORTS)
@pytest.mark.parametrize("name", ALL_ROWS)
def test_every_format_read_and_written_again_is_the_same_record(name, export, tmp_path):
    found, tools, *_ = records.load(write_lines(tmp_path / "a.jsonl", [ALL_ROWS[name]]), {})
    writing.write(tmp_path, {"train": found}, tools, export)
    back, again, report, files = records.load(str(tmp_path / f"train.{export}.jsonl"), {})
    assert back == found and report.format in ("messages", "conversations") and len(files) == 2
    assert {tool: again[tool]["parameters"] for tool in again} == {tool: tools[tool]["parameters"] for tool in again}


def test_what_is_exported_is_in_the_layout_that_the_trainers_read():
    found, tools, _ = convert(SHAREGPT)
    row = EXPORTS["sharegpt"](found[2], tools)
    assert [turn["from"] for turn in row["conversations"]] == [turn["from"] for turn in SHAREGPT["conversations"]]
    assert row["conversations"] == SHAREGPT["conversations"] and row["system"] == "Be brief."
    assert [tool["name"] for tool in json.loads(row["tools"])] == ["get_weather", "tide_table"]
    row = EXPORTS["trl"](found[0], tools)
    assert row["completion"][0]["tool_calls"][0]["function"] == PARIS and len(row["completion"]) == 1
    assert [message["role"] for message in row["prompt"]] == ["system", "user"]


# ---- time grows with the text, not with its square


def seconds(work):
    begin = time.process_time()
    with contextlib.suppress(BadRow, UserError):
        work()
    return time.process_time() - begin


def test_a_chat_of_line_breaks_is_read_in_time_that_grows_with_it():
    row = {"system": "", "chat": "USER: Hi" + "\n" * 60_000 + "there.\n\nASSISTANT: Hello"}
    assert seconds(lambda: convert(row)) < 2
    (record,) = convert(row)[0]
    assert (record["prompt"], calls_of([record])) == ("Hi there.", [("respond", {"message": "Hello"})])


@pytest.mark.parametrize("text", ["<tool_call>{" * 4000, "<tool_call>{ " * 4000 + "\n" * 4000, "<tools>[" * 90_000])
def test_tags_that_never_end_are_refused_in_time_that_grows_with_them(text):
    row = {"conversations": [{"from": "system", "value": text}, {"from": "human", "value": "Hi"},
                             {"from": "gpt", "value": text}]}  # fmt: skip
    assert seconds(lambda: convert(row)) < 2


def test_an_entry_of_an_array_is_not_read_again_at_each_block(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_LINE", 1000)  # blocks of that size would be thousands
    path = tmp_path / "a.json"
    big = ["a", [{"b": '\\"[{'}]] * 60_000
    path.write_text(json.dumps([{"first": 1}, big, "x" * 2_000_000, {"last": [2]}]), encoding="utf-8")
    found = []
    assert seconds(lambda: found.extend(row for _, row in reading.rows(path))) < 5
    assert [str(row) for row in found] == ["{'first': 1}", "over 1 MB", "over 1 MB", "{'last': [2]}"]
    monkeypatch.setattr(reading, "MAX_ENTRY", 100_000)
    with pytest.raises(UserError, match="entry 2 of the array is not JSON"):
        list(reading.rows(path))


def test_a_broken_entry_is_named_where_it_stands_and_nothing_after_it_is_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[{"a": 1}, {"b" 2}' + ', {"c": 3}' * 2_000_000 + "]", encoding="utf-8")
    with pytest.raises(UserError, match="entry 2 of the array is not JSON"):
        list(reading.rows(path))
    path.write_text('[{"a": 1}, ["' + "b" * 3_000_000, encoding="utf-8")
    with pytest.raises(UserError, match="entry 2 of the array is not JSON"):
        list(reading.rows(path))


def test_a_row_of_the_hub_has_the_size_limit_of_a_line(monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: [{"a": "b" * reading.MAX_LINE}, {"a": "b"}])
    assert [str(row) for _, row in reading.hub_rows("a/b")] == ["over 1 MB", "{'a': 'b'}"]


def test_a_chat_of_thousands_of_turns_is_refused_before_its_records_fill_the_memory():
    turn = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    with pytest.raises(BadRow, match="over 400 messages"):
        convert({"messages": turn * 15_000})
    call = {"function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    many = [turn[0], {"role": "assistant", "tool_calls": [call] * 3000}, *[{"role": "tool", "content": "1"}] * 300]
    assert len(convert({"messages": many[:2], "tools": [{"function": WEATHER}]})[0]) == 1
    many[2:] = [{"role": "tool", "content": "1"}] * 398
    with pytest.raises(BadRow, match="over 400 messages"):
        convert({"messages": [*many, *many[2:]], "tools": [{"function": WEATHER}]})


@pytest.mark.parametrize(
    "text",
    ["[f(x=" + "[" * 900_000, '[f(x="' + '\\"' * 450_000, "[a " * 300_000, '"name":' * 140_000, "[f(" * 300_000,
     "a" * 900_000, "\n Action" * 100_000, '["' * 400_000 + "(", '{"a": ' * 150_000],
)  # fmt: skip
def test_looking_for_calls_takes_time_that_grows_with_the_text(text):
    assert seconds(lambda: calls.looks_like(text, {"x"})) < 2
    assert seconds(lambda: chats.read_calls(text, ["x"])) < 2
