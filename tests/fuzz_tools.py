"""Fuzz what reads a model's output, for a minute, after `pip install atheris`:

    python tests/fuzz_tools.py -max_total_time=60 -timeout=1

Any exception but a ParseError is a finding, and so is a second without an answer.
"""

import json
import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))
with atheris.instrument_imports(include=["tools"]):
    import tools as toolbox

TOOLS = toolbox.load_tools()
TOKENS = "1 9 0.5 1e-300 1000000000 + - * / // % ** ( ) , abs( round( sqrt( min( max(".split()


def answer_any_text(data):
    """The first byte says what the rest is: tokens of arithmetic, any tool's arguments, or all of a model's text."""
    text, kind = data[1:].decode("utf-8", "surrogateescape"), data[0] % 8 if data else 7
    if kind == 0:
        text = "".join(TOKENS[byte % len(TOKENS)] for byte in data[1:])
    if kind <= len(TOOLS):
        tool = TOOLS["calculator"] if kind == 0 else list(TOOLS.values())[kind - 1]
        call = {"tool": tool["name"], "args": dict.fromkeys(tool["parameters"]["required"], text)}
        text = json.dumps(call)
    try:
        call = toolbox.parse_call(text)
    except toolbox.ParseError:
        return
    result = toolbox.execute(call, TOOLS)
    assert isinstance(result, dict)
    json.dumps(result, ensure_ascii=False, allow_nan=False).encode("utf-8")


atheris.Setup(sys.argv, answer_any_text)
atheris.Fuzz()
