"""Pairs a second of stage 06's trainer and of TRL's DPOTrainer with its defaults, in one run.

    python bench/dpo.py

Both start from the embedded base model and read the same 240 pairs once, in batches of the recipe's size. Timed is all
of `train()`: stage 06 asks the reference before the first step, TRL's default in every step. The losses are not
compared, because stage 06 adds the chosen completion's own.
"""

import importlib
import json
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parents[1]))
import tools as toolbox
from playground.data import templates
from playground.model import loading, prompting
from playground.run import hardware, recipe

stage = importlib.import_module("06_dpo")
PAIRS = 240


def pairs_of(tokenizer):
    """Pairs of a record's call and another record's to the same tool."""
    records = list(templates.build_splits({"train": 4 * PAIRS}, toolbox.load_tools(), 0)["train"])
    by_tool, pairs = {}, []
    for row in records:
        tool = json.loads(row["completion"])["tool"]
        other = by_tool.get(tool)
        by_tool[tool] = row
        if other and other["completion"] != row["completion"] and len(pairs) < PAIRS:
            ids = prompting.encode_completion(other["completion"], tokenizer)
            pairs.append({"prompt": row["prompt"], "chosen": row["completion"], "rejected": other["completion"],
                          "rejected_ids": ids})  # fmt: skip
    return pairs


def plain_trainer(pairs, settings, folder):
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer

    rows = [{"prompt": toolbox.format_prompt(pair["prompt"]),
             "chosen": f" {pair['chosen']}", "rejected": f" {pair['rejected']}"} for pair in pairs]  # fmt: skip
    return DPOTrainer(
        AutoModelForCausalLM.from_pretrained(loading.EMBEDDED),
        args=DPOConfig(output_dir=str(folder), use_cpu=hardware.device() == "cpu", report_to="none", num_train_epochs=1,
                       per_device_train_batch_size=settings["dpo"]["batch_size"]),
        train_dataset=Dataset.from_list(rows),
        processing_class=loading.load_tokenizer(loading.EMBEDDED),
    )  # fmt: skip


def measure(trainer):
    begin = time.perf_counter()
    trainer.train()
    return PAIRS / (time.perf_counter() - begin)


def main():
    settings = recipe.load(None, [("dpo.epochs", 1)])
    tokenizer = loading.load_tokenizer(loading.EMBEDDED)
    pairs = pairs_of(tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        # The plain one first: the stage's memory settings hold for the whole process.
        plain = measure(plain_trainer(pairs, settings, Path(folder, "plain")))
        model = loading.load_model(loading.EMBEDDED, settings)
        artifact = SimpleNamespace(path=Path(folder, "stage"))  # what the trainer wants of one
        sft = recipe.sft_settings(settings, "embedded")
        ours = measure(stage.build_trainer(model, tokenizer, pairs, sft, settings, artifact, lambda *_: None))
    for name, speed in {"DPOTrainer(model, DPOConfig())": plain, "06_dpo.py": ours}.items():
        print(f"{name:32} {speed:6.2f} pairs/s")
    print(f"ratio {ours / plain:.2f}")


if __name__ == "__main__":
    main()
