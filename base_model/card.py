"""Measure the embedded base model as it is saved, and write its model card.

    python base_model/card.py --corpus DIR --out base_model

DIR is the corpus that pretrain.py read; the numbers are of its held-out documents.
"""

import argparse
import json
import math
from pathlib import Path

import torch
from corpus import choose, read_documents, token_stream
from pretrain import held_out_loss, probe
from transformers import AutoModelForCausalLM, AutoTokenizer

OPENINGS = ("The weather", "User: I would like", "In the morning the old man", "A function that returns", "My name is")


def sample(model, tokenizer, opening):
    """How the model goes on: 40 tokens at temperature 0.7."""
    ids = torch.tensor([tokenizer(opening)["input_ids"]])
    torch.manual_seed(0)
    output = model.generate(ids, max_new_tokens=40, do_sample=True, temperature=0.7, pad_token_id=0)
    return " ".join(tokenizer.decode(output[0], skip_special_tokens=True).split())


def card(model, tokenizer, options):
    documents = read_documents(options.corpus)
    held_out = token_stream(choose(documents, documents, 1, seed=0), tokenizer)
    loss, probes = held_out_loss(model, held_out), probe(model, tokenizer, held_out)
    history = json.loads(Path(options.out, "history.json").read_text())
    sources = Path(options.corpus, "README.md").read_text(encoding="utf-8")
    table = "\n".join(line for line in sources.splitlines() if line.startswith("|"))
    parameters = sum(p.numel() for p in model.parameters())
    ends = [row for row, later in zip(history, [*history[1:], {}], strict=True) if row["phase"] != later.get("phase")]
    lines = [
        "---", "license: cc-by-sa-4.0", "language: en", "pipeline_tag: text-generation", "---",
        "# The embedded base model", "",
        f"A teaching model: a Llama of {parameters / 1e6:.1f} million parameters with a byte-level BPE vocabulary "
        f"of {len(tokenizer):,}, so that the tutorial runs offline on a laptop's CPU. It writes English-looking "
        "text, knows nothing, and should be used for nothing else. It has seen plain text and exercises: copying parts "
        "of it, finding a part again by what stands around it, and numbers and sums in words and in signs. It has seen "
        "no tool call, and nothing made from the tutorial's templates or tests.", "",
        "## How it was made", "",
        "`base_model/pretrain.py`, 2.6 billion tokens in bf16 autocast. It explains itself. These weights were made "
        "on an H100, in four runs of two, nine, six and twelve minutes, and in 29 minutes on 2 cores: with six "
        "layers, the first three phases, the mix being 250 steps; with `--start`, 1,440 steps of mix and 12,960 of "
        "recall, with more text than now and fewer kinds of lessons; 6,000 steps of recall, the first half of "
        "12,000; and 1,200 of 8,192 tokens, instead of 65,536, in which the learning rate fell from 6e-4 to zero. "
        "Then, with two layers more and all of today's lessons, 19,146 steps of recall, the rate falling from 2e-3 "
        "to zero by the clock. A new run will differ. "
        "The phases ended at:", "",
        "| phase | step | held-out loss (nats a token) | copying 12 random tokens |", "|---|---|---|---|",
        *(f"| {row['phase']} | {row['step']} | {row['held_out']:.2f} | {row['random, 12 tokens']:.2f} |"
          for row in ends), "",
        "## What it can do", "",
        f"Held-out perplexity {math.exp(loss):.1f} a token ({loss:.2f} nats), on documents of the same sources. "
        "Copying: loss (nats a token) on the second saying of a span after a few other words, but for its first "
        "token, which nothing tells:", "",
        "| span | loss |", "|---|---|", *(f"| {name} | {value:.2f} |" for name, value in probes.items()), "",
        "Five samples at temperature 0.7:", "",
        *(f"> {sample(model, tokenizer, opening)}\n" for opening in OPENINGS),
        "## What it read", "", table, "",
        "The text itself is not part of this project. E-mail addresses in it had been replaced by made-up ones.", "",
    ]  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(options.out, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(options.out)
    Path(options.out, "README.md").write_text(card(model, tokenizer, options), encoding="utf-8")
