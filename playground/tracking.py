"""Where a training stage's curves go besides log.jsonl: TensorBoard, trackio or Weights & Biases."""

import contextlib

from playground import parallel

PROJECT = "tool-calls"


@contextlib.contextmanager
def tracker(recipe, artifact):
    """log(row, step) for a stage: sends the numbers in a row to where `report_to` says, none being nowhere.

    What a tracker keeps in files of its own is part of the artifact: `tensorboard --logdir outputs` shows them all.
    """
    name = recipe["report_to"]
    if name == "none" or not parallel.is_main():
        yield lambda row, step: None
        return
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()  # without it, the trackers of trackio and wandb cannot say that they have started
    run = artifact.final.name
    options = {
        "tensorboard": {"run_name": "tensorboard", "logging_dir": str(artifact.path)},
        "trackio": {"run_name": PROJECT, "name": run},
        "wandb": {"run_name": PROJECT, "name": run, "dir": str(artifact.path)},
    }
    destination = LOGGER_TYPE_TO_CLASS[name](**options[name])
    destination.start()
    try:
        yield lambda row, step: destination.log(numbers(row), step=step)
    finally:
        destination.finish()


def numbers(row, path=""):
    """{name: number} of a row of log.jsonl; those of a nested object are named as `validation/exact_call`."""
    found = {}
    for name, value in row.items():
        if isinstance(value, dict):
            found |= numbers(value, f"{path}{name}/")
        elif isinstance(value, int | float):
            found[path + name] = value
    return found


def callback(log):
    """What a Hugging Face Trainer calls with each row that it logs."""
    from transformers import TrainerCallback

    class Tracking(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **_):
            log(logs, state.global_step)

    return Tracking()
