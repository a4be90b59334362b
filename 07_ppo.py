"""Stage 07: proximal policy optimization (PPO, arXiv:1707.06347) with a reward that a program computes.

    python 07_ppo.py
    python 07_ppo.py --set ppo.start=03_finetune # go on from SFT's model instead of DPO's
    accelerate launch --config_file configs/accelerate/gpus.yaml 07_ppo.py       # see docs/scaling.md

The model that DPO has left (the *policy*) answers requests with sampling. Each answer gets a reward from the same code
that evaluates: no reward model, so nothing that can be flattered. Some of the requests are labelled (feedback.jsonl, or
training's where there is none); for those that are not (rl.jsonl) a checker pays for a call that is valid, executes,
and takes its arguments from the request. Tokens that made the reward better than expected become more probable, the
others less. An update of the policy is:

1. roll out: sample an answer to each of a batch of requests, several where there is no label, and keep those to
   requests of which the best answer is known and another one is worse;
2. cut an answer after the token by which it leaves the best one, and reward that token with the difference of their
   scores, and every token with -kl_coef * (log p - log p of the start model), so that the policy does not wander off
   (arXiv:1909.08593);
3. estimate each token's advantage over what the value head expected (GAE, arXiv:1506.02438);
4. take a few optimizer steps on the clipped objective, which stops paying once a token's probability has
   moved by more than clip_coef.

Every few updates the policy answers the validation requests, greedily. The checkpoint with the best reward there is
kept, the start included; one that has collapsed for several validations in a row ends the run. All that is random in
an update comes from a seed of its own, so a run that is killed goes on from its last checkpoint to the same end.

Writes outputs/07_ppo/: the model, metrics.json, log.jsonl, ppo.png, manifest.json. Next: 08_evaluate.py
"""

import random
import time
from collections import Counter
from contextlib import nullcontext
from functools import partial
from statistics import fmean as mean

import tools as toolbox
from playground.data.augment import Exchange
from playground.judge import checking, scoring
from playground.judge.learner import (
    compare,
    evaluate_tokens,
    explained_variance,
    load_learner,
    masked_mean,
    sample_answers,
    whiten,
)
from playground.model import prompting, weights
from playground.report import plots, tables
from playground.run import artifacts, console, hardware, parallel, recipe, tracking
from playground.run.errors import UserError
from playground.run.files import later_files, read_feedback, read_records, read_requests, write_json, write_jsonl

STAGE = "07_ppo"
SHOWN = 3  # sampled requests in the table that a person watches
MOST_AT_ONCE = 8, 4  # answers of a minibatch in one forward pass of a process; the second for large vocabularies
UNPLOTTED = ("update", "constant_reward", "tokens")


def reward_of(completion, record, tools, checker, weights):
    """{component: 0.0 to 1.0} of what is verifiable in an answer, and their weighted "mean", which is the reward.

    The components are rungs of the ladders in playground/judge/scoring.py, for a request with a label, and in
    playground/judge/checking.py, for one without: each needs the one before. ended: nothing follows the object, and the
    model stopped by itself. faultless: nothing at all is wrong.
    """
    if "completion" in record:
        scores = scoring.score(completion.text, record["completion"], tools, completion.ended, record["prompt"])
        parts = {"tool": scores["tool_accuracy"], "arguments": scores["argument_accuracy"]}
        faultless = scores["exact_call"]
    else:
        scores = checker.check(completion.text, record["prompt"])
        parts = {name: scores[name] for name in ("executes", "grounded", "explained")}
        faultless = float(min(scores.values()) == 1)
    ended = scores["format_correctness"] * completion.ended
    parts |= {"format": scores["format_correctness"], "ended": ended, "schema": scores["schema_validity"],
              "faultless": faultless * ended}  # fmt: skip
    total = sum(weights[name] * value for name, value in parts.items())
    return {"mean": total / sum(weights[name] for name in parts), **parts}


def estimate_advantages(rewards, values, mask, gamma, gae_lambda):
    """GAE (arXiv:1506.02438, eq. 16), backwards over the columns; rewards, values, mask and result: (rows, T)."""
    import torch

    values = values * mask  # padding comes after the end, where there is nothing to come
    advantages, following, next_value = torch.zeros_like(rewards), 0.0, 0.0
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        following = (delta + gamma * gae_lambda * following) * mask[:, t]
        advantages[:, t], next_value = following, values[:, t]
    return advantages


def adapt_kl_coef(kl_coef, kl, ppo):
    """The controller of arXiv:1909.08593, section 2.2: kl is the rollouts' mean, in nats a sequence."""
    error = (kl - ppo["kl_setpoint"]) / ppo["kl_setpoint"]
    return kl_coef * (1 + ppo["kl_gain"] * min(max(error, -0.2), 0.2))


def ppo_loss(log_probs, entropy, values, rollout, ppo, tokens=None):
    """The clipped policy loss (arXiv:1707.06347, eq. 7), the clipped value loss, the entropy bonus; what to watch.

    tokens: of the whole minibatch, where `rollout` is a part of it; its parts' losses are parts of one sum.
    """
    import torch

    mask, advantages = rollout["completion_mask"], rollout["advantages"]
    log_ratio = log_probs - rollout["log_probs"]
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - ppo["clip_coef"], 1 + ppo["clip_coef"])
    policy_loss = masked_mean(-torch.min(ratio * advantages, clipped * advantages), mask, tokens)
    near = rollout["values"] + (values - rollout["values"]).clamp(-ppo["value_clip_coef"], ppo["value_clip_coef"])
    errors = torch.max((values - rollout["returns"]) ** 2, (near - rollout["returns"]) ** 2)
    value_loss = 0.5 * masked_mean(errors, mask, tokens)
    mean_entropy = masked_mean(entropy, mask, tokens)
    watched = {
        "policy_loss": policy_loss.item(),
        "value_loss": value_loss.item(),
        "entropy": mean_entropy.item(),
        "approx_kl": masked_mean((ratio - 1 - log_ratio).detach(), mask, tokens).item(),  # joschu.net/blog/kl-approx
        "clipfrac": masked_mean(((ratio - 1).abs() > ppo["clip_coef"]).float(), mask, tokens).item(),
    }
    return policy_loss + ppo["value_coef"] * value_loss - ppo["entropy_coef"] * mean_entropy, watched


def lay_out(learner, answers, kl_coef, ppo):
    """(rollout, what to watch): the answers' token ids and, for each token of a completion, what the policy, the
    reference and the value head said of it before any step, its advantage and its return."""
    import torch

    device, rows = learner.accelerator.device, range(len(answers))
    prompts = [prompting.encode_prompt(record["prompt"], learner.tokenizer) for record, _, _ in answers]
    completions = [completion.token_ids for _, completion, _ in answers]
    lengths = torch.tensor([len(ids) for ids in completions], device=device)
    mask = (torch.arange(max(lengths), device=device) < lengths[:, None]).float()  # (rows, T)
    log_probs, reference_log_probs, values = (torch.zeros_like(mask) for _ in range(3))
    rollout = {"prompts": prompts, "completions": completions}
    with torch.no_grad(), hardware.half_precision(device.type):  # as after a step, so that rounding is the same
        at_once = parallel.size() * hardware.at_once(learner.tokenizer, *MOST_AT_ONCE)
        for part, batch in learner.minibatches(rollout, rows, at_once):
            columns = list(part), slice(batch["completion_ids"].shape[1])
            log_probs[columns], _, values[columns] = evaluate_tokens(learner.policy, batch, learner.critic)
            with nullcontext() if learner.reference else learner.policy.disable_adapter():
                reference_log_probs[columns], _, _ = evaluate_tokens(learner.reference or learner.policy, batch)
    log_probs, reference_log_probs, values = map(parallel.total, (log_probs, reference_log_probs, values))
    kl = (log_probs - reference_log_probs) * mask
    rewards = -kl_coef * kl
    rewards[rows, lengths - 1] += torch.tensor([parts["mean"] for _, _, parts in answers], device=device)
    advantages = estimate_advantages(rewards, values, mask, ppo["gamma"], ppo["gae_lambda"])
    returns = advantages + values
    rollout |= {"log_probs": log_probs, "values": values, "returns": returns, "advantages": whiten(advantages, mask)}
    return rollout, {
        "kl": kl.sum(dim=1).mean().item(),
        "explained_variance": explained_variance(values, returns, mask),
        "response_length": mask.sum(dim=1).mean().item(),
    }


def improve(learner, rollout, ppo, rng):
    """Some epochs of shuffled minibatches on one rollout; returns the means of what `ppo_loss` watches.

    Ends after the epoch that has moved the policy by more than `ppo.target_kl`. Raises FloatingPointError for a loss
    or gradient that is not a number, before it reaches the weights.
    """
    import torch

    watched, count = [], len(rollout["prompts"])
    at_once = parallel.size() * hardware.at_once(learner.tokenizer, *MOST_AT_ONCE)
    minibatches = max(1, round(count / ppo["minibatch_size"]))  # of even sizes: a step counts the same for one row
    for _ in range(ppo["epochs"]):
        epoch, order = [], rng.sample(range(count), count)
        for i in range(minibatches):
            minibatch, loss, seen = order[i::minibatches], 0.0, Counter()
            tokens = sum(len(rollout["completions"][row]) for row in minibatch)
            learner.optimizer.zero_grad()
            for _, batch in learner.minibatches(rollout, minibatch, at_once):
                with hardware.half_precision(learner.accelerator.device.type):
                    told = evaluate_tokens(learner.policy, batch, learner.critic, ppo["entropy_coef"] > 0)
                part, seen_of_part = ppo_loss(*told, batch, ppo, tokens)
                learner.accelerator.backward(part)  # gradients add up
                loss += part.detach()
                seen.update(seen_of_part)
            parallel.total_gradients(learner.parameters())
            norm = learner.accelerator.clip_grad_norm_(learner.parameters(), ppo["max_grad_norm"])
            if not torch.isfinite(loss + norm):
                raise FloatingPointError
            learner.optimizer.step()
            epoch.append(parallel.total_of(seen))
        watched += epoch
        if ppo["target_kl"] and mean(seen["approx_kl"] for seen in epoch) > ppo["target_kl"]:
            break
    return {name: mean(seen[name] for seen in watched) for name in watched[0]}


def update_policy(learner, records, reward, settings, kl_coef, rng):
    """One update on the answers to `records`: (its row for the log, the answers).

    Where there is nothing to learn from any of them, the update is left out, and marked.
    """
    ppo, begin = settings["ppo"], time.time()
    answers = sample_answers(learner, records, reward, settings, seed=rng.getrandbits(32))
    rewards = [parts for _, _, parts in answers]
    names = dict.fromkeys(name for parts in rewards for name in parts)
    row = {f"reward/{name}": mean(parts[name] for parts in rewards if name in parts) for name in names}
    compared = compare(answers, learner.tokenizer, ppo["agree"])
    row |= {"kl_coef": kl_coef, "constant_reward": not compared, "compared": len(compared)}
    if compared:
        rollout, watched = lay_out(learner, compared, kl_coef, ppo)
        row |= watched | improve(learner, rollout, ppo, rng)
    row["tokens"] = sum(len(completion.token_ids) for _, completion, _ in answers)  # sampled
    row["tokens_per_second"] = row["tokens"] / (time.time() - begin)
    return row, answers


def train(learner, draw, reward, validate, settings, artifact, track=lambda row, update: None):
    """All updates from the last checkpoint on; the best model so far is artifact/"model". Returns the progress.

    draw(rng): the records that an update answers; validate() gives the metrics and "reward" on validation.
    """
    from tqdm import tqdm

    ppo, checkpoint = settings["ppo"], artifact / "checkpoint-last.pt"
    progress = learner.restore(checkpoint)
    if progress is None:
        progress = {"update": 0, "kl_coef": ppo["kl_coef"], "collapsed": 0, "seconds": 0.0, "log": []}
        progress["validations"] = [{"update": 0, **validate()}]
        weights.save_whole(learner.policy, learner.tokenizer, artifact / "model")
    validations, log = progress["validations"], progress["log"]
    bar = tqdm(total=ppo["updates"], initial=progress["update"], desc="PPO")
    while progress["update"] < ppo["updates"] and progress["collapsed"] < ppo["patience"]:
        update, begin = progress["update"] + 1, time.time()
        rng = random.Random(f"{settings['seed']} {update}")
        # Up while Adam does not know yet how large gradients are, then down to 0, so that the last steps' noise goes.
        scale = min(update / (ppo["warmup_ratio"] * ppo["updates"] + 1), 1) * (1 - (update - 1) / ppo["updates"])
        for group in learner.optimizer.param_groups:
            group["lr"] = ppo["learning_rate"] * scale
        try:
            row, answers = update_policy(learner, draw(rng), reward, settings, progress["kl_coef"], rng)
        except FloatingPointError:
            raise UserError(f"update {update}: the loss is not a number: lower ppo.learning_rate; the best model until "
                            f"then is in {artifact / 'model'}.") from None  # fmt: skip
        log.append({"update": update, **row})
        track(row, update)
        progress["update"] = update
        if not row["constant_reward"]:
            progress["kl_coef"] = adapt_kl_coef(progress["kl_coef"], row["kl"], ppo)
            bar.set_postfix(reward=f"{row['reward/mean']:.2f}", kl=f"{row['kl']:.2f}")
        bar.update()
        if update % ppo["show_every"] == 0:
            different = list({record["prompt"]: (record, *told) for record, *told in answers}.values())
            tqdm.write(tables.sampled_answers(f"update {update}", different[:SHOWN]))
        due = update % ppo["validate_every"] == 0 or update == ppo["updates"]
        if due:
            validations.append({"update": update, **validate()})
            track({"validation": validations[-1]}, update)
            if validations[-1]["reward"] > max(row["reward"] for row in validations[:-1]):
                weights.save_whole(learner.policy, learner.tokenizer, artifact / "model")
            gone = row.get("kl", 0) > ppo["kl_bound"] or validations[-1]["reward"] < validations[0]["reward"]
            progress["collapsed"] = progress["collapsed"] + 1 if gone else 0
        progress["seconds"] += time.time() - begin
        if due or update % ppo["checkpoint_every"] == 0:
            learner.save(checkpoint, progress)
    bar.close()
    return progress


def main():
    settings, _ = recipe.arguments(__doc__)
    artifacts.lock(settings)
    paths = {name: artifacts.require(settings["output_dir"], "02_create_dataset", name)
             for name in ("train.jsonl", "val.jsonl", "tools.json")}  # fmt: skip
    train_records, validation = (read_records(paths[name]) for name in ("train.jsonl", "val.jsonl"))
    tools, pool = toolbox.load_tools(paths["tools.json"]), read_requests(settings["output_dir"])
    labelled = read_feedback(settings["output_dir"]) or train_records
    ppo = settings["ppo"]
    start_manifest = artifacts.require(settings["output_dir"], ppo["start"])

    from playground.model import generation

    learner, base = load_learner(settings, ppo["start"], paths["tools.json"])
    fitting = partial(generation.leave_out_long, tokenizer=learner.tokenizer, model=learner.policy, settings=settings)
    labelled, pool = fitting(labelled), fitting(pool)
    if ppo["agree"] > ppo["samples"]:
        raise UserError(
            f"ppo.agree ({ppo['agree']}) is over ppo.samples ({ppo['samples']}): no answer could be trusted."
        )
    asked = min(int(ppo["rollouts"] * ppo["unlabelled_share"] // ppo["samples"]), len(pool))
    with_label = min(ppo["rollouts"] - asked * ppo["samples"], len(labelled))
    exchange = Exchange(train_records, settings["sft"]["exchange_arguments"], settings["sft"]["exchange_words"])

    checker = checking.Checker(train_records, tools)
    print(f"PPO on {ppo['start']}'s model: {ppo['updates']} updates, each of {ppo['samples']} answers to {asked} "
          f"requests without a label and one to {with_label} with a label.")  # fmt: skip

    def draw(rng):
        repeated = [request for request in rng.sample(pool, asked) for _ in range(ppo["samples"])]
        return repeated + [exchange(record, rng) for record in rng.sample(labelled, with_label)]

    def reward(completion, record):
        return reward_of(completion, record, tools, checker, ppo["reward"])

    def validate():
        prompts = [record["prompt"] for record in validation]
        completions = generation.generate(learner.policy, learner.tokenizer, prompts, settings)
        rewards = [reward(*answered)["mean"] for answered in zip(completions, validation, strict=True)]
        return {"reward": mean(rewards), **scoring.summarize(scoring.judge(completions, validation, tools))}

    inputs = [*paths.values(), *later_files(settings["output_dir"]), start_manifest]
    with (
        artifacts.stage(settings, STAGE, inputs=inputs, resume=True, base_model=base) as artifact,
        tracking.tracker(settings, artifact) as track,
        hardware.explain_oom("ppo.minibatch_size", ppo["minibatch_size"]),
    ):
        progress = train(learner, draw, reward, validate, settings, artifact, track)
        if not parallel.is_main():
            return
        log, validations = progress["log"], progress["validations"]
        before, best = validations[0], max(validations, key=lambda row: row["reward"])  # the first of equals
        constant = sum(row["constant_reward"] for row in log)
        write_json(artifact / "metrics.json", {
            "validation_before": before,
            "validation_after": best,
            "updates": progress["update"],
            "constant_rewards": constant,
            "train_seconds": progress["seconds"],
            "tokens_per_second": sum(row["tokens"] for row in log) / progress["seconds"],
            "peak_memory_mb": hardware.peak_mb(),
        })  # fmt: skip
        write_jsonl(artifact / "log.jsonl", [*log, *({"validation": row} for row in validations)])
        names = dict.fromkeys(name for row in log for name in row if name not in UNPLOTTED)
        curves = {name: [(row["update"], row[name]) for row in log if name in row] for name in names}
        curves["reward on validation"] = [(row["update"], row["reward"]) for row in validations]
        plots.plot_curves(artifact / "ppo.png", curves, "update")
        precision = "bfloat16 autocast" if hardware.has_bf16() else "float32"
        artifact.facts.update(device=str(learner.policy.device), dtype=precision)

    if constant:
        print(f"In {constant} of {len(log)} updates no answer was better than another: nothing to learn, left out.")
    if progress["update"] < ppo["updates"]:
        print(f"Stopped at update {progress['update']}: in the last {ppo['patience']} validations kl was over "
              f"{ppo['kl_bound']} or the reward under the start's.")  # fmt: skip
    after = validations[-1]
    print(f"On validation: reward {before['reward']:.3f} before, {after['reward']:.3f} after; exact calls "
          f"{before['exact_call']:.1%} and {after['exact_call']:.1%}.\nTook {progress['seconds']:.0f} s. "
          + (f"Update {best['update']} is kept, with {best['reward']:.3f}." if best is not before else
             f"PPO did not help here: the model of {ppo['start']} is kept as it was."))  # fmt: skip
    print(f"Written: {artifact.final}. Next: {console.command('08_evaluate.py')}")


if __name__ == "__main__":
    console.run(main, in_parallel=True)
