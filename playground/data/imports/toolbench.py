"""ToolBench (Qin et al. 2023, arXiv:2307.16789): its two released forms as tools and records.

- DFS answer trees, answer/G*_answer/ID_*.json. A path from the root to a `Finish` that gives an answer is one way to
  answer the query.
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
from playground.data.imports.conversation import ToolSet, to_records
from playground.data.imports.shapes import closed, json_schema, message_of


def load(path):
    """(records, tools, report, files) of the ToolBench data below `path`, or None where there is none.

    The report's rows are files, and the rows of the training file. `report.notes` counts paths and calls that made
    no record, by reason.
    """
    files = sorted(file for file in Path(path).rglob("*.json") if file.is_file())
    of_answers = [file for file in files if file.parent.name.endswith("_answer")]
    of_conversations = [file for file in files if file.match("toolllama*.json")]
    files = [*of_answers, *of_conversations]
    if not files:
        return None
    report, toolset, records = reading.Report(path), ToolSet(), []
    report.format = "toolbench"
    for file in of_answers:
        with report.row(file):
            records += _answer_tree(file, toolset, report.notes)
    for file in of_conversations:
        read = functools.partial(_conversation, file.stem, toolset, report.notes)
        records += itertools.chain.from_iterable(report.read(reading.rows(file), read, file))
    report.finish()
    return records, toolset.ordered(), report, files


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
