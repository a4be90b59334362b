"""What PPO trains: a policy, its value head, and what keeps the policy close to the model it started from."""

import copy
from contextlib import nullcontext

from playground.model import likelihood, prompting, weights
from playground.run import parallel

LABELLED = 32  # of SFT's records, that a step reads


class Learner:
    """The policy, its value head and the optimizer of both.

    reference: the model that the policy started from. average: a moving average of the policy's weights, which single
    updates move little (arXiv:2406.16768); it is what is validated and kept. labelled: SFT's records, encoded.
    """

    def __init__(self, policy, tokenizer, settings, records):
        import torch

        use_lora = settings["model"]["use_lora"]
        self.reference = None if use_lora else copy.deepcopy(policy).requires_grad_(False)  # else the adapter is off
        self.policy, self.tokenizer = weights.add_lora(policy, settings).eval() if use_lora else policy, tokenizer
        self.average = copy.deepcopy(self.policy)
        self.labelled = {
            "prompts": [prompting.encode_prompt(record["prompt"], tokenizer) for record in records],
            "completions": [prompting.encode_completion(record["completion"], tokenizer) for record in records],
        }
        self.value_head = torch.nn.Linear(policy.config.hidden_size, 1, device=policy.device)
        torch.nn.init.zeros_(self.value_head.weight)  # it expects nothing of anything
        torch.nn.init.zeros_(self.value_head.bias)
        trained = [*self.policy.parameters(), *self.value_head.parameters()]
        self.parameters = [weight for weight in trained if weight.requires_grad]
        self.averaged = [weight for weight in self.average.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=0.0, eps=1e-5, weight_decay=0.0)

    def evaluate(self, batch):
        """(log-probabilities, values) of the tokens of a batch's completions, (rows, T)."""
        log_probs, hidden = likelihood.evaluate_tokens(self.policy, batch)
        return log_probs, self.value_head(hidden).squeeze(2)

    def evaluate_reference(self, batch):
        """The reference's log-probabilities of them, (rows, T)."""
        with nullcontext() if self.reference else self.policy.disable_adapter():
            return likelihood.evaluate_tokens(self.reference or self.policy, batch)[0]

    def evaluate_all(self, answers):
        """(log-probabilities, values, the reference's log-probabilities, mask) of all answers' tokens, (rows, T).

        answers: {"prompts", "completions"}. Several processes read a share each; padding is 0.
        """
        import torch

        lengths = torch.tensor([len(ids) for ids in answers["completions"]], device=self.policy.device)
        mask = (torch.arange(max(lengths), device=lengths.device) < lengths[:, None]).float()
        found = [torch.zeros_like(mask) for _ in range(3)]
        with torch.no_grad():
            for rows, batch in likelihood.batches(answers, range(len(lengths)), self.policy, self.tokenizer):
                columns = slice(batch["completion_ids"].shape[1])
                for whole, part in zip(found, (*self.evaluate(batch), self.evaluate_reference(batch)), strict=True):
                    whole[rows, columns] = part * batch["completion_mask"]
        return *map(parallel.total, found), mask

    def move_average(self, share):
        """Move the average a share of the way to the policy."""
        import torch

        with torch.no_grad():
            for average, new in zip(self.averaged, self.parameters, strict=False):  # but for the value head
                average.lerp_(new, share)

    def read_labelled(self, coefficient, rng):
        """Add the gradient of SFT's loss on a few of its records (PPO-ptx, arXiv:2203.02155, eq. 2).

        What has been learned from labels is not to be lost for a reward that seldom asks for it.
        """
        count = len(self.labelled["prompts"])
        rows = rng.sample(range(count), min(count, LABELLED))
        tokens = sum(len(self.labelled["completions"][row]) for row in rows)
        for _, batch in likelihood.batches(self.labelled, rows, self.policy, self.tokenizer):
            log_probs, _ = likelihood.evaluate_tokens(self.policy, batch)
            (-coefficient * likelihood.masked_mean(log_probs, batch["completion_mask"], tokens)).backward()
