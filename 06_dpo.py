"""Stage 06: direct preference optimization (DPO, arXiv:2305.18290). Learn from one's own mistakes.

    python 06_dpo.py

SFT shows the model what is right, but never what is wrong. Here the fine-tuned model answers training
requests several times, with sampling; where an answer is wrong, it is paired with the right one. For requests
that nobody has labelled (rl.jsonl) a checker ranks the samples instead: a call that is valid, executes and takes
its arguments from the request is better than one that is not. Checking is cheaper than labelling. DPO then
raises the probability of the chosen completion over the rejected one, relative to the model it started from
(the reference), with no reward model and no sampling during training:

    loss = -log sigmoid(beta * [(log p(chosen) - log p_ref(chosen)) - (log p(rejected) - log p_ref(rejected))])

DPO alone is content when both probabilities fall and the rejected one falls faster, so the chosen
completion's own negative log-likelihood is added to the loss.

Writes outputs/06_dpo/: pairs.jsonl, the model, metrics.json, log.jsonl, dpo.png, manifest.json. Next: 07_ppo.py
"""

import collections
import random
import time

import tools as toolbox
from playground import artifacts, checking, recipe, scoring, tracking
from playground.artifacts import UserError

STAGE = "06_dpo"


def draw_samples(model, tokenizer, rows, settings, progress):
    """Yield (row, completions): `dpo.samples` sampled answers to each request."""
    from playground import generation

    count, temperature = settings["dpo"]["samples"], settings["dpo"]["temperature"]
    prompts = [row["prompt"] for row in rows for _ in range(count)]
    completions = generation.generate(model, tokenizer, prompts, settings, temperature=temperature, progress=progress)
    for i, row in enumerate(rows):
        yield row, completions[i * count : (i + 1) * count]


def mine_pairs(model, tokenizer, records, tools, settings):
    """Preference pairs from the model's own samples: at most one for each request and kind of mistake."""
    pairs = {}
    for record, samples in draw_samples(model, tokenizer, records, settings, "sampling mistakes"):
        for sample, judged in zip(samples, scoring.judge(samples, [record] * len(samples), tools), strict=True):
            if judged["failure"]:
                pairs.setdefault(
                    (record["id"], judged["failure"]),
                    {"id": record["id"], "kind": judged["failure"], "prompt": record["prompt"],
                     "chosen": record["completion"], "rejected": sample.text, "rejected_ids": sample.token_ids},
                )  # fmt: skip
    return list(pairs.values())


def rank_samples(model, tokenizer, requests, tools, settings):
    """Preference pairs for requests without labels: a sample without fault that another repeats, over the worst one."""
    pairs = []
    for row, samples in draw_samples(model, tokenizer, requests, settings, "samples without labels"):
        checks = [checking.label_free(sample.text, row["prompt"], tools) for sample in samples]
        faultless = collections.Counter(
            sample.text.strip() for sample, check in zip(samples, checks, strict=True) if min(check.values()) == 1
        )
        worst = min(range(len(samples)), key=lambda j: sum(checks[j].values()))
        if faultless and faultless.most_common(1)[0][1] > 1 and min(checks[worst].values()) < 1:
            fault = next(name for name, value in checks[worst].items() if value < 1)
            pairs.append(
                {"id": row["id"], "kind": f"without label: not {fault}", "prompt": row["prompt"],
                 "chosen": faultless.most_common(1)[0][0], "rejected": samples[worst].text,
                 "rejected_ids": samples[worst].token_ids},
            )  # fmt: skip
    return pairs


def encode(pair, tokenizer):
    """The token ids that DPOTrainer wants. The rejected ones are those that the model really sampled."""
    return {
        "prompt_ids": toolbox.encode_prompt(pair["prompt"], tokenizer),
        "chosen_ids": toolbox.encode_completion(pair["chosen"], tokenizer),
        "rejected_ids": pair["rejected_ids"],
    }


def build_trainer(model, tokenizer, pairs, settings, artifact):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from playground import models

    class EncodedDPOTrainer(DPOTrainer):
        def _prepare_dataset(self, dataset, *_):
            return dataset  # encoded above, by the rules that generation follows

        def create_model_card(self, *args, **kwargs):
            pass  # TRL's own would name neither model nor data, and list its tags in another order each time

    dpo = settings["dpo"]
    arguments = DPOConfig(
        output_dir=str(artifact.path),
        seed=settings["seed"],
        num_train_epochs=dpo["epochs"],
        per_device_train_batch_size=dpo["batch_size"],
        learning_rate=dpo["learning_rate"],
        beta=dpo["beta"],
        loss_type=["sigmoid", "sft"],  # DPO's loss, and the chosen completion's negative log-likelihood
        loss_weights=[1.0, dpo["nll_weight"]],
        precompute_ref_log_probs=True,  # the reference never changes, so it is asked once
        max_length=None,
        use_cpu=model.device.type == "cpu",
        bf16=models.has_bf16(),
        activation_checkpointing=False,
        save_strategy="epoch",
        save_total_limit=1,
        logging_steps=2,
        report_to="none",
        dataloader_pin_memory=False,
    )
    return EncodedDPOTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_list([encode(pair, tokenizer) for pair in pairs]),
        processing_class=tokenizer,
    )  # fmt: skip


def main():
    settings, _ = recipe.arguments(__doc__)
    artifacts.lock(settings)
    paths = {name: artifacts.require(settings["output_dir"], "02_create_dataset", name)
             for name in ("train.jsonl", "val.jsonl", "tools.json")}  # fmt: skip
    train, validation = artifacts.read_records(paths["train.jsonl"]), artifacts.read_records(paths["val.jsonl"])
    tools = toolbox.load_tools(paths["tools.json"])
    pool = artifacts.read_requests(settings["output_dir"])
    sft_manifest = artifacts.require(settings["output_dir"], "03_finetune")

    from playground import generation, models, report

    tokenizer, model, base = models.load_checkpoint(settings, "03_finetune")

    def validate():
        completions = generation.generate(model.eval(), tokenizer, [row["prompt"] for row in validation], settings)
        return scoring.summarize(scoring.judge(completions, validation, tools))

    inputs = [*paths.values(), sft_manifest]
    train, pool = (generation.leave_out_long(rows, tokenizer, model, settings) for rows in (train, pool))
    with (
        artifacts.stage(settings, STAGE, inputs=inputs, resume=True, base_model=base) as artifact,
        tracking.tracker(settings, artifact) as log,
        models.in_memory("dpo.batch_size", settings["dpo"]["batch_size"]),
    ):
        pairs = artifact.resumed("pairs.json", None)
        if pairs is None:
            pairs = mine_pairs(model, tokenizer, train[: settings["dpo"]["requests"]], tools, settings)
            pairs += rank_samples(model, tokenizer, pool[: settings["dpo"]["unlabelled"]], tools, settings)
            random.Random(settings["seed"]).shuffle(pairs)
            pairs = pairs[: settings["dpo"]["max_pairs"]]
            artifacts.write_json(artifact / "pairs.json", pairs)
        if not pairs:
            raise UserError("the model made no mistake on its training requests: raise dpo.temperature or dpo.samples.")
        kinds = collections.Counter(pair["kind"] for pair in pairs)
        print(f"{len(pairs)} pairs: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()))
        before = validate()
        begin = time.time()
        trainer = build_trainer(model, tokenizer, pairs, settings, artifact)
        trainer.add_callback(tracking.callback(log))
        trainer.train(resume_from_checkpoint=artifacts.last_checkpoint(artifact.path))
        seconds = time.time() - begin
        after = validate()
        model.save_pretrained(artifact / "model")
        tokenizer.save_pretrained(artifact / "model")
        tokens = sum(len(ids) for pair in pairs for ids in encode(pair, tokenizer).values())
        artifacts.write_json(artifact / "metrics.json", {
            "pairs": dict(kinds),
            "validation_before": before,
            "validation_after": after,
            "train_seconds": seconds,
            "tokens_per_second": tokens * settings["dpo"]["epochs"] / seconds,
            "peak_memory_mb": models.peak_memory_mb(),
        })  # fmt: skip
        rows = [row for row in trainer.state.log_history if "loss" in row]
        artifacts.write_jsonl(artifact / "log.jsonl", rows)
        artifacts.write_jsonl(artifact / "pairs.jsonl", pairs)
        (artifact / "pairs.json").unlink()
        report.plot_curves(artifact / "dpo.png", {
            name: [(row["step"], row[key]) for row in rows if key in row]
            for name, key in (("loss", "loss"), ("margin of chosen over rejected", "rewards/margins"),
                              ("log p(chosen)", "logps/chosen"), ("log p(rejected)", "logps/rejected"))
        }, "step")  # fmt: skip
        artifact.facts.update(device=str(model.device), dtype="bfloat16 autocast" if models.has_bf16() else "float32")

    helped = after["exact_call"] > before["exact_call"]
    print(f"Exact calls on validation: {before['exact_call']:.1%} before, {after['exact_call']:.1%} after, "
          f"in {seconds:.0f} s." + ("" if helped else " DPO did not help here."))  # fmt: skip
    print(f"Written: {artifact.final}. Next: python 07_ppo.py")


if __name__ == "__main__":
    artifacts.run(main)
