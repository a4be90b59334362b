"""The tools: what they are called, how a model is asked for a call, and what happens to its answer.

Every script shares this module, and it reads top to bottom in the order in which things happen:
load a tool set, build the prompt, parse what the model wrote, validate it, execute it.

A *call* is `{"tool": name, "args": {...}}`. To add a tool, add one schema entry to a tool file such as
configs/tools.json and one function below with `@executor("its_name")`.
"""

import ast
import contextlib
import hashlib
import itertools
import json
import math
import operator
import re
import signal
import threading
import warnings
from pathlib import Path

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

NO_RESPOND = "There is no tool `respond`: no record answers after a result, and only --max-turns ends a conversation."
TOOL_FILE = Path(__file__).parent / "configs" / "tools.json"
MAX_CALL_CHARS = 20_000  # a longer "call" is refused before it is parsed
MAX_CALL_DEPTH = 64  # far below Python's own limit, which depends on who asks
MAX_SECONDS = 0.5  # of the processor's, for a schema or a chat template: they can be made to take for ever
MAX_ERRORS = 100  # of a call that are told
MAX_SLOW = 5  # calls that take longer than that are invalid, and with this one it is enough
SLOW, FAILED = [], {}  # the tools of those calls; {tool: [calls that its executor failed in, how at first]}


class ToolFileError(ValueError):
    """A tool file cannot be used; the message says where and why."""


class OutsideError(Exception):
    """A schema or a chat template cannot be used; the message says which and why."""


class OutOfTime(Exception):
    """What `time_limit` raises."""


class ParseError(ValueError):
    """A model's text is not a call. `kind` is a short name that statistics can count."""

    def __init__(self, kind):
        super().__init__(kind)
        self.kind = kind


@Draft202012Validator.FORMAT_CHECKER.checks("regex", (re.error, OverflowError, RecursionError))
def is_regex(text):
    """What `check_schema` asks of a pattern. jsonschema's own check ends in a traceback at `a{99999999999}`."""
    with warnings.catch_warnings(action="ignore"):  # of sets that Python may read in another way some day
        return not isinstance(text, str) or bool(re.compile(text))


# ---- load: a tool set is {name: {"name", "description", "parameters"}}, in file order


def load_tools(path=TOOL_FILE):
    """The tool set in a JSON file of OpenAI's `tools` format, `[{"type": "function", "function": {...}}]`.

    Raises ToolFileError for a file that cannot be read, is not JSON, or holds an entry without a name, with
    another's name, or with parameters that are not a JSON Schema of an object.
    """
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
        whole = is_text(entries)
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
            with time_limit(MAX_SECONDS):
                Draft202012Validator.check_schema(parameters)
                reference = _dangling_reference(parameters)
        except SchemaError as error:
            at = "/".join(map(str, error.absolute_path))
            raise ToolFileError(
                f"{where} ({name}): parameters are not a JSON Schema, at /{at}: {error.message[:200]}"
            ) from None
        except (RecursionError, OutOfTime):
            raise ToolFileError(f"{where} ({name}): its schema is too deep or large to be checked.") from None
        if reference:
            raise ToolFileError(f'{where} ({name}): "$ref": {reference!r} leads nowhere: put it under "$defs" there.')
        if not isinstance(parameters, dict) or parameters.get("type") != "object":
            raise ToolFileError(f'{where} ({name}): parameters must be a schema of "type": "object".')
        tools[name] = {"name": name, "description": function.get("description", ""), "parameters": parameters}
    return tools


def is_text(value):
    """Whether a JSON value can be written as UTF-8, which has nothing for half of a surrogate pair."""
    try:
        to_json(value).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _dangling_reference(schema):
    """The first reference of a schema that it does not hold itself, or None: nothing is fetched from elsewhere."""
    resolver, nodes = Registry().resolver_with_root(DRAFT202012.create_resource(schema)), [schema]
    while nodes:
        node = nodes.pop()
        for key in ("$ref", "$dynamicRef") if isinstance(node, dict) else ():
            try:
                if isinstance(node.get(key), str):
                    resolver.lookup(node[key])
            except (Unresolvable, ValueError):
                return node[key]
        nodes += node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return None


def call_schema(tools):
    """The JSON Schema of a call to any of `tools`: what a grammar for the whole tool set is made from."""
    return {
        "anyOf": [
            {
                "type": "object",
                "properties": {"tool": {"const": name}, "args": tool["parameters"]},
                "required": ["tool", "args"],
                "additionalProperties": False,
            }
            for name, tool in tools.items()
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
    """One line a tool, as people write them: `get_weather(city): The weather in a city now.`"""
    lines = []
    for tool in tools.values():
        parameters = tool["parameters"]
        required = parameters.get("required", [])
        names = [name if name in required else f"{name}?" for name in parameters.get("properties", {})]
        lines.append(f"{tool['name']}({', '.join(names)}): {tool['description']}")
    return "\n".join(lines)


# ---- parse: the model's text is untrusted, and each way of being wrong has its own name


def parse_call(text):
    """The call that `text` holds: exactly one JSON object `{"tool": str, "args": {...}}` and nothing else.

    Raises ParseError, whose `kind` is one of: empty, too long, fenced block, not JSON, text before the JSON,
    text after the JSON, two objects, broken JSON, truncated JSON, duplicate key, nested too deep, bad number,
    lone surrogate, not an object, no tool, no args, unknown key.
    """
    if len(text) > MAX_CALL_CHARS:
        raise ParseError("too long")
    text = text.strip()
    if not text:
        raise ParseError("empty")
    if text.startswith("```"):
        raise ParseError("fenced block")
    if not text.startswith("{"):
        if _is_json(text):
            raise ParseError("not an object")
        raise ParseError("text before the JSON" if '{"' in text else "not JSON")
    try:
        value, end = _decoder.raw_decode(text)
    except RecursionError:
        raise ParseError("nested too deep") from None
    except json.JSONDecodeError as error:
        # An error where the text ends means that more text could have mended it.
        truncated = error.pos >= len(text) or error.msg.startswith("Unterminated string")
        raise ParseError("truncated JSON" if truncated else "broken JSON") from None
    rest = text[end:].strip()
    if rest:
        raise ParseError("two objects" if rest.startswith("{") else "text after the JSON")
    if _depth(value) > MAX_CALL_DEPTH:
        raise ParseError("nested too deep")
    if not is_text([text, value]):  # "\ud800" in the text is a lone surrogate in the value
        raise ParseError("lone surrogate")
    if not isinstance(value.get("tool"), str):
        raise ParseError("no tool")
    if not isinstance(value.get("args"), dict):
        raise ParseError("no args")
    if len(value) > 2:
        raise ParseError("unknown key")
    return value


def _depth(value):
    """How many objects and arrays stand in each other, without recursion."""
    level, depth = [value], 0
    while level := [item for item in level if isinstance(item, dict | list)]:
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
        depth += 1
    return depth


def _refuse_duplicates(pairs):
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ParseError("duplicate key")
    return value


def _number(read):
    def checked(text):
        # Python reads integers of up to 4,300 digits and floats up to infinity; neither is a sensible argument.
        if len(text) > 100 or not math.isfinite(float(text)):
            raise ParseError("bad number")
        return read(text)

    return checked


_decoder = json.JSONDecoder(
    object_pairs_hook=_refuse_duplicates,
    parse_int=_number(int),
    parse_float=_number(float),
    parse_constant=_number(float),  # NaN, Infinity and -Infinity are not JSON
)


def _is_json(text):
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


# ---- validate


def validate_call(call, tools):
    """What is wrong with a parsed call, as sentences for people: an empty list for a valid one."""
    tool = tools.get(call["tool"])
    if tool is None:
        return [f"unknown tool {call['tool']!r}: the tools are {', '.join(tools)}"]
    found = problems(validator(tool["parameters"]), call["args"])
    if TOO_SLOW in found:
        SLOW.append(call["tool"])
        if len(SLOW) == MAX_SLOW:
            names = ", ".join(sorted(set(SLOW)))
            raise OutsideError(
                f"calls to {names} take over {MAX_SECONDS} s each to be validated: simplify the schemas."
            )
    return [f"{call['tool']}: {problem}" for problem in found]


TOO_SLOW = f"its schema takes over {MAX_SECONDS} s to check"


def validator(schema, kind=Draft202012Validator):
    """What checks a value under a JSON Schema, and fetches nothing that the schema refers to; see `problems`."""
    return kind(schema, registry=Registry())


def problems(checker, value):
    """What a `validator` finds wrong with a value, as sentences for people; [] for nothing."""
    try:
        with time_limit(MAX_SECONDS):
            errors = list(itertools.islice(checker.iter_errors(value), MAX_ERRORS))
            return [_in_words(error) for error in sorted(errors, key=lambda error: error.json_path)]
    except OutOfTime:
        return [TOO_SLOW]
    except RecursionError:
        return ["its schema refers to itself without end or is too deep, so nothing can be said to meet it"]
    except (Unresolvable, ValueError, ArithmeticError) as error:
        return [f"its schema cannot be followed: {str(error)[:200]}"]


@contextlib.contextmanager
def time_limit(seconds):
    """A block that OutOfTime ends after so many seconds of work; on Windows, and in threads, it has no limit.

    Regular expressions, schemas and templates are programs of other people's, and short ones can take for ever.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_):
        raise OutOfTime

    before = signal.signal(signal.SIGVTALRM, end)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, seconds)  # again and again: Python forgets what finalizers raise
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _in_words(error):
    where = ".".join(map(str, error.absolute_path))
    if error.validator == "required":
        missing = [name for name in error.validator_value if name not in error.instance]
        return "missing argument " + ", ".join(map(repr, missing))
    if error.validator == "additionalProperties" and error.validator_value is False:
        extra = [name for name in error.instance if name not in error.schema.get("properties", {})]
        return "unknown argument " + ", ".join(map(repr, extra))
    message = error.message if len(error.message) <= 200 else error.message[:200] + "..."
    return f"argument {where!r}: {message}" if where else message


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


# A model, or whoever writes its prompt, decides what the calculator is given. So: no eval; Python's parser
# reads the text, only the kinds of node below are worked out, and every size is bounded before the work.
MAX_EXPRESSION = 200  # characters, which bounds the nesting too
MAX_EXPONENT = 64
MAX_MAGNITUDE = 1e15  # beyond it, floats are no longer exact to the unit
OPERATORS = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow,
    ast.UAdd: operator.pos, ast.USub: operator.neg,
}  # fmt: skip
MAX_DIGITS = 15  # Python rounds 5 to -1000000000 digits by working out 10 ** 1000000000


def _round(value, digits=None):
    if digits is not None and abs(digits) > MAX_DIGITS:
        raise ExecutionError(f"round takes at most {MAX_DIGITS} digits")
    return round(value, digits)


FUNCTIONS = {"abs": abs, "round": _round, "sqrt": math.sqrt, "min": min, "max": max}


@executor("calculator")
def calculator(expression):
    if len(expression) > MAX_EXPRESSION:
        raise ExecutionError(f"the expression is over {MAX_EXPRESSION} characters")
    try:
        with warnings.catch_warnings(action="ignore"):  # the parser has opinions on style, such as "1if"
            value = _evaluate(ast.parse(expression.strip(), mode="eval").body)
    except ZeroDivisionError:
        raise ExecutionError("division by zero") from None
    except OverflowError:
        raise ExecutionError("the number grows too large") from None
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        raise ExecutionError(f"{expression!r} is not arithmetic that this calculator knows") from None
    return {"value": int(value) if value == int(value) else round(value, 6)}


def _evaluate(node):
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _bounded(value)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in OPERATORS:
            return OPERATORS[type(op)](_evaluate(operand))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            left, right = _evaluate(left), _evaluate(right)
            if isinstance(op, ast.Pow) and abs(right) > MAX_EXPONENT:
                raise ExecutionError(f"the exponent is over {MAX_EXPONENT}")
            return _bounded(OPERATORS[type(op)](left, right))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
            return _bounded(FUNCTIONS[name](*map(_evaluate, args)))
    raise ValueError


def _bounded(value):
    if isinstance(value, complex) or not abs(value) <= MAX_MAGNITUDE:
        raise ExecutionError("the number grows too large")
    return value
