"""What a person sees while a Hugging Face Trainer works."""


def show(trainer, shown):
    """A progress bar with the latest of the metrics `shown`, {name in the log: label}, where Trainer prints dicts.

    And no model card, which TRL writes into checkpoints.
    """
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    class Bar(ProgressCallback):
        def on_log(self, args, state, control, logs=None, **_):
            latest = {label: f"{logs[name]:.2f}" for name, label in shown.items() if name in (logs or {})}
            if latest and self.training_bar is not None:
                self.training_bar.set_postfix(latest)

    for printing in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printing)
    trainer.add_callback(Bar())
    # TRL's own would name neither model nor data, and list its tags in another order each time.
    trainer.create_model_card = lambda *_, **__: None
