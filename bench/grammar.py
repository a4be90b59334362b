"""How fast is the grammar engine? Side by side with xgrammar and llguidance, in one process.

    python bench/grammar.py --tokenizer DIR          # a folder with GPT-2's vocab.json and merges.txt
    python bench/grammar.py --tokenizer DIR --schemas function_calls.jsonl

For the default tools, 100 tools and 1,000 tools: seconds to compile, and microseconds a step to get the mask and apply
it to the logits, along valid calls. Each engine is measured twice and the second time counts: a server compiles once
and answers many times; the first time is `cold`. --schemas: the same for MaskBench's rows ({"schema", "tests"}).
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import tools as toolbox
from playground.grammar import compile_schema


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
        import xgrammar

        self.module = xgrammar
        info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=len(tokenizer))
        self.compiler = xgrammar.GrammarCompiler(info, cache_enabled=False)
        self.bitmask = xgrammar.allocate_token_bitmask(1, len(tokenizer))

    def compile(self, schema):
        return self.compiler.compile_json_schema(
            json.dumps(schema), any_whitespace=False, separators=(", ", ": "), strict_mode=True
        )

    def start(self, grammar):
        self.matcher = self.module.GrammarMatcher(grammar)

    def mask(self, logits):
        self.matcher.fill_next_token_bitmask(self.bitmask)
        self.module.apply_token_bitmask_inplace(logits.unsqueeze(0), self.bitmask)

    def accept(self, token):
        if not self.matcher.accept_token(token):
            raise ValueError(token)


class LLGuidance:
    def __init__(self, tokenizer):
        import llguidance
        import llguidance.hf
        import llguidance.torch

        self.module, self.tokenizer = llguidance, llguidance.hf.from_tokenizer(tokenizer)
        self.bitmask = llguidance.torch.allocate_token_bitmask(1, len(tokenizer))

    def compile(self, schema):
        separators = {"x-guidance": {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}}
        grammar = self.module.LLMatcher.grammar_from_json_schema(json.dumps(schema | separators))
        matcher = self.module.LLMatcher(self.tokenizer, grammar)
        if matcher.is_error():
            raise ValueError(matcher.get_error())
        return matcher

    def start(self, grammar):
        self.matcher = grammar.deep_copy()

    def mask(self, logits):
        self.module.torch.fill_next_token_bitmask(self.matcher, self.bitmask)
        self.module.torch.apply_token_bitmask_inplace(logits.unsqueeze(0), self.bitmask)

    def accept(self, token):
        if not self.matcher.consume_token(token):
            raise ValueError(token)


def many_tools(count):
    """`count` tools of one to four arguments, as OpenAI's `parameters`."""
    kinds = ({"type": "string"}, {"type": "integer"}, {"enum": ["celsius", "fahrenheit"]}, {"type": "boolean"})
    return {
        f"tool_{i}": {
            "name": f"tool_{i}",
            "parameters": {
                "type": "object",
                "properties": {f"argument_{j}": kinds[(i + j) % 4] for j in range(1 + i % 4)},
                "required": ["argument_0"],
            },
        }
        for i in range(count)
    }


def call_to(name, tool):
    values = {"string": "Zürich (Altstadt)", "integer": 1984, "boolean": True}
    arguments = tool["parameters"]["properties"]
    args = {key: values.get(value.get("type")) or value["enum"][0] for key, value in arguments.items()}
    return {"tool": name, "args": args}


def measure(engine, schema, texts, tokenizer):
    """(seconds to compile, microseconds of each step); steps of texts that the engine does not accept are left out."""
    begin = time.perf_counter()
    grammar = engine.compile(schema)
    compiled, steps = time.perf_counter() - begin, []
    for text in texts:
        own = []
        engine.start(grammar)
        try:
            for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
                logits = torch.zeros(len(tokenizer))
                begin = time.perf_counter()
                engine.mask(logits)
                own.append(1e6 * (time.perf_counter() - begin))
                if logits[token] != 0:
                    raise ValueError(token)
                engine.accept(token)
        except ValueError:
            continue
        steps += own
    return compiled, steps


def row(name, label, compiled, steps):
    ordered = sorted(steps)
    print(
        f"{label:22} {name:12} {1e3 * compiled:10.2f} {statistics.mean(steps):9.1f} {statistics.median(steps):9.1f} "
        f"{ordered[int(0.99 * len(ordered))]:9.1f} {len(steps):8}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True, help="a folder with vocab.json and merges.txt")
    parser.add_argument("--schemas", help="MaskBench rows, JSONL")
    options = parser.parse_args()
    from transformers import GPT2Tokenizer

    folder = Path(options.tokenizer)
    tokenizer = GPT2Tokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
    engines = {"ours": Ours(tokenizer), "xgrammar": XGrammar(tokenizer), "llguidance": LLGuidance(tokenizer)}
    print(f"{'':22} {'':12} {'compile ms':>10} {'mean us':>9} {'p50':>9} {'p99':>9} {'steps':>8}")
    default = toolbox.load_tools()
    cases = {"the default tools": default, "100 tools": many_tools(100), "1,000 tools": many_tools(1000)}
    for label, tools in cases.items():
        calls = [call_to(name, tool) for name, tool in list(tools.items())[:40]]
        texts = [toolbox.to_json(call) for call in calls]
        for name, engine in engines.items():
            row(name, f"{label}, cold", *measure(engine, toolbox.call_schema(tools), texts, tokenizer))
            row(name, label, *measure(engine, toolbox.call_schema(tools), texts * 3, tokenizer))
    if options.schemas:
        rows = [json.loads(line) for line in Path(options.schemas).read_text(encoding="utf-8").splitlines()]
        for name, engine in engines.items():
            compiled, steps, refused = [], [], 0
            for case in rows:
                texts = [toolbox.to_json(test["data"]) for test in case["tests"] if test["valid"]]
                try:
                    seconds, own = measure(engine, case["schema"], texts, tokenizer)
                except (ValueError, RuntimeError):
                    refused += 1
                    continue
                compiled.append(seconds)
                steps += own
            row(name, f"{len(rows)} real schemas", statistics.mean(compiled), steps)
            print(f"{'':22} {name:12} {refused} refused")


if __name__ == "__main__":
    main()
