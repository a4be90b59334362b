"""Texts that look like a call, in any form that is known.

An answer that is really a call would teach a model to talk JSON or Python to its user. So no importer takes such a
text for an answer: the row is refused and counted.
"""

import re

MAX_NAME = 100  # characters: what a search for a name looks at, so that it takes no longer than the text is long
# Marks that models and datasets put before a call: Hermes, Glaive, When2Call, Llama, Mistral, Gemma, DeepSeek, Qwen.
MARKS = re.compile(
    r"<\|?/?(?:tool_?calls?|function_?calls?|tools?_code|python_tag|start_function_call|invoke|function=)\b"
    r"|<function\s?=|\[TOOL_CALLS?\]|<｜tool|✿FUNCTION✿|\bto=functions\.|^\s{0,20}Action Input\s?:",
    re.IGNORECASE | re.MULTILINE,
)
NAME_KEY = re.compile(r"""["'](?:name|tool|tool_name|function|function_name|action)["']\s{0,20}:\s{0,20}["'{]""")
ARGUMENTS_KEY = re.compile(r"""["'](?:arguments|args|parameters|action_input|tool_input|tool_args)["']\s{0,20}:""")
OBJECT_KEY = re.compile(rf"""["']([^"'\n]{{1,{MAX_NAME}}})["']\s{{0,20}}:\s{{0,20}}\{{""")
# `[Get Weather(city=` or `[other()`, as in ToolACE: in brackets, a name may hold spaces and need not be known.
BRACKETED = re.compile(
    rf"""\[\s{{0,20}}[^\W\d][^()\[\]{{}}"'=\n]{{0,{MAX_NAME}}}\(\s{{0,20}}(?:\)\s{{0,20}}[,\]]|[\w.-]{{1,{MAX_NAME}}}\s?=)"""
)
# `get_weather(city=`, `get_weather("`, `get_weather()` of a known tool.
PLAIN = re.compile(rf"""(?<![\w.-])([\w.-]{{1,{MAX_NAME}}})\(\s{{0,20}}(?:\)|["'\[{{\d-]|\w{{1,{MAX_NAME}}}\s?=)""")


def looks_like(text, *names):
    """What form of a call `text` holds, in words, or None for a text that is none. `names`: collections of names."""

    def is_tool(name):
        return any(name in own for own in names)

    if mark := MARKS.search(text):
        return f"a call marked {mark[0].strip()[:30]}"
    if NAME_KEY.search(text) and ARGUMENTS_KEY.search(text):
        return "a call in JSON"
    if any(is_tool(match[1]) for match in OBJECT_KEY.finditer(text)):
        return "a call in JSON, by the tool's name"
    if BRACKETED.search(text) or any(is_tool(match[1]) for match in PLAIN.finditer(text)):
        return "a call in Python"
    return None
