"""The leak check: what training data shares with the splits that are to measure it."""

import string
from collections import Counter
from dataclasses import dataclass, field

from playground.run.errors import UserError

# Phrasings and entities are new in a held-out request, so what it may share with a training request is function
# words: "could you please send an email to". Over half of its 5-grams shared is more than those explain.
MAX_OVERLAP = 0.5
GRAM = 5  # words; a request with fewer is compared whole


class LeakError(UserError):
    """Training data and a held-out split share something; the message gives examples."""


def leak_check(splits):
    """`{split: figures}`: how many phrasings, entities and near duplicates each held-out split shares with training.

    An overlap is the share of a request's 5-grams in one training request. Raises LeakError if anything is shared.
    """
    held_out = HeldOut(splits)
    return held_out.figures(held_out.compare(splits["train"]))


@dataclass
class Shared:
    """What training records share with the held-out ones."""

    phrasings: set = field(default_factory=set)
    entities: set = field(default_factory=set)
    closest: dict = field(default_factory=dict)  # index of the held-out record: (shared 5-grams, training prompt)


class HeldOut:
    """The records of all splits but training, ready to be compared with training records.

    Only the request itself is compared: a call and a result in a prompt follow from it. Phrasings and entities are
    compared where the records' meta names them.
    """

    def __init__(self, splits):
        held_out = {split: records for split, records in splits.items() if split != "train"}
        self.records = [(split, record) for split, records in held_out.items() for record in records]
        self.grams = [_grams(record["prompt"]) for _, record in self.records]
        self.owners = {}
        for index, own in enumerate(self.grams):
            for gram in own:
                self.owners.setdefault(gram, []).append(index)
        self.phrasings = {record["meta"].get("phrasing") for _, record in self.records} - {None}
        self.entities = {name for _, record in self.records for name in _entities(record)}

    def compare(self, train):
        """What the training records share with the held-out ones, as `Shared`."""
        shared = Shared()
        for record in train:
            if record["meta"].get("phrasing") in self.phrasings:
                shared.phrasings.add(record["meta"]["phrasing"])
            shared.entities |= self.entities & _entities(record)
            hits = Counter(index for gram in _grams(record["prompt"]) for index in self.owners.get(gram, ()))
            for index, count in hits.items():
                if count > shared.closest.get(index, (0,))[0]:
                    shared.closest[index] = count, record["prompt"]
        return shared

    def leaks(self, record):
        """Whether this training record would fail the check."""
        shared = self.compare([record])
        overlaps = [self._overlap(shared, index) for index in shared.closest]
        return bool(shared.phrasings or shared.entities) or max(overlaps, default=0) > MAX_OVERLAP

    def _overlap(self, shared, index):
        return shared.closest.get(index, (0,))[0] / len(self.grams[index])

    def figures(self, shared):
        """`leak_check`'s figures. Raises LeakError if anything is shared."""
        figures, leaks = {}, []
        for name in dict.fromkeys(split for split, _ in self.records):
            own = [(index, record) for index, (split, record) in enumerate(self.records) if split == name]
            phrasings = {record["meta"].get("phrasing") for _, record in own} & shared.phrasings
            entities = {entity for _, record in own for entity in _entities(record)} & shared.entities
            ratios = {index: self._overlap(shared, index) for index, _ in own}
            over = [(index, record) for index, record in own if ratios[index] > MAX_OVERLAP]
            close = [(record["prompt"], shared.closest[index][1]) for index, record in over]
            figures[name] = {
                "shared_phrasings": len(phrasings),
                "shared_entities": len(entities),
                "near_duplicates": len(close),
                "max_overlap": round(max(ratios.values()), 4),
                "mean_overlap": round(sum(ratios.values()) / len(ratios), 4),
            }
            found = {"phrasings": phrasings, "entities": entities, "near-duplicate requests": close}
            for what, examples in found.items():
                if examples:
                    leaks.append(f"{name} shares {len(examples)} {what} with train, such as {sorted(examples)[:3]}")
        if leaks:
            raise LeakError(f"the splits leak: {'; '.join(leaks)}")
        return figures


def _entities(record):
    return {entity.casefold() for entity in record["meta"].get("entities", ())}


def _grams(prompt):
    request = prompt.split("\n", 1)[0].casefold()
    words = [word.strip(string.punctuation) or word for word in request.split()]
    # "9 + 6 * 5, thanks" is no near-duplicate of "3 + 6 * 5, thanks": only with all numbers the same do grams match.
    numbers = tuple(word for word in words if word.replace(".", "").isdigit())
    if len(words) < GRAM:
        return {(numbers, *words)}
    return {(numbers, *words[at : at + GRAM]) for at in range(len(words) - GRAM + 1)}
