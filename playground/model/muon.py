"""Muon and AdamW as one optimizer: the first for the matrices inside a model, the second for all else."""

import torch

# The quintic iteration of Keller Jordan's Muon (kellerjordan.github.io/posts/muon): x -> ax + bx^3 + cx^5 on every
# singular value. Its slope at 0 is as steep as can be, so five steps bring values from 0.01 to between 0.68 and 1.14.
NEWTON_SCHULZ, STEPS, MOMENTUM = (3.4445, -4.7750, 2.0315), 5, 0.95


def orthogonalized(matrices, dtype=torch.float32):
    """The nearest orthogonal factor U V^T of each matrix U S V^T, roughly; matrices and result: (count, rows, columns).

    Computed in `dtype`. torch.optim.Muon always takes bfloat16, which a CPU without instructions for it multiplies
    a hundred times slower than float32.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).to(dtype)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)  # no singular value is over the Frobenius norm
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class MuonAdamW(torch.optim.Optimizer):
    """Muon (arXiv:2502.16982) where it is defined, AdamW elsewhere.

    AdamW scales each weight's step by itself. Muon makes the step of a whole matrix orthogonal: every direction in
    which the gradient points gets a step of one length, those that only a few records ask for too. Its steps are
    scaled to AdamW's size, so one learning rate serves both. Embeddings, biases and norms are AdamW's, not decayed.
    """

    def __init__(self, model, lr, weight_decay, dtype=torch.float32):
        """lr: of both; weight_decay: of the matrices; dtype: what the device multiplies fast."""
        outer = [module for module in model.modules() if isinstance(module, torch.nn.Embedding)]
        outer = {id(module.weight) for module in (*outer, model.get_output_embeddings()) if module is not None}
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        inside = [parameter for parameter in trained if parameter.ndim == 2 and id(parameter) not in outer]
        rest = [parameter for parameter in trained if parameter.ndim != 2 or id(parameter) in outer]
        self.dtype = dtype
        self.adamw = torch.optim.AdamW(rest, lr=lr, weight_decay=0.0) if rest else None  # with LoRA, only matrices
        groups = [{"params": inside, "lr": lr, "weight_decay": weight_decay}]
        super().__init__(groups + (self.adamw.param_groups if rest else []), {})

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure() if closure else None
        self._step_of_muon(self.param_groups[0])
        if self.adamw:
            self.adamw.param_groups, self.adamw.state = self.param_groups[1:], self.state  # new after a checkpoint
            self.adamw.step()
        return loss

    def _step_of_muon(self, group):
        by_shape = {}
        for weights in group["params"]:
            if weights.grad is not None:
                by_shape.setdefault(weights.shape, []).append(weights)
        for shape, alike in by_shape.items():
            steps = []
            for weights in alike:
                momentum = self.state[weights].setdefault("momentum_buffer", torch.zeros_like(weights))
                momentum.lerp_(weights.grad, 1 - MOMENTUM)
                steps.append(weights.grad.lerp(momentum, MOMENTUM))  # Nesterov's
            steps = orthogonalized(torch.stack(steps), self.dtype).to(alike[0].dtype)
            size = 0.2 * max(shape) ** 0.5  # the root mean square of AdamW's steps (arXiv:2502.16982, section 2.2)
            for weights, step in zip(alike, steps, strict=True):
                weights.mul_(1 - group["lr"] * group["weight_decay"]).add_(step, alpha=-group["lr"] * size)
