"""What the readers of several formats need: JSON that may be Python, lists of tools, schemas with other type names."""

from playground.data.entities import read_data
from playground.data.imports.conversation import BadRow, objects, value

NO_TOOL = read_data("phrasings.json")["replies"]["no_tool"]  # the answer where a row says that no tool fits

# JSON Schema's names for types, and what the formats call them, in lower case; any other is a string, as in ToolBench.
NAMES = {
    "string": "str string char", "integer": "int integer long", "number": "float double number numeric",
    "boolean": "bool boolean", "object": "dict object map hashmap", "array": "list array tuple set arraylist",
    "null": "null", None: "any union",
}  # fmt: skip
TYPES = {name: kind for kind, names in NAMES.items() for name in names.split()}


def json_schema(parameters):
    """A JSON Schema from one with other names for its types, such as the leaderboard's "dict" or Gemini's "STRING".

    What a dataset on the hub fills with None, because other rows have it, is left out. What is no object stays as it
    is: whether it is a schema is found out where a tool joins the others.
    """
    if not isinstance(parameters, dict):
        return parameters
    kind = parameters.get("type")
    if isinstance(kind, str):
        kind = TYPES.get(kind.lower(), "string")
    elif isinstance(kind, list):
        kind = [TYPES.get(name.lower()) or "string" for name in kind]
    schema = {} if kind is None else {"type": kind}
    schema |= {key: value for key, value in parameters.items() if key not in ("type", "optional") and value is not None}
    if isinstance(schema.get("properties"), dict):
        own = schema["properties"].items()
        schema["properties"] = {name: json_schema(value) for name, value in own if value is not None}
    if "items" in schema:
        schema["items"] = json_schema(schema["items"])
    return schema


def closed(schema):
    """The schema of a tool's parameters, allowing no others, as in configs/tools.json."""
    return {"type": "object", "properties": {}} | schema | {"additionalProperties": False}


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


def functions(entries):
    """The functions in OpenAI's list of {"type": "function", "function": {...}}, or in a list of functions."""
    entries = [value(entry, "a tool is") for entry in entries]  # a list of texts in When2Call
    return objects([entry.get("function", entry) if isinstance(entry, dict) else entry for entry in entries], "tools")


def tools_in(entries, to_schema=json_schema):
    """Tools from such a list, or from its text, with JSON Schema for their parameters."""
    found = functions(value(entries or [], "tools are"))
    return [tool | {"parameters": to_schema(tool.get("parameters"))} for tool in found]
