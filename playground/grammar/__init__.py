"""Constrained decoding: JSON Schema and a tokenizer in, token masks out.

    grammar = compile_schema(schema, tokenizer)
    matcher = grammar.matcher()
    matcher.mask(tokens_left)     # which tokens may come next
    matcher.accept(token_id)      # one of them came
    matcher.forced()              # the text that is the only way on, if there is one

A schema (schema.py, merging.py) becomes a graph of nodes (nodes.py), some of which are automata (dfa.py, patterns.py,
numbers.py, formats.py). A text is read by frames of them (frames.py), and the sorted vocabulary (vocabulary.py) is
walked through the frames (masks.py). Nothing here imports the rest of the project.
"""

from playground.grammar.frames import TooManyWays
from playground.grammar.masks import BudgetTooSmall, Grammar, Matcher, compile_schema
from playground.grammar.unsupported import UnsupportedSchema

__all__ = ["BudgetTooSmall", "Grammar", "Matcher", "TooManyWays", "UnsupportedSchema", "compile_schema"]
