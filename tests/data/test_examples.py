"""A tool of one's own from a few example requests: what is exchanged, held out and refused, on three tools' files."""

import json
import random
import re
from collections import Counter

import pytest

import tools as toolbox
from playground.data import examples, slots, sources
from playground.data.augment import Exchange
from playground.data.leaks import leak_check
from playground.model import decoding, prompting
from playground.run import recipe
from playground.run.errors import UserError
from playground.run.files import read_jsonl
from tests.conftest import ROOT

TOOL_FILE, EXAMPLES, HELD_OUT = (
    ROOT / path for path in ("configs/own_tools.json", "configs/own_tools.jsonl", "bench/own_tools.jsonl")
)
OWN = toolbox.load_tools(TOOL_FILE)
TOOLS, _ = sources._with_default(OWN)
TIMER = {
    "name": "set_timer", "description": "Ring.",
    "parameters": {"type": "object", "required": ["minutes"], "additionalProperties": False,
                   "properties": {"minutes": {"type": "integer", "minimum": 1, "maximum": 600}}},
}  # fmt: skip
WORDINGS = ("Set a timer for {} minutes", "Ring in {} minutes", "start a {} minute timer", "timer, {} min",
            "Could you time {} minutes for me?", "wake me after {} minutes")  # fmt: skip


def build(**settings):
    chosen = {"dataset.examples": str(EXAMPLES), "tools.file": str(TOOL_FILE)} | settings
    return sources.build(recipe.load(None, list(chosen.items())))


@pytest.fixture(scope="module")
def dataset():
    return build()


def own_records(rows, tool=None):
    return [row for row in rows if row["source"] == "examples" and tool in (None, call_of(row)["tool"])]


def call_of(record):
    lines = record["prompt"].split("\n")
    return json.loads(lines[1].removeprefix("Call: ") if len(lines) > 1 else record["completion"])


def request_of(record):
    return record["prompt"].split("\n")[0]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def timer(minutes, wording, **more):
    return {"prompt": wording.format(minutes), "call": {"tool": "set_timer", "args": {"minutes": minutes}}} | more


def of_timer(rows, tmp_path, **settings):
    tools = tmp_path / "tools.json"
    tools.write_text(json.dumps([{"type": "function", "function": TIMER}]))
    path = write(tmp_path / "examples.jsonl", rows)
    return build(**{"tools.file": str(tools), "dataset.examples": str(path)} | settings)


# ---- where a value stands


@pytest.mark.parametrize(
    ("request_", "args", "values", "expected"),
    [
        ("Ring in 25 minutes", {"n": 25}, {("n",): 40}, "Ring in 40 minutes"),
        ("Ring in five minutes", {"n": 5}, {("n",): 40}, "Ring in forty minutes"),
        ("Pay 12.5 euros", {"n": 12.5}, {("n",): 7.0}, "Pay 7 euros"),
        ("Pay 1,500 euros", {"n": 1500}, {("n",): 20}, "Pay 20 euros"),
        ("Heat the living room", {"r": "living_room"}, {("r",): "kitchen"}, "Heat the kitchen"),
        ("Heat the kitchen", {"r": "kitchen"}, {("r",): "living_room"}, "Heat the living room"),
        ("Add milk and eggs.", {"i": ["milk", "eggs"]}, {("i",): ["a", "b", "c"]}, "Add a, b and c."),
        ("Buy: milk, eggs, jam", {"i": ["milk", "eggs", "jam"]}, {("i",): ["a", "b"]}, "Buy: a, b"),
        ("Rows 1, 2 and 3", {"i": [1, 2, 3]}, {("i",): [7]}, "Rows 7"),
        ("To Ada in Rome", {"to": {"who": "Ada", "city": "Rome"}}, {("to", "city"): "Oslo"}, "To Ada in Oslo"),
    ],
)
def test_a_value_is_exchanged_in_request_and_call_alike(request_, args, values, expected):
    found, changed = slots.fill(slots.find(request_, args), values)
    assert found == expected
    for path, value in values.items():
        inner = changed
        for key in path:
            inner = inner[key]
        assert inner == value and args != changed


@pytest.mark.parametrize(
    ("request_", "args"),
    [
        ("A table for 2 at 2", {"guests": 2}),  # which of them?
        ("At 18:30", {"hour": 18}),
        ("Ring in half an hour", {"minutes": 30}),
        ("From Rome to Rome", {"to": "Rome"}),
        ("Wake me at 7 pm", {"hour": 7}),  # with another hour, it might be morning
        ("Add milk to the list for eggs", {"items": ["milk", "eggs"]}),
        ("Turn it on", {"on": True}),  # no other request shows what off is called
    ],
)
def test_what_cannot_be_told_apart_stays_as_it_is(request_, args):
    assert slots.find(request_, args).slots == []


def test_a_boolean_is_told_by_words_that_other_requests_show():
    rows = [
        (f"Turn the {what} {word} on Monday", {"tool": "lamp", "args": {"on": word != "off"}})
        for what in ("lamp", "fan")
        for word in ("up", "off")
    ]
    assert slots.learn_cues(rows) == {}  # "on" stands in all of them
    rows = [(f"Turn the fan {word}", {"tool": "lamp", "args": {"on": word == "on"}}) for word in ("on", "off")]
    shape = slots.shape_of("Turn it off", {"tool": "lamp", "args": {"on": False}}, slots.learn_cues(rows))
    assert slots.fill(shape, {("on",): True}) == ("Turn it on", {"on": True})


def test_an_answer_changes_with_the_values_that_it_repeats():
    old, new = {"room": "living_room", "n": 21}, {"room": "office", "n": 7}
    assert slots.replaced("The living room has 21 degrees.", old, new) == "The office has 7 degrees."
    result = {"room": "living_room", "at": [21, 210], "ok": True}
    assert slots.replaced_json(result, old, new) == {"room": "office", "at": [7, 210], "ok": True}
    assert slots.replaced_json({"room": 101}, {"room": "101"}, {"room": "12B"}) == {"room": 101}  # which is no number


# ---- the three tools


def test_the_files_hold_thirty_examples_and_twenty_other_requests_of_each_tool():
    rows = [read_jsonl(path) for path in (EXAMPLES, HELD_OUT)]
    for found, count in zip(rows, (30, 20), strict=True):
        assert Counter(row["call"]["tool"] for row in found) == dict.fromkeys(OWN, count)
        assert not any(toolbox.validate_call(row["call"], OWN) for row in found)
    assert not {row["prompt"].casefold() for row in rows[0]} & {row["prompt"].casefold() for row in rows[1]}


def test_every_argument_of_every_example_is_found_in_its_request():
    found = examples.read(EXAMPLES, TOOLS)
    cues = slots.learn_cues([(row["prompt"], row["call"]) for row in found])
    for row in found:
        shape = slots.shape_of(row["prompt"], row["call"], cues)
        assert {slot.path[0] for slot in shape.slots} == set(row["call"]["args"]), row


def test_each_split_has_as_many_records_of_an_own_tool_as_of_a_default_one(dataset):
    for split, rows in dataset.splits.items():
        own = Counter(call_of(row)["tool"] for row in own_records(rows))
        assert not own if split == "test_wild" else set(own) == set(OWN) and len(set(own.values())) == 1
    default = Counter(call_of(row)["tool"] for row in dataset.splits["train"] if row["source"] == "templates")
    assert own_count(dataset, "train") == 100 and default["get_weather"] > 80 and default["respond"] > 50
    assert list(dataset.tools) == [*(name for name in toolbox.load_tools() if name != "respond"), *OWN, "respond"]


def own_count(dataset, split):
    (count,) = set(Counter(call_of(row)["tool"] for row in own_records(dataset.splits[split])).values())
    return count


def test_every_record_of_an_own_tool_is_valid_and_says_its_values_in_the_request(dataset):
    for row in own_records([row for rows in dataset.splits.values() for row in rows]):
        call, request = call_of(row), request_of(row).casefold()
        assert not toolbox.validate_call(call, dataset.tools)
        assert not toolbox.validate_call(json.loads(row["completion"]), dataset.tools)
        for path, value in slots.leaves(call["args"]):
            if isinstance(value, bool):
                assert ("outside" in request) == value
            for item in value if isinstance(value, list) else [value] if not isinstance(value, bool) else []:
                spellings = {str(item).replace("_", " ").casefold(), slots.WORDS.get(str(item), str(item))}
                assert any(re.search(slots._whole(text), request) for text in spellings), (path, row)


def test_numbers_booleans_enums_and_lists_are_exchanged_within_the_schema(dataset):
    calls = [call_of(row)["args"] for row in own_records(dataset.splits["train"])]
    degrees, rooms = ({args[key] for args in calls if key in args} for key in ("degrees", "room"))
    assert rooms == set(OWN["set_thermostat"]["parameters"]["properties"]["room"]["enum"])
    assert len(degrees) > 15 and min(degrees) >= 5 and max(degrees) <= 30
    assert {args.get("outside") for args in calls if "guests" in args} == {True, False, None}
    lengths = Counter(len(args["items"]) for args in calls if "items" in args)
    assert set(lengths) == {1, 2, 3, 4, 5} and all(
        len(set(args["items"])) == len(args["items"]) for args in calls if "items" in args
    )
    given = {json.dumps(row["call"]["args"]) for row in examples.read(EXAMPLES, TOOLS)}
    assert sum(json.dumps(args) in given for args in calls) < len(calls) / 3


def test_the_test_has_phrasings_and_texts_that_training_has_not(dataset):
    leak_check(dataset.splits)
    phrasings = {
        split: {row["meta"]["phrasing"] for row in own_records(rows)} for split, rows in dataset.splits.items()
    }
    assert not phrasings["train"] & (phrasings["test"] | phrasings["val"]) and not phrasings["test"] & phrasings["val"]
    assert [len(phrasings[split]) for split in ("train", "val", "test")] == [62, 9, 18]
    stores = {
        split: {call_of(row)["args"]["restaurant"].casefold() for row in own_records(rows, "book_table")}
        for split, rows in dataset.splits.items()
    }
    assert stores["test"] and not stores["test"] & stores["train"]


def test_sentences_are_varied_as_those_of_the_templates_are(dataset):
    requests = [request_of(row) for row in own_records(dataset.splits["train"])]
    for sign in (r"^(Hey|Hi|So|Okay|OK),", r"^(Could|Can|Would) you", r"(Thanks|Thank you|Cheers)", r"^[^A-Z]+$"):
        assert sum(bool(re.search(sign, text)) for text in requests) >= 5, sign
    assert not any(re.search(r"(?i)please.*please|could you could", text) for text in requests)


def test_after_a_result_the_answer_is_that_of_the_example_with_its_own_values(dataset):
    after = [row for row in own_records(dataset.splits["train"]) if "\nResult: " in row["prompt"]]
    assert 20 < len(after) < 80
    for row in after:
        said, args = json.loads(row["completion"])["args"]["message"], call_of(row)["args"]
        named = args.get("store") or args.get("restaurant") or args["room"].replace("_", " ")
        assert named in said and all(str(args[key]) in said for key in ("degrees", "guests") if key in args)


def test_the_records_depend_on_the_seed_in_training_only():
    one, other = build(**{"dataset.size": 40}), build(**{"dataset.size": 40, "seed": 1})
    again = build(**{"dataset.size": 40})
    assert one.splits == again.splits and one.feedback == again.feedback
    assert one.splits["test"] == other.splits["test"] and one.splits["train"] != other.splits["train"]


def of_tool(tmp_path, properties, prompt, values):
    """The examples' records of a tool with one argument, of six wordings of a prompt and one value each."""
    [name] = properties
    parameters = {"type": "object", "properties": properties, "required": [name], "additionalProperties": False}
    tools = tmp_path / "tools.json"
    tools.write_text(json.dumps([{"type": "function", "function": {"name": "own", "parameters": parameters}}]))
    wordings = ("{} {}", "please {} {}", "{} {} now", "can you {} {}?", "{} {}, thanks", "I want you to {} {}")
    rows = [
        {"prompt": wording.format(prompt, value), "call": {"tool": "own", "args": {name: value}}}
        for wording, value in zip(wordings, values, strict=True)
    ]
    small = {"dataset.size": 60, "dataset.feedback": 0, "dataset.unlabelled": 0}
    path = write(tmp_path / "examples.jsonl", rows)
    dataset = build(**{"tools.file": str(tools), "dataset.examples": str(path)} | small)
    return own_records(dataset.splits["train"])


def test_what_a_pattern_holds_to_capitals_is_not_written_small(tmp_path):
    schema = {"type": "string", "pattern": "^[A-Z]{2}[0-9]+$", "x-from": "request"}
    records = of_tool(tmp_path, {"flight": schema}, "track", ["AY7", "BA12", "LH400", "KL5", "SK33", "IB9"])
    assert records and all(call_of(row)["args"]["flight"] in request_of(row) for row in records)


@pytest.mark.parametrize(
    "schema",
    [{"$ref": "#/properties/n/x-elsewhere", "x-elsewhere": {"type": "integer"}}, {"enum": [1, 2, 3, 4, 5, 6]}],
)
def test_a_value_that_nothing_is_known_of_stays_as_it_is(tmp_path, schema):
    values = [1, 2, 3, 4, 5, 6] if "$ref" in schema else [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert of_tool(tmp_path, {"n": schema}, "take", values)


def test_what_the_later_stages_learn_from_has_own_tools_too(dataset):
    assert {call_of(row)["tool"] for row in own_records(dataset.feedback)} == set(OWN)
    known = {row["prompt"] for row in dataset.splits["train"]}
    assert not known & {row["prompt"] for row in own_records(dataset.feedback)}
    held_out = {split: rows for split, rows in dataset.splits.items() if split != "train"}
    leak_check({"train": dataset.feedback, **held_out})


def test_while_training_values_are_exchanged_for_others_that_the_schema_allows(dataset):
    own = own_records(dataset.splits["train"])
    exchange, rng, changed = Exchange(dataset.splits["train"], 0.8, 0.3), random.Random(0), 0
    for row in own * 3:
        new = exchange(row, rng)
        call = call_of(new)
        assert not toolbox.validate_call(call, dataset.tools) and set(call["args"]) == set(call_of(row)["args"])
        assert call["tool"] == call_of(row)["tool"] and new["meta"] == row["meta"]
        assert all(str(item) in request_of(new) for item in call["args"].get("items", ()))
        changed += new["prompt"] != row["prompt"]
    assert changed > 0.8 * 3 * len(own)
    assert Exchange(dataset.splits["train"], 0, 0)(own[0], rng) == own[0]


# ---- one tool, and files that are wrong


def test_a_tool_file_without_the_default_tools_adds_to_them_and_one_with_some_rules_the_others_out(tmp_path):
    rows = [timer(5 * number, wording) for number, wording in enumerate(WORDINGS, 1)]
    assert list(of_timer(rows, tmp_path).tools) == [*list(toolbox.load_tools())[:-1], "set_timer", "respond"]
    entries = [TIMER, toolbox.load_tools()["get_weather"]]
    path = tmp_path / "two.json"
    path.write_text(json.dumps([{"type": "function", "function": entry} for entry in entries]))
    built = of_timer(rows, tmp_path, **{"tools.file": str(path)})
    assert list(built.tools) == ["get_weather", "set_timer", "respond"]
    called = {call_of(row)["tool"] for row in built.splits["train"]}
    assert called == set(built.tools)


def test_a_number_stays_within_its_bounds_and_about_where_the_examples_are(tmp_path):
    rows = [timer(5 * number, wording) for number, wording in enumerate(WORDINGS, 1)]
    built = of_timer(rows, tmp_path)
    minutes = [call_of(row)["args"]["minutes"] for row in own_records(built.splits["train"])]
    assert min(minutes) >= 2 and max(minutes) <= 600 and len(set(minutes)) > 30
    assert sorted(minutes)[len(minutes) // 2] < 100
    assert built.left_out == {"answers to a result of set_timer, of which no example shows one": "all"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([timer(5, wording) for wording in WORDINGS[:4]], "4 different requests for set_timer are too few"),
        ([timer(n, WORDINGS[0]) for n in range(2, 30)], "1 different requests for set_timer are too few"),
        ([{"prompt": "Hi", "call": {"tool": "respond", "args": {"message": "Hello."}}}] * 9, "too few"),
        ([{"prompt": "Hi"}], "has neither call nor completion"),
        ([{"prompt": "", "call": {}}], "prompt is not a text"),
        ([{"prompt": "Ring", "call": {"tool": "fly", "args": {}}}], "unknown tool"),
        ([timer(0, WORDINGS[0])], "less than the minimum"),
        ([timer(5, WORDINGS[0], answer="Set.")], "answer is not a text with a result beside it"),
        (["Ring"], "not a JSON object"),
        ([], "has no rows"),
    ],
)
def test_examples_that_cannot_be_used_are_one_sentence(rows, message, tmp_path):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        of_timer(rows, tmp_path)
    assert "\n" not in str(error.value)


def test_a_tool_of_which_there_is_no_example_is_named(tmp_path):
    path = write(tmp_path / "a.jsonl", [row for row in read_jsonl(EXAMPLES) if row["call"]["tool"] != "book_table"])
    with pytest.raises(UserError, match="no example calls book_table"):
        build(**{"dataset.examples": str(path)})
    with pytest.raises(UserError, match="leave out --source"):
        build(**{"dataset.source": "unseen_tools"})


def test_examples_may_also_be_in_the_projects_own_form(tmp_path):
    rows = [timer(5 * number, wording) for number, wording in enumerate(WORDINGS, 1)]
    for row in rows:
        row["completion"] = json.dumps(row.pop("call"))
    assert own_records(of_timer(rows, tmp_path).splits["test"])


def test_the_grammar_knows_the_three_tools(tokenizer):
    grammar = decoding.grammar_of(toolbox.call_schema(TOOLS), tokenizer, "tools")
    for row in read_jsonl(HELD_OUT)[::7]:
        matcher = grammar.matcher()
        for token in prompting.encode_completion(toolbox.to_json(row["call"]), tokenizer)[:-1]:
            assert matcher.mask(300)[token]
            matcher.accept(token)
        assert matcher.is_complete
