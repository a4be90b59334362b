"""Muon and AdamW as one optimizer: the first for the matrices inside a model, the second for all else."""

import torch


class MuonAdamW(torch.optim.Optimizer):
    """Muon (kellerjordan.github.io/posts/muon, arXiv:2502.16982) where it is defined, AdamW elsewhere.

    AdamW scales each weight's step by itself. Muon makes the step of a whole matrix orthogonal: every direction in
    which the gradient points gets a step of one length, those that only a few records ask for too. Its steps are
    scaled to AdamW's size, so one learning rate serves both. Embeddings, biases and norms are AdamW's, not decayed.
    """

    def __init__(self, model, lr, weight_decay):
        """model: its parameters that require a gradient are trained; lr: of both; weight_decay: of the matrices."""
        outer = [module for module in model.modules() if isinstance(module, torch.nn.Embedding)]
        outer = {id(module.weight) for module in (*outer, model.get_output_embeddings()) if module is not None}
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        inside = [parameter for parameter in trained if parameter.ndim == 2 and id(parameter) not in outer]
        rest = [parameter for parameter in trained if parameter.ndim != 2 or id(parameter) in outer]
        self.parts = [torch.optim.Muon(inside, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")]
        if rest:  # with LoRA there are only matrices
            self.parts.append(torch.optim.AdamW(rest, lr=lr, weight_decay=0.0))
        super().__init__([part.param_groups[0] for part in self.parts], {})

    def step(self, closure=None):
        for part, group in zip(self.parts, self.param_groups, strict=True):
            part.param_groups, part.state = [group], self.state  # both are new objects after a checkpoint is loaded
        losses = [part.step(closure if part is self.parts[0] else None) for part in self.parts]
        return losses[0]
