"""Teacher mode: a model writes its own training data (Toolformer, Schick et al. 2023, arXiv:2302.04761).

Toolformer reads plain text, lets a model put calls into it, and keeps a call if what it returned makes the text that
follows likelier. The text here is a request and the answer that somebody gave to it, "What is 3 + 5?", "3 + 5 is 8.":
no call is shown. The teacher sees the request alone and samples k calls for it; the answer serves to judge them. A
call is kept when

1. it is valid and executes without an error;
2. at least m of the k samples are this call;
3. its result makes the answer likelier: loss(answer | call, result) + tau <= min(loss(answer), loss(answer | call)),
   the loss being the mean over the answer's tokens, in nats, under the teacher or, for an endpoint, a local model.

What differs from the paper: the second filter is not in it. All tokens of the answer weigh the same, as a call comes
before the answer and not in its middle. A result that repeats the call, as the receipt of `send_email`, makes the last
two losses the same and every such call useless, so there the result's loss is compared with loss(answer) alone.
`respond` returns nothing that the teacher did not write itself: it is the paper's "no call", and kept if it says what
the answer says. And a request that comes without an answer, as those of a user's file may, passes the third filter
unjudged, and is counted.

The requests of the templates have their labels dropped, but their answers were made from the right call's result,
and so tell more than the answers of real chats would. A call is executed as anywhere, but no email leaves stage 02.
"""

import json
import math
from collections import Counter
from pathlib import Path

import tools as toolbox
from playground.data import templates
from playground.data.imports import reading
from playground.data.imports.conversation import BadRow, checked_call
from playground.data.steps import write_prompt
from playground.data.teacher import asking
from playground.data.teacher.endpoint import EndpointTeacher
from playground.model import prompting
from playground.run.errors import UserError

MAX_TEXT = 4000  # characters of a request or an answer
SECOND_TURN = 6  # one in so many kept calls also gives the answer to its result: as often as in the templates
CACHE = "02_create_dataset.asked.jsonl"  # in the output folder: all that teachers have said

FAILED = "requests for which no sampled call is valid and executes"
DISAGREED = "requests for which fewer than {agree} of {samples} samples are the same call"
USELESS = "requests with no call that makes the answer likelier by {tau} nats a token"


# ---- unlabelled requests: {"prompt", "answer": text or None, "meta"}


def drop_label(record, tools):
    """A templates record without its call: the request, and the answer that an assistant gave to it.

    Phrasing and entities stay for the leak check; the teacher does not see them.
    """
    call = json.loads(record["completion"])
    if call["tool"] == "respond":
        answer = call["args"]["message"]
    else:
        answer = templates.answer(call, toolbox.execute(call, tools))
    meta = {key: record["meta"][key] for key in ("phrasing", "entities")}
    return {"prompt": record["prompt"].split("\n", 1)[0], "answer": answer, "meta": meta}


def read_requests(path):
    """The requests in a file: lines of text (.txt), or JSON rows of a text or {"prompt": ..., "answer": ...}.

    Bad rows are named on standard error. Raises UserError for a file that cannot be read or has too many of them.
    """
    report, requests = reading.Report(path), []
    for number, row in reading.rows(path, text=str(path).endswith(".txt")):
        with report.row(f"{path}:{number}"):
            if isinstance(row, BadRow):
                raise row
            row = {"prompt": row} if isinstance(row, str) else row
            prompt, answer = (row.get("prompt"), row.get("answer")) if isinstance(row, dict) else (None, None)
            _check_text(prompt, "prompt")
            if answer is not None:
                _check_text(answer, "answer")
            requests.append({"prompt": " ".join(prompt.split()), "answer": answer, "meta": {}})
    report.finish()
    return requests


def _check_text(value, name):
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_TEXT:
        raise BadRow(f"{name} is not a text of 1 to {MAX_TEXT} characters")
    if not value.isascii() and value != value.encode("utf-8", "replace").decode("utf-8"):
        raise BadRow(f"{name} has a lone surrogate, which is no text")


# ---- samples -> records


def add_records(requests, labelled, tools, settings):
    """(records, {why: how many requests were left out}, files read): what the teacher adds to the labelled records.

    Raises UserError for a teacher that is not there or cannot be reached, and where no call passes the filters.
    """
    section = settings["teacher"]
    teacher = (EndpointTeacher if section["url"] else asking.LocalTeacher)(settings, tools, labelled)
    samples = asking.ask_all(teacher, [row["prompt"] for row in requests], Path(settings["output_dir"], CACHE))
    agreed, left_out = agreement(requests, samples, tools, section)
    if section["url"]:
        tokenizer, model, files, _ = asking.load_model(section["scorer"] or settings["model"]["name"], settings)
    else:
        tokenizer, model, files = teacher.tokenizer, teacher.model, teacher.files
    kept, useless = filter_by_loss(agreed, model, tokenizer, section)
    left_out += useless
    if not kept:
        why = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise UserError(f"the teacher adds nothing ({why}): take another teacher or set teacher.agree and teacher.tau.")
    print(f"The teacher's calls for {len(kept)} of {len(requests)} requests pass the filters.")
    unjudged = sum(row["loss"] is None for row in kept if row["call"]["tool"] != "respond")
    if unjudged:
        print(f"{unjudged} calls are kept by execution and agreement alone: their requests come without an answer.")
    return to_records(kept, tools), left_out, files


def agreement(requests, samples, tools, settings):
    """([[a row for each call that passes the first two filters] for each request], {why: requests left out}).

    A row is the request with "call", its "result", and "agree", the number of samples that are this call.
    """
    candidates, left_out = [], Counter()
    for request, texts in zip(requests, samples, strict=True):
        rows = []
        for text, count in Counter(call for text in texts if (call := _canonical(text, tools))).most_common():
            call = json.loads(text)
            rows.append(request | {"call": call, "result": toolbox.execute(call, tools), "agree": count})
        executed = [row for row in rows if "error" not in row["result"]]
        agreed = [row for row in executed if row["agree"] >= settings["agree"]]
        if agreed:
            candidates.append(agreed)
        else:
            left_out[DISAGREED.format(**settings) if executed else FAILED] += 1
    return candidates, left_out


def _canonical(text, tools):
    """The call that a sample holds as canonical JSON, or None: a sample is untrusted text."""
    try:
        call = toolbox.parse_call(text)
        return toolbox.to_json(checked_call(call["tool"], call["args"], tools))
    except (toolbox.ParseError, BadRow):
        return None


def filter_by_loss(candidates, model, tokenizer, settings):
    """([the best row of each request for which the third filter holds], {why: requests left out}).

    A row's "loss" is {"none", "call", "result"}, of the answer alone, after the call, and after call and result, in
    nats a token; None for a `respond`, and for a row without an answer.
    """
    judged = [row for rows in candidates for row in rows if row["answer"] and row["call"]["tool"] != "respond"]
    pairs = []
    for row in judged:
        for turns in [], [("call", row["call"])], [("call", row["call"], row["result"])]:
            pairs.append((write_prompt([("user", row["prompt"]), *turns]), row["answer"]))
    losses = iter(answer_losses(model, tokenizer, pairs))
    for row in judged:
        row["loss"] = {key: round(next(losses), 4) for key in ("none", "call", "result")}
    kept, left_out = [], Counter()
    for rows in candidates:
        passed = [row for row in rows if _gain(row) >= settings["tau"]]
        if passed:
            kept.append({"loss": None} | max(passed, key=_gain))
        else:
            left_out[USELESS.format(**settings)] += 1
    return kept, left_out


def _gain(row):
    """How much likelier the result makes the answer, in nats a token; infinite where nothing need be judged."""
    if "loss" in row:
        without = row["loss"]["none"] if _is_receipt(row) else min(row["loss"]["none"], row["loss"]["call"])
        return without - row["loss"]["result"]
    return math.inf if row["answer"] is None or _plain(row["answer"]) == _plain(row["result"]["message"]) else -math.inf


def _is_receipt(row):
    """Whether the result repeats every argument of the call."""
    return all(value in row["result"].values() for value in row["call"]["args"].values())


def _plain(text):
    return " ".join(text.casefold().split())


def answer_losses(model, tokenizer, pairs):
    """The mean loss (nats a token) of each (prompt, answer), the answer as the message of a call to `respond`."""
    import torch

    from playground.model import likelihood, loading

    call = toolbox.to_json({"tool": "respond", "args": {"message": ""}}).removesuffix('"}}')
    opening = prompting.encode_text(call if tokenizer.chat_template else f" {call}", tokenizer)
    longest = loading.longest(model) or MAX_TEXT
    encoded = {"prompts": [], "completions": []}
    for prompt, answer in pairs:
        said = prompting.encode_text(toolbox.to_json(answer)[1:-1], tokenizer)[1 - longest :]
        encoded["completions"].append(said)
        encoded["prompts"].append([*prompting.encode_prompt(prompt, tokenizer), *opening][len(said) - longest :])
    losses = {}
    with torch.inference_mode():
        for rows, batch in likelihood.batches(encoded, range(len(pairs)), model, tokenizer) if pairs else ():
            log_probs, _ = likelihood.evaluate_tokens(model, batch)
            mask = batch["completion_mask"]
            losses |= zip(rows, (-(log_probs * mask).sum(dim=1) / mask.sum(dim=1)).tolist(), strict=True)
    return [losses[row] for row in range(len(pairs))]


def to_records(kept, tools):
    """A record of each kept call, and of every sixth that is not a `respond` the answer after its result."""
    records, calls = [], 0
    for index, row in enumerate(kept):
        call, identity = row["call"], f"teacher-{index:06d}"
        scores = row["meta"] | {"agree": row["agree"], "loss": row["loss"]}
        records.append(_record(identity, row["prompt"], call, scores, turn=1))
        calls += call["tool"] != "respond"
        answers = call["tool"] != "respond" and "respond" in tools and row["answer"] is not None
        if answers and calls % SECOND_TURN == 0:
            prompt = toolbox.with_results(row["prompt"], [(call, row["result"])])
            answer = {"tool": "respond", "args": {"message": row["answer"]}}
            records.append(_record(f"{identity}.1", prompt, answer, scores, turn=2))
    return records


def _record(identity, prompt, call, meta, turn):
    completion, meta = toolbox.to_json(call), meta | {"tool": call["tool"], "turn": turn}
    return {"id": identity, "prompt": prompt, "completion": completion, "source": "teacher", "meta": meta}
