"""Formats of {"conversations": [{"from", "value"}, ...]}: Hermes, ShareGPT with tools, ToolACE.

They differ in how a call stands in the text, which each turn shows. Hermes: JSON in <tool_call> tags. ShareGPT with
tools, as LLaMA-Factory and APIGen-MT have it: the JSON of a turn of its own, from `function_call`. ToolACE: Python,
`[f(a=1), g()]`, and the tools in the prose of `system`.
"""

import json
import re

from playground.data.imports import calls
from playground.data.imports.conversation import BadRow, in_form, objects, read_result
from playground.data.imports.shapes import calls_in, closed, functions, json_schema, message_of, tools_in, value

ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "function_call": "call",
    "function": "tool", "observation": "tool", "tool": "tool", "system": "system",
}  # fmt: skip
# Of calls in Python. Quantifiers are possessive (`*+`), so that reading takes no longer than the text is long.
NAME = r"""[^\W\d][^()\[\]{}"'=,\n]*+"""
KEY = re.compile(r"""([^\s()\[\]{}"',=][^()\[\]{}"',=\n]*+)\s*+=""")
TOKEN = re.compile(r"""(["'])(?:(?!\1)[^\\]|\\.)*+\1|["'()\[\]{},]""", re.DOTALL)  # a string, or one character
NEXT = re.compile(r"\s*+([,\]])\s*+")
CLOSERS = {"(": ")", "[": "]", "{": "}"}


def read(row):
    """The conversation of a row in any of them: each turn shows how its call is written."""
    turns, messages = _turns(row), []
    tools = tools_in(row["tools"]) if row.get("tools") else _tools_in_prose(turns)
    names = [tool["name"] for tool in tools]
    for role, text in turns:
        if role == "call":
            messages.append(message_of(calls_in(text, "a function_call is")))
        elif role == "assistant" and "<tool_call>" in text:
            blocks = _tagged("tool_call", text)
            if len(blocks) != text.count("<tool_call>"):
                raise BadRow("a <tool_call> holds no JSON, or does not end")
            messages.append(message_of([call for block in blocks for call in calls_in(block, "a <tool_call> is")]))
        elif role == "assistant" and text.lstrip().startswith("[") and calls.looks_like(text, names):
            messages.append(message_of(read_calls(text, names)))
        elif role == "tool":
            before = messages[-1].get("tool_calls", ()) if messages else ()
            results = _tagged("tool_response", text) or _results(text, len(before))
            messages += [{"role": "tool", "content": result.strip()} for result in results]
        elif role != "system" or "<tools>" not in text:  # which tells the model to write tags
            messages.append({"role": role, "content": text})
    return {"messages": messages, "tools": tools}


def _turns(row):
    """[(role, text), ...], the row's own `system` first."""
    found = [("system", row["system"])] if row.get("system") else []
    for turn in objects(row.get("conversations", row.get("messages")), "conversations"):
        role, text = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
        if not isinstance(text, str):
            raise BadRow(f"a message of {role!r} has no text")
        if role not in ROLES:
            raise BadRow(f"a message is from {role!r}")
        found.append((ROLES[role], text))
    return found


def _tagged(tag, text):
    """The JSON objects and lists between an opening and a closing tag; each character is looked at once."""
    blocks = []
    for part in text.split(f"<{tag}>")[1:]:
        inner, closing, _ = part.partition(f"</{tag}>")
        if closing and inner.lstrip()[:1] in ("[", "{"):
            blocks.append(inner.strip())
    return blocks


def _tools_in_prose(turns):
    """The tools in the system's text: those in <tools> tags, else those of the first JSON list of objects."""
    text = next((text for role, text in turns if role == "system"), "")
    if blocks := _tagged("tools", text):
        found = [value(block, "<tools> are") for block in blocks]
        return tools_in([tool for part in found for tool in (part if isinstance(part, list) else [part])])
    at = re.search(r"\[\s*\{", text)
    if not at:
        return []
    try:
        found, _ = json.JSONDecoder().raw_decode(text, at.start())
    except (ValueError, RecursionError):
        raise BadRow("the list of tools in system is not JSON") from None
    return [
        tool | {"parameters": closed(json_schema(tool.get("parameters") or {}) | {"type": "object"})}
        for tool in functions(found)
    ]


def _results(text, calls):
    """The results in a tool's turn, one for each call: ToolACE writes [{"name", "results"}, ...] into one."""
    found = read_result(text)
    if not isinstance(found, list) or len(found) != calls or not all(isinstance(item, dict) for item in found):
        return [text]
    named = [item.keys() == {"name", "results"} for item in found]
    if calls == 1 and not all(named):  # a result that is a list
        return [text]
    return [json.dumps(item["results"] if has_name else item) for item, has_name in zip(found, named, strict=True)]


@in_form()
def read_calls(text, names=()):
    """[(name, {argument: value}), ...] of a list of calls such as `[Get Weather(city="Paris", days=3), other()]`.

    Nothing is run. Python's own parser would not do: names hold spaces, and anything at all where they are among
    `names`, and an argument may be named `from`. Raises BadRow for any other text.
    """
    text = text.strip()
    if not text.startswith("["):
        raise BadRow(f"a call is in no brackets: {text[:60]!r}")
    odd = sorted((name for name in names if not re.fullmatch(NAME, name)), key=len, reverse=True)
    call = re.compile(rf"\s*+({'|'.join([*map(re.escape, odd), NAME])})\s*+\(\s*+")
    at, found = 1, []
    while at < len(text) or not found:
        opened = call.match(text, at)
        if not opened:
            raise BadRow(f"a call has no name: {text[at : at + 60]!r}")
        arguments, at = _arguments(text, opened.end())
        found.append((opened[1].strip(), arguments))
        following = NEXT.match(text, at)
        if not following or (following[1] == "]") != (following.end() == len(text)):
            raise BadRow(f"a list of calls goes on with {text[at : at + 60]!r}")
        at = following.end()
    return found


def _arguments(text, at):
    """({argument: value}, where the text goes on) after an opening parenthesis."""
    arguments = {}
    while not text.startswith(")", at):
        key = KEY.match(text, at)
        if not key or key[1].strip() in arguments:
            raise BadRow(f"an argument has no name of its own: {text[at : at + 60]!r}")
        end = _end_of_value(text, key.end())
        found = value(text[key.end() : end], "an argument is")
        # Tuples become lists; sets, bytes and complex numbers are nothing that JSON holds.
        arguments[key[1].strip()] = json.loads(json.dumps(found))
        at = re.compile(r",?\s*+").match(text, end).end()
    return arguments, at + 1


def _end_of_value(text, at):
    """Where the comma or parenthesis after a value stands."""
    closing = []
    for token in TOKEN.finditer(text, at):
        found = token[0]
        if found in CLOSERS:
            closing.append(CLOSERS[found])
        elif not closing and found in (",", ")"):
            return token.start()
        elif len(found) == 1 and found != "," and (not closing or closing.pop() != found):
            break
    raise BadRow(f"a call does not end: {text[-60:]!r}")
