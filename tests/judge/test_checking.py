"""The checker of outputs to requests without labels: what is right passes whole, and what games it does not."""

import json

import pytest

import tools as toolbox
from playground.judge.checking import CHECKS, Checker, is_sure

TOOLS = toolbox.load_tools()


def record(prompt, tool, turns=(), **args):
    return {"prompt": toolbox.with_results(prompt, turns), "completion": toolbox.to_json({"tool": tool, "args": args})}


OSLO = [({"tool": "get_weather", "args": {"city": "Oslo"}}, {"temperature_c": 3, "sky": "rainy"})]
RECORDS = [
    record("What is the weather in Oslo today?", "get_weather", city="Oslo"),
    record("weather in Rome today please", "get_weather", city="Rome"),
    record("Please search the web for green tea", "search_web", query="green tea"),
    record("Please email a@b.co about tea", "send_email", to="a@b.co", subject="tea"),
    record("What is 3 plus 4?", "calculator", expression="3 + 4"),
    record("the product of 3 and 4", "calculator", expression="3 * 4"),
    record("half of twelve", "calculator", expression="12 / 2"),
    record("Hello!", "respond", message="Hello! How can I help?"),
    record("weather in Oslo", "respond", OSLO, message="It is 3 °C and rainy in Oslo."),
]
CHECKER = Checker(RECORDS, TOOLS)


def check(prompt, tool, **args):
    return CHECKER.check(toolbox.to_json({"tool": tool, "args": args}), prompt)


@pytest.mark.parametrize(
    ("prompt", "tool", "args"),
    [
        ("please, weather in São Paulo today", "get_weather", {"city": "São Paulo"}),
        ("search the web for b12", "search_web", {"query": "b12"}),
        ("What is 17 plus 23?", "calculator", {"expression": "17 + 23"}),
        ("17 * 23", "calculator", {"expression": "17 * 23"}),
        ("(3-4)^2", "calculator", {"expression": "(3 - 4) ** 2"}),
        ("half of thirteen", "calculator", {"expression": "13 / 2"}),
        ("the product of twenty-three and 4", "calculator", {"expression": "23 * 4"}),
        ("email c@d.org about my trip", "send_email", {"to": "c@d.org", "subject": "my trip"}),
        ("Hello!", "respond", {"message": "Hello! How can I help?"}),
    ],
)
def test_a_right_call_passes_every_check(prompt, tool, args):
    assert check(prompt, tool, **args) == dict.fromkeys(CHECKS, 1.0)


@pytest.mark.parametrize(
    ("prompt", "tool", "args", "grounded"),
    [
        ("weather in São Paulo", "get_weather", {"city": "São Pablo"}, 0.5),
        ("weather in São Paulo", "get_weather", {"city": "weather in São Paulo"}, 0.0),  # the whole request
        ("weather in Lima today", "get_weather", {"city": "Lima today"}, 0.5),  # records have "today" outside only
        ("what is 17*23", "calculator", {"expression": "17 * 24"}, 2 / 3),
        ("what is 17 x 23", "calculator", {"expression": "17 / 23"}, 2 / 3),  # the operator is another
        ("(3 + 4) ^ 2", "calculator", {"expression": "(3 + 4) * 2"}, 4 / 5),
        ("email a@b.co about tea", "send_email", {"to": "a@b.co", "subject": "a@b.co about tea"}, 0.5),
        ("search b12", "search_web", {"query": "b13"}, 0.0),
    ],
)
def test_arguments_must_come_from_the_request_and_not_be_all_of_it(prompt, tool, args, grounded):
    found = check(prompt, tool, **args)
    assert found["executes"] == 1.0
    assert found["grounded"] == pytest.approx(grounded)


@pytest.mark.parametrize(
    ("prompt", "tool", "args", "explained"),
    [
        ("weather in São Paulo", "get_weather", {"city": "São"}, 2 / 3),  # "Paulo" is left over
        ("the product of 5 and 6", "calculator", {"expression": "5 + 6"}, 0.0),  # "product" went with another
        ("search the web for tea", "get_weather", {"city": "tea"}, 0.0),
        ("email c@d.org about my trip", "respond", {"message": "Hello! How can I help?"}, 0.0),
        ("What is 5 plus 6 plus 7?", "calculator", {"expression": "5 + 6"}, 0.8),
        ("please cook green tea", "search_web", {"query": "cook green tea"}, 0.0),  # nothing says that it is a search
        ("Oslo", "get_weather", {"city": "Oslo"}, 0.0),
    ],
)
def test_a_call_that_leaves_words_of_its_request_unexplained_is_doubtful(prompt, tool, args, explained):
    assert check(prompt, tool, **args)["explained"] == pytest.approx(explained)


def test_only_a_call_that_makes_nothing_up_and_explains_its_request_is_sure():
    assert is_sure(check("weather in São Paulo", "get_weather", city="São Paulo"))
    assert not is_sure(check("weather in São Paulo", "get_weather", city="São"))
    assert not is_sure(check("weather in Oslo", "get_weather", city="Oslo Fjord"))
    assert not is_sure(dict.fromkeys(CHECKS, 1.0) | {"executes": 0.0})


def test_an_answer_states_the_result_in_words_that_answers_have():
    prompt = toolbox.with_results("weather in Oslo", OSLO)
    found = {
        message: check(prompt, "respond", message=message)
        for message in ("It is 3 °C and rainy in Oslo.", "It is 4 °C and rainy in Oslo.", "It is fence in Oslo.")
    }
    facts = [(checks["grounded"], checks["explained"]) for checks in found.values()]
    assert facts == [(1.0, 1.0), (0.5, 0.5), (0.8, 0.0)]  # "4" is not supported, "fence" unheard of


def test_a_call_that_has_been_made_does_not_pay_again():
    prompt = toolbox.with_results("weather in Oslo", OSLO)
    assert check(prompt, "get_weather", city="Oslo")["executes"] == 0.0


def test_each_check_needs_the_one_before_it():
    texts = (
        "hello",
        '{"tool": "dance", "args": {}}',
        json.dumps({"tool": "calculator", "args": {"expression": "1/0"}}),
    )
    assert [sum(CHECKER.check(text, "1 / 0").values()) for text in texts] == [0.0, 1.0, 2.0]
