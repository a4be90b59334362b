"""Examples a second of stage 03's trainer, and of `SFTTrainer(model, SFTConfig())`, which anyone would write first.

    python bench/training.py --tokenizer ../shared/gpt2-tokenizer              # 200 records, 2 to 4 minutes on 2 cores

Both sides start from the same random weights in distilgpt2's shape (82 million), without dropout, and read the same
records as often, in batches of the same size, at the same learning rates, in bf16 where the machine has it. Losses are
on the records, measured alike after training. Steps are timed from the third on: the first ones set things up.
"""

import argparse
import importlib
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from datasets import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

sys.path.insert(0, str(Path(__file__).parents[1]))
import tools as toolbox
from playground.data import templates
from playground.model import loading
from playground.run import hardware, recipe, tracking

stage = importlib.import_module("03_finetune")
WARM_UP = 2  # steps
RECORDS, BATCH_SIZE = 200, 8  # SFTConfig's own batch size
# Both sides read the records once, as they are.
SETTINGS = [("sft.batch_size", BATCH_SIZE), ("sft.epochs", 1), ("sft.exchange_arguments", 0), ("sft.exchange_words", 0)]


class Clock(TrainerCallback):
    def __init__(self):
        self.ends = []

    def on_step_end(self, args, state, control, **_):
        self.ends.append(time.perf_counter())

    def seconds(self):
        """The mean of a step's."""
        return (self.ends[-1] - self.ends[WARM_UP - 1]) / (len(self.ends) - WARM_UP)


def save_base(tokenizer_folder, folder):
    """A model folder in distilgpt2's shape, with random weights, without dropout."""
    files = Path(tokenizer_folder)
    tokenizer = GPT2Tokenizer(vocab=str(files / "vocab.json"), merges=str(files / "merges.txt"))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(n_layer=6, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    GPT2LMHeadModel(config).save_pretrained(folder)


def plain_trainer(base, records, settings, folder):
    sft = recipe.for_model(settings, "sft", "hub")
    rows = [{"prompt": toolbox.format_prompt(r["prompt"]), "completion": f" {r['completion']}"} for r in records]
    config = SFTConfig(
        use_cpu=hardware.device() == "cpu",  # SFTConfig() asks for it where there is no GPU
        bf16=hardware.has_bf16(),  # its default is True, which took 109 seconds a step on a CPU without bf16
        output_dir=str(folder),
        report_to="none",
        learning_rate=sft["learning_rate"],
        lr_scheduler_type="cosine",
        warmup_steps=sft["warmup_ratio"],
        num_train_epochs=sft["epochs"],
    )
    model = GPT2LMHeadModel.from_pretrained(base)
    tokenizer = loading.load_tokenizer(base)
    return SFTTrainer(model, config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)


def stage_trainer(base, records, settings, folder):
    sft = recipe.for_model(settings, "sft", "hub")
    tokenizer, model = loading.load_tokenizer(base), loading.load_model(base, settings)
    nothing = [lambda *_: None] * 2  # to do after an epoch, and with a row of the log
    return stage.build_trainer(model, tokenizer, records, sft, settings, SimpleNamespace(path=folder), *nothing)


@torch.inference_mode()
def loss_on(model, records, tokenizer):
    """Mean cross-entropy (nats a token) of a model on the records' completions, in float32."""
    model, total, count = model.float().eval(), 0, 0
    for record in records:
        inputs = {key: torch.tensor([ids], device=model.device) for key, ids in stage.encode(record, tokenizer).items()}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        total += stage.completion_loss(model, inputs, tokens=1).item()
        count += int((inputs["labels"] != stage.IGNORE).sum())
    return total / count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True, help="a folder with GPT-2's vocab.json and merges.txt")
    options = parser.parse_args()
    settings = recipe.load(None, SETTINGS)
    records = list(templates.build_splits({"train": RECORDS}, toolbox.load_tools(), 0)["train"])
    # The plain one first: the stage's memory settings hold for the whole process.
    sides = {"SFTTrainer(model, SFTConfig())": plain_trainer, "03_finetune.py": stage_trainer}
    speeds, losses = [], []
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder, "base")
        save_base(options.tokenizer, base)
        for name, build in sides.items():
            trainer, clock = build(base, records, settings, Path(folder, build.__name__)), Clock()
            trainer.add_callback(clock)
            tracking.show_progress(trainer, {"loss": "loss"})  # otherwise its log would stand between the results
            trainer.train()
            speeds.append(BATCH_SIZE / clock.seconds())
            losses.append(loss_on(trainer.model, records, loading.load_tokenizer(base)))
            print(f"{name:32} {speeds[-1]:6.2f} examples/s   loss {losses[-1]:.3f}")
    print(f"ratio {speeds[1] / speeds[0]:.2f}, of the losses {losses[1] / losses[0]:.4f}")


if __name__ == "__main__":
    main()
