"""What can be said of an output to a request that nobody has labelled: checking is cheaper than labelling."""

import re

import tools as toolbox
from playground import scoring

IMPLIED = {2.0, 100.0}  # "half of", "squared" and "percent" say these without saying them
EXPRESSION = r"[a-z(]*[\d\s.+*/()%-]*\d[\d\s.+*/()%-]*"


def label_free(text, prompt, tools):
    """{"schema_validity", "executes", "grounded"}, each 0.0 to 1.0, of an output to a request without a label.

    A ladder like `scoring.score`'s. grounded: share of the words and numbers of the arguments that stand in the
    request, for `respond` after a result the share of its claims that are supported. An argument that is the whole
    request, or that holds another argument, is not grounded: copying everything must not pay.
    """
    found = dict.fromkeys(("schema_validity", "executes", "grounded"), 0.0)
    try:
        call = toolbox.parse_call(text)
    except toolbox.ParseError:
        return found
    if call["tool"] not in tools or toolbox.validate_call(call, tools):
        return found
    found["schema_validity"] = 1.0
    if "error" in toolbox.execute(call, tools):
        return found
    found["executes"] = 1.0
    if call["tool"] == "respond":
        after_result = scoring.last_result(prompt) is not None
        supported = scoring.judge_answer(str(call["args"].get("message", "")), prompt)["answer_supported"]
        return found | {"grounded": supported if after_result else 1.0}
    return found | {"grounded": groundedness(call["args"], prompt.partition("\n")[0])}


def groundedness(args, request):
    """Share of the words and numbers of the arguments that stand in the request; see `label_free`."""
    texts = [str(value) for value in args.values()]
    words, numbers = set(scoring.words_in(request.casefold())), scoring.numbers_in(request) | IMPLIED
    whole = scoring.normalize(request)
    shares = []
    for i, text in enumerate(texts):
        holds_another = any(i != j and other and other in text for j, other in enumerate(texts))
        if scoring.normalize(text) == whole or holds_another:
            shares.append(0.0)
        elif re.fullmatch(EXPRESSION, text) and scoring.numbers_in(text):
            found = scoring.numbers_in(text)
            shares.append(sum(number in numbers for number in found) / len(found))
        else:
            parts = scoring.words_in(text.casefold())
            shares.append(sum(part in words for part in parts) / len(parts) if parts else 0.0)
    return sum(shares) / len(shares) if shares else 1.0
