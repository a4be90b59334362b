"""Examples a second of stage 03's trainer and of the script that anyone would write first, in one run.

    python bench/training.py --tokenizer ../shared/gpt2-tokenizer                 # 200 records, 3 minutes on 2 cores
    python bench/training.py --tokenizer ../shared/gpt2-tokenizer --records 500

All three sides start from the same random weights in distilgpt2's shape (82 million) and read the same records as
often, in batches of the same size, at the same learning rates. The first is `SFTTrainer(model, SFTConfig())`; the
second is the same on a model without dropout, as stage 03's is, so that the losses can be compared. Losses are on
the records, measured alike after training. Steps are timed from the third on: the first ones set things up.
"""

import argparse
import importlib
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import tools as toolbox
from playground.data import templates
from playground.model import loading
from playground.run import hardware, recipe

stage = importlib.import_module("03_finetune")
WARM_UP = 2  # steps
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}  # GPT-2's names


def save_base(tokenizer_folder, folder):
    """A model folder in distilgpt2's shape, with random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

    files = Path(tokenizer_folder)
    tokenizer = GPT2Tokenizer(vocab=str(files / "vocab.json"), merges=str(files / "merges.txt"))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(n_layer=6)).save_pretrained(folder)


def plain_trainer(base, records, sft, folder, **changes):
    """changes: to the model's configuration."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    rows = [{"prompt": toolbox.format_prompt(r["prompt"]), "completion": f" {r['completion']}"} for r in records]
    return SFTTrainer(
        AutoModelForCausalLM.from_pretrained(base, **changes),
        # On a machine without a GPU, SFTConfig() asks for use_cpu, and then computes in bf16.
        SFTConfig(use_cpu=hardware.device() == "cpu", output_dir=str(folder), report_to="none",
                  learning_rate=sft["learning_rate"], lr_scheduler_type="cosine", warmup_steps=sft["warmup_ratio"],
                  num_train_epochs=sft["epochs"]),
        train_dataset=Dataset.from_list(rows),
        processing_class=loading.load_tokenizer(base),
    )  # fmt: skip


def stage_trainer(base, records, sft, folder, settings):
    tokenizer, model = loading.load_tokenizer(base), loading.load_model(base, settings)
    nothing = [lambda *_: None] * 2  # to do after an epoch, and with a row of the log
    return stage.build_trainer(model, tokenizer, records, sft, settings, SimpleNamespace(path=folder), *nothing)


def measure(trainer, records, tokenizer):
    """{"examples/s", "tokens/s", "loss"} of a trainer that has not begun."""
    from transformers import TrainerCallback

    ends = []

    class Clock(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            ends.append(time.perf_counter())

    trainer.add_callback(Clock())
    trainer.train()
    seconds = (ends[-1] - ends[WARM_UP - 1]) / (len(ends) - WARM_UP)
    batch_size = trainer.args.per_device_train_batch_size
    tokens = sum(len(stage.encode(record, tokenizer)["input_ids"]) for record in records) / len(records)
    return {
        "examples/s": batch_size / seconds,
        "tokens/s": batch_size / seconds * tokens,
        "loss": loss_on(trainer.model.float().eval(), records, tokenizer),
    }


def loss_on(model, records, tokenizer):
    """Mean cross-entropy (nats a token) of a model on the records' completions, in float32."""
    from transformers import DataCollatorForSeq2Seq

    pad = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=stage.IGNORE)
    encoded = sorted((stage.encode(record, tokenizer) for record in records), key=lambda row: len(row["input_ids"]))
    total = count = 0
    with torch.inference_mode():
        for begin in range(0, len(encoded), 16):
            batch = pad(encoded[begin : begin + 16])
            learned = int((batch["labels"] != stage.IGNORE).sum())
            total, count = total + stage.completion_loss(model, batch).item() * learned, count + learned
    return total / count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True, help="a folder with GPT-2's vocab.json and merges.txt")
    parser.add_argument("--records", type=int, default=200)
    options = parser.parse_args()
    settings = recipe.load(
        None, [("sft.epochs", 1), ("sft.exchange_arguments", 0), ("sft.exchange_words", 0)]
    )  # all sides read the records as they are
    sft = recipe.sft_settings(settings, "hub")
    records = list(templates.build_splits({"train": options.records}, toolbox.load_tools(), 0)["train"])
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder, "base")
        save_base(options.tokenizer, base)
        tokenizer = loading.load_tokenizer(base)
        # The plain ones first: the stage's memory settings hold for the whole process.
        sides = {
            "SFTTrainer(model, SFTConfig())": lambda: plain_trainer(base, records, sft, Path(folder, "plain")),
            "the same without dropout": lambda: plain_trainer(
                base, records, sft, Path(folder, "undropped"), **NO_DROPOUT
            ),
            "03_finetune.py": lambda: stage_trainer(base, records, sft, Path(folder, "stage"), settings),
        }
        rows = {name: measure(make(), records, tokenizer) for name, make in sides.items()}
    for name, row in rows.items():
        print(f"{name:32} {row['examples/s']:6.2f} examples/s {row['tokens/s']:7.0f} tokens/s   loss {row['loss']:.3f}")
    *plain, ours = rows.values()
    for name, row in zip(rows, plain, strict=False):
        print(
            f"beside {name}: ratio {ours['examples/s'] / row['examples/s']:.2f}, "
            f"of the losses {ours['loss'] / row['loss']:.4f}"
        )


if __name__ == "__main__":
    main()
