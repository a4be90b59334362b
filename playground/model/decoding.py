"""What a model may write: anything, a valid call, or a call whose arguments come from the request."""

import contextlib
import functools
import re

import tools as toolbox
from playground.run.errors import UserError

DECODINGS = ("free", "constrained", "grounded")


def grammar_of(schema, tokenizer, place):
    """The Grammar (playground.grammar) of what a model is to write: values of a JSON schema, spaced as in training.

    Raises UserError for a schema that the grammar cannot promise to meet, naming `place`, where it is from.
    """
    from playground import grammar

    try:
        return grammar.compile_schema(schema, tokenizer, leading_space=not tokenizer.chat_template)
    except grammar.UnsupportedSchema as error:
        raise UserError(f"{place}: {error}; change the schema, or decode freely.") from None


@contextlib.contextmanager
def explain_ambiguity():
    """A block in which a schema whose values can be read in too many ways at once is a UserError."""
    from playground.grammar import TooManyWays

    try:
        yield
    except TooManyWays as error:
        raise UserError(f"the schema is too ambiguous: {error}; give it fewer alternatives.") from None


def grammars_of_calls(tools, tokenizer, decoding):
    """For `generation.generate`: a prompt's Grammar as a function of the prompt; None for free decoding.

    A call is to one of `tools`, and where the prompt lists tools to one of those, or to `respond`. Grounded, arguments
    that a schema says are copied ("x-from": "request") are words of what the user has said; a tool whose argument
    the user has not given is left out. Raises UserError for a schema that the grammar does not know.
    """
    if decoding == "free":
        return None

    @functools.lru_cache(maxsize=1000)
    def compiled(names):
        schema = toolbox.call_schema({name: tools[name] for name in names})
        return grammar_of(schema, tokenizer, "the tools' schemas")

    def of_prompt(prompt):
        found = compiled(listed(prompt, tools))
        return found if decoding == "constrained" else found.grounded(toolbox.said_by_user(prompt))

    compiled(tuple(tools))  # raises at once what would otherwise be raised in the middle
    return of_prompt


def listed(prompt, tools):
    """The names of the tools that a prompt lists, and `respond`; all where it lists none."""
    line = next((line for line in prompt.split("\n")[1:] if line.startswith("Tools: ")), None)
    if line is None:
        return tuple(tools)
    signed = {name for name in tools if re.search(rf"(?<!\S){re.escape(name)}\(", line)}
    return tuple(name for name in tools if name in signed or name == "respond")
