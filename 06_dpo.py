"""Stage 06: direct preference optimization (DPO, arXiv:2305.18290). Learn from one's own mistakes.

    python 06_dpo.py
    python 06_dpo.py --set dpo.unlabelled=0      # pairs from labelled requests only
    accelerate launch --config_file configs/accelerate/gpus.yaml 06_dpo.py       # see docs/scaling.md

SFT shows the model what is right, but never what is wrong. Here the fine-tuned model answers requests, with sampling,
and a wrong answer is paired with the right one. The requests are new to it (feedback.jsonl): to those that
it has learned from it makes too few mistakes. Where there are none, it is training's, with other arguments. For
requests that nobody has labelled (rl.jsonl) a checker ranks several samples instead: a call that is valid, executes and
takes its arguments from the request is better than one that is not. Checking is cheaper than labelling. DPO then
raises the probability of the chosen completion over the rejected one, relative to the model it started from
(the reference), with no reward model and no sampling during training:

    loss = -log sigmoid(beta * [(log p(chosen) - log p_ref(chosen)) - (log p(rejected) - log p_ref(rejected))])

DPO alone is content when both probabilities fall and the rejected one falls faster, so the chosen
completion's own negative log-likelihood is added to the loss.

A few hundred pairs move much in the model that they say nothing about. So the model that counts has weights between
those of the start and the trained ones (dpo.merge; WiSE-FT, arXiv:2109.01903): what the pairs agree on survives that,
most of the rest does not.

After every epoch that model answers the validation requests, greedily as at the start. The checkpoint with the
most exact calls is kept, of equals the one with more valid JSON; where none is better than the model that training
started from, that one is.

Writes outputs/06_dpo/: pairs.jsonl, the model, metrics.json, log.jsonl, dpo.png, manifest.json. Next: 07_ppo.py
"""

import collections
import copy
import itertools
import math
import random
import time
from functools import partial

import tools as toolbox
from playground.data.augment import Exchange
from playground.judge import checking, negatives, scoring
from playground.model import prompting
from playground.run import artifacts, console, parallel, recipe, tracking
from playground.run.errors import UserError
from playground.run.files import later_files, read_feedback, read_records, read_requests, write_json, write_jsonl

STAGE = "06_dpo"
LOGGED = {
    "loss": "loss",
    "rewards/margins": "margin of chosen over rejected",
    "rewards/accuracies": "share of pairs ranked right",
    "logps/chosen": "log p(chosen)",
    "logps/rejected": "log p(rejected)",
}
MOST_AT_ONCE = 2  # pairs in one forward pass: twice as many sequences
LOG_EVERY = 2  # optimizer steps; dpo.checkpoint_every is even, because a checkpoint does not keep half a mean


def draw_samples(model, tokenizer, rows, count, settings, temperature, progress):
    """Yield (row, completions): `count` sampled answers to each request."""
    from playground.model import generation

    prompts = [row["prompt"] for row in rows for _ in range(count)]
    completions = generation.generate(model, tokenizer, prompts, settings, temperature=temperature, progress=progress)
    for i, row in enumerate(rows):
        yield row, completions[i * count : (i + 1) * count]


def pair_of(row, kind, source, chosen, rejected, rejected_ids):
    return {"id": row["id"], "kind": kind, "source": source, "prompt": row["prompt"],
            "chosen": chosen, "rejected": rejected, "rejected_ids": rejected_ids}  # fmt: skip


def find_mistakes(record, samples, tools):
    """A pair for each wrong sample of a labelled request: its record's call over what the model wrote."""
    for sample, judged in zip(samples, scoring.judge(samples, [record] * len(samples), tools), strict=True):
        if judged["failure"]:
            source = "sampled, labelled"
            yield pair_of(record, judged["failure"], source, record["completion"], sample.text, sample.token_ids)


def rank_samples(request, samples, checker):
    """At most one pair for a request without a label: the best sample, if it is sure and another says the same, over
    the worst."""
    checks = {sample.text.strip(): checker.check(sample.text, request["prompt"]) for sample in samples}
    said = collections.Counter(sample.text.strip() for sample in samples)
    score = {text: sum(found.values()) for text, found in checks.items()}
    chosen = max(score, key=lambda text: (score[text], said[text]))
    rejected = min(samples, key=lambda sample: score[sample.text.strip()])
    worst = checks[rejected.text.strip()]
    if said[chosen] > 1 and checking.is_sure(checks[chosen]) and score[chosen] > score[rejected.text.strip()]:
        fault = next(name for name, value in worst.items() if value < checks[chosen][name])
        source = "sampled, without label"
        yield pair_of(request, f"not {fault}", source, chosen, rejected.text, rejected.token_ids)


def collect_pairs(model, tokenizer, records, requests, tools, checker, settings):
    """Preference pairs, at most one for each request and kind of mistake; a request always answered right gives none.

    Fewer than `dpo.min_pairs`: the temperature is raised once, then hard negatives fill up.
    """
    dpo, pairs = settings["dpo"], {}
    remedies = {dpo["temperature"]: f"sampling once more at {dpo['raised_temperature']}",
                dpo["raised_temperature"]: "filling up with hard negatives"}  # fmt: skip
    for temperature, remedy in remedies.items():
        drawn = partial(draw_samples, model, tokenizer, settings=settings, temperature=temperature)
        for row, samples in drawn(records, dpo["samples"], progress="sampling mistakes"):
            for pair in find_mistakes(row, samples, tools):
                pairs.setdefault((pair["id"], pair["kind"]), pair)
        for row, samples in drawn(requests, dpo["unlabelled_samples"], progress="samples without labels"):
            for pair in rank_samples(row, samples, checker):
                pairs.setdefault((pair["id"], pair["kind"]), pair)
        if len(pairs) >= dpo["min_pairs"]:
            break
        print(f"{len(pairs)} pairs at temperature {temperature}, under dpo.min_pairs ({dpo['min_pairs']}): {remedy}.")
    pairs, rng = list(pairs.values()), random.Random(settings["seed"])
    missing = max(0, dpo["min_pairs"] - len(pairs))
    for record, wrong in itertools.islice(negatives.hard_negatives(records, rng), missing):
        ids = prompting.encode_completion(wrong, tokenizer)
        pairs.append(pair_of(record, "hard negative", "hard negative", record["completion"], wrong, ids))
    rng.shuffle(pairs)
    return parallel.even(pairs[: dpo["max_pairs"]])  # DPOTrainer needs as many in every process


def with_given(pairs, given, tokenizer, dpo):
    """The pairs, and those that came with imported data (stage 02's pairs.jsonl), which may take half of the places."""
    places = max(dpo["max_pairs"] // 2, dpo["max_pairs"] - len(pairs))
    given = [
        pair_of(row, "given", "given with the data", row["chosen"], row["rejected"],
                prompting.encode_completion(row["rejected"], tokenizer))
        for row in given[:places]
    ]  # fmt: skip
    return parallel.even([*given, *pairs[: dpo["max_pairs"] - len(given)]])


def quality(validation):
    """By what a checkpoint is better than another."""
    return validation["exact_call"], validation["format_correctness"]


def encode(pair, tokenizer):
    """The token ids that DPOTrainer wants."""
    chosen = prompting.encode_completion(pair["chosen"], tokenizer)
    prompt = prompting.encode_prompt(pair["prompt"], tokenizer)
    return {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": pair["rejected_ids"]}


def build_trainer(model, tokenizer, pairs, sft, settings, artifact, after_epoch):
    """TRL's DPOTrainer on pairs that are encoded already; after_epoch(step, model) is called when one is done."""
    from datasets import Dataset, disable_progress_bars
    from transformers import TrainerCallback
    from trl import DPOConfig, DPOTrainer

    from playground.model import loading, weights
    from playground.model.muon import MuonAdamW
    from playground.run import hardware, tracking

    disable_progress_bars()
    dpo = settings["dpo"]
    # Half of stage 03's for half as many records in a batch, where the recipe names none.
    learning_rate = sft["learning_rate"] / 2 if dpo["learning_rate"] is None else dpo["learning_rate"]

    class EncodedDPOTrainer(parallel.WholeBatches, DPOTrainer):
        def _prepare_dataset(self, dataset, *_):
            return dataset  # encoded above, by the rules that generation follows

        def create_optimizer(self, model=None):
            if sft["optimizer"] == "muon":
                self.optimizer = MuonAdamW(self.model, learning_rate, 0.0, hardware.fast_dtype())
            return super().create_optimizer(model)  # makes one where there is none

    class Checkpoints(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            due = state.global_step % dpo["checkpoint_every"] == 0
            # The checkpoint of an epoch's end waits for the validation, or a run killed between them would miss it.
            control.should_save = due and state.epoch % 1 > 0 and state.global_step < state.max_steps

        def on_epoch_end(self, args, state, control, model=None, **_):
            after_epoch(state.global_step, model)

    at_once = parallel.size() * math.gcd(parallel.each(dpo["batch_size"], "dpo.batch_size"), MOST_AT_ONCE)
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
        max_length=None,
        use_cpu=model.device.type == "cpu",
        bf16=hardware.has_bf16(),
        activation_checkpointing=False,
        save_strategy="epoch",
        save_total_limit=1,
        logging_steps=LOG_EVERY,
        report_to="none",
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,
        pad_to_multiple_of=math.gcd(hardware.PADDED_TO, loading.longest(model) or 0),  # not beyond its positions
        disable_tqdm=False,
    )
    trainer = EncodedDPOTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list([encode(pair, tokenizer) for pair in pairs]),
        processing_class=tokenizer,
        # With an adapter, the reference is the same model with the adapter switched off.
        peft_config=weights.lora_config(model, settings) if settings["model"]["use_lora"] else None,
        callbacks=[Checkpoints()],
    )
    collate = trainer.data_collator
    trainer.data_collator = lambda batch: collate(parallel.share(batch))
    tracking.show_progress(trainer, {"loss": "loss", "rewards/accuracies": "ranked right"})
    return trainer


def main():
    settings, _ = recipe.arguments(__doc__)
    artifacts.lock(settings)
    paths = {name: artifacts.require(settings["output_dir"], "02_create_dataset", name)
             for name in ("train.jsonl", "val.jsonl", "tools.json")}  # fmt: skip
    train, validation = read_records(paths["train.jsonl"]), read_records(paths["val.jsonl"])
    tools = toolbox.load_tools(paths["tools.json"])
    labelled = read_feedback(settings["output_dir"]) or train
    pool, dpo = read_requests(settings["output_dir"]), settings["dpo"]
    given_files = later_files(settings["output_dir"], "pairs.jsonl")
    given = [row | {"completion": max(row["chosen"], row["rejected"], key=len)} for path in given_files
             for row in read_records(path, ("id", "prompt", "chosen", "rejected"))]  # fmt: skip
    sft_manifest = artifacts.require(settings["output_dir"], "03_finetune")

    from playground.judge import evaluation
    from playground.model import generation, loading, weights
    from playground.report import plots
    from playground.run import hardware

    tokenizer, model, base = loading.load_start(settings, "03_finetune", paths["tools.json"])
    start = None if settings["model"]["use_lora"] else copy.deepcopy(model)
    sft = recipe.sft_settings(settings, base["kind"])
    fitting = partial(generation.leave_out_long, tokenizer=tokenizer, model=model, settings=settings)

    told = {"tokenizer": tokenizer, "records": validation, "tools": tools, "settings": settings}
    inputs = [*paths.values(), *later_files(settings["output_dir"]), *given_files, sft_manifest]
    with (
        artifacts.stage(settings, STAGE, inputs=inputs, resume=True, base_model=base) as artifact,
        tracking.tracker(settings, artifact) as track,
        hardware.explain_oom("dpo.batch_size", dpo["batch_size"]),
    ):
        pairs = artifact.resumed("pairs.json", None)
        if pairs is None:
            rng = random.Random(settings["seed"])
            exchange = Exchange(train, settings["sft"]["exchange_arguments"], settings["sft"]["exchange_words"])
            records = fitting([exchange(record, rng) for record in labelled[: dpo["requests"]]])
            requests = fitting(pool)[: dpo["unlabelled"]]
            print(f"Sampling answers: {dpo['samples']} to each of {len(records)} labelled requests, "
                  f"{dpo['unlabelled_samples']} to each of {len(requests)} others.")  # fmt: skip
            checker = checking.Checker(train, tools)
            pairs = collect_pairs(model, tokenizer, records, requests, tools, checker, settings)
            pairs = with_given(pairs, fitting(given), tokenizer, dpo)
            write_json(artifact / "pairs.json", pairs)
        if not pairs:
            raise UserError("no answer was wrong and no argument can be swapped: raise dpo.temperature or dpo.samples.")
        kinds = collections.Counter(pair["kind"] for pair in pairs)
        counts = "".join(f"\n{count:6} {kind}" for kind, count in kinds.most_common())
        print(f"{len(pairs)} pairs, by what is wrong with the rejected answer:{counts}")

        validations = artifact.resumed("validations.json", [])
        if not validations:
            validations.append({"step": 0, **evaluation.validate(model, **told)})
            weights.save_whole(model, tokenizer, artifact / "model")
            write_json(artifact / "validations.json", validations)

        def after_epoch(step, model):
            validations[:] = [row for row in validations if row["step"] < step]  # killed before the next checkpoint
            with weights.interpolated(start, model, dpo["merge"]):
                validations.append({"step": step, **evaluation.validate(model, **told)})
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

        before, best = validations[0], max(validations, key=quality)  # the first of equals
        tokens = sum(len(ids) for pair in pairs for ids in encode(pair, tokenizer).values())
        write_json(artifact / "metrics.json", {
            "pairs": dict(kinds),
            "validation_before": before,
            "validation_after": best,
            "train_seconds": seconds,
            "tokens_per_second": tokens * dpo["epochs"] / seconds,
            "peak_memory_mb": hardware.peak_mb(),
        })  # fmt: skip
        log = [{"step": row["step"], **{name: row[name] for name in LOGGED}}
               for row in trainer.state.log_history if "loss" in row]  # fmt: skip
        write_jsonl(artifact / "log.jsonl", [*log, *({"validation": row} for row in validations)])
        write_jsonl(artifact / "pairs.jsonl", pairs)
        curves = {label: [(row["step"], row[name]) for row in log] for name, label in LOGGED.items()}
        curves["exact calls on validation"] = [(row["step"], row["exact_call"]) for row in validations]
        plots.plot_curves(artifact / "dpo.png", curves, "step")
        artifact.facts.update(device=str(model.device), dtype="bfloat16 autocast" if hardware.has_bf16() else "float32")

    print(f"Exact calls on validation: {before['exact_call']:.1%} before, {validations[-1]['exact_call']:.1%} after, "
          f"in {seconds:.0f} s.\n" + (f"Step {best['step']} is kept." if best is not before else
                                  "DPO did not help here: the fine-tuned model is kept as it was."))  # fmt: skip
    print(f"Written: {artifact.final}. Next: {console.command('07_ppo.py')}")


if __name__ == "__main__":
    console.run(main, in_parallel=True)
