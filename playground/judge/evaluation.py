"""What stage 08 keeps and computes: outputs that need not be made twice, and the figures of many scores."""

import hashlib
import itertools
import json
from collections import Counter
from pathlib import Path

from playground.judge import scoring, statistics
from playground.model import generation
from playground.run import parallel
from playground.run.errors import UserError
from playground.run.files import MODEL_FILES, read_jsonl, sha256

SAME = ("split", "decoding", "sampling")  # with these and the three hashes below, outputs are the same


def evenly_spaced(records, most):
    """At most so many records, evenly spaced, since a split may be ordered by tool; all where `most` is None."""
    count = min(len(records), most or len(records))
    return [records[i * len(records) // count] for i in range(count)]


def hash_model(folder, base_path=None):
    """sha256 over the names and contents of a model's files; an adapter's base model counts too."""
    folders = [Path(folder), Path(base_path)] if Path(folder, "adapter_config.json").exists() else [Path(folder)]
    files = sorted(path for folder in folders for path in folder.rglob("*") if path.suffix in MODEL_FILES)
    lines = "".join(f"{path.name} {sha256(path)}\n" for path in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def hash_settings(settings, tool_file):
    """{sampling: sha256} over all of a recipe that decides what a given model answers to a given request."""
    evaluate, hashes = settings["evaluate"], {}
    for sampling, keys in (("greedy", ()), ("sampled", ("temperature", "samples", "sampled_requests"))):
        used = [settings["generate"]["max_new_tokens"], settings["model"]["dtype"], sha256(tool_file)]
        used += [settings["seed"], settings["generate"]["batch_size"]] if keys else []
        used += [evaluate[key] for key in keys]
        used += [parallel.size()] if keys and parallel.size() > 1 else []
        hashes[sampling] = hashlib.sha256(json.dumps(used).encode()).hexdigest()
    return hashes


def validate(model, tokenizer, records, tools, settings):
    """The metrics of a model's answers to a training stage's validation records, decoded as the recipe says."""
    was_training = model.training
    completions = generation.generate(model.eval(), tokenizer, [row["prompt"] for row in records], settings)
    model.train(was_training)
    return scoring.summarize(scoring.judge(completions, records, tools))


class Predictions:
    """The outputs of this and of the last evaluation: what is there from the last one is not generated again."""

    def __init__(self, path, datasets, settings_hashes):
        """datasets: {split: sha256}. Says what of the file at `path` is refused, as it answers other requests."""
        self.path, self.datasets, self.settings_hashes = Path(path), datasets, settings_hashes
        self.rows, self._known = [], {}
        refused, groups = Counter(), {}
        for row in parallel.from_main(self._read):
            if row["dataset"] == datasets.get(row["split"]):
                groups.setdefault((row["model"], *self._key(row["model_sha256"], row)), []).append(row)
            else:
                refused[row["dataset"]] += 1
        for (_, *key), rows in groups.items():
            self._known.setdefault(tuple(key), rows)  # two names may stand for the same model
        for digest, count in refused.items():
            print(f"{path}: {count} outputs are of another dataset ({digest[:12]}...) and refused.")

    def _read(self):
        if not self.path.exists():
            return []
        try:
            rows = read_jsonl(self.path)
            return [row for row in rows if row["settings"] == self.settings_hashes[row["sampling"]]]
        except (ValueError, LookupError, TypeError) as error:
            raise UserError(f"{self.path} cannot be read ({error!r}): delete it and run the stage again.") from None

    def _key(self, model_hash, row):
        return (model_hash, *(row[name] for name in SAME))

    def kept(self, name, model_hash, group, ids):
        """The rows there are of a group, {"split", "decoding", "sampling"}; None unless they answer just these ids."""
        rows = self._known.get(self._key(model_hash, group), [])
        return self._add([{**row, "model": name} for row in rows]) if [row["id"] for row in rows] == ids else None

    def add(self, name, model_hash, group, rows):
        """The rows of a group that have just been generated, stamped with what they were made from."""
        stamp = {"dataset": self.datasets[group["split"]], "model_sha256": model_hash}
        stamp["settings"] = self.settings_hashes[group["sampling"]]
        return self._add([{"model": name, **group, **row, **stamp} for row in rows])

    def _add(self, rows):
        self.rows += rows
        self._known[self._key(rows[0]["model_sha256"], rows[0])] = rows  # DPO or PPO may have kept the SFT model
        return rows


# ---- figures


def greedy_cell(records, rows, scores, samples):
    """metrics.json's form for one model and decoding: each metric with its interval, costs, failures, confusion."""
    cell = {"n": len(records)}
    for metric in scoring.METRICS:
        cell[metric] = statistics.interval([s[metric] for s in scores if s[metric] is not None], samples)
    for cost in ("tokens", "forward_passes"):
        cell[f"{cost}_per_call"] = sum(row[cost] for row in rows) / len(rows)
    cell["failures"] = dict(Counter(s["failure"] for s in scores if s["failure"]).most_common())
    cell["confusion"] = statistics.confusion(records, scores)
    cell["by_tool"] = statistics.precision_recall(cell["confusion"])
    asks = [s["exact_call"] for s, record in zip(scores, records, strict=True) if "asks" in record.get("meta", {})]
    if asks:  # requests that lack an argument, so that the right call is a question
        cell["asks_back"] = {"n": len(asks), "exact_call": statistics.interval(asks, samples)}
    return cell


def sampled_cell(scores, k, samples):
    """The same for k samples of each request, which stand side by side in `scores`: intervals are over requests."""
    by_request = [scores[begin : begin + k] for begin in range(0, len(scores), k)]
    cell = {"n": len(by_request), "k": k}
    for metric in scoring.METRICS:
        drawn = [[s[metric] for s in group if s[metric] is not None] for group in by_request]
        cell[metric] = statistics.interval([sum(group) / len(group) for group in drawn if group], samples)
    right = [sum(s["failure"] is None for s in group) for group in by_request]
    cell["pass_at_k"] = statistics.interval([statistics.pass_at_k(c, k, k) for c in right], samples)
    cell["always_right"] = statistics.interval([statistics.always_right(c, k, k) for c in right], samples)
    return cell


def differences(scores, samples):
    """[{"from", "to", metric: interval}]: what each step of the story changed, on the same requests.

    scores: {model: {decoding: [score, ...]}} of one split, in the story's order. A step is the next model under
    the same decoding, or the same model under the next decoding. DPO and PPO are two ways to go on from SFT.
    """
    names, steps = list(scores), []
    for before, after in itertools.pairwise(names):
        before = "sft" if after in ("dpo", "ppo") and "sft" in names else before
        steps += [((before, decoding), (after, decoding)) for decoding in scores[before]]
    steps += [((name, one), (name, next_one)) for name in names for one, next_one in itertools.pairwise(scores[name])]
    rows = []
    for before, after in steps:
        pair = [scores[name][decoding] for name, decoding in (before, after)]
        changes = {
            metric: statistics.paired_difference(*([s[metric] for s in side] for side in pair), samples)
            for metric in scoring.METRICS
        }
        rows.append({"from": ", ".join(before), "to": ", ".join(after), **changes})
    return rows
