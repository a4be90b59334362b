"""Stage 07: proximal policy optimization (PPO, arXiv:1707.06347) with a reward that a program computes.

    python 07_ppo.py

The fine-tuned model (the *policy*) answers requests with sampling. Each answer gets a reward from the same code
that evaluates: no reward model, so nothing that can be flattered. Most of the requests (rl.jsonl) have no label:
there a checker pays for a call that is valid, executes, and takes its arguments from the request. Tokens that made
the reward better than expected become more probable, the others less:

1. roll out: sample an answer to each of a batch of requests;
2. reward the last token with the score, and every token with -kl_coef * (log p - log p of the SFT model),
   so that the policy does not wander off (arXiv:1909.08593);
3. estimate each token's advantage over what the value head expected (GAE, arXiv:1506.02438);
4. take a few optimizer steps on the clipped objective, which stops paying once a token's probability has
   moved by more than clip_coef.

The checkpoint with the most exact calls on validation is kept, the starting point included.

Writes outputs/07_ppo/: the model, metrics.json, log.jsonl, ppo.png, manifest.json. Next: 08_evaluate.py
"""

import random
import time

import tools as toolbox
from playground import artifacts, checking, recipe, scoring, tracking
from playground.artifacts import UserError

STAGE = "07_ppo"
REWARDED = ("format_correctness", "schema_validity", "tool_accuracy", "argument_accuracy", "exact_call")


def reward_of(completion, record, tools):
    """A completion's reward, 0 to 1: the mean of its scores, each of which needs the one before it.

    Without a label the checker's: valid, executes, arguments grounded in the request, and all of it without fault.
    """
    if "completion" in record:
        scores = scoring.score(completion.text, record["completion"], tools, completion.ended, record["prompt"])
        return sum(scores[name] for name in REWARDED) / len(REWARDED)
    checks = list(checking.label_free(completion.text, record["prompt"], tools).values())
    return (sum(checks) + (min(checks) == 1)) / (len(checks) + 1)


def collate(prompts, completions, pad_token_id, device):
    """Prompts padded on the left, completions on the right, so that completions share their T columns.

    Returns input_ids and attention_mask (rows, width), completion_ids and completion_mask (rows, T).
    """
    import torch

    width, length = max(map(len, prompts)), max(map(len, completions))
    ids = [[pad_token_id] * (width - len(p)) + p + c + [pad_token_id] * (length - len(c))
           for p, c in zip(prompts, completions, strict=True)]  # fmt: skip
    mask = [[0] * (width - len(p)) + [1] * (len(p) + len(c)) + [0] * (length - len(c))
            for p, c in zip(prompts, completions, strict=True)]  # fmt: skip
    ids, mask = torch.tensor(ids, device=device), torch.tensor(mask, device=device)
    return {"input_ids": ids, "attention_mask": mask,
            "completion_ids": ids[:, width:], "completion_mask": mask[:, width:].float()}  # fmt: skip


def evaluate_tokens(model, batch, value_head=None):
    """Log-probabilities (rows, T) of the completion tokens, the distribution's entropy, and the values (rows, T)."""
    import torch

    from playground.generation import positions

    length = batch["completion_ids"].shape[1]
    outputs = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        **positions(model, batch["attention_mask"], batch["input_ids"].shape[1]),
        output_hidden_states=value_head is not None,
        logits_to_keep=length + 1,
    )
    all_log_probs = torch.log_softmax(outputs.logits[:, :-1].float(), dim=-1)  # (rows, T, vocabulary)
    log_probs = all_log_probs.gather(2, batch["completion_ids"].unsqueeze(2)).squeeze(2)
    if value_head is None:
        return log_probs, None, None
    entropy = -(all_log_probs.exp() * all_log_probs).sum(dim=-1)
    # The value of a state is read where the next token is about to be chosen.
    values = value_head(outputs.hidden_states[-1][:, -length - 1 : -1].float()).squeeze(2)
    return log_probs, entropy, values


def estimate_advantages(rewards, values, mask, gamma, gae_lambda):
    """GAE (arXiv:1506.02438, eq. 16), backwards over the columns; rewards, values, mask and result: (rows, T)."""
    import torch

    advantages, following, next_value = torch.zeros_like(rewards), 0.0, 0.0
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        following = (delta + gamma * gae_lambda * following) * mask[
            :, t
        ]  # padding comes after the end: nothing follows
        advantages[:, t] = following
        next_value = values[:, t] * mask[:, t]
    return advantages


def masked_mean(tensor, mask):
    return (tensor * mask).sum() / mask.sum()


def ppo_loss(log_probs, entropy, values, rollout, ppo):
    """The clipped policy loss (arXiv:1707.06347, eq. 7) plus the clipped value loss, and what to watch."""
    import torch

    mask, advantages = rollout["completion_mask"], rollout["advantages"]
    log_ratio = log_probs - rollout["log_probs"]
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - ppo["clip_coef"], 1 + ppo["clip_coef"])
    policy_loss = masked_mean(-torch.min(ratio * advantages, clipped * advantages), mask)
    near = rollout["values"] + (values - rollout["values"]).clamp(-ppo["value_clip_coef"], ppo["value_clip_coef"])
    errors = torch.max((values - rollout["returns"]) ** 2, (near - rollout["returns"]) ** 2)
    value_loss = 0.5 * masked_mean(errors, mask)
    watched = {
        "policy_loss": policy_loss.item(),
        "value_loss": value_loss.item(),
        "entropy": masked_mean(entropy.detach(), mask).item(),
        "approx_kl": masked_mean(ratio.detach() - 1 - log_ratio.detach(), mask).item(),  # joschu.net/blog/kl-approx
        "clipfrac": masked_mean(((ratio - 1).abs() > ppo["clip_coef"]).float(), mask).item(),
    }
    return policy_loss + ppo["value_coef"] * value_loss, watched


def roll_out(policy, reference, value_head, tokenizer, records, tools, settings, seed):
    """Sample an answer to each record, score it, and lay everything out for `ppo_loss`."""
    import torch

    from playground import generation, models

    ppo = settings["ppo"]
    prompts = [record["prompt"] for record in records]
    completions = generation.generate(policy, tokenizer, prompts, settings, temperature=1.0, seed=seed)
    scores = torch.tensor([reward_of(done, row, tools) for done, row in zip(completions, records, strict=True)])
    encoded = [toolbox.encode_prompt(prompt, tokenizer) for prompt in prompts]
    batch = collate(encoded, [c.token_ids for c in completions], tokenizer.pad_token_id, policy.device)
    mask = batch["completion_mask"]
    with torch.no_grad(), models.in_memory("ppo.rollouts", ppo["rollouts"]):
        log_probs, _, values = evaluate_tokens(policy, batch, value_head)
        reference_log_probs, _, _ = evaluate_tokens(reference, batch)
    kl = (log_probs - reference_log_probs) * mask
    rewards = -ppo["kl_coef"] * kl
    last = mask.sum(dim=1).long() - 1
    rewards[torch.arange(len(records)), last] += scores.to(rewards.device)
    advantages = estimate_advantages(rewards, values * mask, mask, ppo["gamma"], ppo["gae_lambda"])
    returns = advantages + values
    mean = masked_mean(advantages, mask)
    deviation = masked_mean((advantages - mean) ** 2, mask).sqrt()
    whitened = (advantages - mean) / (deviation + 1e-8)
    watched = {
        "reward": scores.mean().item(),
        "kl": kl.sum(dim=1).mean().item(),
        "response_length": mask.sum(dim=1).mean().item(),
    }
    return {**batch, "log_probs": log_probs, "values": values, "advantages": whitened, "returns": returns}, watched


def main():
    settings, _ = recipe.arguments(__doc__)
    artifacts.lock(settings)
    paths = {name: artifacts.require(settings["output_dir"], "02_create_dataset", name)
             for name in ("train.jsonl", "val.jsonl", "tools.json")}  # fmt: skip
    train, validation = artifacts.read_records(paths["train.jsonl"]), artifacts.read_records(paths["val.jsonl"])
    tools = toolbox.load_tools(paths["tools.json"])
    pool = artifacts.read_requests(settings["output_dir"])
    sft_manifest = artifacts.require(settings["output_dir"], "03_finetune")

    import torch
    from tqdm import trange

    from playground import generation, models, report

    tokenizer, policy, base = models.load_checkpoint(settings, "03_finetune")
    _, reference, _ = models.load_checkpoint(settings, "03_finetune")
    ppo, rng = settings["ppo"], random.Random(settings["seed"])
    torch.manual_seed(settings["seed"])
    value_head = torch.nn.Linear(policy.config.hidden_size, 1).to(policy.device)
    torch.nn.init.zeros_(value_head.weight)
    parameters = [p for p in policy.parameters() if p.requires_grad] + list(value_head.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=ppo["learning_rate"], eps=1e-5)

    def validate():
        completions = generation.generate(policy, tokenizer, [row["prompt"] for row in validation], settings)
        return scoring.summarize(scoring.judge(completions, validation, tools))

    train, pool = (generation.leave_out_long(rows, tokenizer, policy, settings) for rows in (train, pool))
    with (
        artifacts.stage(settings, STAGE, inputs=[*paths.values(), sft_manifest], base_model=base) as artifact,
        tracking.tracker(settings, artifact) as track,
        models.in_memory("ppo.minibatch_size", ppo["minibatch_size"]),
    ):
        before = best = validate()
        policy.save_pretrained(artifact / "model")
        log, tokens, begin = [], 0, time.time()
        for update in (bar := trange(1, ppo["updates"] + 1, desc="PPO")):
            without = min(round(ppo["rollouts"] * ppo["unlabelled_share"]), len(pool))
            records = rng.sample(pool, without) + rng.sample(train, min(ppo["rollouts"] - without, len(train)))
            rollout, watched = roll_out(policy, reference, value_head, tokenizer, records, tools, settings, seed=update)
            tokens += int(rollout["attention_mask"].sum())
            for _ in range(ppo["epochs"]):
                order = rng.sample(range(len(records)), len(records))
                for first in range(0, len(order), ppo["minibatch_size"]):
                    rows = order[first : first + ppo["minibatch_size"]]
                    minibatch = {name: tensor[rows] for name, tensor in rollout.items()}
                    loss, losses = ppo_loss(*evaluate_tokens(policy, minibatch, value_head), minibatch, ppo)
                    if not torch.isfinite(loss):
                        raise UserError(f"the loss is not a number at update {update}: lower ppo.learning_rate.")
                    optimizer.zero_grad()
                    loss.backward()
                    torch.nn.utils.clip_grad_norm_(parameters, ppo["max_grad_norm"])
                    optimizer.step()
            row = {"update": update, **watched, **losses}
            if update % ppo["validate_every"] == 0 or update == ppo["updates"]:
                validated = validate()
                row["validation"] = validated
                if validated["exact_call"] > best["exact_call"]:
                    best = validated
                    policy.save_pretrained(artifact / "model")
            log.append(row)
            track(row, update)
            bar.set_postfix(reward=f"{row['reward']:.2f}", kl=f"{row['kl']:.2f}")
        seconds = time.time() - begin
        tokenizer.save_pretrained(artifact / "model")
        artifacts.write_jsonl(artifact / "log.jsonl", log)
        artifacts.write_json(artifact / "metrics.json", {
            "validation_before": before,
            "validation_after": best,
            "train_seconds": seconds,
            "tokens_per_second": tokens / seconds,
            "peak_memory_mb": models.peak_memory_mb(),
        })  # fmt: skip
        report.plot_curves(artifact / "ppo.png", {
            name: [(row["update"], row[name]) for row in log] for name in ("reward", "kl", "entropy", "value_loss")
        }, "update")  # fmt: skip
        artifact.facts.update(device=str(policy.device), dtype="float32")

    helped = best["exact_call"] > before["exact_call"]
    print(f"Exact calls on validation: {before['exact_call']:.1%} before, {best['exact_call']:.1%} after, "
          f"in {seconds:.0f} s." + ("" if helped else " PPO did not help here: the SFT model is kept."))  # fmt: skip
    print(f"Written: {artifact.final}. Next: python 08_evaluate.py")


if __name__ == "__main__":
    artifacts.run(main)
