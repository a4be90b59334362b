"""Worked examples before a request: how a model that was never trained on calls is shown what a call is."""

import collections
import random

import tools as toolbox
from playground import scoring


def few_shot(prompt, examples, tools):
    """The prompt with the tools' signatures and worked examples before it; the first "User: " is put on later.

    Where prompts list their tools themselves, the signatures are not said again.
    """
    shown = "\n\n".join(f"User: {row['prompt']}\nCall: {row['completion']}" for row in examples)
    all_tools = "" if "\nTools: " in prompt else f"These are the tools:\n{toolbox.signatures(tools)}\n\n"
    return f"{all_tools}{shown}\n\nUser: {prompt}"


def pick_examples(records, count, seed):
    """Training records for the few-shot prompt: a first turn of each tool before a second of any."""
    records = random.Random(seed).sample(records, len(records))
    by_tool = collections.defaultdict(list)
    for row in records:
        if scoring.last_result(row["prompt"]) is None:
            by_tool[row["meta"]["tool"]].append(row)
    rounds = (rows[i] for i in range(count) for rows in by_tool.values() if i < len(rows))
    return [row for row, _ in zip(rounds, range(count), strict=False)]
