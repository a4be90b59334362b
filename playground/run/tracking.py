"""Where a training stage's curves go besides log.jsonl: TensorBoard, trackio or Weights & Biases."""

import contextlib

from playground.run import parallel, recipe

PROJECT = "tool-calls"


@contextlib.contextmanager
def tracker(settings, artifact):
    """log(row, step) for a stage: sends the numbers in a row to where `report_to` says, none being nowhere.

    What a tracker keeps in files of its own is part of the artifact: `tensorboard --logdir outputs` shows them all.
    """
    name = settings["report_to"]
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


def numbers(row):
    """{name: number} of a row of log.jsonl; those of a nested object are named as `validation/exact_call`."""
    return {name: value for name, value in recipe.flat(row, "/").items() if isinstance(value, int | float)}


def callback(log):
    """What a Hugging Face Trainer calls with each row that it logs."""
    from transformers import TrainerCallback

    class Tracking(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **_):
            log(logs, state.global_step)

    return Tracking()


def show_progress(trainer, shown):
    """A progress bar with the latest of the metrics `shown`, {name in the log: label}, where Trainer prints dicts."""
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    class Bar(ProgressCallback):
        def on_log(self, args, state, control, logs=None, **_):
            latest = {label: f"{logs[name]:.2f}" for name, label in shown.items() if name in (logs or {})}
            if latest and self.training_bar is not None:
                self.training_bar.set_postfix(latest)

    for printing in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printing)
    trainer.add_callback(Bar())
    # TRL's own, in each checkpoint, would name neither model nor data, and list its tags in another order each time.
    trainer.create_model_card = lambda *_, **__: None
