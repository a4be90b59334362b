"""The Berkeley Function-Calling Leaderboard: its rows, how a model is asked, and its AST check.

The check follows the leaderboard's published rules for Python (bfcl_eval/eval_checker/ast_eval/ast_checker.py in
github.com/ShishirPatil/gorilla, Apache-2.0), their quirks included, since a score is to mean what it means there:
a call is right if its function, the types of its arguments, and its values are right, where the answers list every
accepted value of an argument and "" among them says that it may be left out.
"""

import json
import re
from pathlib import Path

import tools as toolbox
from playground.data.imports import shapes
from playground.data.imports.conversation import RESPOND
from playground.run.errors import UserError
from playground.run.files import read_jsonl

CATEGORIES = ("simple", "multiple", "parallel", "irrelevance")
TYPES = {"string": str, "integer": int, "float": float, "boolean": bool, "array": list, "tuple": list, "dict": dict,
         "any": str}  # fmt: skip


def load(folder):
    """{category: [{"id", "request", "functions", "answers"}]} of the leaderboard's files in a folder.

    Of several versions of a category the latest counts. The folder may hold the whole leaderboard: its Java,
    JavaScript, live and many-turn files have other rules and are left alone. Raises UserError where there is no file
    of a category known here, or for a row that cannot be read.
    """
    found = {}
    for category in CATEGORIES:
        named = rf"BFCL_v\d+_{category}(_python)?\.json"
        paths = [path for path in Path(folder).glob("BFCL_v*.json") if re.fullmatch(named, path.name)]
        for path in sorted(paths, key=lambda path: int(re.search(r"\d+", path.name)[0]))[-1:]:
            answers = {}
            if category != "irrelevance":
                answers = {row["id"]: row["ground_truth"] for row in _rows(path.parent / "possible_answer" / path.name)}
            try:
                found[category] = [_read(row, category, answers) for row in _rows(path)]
            except (LookupError, TypeError, AttributeError, ValueError) as error:
                raise UserError(f"{path}: not the leaderboard's form ({error!r}): download the file again.") from None
    if not found:
        raise UserError(f"{folder} holds no BFCL_v*_simple*.json or the like: give a folder of the leaderboard's data.")
    return found


def _rows(path):
    try:
        return read_jsonl(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): download the leaderboard's file again.") from None


def _read(row, category, answers):
    ((*_, message),) = row["question"]  # one turn; a system message may come first
    answers = [] if category == "irrelevance" else answers[row["id"]]
    return {"id": row["id"], "request": message["content"], "functions": row["function"], "answers": answers}


# ---- asking a model


def tools_of(row):
    """The row's functions as a tool set, and `respond` for a request that none of them fits."""
    functions = {
        function["name"]: {
            "name": function["name"],
            "description": function.get("description", ""),
            "parameters": shapes.closed(shapes.json_schema(function["parameters"])),
        }
        for function in row["functions"]
    }
    return functions | {"respond": RESPOND}


def schema_of(tools, category):
    """The JSON Schema of an answer: a call to one of the tools, or a list of such where several are asked for."""
    call = toolbox.call_schema(tools)
    return {"type": "array", "items": call, "minItems": 1} if category == "parallel" else call


def prompt_of(row, category):
    """The prompt: the tools as JSON, the form of an answer, and last the request, which a cut would keep."""
    tools = "\n".join(toolbox.to_json(tool) for tool in tools_of(row).values())
    form = '{"tool": name, "args": {...}}'
    form = f"a list of calls, [{form}, ...]" if category == "parallel" else f"one call, {form}"
    return (
        f"These are the tools:\n{tools}\n\nAnswer with {form}; call respond if no tool fits.\n\nUser: {row['request']}"
    )


def read_calls(text):
    """[(function, arguments)] that an output holds: one call, or a JSON list of them; None if it holds neither.

    A call to `respond` is no function call, so it gives an empty list.
    """
    try:
        items = json.loads(text)
        items = [toolbox.to_json(item) for item in items] if isinstance(items, list) else [text]
        calls = [toolbox.parse_call(item) for item in items]
    except (ValueError, RecursionError):  # a ParseError is a ValueError
        return None
    return [(call["tool"], call["args"]) for call in calls if call["tool"] != "respond"]


# ---- the AST check


def check(row, category, calls):
    """What is wrong with [(function, arguments), ...] as an answer to the row, by the leaderboard's name; else None.

    calls: None where the output held no call, which is right where no function fits, and only there.
    """
    if category == "irrelevance":
        return "irrelevance_error:decoder_success" if calls else None
    if calls is None:
        return "ast_decoder:decoder_failed"
    if len(calls) != len(row["answers"]):
        return "wrong_count"
    functions = {function["name"]: function for function in row["functions"]}
    if category != "parallel":
        ((name, accepted),) = row["answers"][0].items()
        return _call(functions[name], accepted, *calls[0])
    left = list(calls)
    for answer in row["answers"]:  # in any order: each answer takes the first call that satisfies it
        ((name, accepted),) = answer.items()
        match = next((call for call in left if _call(functions[name], accepted, *call) is None), None)
        if match is None:
            return "cannot_find_match"
        left.remove(match)
    return None


def _call(function, accepted, name, arguments):
    properties, required = function["parameters"]["properties"], function["parameters"].get("required", [])
    if name != function["name"]:
        return "wrong_func_name"
    if any(parameter not in arguments for parameter in required):
        return "missing_required"
    for parameter, value in arguments.items():
        if parameter not in properties or parameter not in accepted:
            return "unexpected_param"
        wrong = _argument(value, accepted[parameter], properties[parameter])
        if wrong:
            return wrong
    if any(parameter not in arguments and "" not in values for parameter, values in accepted.items()):
        return "missing_optional"
    return None


def _argument(value, accepted, schema):
    kind = TYPES[schema["type"]]
    item = TYPES[schema["items"]["type"]] if schema["type"] in ("array", "tuple") and "items" in schema else None
    if schema["type"] == "float" and type(value) is int:
        value = float(value)
    wrong, is_variable = _type(value, accepted, kind, item)
    if wrong:
        return wrong
    if is_variable:
        return None if value in accepted else "value_error:others"
    if kind is dict:
        return _dict(value, accepted)
    if kind is list and item is dict:
        return _dicts(value, accepted)
    if kind is str:
        texts = [standardize(answer) for answer in accepted if isinstance(answer, str)]
        return None if standardize(value) in texts else "value_error:string"
    if kind is list:
        lists = [[standardize(part) for part in answer] for answer in accepted]
        return None if [standardize(part) for part in value] in lists else "value_error:list/tuple"
    return None if value in accepted else "value_error:others"


def _type(value, accepted, kind, item):
    """(what is wrong or None, whether the value is a variable).

    Answers of another type than the parameter's stand for variables of a program; a value may have their type too.
    """
    answer_type = next((type(answer) for answer in accepted if answer != ""), None)
    is_variable = answer_type is not None and answer_type is not kind
    if type(value) is kind:
        if item is None or any(_items(value, answer, item) for answer in accepted):
            return None, is_variable
        return "type_error:nested", is_variable
    if answer_type is not None and type(value) is answer_type:
        return None, True
    return "type_error:simple", is_variable


def _items(value, answer, item):
    return not isinstance(answer, list) or all(_type(part, answer, item, None)[0] is None for part in value)


def _dict(value, accepted):
    wrong = "dict_checker:unclear"
    for answer in accepted:
        if answer == "":
            continue
        wrong = _dict_against(value, answer)
        if wrong is None:
            return None
    return wrong


def _dict_against(value, answer):
    for key, part in value.items():
        if key not in answer:
            return "value_error:dict_key"
        if standardize(part) not in [standardize(choice) for choice in answer[key]]:
            return "value_error:dict_value"
    missing = any(key not in value and "" not in choices for key, choices in answer.items())
    return "value_error:dict_key" if missing else None


def _dicts(value, accepted):
    wrong = "list_dict_checker:unclear"
    for answer in accepted:
        if len(value) != len(answer):
            wrong = "value_error:list_dict_count"
            continue
        wrong = next((found for pair in zip(value, answer, strict=True) if (found := _dict(pair[0], [pair[1]]))), None)
        if wrong is None:
            return None
    return wrong


def standardize(value):
    """A text without spaces and , . / - _ * ^, in lower case, with double quotes; any other value as it is."""
    return re.sub(r"[ ,./\-_*^]", "", value).lower().replace("'", '"') if isinstance(value, str) else value
