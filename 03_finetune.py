"""Stage 03: supervised fine-tuning (SFT). Show the model requests with the right calls until it makes them.

    python 03_finetune.py
    python 03_finetune.py --epochs 5 --learning-rate 1e-3
    python 03_finetune.py --lora
    accelerate launch --config_file configs/accelerate/gpus.yaml 03_finetune.py    # see docs/scaling.md

The loss is cross-entropy on the completion only, the end-of-sequence token included. Labels are made from lengths:
masking every padding token, where that is the end-of-sequence token, gives a model that never learns to stop.

After each epoch, or after about six of them where there are more, the model answers the validation requests for real
(greedy, free), and the one with the most exact calls is kept. Killed and started again, it goes on from its last epoch.

Writes outputs/03_finetune/: the model, metrics.json, log.jsonl, loss.png, manifest.json. Next: 04_inference.py
"""

import random
import time
from functools import partial

from playground.data.augment import Exchange
from playground.judge import evaluation
from playground.model import generation, loading, prompting, weights
from playground.report import training
from playground.run import artifacts, console, hardware, parallel, recipe, tracking
from playground.run.errors import UserError
from playground.run.files import write_json

STAGE = "03_finetune"
VALIDATIONS = 6  # about so many, evenly spaced, but no more than epochs
IGNORE = -100  # the label that cross-entropy skips


def add_flags(parser):
    parser.add_argument("--epochs", dest="sft.epochs", type=float, help="passes over the training records")
    parser.add_argument("--learning-rate", dest="sft.learning_rate", type=float, help="peak learning rate")
    parser.add_argument("--batch-size", dest="sft.batch_size", type=int, help="records per optimizer step")
    parser.add_argument("--lora", dest="model.use_lora", action="store_true", default=None, help="train adapters only")


def encode(record, tokenizer):
    """input_ids and labels of a record: the prompt is read, the completion and end of sequence are learned."""
    prompt = prompting.encode_prompt(record["prompt"], tokenizer)
    completion = prompting.encode_completion(record["completion"], tokenizer)
    return {"input_ids": prompt + completion, "labels": [IGNORE] * len(prompt) + completion}


def completion_loss(model, inputs, tokens=None):
    """Cross-entropy (nats) on the completions of a batch that is padded on the left, over the number of `tokens`.

    tokens: those of a whole optimizer step, where the batch is a part of it. Padded on the left, all completions stand
    at the right edge, and logits are made for those columns only: on a CPU the logits of a large vocabulary cost as
    much as the model's layers.
    """
    import torch.nn.functional as F

    labels, attention_mask = inputs["labels"], inputs["attention_mask"]
    longest = int((labels != IGNORE).sum(dim=1).max())
    logits = model(
        input_ids=inputs["input_ids"],
        attention_mask=attention_mask,
        **generation.positions(model, attention_mask, attention_mask.shape[1]),
        use_cache=False,
        logits_to_keep=longest + 1,  # the column before a completion predicts its first token
    ).logits  # (records, longest + 1, vocabulary)
    labels = labels[:, labels.shape[1] - longest :].flatten()
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels, ignore_index=IGNORE, reduction="sum")
    return loss / ((labels != IGNORE).sum() if tokens is None else tokens)


def build_trainer(model, tokenizer, records, sft, settings, artifact, after_epoch, log):
    """TRL's SFTTrainer with the loss above; after_epoch(epoch, model or its average) is called when one is done."""
    from datasets import Dataset
    from transformers import DataCollatorForSeq2Seq
    from trl import SFTConfig, SFTTrainer

    from playground.model.muon import MuonAdamW

    # The largest part of a batch that fits and divides it; the parts' gradients are added up.
    at_once = next(n for n in range(sft["micro_batch_size"], 0, -1) if sft["batch_size"] % n == 0)
    exchange = Exchange(records, sft["exchange_arguments"], sft["exchange_words"])
    # In widths of a few sizes, the memory of one step fits the next, and fewer matrix products need setting up.
    pad = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORE, pad_to_multiple_of=8)

    def collate(rows):
        # Python's own random numbers, because the trainer keeps their state in its checkpoints.
        changed = [encode(exchange(row, random), tokenizer) for row in rows]
        fits = [len(row["input_ids"]) <= sft["max_length"] for row in changed]  # other words may have more tokens
        batch = [new if fit else encode(row, tokenizer) for row, new, fit in zip(rows, changed, fits, strict=True)]
        # One of several processes takes a share of the batch, or a record of which it learns nothing.
        return pad(parallel.share(batch) or [{**batch[0], "labels": [IGNORE] * len(batch[0]["labels"])}])

    class CompletionTrainer(parallel.WholeBatches, SFTTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            # Here rather than by the trainer, which would compute the validation's answers in bf16 too.
            with hardware.half_precision(self.args.device.type):
                return parallel.size() * completion_loss(model, inputs, num_items_in_batch)  # gradients are averaged

    average = weights.averaging(model, sft["average_from"], artifact.path, after_epoch)
    arguments = SFTConfig(
        output_dir=str(artifact.path),
        seed=settings["seed"],
        num_train_epochs=sft["epochs"],
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=sft["batch_size"] // at_once,
        learning_rate=sft["learning_rate"],
        lr_scheduler_type="constant_with_warmup" if sft["average_from"] < 1 else "cosine",
        warmup_steps=sft["warmup_ratio"],  # below 1, a share of all steps
        weight_decay=sft["weight_decay"],
        bf16=False,  # but for the loss, above
        train_sampling_strategy="group_by_length" if sft["group_by_length"] else "random",
        remove_unused_columns=False,
        logging_steps=1,  # a mean over several steps would start anew where a run is resumed
        **hardware.trainer_settings(model),
    )
    muon = (
        MuonAdamW(model, sft["learning_rate"], sft["weight_decay"], hardware.fast_dtype())
        if sft["optimizer"] == "muon"
        else None
    )
    trainer = CompletionTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list([{**record, **encode(record, tokenizer)} for record in records]),
        processing_class=tokenizer,
        data_collator=collate,
        callbacks=[average, tracking.callback(log)],
        optimizers=(muon, None),
    )
    trainer.model_accepts_loss_kwargs = True  # so that it counts a step's tokens, whatever model this is
    tracking.show_progress(trainer, {"loss": "loss"})
    return trainer


def main():
    settings, _ = recipe.arguments(__doc__, add_flags)
    artifacts.lock(settings)
    paths, train, validation, tools = artifacts.dataset(settings["output_dir"])

    base = loading.find_base(settings["model"]["name"])
    sft = recipe.for_model(settings, "sft", base["kind"])
    if sft["optimizer"] == "muon" and parallel.shares_weights():
        raise UserError("Muon needs whole matrices, and FSDP shares them out: add --set sft.optimizer=adamw.")
    tokenizer, model = loading.load(base["path"], settings)
    lengths = [len(encode(record, tokenizer)["input_ids"]) for record in train]
    max_length = sft["max_length"] = min(sft["max_length"], loading.longest(model) or sft["max_length"])
    records = [record for record, length in zip(train, lengths, strict=True) if length <= max_length]
    if len(records) < len(train):
        print(f"{len(train) - len(records)} of {len(train)} records are longer than {max_length} tokens and left out.")
    if not records:
        raise UserError(f"no record has {max_length} tokens or fewer: raise sft.max_length or take another model.")
    if settings["model"]["use_lora"]:
        model = weights.add_lora(model, settings)
    print(f"Fine-tuning {base['name']} on {len(records)} records, on {model.device}: {sft['epochs']:g} epochs,")
    print(f"batches of {sft['batch_size']}, learning rate {sft['learning_rate']}.")

    every = max(1, round(sft["epochs"] / VALIDATIONS))
    asked = validation[: sft["validation_requests"]]
    validate = partial(evaluation.validate, tokenizer=tokenizer, records=asked, tools=tools, settings=settings)
    with (
        artifacts.stage(settings, STAGE, inputs=paths.values(), resume=True, base_model=base) as artifact,
        tracking.tracker(settings, artifact) as log,
        hardware.explain_oom("sft.micro_batch_size", sft["micro_batch_size"]),
    ):
        validations = artifact.resumed("validations.json", [])
        if not validations:
            validations.append({"epoch": 0, **validate(model)})
            weights.save(model, artifact / "model")  # kept where no epoch is better
            log({"validation": validations[0]}, 0)

        def after_epoch(epoch, model):
            if epoch % every and epoch < sft["epochs"]:
                return
            row = {"epoch": epoch, **validate(model)}
            validations[:] = [v for v in validations if v["epoch"] < epoch]  # killed between this and a checkpoint
            print(f"\nepoch {epoch}: {row['exact_call']:.0%} of {row['n']} validation requests exact")
            if row["exact_call"] >= max(v["exact_call"] for v in validations):
                weights.save(model, artifact / "model")
                row["kept"] = True
            validations.append(row)
            log({"validation": row}, trainer.state.global_step)
            write_json(artifact / "validations.json", validations)

        trainer = build_trainer(model, tokenizer, records, sft, settings, artifact, after_epoch, log)
        begin = time.time()
        trainer.train(resume_from_checkpoint=artifacts.last_checkpoint(artifact.path))
        seconds = time.time() - begin
        if not parallel.is_main():
            return
        tokenizer.save_pretrained(artifact / "model")

        losses = [dict(sorted(row.items())) for row in trainer.state.log_history if "loss" in row]
        best = max(validations, key=lambda row: (row["exact_call"], row["epoch"]))
        tokens = sum(length for length in lengths if length <= max_length) * sft["epochs"]
        training.write(artifact, model, losses, validations, best, seconds, tokens)

    print(f"{training.sentence(validations[0], best, seconds)} Epoch {best['epoch']} is kept.")
    print(f"Written: {artifact.final}. Next: {console.command('04_inference.py')}")


if __name__ == "__main__":
    console.run(main, in_parallel=True)
