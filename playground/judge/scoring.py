"""How good a call is: the metrics of every stage, and the one name of every way to be wrong.

`score` judges one output, `judge` many, `summarize` takes means; `judge_outcome` says how far an output got towards
what it should bring about. Everything here is a pure function of its arguments, but for what executing a tool does.
"""

import json
import re

import tools as toolbox

METRICS = (
    "format_correctness",
    "schema_validity",
    "tool_accuracy",
    "argument_accuracy",
    "exact_call",
    "execution_success",
    "response_quality",
)
FAILURES = (
    "empty",
    "prose",
    "prose around JSON",
    "broken JSON",
    "truncated",
    "unknown tool",
    "wrong tool",
    "missing argument",
    "extra argument",
    "wrong type",
    "wrong value",
)
# What tools.parse_call says -> the kind of failure; whatever it does not name is broken JSON.
UNREADABLE = {
    "empty": "empty",
    "not JSON": "prose",
    "fenced block": "prose around JSON",
    "text before the JSON": "prose around JSON",
    "text after the JSON": "prose around JSON",
    "two objects": "prose around JSON",
}
NOT_A_CALL = {"no tool": "unknown tool", "no args": "missing argument", "unknown key": "extra argument"}
OUTER = " \t\n.,;:!?\"'“”‘’…"  # what `normalize` takes off both ends of a text; brackets and signs mean something
NUMBER = r"-?(?:\d{1,3}(?:,\d{3})+|\d{1,15})(?:\.\d{1,15})?"


def score(text, completion, tools, ended=True, prompt=""):
    """{metric: 0.0 to 1.0, or None where it does not apply} of one output, with its "failure" and its "tool".

    text: what the model wrote; completion: the reference call as JSON; ended: whether the model stopped by
    itself; prompt: the record's, from which an answer's facts are known. "tool" is the tool of a valid call, else
    None. "failure" is one of FAILURES, or None exactly where exact_call is 1. The first five metrics form a
    ladder, a rung of which is 1 only where the ones before it are:

    format_correctness: the text is exactly one JSON object and nothing else.
    schema_validity: the object is a call, its tool exists, and its arguments validate (jsonschema).
    tool_accuracy: the tool is the reference's, `respond` included ("tool selection", arXiv:2305.15334).
    argument_accuracy: share of the reference's arguments that are given and equal after `normalize`.
    exact_call: tool and arguments are the reference's, texts character for character and nothing normalized;
        only the order of keys is free, and 1 and 1.0 are one number ("exact match").
    execution_success: the call runs, and its result equals the reference call's, so 17*23 and 23*17 agree;
        None where the reference call itself cannot be run ("executable evaluation", gorilla.cs.berkeley.edu).
    response_quality: of an answer to a tool's result, `share_of_facts`; None for other requests.
    """
    reference = json.loads(completion)
    scores = dict.fromkeys(METRICS, 0.0) | {"tool": None}
    if "error" in toolbox.execute(reference, tools):
        scores["execution_success"] = None
    if reference["tool"] != "respond" or toolbox.last_result(prompt) is None:
        scores["response_quality"] = None
    try:
        call = toolbox.parse_call(text)
    except toolbox.ParseError as error:
        scores["format_correctness"] = float(error.kind in NOT_A_CALL)
        return scores | {"failure": _unreadable(error.kind, ended)}
    scores["format_correctness"] = 1.0
    failure = find_failure(call, reference, tools)
    if toolbox.validate_call(call, tools):
        return scores | {"failure": failure}
    scores |= {"schema_validity": 1.0, "tool": call["tool"]}
    if call["tool"] == reference["tool"]:
        scores |= {"tool_accuracy": 1.0, "argument_accuracy": argument_accuracy(call["args"], reference["args"])}
        scores["exact_call"] = float(failure is None)
        if scores["execution_success"] is not None:
            scores["execution_success"] = float(same(toolbox.execute(call, tools), toolbox.execute(reference, tools)))
        if scores["response_quality"] is not None:
            scores["response_quality"] = share_of_facts(str(call["args"].get("message", "")), prompt)
    return scores | {"failure": failure}


# ---- the outcome


def judge_outcome(text, ended, record, tools):
    """{"format", "tool", "outcome": 0.0 or 1.0} of an output, each of which needs the one before.

    record: a request with its "outcome", or with the call that brings it about ("completion"). format: the output is
    one JSON object, and the model stopped by itself. tool: it is a valid call to the outcome's tool. outcome: executing
    it brings about the outcome, which of an answer in words is the answer.
    """
    wanted = record.get("outcome") or toolbox.outcome_of(json.loads(record["completion"]), tools)
    reached = dict.fromkeys(("format", "tool", "outcome"), 0.0)
    try:
        call = toolbox.parse_call(text)
    except toolbox.ParseError as error:
        return reached | {"format": float(error.kind in NOT_A_CALL and ended)}
    if not ended:
        return reached
    reached["format"] = 1.0
    if call["tool"] != wanted["tool"] or toolbox.validate_call(call, tools):
        return reached
    return reached | {"tool": 1.0, "outcome": float(same(toolbox.outcome_of(call, tools), wanted))}


# ---- the kinds of failure


def _unreadable(kind, ended):
    if kind == "truncated JSON" and not ended:
        return "truncated"  # cut off by the limit; a model that stops in the middle has broken it itself
    return UNREADABLE.get(kind) or NOT_A_CALL.get(kind, "broken JSON")


def find_failure(call, reference, tools):
    """The first of FAILURES that tells a parsed call from the reference, or None where they are the same."""
    given, expected = call["args"], reference["args"]
    if call["tool"] not in tools:
        return "unknown tool"
    if call["tool"] != reference["tool"]:
        return "wrong tool"
    if expected.keys() - given.keys():
        return "missing argument"
    if given.keys() - expected.keys():
        return "extra argument"
    if any(_kind(given[name]) != _kind(value) for name, value in expected.items()):
        return "wrong type"
    return None if same(given, expected) else "wrong value"


def _kind(value):
    kinds = {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    return kinds.get(type(value), "null")


# ---- arguments


def same(one, other):
    """Whether two JSON values are equal: numbers by value, but true is not 1; objects in any order of keys."""
    if _kind(one) != _kind(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def normalize(value):
    """A JSON value as arguments are compared: texts without case, repeated and outer space and outer punctuation.

    A text that reads as a number becomes that number, so "1,480.0" and "1480" agree.
    """
    if isinstance(value, str):
        text = " ".join(value.casefold().split()).strip(OUTER)
        return float(text.replace(",", "")) if re.fullmatch(NUMBER, text) else text
    if isinstance(value, list):
        return [normalize(item) for item in value]
    if isinstance(value, dict):
        return {key: normalize(item) for key, item in value.items()}
    return value


def argument_accuracy(given, expected):
    """Share of the expected arguments that are given and equal after `normalize`; 1 where none is expected."""
    right = [name in given and same(normalize(given[name]), normalize(value)) for name, value in expected.items()]
    return sum(right) / len(right) if right else 1.0


# ---- the answer after a tool's result


def share_of_facts(message, prompt):
    """Share of the texts and numbers in the result at the end of `prompt` that the message states; 1 for none."""
    facts = _leaves(toolbox.last_result(prompt))
    return sum(_states(message, fact) for fact in facts) / len(facts) if facts else 1.0


def _leaves(value):
    """The numbers and texts in a JSON value; true, false, null and empty texts are no facts to be stated."""
    if isinstance(value, dict | list):
        items = value.values() if isinstance(value, dict) else value
        return [leaf for item in items for leaf in _leaves(item)]
    return [] if isinstance(value, bool) or value is None or value == "" else [value]


def _states(message, fact):
    if isinstance(fact, str):
        words = r"\s+".join(map(re.escape, fact.casefold().split()))
        return re.search(rf"(?<!\w){words}(?!\w)", message.casefold()) is not None
    numbers = re.findall(rf"(?<![\w.]){NUMBER}", message)
    return float(str(fact)) in {float(number.replace(",", "")) for number in numbers}


# ---- many scores


def judge(completions, records, tools):
    """The `score` of each completion (playground.model.generation) against its record."""
    return [
        score(completion.text, record["completion"], tools, completion.ended, record["prompt"])
        for completion, record in zip(completions, records, strict=True)
    ]


def summarize(scores):
    """The mean of each metric over a list of `score` results, as metrics.json has it, with n.

    A metric that applies to none of them is None.
    """
    summary = {"n": len(scores)}
    for metric in METRICS:
        values = [row[metric] for row in scores if row[metric] is not None]
        summary[metric] = sum(values) / len(values) if values else None
    return summary
