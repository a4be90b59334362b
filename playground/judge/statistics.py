"""Statistics over many scores: intervals, paired differences, pass@k, and which tool is confused with which."""

import functools
import json
import math
from collections import Counter

NO_CALL = "(no valid call)"


@functools.lru_cache(maxsize=8)
def _resamples(n, samples):
    """(samples, n) indices drawn with replacement; the same for every metric, so drawn once."""
    import numpy as np

    return np.random.default_rng(0).integers(n, size=(samples, n), dtype=np.int32)


def interval(values, samples):
    """{"value", "low", "high"}: the mean and its 95% interval, percentile bootstrap over requests; None for none.

    Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    """
    import numpy as np

    values = np.asarray(values, dtype=float)
    if not len(values):
        return None
    low, high = np.percentile(values[_resamples(len(values), samples)].mean(axis=1), [2.5, 97.5])
    return {"value": values.mean().item(), "low": low.item(), "high": high.item()}


def paired_difference(before, after, samples):
    """The `interval` of after - before on the same requests, those left out where one of the two is None.

    Pairing takes out that some requests are hard for every model (Efron & Tibshirani 1993, chapter 8); a
    difference whose interval includes 0 is not one that these requests can show.
    """
    pairs = zip(before, after, strict=True)
    return interval([b - a for a, b in pairs if a is not None and b is not None], samples)


def pass_at_k(right, drawn, k):
    """Probability that at least one of k samples is right, estimated from `right` of `drawn` (arXiv:2107.03374)."""
    return 1 - math.comb(drawn - right, k) / math.comb(drawn, k)


def always_right(right, drawn, k):
    """Probability that all of k samples are right, estimated from `right` of `drawn` (pass^k, arXiv:2406.12045)."""
    return math.comb(right, k) / math.comb(drawn, k)


def confusion(records, scores):
    """{expected tool: {tool of the valid call, or NO_CALL: how many}}, tools in order of appearance."""
    matrix = {}
    for record, row in zip(records, scores, strict=True):
        expected = json.loads(record["completion"])["tool"]
        matrix.setdefault(expected, Counter())[row["tool"] or NO_CALL] += 1
    return {tool: dict(counts) for tool, counts in matrix.items()}


def precision_recall(matrix):
    """{tool: {"precision", "recall", "n"}} of a `confusion` matrix; precision is None for a tool never called."""
    called = Counter()
    for counts in matrix.values():
        called.update(counts)
    return {
        tool: {
            "precision": counts.get(tool, 0) / called[tool] if called[tool] else None,
            "recall": counts.get(tool, 0) / sum(counts.values()),
            "n": sum(counts.values()),
        }
        for tool, counts in matrix.items()
    }
