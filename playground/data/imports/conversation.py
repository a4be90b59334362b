"""Conversations in OpenAI's form -> records: the one shape that every other format is brought into first.

A conversation is {"messages": [...], "tools": [{"name", "description", "parameters"}, ...], "id"}. Each of its
assistant messages becomes a record: what came before is the prompt, the call is the completion. Text for the user is a
call to `respond`, so a record in the middle of a chat has lines of three kinds in its prompt:

    first request
    Call: {"tool": ..., "args": ...}
    Result: ...                          (none after a `respond`)
    User: second request
"""

import ast
import contextlib
import itertools
import json
import re
import warnings
from collections import Counter

import tools as toolbox
from playground import schemas, strict_json
from playground.data.imports import calls
from playground.data.steps import record_of, write_prompt

RESPOND = toolbox.load_tools()["respond"]
MAX_NAME = 64  # characters; OpenAI's limit, as are the characters that a name may have
MAX_STEPS = 400  # of a prompt: each answer is a record with all that came before it, so this bounds what a row makes
MAX_TEXT = 4000  # characters of a request that a user has written into a file, or of an answer to it
RESULTS = ("tool", "function")  # the roles of messages with a result, the second from before tools were tools


class BadRow(ValueError):
    """A row of imported data cannot be used; the message is the reason, for people."""


@contextlib.contextmanager
def in_form():
    """Context manager and decorator: an error caused by a row of an unexpected form becomes a BadRow."""
    try:
        yield
    except BadRow:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, SyntaxError, StopIteration) as error:
        raise BadRow(f"not in the form that it looks like: {error}" if str(error) else "a part is missing") from None
    except (RecursionError, MemoryError):  # the latter from Python's parser, which says so of deep nesting
        raise BadRow("nested too deep") from None


class ToolSet:
    """The tools of many rows as one set: `tools` as in tools.py, with valid and unique names, and `respond`."""

    def __init__(self):
        self.tools, self._names, self._counts = {}, {}, Counter()
        self.add(RESPOND)

    def ordered(self):
        """The tools in the order in which they were added, `respond` last."""
        return {name: tool for name, tool in self.tools.items() if name != "respond"} | {"respond": RESPOND}

    def add(self, tool):
        """The name in this set of a tool of {"name", "description", "parameters"}; the same tool gets the same name.

        Raises BadRow for a tool without a name or with parameters that are not the JSON Schema of an object.
        """
        name, parameters = tool.get("name"), tool.get("parameters") or {"type": "object", "properties": {}}
        if not isinstance(name, str) or not name.strip():
            raise BadRow("a tool has no name")
        key = name, json.dumps(parameters, sort_keys=True)
        if key not in self._names:
            if not isinstance(parameters, dict) or parameters.get("type") != "object":
                raise BadRow(f"tool {name!r}: parameters are not the schema of an object")
            try:
                schemas.check(writable(parameters, "its schema"))
                description = writable(tool["description"] if isinstance(tool.get("description"), str) else "", "it")
            except ValueError as error:
                raise BadRow(f"tool {name!r}: {error}") from None
            self._names[key] = valid = self._unique(name)
            self.tools[valid] = {"name": valid, "description": description, "parameters": parameters}
        return self._names[key]

    def _unique(self, name):
        valid = unique = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_")[:MAX_NAME] or "tool"
        while unique in self.tools:
            self._counts[valid] += 1  # on from the last, of which there may be thousands
            number = str(self._counts[valid] + 1)
            unique = f"{valid[: MAX_NAME - len(number) - 1]}_{number}"
        return unique


def writable(value, what):
    """The value, named `what`. Raises BadRow for half of a surrogate pair in it, which no file can hold."""
    if not strict_json.is_text(value):
        raise BadRow(f"{what} has a lone surrogate, which is no text")
    return value


def text_in(row, key):
    """The text under a key of a row. Raises BadRow unless it is one, of at most MAX_TEXT characters."""
    text = row.get(key)
    if not isinstance(text, str) or not text.strip() or len(text) > MAX_TEXT:
        raise BadRow(f"{key} is not a text of 1 to {MAX_TEXT} characters")
    return writable(text, key)


def objects(value, what):
    """The value, named `what`. Raises BadRow unless it is a list of objects."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise BadRow(f"{what} are not a list of objects")
    return value


def read_call(text, tools, what):
    """The call that a text, named `what`, holds: see `checked_call`. Raises BadRow."""
    try:
        call = toolbox.parse_call(text)
    except toolbox.ParseError as error:
        raise BadRow(f"{what} is no call: {error.kind}") from None
    return checked_call(call["tool"], call["args"], tools)


def checked_call(name, args, tools, names=()):
    """A call with its arguments in schema order. Raises BadRow unless it is valid and can be read back.

    An answer that looks like a call to one of `tools`, or of `names`, is not valid.
    """
    if name not in tools:
        raise BadRow(f"unknown tool {name!r}")
    args = value(args, "arguments are")
    if not isinstance(args, dict):
        raise BadRow(f"arguments of {name} are not an object")
    in_order = {key: args[key] for key in tools[name]["parameters"].get("properties", {}) if key in args}
    call = {"tool": name, "args": in_order | args}
    try:
        toolbox.parse_call(toolbox.to_json(call))
    except toolbox.ParseError as error:
        raise BadRow(f"the call is no readable JSON: {error.kind}") from None
    if errors := toolbox.validate_call(call, tools):
        raise BadRow(errors[0])
    if name == "respond":
        for said in call["args"].values():
            if isinstance(said, str) and (form := calls.looks_like(said, tools, names)):
                raise BadRow(f"an answer for the user is {form}")
    return call


def general(reason):
    """A reason without what is particular to one row, so that reasons can be counted."""
    return re.sub(r"'.*'|\".*\"|\d+", "…", str(reason))[:80]


def value(text, what):
    """JSON, or what Python's repr wrote in its place."""
    if not isinstance(text, str):
        return text
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(text)
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes that Python does not know, in others' texts
            return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        raise BadRow(f"{what} not JSON: {text.strip()[:60]!r}") from None


def read_result(text):
    """A result as JSON: what a tool message holds, or its text where that is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


@in_form()
def to_records(conversation, toolset, source, notes, cut=False):
    """The records of a conversation, whose tools join `toolset`; `notes` counts what had to be left out, by reason.

    An assistant message of weight 0 makes no record, as it is not trained on. Raises BadRow for a conversation with
    a call that does not validate (with `cut`, what comes before the call is kept) or with nothing to learn from.
    """
    names = {tool.get("name"): toolset.add(tool) for tool in conversation["tools"]} | {"respond": "respond"}
    records = list(_answers(conversation, names, toolset.tools, source, notes, cut))
    if not records and not cut:
        raise BadRow("no answer to learn from")
    if records and "rejected" in conversation:
        _add_rejected(records[-1], conversation["rejected"], names, notes)
    for index, record in enumerate(records):
        record["id"] = conversation["id"] + (f".{index}" if len(records) > 1 else "")
    return writable(records, "the conversation")


def _answers(conversation, names, tools, source, notes, cut):
    """A record, still without its id, of each answer, up to the first after which it cannot go on."""
    messages, steps, meta = objects(conversation["messages"], "messages"), [], {}
    for at, message in enumerate(messages):
        role = message.get("role")
        if role in ("system", "developer"):
            meta["system"] = _text(message)
        elif role == "user":
            steps.append(("user", " ".join(_text(message).split())))
        elif role == "assistant":
            if not steps or not steps[0][1]:
                raise BadRow("nothing was asked before the first answer")
            results = itertools.takewhile(lambda later: later.get("role") in RESULTS, messages[at + 1 :])
            turns = _turns(message, list(results))
            for number, (name, args, *result) in enumerate(turns, 1):
                try:
                    call = checked_call(names.get(name, name), args, tools, names)
                except BadRow as reason:
                    if not cut:
                        raise
                    notes[f"calls that are not valid ({general(reason)})"] += 1
                    return
                if message.get("weight") != 0:
                    told = {"tools": list(dict.fromkeys(names.values())), "tool": call["tool"]}
                    told["turn"] = 1 + sum(step[0] == "call" for step in steps)
                    yield record_of("", write_prompt(steps), call, source, meta | told)
                if len(steps) > MAX_STEPS:
                    raise BadRow(f"over {MAX_STEPS} messages")
                steps.append(("call", call, *result))
                last = number == len(turns) and at + 1 == len(messages)
                if not result and call["tool"] != "respond" and not last:
                    notes["calls after one whose result is not given"] += 1
                    return
        elif role not in RESULTS:
            raise BadRow(f"message {at + 1} has the role {role!r}")


def _add_rejected(record, message, names, notes):
    """Put the call that should not have been made beside a record's own; it need not be valid, but be another."""
    try:
        name, args, *_ = _turns(message, [])[0]
        args = value(args, "arguments are")
        rejected = toolbox.to_json({"tool": names.get(name, name), "args": args})
        toolbox.parse_call(rejected)
    except (BadRow, toolbox.ParseError) as reason:
        notes[f"rejected responses that are no call ({general(reason)})"] += 1
        return
    if rejected == record["completion"]:
        notes["rejected responses that say what the chosen ones say"] += 1
    else:
        record["rejected"] = rejected


def _turns(message, results):
    """[(name, args)] or [(name, args, result)] for each call of an assistant message; text is a call to respond."""
    calls = message.get("tool_calls") or []
    if message.get("function_call"):
        calls = [{"function": message["function_call"]}]
    if not calls:
        return [("respond", {"message": _text(message).strip()})]
    functions = [call.get("function") if isinstance(call, dict) else None for call in calls]
    if not all(isinstance(function, dict) and isinstance(function.get("name"), str) for function in functions):
        raise BadRow("a tool call names no function")
    by_id = {str(result["tool_call_id"]): result for result in results if result.get("tool_call_id")}
    turns = []
    for index, (call, function) in enumerate(zip(calls, functions, strict=True)):
        result = by_id.get(str(call.get("id"))) or (results[index] if index < len(results) and not by_id else None)
        turn = (function["name"], function.get("arguments") or {})
        turns.append(turn if result is None else (*turn, read_result(_text(result))))
    return turns


def _text(message):
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        content = "".join(parts) if all(isinstance(part, str) for part in parts) else None
    if not isinstance(content, str):
        raise BadRow(f"a message of the {message.get('role')} has no text")
    return content
