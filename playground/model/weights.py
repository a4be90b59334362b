"""The weights of a model in training: adapters on them, a way between two of them, and how they are saved."""

import contextlib
import copy
import math
import os

from playground.run import hardware, parallel
from playground.run.errors import UserError

LARGE = 5e7  # weights from which on reading them in bfloat16 pays; models of 7.5 million gain nothing


def is_sharded(model):
    """Whether several processes hold a part of the model's weights each (FSDP)."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def for_generation(model, settings):
    """The model, or its copy in bfloat16 where a CPU then answers sooner: SmolLM2 takes 0.6 of the time.

    Only where the recipe leaves the dtype open. What is computed once, such as rotary frequencies, stays in float32.
    """
    import torch

    bare = getattr(model, "module", model)  # what DDP has wrapped
    weights = list(bare.parameters())
    fast = model.device.type == "cpu" and hardware.has_bf16() and not is_sharded(model)
    if not fast or settings["model"]["dtype"] != "auto" or sum(map(torch.numel, weights)) < LARGE:
        return model
    # What deepcopy finds in its memo is not copied. Weights without gradients would be multiplied row by row.
    memo = {id(weight): torch.nn.Parameter(weight.detach().bfloat16()) for weight in weights}
    return copy.deepcopy(bare, memo)


def save(model, folder):
    """Save a model, or its adapter; of several processes that have it or a part of it, the main one writes."""
    options = {}
    if is_sharded(model):
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
        options["state_dict"] = get_model_state_dict(model, options=whole)
    if parallel.is_main():
        model.save_pretrained(folder, **options)


@contextlib.contextmanager
def interpolated(start, model, share):
    """For a while the model's weights are start + share * (weights - start): WiSE-FT, arXiv:2109.01903.

    start: the model that training started from; None where an adapter is trained, without which the model is that.
    """
    import torch

    if start is None:
        from peft.helpers import rescale_adapter_scale

        with rescale_adapter_scale(model, share):
            yield
        return
    trained = [weights.detach().clone() for weights in model.parameters()]
    between = (torch.lerp(first, last, share) for first, last in zip(start.parameters(), trained, strict=True))
    _put(between, model.parameters())
    try:
        yield
    finally:
        _put(trained, model.parameters())


def _put(values, parameters):
    import torch

    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)


def save_whole(model, tokenizer, folder):
    """Save model and tokenizer so that `folder` needs no other: an adapter is merged into a copy of the weights."""
    if not parallel.is_main():
        return
    if hasattr(model, "merge_and_unload"):
        model = copy.deepcopy(model).merge_and_unload()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_checkpoint(path, parameters, optimizer, progress):
    """Write what a training loop goes on from into one file, whole or not there; progress: plain values."""
    import torch

    if parallel.is_main():
        new = path.with_suffix(".new")
        with new.open("wb") as file:
            torch.save({"weights": parameters, "optimizer": optimizer.state_dict(), "progress": progress}, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)


def restore_checkpoint(path, parameters, optimizer):
    """The progress that `save_checkpoint` wrote, weights and optimizer put in place; None where there is none."""
    import torch

    if not parallel.from_main(path.exists):
        return None
    state = torch.load(path, map_location=parameters[0].device, weights_only=True)
    _put(state["weights"], parameters)
    optimizer.load_state_dict(state["optimizer"])
    return state["progress"]


def lora_config(model, settings):
    """PEFT's configuration of trainable low-rank adapters on the layers that the recipe names, or a UserError."""
    from peft import LoraConfig

    section = settings["model"]
    targets = section["lora_targets"]
    if targets != "all-linear":
        targets, layers = targets.split(","), [f".{name}" for name, _ in model.named_modules()]
        for target in targets:
            if not any(layer.endswith(f".{target}") for layer in layers):
                raise UserError(f"model.lora_targets: no layer is named {target!r}: give all-linear, or other names.")
    return LoraConfig(
        r=section["lora_rank"],
        lora_alpha=section["lora_alpha"],
        target_modules=targets,
        # GPT-2 keeps its weights transposed (Conv1D), and PEFT must know.
        fan_in_fan_out=model.config.model_type == "gpt2",
        task_type="CAUSAL_LM",
    )


def add_lora(model, settings):
    """The model with those adapters on it."""
    from peft import get_peft_model

    model = get_peft_model(model, lora_config(model, settings))
    for config in model.peft_config.values():
        if isinstance(config.target_modules, set):  # which would be saved in another order each time
            config.target_modules = sorted(config.target_modules)
    return model


def averaging(model, begin, folder, after_epoch):
    """For a Hugging Face Trainer: the mean of the weights after each step (SWA, arXiv:1803.05407).

    begin: after which share of the steps; 1 for no mean. folder: the trainer's, whose checkpoints keep the mean too.
    after_epoch(its number, the mean, or the model where there is none yet) is called when an epoch is done.
    """
    import torch
    from torch.optim.swa_utils import AveragedModel
    from transformers import TrainerCallback

    average = AveragedModel(model) if begin < 1 else None  # of no step yet

    class Average(TrainerCallback):
        def saved(self, state):
            return folder / f"checkpoint-{state.global_step}" / "average.pt"

        def on_train_begin(self, args, state, control, **_):
            if average and self.saved(state).exists():
                average.load_state_dict(torch.load(self.saved(state), "cpu", weights_only=True))

        def on_step_end(self, args, state, control, model=None, **_):
            if average and state.global_step > begin * state.max_steps:
                average.update_parameters(model)

        def on_epoch_end(self, args, state, control, model=None, **_):
            if average and average.n_averaged:
                model = average.module
                if parallel.is_main():  # before the trainer's own files, of which the last makes a checkpoint whole
                    self.saved(state).parent.mkdir(exist_ok=True)
                    torch.save(average.state_dict(), self.saved(state))
            after_epoch(math.ceil(state.epoch), model)  # the last may be a part of one

    return Average()
