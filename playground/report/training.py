"""What every training stage leaves and says when it is done."""

from playground.run import hardware
from playground.run.files import write_json, write_jsonl


def write(artifact, model, log, validations, best, seconds, tokens, more):
    """metrics.json and log.jsonl into an artifact, and into its facts what the model was trained on.

    log: the rows of the training's curves. validations: what was measured before (the first), meanwhile and after;
    best: the one whose model is kept. tokens: how many were read in so many seconds. more: metrics of the stage's own.
    """
    write_json(
        artifact / "metrics.json",
        {
            **more,
            "validation_before": validations[0],
            "validation_after": best,
            "train_seconds": seconds,
            "tokens_per_second": tokens / seconds,
            "peak_memory_mb": hardware.peak_mb(),
        },
    )
    write_jsonl(artifact / "log.jsonl", [*log, *({"validation": row} for row in validations)])
    precision = "bfloat16 autocast" if hardware.has_bf16() else "float32"
    artifact.facts.update(device=str(model.device), dtype=precision)


def sentence(before, after, seconds):
    """What the training has changed, for a person."""
    rates = f"{before['exact_call']:.1%} before, {after['exact_call']:.1%} after"
    return f"Exact calls on validation: {rates}, in {seconds:.0f} s."
