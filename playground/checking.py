"""What can be said of an output to a request that nobody has labelled: checking is cheaper than labelling."""

import re

import tools as toolbox
from playground import scoring

IMPLIED = {2.0, 100.0}  # "half of", "squared" and "percent" say these without saying them
FUNCTION_WORDS = frozenset(
    "a an and about are as at be by can could do does for from get give has have how i in is it its me my of on or our "
    "please send so tell that the there this to up us was we what what's when where which who will with would you "
    "your".split()
)
EXPRESSION = r"[a-z(]*[\d\s.+*/()%-]*\d[\d\s.+*/()%-]*"


def label_free(text, prompt, tools):
    """{"format_correctness", "schema_validity", "executes", "grounded"}, each 0.0 to 1.0, without knowing the label.

    A ladder like `scoring.score`'s, whose first two rungs are the same. grounded: share of the words and numbers of
    the arguments that stand in the request; for `respond` after a result, the least of what `scoring.judge_answer`
    says of the message. What would pay without being of use is not grounded: an argument that is the whole request,
    that holds another argument or that is of function words alone, and a call that the prompt shows to have been
    made. None for `respond` to a request itself: nothing in such an answer can be checked, for good or bad.
    """
    found = dict.fromkeys(("format_correctness", "schema_validity", "executes", "grounded"), 0.0)
    try:
        call = toolbox.parse_call(text)
    except toolbox.ParseError as error:
        return found | {"format_correctness": float(error.kind in scoring.NOT_A_CALL)}
    found["format_correctness"] = 1.0
    if call["tool"] not in tools or toolbox.validate_call(call, tools):
        return found
    found["schema_validity"] = 1.0
    if "error" in toolbox.execute(call, tools):
        return found
    found["executes"] = 1.0
    if call["tool"] != "respond":
        request, *turns = prompt.split("\n")
        made = f"Call: {toolbox.to_json(call)}" in turns
        return found | {"grounded": 0.0 if made else groundedness(call["args"], request)}
    if scoring.last_result(prompt) is None:
        return None
    return found | {"grounded": min(scoring.judge_answer(str(call["args"].get("message", "")), prompt).values())}


def groundedness(args, request):
    """Share of the words and numbers of the arguments that stand in the request; see `label_free`.

    Arithmetic has to use the request's numbers too: "5" is no answer to "5 * 6".
    """
    texts = [str(value) for value in args.values()]
    words, whole = set(scoring.words_in(request.casefold())), scoring.normalize(request)
    shares = []
    for i, text in enumerate(texts):
        holds_another = any(i != j and other and other in text for j, other in enumerate(texts))
        if scoring.normalize(text) == whole or holds_another:
            shares.append(0.0)
        elif re.fullmatch(EXPRESSION, text) and scoring.numbers_in(text):
            found, asked = scoring.numbers_in(text), scoring.numbers_in(request)
            shares.append(min(len(found & (asked | IMPLIED)) / len(found), len(found & asked) / max(1, len(asked))))
        else:
            parts = scoring.words_in(text.casefold())
            content = set(parts) - FUNCTION_WORDS
            shares.append(sum(part in words for part in parts) / len(parts) if content else 0.0)
    return sum(shares) / len(shares) if shares else 1.0
