"""Teacher mode: a model writes its own training data (Toolformer, Schick et al. 2023, arXiv:2302.04761).

Toolformer reads plain text, lets a model put calls into it, and keeps a call if what it returned makes the text that
follows likelier. The text here is a request and the answer that somebody gave to it. The teacher sees the request alone
and samples k calls for it; the answer serves to judge them. A call is kept when

1. it is valid and executes without an error;
2. at least m of the k samples are this call;
3. its result makes the answer likelier: loss(answer | call, result) + tau <= min(loss(answer), loss(answer | call)),
   the loss being the mean over the answer's tokens, in nats, under the teacher or, for an endpoint, a local model.

What differs from the paper: it has no filter 2. All tokens of the answer weigh the same, as a call comes
before the answer and not in its middle. A result that repeats the call, as the receipt of `send_email`, makes the last
two losses the same and every such call useless, so there the result's loss is compared with loss(answer) alone.
`respond` is the paper's "no call", and kept if it says what the answer says. A request that comes without an answer
passes the third filter unjudged, and is counted. And the answers to the templates' requests were made from the right
call's result, and so tell more than those of real chats would.
"""

import contextlib
import json
import math
from collections import Counter
from pathlib import Path

import tools as toolbox
from playground.data import templates
from playground.data.imports import reading
from playground.data.imports.conversation import MAX_TEXT, BadRow, read_call, text_in
from playground.data.steps import record_of, write_prompt
from playground.data.teacher import asking
from playground.model import prompting
from playground.run.errors import UserError

SECOND_TURN = 6  # one in so many kept calls also gives the answer to its result: as often as in the templates
CACHE = "02_create_dataset.asked.jsonl"  # in the output folder: all that teachers have said

FAILED = "requests for which no sampled call is valid and executes"
DISAGREED = "requests for which fewer than {agree} of {samples} samples are the same call"
USELESS = "requests with no call that makes the answer likelier by {tau} nats a token"


def drop_label(record, tools):
    """An unlabelled request, {"prompt", "answer": text or None, "meta"}, from a templates record.

    Phrasing and entities stay in its meta for the leak check; the teacher does not see them.
    """
    call = json.loads(record["completion"])
    if call["tool"] == "respond":
        answer = call["args"]["message"]
    else:
        answer = templates.answer(call, toolbox.execute(call, tools))
    meta = {key: record["meta"][key] for key in ("phrasing", "entities")}
    return {"prompt": record["prompt"].split("\n", 1)[0], "answer": answer, "meta": meta}


def read_requests(path):
    """The requests in a file: lines of text (.txt), or JSON rows of a text or {"prompt": ..., "answer": ...}."""
    report = reading.Report(path)
    requests = list(report.read(reading.rows(path, text=str(path).endswith(".txt")), _request))
    report.finish()
    return requests


def _request(_, row):
    row = {"prompt": row} if isinstance(row, str) else row
    prompt, answered = text_in(row, "prompt"), row.get("answer") is not None
    return {"prompt": " ".join(prompt.split()), "answer": text_in(row, "answer") if answered else None, "meta": {}}


def add_records(requests, labelled, tools, settings):
    """(records, {why: how many requests were left out}, files read): what the teacher adds to the labelled records."""
    section = settings["teacher"]
    teacher = asking.teacher_for(settings, tools, labelled)
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
        rows = [
            request | {"call": call, "result": toolbox.execute(call, tools), "agree": count}
            for call, count in sampled_calls(texts, tools)
        ]
        executed = [row for row in rows if "error" not in row["result"]]
        agreed = [row for row in executed if row["agree"] >= settings["agree"]]
        if agreed:
            candidates.append(agreed)
        else:
            left_out[DISAGREED.format(**settings) if executed else FAILED] += 1
    return candidates, left_out


def sampled_calls(texts, tools):
    """[(call, how many samples are it), ...] of the samples that are valid, the commonest first."""
    calls = Counter()
    for text in texts:
        with contextlib.suppress(BadRow):
            calls[toolbox.to_json(read_call(text, tools, "a sample"))] += 1
    return [(json.loads(text), count) for text, count in calls.most_common()]


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
        loss, receipt = row["loss"], all(value in row["result"].values() for value in row["call"]["args"].values())
        return (loss["none"] if receipt else min(loss["none"], loss["call"])) - loss["result"]
    return math.inf if row["answer"] is None or _plain(row["answer"]) == _plain(row["result"]["message"]) else -math.inf


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
        turns = [(identity, row["prompt"], call)]
        calls += call["tool"] != "respond"
        answers = call["tool"] != "respond" and "respond" in tools and row["answer"] is not None
        if answers and calls % SECOND_TURN == 0:
            answer = {"tool": "respond", "args": {"message": row["answer"]}}
            turns.append((f"{identity}.1", toolbox.with_results(row["prompt"], [(call, row["result"])]), answer))
        for turn, (name, prompt, said) in enumerate(turns, 1):
            meta = row["meta"] | {"agree": row["agree"], "loss": row["loss"], "tool": said["tool"], "turn": turn}
            records.append(record_of(name, prompt, said, "teacher", meta))
    return records
