"""The metrics, against cases worked out by hand, and what holds for any output."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tools as toolbox
from playground.data import sources, templates
from playground.judge import scoring, statistics

TOOLS = toolbox.load_tools()
EMAIL = '{"tool": "send_email", "args": {"to": "jo@example.org", "subject": "the meeting"}}'
SUM = '{"tool": "calculator", "args": {"expression": "17 * 23"}}'
HELLO = '{"tool": "respond", "args": {"message": "Hello! How can I help?"}}'
ANSWER = '{"tool": "respond", "args": {"message": "It is 18 °C and sunny in Oslo."}}'
ASKED = toolbox.with_results(
    "How is Oslo?",
    [({"tool": "get_weather", "args": {"city": "Oslo"}}, {"temperature_c": 18, "sky": "sunny"})],
)


def score(text, reference, **options):
    return scoring.score(text, reference, TOOLS, **options)


def say(message):
    return toolbox.to_json({"tool": "respond", "args": {"message": message}})


def answer(message):
    return score(say(message), ANSWER, prompt=ASKED)


def rungs(scores):
    return [scores[metric] for metric in ("format_correctness", "schema_validity", "tool_accuracy")]


# ---- any output

texts = st.text(min_size=1, max_size=40)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
args = st.dictionaries(st.sampled_from(["to", "subject", "city", "expression", "message", "x"]), json_values | texts)
any_call = st.fixed_dictionaries({"tool": st.sampled_from([*TOOLS, "fax"]), "args": args})
addresses = st.sampled_from(["jo@fjord.no", "zoë.a+b@x.co.uk"])
expressions = st.sampled_from(["2 * 3", "2*3", "sqrt(16) - (1 + 2) / 3"])
reference = st.one_of(
    st.builds(lambda to, subject: {"tool": "send_email", "args": {"to": to, "subject": subject}}, addresses, texts),
    st.builds(lambda message: {"tool": "respond", "args": {"message": message}}, texts),
    st.builds(lambda expression: {"tool": "calculator", "args": {"expression": expression}}, expressions),
).map(toolbox.to_json)
any_output = st.one_of(
    texts,
    json_values.map(toolbox.to_json),
    any_call.map(toolbox.to_json),
    st.builds(lambda call, at: toolbox.to_json(call)[:at], any_call, st.integers(0, 60)),
    st.builds(lambda before, call, after: f"{before}{toolbox.to_json(call)}{after}", texts, any_call, texts),
)


@given(any_output, reference, st.booleans())
def test_every_wrong_output_has_exactly_one_kind_and_every_metric_a_value_from_0_to_1(output, reference, ended):
    scores = score(output, reference, ended=ended, prompt=ASKED)
    assert (scores["failure"] is None) == (scores["exact_call"] == 1.0)
    assert scores["failure"] in (None, *scoring.FAILURES)
    assert all(scores[name] is None or 0 <= scores[name] <= 1 for name in scoring.METRICS)
    ladder = [*rungs(scores), float(scores["exact_call"])]
    assert ladder == sorted(ladder, reverse=True)


@given(reference)
def test_an_output_equal_to_the_reference_scores_one_on_all_that_compares(reference):
    scores = score(reference, reference)
    assert scores["failure"] is None
    assert all(scores[metric] in (1.0, None) for metric in scoring.METRICS)


@given(any_call, reference)
def test_the_order_of_keys_changes_nothing(call, reference):
    backwards = {key: call[key] for key in reversed(call)}
    backwards["args"] = {key: call["args"][key] for key in reversed(call["args"])}
    assert score(toolbox.to_json(backwards), reference) == score(toolbox.to_json(call), reference)


def test_every_reference_of_the_tests_scores_one_everywhere():
    wild = [json.loads(line) for line in sources.WILD.read_text(encoding="utf-8").splitlines()]
    made = templates.build_splits({"test": 400, "val": 100}, TOOLS, seed=0)
    for record in [*made["test"], *made["val"], *wild]:
        scores = score(record["completion"], record["completion"], prompt=record["prompt"])
        wrong = [name for name in scoring.METRICS if scores[name] not in (1.0, None)]
        assert not wrong, (wrong, record)


# ---- the kinds of failure


@pytest.mark.parametrize(
    ("text", "failure", "passed"),
    [
        ("", "empty", 0),
        ("  \n", "empty", 0),
        ("I will send it.", "prose", 0),
        (EMAIL + " Done.", "prose around JSON", 0),
        ("Sure: " + EMAIL, "prose around JSON", 0),
        (f"```json\n{EMAIL}\n```", "prose around JSON", 0),
        (EMAIL + EMAIL, "prose around JSON", 0),
        (EMAIL.replace(":", "=", 1), "broken JSON", 0),
        (EMAIL[:-5], "broken JSON", 0),
        ("[1, 2]", "broken JSON", 0),
        (EMAIL.replace('"subject"', '"to"'), "broken JSON", 0),
        ('{"tool": "fax", "args": {}}', "unknown tool", 1),
        ('{"call": "send_email"}', "unknown tool", 1),
        ('{"tool": "send_email"}', "missing argument", 1),
        ('{"tool": "send_email", "args": {"to": "jo@example.org"}}', "missing argument", 1),
        (EMAIL.replace("{}", "").replace('"to"', '"cc": "x", "to"'), "extra argument", 1),
        (EMAIL.replace('"the meeting"', "7"), "wrong type", 1),
        (SUM, "wrong tool", 2),
        (EMAIL.replace("jo@", "jon@"), "wrong value", 3),
        (EMAIL.replace("the meeting", "The meeting."), "wrong value", 3),
    ],
)
def test_each_wrong_output_has_one_kind_and_keeps_what_it_earned(text, failure, passed):
    scores = score(text, EMAIL)
    assert scores["failure"] == failure
    assert rungs(scores) == [1.0] * passed + [0.0] * (3 - passed)
    assert scores["exact_call"] == 0.0


def test_a_call_cut_off_by_the_limit_is_truncated_and_one_that_ended_is_broken_by_the_model():
    assert score(EMAIL[:-5], EMAIL, ended=False)["failure"] == "truncated"
    assert score(EMAIL[:-5], EMAIL, ended=True)["failure"] == "broken JSON"


# ---- arguments


def test_half_of_the_arguments_right_is_half():
    assert score(EMAIL.replace("the meeting", "lunch"), EMAIL)["argument_accuracy"] == 0.5


def test_arguments_agree_whatever_their_case_spaces_and_outer_punctuation_but_the_call_is_not_exact():
    scores = score(EMAIL.replace("the meeting", " The  Meeting."), EMAIL)
    assert (scores["argument_accuracy"], scores["exact_call"]) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("one", "other", "agree"),
    [
        ("Paris", "paris!", True),
        ("1,480", "1480.0", True),
        ([1, {"a": "X "}], [1.0, {"a": "x"}], True),
        ("-4", "4", False),
        ("(2 + 3) * 4", "2 + 3) * 4", False),
        (True, 1, False),
        ("São Paulo", "Sao Paulo", False),
        (None, 0, False),
    ],
)
def test_what_normalizing_makes_equal(one, other, agree):
    assert scoring.same(scoring.normalize(one), scoring.normalize(other)) == agree


def test_an_invalid_call_has_no_argument_right():
    assert score('{"tool": "send_email", "args": {"to": "jo@example.org"}}', EMAIL)["argument_accuracy"] == 0.0


# ---- results and answers


def test_another_expression_with_the_same_value_executes_right_but_is_not_exact():
    scores = score(SUM.replace("17 * 23", "23 * 17"), SUM)
    assert (scores["execution_success"], scores["exact_call"]) == (1.0, 0.0)
    assert score(SUM.replace("17 * 23", "17 * 24"), SUM)["execution_success"] == 0.0
    assert score(SUM.replace("17 * 23", "17 *"), SUM)["execution_success"] == 0.0


def test_execution_says_nothing_where_the_reference_cannot_be_run():
    assert score(SUM, SUM.replace("17 * 23", "1 / 0"))["execution_success"] is None


@pytest.mark.parametrize(
    ("message", "stated"),
    [
        ("It is 18 °C and sunny in Oslo.", 1),
        ("Oslo has 18.0 °C. It is Sunny!", 1),
        ("It is 19 °C and sunny in Oslo.", 0.5),
        ("It is 180 °C and sunnyish in Bergen.", 0),
        ("It is sunny.", 0.5),
        ("No.", 0),
    ],
)
def test_an_answer_is_as_good_as_the_share_of_the_results_facts_that_it_states(message, stated):
    assert answer(message)["response_quality"] == stated


def test_a_call_in_place_of_the_answer_states_nothing_and_a_first_turn_is_not_asked():
    assert score(SUM, ANSWER, prompt=ASKED)["response_quality"] == 0.0
    assert score(HELLO, HELLO, prompt="Hi")["response_quality"] is None
    assert score(SUM, SUM, prompt=ASKED)["response_quality"] is None


def test_a_summary_leaves_out_what_does_not_apply():
    summary = scoring.summarize([score(EMAIL, EMAIL), score("", EMAIL)])
    assert (summary["n"], summary["exact_call"], summary["response_quality"]) == (2, 0.5, None)


# ---- many scores


def test_the_interval_holds_the_mean_and_narrows_with_more_requests():
    few, many = (statistics.interval([0, 1] * n, 500) for n in (10, 1000))
    assert few["low"] < few["value"] == 0.5 < few["high"]
    assert many["high"] - many["low"] < (few["high"] - few["low"]) / 5
    assert statistics.interval([], 500) is None


def test_a_difference_is_taken_request_by_request():
    hard_and_easy = [0.0, 1.0] * 50
    same = statistics.paired_difference(hard_and_easy, hard_and_easy, 500)
    assert (same["value"], same["low"], same["high"]) == (0, 0, 0)
    better = statistics.paired_difference([0.0, None, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0], 500)
    assert better["value"] == pytest.approx(2 / 3)


def test_pass_at_k_and_always_right():
    assert statistics.pass_at_k(right=1, drawn=4, k=1) == 0.25
    assert statistics.pass_at_k(right=1, drawn=4, k=2) == 0.5  # 3 of the 6 pairs hold the right one
    assert statistics.always_right(right=3, drawn=4, k=2) == 0.5
    assert statistics.pass_at_k(0, 4, 4) == statistics.always_right(3, 4, 4) == 0
    assert statistics.pass_at_k(1, 4, 4) == statistics.always_right(4, 4, 4) == 1


def test_confusion_precision_and_recall():
    records = [{"completion": reference} for reference in (EMAIL, EMAIL, SUM, SUM)]
    scores = [score(text, row["completion"]) for text, row in zip([EMAIL, SUM, SUM, "?"], records, strict=True)]
    matrix = statistics.confusion(records, scores)
    assert matrix == {
        "send_email": {"send_email": 1, "calculator": 1},
        "calculator": {"calculator": 1, statistics.NO_CALL: 1},
    }
    rates = statistics.precision_recall(matrix)
    assert rates["send_email"] == {"precision": 1.0, "recall": 0.5, "n": 2}
    assert rates["calculator"] == {"precision": 0.5, "recall": 0.5, "n": 2}


# ---- outcomes


def outcome(text, record, ended=True, tools=TOOLS):
    return scoring.judge_outcome(text, ended, record, tools)


def test_an_outcome_is_what_executing_brings_about_however_it_was_written():
    call = {"tool": "calculator", "args": {"expression": "17 * 23"}}
    wanted = toolbox.outcome_of(call, TOOLS)
    assert wanted == {"tool": "calculator", "result": {"value": 391}}
    request = {"prompt": "what is 17 times 23?", "outcome": wanted}
    assert outcome('{"tool": "calculator", "args": {"expression": "23*17"}}', request)["outcome"] == 1
    found = outcome('{"tool": "calculator", "args": {"expression": "17 + 23"}}', request)
    assert found == {"format": 1, "tool": 1, "outcome": 0}
    assert outcome('{"tool": "search_web", "args": {"query": "17 * 23"}}', request) == {
        "format": 1,
        "tool": 0,
        "outcome": 0,
    }


def test_a_call_that_cannot_be_executed_is_its_own_outcome():
    own = {
        "name": "lamp",
        "description": "",
        "parameters": {"type": "object", "properties": {"on": {"type": "boolean"}}},
    }
    tools, call = TOOLS | {"lamp": own}, {"tool": "lamp", "args": {"on": True}}
    assert toolbox.outcome_of(call, tools) == call
    request = {"prompt": "light!", "outcome": call}
    assert outcome(toolbox.to_json(call), request, tools=tools)["outcome"] == 1
    assert outcome('{"tool": "lamp", "args": {"on": false}}', request, tools=tools)["outcome"] == 0


def test_the_outcome_of_an_answer_in_words_is_the_answer():
    made = {"tool": "get_weather", "args": {"city": "Oslo"}}
    prompt = toolbox.with_results("Weather in Oslo?", [(made, {"temperature_c": 18, "sky": "cloudy"})])
    said = {"tool": "respond", "args": {"message": "It is 18 °C and cloudy in Oslo."}}
    request = {"prompt": prompt, "outcome": toolbox.outcome_of(said, TOOLS)}
    assert outcome(toolbox.to_json(said), request)["outcome"] == 1
    # Both state the result, in good form and without a number or name of their own: that is not enough to be paid.
    for message in ("In Oslo it is cloudy, at 18 °C.", "It is 18 °C and cloudy in cloudy."):
        found = outcome(toolbox.to_json({"tool": "respond", "args": {"message": message}}), request)
        assert found == {"format": 1, "tool": 1, "outcome": 0}


def test_what_does_not_end_or_is_no_object_reaches_nothing():
    request = {"prompt": "Oslo?", "completion": '{"tool": "get_weather", "args": {"city": "Oslo"}}'}
    assert not any(outcome(request["completion"], request, ended=False).values())
    for text in ("", "Sunny.", request["completion"] * 2, '{"tool": "get_weather"'):
        assert not any(outcome(text, request).values()), text
