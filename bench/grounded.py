"""What grounding costs: a request's grammar, and masks along its call, beside the schema's own and enums of all spans.

    python bench/grounded.py
    python bench/grounded.py --outputs outputs      # and whole calls, by stage 03's model

Milliseconds to make the grammar of one request of 30 and of 500 words; microseconds a token for mask and accept along
valid calls of the templates, with the embedded model's tokenizer; milliseconds a call, one request at a time. All in
processor time. `ratio` is to the schema's own grammar, made once.
"""

import argparse
import copy
import time
from pathlib import Path
from statistics import median

from runs import Answerer

import tools as toolbox
from playground import grammar
from playground.data import templates
from playground.grammar.spans import Request
from playground.grammar.vocabulary import vocabulary_of
from playground.model import loading, prompting

REQUESTS, ROUNDS = 60, 5


def spans(request, tokenizer):
    found, stack = [], [(Request(request, vocabulary_of(tokenizer)).spans(), b"")]
    while stack:
        node, data = stack.pop()
        if node.ends() is not None:
            found.append(data.decode())
        stack += [(node.step(byte), data + bytes([byte])) for byte in node.bytes_after()]
    return found


def with_enums(tools, request, tokenizer):
    """The tools with an enum of all spans for every argument that is copied: what needs no grammar of its own."""
    tools, values = copy.deepcopy(tools), spans(request, tokenizer)
    for tool in tools.values():
        for schema in tool["parameters"]["properties"].values():
            if schema.pop("x-from", None):
                schema.clear()
                schema["enum"] = values
    return grammar.compile_schema(toolbox.call_schema(tools), tokenizer, True)


def seconds(work):
    took = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        work()
        took.append(time.process_time() - begin)
    return median(took)


def walk(compiled, ids):
    matcher = compiled.matcher()
    for left, token in zip(range(96, 0, -1), ids, strict=False):
        matcher.forbidden(left)
        matcher.accept(token)


def calls_by_model(output_dir, requests):
    answerer = Answerer(output_dir)
    took = {
        how: seconds(lambda how=how: [answerer([request], how, temperature=0.0) for request in requests])
        for how in ("constrained", "grounded")
    }
    for how, each in took.items():
        print(f"{how:24}{1000 * each / len(requests):8.0f} ms a call   ratio {each / took['constrained']:.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs", type=Path, help="an output folder with stage 03's model")
    options = parser.parse_args()
    tools, tokenizer = toolbox.load_tools(), loading.load_tokenizer(loading.EMBEDDED)
    compiled = grammar.compile_schema(toolbox.call_schema(tools), tokenizer, True)
    compiled.grounded("warm up")
    for words in (30, 500):
        request = " ".join(f"word{i}" for i in range(words - 1)) + " jo@fjord.no"
        mine = seconds(lambda request=request: compiled.grounded(request))
        theirs = seconds(lambda request=request: with_enums(tools, request, tokenizer)) if words == 30 else None
        enums = f", as enums of all spans {1000 * theirs:.0f}" if theirs else ""
        print(f"grammar of a request of {words} words: {1000 * mine:.2f} ms{enums}")
    records = list(templates.build_splits({"val": REQUESTS}, tools, 0)["val"])
    calls = [
        (row["prompt"].split("\n")[0], prompting.encode_completion(row["completion"], tokenizer)[:-1])
        for row in records
    ]
    tokens = sum(len(ids) for _, ids in calls)

    def along(grammars):
        for each, (_, ids) in zip(grammars, calls, strict=True):
            walk(each, ids)

    plain = seconds(lambda: along([compiled] * len(calls)))
    print(f"{'the schema alone':24}{1e6 * plain / tokens:8.0f} us a token   ratio 1.00")
    for name, make in (
        ("grounded", lambda r: compiled.grounded(r)),
        ("enums of all spans", lambda r: with_enums(tools, r, tokenizer)),
    ):
        fresh = [[make(request) for request, _ in calls] for _ in range(ROUNDS)]  # each is walked for the first time
        took = seconds(lambda fresh=fresh: along(fresh.pop()))
        print(f"{name:24}{1e6 * took / tokens:8.0f} us a token   ratio {took / plain:.2f}")
    if options.outputs:
        calls_by_model(options.outputs, [request for request, _ in calls])


if __name__ == "__main__":
    main()
