"""What every training stage leaves and says when it is done."""

from playground.report import plots
from playground.run import hardware, tracking
from playground.run.files import write_json, write_jsonl

# stage -> (its plot, what its rows count, {a number in log.jsonl: its panel's title}).
CURVES = {
    "03_finetune": ("loss.png", "epoch", {
        "loss": "training loss (nats a token)",
        "validation/exact_call": "exact calls on validation",
    }),
    "06_dpo": ("dpo.png", "step", {
        "loss": "loss",
        "rewards/margins": "margin of chosen over rejected",
        "rewards/accuracies": "share of pairs ranked right",
        "logps/chosen": "log p(chosen)",
        "logps/rejected": "log p(rejected)",
        "validation/exact_call": "exact calls on validation",
    }),
    "07_ppo": ("ppo.png", "update", {
        **dict.fromkeys(("reward/mean", "reward/outcome", "compared", "kl", "approx_kl", "clipfrac", "policy_loss",
                         "value_loss", "explained_variance", "response_length")),
        "validation/reward": "reward on validation",
        "validation/exact_call": "exact calls on validation",
    }),
}  # fmt: skip


def curves(stage, log):
    """{title: [(x, y), ...]} of the rows of a stage's log.jsonl, without what was not logged."""
    _, unit, titles = CURVES[stage]
    rows = [tracking.numbers(row) for row in log]
    rows = [{unit: row.get(f"validation/{unit}"), **row} for row in rows]
    drawn = {
        title or name: [(row[unit], row[name]) for row in rows if name in row and row[unit] is not None]
        for name, title in titles.items()
    }
    return {title: points for title, points in drawn.items() if points}


def write(artifact, model, log, validations, best, seconds, tokens, **more):
    """metrics.json, log.jsonl and a plot of it into an artifact, and into its facts what the model was trained on.

    log: the training's rows; validations: what was measured before (the first), meanwhile and after; best: that of the
    model that is kept. tokens: how many were read in so many seconds. more: metrics of the stage's own.
    """
    stage = artifact.final.name
    log = [*log, *({"validation": row} for row in validations)]
    write_jsonl(artifact / "log.jsonl", log)
    plot, unit, _ = CURVES[stage]
    plots.save(plots.draw_curves(curves(stage, log), unit), artifact / plot)
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
    precision = "bfloat16 autocast" if hardware.has_bf16() else "float32"
    artifact.facts.update(device=str(model.device), dtype=precision)


def sentence(before, after, seconds):
    """What the training has changed, for a person."""
    rates = f"{before['exact_call']:.1%} before, {after['exact_call']:.1%} after"
    return f"Exact calls on validation: {rates}, in {seconds:.0f} s."
