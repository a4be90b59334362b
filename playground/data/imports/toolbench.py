"""ToolBench (Qin et al. 2023, arXiv:2307.16789): its two released forms as tools and records.

- DFS answer trees, answer/G*_answer/ID_*.json. A path from the root to a `Finish` that gives an answer is one way to
  answer the query. All APIs, those without an answer too, are in instruction/G*_query.json.
- toolllama_G123_dfs_train.json, the training file made from them: one such path a row, as a conversation.

Either way a path becomes a conversation, of which conversation.py makes the records; `Finish` is `respond` here.
"""

import ast
import functools
import itertools
import json
import re
from pathlib import Path

from playground.data.imports import reading
from playground.data.imports.conversation import BadRow, ToolSet, general, in_form, read_result, to_records
from playground.data.imports.shapes import closed, json_schema, message_of


def load(path):
    """(records, tools, report, files) of the ToolBench data below `path`, or None where there is none.

    The report's rows are files, and the rows of the training file. `report.notes` counts paths and calls that made
    no record, by reason.
    """
    files = sorted(file for file in Path(path).rglob("*.json") if file.is_file())
    of_queries = [file for file in files if re.fullmatch(r"G\d_query\.json", file.name)]
    of_answers = [file for file in files if file.parent.name.endswith("_answer")]
    of_conversations = [file for file in files if file.match("toolllama*.json")]
    files = [*of_queries, *of_answers, *of_conversations]
    if not files:
        return None
    report, toolset, records = reading.Report(path), ToolSet(), []
    report.format = "toolbench"
    apis = _apis(of_queries, report)
    for file in of_answers:
        with report.row(file):
            records += _answer_tree(file, toolset, report.notes)
    for file in of_conversations:
        read = functools.partial(_conversation, file.stem, toolset, report.notes)
        records += itertools.chain.from_iterable(report.read(reading.rows(file), read, file))
    for api in apis:  # what an answer describes keeps the form in which the answer's calls were made
        try:
            with in_form():
                if _api_name(api) not in toolset.tools:
                    toolset.add(_api_tool(api))
        except BadRow as reason:
            report.notes[f"APIs that make no tool ({general(reason)})"] += 1
    report.finish()
    return records, toolset.ordered(), report, files


def _apis(files, report):
    """The APIs that the query files list, each once."""
    apis = {}
    for file in files:
        with report.row(file):
            for row in json.loads(file.read_bytes()):
                apis |= {(api["tool_name"], api["api_name"]): api for api in row["api_list"]}
    return list(apis.values())


def _api_name(api):
    """The name that ToolBench gives an API's function: `checkhealth_for_squake`, its last 64 characters."""
    tool, name = (re.sub("[^A-Za-z0-9]+", "_", api[key]).strip("_").lower() for key in ("tool_name", "api_name"))
    if name in ("from", "class", "return", "false", "true", "id", "and"):  # words that Python or ToolBench keeps
        name = f"is_{name}"
    return f"{name}_for_{tool}"[-64:].strip("_")


def _api_tool(api):
    """The tool of an entry in a query's api_list, its types mapped, required and optional parameters kept."""
    properties, required = {}, api.get("required_parameters", [])
    for parameter in required + api.get("optional_parameters", []):
        schema = json_schema({"type": str(parameter.get("type", "STRING"))})
        schema |= {"description": parameter["description"]} if parameter.get("description") else {}
        default = parameter.get("default")
        if default not in (None, ""):  # a text, whatever the type
            schema["default"] = default if schema["type"] == "string" else read_result(str(default))
        properties[parameter["name"]] = schema
    return {
        "name": _api_name(api),
        "description": str(api.get("api_description", "")).strip(),
        "parameters": closed({"properties": properties, "required": [parameter["name"] for parameter in required]}),
    }


def _functions(functions):
    """The tools of ToolBench's own function schemas, but for Finish, which is `respond` here."""
    tools = [
        function | {"parameters": closed(json_schema(function["parameters"]))}
        for function in functions
        if function["name"] != "Finish"
    ]
    for schema in (schema for tool in tools for schema in tool["parameters"]["properties"].values()):
        if "example_value" in schema:
            schema["examples"] = [schema.pop("example_value")]
    return tools


def _answer_tree(file, toolset, notes):
    tree = json.loads(file.read_bytes())
    query, tools = tree["answer_generation"]["query"], _functions(tree["answer_generation"]["function"])
    paths = list(_paths(tree["tree"]["tree"]))
    for tool in tools:
        toolset.add(tool)
    answered = [steps for steps in paths if _final_answer(steps[-1]) is not None]
    notes["paths that do not end in an answer"] += len(paths) - len(answered)
    records = {}
    for index, steps in enumerate(answered):
        number = f"{file.parent.name}-{file.stem}" + (f".p{index}" if len(answered) > 1 else "")
        for record in _path_records(query, steps, tools, number, toolset, notes):
            records.setdefault(record["prompt"], record)  # two paths share their first calls
    return list(records.values())


def _paths(root):
    """Every path from the root of a tree to a leaf, as [(action, its input, the observation), ...]."""
    stack = [(root, None, ())]
    while stack:
        node, action, steps = stack.pop()
        if node["node_type"] == "Action":
            action = node["description"]
        elif node["node_type"] == "Action Input" and action:
            steps, action = (*steps, (action, node["description"], node.get("observation", ""))), None
        stack += [(child, action, steps) for child in reversed(node["children"])]
        if not node["children"] and steps:
            yield steps


def _final_answer(step):
    """The answer for the user in a step that calls Finish with one, else None."""
    action, text, _ = step
    if action != "Finish":
        return None
    try:
        given = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
    gives = isinstance(given, dict) and given.get("return_type") == "give_answer"
    return given["final_answer"] if gives and isinstance(given.get("final_answer"), str) else None


def _path_records(query, steps, tools, number, toolset, notes):
    """The records of a path, up to the first call that its schema rejects."""
    messages = [{"role": "user", "content": query}]
    for step in steps:
        action, given, observation = step
        if (answer := _final_answer(step)) is not None:
            messages.append({"role": "assistant", "content": answer})
            break
        messages += [message_of([(action, given or "{}")]), {"role": "tool", "content": observation}]
    conversation = {"messages": messages, "tools": tools, "id": number}
    return to_records(conversation, toolset, "toolbench", notes, cut=True)


def _conversation(stem, toolset, notes, number, row):
    """The records of a row: system (with the APIs as Python's repr), user, then assistant and function in turn."""
    turns = [(turn["from"], turn["value"]) for turn in row["conversations"]]
    system = next(text for speaker, text in turns if speaker == "system")
    query = next(text for speaker, text in turns if speaker == "user")
    listed = re.search(r"\[\s*\{\s*['\"]name['\"]", system)
    tools = _functions(ast.literal_eval(system[listed.start() : system.rfind("]") + 1]))
    steps = []
    for speaker, text in turns:
        if speaker == "assistant":
            action, marked, given = text.partition("Action:")[2].partition("\nAction Input:")
            if not marked:
                notes["answers without an action"] += 1
                break
            steps.append((action.strip(), given.strip(), ""))
        elif speaker == "function" and steps:
            steps[-1] = (*steps[-1][:2], text)
    if not steps or _final_answer(steps[-1]) is None:
        notes["paths that do not end in an answer"] += 1
        return []
    query = query.strip().removesuffix("Begin!").strip()
    return _path_records(query, steps, tools, f"{stem}-{number:06d}", toolset, notes)
