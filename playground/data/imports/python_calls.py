"""Calls as ToolACE writes them, a list in Python: `[Get Weather(city="Paris", days=3), other()]`.

Nothing is run. Python's own parser would not do: names hold spaces, and an argument may be named `from`.
"""

import ast
import json
import re
import warnings

from playground.data.imports.conversation import BadRow

STRING = re.compile(r"""(["'])(?:(?!\1)[^\\]|\\.)*+\1""", re.DOTALL)
NAME = r"""[^\W\d][^()\[\]{}"'=,\n]*"""
TOKEN = re.compile(r"""["'()\[\]{},]""")
CLOSERS = {"(": ")", "[": "]", "{": "}"}


def read_calls(text, names=()):
    """[(name, {argument: value}), ...] of a list of calls as Python would write it, with keyword arguments alone.

    Names may hold spaces and dots, and anything at all where they are among `names`. Raises BadRow for any other text.
    """
    text = text.strip()
    if not text.startswith("["):
        raise BadRow(f"a call is in no brackets: {text[:60]!r}")
    at, calls = 1, []
    odd = sorted((name for name in names if not re.fullmatch(NAME, name)), key=len, reverse=True)
    while True:
        at = _blank(text, at)
        known = next((name for name in odd if text.startswith(f"{name}(", at)), None)
        opened = at + len(known) if known else text.find("(", at)
        name = text[at : max(opened, at)].strip()
        if opened < 0 or not (known or re.fullmatch(NAME, name)):
            raise BadRow(f"a call has no name: {text[at : at + 60]!r}")
        arguments, at = _arguments(text, opened + 1)
        calls.append((name, arguments))
        at = _blank(text, at)
        if text[at : at + 1] == "," and _blank(text, at + 1) < len(text):
            at += 1
            continue
        if text[at:] != "]":
            raise BadRow(f"a list of calls goes on with {text[at : at + 60]!r}")
        return calls


def _blank(text, at):
    return re.compile(r"\s*").match(text, at).end()


def _arguments(text, at):
    """({argument: value}, where the text goes on) after an opening parenthesis."""
    arguments = {}
    while not text.startswith(")", at := _blank(text, at)):
        equals = text.find("=", at)
        key = text[at:equals].strip() if equals >= 0 else ""
        if not re.fullmatch(r"[^\s()\[\]{}\"',=][^()\[\]{}\"',=\n]*", key):
            raise BadRow(f"an argument has no name: {text[at : at + 60]!r}")
        if key in arguments:
            raise BadRow(f"two arguments are named {key!r}")
        end = _end_of_value(text, equals + 1)
        arguments[key] = _literal(text[equals + 1 : end])
        at = end + (text[end] == ",")
    return arguments, at + 1


def _end_of_value(text, at):
    """Where the comma or parenthesis after a value stands."""
    open_brackets = []
    while token := TOKEN.search(text, at):
        char, at = token[0], token.end()
        if char in "\"'":
            string = STRING.match(text, token.start())
            if not string:
                break
            at = string.end()
        elif char in CLOSERS:
            open_brackets.append(CLOSERS[char])
        elif not open_brackets and char in ",)":
            return token.start()
        elif char != "," and (not open_brackets or open_brackets.pop() != char):
            break
    raise BadRow(f"a call does not end: {text[-60:]!r}")


def _literal(text):
    """The value of a Python literal, or of JSON (`true`), as JSON would hold it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            raise BadRow(f"an argument is no literal: {text.strip()[:60]!r}") from None
    try:
        return json.loads(json.dumps(found))  # tuples become lists; sets, bytes and complex numbers are refused
    except (ValueError, TypeError, RecursionError):
        raise BadRow(f"an argument is nothing that JSON holds: {text.strip()[:60]!r}") from None
