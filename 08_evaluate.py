"""Stage 08: what did each technique add? Every model, free and constrained, on the held-out test.

    python 08_evaluate.py

The test's phrasings and entities occur in no training record. Every model there is (base, SFT, DPO, PPO)
answers all of it twice, greedily: free, and under the grammar of the tools. The numbers come with 95%
intervals (bootstrap over requests), because on a few hundred requests two models a point apart are the same.

Writes outputs/08_evaluate/: report.md, exact_call.png, metrics.json, predictions.jsonl, manifest.json.
"""

import time

import tools as toolbox
from playground import artifacts, recipe, scoring, statistics

STAGE = "08_evaluate"
MODELS = {"sft": "03_finetune", "dpo": "06_dpo", "ppo": "07_ppo"}
SHOWN = {
    "schema valid": "schema_validity",
    "right tool": "tool_accuracy",
    "arguments": "argument_accuracy",
    "exact call": "exact_call",
    "executes right": "execution_success",
    "answer's facts": "response_quality",
}


def find_models(output_dir):
    """[(name, stage)] of the models there are, the base first; says which stages have not run."""
    artifacts.require(output_dir, MODELS["sft"])
    found = [("base", None)]
    for name, stage in MODELS.items():
        if (artifacts.Path(output_dir) / stage / "manifest.json").exists():
            found.append((name, stage))
        else:
            print(f"{stage} has not run: {name} is left out.")
    return found


def with_intervals(scores, seconds, samples):
    """metrics.json's form: {metric: {"value", "low", "high"}} with n and the seconds a call took."""
    cell = {"n": len(scores)}
    for metric in scoring.METRICS:
        values = [row[metric] for row in scores if row[metric] is not None]
        cell[metric] = statistics.interval(values, samples)
    return {**cell, "seconds_per_call": seconds / len(scores)}


def as_table(grid):
    """The grid as a Markdown table, and the same without intervals for the terminal."""
    from playground import report

    def cell(metrics, key, interval):
        value = metrics[key]
        if value is None:
            return "-"
        text = f"{value['value']:.1%}"
        return f"{text} ({value['low']:.1%} to {value['high']:.1%})" if interval else text

    tables = []
    for interval in (True, False):
        rows = [
            {"": name if decoding == "free" else f"{name}, {decoding}",
             **{column: cell(metrics, key, interval) for column, key in SHOWN.items()},
             "ms a call": f"{1000 * metrics['seconds_per_call']:.0f}"}
            for name, decodings in grid.items() for decoding, metrics in decodings.items()
        ]  # fmt: skip
        tables.append(report.table(rows, ["", *SHOWN, "ms a call"]))
    return tables


def write_report(path, table, failures, settings, base, n):
    lines = [
        "# What each technique adds",
        "",
        f"{n} held-out requests, greedy decoding, base model {base['name']}, seed {settings['seed']}. "
        "In parentheses: 95% intervals, bootstrap over requests.",
        "",
        table,
        "",
        "![exact calls](exact_call.png)",
        "",
        "## How the wrong outputs are wrong",
        "",
        "| | kind | requests |",
        "|---|---|---|",
        *(
            f"| {name} | {kind} | {count} |"
            for (name, kind), count in sorted(failures.items(), key=lambda item: (item[0][0], -item[1]))
        ),
        "",
    ]
    path.write_text("\n".join(lines), encoding="utf-8")


def main():
    settings, _ = recipe.arguments(__doc__)
    output_dir = settings["output_dir"]
    paths = [artifacts.require(output_dir, "02_create_dataset", name) for name in ("test.jsonl", "tools.json")]
    records, tools = artifacts.read_records(paths[0]), toolbox.load_tools(paths[1])
    found = find_models(output_dir)
    inputs = [*paths, *(artifacts.require(output_dir, stage) for _, stage in found if stage)]

    from playground import generation, grammar, models, report

    grid, predictions, failures = {}, [], {}
    prompts = [row["prompt"] for row in records]
    with artifacts.stage(settings, STAGE, inputs=inputs) as artifact:
        for name, stage in found:
            tokenizer, model, base = models.load_checkpoint(settings, stage or MODELS["sft"])
            if stage is None:
                tokenizer, model = models.load_tokenizer(base["path"]), models.load_model(base["path"], settings)
            compiled = grammar.compile_schema(toolbox.call_schema(tools), tokenizer, leading_space=True)
            for decoding, constraint in (("free", None), ("constrained", compiled)):
                begin = time.time()
                completions = generation.generate(
                    model, tokenizer, prompts, settings, grammar=constraint, progress=f"{name}, {decoding}"
                )
                seconds = time.time() - begin
                scores = scoring.judge(completions, records, tools)
                samples = settings["evaluate"]["bootstrap_samples"]
                grid.setdefault(name, {})[decoding] = with_intervals(scores, seconds, samples)
                for row, completion, score in zip(records, completions, scores, strict=True):
                    predictions.append({"model": name, "decoding": decoding, "id": row["id"], "prompt": row["prompt"],
                                        "output": completion.text, "failure": score["failure"]})  # fmt: skip
                    if score["failure"]:
                        key = (f"{name}, {decoding}", score["failure"])
                        failures[key] = failures.get(key, 0) + 1
        markdown, plain = as_table(grid)
        artifacts.write_json(artifact / "metrics.json", {"splits": {"test": grid}})
        artifacts.write_jsonl(artifact / "predictions.jsonl", predictions)
        report.plot_bars(
            artifact / "exact_call.png",
            {
                decoding: {name: cells[decoding]["exact_call"] for name, cells in grid.items()}
                for decoding in ("free", "constrained")
            },
            "exact calls on the test",
        )
        write_report(artifact / "report.md", markdown, failures, settings, base, len(records))
        artifact.facts.update(base_model=base, device=str(model.device))

    print(f"\n{len(records)} held-out requests, greedy:\n\n{plain}\n")
    print(f"Report: {artifact.final / 'report.md'}")


if __name__ == "__main__":
    artifacts.run(main)
