"""How good a call is: the metrics of every stage, and the one name of every way to be wrong.

`score` judges one output, `judge` many, `summarize` takes means; the rest is what an evaluation says about many
scores. Everything here is a pure function of its arguments, but for what executing a tool does.
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
DETAILS = ("argument_f1", "irrelevance", "answer_supported", "answer_well_formed")
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

    And of particular requests or outputs, None or 0 for all others:

    response_quality, answer_supported, answer_well_formed: see `judge_answer`; None but after a tool's result.
    argument_f1: see `argument_f1`; also of a call that is invalid, if it is to the right tool.
    irrelevance: of a request that needs no tool, whether the output is a valid call to `respond` (as in the
        Berkeley leaderboard's category of that name); None for the others.
    """
    reference = json.loads(completion)
    scores = dict.fromkeys((*METRICS, *DETAILS), 0.0) | {"tool": None}
    _leave_out(scores, reference, prompt, tools)
    try:
        call = toolbox.parse_call(text)
    except toolbox.ParseError as error:
        scores["format_correctness"] = float(error.kind in NOT_A_CALL)
        return scores | {"failure": _unreadable(error.kind, ended)}
    scores["format_correctness"] = 1.0
    failure = find_failure(call, reference, tools)
    right_tool = call["tool"] == reference["tool"]
    if right_tool:
        scores["argument_f1"] = argument_f1(call["args"], reference["args"])
    if call["tool"] not in tools or toolbox.validate_call(call, tools):
        return scores | {"failure": failure}
    scores |= {"schema_validity": 1.0, "tool": call["tool"]}
    if scores["irrelevance"] is not None:
        scores["irrelevance"] = float(call["tool"] == "respond")
    if right_tool:
        scores |= {"tool_accuracy": 1.0, "argument_accuracy": argument_accuracy(call["args"], reference["args"])}
        scores["exact_call"] = float(failure is None)
        if scores["execution_success"] is not None:
            scores["execution_success"] = float(same(toolbox.execute(call, tools), toolbox.execute(reference, tools)))
        if scores["response_quality"] is not None:
            scores |= judge_answer(str(call["args"].get("message", "")), prompt)
    return scores | {"failure": failure}


def _leave_out(scores, reference, prompt, tools):
    """Set to None the metrics that say nothing about this request."""
    answers = toolbox.last_result(prompt) is not None
    if reference["tool"] != "respond" or not answers:
        scores |= dict.fromkeys(("response_quality", "answer_supported", "answer_well_formed"))
    if reference["tool"] != "respond" or answers:
        scores["irrelevance"] = None
    if "error" in toolbox.execute(reference, tools):
        scores["execution_success"] = None


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


def _matches(given, expected):
    return sum(name in given and same(normalize(given[name]), normalize(value)) for name, value in expected.items())


def argument_accuracy(given, expected):
    """Share of the expected arguments that are given and equal after `normalize`; 1 where none is expected."""
    return _matches(given, expected) / len(expected) if expected else 1.0


def argument_f1(given, expected):
    """Harmonic mean of the shares of given arguments that are right and of expected ones that are given right.

    van Rijsbergen 1979; 1 where none is expected and none given.
    """
    return 2 * _matches(given, expected) / (len(given) + len(expected)) if given or expected else 1.0


# ---- the answer after a tool's result


def judge_answer(message, prompt):
    """What is to be said of a message that answers with the result at the end of `prompt`.

    response_quality: share of the result's facts, its texts and numbers, that the message states.
    answer_supported: share of the message's numbers and names (capitalized words, addresses) that stand in the
        request, the calls or the results; what does not is a hallucination. 1 where there is none of either.
    answer_well_formed: 1 for one sentence or two, each begun by a capital (or a number or formula) and ended.
    """
    facts = [fact for fact in _leaves(toolbox.last_result(prompt)) if fact is not None]
    stated = sum(_states(message, fact) for fact in facts)
    claims = numbers_in(message) | _names(message)
    sources = numbers_in(prompt) | set(words_in(prompt.casefold()))
    return {
        "response_quality": stated / len(facts) if facts else 1.0,
        "answer_supported": sum(claim in sources for claim in claims) / len(claims) if claims else 1.0,
        "answer_well_formed": float(_is_well_formed(message)),
    }


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
    return float(str(fact)) in numbers_in(message)


def numbers_in(text):
    """The set of the numbers in a text, by value."""
    return {float(n.replace(",", "")) for n in re.findall(rf"(?<![\w.]){NUMBER}", text)}


def words_in(text):
    """The words of a text without the punctuation around them."""
    return [word for word in (word.strip(OUTER + "()[]{}") for word in text.split()) if word]


def _names(text):
    """Words that only a source can have given, in lower case: capitalized within a sentence, or with an @ or dot."""
    inside = re.sub(r"(?:^|(?<=[.!?]\s))\s*\S+", "", text)  # a sentence's first word has a capital whatever it is
    return {w.casefold() for w in words_in(inside) if w != "I" and (w[0].isupper() or re.search(r"[^\W\d_]\.\w|@", w))}


def _is_well_formed(message):
    sentences = re.split(r"(?<=[.!?])\s+(?=[A-Z0-9])", message)
    return len(sentences) <= 2 and all(re.fullmatch(r"(?:[^\W\da-z_]|\S*[\d(]).*[^\s.!?][.!?]", s) for s in sentences)


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
