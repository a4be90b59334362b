"""Stage 01: ask the untouched base model for tool calls, and see how rarely it makes one.

    python 01_baseline.py

It is asked with the plain prompt that every later stage uses, and with a few-shot prompt that names the tools and shows
worked examples. A base model does not know that a call ends where the line ends: only its first line is judged.

Writes outputs/01_baseline/: metrics.json, predictions.jsonl, manifest.json. Next: 02_create_dataset.py
"""

import tools as toolbox
from playground.data import sources
from playground.judge import scoring
from playground.model import generation, loading, prompting
from playground.run import artifacts, console, hardware, recipe
from playground.run.errors import UserError
from playground.run.files import write_json, write_jsonl

POOL = 500  # training records that examples are picked from
SHOWN = 4  # answers of each kind that are printed in full


def add_flags(parser):
    parser.add_argument("--requests", dest="baseline.requests", type=int, help="how many test requests to ask")


def verdict(text, tools):
    """ "Yes", or "No" with the reason, as a person would want it."""
    try:
        call = toolbox.parse_call(text)
    except toolbox.ParseError as error:
        return f"No ({error.kind})"
    errors = toolbox.validate_call(call, tools)
    return f"No ({errors[0]})" if errors else "Yes"


def show(row):
    print(f"INPUT:  {row['prompt']}\nOUTPUT: {row['output'] or '(nothing)'}\nVALID:  {row['valid']}\n")


def main():
    settings, _ = recipe.arguments(__doc__, add_flags)
    artifacts.lock(settings)
    dataset = sources.build(settings)

    base = loading.find_base(settings["model"]["name"])
    tokenizer, model = loading.load(base["path"], settings)
    tools, splits = dataset.tools, dataset.splits
    first_turns = [row for row in splits["test"] if toolbox.last_result(row["prompt"]) is None]
    requests = first_turns[: settings["baseline"]["requests"]]
    if not requests:
        raise UserError(f"{dataset.source}: no test record is a first request: give some without results.")
    shown = splits["train"][:POOL]
    examples = prompting.pick_examples(shown, settings["baseline"]["shots"], settings["seed"])
    print(f"Asking {base['name']} {len(requests)} requests, plain and with {len(examples)} examples before each.\n")

    predictions, metrics = [], {}
    with artifacts.stage(settings, "01_baseline", base_model=base, **hardware.placement(model)) as artifact:
        for kind in ("plain", "few_shot"):
            prompts = [row["prompt"] for row in requests]
            if kind == "few_shot":
                prompts = [prompting.few_shot(prompt, examples, tools, tokenizer) for prompt in prompts]
            completions = generation.generate(model, tokenizer, prompts, settings, progress=kind)
            scores = []
            for row, completion in zip(requests, completions, strict=True):
                output = completion.text.strip().partition("\n")[0]
                scores.append(scoring.score(output, row["completion"], tools))
                predictions.append(
                    {"kind": kind, "id": row["id"], "prompt": row["prompt"], "output": output,
                     "valid": verdict(output, tools), "failure": scores[-1]["failure"]}
                )  # fmt: skip
            metrics[kind] = scoring.summarize(scores)
            print(f"--- {kind.replace('_', '-')} prompt ---\n")
            for row in predictions[-len(requests) :][:SHOWN]:
                show(row)
        metrics = {**metrics["plain"], "few_shot": metrics["few_shot"]}
        write_jsonl(artifact / "predictions.jsonl", predictions)
        write_json(artifact / "metrics.json", metrics)

    plain, shots = metrics["schema_validity"], metrics["few_shot"]["schema_validity"]
    print(f"Valid calls: {plain:.1%} with the plain prompt, {shots:.1%} with examples in the prompt.")
    print(f"Written: {artifact.final}. Next: {console.command('02_create_dataset.py')}")


if __name__ == "__main__":
    console.run(main)
