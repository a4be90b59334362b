"""Formats of {"messages": [{"role", "content", "tool_calls"}, ...], "tools": [...]}: OpenAI's and those made like it.

TRL has the arguments of a call as an object, and may have the messages apart as `prompt` and `completion`, or `chosen`
and `rejected`. FunctionGemma's mobile actions have upper-case types. When2Call has each tool as a text, its calls
in <TOOLCALL> tags, and pairs of responses.
"""

from playground.data.imports.conversation import BadRow, objects, value
from playground.data.imports.shapes import calls_in, message_of, tools_in

OPENING, CLOSING = "<TOOLCALL>", "</TOOLCALL>"


def read(row):
    """The conversation of a row of any of them; a pair's rejected message is its "rejected"."""
    tools = tools_in(row.get("tools") or row.get("functions"))
    messages = value(row["messages"] if "messages" in row else row["prompt"], "messages are")
    rejected = row.get("rejected_response", row.get("rejected"))
    answer = row.get("chosen_response", row.get("chosen", row.get("completion")))
    messages = objects(messages if answer is None else messages + _said(answer), "messages")
    messages = [_opened(message, tools) for message in messages]
    if answer is not None:  # what was said before it is context, which makes no record
        messages = [*(message | {"weight": 0} for message in messages[:-1]), messages[-1]]
    conversation = {"messages": messages, "tools": tools}
    if rejected is not None:
        conversation["rejected"] = _opened(objects(_said(rejected), "rejected messages")[-1], tools)
    return conversation


def _said(response):
    """The messages of a response, which may be a list of them, one, or its text."""
    response = {"role": "assistant", "content": response} if isinstance(response, str) else response
    return response if isinstance(response, list) else [response]


def _opened(message, tools):
    """A message with its calls, and without what a dataset has filled with None because other rows have it."""
    content = message.get("content")
    if not message.get("tool_calls") and isinstance(content, str) and OPENING in content:
        inner, closing, rest = content.partition(OPENING)[2].partition(CLOSING)
        if not closing or OPENING in rest:
            raise BadRow("a <TOOLCALL> does not end")
        return message | message_of(calls_in(inner, "a <TOOLCALL> is"))
    if isinstance(message.get("tool_calls"), list):
        message = message | {"tool_calls": [_without_nulls(call, tools) for call in message["tool_calls"]]}
    return message


def _without_nulls(call, tools):
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), dict):
        return call
    schema = next((tool.get("parameters") for tool in tools if tool.get("name") == function.get("name")), None) or {}
    properties, required = schema.get("properties", {}), schema.get("required", [])
    arguments = {
        name: given
        for name, given in function["arguments"].items()
        if given is not None or name in required or "null" in str(properties.get(name, {}).get("type", ""))
    }
    return call | {"function": function | {"arguments": arguments}}
