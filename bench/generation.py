"""The project's generation loop beside Hugging Face's `model.generate`, and how its time grows.

    python bench/generation.py --sft outputs/03_finetune/model      # a minute on 2 cores

Greedy, the default tools, validation requests from the templates. First milliseconds a call, free and under the
grammar; there `generate` has the same masks, but asks the model for every token. `ratio` is how many times as fast ours
is. Then how much batches save, and whether they change a text. Then the exponent b of time ~ x^b as batch, new tokens
or tools grow (for tools, that of a token), by least squares on the logarithms: 1 is proportional, 0 is free.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import tools as toolbox
from playground.data import templates
from playground.grammar.processor import GrammarLogitsProcessor
from playground.model import decoding, generation, loading, prompting
from playground.run import recipe


def timed(work):
    """(seconds, what it returns) of the second time; the first sets things up."""
    work()
    begin = time.perf_counter()
    made = work()
    return time.perf_counter() - begin, made


def theirs(model, tokenizer, prompts, limit, grammar):
    """`model.generate` on one batch."""
    rows = [{"input_ids": prompting.encode_prompt(prompt, tokenizer)} for prompt in prompts]
    batch = tokenizer.pad(rows, return_tensors="pt")
    length = batch["input_ids"].shape[1]
    grammars = [grammar(prompt) for prompt in prompts] if grammar else []
    processors = [GrammarLogitsProcessor(grammars, length, limit)] if grammars else []
    settings = {"do_sample": False, "pad_token_id": tokenizer.pad_token_id, "logits_processor": processors}
    with torch.inference_mode():
        model.generate(**batch, max_new_tokens=limit, **settings)


def compare(model, tokenizer, prompts, grammar, settings):
    limit = settings["generate"]["max_new_tokens"]
    print(f"{'':20} {'ours':>10} {'generate':>10} {'ratio':>7}   ms a call")
    for batch_size, requests in ((1, 8), (32, 32)):
        for label, held_to in (("free", None), ("grammar", grammar)):
            ours = beside = 0
            for begin in range(0, requests, batch_size):
                some = prompts[begin : begin + batch_size]
                ours += timed(lambda: generation.generate(model, tokenizer, some, settings, grammar=held_to))[0]  # noqa: B023
                beside += timed(lambda: theirs(model, tokenizer, some, limit, held_to))[0]  # noqa: B023
            ms = 1000 / requests
            print(f"batch {batch_size:<2} {label:11} {ms * ours:10.1f} {ms * beside:10.1f} {beside / ours:7.2f}")


def batched(model, tokenizer, prompts, settings):
    """Free answers to template requests in one batch after the other, and one at a time."""
    took, texts = [], []
    for batch_size in (64, 1):
        settings["generate"]["batch_size"] = batch_size
        begin = time.perf_counter()
        texts.append([answer.text for answer in generation.generate(model, tokenizer, prompts, settings)])
        took.append(time.perf_counter() - begin)
    same = sum(one == other for one, other in zip(*texts, strict=True))
    ratio = took[1] / took[0]
    print(f"64 at a time {ratio:.1f} times as fast as one at a time, the same text for {same} of {len(prompts)}")


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


def growth(label, sizes, work, per_token=False):
    """Print the times of work(size), or of each of the tokens that it returns the number of, and their exponent."""
    runs = [timed(lambda: work(size)) for size in sizes]  # noqa: B023
    times = [took / tokens if per_token else took for took, tokens in runs]
    exponent = np.polyfit(np.log(sizes), np.log(times), 1)[0]
    digits = 2 if per_token else 0
    shown = ", ".join(f"{size}: {1000 * took:.{digits}f} ms" for size, took in zip(sizes, times, strict=True))
    print(f"{label:12} exponent {exponent:5.2f}   ({shown})")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sft", required=True, help="a fine-tuned embedded model's folder")
    folder = parser.parse_args().sft
    settings, tools = recipe.load(), toolbox.load_tools()
    tokenizer, model = loading.load_tokenizer(folder), loading.load_model(folder, settings)
    prompts = [row["prompt"] for row in templates.build_splits({"val": 200}, tools, 0)["val"]]

    def grammar(tools):
        return decoding.grammars_of_calls(tools, tokenizer, "constrained")

    compare(model, tokenizer, prompts, grammar(tools), settings)
    batched(model, tokenizer, prompts, settings)

    def write(rows, new_tokens, grammar=None, tokenizer=tokenizer):
        settings["generate"].update(batch_size=rows, max_new_tokens=new_tokens)
        answers = generation.generate(model, tokenizer, prompts[:1] * rows, settings, grammar=grammar)
        return sum(len(answer.token_ids) for answer in answers)

    endless = loading.load_tokenizer(folder)
    endless.eos_token = None  # so that every row runs to its limit
    growth("batch", (1, 4, 16, 64), lambda rows: write(rows, 32, tokenizer=endless))
    growth("new tokens", (32, 64, 128, 256), lambda new_tokens: write(8, new_tokens, tokenizer=endless))
    grammars = {count: grammar(many_tools(count)) for count in (1, 10, 100)}
    # Per token, because calls to other tools are of other lengths.
    growth("tools", tuple(grammars), lambda count: write(8, 96, grammar=grammars[count]), per_token=True)


if __name__ == "__main__":
    main()
