"""Stage 05: constrained decoding. The same models, but only tokens that keep the call valid may be chosen.

    python 05_constrained.py
    python 05_constrained.py --trace --prompt "What's the weather in Oslo?"
    python 05_constrained.py --schema any_schema.json --prompt "Ada Lovelace, born in 1815"

A call that must be valid JSON for a known schema can be read by a machine that knows, after every token, which ones
may come next. All others are given probability zero before one is chosen. The model still decides everything that the
schema leaves open. That is the whole idea, and `masked_decoding` below is the whole loop; playground/grammar/ is the
machine. Two things make it fit for use:

- *It knows how much is missing.* A token is allowed only if the text can be completed with the tokens that are left
  after it, so a call is never cut off: it is valid at any budget that is large enough for the shortest call.
- *It jumps ahead.* After `{"tool": "g` only `et_weather", "args": {"city": "` can follow, so that is appended without
  asking the model, in the tokens that the tokenizer would make of the whole text.

What it cannot do is make the model right: a valid call to the wrong tool is still wrong. So the stage compares free
and constrained decoding, for the base model and for the fine-tuned one, on validity *and* on exactness.

Writes outputs/05_constrained/: metrics.json, predictions.jsonl, trace.html (one request step by step), trace.jsonl,
manifest.json. Next: 06_dpo.py
"""

import time

import tools as toolbox
from playground import artifacts, prompting, recipe, scoring

STAGE = "05_constrained"
TOP = 3  # tokens shown of those that the model would have liked most


def add_flags(parser):
    flag = parser.add_argument
    flag("--prompt", help="one request; prints its call")
    flag("--schema", metavar="FILE", help="with --prompt: any JSON Schema, instead of the tools")
    flag("--trace", action="store_true", help="with --prompt: show each step, and write outputs/05_trace/trace.html")
    flag("--requests", dest="constrained.requests", type=int, help="how many test requests to compare on")


# ---- the idea


def masked_decoding(model, tokenizer, prompt_ids, matcher, max_new_tokens):
    """Greedy decoding under a grammar, the smallest way: one forward pass and one mask for each token."""
    import torch

    ids = []
    for tokens_left in range(max_new_tokens, 0, -1):
        logits = model(torch.tensor([prompt_ids + ids])).logits[0, -1, : len(tokenizer)]
        logits[~matcher.mask(tokens_left)] = float("-inf")  # the mask is True where a token may come
        token = logits.argmax().item()
        if token == tokenizer.eos_token_id:
            break
        matcher.accept(token)
        ids.append(token)
    return ids


# ---- the same with everything to look at


def traced_decoding(model, tokenizer, prompt_ids, matcher, max_new_tokens):
    """([{...} of each step], token ids): what the model wanted, the mask removed, was chosen and was jumped over."""
    import torch

    from playground.grammar.jump import jump

    steps, ids = [], []

    def leap():
        run = jump(matcher, tokenizer, ids, max_new_tokens - len(ids))
        ids.extend(run)
        return tokenizer.decode(run)

    opening = leap()
    if opening:
        steps.append({"chosen": "", "allowed": 1, "removed": 0.0, "wanted": [], "jumped": opening})
    while len(ids) < max_new_tokens and tokenizer.eos_token_id not in ids:
        with torch.inference_mode():
            logits = model(torch.tensor([prompt_ids + ids], device=model.device)).logits[0, -1, : len(tokenizer)]
        probabilities = torch.softmax(logits.float().cpu(), dim=-1)
        mask = matcher.mask(max_new_tokens - len(ids))
        wanted = [(tokenizer.decode([i]), round(probabilities[i].item(), 4)) for i in probabilities.topk(TOP).indices]
        token = probabilities.masked_fill(~mask, -1).argmax().item()
        ids.append(token)
        if token != tokenizer.eos_token_id:
            matcher.accept(token)
        steps.append(
            {
                "chosen": tokenizer.decode([token]),
                "allowed": int(mask.sum()),
                "removed": round(probabilities[~mask].sum().item(), 4),
                "wanted": wanted,
                "jumped": "" if token == tokenizer.eos_token_id else leap(),
            }
        )
    return steps, ids


def show_steps(steps):
    print(f"{'chosen':14} {'allowed':>7} {'removed':>8}   the model's own favourites")
    for step in steps:
        if step["wanted"]:
            wanted = ", ".join(f"{text!r} {share:.0%}" for text, share in step["wanted"])
            print(f"{step['chosen']!r:14} {step['allowed']:7} {step['removed']:8.1%}   {wanted}")
        if step["jumped"]:
            print(f"{'':14} {'jump':>7} {'':8}   {step['jumped']!r}")


# ---- one request


def one_request(settings, options, tools):
    """Answer --prompt with the fine-tuned model: under the tools' grammar, or under that of --schema."""
    from playground import generation, models, page

    tokenizer, model, base = models.load_checkpoint(settings, "03_finetune")
    if options.schema:
        compiled = generation.grammar_of(artifacts.read_json(options.schema), tokenizer, f"--schema {options.schema}")
    else:
        compiled = generation.grammar_of_calls(tools, tokenizer)
    if not options.trace:
        print(generation.generate(model, tokenizer, [options.prompt], settings, grammar=compiled)[0].text.strip())
        return
    limit = max(settings["generate"]["max_new_tokens"], compiled.start.tokens_missing)
    [prompt_ids] = generation.fit([prompting.encode_prompt(options.prompt, tokenizer)], model, limit)
    steps, ids = traced_decoding(model, tokenizer, prompt_ids, compiled.matcher(), limit)
    text = tokenizer.decode(ids, skip_special_tokens=True).strip()
    show_steps(steps)
    with artifacts.stage(settings, "05_trace", base_model=base) as artifact:
        page.write_trace(artifact.path, options.prompt, steps, text)
    print(f"{text}\nWritten: {artifact.final / 'trace.html'}")


# ---- free against constrained


def compare(name, model, tokenizer, requests, tools, settings, compiled):
    """Yield (decoding, completions, summary) of the test requests: free, constrained, and without jumping ahead."""
    from playground import generation

    prompts = [row["prompt"] for row in requests]
    ways = {"free": {}, "constrained": {"grammar": compiled}}
    ways["constrained, no jumps"] = {"grammar": compiled, "jump_ahead": False}
    for decoding, how in ways.items():
        begin = time.time()
        completions = generation.generate(
            model, tokenizer, prompts, settings, temperature=0.0, progress=f"{name}, {decoding}", **how
        )
        seconds = (time.time() - begin) / len(requests)
        summary = scoring.summarize(scoring.judge(completions, requests, tools))
        passes = sum(completion.forward_passes for completion in completions) / len(requests)
        yield decoding, completions, {**summary, "forward_passes_per_call": passes, "seconds_per_call": seconds}


def main():
    settings, options = recipe.arguments(__doc__, add_flags)
    if (options.schema or options.trace) and options.prompt is None:
        raise artifacts.UserError("--schema and --trace are about one request: give it with --prompt.")
    if options.prompt is None:
        artifacts.lock(settings)
    names = ("test.jsonl", "tools.json")
    paths = [artifacts.require(settings["output_dir"], "02_create_dataset", name) for name in names]
    paths.append(artifacts.require(settings["output_dir"], "03_finetune"))
    tools = toolbox.load_tools(paths[1])
    if options.prompt is not None:
        one_request(settings, options, tools)
        return
    requests = artifacts.read_records(paths[0])[: settings["constrained"]["requests"]]

    from playground import generation, models, page

    tokenizer, tuned, base = models.load_checkpoint(settings, "03_finetune")
    untouched = models.load_model(base["path"], settings)
    compiled = generation.grammar_of_calls(tools, tokenizer)
    metrics, predictions, texts = {}, [], {}
    print(f"Asking {base['name']}, untouched and fine-tuned, {len(requests)} requests, free and constrained.\n")
    with artifacts.stage(settings, STAGE, inputs=paths, base_model=base, **models.placement(tuned)) as artifact:
        for name, model in (("base", untouched), ("sft", tuned)):
            for decoding, completions, summary in compare(name, model, tokenizer, requests, tools, settings, compiled):
                metrics.setdefault(name, {})[decoding] = summary
                texts[name, decoding] = [completion.text for completion in completions]
                predictions += [
                    {"model": name, "decoding": decoding, "id": row["id"], "output": completion.text}
                    for row, completion in zip(requests, completions, strict=True)
                ]
        with_jumps, without = texts["sft", "constrained"], texts["sft", "constrained, no jumps"]
        same = sum(map(str.__eq__, with_jumps, without)) / len(requests)
        metrics["same_text_with_and_without_jumps"] = same
        limit = settings["generate"]["max_new_tokens"]
        [prompt_ids] = generation.fit([prompting.encode_prompt(requests[0]["prompt"], tokenizer)], tuned, limit)
        steps, ids = traced_decoding(tuned, tokenizer, prompt_ids, compiled.matcher(), limit)
        text = tokenizer.decode(ids, skip_special_tokens=True).strip()
        page.write_trace(artifact.path, requests[0]["prompt"], steps, text)
        artifacts.write_jsonl(artifact / "predictions.jsonl", predictions)
        artifacts.write_json(artifact / "metrics.json", metrics)

    print(f"One request, step by step:\n{requests[0]['prompt']}\n")
    show_steps(steps)
    print(f"{text}\n\n{f'on {len(requests)} test requests':28}   valid    tool   exact  passes   s/call")
    for name in ("base", "sft"):
        for decoding, summary in metrics[name].items():
            print(f"{f'{name}, {decoding}':28} {summary['schema_validity']:7.1%} {summary['tool_accuracy']:7.1%} "
                  f"{summary['exact_call']:7.1%} {summary['forward_passes_per_call']:7.1f} "
                  f"{summary['seconds_per_call']:8.3f}")  # fmt: skip
    print(f"The same text with and without jumps: {same:.1%} of the fine-tuned model's calls.")
    print(f"Written: {artifact.final}. Next: {artifacts.command('06_dpo.py')}")


if __name__ == "__main__":
    artifacts.run(main)
