"""The tools: what they are called, how a model is asked for a call, and what happens to its answer.

Every script shares this module, and it reads top to bottom in the order in which things happen:
load a tool set, build the prompt, parse what the model wrote, validate it, execute it.

A *call* is `{"tool": name, "args": {...}}`. To add a tool, add one schema entry to a tool file such as
configs/tools.json and one function below with `@executor("its_name")`.
"""

import hashlib
import json
import re
from pathlib import Path

from playground import arithmetic, schemas, strict_json

NO_RESPOND = "There is no tool `respond`, with which a model answers its user: only --max-turns ends a conversation."
TOOL_FILE = Path(__file__).parent / "configs" / "tools.json"
FAILED = {}  # {tool: [calls that its executor failed in, how at first]}


class ToolFileError(ValueError):
    """A tool file cannot be used; the message says where and why."""


class ParseError(ValueError):
    """A model's text is not a call. `kind` is a short name that statistics can count."""

    def __init__(self, kind):
        super().__init__(kind)
        self.kind = kind


# ---- load: a tool set is {name: {"name", "description", "parameters"}}, in file order


def load_tools(path=TOOL_FILE):
    """The tool set in a JSON file of OpenAI's `tools` format, `[{"type": "function", "function": {...}}]`.

    Raises ToolFileError for a file that cannot be read, is not JSON, or holds an entry without a name, with
    another's name, or with parameters that are not a JSON Schema of an object.
    """
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
        whole = strict_json.is_text(entries)
    except OSError as error:
        raise ToolFileError(f"{path} cannot be read ({error.strerror}): give a JSON file of tools.") from None
    except UnicodeDecodeError:
        raise ToolFileError(f"{path} is not UTF-8: save the tool file as UTF-8.") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise ToolFileError(f"{path} is not JSON ({error}): mend it there.") from None
    if not whole:
        raise ToolFileError(f"{path} has half a character (a lone surrogate) in it: mend it there.")
    if not isinstance(entries, list) or not entries:
        raise ToolFileError(f'{path} holds no list of tools: it should read [{{"type": "function", ...}}, ...].')
    tools = {}
    for index, entry in enumerate(entries):
        function = entry.get("function") if isinstance(entry, dict) else None
        where = f"{path}, entry {index + 1}"
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            raise ToolFileError(f'{where} has no name: it should read {{"function": {{"name": ...}}}}.')
        name = function["name"]
        if not name.isprintable():
            raise ToolFileError(f"{where}: its name {name!r} has characters that cannot be printed: give it another.")
        if name in tools:
            raise ToolFileError(f"{where}: a second tool is named {name!r}: give each tool its own name.")
        parameters = function.get("parameters", {"type": "object", "properties": {}})
        try:
            schemas.check(parameters)
        except ValueError as error:
            raise ToolFileError(f"{where} ({name}): {error}") from None
        if not isinstance(parameters, dict) or parameters.get("type") != "object":
            raise ToolFileError(f'{where} ({name}): parameters must be a schema of "type": "object".')
        tools[name] = {"name": name, "description": function.get("description", ""), "parameters": parameters}
    return tools


def call_schema(tools):
    """The JSON Schema of a call to any of `tools`: what a grammar for the whole tool set is made from."""
    return {
        "anyOf": [
            {
                "type": "object",
                "properties": {
                    "tool": {"const": name},
                    "args": schemas.moved(tool["parameters"], f"#/anyOf/{i}/properties/args"),
                },
                "required": ["tool", "args"],
                "additionalProperties": False,
            }
            for i, (name, tool) in enumerate(tools.items())
        ]
    }


# ---- prompt: the one place that knows what a model sees around a request


def with_results(request, turns, listed=None):
    """A record's prompt after some tools have run: the request, then each call and its result on one line each.

    listed: a tool set whose signatures follow the request, for a model that has been trained to read them. Results
    go in as JSON, which has no raw line break, so nothing in a result can look like a new line here.
    """
    lines = [" ".join(request.split())]
    if listed:
        lines.append("Tools: " + " ".join(signatures(listed).split()))
    for call, result in turns:
        lines += [f"Call: {to_json(call)}", f"Result: {to_json(result)}"]
    return "\n".join(lines)


def said_by_user(prompt):
    """The lines of a prompt that the user has said, without the tools, calls and results in it."""
    first, *others = prompt.split("\n")
    return "\n".join([first, *(line.removeprefix("User: ") for line in others if line.startswith("User: "))])


def last_result(prompt):
    """The tool's result that a record's prompt ends with, or None where it ends otherwise."""
    line = prompt.rpartition("\n")[2]
    if not line.startswith("Result: "):
        return None
    try:
        return json.loads(line.removeprefix("Result: "))
    except (ValueError, RecursionError):
        return None


def format_prompt(prompt):
    """What a model without a chat template sees before it writes a call."""
    return f"User: {prompt}\nCall:"


def to_json(value):
    """Canonical JSON: Python's default separators, keys as they stand, no escapes but the necessary ones."""
    return json.dumps(value, ensure_ascii=False)


def signatures(tools):
    """One line a tool: `book_table(restaurant: string, guests: integer, time?: string): Reserve a table.`"""
    lines = []
    for tool in tools.values():
        schema = tool["parameters"]
        arguments = [
            f"{name}{'' if name in schema.get('required', []) else '?'}: {type_in_words(value)}"
            for name, value in schema.get("properties", {}).items()
        ]
        lines.append(f"{tool['name']}({', '.join(arguments)}): {tool['description']}")
    return "\n".join(lines)


def type_in_words(schema):
    """The type of an argument for a signature: `string`, `integer[]`, `"low" | "high"`; `any` where none is named."""
    schema = schema if isinstance(schema, dict) else {}
    if "enum" in schema:
        return " | ".join(map(to_json, schema["enum"]))
    if schema.get("type") == "array":
        return f"{type_in_words(schema.get('items'))}[]"
    types = schema.get("type", "any")
    return types if isinstance(types, str) else " | ".join(map(str, types))


# ---- parse: the model's text is untrusted, and each way of being wrong has its own name


def parse_call(text):
    """The call that `text` holds: exactly one JSON object `{"tool": str, "args": {...}}` and nothing else.

    Raises ParseError, whose `kind` is one of: empty, too long, fenced block, not JSON, text before the JSON,
    text after the JSON, two objects, broken JSON, truncated JSON, duplicate key, nested too deep, bad number,
    lone surrogate, not an object, no tool, no args, unknown key.
    """
    try:
        value = strict_json.read_object(text)
    except strict_json.Refused as refused:
        raise ParseError(str(refused)) from None
    if not isinstance(value.get("tool"), str):
        raise ParseError("no tool")
    if not isinstance(value.get("args"), dict):
        raise ParseError("no args")
    if len(value) > 2:
        raise ParseError("unknown key")
    return value


# ---- validate


def validate_call(call, tools):
    """What is wrong with a parsed call, as sentences for people: an empty list for a valid one."""
    tool = tools.get(call["tool"])
    if tool is None:
        return [f"unknown tool {call['tool']!r}: the tools are {', '.join(tools)}"]
    found = schemas.problems(schemas.validator(tool["parameters"]), call["args"], call["tool"])
    return [f"{call['tool']}: {problem}" for problem in found]


# ---- execute


class ExecutionError(Exception):
    """A tool could not do what it was asked; the message becomes the result's "error"."""


EXECUTORS = {}
OUTBOX = None  # the file that send_email appends to; None, as while evaluating, sends nothing anywhere


def executor(name):
    """Decorator: the function that runs the tool `name`. It takes the arguments and returns JSON."""

    def register(function):
        EXECUTORS[name] = function
        return function

    return register


def execute(call, tools):
    """The result of a parsed call, always a JSON object: `{"error": why}` where it is invalid or fails."""
    errors = validate_call(call, tools)
    if errors:
        return {"error": "; ".join(errors)}
    if call["tool"] not in EXECUTORS:
        return {"error": f"{call['tool']} has no executor: add a function with @executor({call['tool']!r})"}
    try:
        result = EXECUTORS[call["tool"]](**call["args"])
        if not isinstance(result, dict):
            raise TypeError(f"its result is no dict, but {type(result).__name__}")
        json.dumps(result, ensure_ascii=False, allow_nan=False).encode("utf-8")  # what cannot be written is no result
        return result
    except ExecutionError as error:
        return {"error": str(error)}
    except Exception as error:  # the executor's own mistake, which is a result too: the stage goes on
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        FAILED.setdefault(call["tool"], [0, why])[0] += 1
        return {"error": f"{call['tool']} failed: {why}"}


def outcome_of(call, tools):
    """What a valid call brings about: {"tool", "result"}; of a call that cannot be executed, itself."""
    result = execute(call, tools)
    return call if "error" in result else {"tool": call["tool"], "result": result}


@executor("respond")
def respond(message):
    return {"message": message}


# A result holds what the call did not: the model sees the two side by side.


@executor("send_email")
def send_email(to, subject):
    if not re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s.]+", to):
        raise ExecutionError(f"{to!r} is not an email address")
    if OUTBOX:
        OUTBOX.parent.mkdir(parents=True, exist_ok=True)
        with OUTBOX.open("a", encoding="utf-8") as outbox:
            outbox.write(json.dumps({"to": to, "subject": subject}) + "\n")
    return {"status": "sent", "to": to, "subject": subject}


SKIES = "sunny cloudy rainy windy foggy clear snowy stormy".split()


@executor("get_weather")
def get_weather(city):
    """The same made-up weather for the same city every time, so that results can be compared."""
    number = _stable_number(city)
    return {"temperature_c": number % 36 - 4, "sky": SKIES[number // 36 % len(SKIES)]}


SITES = "example.org example.com example.net".split()


@executor("search_web")
def search_web(query):
    """The same made-up first hit for the same query every time."""
    number = _stable_number(query)
    return {"results": number % 90 + 10, "first": SITES[number % len(SITES)]}


def _stable_number(text):
    return int.from_bytes(hashlib.sha256(" ".join(text.casefold().split()).encode()).digest()[:4], "big")


@executor("calculator")
def calculator(expression):
    try:
        return {"value": arithmetic.evaluate(expression)}
    except arithmetic.Refused as refused:
        raise ExecutionError(str(refused)) from None
