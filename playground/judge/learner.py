"""What PPO works on and keeps: the models, rows of tokens padded for them, and checkpoints to go on from."""

import copy
import dataclasses
import functools
import os
from collections import Counter

from playground.judge import checking
from playground.model import generation, loading, prompting, weights
from playground.run import hardware, parallel


@dataclasses.dataclass
class Learner:
    """The policy and what trains it.

    reference: the frozen model that training started from; None with LoRA, where it is the policy with its adapter
    off. critic: a torch ModuleDict with the value "head" and, unless it shares the policy's, a "trunk" of its own.
    """

    policy: object
    reference: object
    critic: object
    tokenizer: object
    optimizer: object
    accelerator: object

    def parameters(self):
        """The trainable ones of policy and critic."""
        modules = (self.policy, self.critic)
        return [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]

    def minibatches(self, rollout, order, size):
        """Yield (rows, batch): `size` rows of a rollout at a time, padded no further than these rows need.

        rollout: {"prompts", "completions"} as lists of token ids, and tensors (rows, T) under other names; a batch has
        `collate`'s tensors and these, cut to its own T. Several processes take a share of the rows each; one that gets
        none is given a row that does not count, its mask being 0, so that all of them make the same steps.
        """
        for first in range(0, len(order), size):
            minibatch = order[first : first + size]
            rows = parallel.share(minibatch)
            taken = rows or minibatch[:1]
            prompts, completions = ([rollout[name][row] for row in taken] for name in ("prompts", "completions"))
            batch = collate(prompts, completions, self.tokenizer.pad_token_id, self.accelerator.device)
            length = batch["completion_ids"].shape[1]
            tensors = {name: rows_of for name, rows_of in rollout.items() if name not in ("prompts", "completions")}
            batch |= {name: tensor[taken, :length] for name, tensor in tensors.items()}
            if not rows:
                batch["completion_mask"].zero_()
            yield rows, batch

    def save(self, path, progress):
        """Write what the next update needs into one file that is whole or not there; progress: plain values."""
        import torch

        if not parallel.is_main():
            return
        trained = {name: p for name, p in self.policy.named_parameters() if p.requires_grad}
        state = {"policy": trained, "critic": self.critic.state_dict(), "optimizer": self.optimizer.state_dict()}
        written = path.with_suffix(".new")
        with written.open("wb") as file:
            torch.save({**state, "progress": progress}, file)
            file.flush()
            os.fsync(file.fileno())
        written.replace(path)

    def restore(self, path):
        """The progress that the checkpoint at `path` holds, its weights put in place; None where there is none."""
        import torch

        if not parallel.from_main(path.exists):
            return None
        state = torch.load(path, map_location=self.accelerator.device, weights_only=True)
        self.policy.load_state_dict(state["policy"], strict=False)  # all that is trained; the rest never changes
        self.critic.load_state_dict(state["critic"])
        self.optimizer.load_state_dict(state["optimizer"])
        return state["progress"]


def load_learner(settings, stage, tool_file):
    """(Learner, base) on the model of `stage`, dropout off. Raises UserError where it was trained for other tools."""
    tokenizer, policy, base = loading.load_start(settings, stage, tool_file)
    reference = None
    if settings["model"]["use_lora"]:
        critic = new_critic(policy, settings["ppo"]["value_trunk"])
        policy = weights.add_lora(policy, settings)
    else:
        critic = new_critic(policy, settings["ppo"]["value_trunk"])
        reference = copy.deepcopy(policy).requires_grad_(False)
    return prepare(policy.eval(), reference, critic.eval(), tokenizer, settings["ppo"]["learning_rate"]), base


def new_critic(policy, trunk):
    """A value head that says 0 to everything; trunk: "shared" with the policy, or "own", a copy of the policy's."""
    import torch

    critic = torch.nn.ModuleDict({"head": torch.nn.Linear(policy.config.hidden_size, 1)})
    torch.nn.init.zeros_(critic["head"].weight)
    torch.nn.init.zeros_(critic["head"].bias)
    if trunk == "own":
        critic["trunk"] = copy.deepcopy(policy.base_model)
    return critic


def prepare(policy, reference, critic, tokenizer, learning_rate):
    """A Learner whose models and optimizer accelerate has put in place.

    Their weights are in float32: what half precision rounds off is as large as the steps that PPO takes.
    """
    import torch
    from accelerate import Accelerator

    learner = Learner(policy, reference, critic, tokenizer, None, Accelerator(cpu=policy.device.type == "cpu"))
    optimizer = torch.optim.AdamW(learner.parameters(), lr=learning_rate, eps=1e-5, weight_decay=0.0)
    # Not wrapped for training in several processes: 07_ppo.py adds up their gradients itself.
    place = functools.partial(learner.accelerator.prepare_model, evaluation_mode=True)
    learner.policy, learner.critic = place(policy), place(critic)
    learner.optimizer = learner.accelerator.prepare_optimizer(optimizer)
    return learner


def sample_answers(learner, records, reward, settings, seed):
    """[(record, completion, reward(completion, record))]: what the policy says at temperature 1."""
    prompts = [record["prompt"] for record in records]
    sampled = generation.generate(learner.policy, learner.tokenizer, prompts, settings, temperature=1.0, seed=seed)
    return [(record, done, reward(done, record)) for record, done in zip(records, sampled, strict=True)]


def compare(answers, tokenizer, agree):
    """The answers from which something can be learned, their reward being what they are better than the best one.

    Where no answer to a request is better than another there is nothing to learn (arXiv:2503.14476); nor where nobody
    knows the best one, which is the label's; without a label, that of the highest reward, if `checking.is_sure` trusts
    it and `agree` answers say the same. An answer is cut after the first token by which it leaves the best one, and
    paid there: what came before is no mistake, and what comes after a mistake cannot mend it.
    """
    by_request, compared = {}, []
    for answer in answers:
        by_request.setdefault(answer[0]["prompt"], []).append(answer)
    for asked in by_request.values():
        said = Counter(tuple(done.token_ids) for _, done, _ in asked)
        record, best, paid = max(asked, key=lambda answer: (answer[2]["mean"], said[tuple(answer[1].token_ids)]))
        best_ids, most = best.token_ids, paid["mean"]
        if "completion" in record:
            best_ids, most = prompting.encode_completion(record["completion"], tokenizer), 1.0
        elif said[tuple(best_ids)] < agree or not checking.is_sure(paid):
            continue
        if any(parts["mean"] != most for _, _, parts in asked):
            for record, done, parts in asked:
                pairs = zip(done.token_ids, best_ids, strict=False)
                same = next((i for i, (token, other) in enumerate(pairs) if token != other), len(done.token_ids))
                if same < len(done.token_ids) or done.token_ids == best_ids:  # else it ends before it could leave it
                    cut = dataclasses.replace(done, token_ids=done.token_ids[: same + 1])
                    compared.append((record, cut, {**parts, "mean": parts["mean"] - most}))
    return compared


def collate(prompts, completions, pad_token_id, device):
    """Prompts padded on the left, completions on the right, so that completions share their T columns.

    All columns together are a multiple of `memory.PADDED_TO`.

    Returns input_ids and attention_mask (rows, width), completion_ids and completion_mask (rows, T).
    """
    import torch

    width, length = max(map(len, prompts)), max(map(len, completions))
    width += -(width + length) % hardware.PADDED_TO
    ids = [
        [pad_token_id] * (width - len(p)) + p + c + [pad_token_id] * (length - len(c))
        for p, c in zip(prompts, completions, strict=True)
    ]
    mask = [
        [0] * (width - len(p)) + [1] * (len(p) + len(c)) + [0] * (length - len(c))
        for p, c in zip(prompts, completions, strict=True)
    ]
    ids, mask = torch.tensor(ids, device=device), torch.tensor(mask, device=device)
    return {"input_ids": ids, "attention_mask": mask,
            "completion_ids": ids[:, width:], "completion_mask": mask[:, width:].float()}  # fmt: skip


def evaluate_tokens(model, batch, critic=None, entropy_counts=True):
    """Log-probabilities (rows, T) of the completion tokens, the distribution's entropy, and the values (rows, T).

    The last two are None without a critic: its value head reads the policy's hidden states, or those of its own trunk.
    entropy_counts: whether gradients are wanted through it, which take as much memory as all logits do, and more.
    """
    import torch

    length = batch["completion_ids"].shape[1]
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    inputs |= generation.positions(model, batch["attention_mask"], batch["input_ids"].shape[1])
    outputs = model(**inputs, output_hidden_states=critic is not None, use_cache=False, logits_to_keep=length + 1)
    # (rows, T, vocabulary): a token is predicted in the column before it
    every = torch.log_softmax(outputs.logits[:, :-1].float(), dim=-1)
    log_probs = every.gather(2, batch["completion_ids"].unsqueeze(2)).squeeze(2)
    if critic is None:
        return log_probs, None, None
    with torch.set_grad_enabled(torch.is_grad_enabled() and entropy_counts):
        entropy = -(every.exp() * every).sum(dim=-1)
    own = "trunk" in critic
    hidden = critic["trunk"](**inputs, use_cache=False).last_hidden_state if own else outputs.hidden_states[-1]
    values = critic["head"](hidden[:, -length - 1 : -1].float()).squeeze(2).float()
    return log_probs, entropy, values


def masked_mean(tensor, mask, count=None):
    """The mean over the tokens where mask is 1; with a larger count of tokens, this part's share of their mean."""
    return (tensor * mask).sum() / (mask.sum() if count is None else count)


def masked_variance(tensor, mask):
    return masked_mean((tensor - masked_mean(tensor, mask)) ** 2, mask)


def whiten(tensor, mask):
    """The tensor shifted and scaled to mean 0 and variance 1 over the tokens where mask is 1."""
    return (tensor - masked_mean(tensor, mask)) / (masked_variance(tensor, mask) + 1e-8).sqrt()


def explained_variance(values, returns, mask):
    """1 for a value head that knows every return, 0 for one that knows no more than their mean."""
    return 1 - (masked_variance(returns - values, mask) / masked_variance(returns, mask)).item()
