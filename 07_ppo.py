"""Stage 07: proximal policy optimization (PPO, arXiv:1707.06347), paid for what a call brings about.

    python 07_ppo.py
    python 07_ppo.py --set ppo.start=06_dpo      # go on from DPO's model instead of SFT's
    python 07_ppo.py --config configs/few_labels.json

Nobody shows the model the right calls to these requests. It samples several answers to each (it is the *policy*), every
call is executed and paid for its outcome, and what was paid better than expected becomes more probable, the rest less.
The model with the best mean reward on the validation requests is kept.

Writes outputs/07_ppo/: the model, metrics.json, log.jsonl, ppo.png, manifest.json. Next: 08_evaluate.py
"""

import random
import time
from collections import Counter, defaultdict
from statistics import fmean, pstdev

from playground.judge import scoring
from playground.model import decoding, generation, likelihood, loading, prompting, weights
from playground.model.learner import Learner
from playground.model.likelihood import masked_mean, whiten
from playground.report import tables, training
from playground.run import artifacts, console, hardware, parallel, recipe, tracking
from playground.run.errors import UserError
from playground.run.files import later_files, read_requests

STAGE = "07_ppo"
GAMMA = 1.0  # answers are short: what is paid at their end is worth as much at their beginning


# ---- the algorithm


def reward_of(completion, record, tools, paid):
    """The most that any rung is paid which an answer has reached: "format", "tool" or "outcome"; else 0."""
    rungs = scoring.judge_outcome(completion.text, completion.ended, record, tools)
    return {"mean": max([paid[name] for name, reached in rungs.items() if reached], default=0.0), **rungs}


def compare(answers):
    """[(request, Completion, how much better it was paid than the request's answers on average)].

    In standard deviations (GRPO, arXiv:2402.03300): a request on which little can be won counts like one on which much
    can, or the policy would learn to make the well-paid call everywhere. Where all answers were paid alike there is
    nothing to learn, and they are left out (dynamic sampling, arXiv:2503.14476).
    """
    paid, compared = defaultdict(list), []
    for record, _, reward in answers:
        paid[record["prompt"]].append(reward["mean"])
    for record, completion, reward in answers:
        if spread := pstdev(paid[record["prompt"]]):
            compared.append((record, completion, (reward["mean"] - fmean(paid[record["prompt"]])) / spread))
    return compared


def estimate_advantages(rewards, values, gamma, gae_lambda):
    """GAE (arXiv:1506.02438, eq. 16), backwards over the columns; all (rows, T), and 0 after an answer's end."""
    advantages, following, next_value = rewards.clone(), 0.0, 0.0
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        following = delta + gamma * gae_lambda * following
        advantages[:, t], next_value = following, values[:, t]
    return advantages


def ppo_loss(log_probs, values, batch, ppo, tokens=None):
    """(loss, {name: what to watch}): the clipped policy loss (arXiv:1707.06347, eq. 7) and the value head's error.

    log_probs, values: (rows, T), of the policy as it is; batch: those of the policy that sampled, the advantages and
    returns. tokens: of the whole minibatch, where the batch is a part of it; its parts' losses are parts of one sum.
    """
    import torch

    mask, advantages = batch["completion_mask"], batch["advantages"]
    log_ratio = log_probs - batch["log_probs"]
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - ppo["clip_coef"], 1 + ppo["clip_coef"])
    policy_loss = masked_mean(-torch.min(ratio * advantages, clipped * advantages), mask, tokens)
    value_loss = 0.5 * masked_mean((values - batch["returns"]) ** 2, mask, tokens)
    watched = {
        "policy_loss": policy_loss.item(),
        "value_loss": value_loss.item(),
        "approx_kl": masked_mean((ratio - 1 - log_ratio).detach(), mask, tokens).item(),  # joschu.net/blog/kl-approx
        "clipfrac": masked_mean(((ratio - 1).abs() > ppo["clip_coef"]).float(), mask, tokens).item(),
    }
    return policy_loss + ppo["value_coef"] * value_loss, watched


def build_rollout(learner, answers, ppo):
    """(rollout, {name: what to watch}): what the losses need for each token, computed before the first step.

    answers: from `compare`. The rollout has their ids, and as (rows, T) log-probabilities, advantages and returns.
    """
    rollout = {
        "prompts": [prompting.encode_prompt(record["prompt"], learner.tokenizer) for record, _, _ in answers],
        "completions": [completion.token_ids for _, completion, _ in answers],
    }
    log_probs, values, reference_log_probs, mask = learner.evaluate_all(rollout)
    # The last token is paid the reward, and every token pays for how far it is from the reference: its share of the
    # KL divergence (arXiv:1909.08593, eq. 2).
    kl = log_probs - reference_log_probs
    rewards = -ppo["kl_coef"] * kl
    for row, (_, completion, reward) in enumerate(answers):
        rewards[row, len(completion.token_ids) - 1] += reward
    advantages = estimate_advantages(rewards, values, GAMMA, ppo["gae_lambda"])
    returns = advantages + values
    rollout |= {"log_probs": log_probs, "returns": returns, "advantages": whiten(advantages, mask)}
    return rollout, {
        "kl": kl.sum(dim=1).mean().item(),  # nats an answer
        "explained_variance": 1 - ((returns - values)[mask == 1].var() / returns[mask == 1].var()).item(),
        "response_length": mask.sum(dim=1).mean().item(),
    }


def optimize(learner, rollout, ppo, rng):
    """A few epochs of shuffled minibatches on one rollout; returns the means of what `ppo_loss` watches.

    Raises UserError for a loss or gradient that is not a number, before it reaches the weights.
    """
    import torch

    watched, count = [], len(rollout["prompts"])
    minibatches = max(1, round(count / ppo["minibatch_size"]))  # of even sizes: a step counts the same for one row
    for _ in range(ppo["epochs"]):
        order = rng.sample(range(count), count)
        for i in range(minibatches):
            rows, seen = order[i::minibatches], Counter()
            tokens = sum(len(rollout["completions"][row]) for row in rows)
            learner.optimizer.zero_grad()
            for _, batch in likelihood.batches(rollout, rows, learner.policy, learner.tokenizer):  # gradients add up
                loss, seen_of_part = ppo_loss(*learner.evaluate(batch), batch, ppo, tokens)
                loss.backward()
                seen.update(seen_of_part)
            if ppo["sft_coef"]:
                learner.read_labelled(ppo["sft_coef"], rng)
            parallel.total_gradients(learner.parameters)
            norm = torch.nn.utils.clip_grad_norm_(learner.parameters, ppo["max_grad_norm"])
            if not torch.isfinite(norm + seen["policy_loss"]):
                raise UserError("the loss is not a number: lower ppo.learning_rate.")
            learner.optimizer.step()
            watched.append(parallel.total_of(seen))
    return {name: fmean(seen[name] for seen in watched) for name in watched[0]}


def update_policy(learner, answers, settings, rng):
    """One update on [(request, Completion, reward)]; returns its row for the log."""
    rewards = [reward for _, _, reward in answers]
    row = {f"reward/{name}": fmean(reward[name] for reward in rewards) for name in rewards[0]}
    compared = compare(answers)
    row |= {"compared": len(compared), "tokens": sum(len(completion.token_ids) for _, completion, _ in answers)}
    if compared:
        rollout, watched = build_rollout(learner, compared, settings["ppo"])
        row |= watched | optimize(learner, rollout, settings["ppo"], rng)
        learner.move_average(1 - settings["ppo"]["average"])
    return row


# ---- the run


def train(learner, sample, validate, settings, artifact, track=lambda row, update: None):
    """All updates from the last checkpoint on; the best model so far is artifact/"model". Returns the progress."""
    from tqdm import tqdm

    ppo, checkpoint = settings["ppo"], artifact / "checkpoint-last.pt"
    state = [*learner.parameters, *learner.averaged]
    progress = weights.restore_checkpoint(checkpoint, state, learner.optimizer)
    if progress is None:
        progress = {"update": 0, "seconds": 0.0, "log": [], "validations": [{"update": 0, **validate()}]}
        weights.save_whole(learner.average, learner.tokenizer, artifact / "model")
    validations, log = progress["validations"], progress["log"]
    to_do = range(progress["update"] + 1, ppo["updates"] + 1)
    for update in (bar := tqdm(to_do, initial=progress["update"], total=ppo["updates"], desc="PPO")):
        begin = time.time()
        rng = random.Random(f"{settings['seed']} {update}")  # a killed run goes on from a checkpoint to the same end
        for group in learner.optimizer.param_groups:  # up while Adam does not know yet how large gradients are
            group["lr"] = ppo["learning_rate"] * min(1, update / ppo["warmup_updates"])
        answers = sample(rng)
        row = update_policy(learner, answers, settings, rng)
        log.append({"update": update, **row})
        track(row, update)
        bar.set_postfix(reward=f"{row['reward/mean']:.2f}", kl=f"{row.get('kl', 0):.2f}")
        checked = update % ppo["validate_every"] == 0 or update == ppo["updates"]
        if checked:
            tqdm.write(tables.sampled_answers(f"update {update}", answers[:: ppo["samples"]][:3]))
            validations.append({"update": update, **validate()})
            track({"validation": validations[-1]}, update)
            if validations[-1]["reward"] > max(row["reward"] for row in validations[:-1]):
                weights.save_whole(learner.average, learner.tokenizer, artifact / "model")
        progress |= {"update": update, "seconds": progress["seconds"] + time.time() - begin}
        if checked:
            weights.save_checkpoint(checkpoint, state, learner.optimizer, progress)
    return progress


def main():
    settings, _ = recipe.arguments(__doc__)
    artifacts.lock(settings)
    paths, records, validation, tools = artifacts.dataset(settings["output_dir"])
    start_manifest = artifacts.require(settings["output_dir"], settings["ppo"]["start"])

    tokenizer, policy, base = loading.load_start(settings, settings["ppo"]["start"], paths["tools.json"])
    requests, ppo = read_requests(settings["output_dir"]), recipe.for_model(settings, "ppo", base["kind"])
    records, requests = (generation.leave_out_long(rows, tokenizer, policy, settings) for rows in (records, requests))
    requests = requests or records
    learner = Learner(policy, tokenizer, settings, records)
    count = min(ppo["requests"], len(requests))
    grammar = decoding.grammars_of_calls(tools, tokenizer, ppo["decoding"])
    print(f"PPO on {ppo['start']}: {ppo['updates']} updates on {ppo['samples']} answers to each of {count} requests.")

    def answer(model, asked, **how):
        """[(request, Completion, reward)] of a model as it is."""
        made = generation.generate(model, tokenizer, [request["prompt"] for request in asked], settings, **how)
        paid = [reward_of(done, request, tools, ppo["reward"]) for request, done in zip(asked, made, strict=True)]
        return list(zip(asked, made, paid, strict=True))

    def sample(rng):
        asked = [request for request in rng.sample(requests, count) for _ in range(ppo["samples"])]
        return answer(learner.policy, asked, grammar=grammar, temperature=1.0, seed=rng.getrandbits(32))

    def validate():
        _, completions, rewards = zip(*answer(learner.average, validation), strict=True)
        scores = scoring.summarize(scoring.judge(completions, validation, tools))
        return {"reward": fmean(reward["mean"] for reward in rewards), **scores}

    inputs = [*paths.values(), *later_files(settings["output_dir"]), start_manifest]
    with (
        artifacts.stage(settings, STAGE, inputs=inputs, resume=True, base_model=base) as artifact,
        tracking.tracker(settings, artifact) as track,
        hardware.explain_oom(),
    ):
        progress = train(learner, sample, validate, settings | {"ppo": ppo}, artifact, track)
        if not parallel.is_main():
            return
        log, validations = progress["log"], progress["validations"]
        before, best = validations[0], max(validations, key=lambda row: row["reward"])  # the first of equals
        tokens = sum(row["tokens"] for row in log)
        training.write(artifact, learner.policy, log, validations, best, progress["seconds"], tokens)

    if not any(row["compared"] for row in log):
        print("In no update was one answer to a request paid better than another: there was nothing to learn.")
    print(training.sentence(before, best, progress["seconds"]))
    print(f"Update {best['update']} is kept: mean reward {best['reward']:.3f}, the start's {before['reward']:.3f}.")
    print(f"Written: {artifact.final}. Next: {console.command('08_evaluate.py')}")


if __name__ == "__main__":
    console.run(main, in_parallel=True)
