"""What can be said of an output to a request that nobody has labelled: checking is cheaper than labelling."""

import collections
import json
import re

import tools as toolbox
from playground.judge import scoring

CHECKS = ("format_correctness", "schema_validity", "executes", "grounded", "explained")
IMPLIED = {2.0, 100.0}  # "half of", "squared" and "percent" say these without saying them
EXPRESSION = r"[a-z(]*[\d\s.+*/()%-]*\d[\d\s.+*/()%-]*"
OPERATOR = r"\*\*|//|[-+*/%]"
SYMBOL = r"(?<=[\d)])\s*(\*\*|[-+*/x^])\s*(?=[\d(])"  # an operator of a request, between numbers
WRITTEN = {"x": "*", "^": "**"}  # in an expression
WORD = r"[^\W\d_]+|\d+(?:[.,]\d+)*"
UNITS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen""".split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
NUMBER_WORDS = {word: n for n, word in enumerate(UNITS)} | {word: 10 * n for n, word in enumerate(TENS, 2)}
NUMBER_IN_WORDS = re.compile(rf"\b(?:({'|'.join(TENS)})[- ])?({'|'.join(NUMBER_WORDS)})\b")
MANY_TOOLS = 3
EXPLAINED = 0.8  # share of a request's words that a call has to explain to be trusted
OFTEN, RARELY = 2, 0.1  # a word that records have so many times around arguments, and so seldom in them, ends none


class Checker:
    """Checks outputs to requests without labels by what the labelled records say about words.

    Some words of a request belong into the call's arguments; the others say what is wanted: "weather" goes with one
    tool, "times" with one operator. Which word goes with which kind of call is counted in labelled records, and a
    call that leaves a word of its request unexplained, the name of another tool or half of a city, is doubtful.
    """

    def __init__(self, records, tools):
        """records: labelled ones, as stage 02 writes them."""
        self.tools = tools
        self.around = collections.defaultdict(set)  # {kind of call: words of its requests outside the arguments}
        self.said = collections.defaultdict(set)  # {tool: words of the answers to its results}
        around, inside = collections.Counter(), collections.Counter()  # of (tool, word)
        for record in records:
            calls = [*_calls_made(record["prompt"]), json.loads(record["completion"])]
            words = _words_left(record["prompt"].partition("\n")[0], calls[0])
            self.around[_kind(calls[0])].update(words)
            around.update((calls[0]["tool"], word) for word in set(words))
            inside.update((calls[0]["tool"], word) for word in _words_given(calls[0]))
            if len(calls) > 1 and calls[-1]["tool"] == "respond":
                message = str(calls[-1]["args"].get("message", ""))
                said, read = (set(_words(text)) for text in (message, record["prompt"]))
                self.said[calls[-2]["tool"]] |= said - read
        tools_of = collections.Counter(word for _, word in around)
        self.anywhere = {word for word, n in tools_of.items() if n >= MANY_TOOLS}  # "please", "thanks"
        self.never_at_an_edge = {pair for pair, n in around.items() if n >= OFTEN and inside[pair] <= RARELY * n}

    def check(self, text, prompt):
        """{check: 0.0 to 1.0} for each of CHECKS, a ladder whose first two rungs are those of `scoring.score`.

        executes: the call runs, and the prompt does not show that it has been made.
        grounded: share of the words and numbers of the arguments that stand in the request, and of the operators in it
            that stand in the expression. An argument that is the whole request, or that holds another argument, is not
            grounded: copying everything must not pay. Nor is a word at either end of an argument that records have
            only around arguments ("Oslo today").
        explained: share of the request's other words that labelled requests for this kind of call have too; 0 where
            these are words that any request may have ("please"), and no sum says that it is one.
        In an answer to a result: the share of its words that stand in the prompt or in labelled answers (0 where it
        is not well formed, at most the share of its claims that are supported), and that of the facts it states.
        """
        found = dict.fromkeys(CHECKS, 0.0)
        try:
            call = toolbox.parse_call(text)
        except toolbox.ParseError as error:
            return found | {"format_correctness": float(error.kind in scoring.NOT_A_CALL)}
        found["format_correctness"] = 1.0
        if call["tool"] not in self.tools or toolbox.validate_call(call, self.tools):
            return found
        found["schema_validity"] = 1.0
        if "error" in toolbox.execute(call, self.tools) or call in _calls_made(prompt):
            return found
        found["executes"] = 1.0
        if call["tool"] == "respond" and toolbox.last_result(prompt) is not None:
            return found | self._check_answer(call, prompt)
        request = prompt.partition("\n")[0]
        grounded = 1.0 if call["tool"] == "respond" else self._groundedness(call, request)
        left = _words_left(request, call)
        known = [word for word in left if word in self.around[_kind(call)] | self.anywhere and not word[0].isdigit()]
        # Where nothing that is left says what is wanted, the call could as well be to another tool.
        telling = set(known) - self.anywhere or re.search(SYMBOL, request)
        share = len(known) / len(left) if left else 1.0
        return found | {"grounded": grounded, "explained": share if telling else 0.0}

    def _check_answer(self, call, prompt):
        tool = _calls_made(prompt)[-1]["tool"]
        message, known = str(call["args"].get("message", "")), {*_words(prompt), *self.said[tool]}
        words, judged = _words(message), scoring.judge_answer(message, prompt)
        share = sum(word in known for word in words) / len(words) if words else 0.0
        return {
            "grounded": min(share, judged["answer_supported"], judged["answer_well_formed"]),
            "explained": judged["response_quality"],
        }

    def _groundedness(self, call, request):
        texts = [str(value) for value in call["args"].values()]
        words, numbers = set(scoring.words_in(request.casefold())), _numbers(request)
        shares = []
        for i, text in enumerate(texts):
            parts, found = scoring.words_in(text.casefold()), scoring.numbers_in(text)
            if any(i != j and other and other in text for j, other in enumerate(texts)):
                shares.append(0.0)
            elif found and re.fullmatch(EXPRESSION, text):
                symbols = collections.Counter(WRITTEN.get(sign, sign) for sign in re.findall(SYMBOL, request))
                kept = symbols & collections.Counter(re.findall(OPERATOR, text))
                right = sum(number in numbers for number in found) + kept.total()
                shares.append(right / (len(found) + symbols.total()))
            elif not parts or scoring.normalize(text) == scoring.normalize(request):
                shares.append(0.0)
            else:
                edges = {(call["tool"], word) for word in (parts[0], parts[-1])} & self.never_at_an_edge
                shares.append(max(0, sum(part in words for part in parts) - len(edges)) / len(parts))
        return sum(shares) / len(shares) if shares else 1.0


def is_sure(checks):
    """Whether a call is to be trusted without a label: nothing in it is made up, and it explains the request.

    Where the best of several answers is not, nobody knows which of them is right, and nothing should be learned.
    """
    return checks["executes"] == checks["grounded"] == 1 and checks["explained"] >= EXPLAINED


def _calls_made(prompt):
    """The calls that a prompt shows with their results."""
    return [json.loads(line.removeprefix("Call: ")) for line in prompt.split("\n")[1:] if line.startswith("Call: ")]


def _words(text):
    return re.findall(WORD, text.casefold())


def _words_given(call):
    """The words of a call's arguments, but for what `respond` says."""
    return set() if call["tool"] == "respond" else set(_words(" ".join(map(str, call["args"].values()))))


def _words_left(request, call):
    """The words of a request that are not in the call's arguments; "thirteen" is, where these have 13."""
    given = _words_given(call)

    def in_digits(match):
        return str(_number(match)) if str(_number(match)) in given else match[0]

    return [word for word in _words(NUMBER_IN_WORDS.sub(in_digits, request.casefold())) if word not in given]


def _number(match):
    return sum(NUMBER_WORDS[word] for word in match.groups() if word)


def _numbers(request):
    """The numbers of a request, in digits and in words ("twenty-three"), and those that words imply."""
    return (
        scoring.numbers_in(request)
        | {float(_number(m)) for m in NUMBER_IN_WORDS.finditer(request.casefold())}
        | IMPLIED
    )


def _kind(call):
    """A call's tool; with it the operators of an expression, and what `respond` says."""
    values = [str(value) for value in call["args"].values()]
    if call["tool"] == "respond":
        return ("respond", *values)
    operators = {op for text in values if re.fullmatch(EXPRESSION, text) for op in re.findall(OPERATOR, text)}
    return (call["tool"], *sorted(operators))
