"""The formats that people keep tool-calling data in, each read into a conversation (see conversation.py)."""

import json
import re
from dataclasses import dataclass

from playground.data.imports import chats, messages
from playground.data.imports.conversation import BadRow, in_form, objects
from playground.data.imports.shapes import TYPES, calls_in, closed, functions, json_schema, message_of, tools_in, value


@dataclass(frozen=True)
class Format:
    """A format: what people call it, the keys that its rows have, the reader."""

    label: str
    keys: tuple
    read: object = None


def format_of(row):
    """The name of the format that a row is in, by its keys. Raises BadRow if it is in none."""
    if not isinstance(row, dict):
        raise BadRow("not a JSON object")
    if isinstance(row.get("prompt"), list):  # messages, where the project's own records have a text
        return "messages"
    lacking = {name: [key for key in own.keys if key not in row] for name, own in FORMATS.items()}
    name = min(FORMATS, key=lambda name: len(lacking[name]) / len(FORMATS[name].keys))
    if len(lacking[name]) == len(FORMATS[name].keys):
        raise BadRow(f"no format that is known: its keys are {', '.join(map(str, row)) or 'none'}"[:200])
    if lacking[name]:
        raise BadRow(f"lacks {', '.join(lacking[name])}, which {FORMATS[name].label} has")
    if name in ("messages", "conversations"):
        text = str(row[name])
        if "Action Input:" in text:
            return "toolbench"
        if "<tool_call>" in text or "<tools>" in text:  # Hermes' own, whatever the key
            return "conversations"
    return name


def require(row, name):
    """Raise BadRow for a row of another format than `name`: the message says of which."""
    if (found := format_of(row)) != name:
        raise BadRow(f"looks like {FORMATS[found].label}, not like {FORMATS[name].label}")


@in_form()
def read(row, name):
    """The row of format `name` as a conversation. Raises BadRow."""
    require(row, name)
    return FORMATS[name].read(row)


def _xlam(row):
    """xLAM and APIGen: {"query", "tools", "answers"}, the last two as JSON in a string."""
    answers = objects(value(row["answers"], "answers are"), "answers")
    calls = [(answer.get("name"), answer.get("arguments", {})) for answer in answers]
    tools = tools_in(row["tools"], _xlam_schema)
    return {"messages": [{"role": "user", "content": row["query"]}, message_of(calls)], "tools": tools}


def _xlam_schema(parameters):
    if not isinstance(parameters, dict):
        return closed({})
    if parameters.get("type") in ("object", "dict") and isinstance(parameters.get("properties"), dict):
        return closed(json_schema(parameters))
    properties, required = {}, []
    for name, parameter in parameters.items():
        kind, _, note = str(parameter.get("type", "str")).partition(",")
        properties[name] = _python_type(kind) | {key: value for key, value in parameter.items() if key != "type"}
        if "optional" not in note and not kind.startswith("Optional") and "default" not in parameter:
            required.append(name)
    return closed({"properties": properties, "required": required})


def _python_type(kind):
    """The schema of a Python annotation such as `List[int]` or `Optional[str]`."""
    outer, _, inner = kind.strip().removesuffix("]").partition("[")
    if outer == "Optional":
        return _python_type(inner)
    name = TYPES.get(outer.lower(), "string")
    if name is None:
        return {}
    return {"type": name} | ({"items": _python_type(inner)} if outer in ("List", "list") and inner else {})


def _bfcl(row):
    """The leaderboard: {"id", "question": [[messages]], "function"}, and "ground_truth" from a file of its own."""
    if "ground_truth" not in row and "irrelevance" not in str(row.get("id")):
        raise BadRow(f"lacks ground_truth: no answer to {row.get('id')} in possible_answer/")
    questions = row["question"]
    asked = questions[0] if isinstance(questions, list) and questions else None
    if not isinstance(asked, list) or len(questions) > 1:
        raise BadRow("a question of several turns, whose answers are code")
    tools = tools_in(row["function"], lambda parameters: closed(json_schema(parameters)))
    schemas = {tool.get("name"): tool["parameters"] for tool in tools}
    calls = []
    for answer in row.get("ground_truth", []):
        ((name, values),) = answer.items()
        calls.append((name, _first_accepted(values, schemas.get(name, {}))))
    return {"messages": [*asked, message_of(calls)], "tools": tools}


def _first_accepted(values, schema):
    """Arguments from lists of accepted values: the first of each; none where "" says that it may be left out."""
    arguments = {}
    for name, accepted in values.items():
        if not isinstance(accepted, list) or not accepted:
            raise BadRow(f"ground_truth accepts no value for {name!r}")
        if "" in accepted and name not in schema.get("required", []):
            continue
        arguments[name] = _concrete(accepted[0], schema.get("properties", {}).get(name, {}))
    return arguments


def _concrete(value, schema):
    if isinstance(value, dict):  # of lists of accepted values again
        return _first_accepted(value, schema)
    if isinstance(value, list):
        return [_concrete(item, schema.get("items", {})) for item in value]
    return value


def _glaive(row):
    """Glaive v2: {"system", "chat"}, two texts."""
    tools, at = [], row["system"].find("{")
    while at >= 0:
        try:
            tool, end = json.JSONDecoder().raw_decode(row["system"], at)
        except (ValueError, RecursionError):
            raise BadRow("a function in system is not JSON") from None
        tools.append(tool)
        at = row["system"].find("{", end)
    # The blanks before a speaker are those of its own line: `\s*` would read a run of line breaks from each of them.
    _, *parts = re.split(r"^[^\S\n]*(USER|ASSISTANT|FUNCTION RESPONSE):", row["chat"], flags=re.MULTILINE)
    turns = []
    for speaker, text in zip(parts[::2], parts[1::2], strict=True):
        text = text.replace("<|endoftext|>", "").strip()
        if speaker == "ASSISTANT" and "<functioncall>" in text:
            turns.append(message_of([_glaive_call(text.partition("<functioncall>")[2])]))
        else:
            role = {"USER": "user", "ASSISTANT": "assistant", "FUNCTION RESPONSE": "tool"}[speaker]
            turns.append({"role": role, "content": text})
    return {"messages": turns, "tools": functions(tools)}


def _glaive_call(text):
    """(name, arguments) of {"name": "f", "arguments": '{...}'}, which is no JSON for its single quotes."""
    quoted = re.fullmatch(r"""\s*\{\s*"name":\s*"([^"]+)",\s*"arguments":\s*'(.*)'\s*\}\s*""", text, re.DOTALL)
    if quoted:
        return quoted[1], quoted[2].replace("\\'", "'")
    (call,) = calls_in(text, "a function call is")
    return call


FORMATS = {
    "project": Format("the project's own records", ("prompt", "completion")),
    "messages": Format("messages as OpenAI has them", ("messages",), messages.read),
    "xlam": Format("xLAM", ("query", "tools", "answers"), _xlam),
    "bfcl": Format("the Berkeley leaderboard", ("question", "function"), _bfcl),
    "bfcl_answers": Format("the Berkeley leaderboard's answers", ("ground_truth",)),
    "glaive": Format("Glaive function-calling", ("system", "chat"), _glaive),
    "conversations": Format("conversations as ShareGPT has them", ("conversations",), chats.read),
    "toolbench": Format("ToolBench", ("conversations",)),
    "toolbench_answer": Format("ToolBench's answer trees", ("tree", "answer_generation")),
    "toolbench_query": Format("ToolBench's queries", ("api_list", "query", "query_id")),
}
