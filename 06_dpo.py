"""Stage 06: direct preference optimization (DPO, arXiv:2305.18290). Learn from one's own mistakes.

    python 06_dpo.py
    accelerate launch --config_file configs/accelerate/gpus.yaml 06_dpo.py       # see docs/scaling.md

SFT shows the model what is right, but never what is wrong. Here it answers requests that it has not learned from, with
sampling, and every call is executed. An answer with another outcome than the wanted one is *rejected*; what is *chosen*
over it is the right call where somebody has given it (feedback.jsonl), else another sample that did bring about the
outcome (rl.jsonl). Training makes the chosen answer more probable than the rejected one: `dpo_loss`, below.

After every epoch the model answers the validation requests. The best checkpoint is kept, or the start.

Writes outputs/06_dpo/: pairs.jsonl, the model, metrics.json, log.jsonl, dpo.png, manifest.json. Next: 07_ppo.py
"""

import collections
import copy
import math
import random
import time
from functools import partial

from playground.judge import evaluation, scoring
from playground.model import generation, loading, prompting, weights
from playground.report import training
from playground.run import artifacts, console, hardware, parallel, recipe, tracking
from playground.run.errors import UserError
from playground.run.files import later_files, read_records, read_requests, write_json, write_jsonl

STAGE = "06_dpo"


def dpo_loss(chosen, rejected, reference_chosen, reference_rejected, beta):
    """DPO's loss of each pair (arXiv:2305.18290, eq. 7), as TRL's trainer computes it below.

    The four are log-probabilities of whole answers, under the model and under the reference, (pairs,). The bracket is
    how much further than the reference the model prefers the chosen answer: the loss falls as it grows.
    """
    import torch

    margin = (chosen - reference_chosen) - (rejected - reference_rejected)
    return -torch.nn.functional.logsigmoid(beta * margin)


# ---- the pairs


def find_pair(request, samples, tools):
    """{"prompt", "chosen", "rejected", ...}: the first sample with the wrong outcome, and what should have been said.

    None where all samples are right, or none is and nobody has said what would be.
    """
    judged = [(sample, scoring.judge_outcome(sample.text, sample.ended, request, tools)) for sample in samples]
    right = [sample.text.strip() for sample, rungs in judged if rungs["outcome"]]
    wrong = [(sample, rungs) for sample, rungs in judged if not rungs["outcome"]]
    chosen = request.get("completion") or next(iter(right), None)
    if not wrong or chosen is None:
        return None
    rejected, rungs = wrong[0]
    kind = next(f"not the right {name}" for name, reached in rungs.items() if not reached)
    return {"id": request["id"], "kind": kind, "source": "label" if "completion" in request else "samples",
            "prompt": request["prompt"], "chosen": chosen,
            "rejected": rejected.text, "rejected_ids": rejected.token_ids}  # fmt: skip


def collect_pairs(model, tokenizer, requests, given, tools, settings):
    """At most `dpo.max_pairs` pairs, one a request; those that came with imported data may take half of the places."""
    dpo, count = settings["dpo"], settings["dpo"]["samples"]
    prompts = [request["prompt"] for request in requests for _ in range(count)]
    samples = generation.generate(
        model, tokenizer, prompts, settings, temperature=dpo["temperature"], progress="sampling answers"
    )
    pairs = [find_pair(request, samples[i * count : (i + 1) * count], tools) for i, request in enumerate(requests)]
    pairs = [pair for pair in pairs if pair]
    random.Random(settings["seed"]).shuffle(pairs)
    given = [
        {**{key: row[key] for key in ("id", "prompt", "chosen", "rejected")}, "kind": "given",
         "source": "given with the data", "rejected_ids": prompting.encode_completion(row["rejected"], tokenizer)}
        for row in given[: max(dpo["max_pairs"] // 2, dpo["max_pairs"] - len(pairs))]
    ]  # fmt: skip
    # DPOTrainer needs as many in every process.
    return parallel.even([*given, *pairs[: dpo["max_pairs"] - len(given)]])


def encode(pair, tokenizer):
    """The token ids that DPOTrainer wants."""
    chosen = prompting.encode_completion(pair["chosen"], tokenizer)
    prompt = prompting.encode_prompt(pair["prompt"], tokenizer)
    return {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": pair["rejected_ids"]}


def quality(validation):
    """By what a checkpoint is better than another; of equals the one with more valid JSON."""
    return validation["exact_call"], validation["format_correctness"]


# ---- the training


def build_trainer(model, tokenizer, pairs, sft, settings, artifact, after_epoch):
    """TRL's DPOTrainer on pairs that are encoded already; after_epoch(step, model) is called when one is done."""
    from datasets import Dataset, disable_progress_bars
    from transformers import TrainerCallback
    from trl import DPOConfig, DPOTrainer

    from playground.model.muon import MuonAdamW

    disable_progress_bars()
    dpo = settings["dpo"]
    # Half of stage 03's, where the recipe names none: DPO makes small corrections.
    learning_rate = sft["learning_rate"] / 2 if dpo["learning_rate"] is None else dpo["learning_rate"]

    class EncodedDPOTrainer(parallel.WholeBatches, DPOTrainer):
        def _prepare_dataset(self, dataset, *_):
            return dataset  # encoded above, by the rules that generation follows

        def create_optimizer(self, model=None):
            if sft["optimizer"] == "muon":
                self.optimizer = MuonAdamW(self.model, learning_rate, 0.0, hardware.fast_dtype())
            return super().create_optimizer(model)  # makes one where there is none

    class Validation(TrainerCallback):
        def on_epoch_end(self, args, state, control, model=None, **_):
            after_epoch(state.global_step, model)

    most = max(1, sft["micro_batch_size"] // 4)  # a pair has two answers, and TRL makes logits for the prompts too
    at_once = parallel.size() * math.gcd(parallel.each(dpo["batch_size"], "dpo.batch_size"), most)
    arguments = DPOConfig(
        output_dir=str(artifact.path),
        seed=settings["seed"],
        num_train_epochs=dpo["epochs"],
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=dpo["batch_size"] // at_once,
        learning_rate=learning_rate,
        warmup_steps=dpo["warmup_ratio"],  # below 1, a share of all steps
        beta=dpo["beta"],
        loss_type=["sigmoid", "sft"],  # DPO's loss, and the chosen completion's negative log-likelihood
        loss_weights=[1.0, dpo["nll_weight"]],
        # The reference never changes, so it is asked once; but TRL keeps that where other processes do not find it.
        precompute_ref_log_probs=parallel.size() == 1,
        bf16=hardware.has_bf16(),
        logging_steps=1,  # a mean over several steps would start anew where a run is resumed
        pad_to_multiple_of=math.gcd(hardware.PADDED_TO, loading.longest(model) or 0),  # not beyond its positions
        **hardware.trainer_settings(model),
    )
    trainer = EncodedDPOTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list([encode(pair, tokenizer) for pair in pairs]),
        processing_class=tokenizer,
        # With an adapter, the reference is the same model with the adapter switched off.
        peft_config=weights.lora_config(model, settings) if settings["model"]["use_lora"] else None,
        callbacks=[Validation()],
    )
    collate = trainer.data_collator
    trainer.data_collator = lambda batch: collate(parallel.share(batch))
    tracking.show_progress(trainer, {"loss": "loss", "rewards/accuracies": "ranked right"})
    return trainer


def main():
    settings, _ = recipe.arguments(__doc__)
    artifacts.lock(settings)
    paths, records, validation, tools = artifacts.dataset(settings["output_dir"])
    requests, dpo = read_requests(settings["output_dir"]) or records, settings["dpo"]
    given_files = later_files(settings["output_dir"], "pairs.jsonl")
    given = [row | {"completion": max(row["chosen"], row["rejected"], key=len)} for path in given_files
             for row in read_records(path, ("id", "prompt", "chosen", "rejected"))]  # fmt: skip
    sft_manifest = artifacts.require(settings["output_dir"], "03_finetune")

    tokenizer, model, base = loading.load_start(settings, "03_finetune", paths["tools.json"])
    start = None if settings["model"]["use_lora"] else copy.deepcopy(model)
    sft = recipe.for_model(settings, "sft", base["kind"])
    fitting = partial(generation.leave_out_long, tokenizer=tokenizer, model=model, settings=settings)
    validate = partial(evaluation.validate, tokenizer=tokenizer, records=validation, tools=tools, settings=settings)
    inputs = [*paths.values(), *later_files(settings["output_dir"]), *given_files, sft_manifest]
    with (
        artifacts.stage(settings, STAGE, inputs=inputs, resume=True, base_model=base) as artifact,
        tracking.tracker(settings, artifact) as track,
        hardware.explain_oom(),
    ):
        pairs = artifact.resumed("pairs.json", None)
        if pairs is None:
            requests = fitting(requests[: dpo["requests"]])
            print(f"Sampling {dpo['samples']} answers to each of {len(requests)} requests.")
            pairs = collect_pairs(model, tokenizer, requests, fitting(given), tools, settings)
            write_json(artifact / "pairs.json", pairs)
        if not pairs:
            raise UserError("no request has both a right and a wrong answer: raise dpo.temperature or dpo.samples.")
        kinds = collections.Counter(pair["kind"] for pair in pairs)
        counts = "".join(f"\n{count:6} {kind}" for kind, count in kinds.most_common())
        print(f"{len(pairs)} pairs, by what is wrong with the rejected answer:{counts}")

        validations = artifact.resumed("validations.json", [])
        if not validations:
            validations.append({"step": 0, **validate(model)})
            weights.save_whole(model, tokenizer, artifact / "model")
            write_json(artifact / "validations.json", validations)

        def after_epoch(step, model):
            validations[:] = [row for row in validations if row["step"] < step]  # killed before the next checkpoint
            with weights.interpolated(start, model, dpo["merge"]):
                validations.append({"step": step, **validate(model)})
                if quality(validations[-1]) > max(map(quality, validations[:-1])):
                    weights.save_whole(model, tokenizer, artifact / "model")
            track({"validation": validations[-1]}, step)
            write_json(artifact / "validations.json", validations)

        trainer = build_trainer(model, tokenizer, pairs, sft, settings, artifact, after_epoch)
        trainer.add_callback(tracking.callback(track))
        begin = time.time()
        trainer.train(resume_from_checkpoint=artifacts.last_checkpoint(artifact.path))
        seconds = time.time() - begin
        if not parallel.is_main():
            return

        best = max(validations, key=quality)  # the first of equals
        drawn = {"step", *training.CURVES[STAGE][2]}
        log = [{name: row[name] for name in row if name in drawn} for row in trainer.state.log_history if "loss" in row]
        tokens = dpo["epochs"] * sum(len(ids) for pair in pairs for ids in encode(pair, tokenizer).values())
        training.write(artifact, model, log, validations, best, seconds, tokens, pairs=dict(kinds))
        write_jsonl(artifact / "pairs.jsonl", pairs)

    print(f"{training.sentence(validations[0], best, seconds)} Step {best['step']} is kept.")
    print(f"Written: {artifact.final}. Next: {console.command('07_ppo.py')}")


if __name__ == "__main__":
    console.run(main, in_parallel=True)
