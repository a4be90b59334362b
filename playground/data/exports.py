"""Records -> rows of the formats that other trainers read: OpenAI's, TRL's, ShareGPT with tools (LLaMA-Factory)."""

import json

import tools as toolbox
from playground.data.imports.conversation import RESPOND
from playground.data.steps import read_prompt


def _is_text(tools):
    """Whether `respond` is the default one: then text says the same as a call to it, and it need not be listed."""
    return tools.get("respond", RESPOND)["parameters"] == RESPOND["parameters"]


def _offered(record, tools):
    """The tools that a row lists: those of the record, but for a `respond` that is text."""
    named = [tools[name] for name in record["meta"].get("tools", tools) if name in tools]
    listed = [tool for tool in named if tool["name"] != "respond" or not _is_text(tools)]
    return [{"type": "function", "function": tool} for tool in listed]


def _messages(record, tools, arguments_of):
    """The messages of a record in OpenAI's form, its completion the last; arguments_of: how a call's are written."""
    messages = [{"role": "system", "content": record["meta"]["system"]}] if "system" in record["meta"] else []
    for kind, given, *result in [*read_prompt(record["prompt"]), ("call", json.loads(record["completion"]))]:
        if kind == "user":
            messages.append({"role": "user", "content": given})
        elif given["tool"] == "respond" and _is_text(tools) and not result:
            messages.append({"role": "assistant", "content": given["args"]["message"]})
        else:
            call_id = f"call_{len(messages)}"
            function = {"name": given["tool"], "arguments": arguments_of(given["args"])}
            tool_call = {"id": call_id, "type": "function", "function": function}
            messages.append({"role": "assistant", "tool_calls": [tool_call]})
            if result:
                messages.append({"role": "tool", "tool_call_id": call_id, "content": toolbox.to_json(result[0])})
    return messages


def to_openai(record, tools):
    """A record as a row of OpenAI's fine-tuning format; only its last message is to be trained on."""
    *context, last = _messages(record, tools, toolbox.to_json)
    context = [message | {"weight": 0} if message["role"] == "assistant" else message for message in context]
    row, offered = {"messages": [*context, last]}, _offered(record, tools)
    return row | {"tools": offered, "parallel_tool_calls": False} if offered else row


def to_trl(record, tools):
    """A record as a row that TRL's trainers read: of `prompt` and `completion` they train on the latter alone."""
    *prompt, completion = _messages(record, tools, lambda args: args)
    row, offered = {"prompt": prompt, "completion": [completion]}, _offered(record, tools)
    return row | {"tools": toolbox.to_json(offered)} if offered else row


def to_sharegpt(record, tools):
    """A record as a row of ShareGPT with tools, as LLaMA-Factory reads it (`mask_history` trains on the last turn)."""
    names, turns = {"user": "human", "assistant": "gpt", "tool": "observation"}, []
    for message in _messages(record, tools, lambda args: args):
        if "tool_calls" in message:
            turns.append({"from": "function_call", "value": toolbox.to_json(message["tool_calls"][0]["function"])})
        elif message["role"] != "system":
            turns.append({"from": names[message["role"]], "value": message["content"]})
    functions = [entry["function"] for entry in _offered(record, tools)]
    row = {"conversations": turns, "tools": toolbox.to_json(functions) if functions else ""}
    return row | {"system": record["meta"]["system"]} if "system" in record["meta"] else row


EXPORTS = {"openai": to_openai, "sharegpt": to_sharegpt, "trl": to_trl}
