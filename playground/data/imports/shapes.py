"""What the readers of several formats need: JSON that may be Python, lists of tools, schemas with other type names."""

import ast
import json
import warnings

from playground.data.entities import read_data
from playground.data.imports.conversation import BadRow

NO_TOOL = read_data("phrasings.json")["replies"]["no_tool"]  # the answer where a row says that no tool fits

# JSON Schema's name for what the formats call a type, in lower case; any other is a string, as in ToolBench.
TYPES = {
    "str": "string", "string": "string", "char": "string", "int": "integer", "integer": "integer", "long": "integer",
    "float": "number", "double": "number", "number": "number", "numeric": "number", "bool": "boolean",
    "boolean": "boolean", "dict": "object", "object": "object", "map": "object", "hashmap": "object", "list": "array",
    "array": "array", "tuple": "array", "set": "array", "arraylist": "array", "null": "null", "any": None,
    "union": None,
}  # fmt: skip
OWN_TYPES = {"string", "integer", "number", "boolean", "object", "array", "null"}


def json_schema(parameters):
    """A JSON Schema from one with other names for its types, such as the leaderboard's "dict" and "float".

    What a dataset on the hub fills with None, because other rows have it, is left out.
    """
    if not isinstance(parameters, dict):
        raise BadRow("a parameter has no schema")
    schema = {key: value for key, value in parameters.items() if key not in ("type", "optional") and value is not None}
    if isinstance(parameters.get("type"), list):
        schema = {"type": [TYPES.get(str(kind).lower()) or "string" for kind in parameters["type"]]} | schema
    elif parameters.get("type") is not None:
        kind = TYPES.get(str(parameters["type"]).lower(), "string")
        schema = ({"type": kind} if kind else {}) | schema
    if isinstance(schema.get("properties"), dict):
        properties = {name: value for name, value in schema["properties"].items() if value is not None}
        schema["properties"] = {name: json_schema(value) for name, value in properties.items()}
    if isinstance(schema.get("items"), dict):
        schema["items"] = json_schema(schema["items"])
    return schema


def closed(schema):
    """The schema of a tool's parameters, allowing no others, as in configs/tools.json."""
    return {"type": "object", "properties": {}} | schema | {"additionalProperties": False}


def in_json_schema(tool):
    """A tool whose parameters are JSON Schema: as it is, or with the types of Python or of Gemini ("STRING") mapped."""
    parameters = tool.get("parameters")
    return (
        tool
        if not isinstance(parameters, dict) or _is_own(parameters)
        else tool | {"parameters": json_schema(parameters) | {"type": "object"}}
    )


def _is_own(schema):
    if not isinstance(schema, dict):
        return isinstance(schema, bool)
    if isinstance(schema.get("type"), str) and schema["type"] not in OWN_TYPES:
        return False
    if any(schema.get(key, "") is None for key in ("type", "properties", "required", "items", "enum")):
        return False
    properties = schema["properties"].values() if isinstance(schema.get("properties"), dict) else ()
    return all(map(_is_own, properties)) and ("items" not in schema or _is_own(schema["items"]))


def message_of(calls):
    """The assistant message of [(name, arguments), ...], or the one that says that there is no tool for it."""
    if not calls:
        return {"role": "assistant", "content": NO_TOOL}
    functions = [{"name": name, "arguments": arguments} for name, arguments in calls]
    return {"role": "assistant", "tool_calls": [{"type": "function", "function": function} for function in functions]}


def calls_in(text, what):
    """[(name, arguments), ...] of JSON {"name", "arguments"}, or of a list of such. Raises BadRow."""
    found = value(text, what)
    found = found if isinstance(found, list) else [found]
    if not found or not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in found):
        raise BadRow(f"{what} no call: {str(text)[:60]!r}")
    return [(call["name"], call.get("arguments", {})) for call in found]


def value(text, what):
    """JSON, or what Python's repr wrote in its place."""
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings():  # of escapes that Python does not know, in a text that is not ours
            warnings.simplefilter("ignore")
            return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        raise BadRow(f"{what} not JSON: {text.strip()[:60]!r}") from None


def functions(entries):
    """The functions in OpenAI's list of {"type": "function", "function": {...}}, or in a list of functions."""
    if not isinstance(entries, list):
        raise BadRow("tools are not a list")
    entries = [value(entry, "a tool is") for entry in entries]  # a list of texts in When2Call
    found = [entry.get("function", entry) if isinstance(entry, dict) else entry for entry in entries]
    if not all(isinstance(function, dict) for function in found):
        raise BadRow("tools are not a list of objects")
    return found


def tools_in(entries):
    """Tools from such a list, or from its text, with JSON Schema for their parameters."""
    return [in_json_schema(function) for function in functions(value(entries or [], "tools are"))]
