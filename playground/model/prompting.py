"""What a model reads and learns to write: a request in the model's own frame, and a completion, as token ids."""

import collections
import functools
import random
import re

import tools as toolbox
from playground.model import loading
from playground.run.errors import UserError

SYSTEM = "Call a tool."  # in place of the system message that a chat template would put in by itself
TEMPLATE_SECONDS = 5
CONTENT = "\ue000[0-9]{1,4}\ue001"  # stands for the message of that number while a template is rendered


def encode_text(text, tokenizer):
    """Token ids of what users, tools or a model say: a special token's name in it is so many characters."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def encode_completion(completion, tokenizer):
    """Token ids that a model is trained to write: the completion and the end-of-sequence token.

    Prompt and completion are encoded apart, so training sees the very tokens that generation starts from.
    """
    text = completion if tokenizer.chat_template else f" {completion}"
    return [*encode_text(text, tokenizer), tokenizer.eos_token_id]


def encode_prompt(prompt, tokenizer, system=SYSTEM, examples=()):
    """Token ids of a prompt, up to the point where the model starts to write.

    Where there is a chat template, `system` and the examples (records) are messages before the prompt; its special
    tokens are real, and their names in a message only text. Raises UserError for a template that cannot be used.
    """
    if not tokenizer.chat_template:
        return tokenizer(toolbox.format_prompt(prompt), split_special_tokens=True)["input_ids"]
    request, *lines = prompt.split("\n")
    if lines and lines[0].startswith("Tools: "):  # where a chat model looks for them
        system, prompt = f"{system}\n{lines[0]}", "\n".join([request, *lines[1:]])
    messages = [system, *(row[key] for row in examples for key in ("prompt", "completion")), prompt]
    ids, text = [], ""
    for kind, value in (*_frame(tokenizer, len(messages)), ("end", None)):
        if kind in ("text", "message"):
            text += value if kind == "text" else messages[value]
            continue
        ids += encode_text(text, tokenizer) if text else []
        ids += [value] if kind == "token" else []
        text = ""
    return ids


@functools.lru_cache(maxsize=16)
def _frame(tokenizer, count):
    """What a chat template puts around a system message, and requests and answers in turn, `count` in all.

    [("token", id of a special token) | ("text", other text) | ("message", number of the message that stands there)]
    """
    contents = [{"role": ("assistant", "user")[i % 2], "content": f"\ue000{i}\ue001"} for i in range(count)]
    contents[0]["role"] = "system"
    render = functools.partial(tokenizer.apply_chat_template, tokenize=False, add_generation_prompt=True)
    rendered = loading.within(TEMPLATE_SECONDS, lambda: render(contents))
    if isinstance(rendered, Exception) and not isinstance(rendered, TimeoutError):  # some know no system message
        rendered = loading.within(TEMPLATE_SECONDS, lambda: render(contents[1:]))
    where = f"the chat template of {tokenizer.name_or_path}"
    if isinstance(rendered, TimeoutError):
        raise UserError(f"{where} takes over {TEMPLATE_SECONDS} seconds: mend or remove it.")
    if isinstance(rendered, Exception):
        raise UserError(f"{where} cannot be used ({loading.first_line(rendered)}): mend or remove it.")
    special = {token.content: token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    names = sorted(map(re.escape, special), key=len, reverse=True)
    frame = []
    for part in re.split(f"({'|'.join([CONTENT, *names])})", rendered):
        if re.fullmatch(CONTENT, part):
            frame.append(("message", int(part[1:-1])))
        elif part:
            frame.append(("token", special[part]) if part in special else ("text", part))
    found = [value for kind, value in frame if kind == "message"]
    if found not in (list(range(count)), list(range(1, count))):
        raise UserError(f"{where} leaves out, repeats or changes what a message says: mend or remove it.")
    return tuple(frame)


def few_shot(prompt, examples, tools, tokenizer):
    """Token ids of a prompt with the tools' signatures and worked examples before it; in a chat, they are turns.

    Where prompts list their tools themselves, the signatures are not said again.
    """
    all_tools = "" if "\nTools: " in prompt else f"These are the tools:\n{toolbox.signatures(tools)}"
    if tokenizer.chat_template:
        return encode_prompt(prompt, tokenizer, f"{SYSTEM}\n{all_tools}".strip(), examples)
    shown = [f"User: {row['prompt']}\nCall: {row['completion']}" for row in examples]
    text = "\n\n".join([*filter(None, [all_tools]), *shown, toolbox.format_prompt(prompt)])
    return tokenizer(text, split_special_tokens=True)["input_ids"]


def pick_examples(records, count, seed):
    """Training records for the few-shot prompt: a first turn of each tool before a second of any."""
    records = random.Random(seed).sample(records, len(records))
    by_tool = collections.defaultdict(list)
    for row in records:
        if toolbox.last_result(row["prompt"]) is None:
            by_tool[row["meta"]["tool"]].append(row)
    rounds = (rows[i] for i in range(count) for rows in by_tool.values() if i < len(rows))
    return [row for row, _ in zip(rounds, range(count), strict=False)]
