"""Stage 05: constrained decoding. The same models, but only tokens that keep the call valid, then right, may be chosen.

    python 05_constrained.py
    python 05_constrained.py --trace --prompt "What's the weather in Oslo?"
    python 05_constrained.py --schema any_schema.json --prompt "Ada Lovelace, born in 1815"

`masked_decoding` below is the whole loop; playground/grammar/ is the machine that knows which tokens may come next.

- *free*: the model writes what it likes;
- *constrained*: what it writes is valid under the tools' schemas;
- *grounded*: and arguments that a schema says are copied ("x-from": "request") are words of the request.

Writes outputs/05_constrained/: metrics.json, predictions.jsonl, trace.html (one request step by step), trace.jsonl,
manifest.json. Next: 06_dpo.py
"""

import time

import tools as toolbox
from playground.judge import scoring
from playground.model import decoding, generation, loading, prompting
from playground.report import tracing
from playground.run import artifacts, console, hardware, recipe
from playground.run.errors import UserError
from playground.run.files import read_json, read_records, write_json, write_jsonl

STAGE = "05_constrained"
TOP = 3  # tokens shown of those that the model would have liked most
WAYS = (*decoding.DECODINGS, "grounded, no jumps")


def add_flags(parser):
    flag = parser.add_argument
    flag("--prompt", help="one request; prints its call")
    flag("--schema", metavar="FILE", help="with --prompt: any JSON Schema, instead of the tools")
    flag("--trace", action="store_true", help="with --prompt: show each step, and write outputs/05_trace/trace.html")
    flag("--requests", dest="constrained.requests", type=int, help="how many test requests to compare on")


# ---- the idea


def masked_decoding(model, tokenizer, prompt_ids, matcher, max_new_tokens, watch=None):
    """Greedy decoding under a grammar: token ids, each of them the likeliest that the grammar allows.

    watch(logits, allowed, token, jumped): what to do at each step; logits and allowed (vocabulary,), jumped the token
    ids that were appended without asking the model.
    """
    import torch

    from playground.grammar.jump import jump

    ids = jump(matcher, tokenizer, [], max_new_tokens)  # {"tool": " has no alternative
    if watch and ids:
        watch(None, None, None, ids)
    while len(ids) < max_new_tokens and tokenizer.eos_token_id not in ids:
        with torch.inference_mode():
            logits = model(torch.tensor([prompt_ids + ids], device=model.device)).logits[0, -1, : len(tokenizer)]
        allowed = matcher.mask(max_new_tokens - len(ids)).to(logits.device)  # True where a token may come
        token = logits.masked_fill(~allowed, float("-inf")).argmax().item()
        ids.append(token)
        jumped = []
        if token != tokenizer.eos_token_id:
            matcher.accept(token)
            jumped = jump(matcher, tokenizer, ids, max_new_tokens - len(ids))
            ids += jumped
        if watch:
            watch(logits, allowed, token, jumped)
    return ids


# ---- one request, step by step


def trace(model, tokenizer, prompt, compiled, settings):
    """([{...} of each step], the text): what the model wanted, the mask removed, was chosen and was jumped over."""
    steps = []

    def watch(logits, allowed, token, jumped):
        step = {"chosen": "", "allowed": 1, "removed": 0.0, "wanted": [], "jumped": tokenizer.decode(jumped)}
        if logits is not None:
            probabilities = logits.float().softmax(dim=-1)
            step["chosen"], step["allowed"] = tokenizer.decode([token]), int(allowed.sum())
            step["removed"] = round(probabilities[~allowed].sum().item(), 4)
            step["wanted"] = [
                (tokenizer.decode([i]), round(probabilities[i].item(), 4)) for i in probabilities.topk(TOP).indices
            ]
        steps.append(step)

    limit = max(settings["generate"]["max_new_tokens"], compiled.start.tokens_missing)
    [prompt_ids] = generation.fit([prompting.encode_prompt(prompt, tokenizer)], model, limit)
    ids = masked_decoding(model, tokenizer, prompt_ids, compiled.matcher(), limit, watch)
    return steps, tokenizer.decode(ids, skip_special_tokens=True).strip()


def show_steps(steps):
    print(f"{'chosen':14} {'allowed':>7} {'removed':>8}   the model's own favourites")
    for step in steps:
        if step["wanted"]:
            wanted = ", ".join(f"{text!r} {share:.0%}" for text, share in step["wanted"])
            print(f"{step['chosen']!r:14} {step['allowed']:7} {step['removed']:8.1%}   {wanted}")
        if step["jumped"]:
            print(f"{'':14} {'jump':>7} {'':8}   {step['jumped']!r}")


def one_request(settings, options, tools):
    """Answer --prompt with the fine-tuned model: under the tools' grammar for it, or under that of --schema."""
    tokenizer, model, base = loading.load_checkpoint(settings, "03_finetune")
    with decoding.explain_ambiguity():
        if options.schema:
            schema = read_json(options.schema)
            compiled = decoding.grammar_of(schema, tokenizer, f"--schema {options.schema}").grounded(options.prompt)
        else:
            compiled = decoding.grammars_of_calls(tools, tokenizer, "grounded")(options.prompt)
        steps, text = trace(model, tokenizer, options.prompt, compiled, settings)
    if not options.trace:
        print(text)
        return
    show_steps(steps)
    with artifacts.stage(settings, "05_trace", base_model=base) as artifact:
        tracing.write(artifact.path, options.prompt, steps, text)
    print(f"{text}\nWritten: {artifact.final / 'trace.html'}")


# ---- free, constrained, grounded


def compare(name, model, tokenizer, requests, tools, settings):
    """Yield (decoding, completions, summary) of the test requests."""
    for way in WAYS if name == "sft" else decoding.DECODINGS:
        grammars = decoding.grammars_of_calls(tools, tokenizer, way.partition(",")[0])
        begin = time.time()
        completions = generation.generate(
            model, tokenizer, [row["prompt"] for row in requests], settings, temperature=0.0,
            progress=f"{name}, {way}", grammar=grammars, jump_ahead="no jumps" not in way,
        )  # fmt: skip
        seconds = (time.time() - begin) / len(requests)
        summary = scoring.summarize(scoring.judge(completions, requests, tools))
        passes = sum(completion.forward_passes for completion in completions) / len(requests)
        yield way, completions, {**summary, "forward_passes_per_call": passes, "seconds_per_call": seconds}


def main():
    settings, options = recipe.arguments(__doc__, add_flags)
    if (options.schema or options.trace) and options.prompt is None:
        raise UserError("--schema and --trace are about one request: give it with --prompt.")
    if options.prompt is None or options.trace:
        artifacts.lock(settings)
    names = ("test.jsonl", "tools.json")
    paths = [artifacts.require(settings["output_dir"], "02_create_dataset", name) for name in names]
    paths.append(artifacts.require(settings["output_dir"], "03_finetune"))
    tools = toolbox.load_tools(paths[1])
    if options.prompt is not None:
        one_request(settings, options, tools)
        return
    requests = read_records(paths[0])[: settings["constrained"]["requests"]]

    tokenizer, tuned, base = loading.load_checkpoint(settings, "03_finetune")
    untouched = loading.load_model(base["path"], settings)
    metrics, predictions, texts = {}, [], {}
    print(f"Asking {base['name']}, untouched and fine-tuned, {len(requests)} requests: free, constrained, grounded.\n")
    with artifacts.stage(settings, STAGE, inputs=paths, base_model=base, **hardware.placement(tuned)) as artifact:
        for name, model in (("base", untouched), ("sft", tuned)):
            for way, completions, summary in compare(name, model, tokenizer, requests, tools, settings):
                metrics.setdefault(name, {})[way] = summary
                texts[name, way] = [completion.text for completion in completions]
                predictions += [
                    {"model": name, "decoding": way, "id": row["id"], "output": completion.text}
                    for row, completion in zip(requests, completions, strict=True)
                ]
        same = sum(map(str.__eq__, texts["sft", "grounded"], texts["sft", "grounded, no jumps"])) / len(requests)
        metrics["same_text_with_and_without_jumps"] = same
        request = requests[0]["prompt"]
        compiled = decoding.grammars_of_calls(tools, tokenizer, "grounded")(request)
        steps, text = trace(tuned, tokenizer, request, compiled, settings)
        tracing.write(artifact.path, request, steps, text)
        write_jsonl(artifact / "predictions.jsonl", predictions)
        write_json(artifact / "metrics.json", metrics)

    print(f"One request, step by step:\n{request}\n")
    show_steps(steps)
    print(f"{text}\n\n{f'on {len(requests)} test requests':28}   valid    tool   exact  passes   s/call")
    for name in ("base", "sft"):
        for way, summary in metrics[name].items():
            print(
                f"{f'{name}, {way}':28} {summary['schema_validity']:7.1%} {summary['tool_accuracy']:7.1%} "
                f"{summary['exact_call']:7.1%} {summary['forward_passes_per_call']:7.1f} "
                f"{summary['seconds_per_call']:8.3f}"
            )
    print(f"The same text with and without jumps: {same:.1%} of the fine-tuned model's calls.")
    print(f"Written: {artifact.final}. Next: {console.command('06_dpo.py')}")


if __name__ == "__main__":
    console.run(main)
