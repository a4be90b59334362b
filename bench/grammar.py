"""How fast is the grammar engine? Side by side with xgrammar and llguidance, in one process.

    python bench/grammar.py --tokenizer DIR          # a folder with GPT-2's vocab.json and merges.txt

For the default tools, 100 tools and 1,000 tools: milliseconds to compile, and microseconds a step to get the mask and
apply it to the logits, along valid calls. Each engine is measured twice; the first time is `cold`.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import llguidance.hf
import llguidance.torch
import numpy as np
import torch
import xgrammar
from transformers import GPT2Tokenizer

sys.path.insert(0, str(Path(__file__).parents[1]))
import tools as toolbox
from bench.generation import many_tools
from playground.data import templates
from playground.grammar import compile_schema

CALLS = 40


class Ours:
    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        compile_schema({"type": "string"}, tokenizer)  # reads the vocabulary, as the others do when they are made

    def compile(self, schema):
        return compile_schema(schema, self.tokenizer)

    def start(self, grammar):
        self.matcher = grammar.matcher()

    def mask(self, logits):
        logits.masked_fill_(self.matcher.forbidden(4096), float("-inf"))

    def accept(self, token):
        self.matcher.accept(token)


class XGrammar:
    def __init__(self, tokenizer):
        info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=len(tokenizer))
        self.compiler = xgrammar.GrammarCompiler(info, cache_enabled=False)
        self.bitmask = xgrammar.allocate_token_bitmask(1, len(tokenizer))

    def compile(self, schema):
        return self.compiler.compile_json_schema(
            json.dumps(schema), any_whitespace=False, separators=(", ", ": "), strict_mode=True
        )

    def start(self, grammar):
        self.matcher = xgrammar.GrammarMatcher(grammar)

    def mask(self, logits):
        self.matcher.fill_next_token_bitmask(self.bitmask)
        xgrammar.apply_token_bitmask_inplace(logits.unsqueeze(0), self.bitmask)

    def accept(self, token):
        self.matcher.accept_token(token)


class LLGuidance:
    def __init__(self, tokenizer):
        self.tokenizer = llguidance.hf.from_tokenizer(tokenizer)
        self.bitmask = llguidance.torch.allocate_token_bitmask(1, len(tokenizer))

    def compile(self, schema):
        separators = {"x-guidance": {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}}
        grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema | separators))
        return llguidance.LLMatcher(self.tokenizer, grammar)

    def start(self, grammar):
        self.matcher = grammar.deep_copy()

    def mask(self, logits):
        llguidance.torch.fill_next_token_bitmask(self.matcher, self.bitmask)
        llguidance.torch.apply_token_bitmask_inplace(logits.unsqueeze(0), self.bitmask)

    def accept(self, token):
        self.matcher.consume_token(token)


def call_to(name, tool):
    values = {"string": "Zürich (Altstadt)", "integer": 1984, "boolean": True}
    arguments = tool["parameters"]["properties"]
    args = {key: values.get(value.get("type")) or value["enum"][0] for key, value in arguments.items()}
    return {"tool": name, "args": args}


def measure(engine, schema, texts, tokenizer):
    """(seconds to compile, microseconds of each step along the texts)."""
    begin = time.perf_counter()
    grammar = engine.compile(schema)
    compiled, steps = time.perf_counter() - begin, []
    for text in texts:
        engine.start(grammar)
        for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
            logits = torch.zeros(len(tokenizer))
            begin = time.perf_counter()
            engine.mask(logits)
            steps.append(1e6 * (time.perf_counter() - begin))
            assert logits[token] == 0, f"{type(engine).__name__} does not accept {text}"
            engine.accept(token)
    return compiled, steps


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="a folder with vocab.json and merges.txt")
    folder = parser.parse_args().tokenizer
    tokenizer = GPT2Tokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
    engines = {"ours": Ours(tokenizer), "xgrammar": XGrammar(tokenizer), "llguidance": LLGuidance(tokenizer)}
    print(f"{'':22} {'':12} {'compile ms':>10} {'mean us':>9} {'p50':>9} {'p99':>9} {'steps':>8}")
    default = toolbox.load_tools()
    calls = [row["completion"] for row in templates.build_splits({"val": CALLS}, default, 0)["val"]]
    cases = {"the default tools": (default, calls)}
    for count in (100, 1000):
        tools = many_tools(count)
        calls = [toolbox.to_json(call_to(name, tools[name])) for name in list(tools)[:CALLS]]
        cases[f"{count:,} tools"] = tools, calls
    for label, (tools, texts) in cases.items():
        for name, engine in engines.items():
            for when, rounds in ((", cold", 1), ("", 3)):
                compiled, steps = measure(engine, toolbox.call_schema(tools), texts * rounds, tokenizer)
                print(
                    f"{label + when:22} {name:12} {1e3 * compiled:10.2f} {np.mean(steps):9.1f} "
                    f"{np.median(steps):9.1f} {np.quantile(steps, 0.99):9.1f} {len(steps):8}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
