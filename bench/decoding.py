"""Seconds a call: free decoding, Hugging Face's `generate` under xgrammar, and ours, in one process.

    python bench/decoding.py --sft outputs/03_finetune/model
    python bench/decoding.py --tokenizer DIR --sft ...     # also on distilgpt2's shape

One request at a time, greedy, the default tools. `ratio` is how many times as fast ours is. distilgpt2's shape begins
with random weights and is shown templates for STEPS steps first, until its calls look like calls; where its free text
ends still says nothing of a model that has learned, so that writes as many tokens as ours.
"""

import argparse
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import tools as toolbox
from playground.data import templates
from playground.model import decoding, generation, loading, prompting
from playground.run import recipe

REQUESTS, STEPS = 20, 250


def distilgpt2_shape(tokenizer, tools):
    """82 M parameters that have learned, from random weights, little more than what a call looks like."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(n_layer=6, vocab_size=len(tokenizer), bos_token_id=50256, eos_token_id=50256)
    config._attn_implementation = "eager"
    model = GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    texts = [
        prompting.encode_prompt(row["prompt"], tokenizer) + prompting.encode_completion(row["completion"], tokenizer)
        for row in templates.build_splits({"train": 8 * STEPS}, tools, 0)["train"]
    ]
    for step in range(STEPS):
        rows = texts[8 * step : 8 * step + 8]
        width = max(map(len, rows))
        ids = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows])
        labels = torch.tensor([row + [-100] * (width - len(row)) for row in rows])
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    print(f"distilgpt2's shape: loss {loss.item():.2f} after {STEPS} steps of 8 records")
    return model.eval()


def timed(answer, prompts):
    """(seconds a call, tokens of each); the first request is answered once before: nothing is set up in the measure."""
    answer(prompts[0])
    begin = time.perf_counter()
    tokens = [len(answer(prompt)) for prompt in prompts]
    return (time.perf_counter() - begin) / len(prompts), tokens


def measure(label, model, tokenizer, prompts, tools, settings, free_as_long):
    """free_as_long: free text has as many tokens as ours, wherever it would end."""
    import xgrammar
    from xgrammar.contrib.hf import LogitsProcessor

    schema = toolbox.call_schema(tools)
    grammars = {how: decoding.grammars_of_calls(tools, tokenizer, how) for how in ("constrained", "grounded")}
    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=len(tokenizer))
    theirs = xgrammar.GrammarCompiler(info).compile_json_schema(schema, any_whitespace=False, separators=(", ", ": "))

    def ours_of(prompt, how="constrained"):
        ours = grammars[how]
        return generation.generate(model, tokenizer, [prompt], settings, grammar=ours, temperature=0.0)[0].token_ids

    def generate(prompt, processors=(), **length):
        ids = torch.tensor([prompting.encode_prompt(prompt, tokenizer)])
        length = {"max_new_tokens": settings["generate"]["max_new_tokens"]} | length
        with torch.inference_mode():
            made = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **length,
                                  pad_token_id=tokenizer.eos_token_id, logits_processor=list(processors))  # fmt: skip
        return made[0, ids.shape[1] :]

    ours_took, written = timed(ours_of, prompts)
    lengths = dict(zip(prompts, written, strict=True)) if free_as_long else {}

    def free(prompt):
        fixed = {"min_new_tokens": lengths[prompt], "max_new_tokens": lengths[prompt]} if lengths else {}
        return generate(prompt, **fixed)

    measured = {
        "ours, constrained": (ours_took, written),
        "ours, grounded": timed(lambda prompt: ours_of(prompt, "grounded"), prompts),
        "free generate": timed(free, prompts),
        "generate, xgrammar": timed(lambda prompt: generate(prompt, [LogitsProcessor(theirs)]), prompts),
    }
    for name, (took, tokens) in measured.items():
        print(
            f"{label:24} {name:22} {1000 * took:8.1f} ms and {sum(tokens) / len(tokens):5.1f} tokens a call   "
            f"ratio {took / ours_took:.2f}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sft", required=True, help="a fine-tuned embedded model's folder")
    parser.add_argument("--tokenizer", help="a folder with GPT-2's vocab.json and merges.txt")
    options = parser.parse_args()
    settings, tools = recipe.load(), toolbox.load_tools()
    records = list(templates.build_splits({"val": REQUESTS}, tools, 0)["val"])
    prompts = [record["prompt"] for record in records]
    tokenizer, model = loading.load_tokenizer(options.sft), loading.load_model(options.sft, settings)
    measure("embedded, fine-tuned", model, tokenizer, prompts, tools, settings, free_as_long=False)
    if options.tokenizer:
        from transformers import GPT2Tokenizer

        folder = Path(options.tokenizer)
        gpt2 = GPT2Tokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
        gpt2.pad_token = gpt2.eos_token
        shape = distilgpt2_shape(gpt2, tools)
        measure("distilgpt2's shape", shape, gpt2, prompts, tools, settings, free_as_long=True)


if __name__ == "__main__":
    main()
