"""What is there for preferences to teach: are samples right where the greedy answer is not, and is the checker?

    python bench/samples.py --output-dir outputs

After 02 and 03. Of the fine-tuned model, on the test, with `dpo.unlabelled_samples` at `dpo.temperature`: how often the
greedy answer, a sample, the sample that the checker likes best, and any sample at all is exact; and in how many of the
pairs that 06_dpo.py would make of these requests, had they no labels, the chosen and the rejected call are exact.
"""

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import tools as toolbox
from playground.judge import scoring
from playground.judge.checking import Checker
from playground.run import artifacts, console, recipe
from playground.run.files import read_records

dpo = importlib.import_module("06_dpo")


def main():
    settings, _ = recipe.arguments(__doc__)
    paths = {
        name: artifacts.require(settings["output_dir"], "02_create_dataset", name)
        for name in ("train.jsonl", "test.jsonl", "tools.json")
    }
    train, test = (read_records(paths[name]) for name in ("train.jsonl", "test.jsonl"))
    tools = toolbox.load_tools(paths["tools.json"])
    artifacts.require(settings["output_dir"], "03_finetune")

    from playground.model import generation, loading

    tokenizer, model, _ = loading.load_start(settings, "03_finetune", paths["tools.json"])
    checker = Checker(train, tools)

    def exact(text, record):
        return scoring.score(text.strip(), record["completion"], tools)["exact_call"]

    greedy = generation.generate(model, tokenizer, [record["prompt"] for record in test], settings)
    counts = {"greedy answer": sum(exact(answer.text, record) for answer, record in zip(greedy, test, strict=True)),
              "first sample": 0, "best sample": 0, "any sample": 0}  # fmt: skip
    pairs = []
    each, temperature = settings["dpo"]["unlabelled_samples"], settings["dpo"]["temperature"]
    drawn = dpo.draw_samples(model, tokenizer, test, each, settings, temperature, "sampling")
    for record, samples in drawn:
        said = [sample.text.strip() for sample in samples]
        liked = max(said, key=lambda text: (sum(checker.check(text, record["prompt"]).values()), said.count(text)))
        right = [exact(text, record) for text in said]
        counts["first sample"] += right[0]
        counts["best sample"] += exact(liked, record)
        counts["any sample"] += any(right)
        for pair in dpo.rank_samples(record, samples, checker):
            pairs.append([exact(pair[side], record) for side in ("chosen", "rejected")])
    for name, count in counts.items():
        print(f"{name:<15} exact in {count / len(test):.1%}")
    chosen, rejected = (sum(side) for side in zip(*pairs, strict=True))
    print(f"{len(pairs)} pairs: the chosen call is exact in {chosen:.0f}, the rejected one in {rejected:.0f}.")


if __name__ == "__main__":
    console.run(main)
