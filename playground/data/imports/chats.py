"""Formats of {"conversations": [{"from", "value"}, ...]}: Hermes, ShareGPT with tools, ToolACE.

They differ in how a call stands in the text. Hermes: JSON in <tool_call> tags. ShareGPT with tools, as LLaMA-Factory
and APIGen-MT have it: the JSON of a turn of its own, from `function_call`. ToolACE: Python, `[f(a=1), g()]`, and the
tools in the prose of `system`.
"""

import json
import re

from playground.data.imports import calls, python_calls
from playground.data.imports.conversation import BadRow
from playground.data.imports.shapes import calls_in, closed, functions, json_schema, message_of, tools_in, value

ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "function_call": "call",
    "function": "tool", "observation": "tool", "tool": "tool", "system": "system",
}  # fmt: skip
TAGS = re.compile("<(?:tool_call|tools|tool_response)>")


def kinds(row):
    """The formats that a row may be in, the likeliest first. A turn without a call tells nothing: then several may."""
    turns = [turn for turn in row["conversations"] if isinstance(turn, dict)] if _is_list(row) else []
    text = json.dumps([turn.get("value", turn.get("content")) for turn in turns])
    speakers = {turn.get("from", turn.get("role")) for turn in turns if isinstance(turn.get("from", ""), str)}
    if "Action Input:" in text:
        return ["toolbench"]
    if {"function_call", "observation"} & speakers:
        return ["sharegpt"]
    if TAGS.search(text):
        return ["hermes"]
    said = [turn["value"] for turn in turns if turn.get("from") == "assistant" and isinstance(turn.get("value"), str)]
    in_python = any(text.lstrip().startswith("[") and calls.looks_like(text) for text in said)
    if in_python or ("tools" not in row and "assistant" in speakers):
        return ["toolace", "sharegpt", "hermes"]
    return ["sharegpt", "hermes", "toolace"] if "tools" in row or "system" in row else ["hermes", "sharegpt", "toolace"]


def _is_list(row):
    return isinstance(row.get("conversations"), list)


def _turns(row):
    """[(role, text), ...], the row's own `system` first."""
    turns = row.get("conversations", row.get("messages"))
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise BadRow("conversations are not a list of objects")
    found = [("system", row["system"])] if row.get("system") else []
    for turn in turns:
        role, text = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
        if not isinstance(text, str):
            raise BadRow(f"a message of {role!r} has no text")
        if role not in ROLES:
            raise BadRow(f"a message is from {role!r}")
        found.append((ROLES[role], text))
    return found


# ---- Hermes: <tools>, <tool_call> and <tool_response> in the texts; in its first version a column `tools`, too


def read_hermes(row):
    """The conversation of a row of Hermes' function calling data."""
    tools, messages = value(row.get("tools"), "tools are"), []
    for role, text in _turns(row):
        if role == "system":
            tools = tools or [tool for block in _tagged("tools", text) for tool in _listed(value(block, "<tools> are"))]
        elif role == "assistant" and "<tool_call>" in text:
            blocks = _tagged("tool_call", text)
            if len(blocks) != text.count("<tool_call>"):
                raise BadRow("a <tool_call> holds no JSON, or does not end")
            messages.append(message_of([call for block in blocks for call in calls_in(block, "a <tool_call> is")]))
        elif role == "tool":
            blocks = _tagged("tool_response", text) or [text]
            messages += [{"role": "tool", "content": block.strip()} for block in blocks]
        else:
            messages.append({"role": role, "content": text})
    return {"messages": messages, "tools": tools_in(tools)}


def _listed(found):
    return found if isinstance(found, list) else [found]


def _tagged(tag, text):
    """The JSON objects and lists between an opening and a closing tag; each character is looked at once."""
    blocks = []
    for part in text.split(f"<{tag}>")[1:]:
        inner, closing, _ = part.partition(f"</{tag}>")
        if closing and inner.lstrip()[:1] in ("[", "{"):
            blocks.append(inner.strip())
    return blocks


# ---- ShareGPT with tools


def read_sharegpt(row):
    """The conversation of a row with calls in turns of their own and `tools`, a list or its text."""
    messages = []
    for role, text in _turns(row):
        if role == "call":
            messages.append(message_of(calls_in(text, "a function_call is")))
        else:
            messages.append({"role": role, "content": text})
    return {"messages": messages, "tools": tools_in(row.get("tools"))}


# ---- ToolACE


def read_toolace(row):
    """The conversation of a row whose calls are Python and whose tools stand in the prose of `system`."""
    turns = _turns(row)
    tools = tools_in(row["tools"]) if row.get("tools") else _tools_in_prose(turns)
    names, messages = [tool.get("name") for tool in tools if isinstance(tool.get("name"), str)], []
    for role, text in turns:
        if role == "assistant" and text.lstrip().startswith("[") and calls.looks_like(text, names):
            messages.append(message_of(python_calls.read_calls(text, names)))
        elif role == "tool":
            before = messages[-1].get("tool_calls", ()) if messages else ()
            messages += [{"role": "tool", "content": result} for result in _results(text, len(before))]
        else:
            messages.append({"role": role, "content": text})
    return {"messages": messages, "tools": tools}


def _tools_in_prose(turns):
    """The tools of the first JSON list of objects in the system's text; none where there is no such list."""
    text = next((text for role, text in turns if role == "system"), "")
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
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return [text]
    if not isinstance(found, list) or len(found) != calls or not all(isinstance(item, dict) for item in found):
        return [text]
    return [json.dumps(item["results"] if item.keys() == {"name", "results"} else item) for item in found]
