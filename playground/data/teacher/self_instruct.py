"""More example requests, written by a model that is shown a few (Self-Instruct, Wang et al. 2023, arXiv:2212.10560).

A teacher is shown some of a tool's examples and writes requests like them; then it is asked for the call to each,
several times, as for requests that nobody has labelled (toolformer.py). A request and its call are kept if

1. the call is valid, calls the tool that the request was written for, and is no text for the user;
2. at least m of the k samples are this call (`teacher.agree`, `teacher.samples`);
3. every text and number of the call stands in the request, once: so what is exchanged later is known to be its value;
4. the request is in other words than the examples, and than the others that are kept.

Nothing is executed: what a tool of one's own would do, nobody but its owner knows. What is kept goes into training
only; the test is of sentences and calls that a person wrote.
"""

import json
import random
import re
from collections import Counter
from pathlib import Path

import tools as toolbox
from playground.data import slots
from playground.data.teacher import asking, toolformer
from playground.run.errors import UserError

STAGE = "03_finetune"  # the recipe's teacher where none was named: it writes calls, and no requests
ROUNDS, SHOWN, WANTED = 8, 8, 10  # questions for each tool, examples shown in one, requests asked for in one
LONGEST = 300  # characters of a request
MOST = 40  # requests that are read from one answer
TEXTS = {"type": "array", "items": {"type": "string"}}
SCHEMA = {"type": "object", "required": ["requests"], "additionalProperties": False, "properties": {"requests": TEXTS}}
QUESTION = """These are requests for {name}: {description} Its arguments: {arguments}.
{shown}
Write {wanted} more such requests, one a line, each in other words and with other values. Say every value out."""

NO_CALL = "written requests for which no sampled call is valid and to {tool}"
DISAGREED = "written requests for which fewer than {agree} of {samples} samples are the same call"
UNSAID = "written requests that do not say every value of their call once"
SAME_WORDS = "written requests in the words of another"


def wanted(settings):
    """Whether the recipe names a teacher that can write requests: an endpoint, or a model that is not this run's."""
    return bool(settings["teacher"]["url"]) or settings["teacher"]["model"] != STAGE


def _writer(settings, tools):
    """A teacher that writes requests: it is shown no labelled ones, and held to no call."""
    most = LONGEST * 4 if settings["teacher"]["url"] else LONGEST
    changed = {"generate": settings["generate"] | {"max_new_tokens": most}}
    changed |= {"teacher": settings["teacher"] | {"samples": 1}}
    writer = asking.teacher_for(settings | changed, tools, [])
    writer.schema, writer.shown, writer.grammar = SCHEMA, [], None
    return writer


def more_examples(examples, tools, settings):
    """(examples like those of examples.py, {why: requests left out}, files read): what a teacher adds to `examples`."""
    section, cache = settings["teacher"], Path(settings["output_dir"], toolformer.CACHE)
    writer = _writer(settings, tools)
    questions = list(_questions(examples, tools, settings["seed"]))
    answers = asking.ask_all(writer, [question for _, question in questions], cache)
    known, requests = {_plain(example["prompt"]) for example in examples}, []
    for (tool, _), (text, *_) in zip(questions, answers, strict=True):
        for request in requests_in(text):
            if _plain(request) not in known:
                known.add(_plain(request))
                requests.append((tool, request))
    rows = [
        {"prompt": row["prompt"], "completion": toolbox.to_json(row["call"]), "meta": {"tool": row["call"]["tool"]}}
        for row in examples
    ]
    labeller = asking.teacher_for(settings, tools, rows)
    samples = asking.ask_all(labeller, [request for _, request in requests], cache) if requests else []
    kept, left_out = keep(requests, samples, examples, tools, section)
    if not kept:
        why = ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "no requests in its answers"
        raise UserError(f"the teacher adds no example ({why}): take another teacher, or leave it out.")
    print(f"The teacher's calls for {len(kept)} of the {len(requests)} requests that it wrote pass the filters.")
    return kept, left_out, [] if section["url"] else writer.files


def _questions(examples, tools, seed):
    """(tool, question) for each round: the examples shown are others each time."""
    rng, by_tool = random.Random(f"self_instruct/{seed}"), {}
    for example in examples:
        if example["call"]["tool"] != "respond":
            by_tool.setdefault(example["call"]["tool"], []).append(example["prompt"])
    for name, prompts in by_tool.items():
        properties = tools[name]["parameters"].get("properties", {})
        for _ in range(ROUNDS):
            shown = rng.sample(prompts, min(SHOWN, len(prompts)))
            yield name, QUESTION.format(
                name=name, description=tools[name]["description"], arguments=json.dumps(properties),
                shown="\n".join(f"- {prompt}" for prompt in shown), wanted=WANTED,
            )  # fmt: skip


def requests_in(text):
    """The requests in a teacher's answer, at most MOST: JSON as asked for, or lines with or without bullets."""
    try:
        found = json.loads(text)
        lines = found["requests"] if isinstance(found, dict) else found
    except (ValueError, LookupError, RecursionError):
        lines = text.split("\n")
    requests = []
    for line in lines[:MOST] if isinstance(lines, list) else ():
        line = line[:1000] if isinstance(line, str) else ""
        line = re.sub(r"^\s{0,9}(?:[-*•]|\d{1,3}[.)])\s+", "", line).strip().strip('"')
        readable = line.isprintable() and not line.endswith(":") and not line.startswith(("{", "[", "`"))
        if 3 < len(line) <= LONGEST and readable:
            requests.append(" ".join(line.split()))
    return requests


def keep(requests, samples, examples, tools, settings):
    """(examples, {why: requests left out}) of [(tool, request)] and the samples of the call to each."""
    cues = slots.learn_cues([(example["prompt"], example["call"]) for example in examples])
    wordings = {slots.shape_of(example["prompt"], example["call"], cues).wording for example in examples}
    kept, left_out = [], Counter()
    for (tool, request), texts in zip(requests, samples, strict=True):
        calls = toolformer.sampled_calls(texts, tools)
        own = [(call, count) for call, count in calls if call["tool"] == tool]
        if not own:
            left_out[NO_CALL.format(tool=tool)] += 1
        elif own[0] != calls[0] or own[0][1] < settings["agree"]:
            left_out[DISAGREED.format(**settings)] += 1
        elif not (shape := slots.shape_of(request, own[0][0], cues)).says_all:
            left_out[UNSAID] += 1
        elif shape.wording in wordings:
            left_out[SAME_WORDS] += 1
        else:
            wordings.add(shape.wording)
            kept.append({"prompt": request, "call": own[0][0], "result": None, "answer": None})
    return kept, left_out


def _plain(text):
    return " ".join(re.findall(r"\w+", text.casefold()))
