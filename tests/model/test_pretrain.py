"""Pretraining: what a lesson asks for stands in the text before it."""

import itertools
import random
import re
import sys

import pytest
import torch

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "base_model"))
lessons, pretrain = __import__("lessons"), __import__("pretrain")

PASSAGE = "User: I need a table for two people at Sino in San Jose on Monday."


@pytest.mark.parametrize("simple", [True, False])
def test_every_token_that_counts_in_a_copy_batch_stands_earlier_after_the_same_token(simple):
    stream = torch.arange(1, 4000, dtype=torch.int32)
    batch, mask = lessons.copy_batch(stream, 16, 64, random.Random(0), simple=simple)
    assert mask.any()
    for row, counted in zip(batch.tolist(), mask.tolist(), strict=True):
        for t in (t for t, counts in enumerate(counted) if counts):
            assert any(row[s - 1 : s + 1] == row[t - 1 : t + 1] for s in range(1, t)), (row, t)


def test_a_recall_lesson_asks_for_what_stands_in_its_passage():
    rng, seen = random.Random(0), set()
    for _ in range(200):
        passage, _, answers = lessons.recall_lesson([PASSAGE], rng).partition("\n")
        for answer in answers.replace("; ", "\n").splitlines():
            cue, span = answer.split(" ", 1)
            cue, span = cue.strip('":()'), span.removeprefix("= ").strip('"')
            assert f"{cue} {span}" in passage
            seen.add(span)
    assert {"two people", "Sino", "San Jose", "Monday"} <= seen
    assert any("@" in span for span in seen)


def test_a_passage_without_a_cue_gives_no_lesson():
    assert lessons.recall_lesson(["Thanks!"], random.Random(0)) is None


def test_what_fills_the_blanks_of_a_passage_makes_it_whole():
    rng, several = random.Random(0), 0
    for _ in range(200):
        lesson = lessons.blank_lesson([PASSAGE], rng)
        if lesson:
            blanked, *parts = lesson.split("\n")
            pieces = re.split(r"\.\.\.|___|\[\]", blanked)
            made = {part: re.split('"?; "?', part.strip('"')) for part in parts}  # either may be the fillings
            whole = {"".join(map("".join, itertools.zip_longest(pieces, made[part], fillvalue=""))) for part in parts}
            assert whole & set(parts)
            several += len(pieces) > 2
    assert several


def test_a_field_that_is_asked_for_stands_in_its_place():
    rng = random.Random(0)
    for _ in range(200):
        row, _, answers = lessons.fields_lesson([PASSAGE], rng).partition("\n")
        for answer in answers.replace("; ", "\n").splitlines():
            name, field = re.fullmatch(r'["(]?(\w+)[")]?(?::| =|) "?(.*?)"?', answer).groups()
            place = next(names.index(name) for names in lessons.FIELD_NAMES if name in names)
            assert (row.find(field) == 0) if place == 0 else (row.find(field, 1) > 0), (row, answer)


def test_what_is_asked_for_by_its_kind_is_of_that_kind():
    rng = random.Random(0)
    marks = {lessons.made_up_address: "@", lessons.made_up_number: r"\d", lessons.made_up_name: r"^[^@\d]+$"}
    kind_of = {name: kind for kind, names in lessons.KIND_NAMES.items() for name in names}
    for _ in range(200):
        passage, _, answers = lessons.kinds_lesson([PASSAGE], rng).partition("\n")
        for answer in answers.replace("; ", "\n").splitlines():
            name, entity = re.fullmatch(r'["(]?(.*?)(?:"?: "|\) | = )(.*?)"?', answer).groups()
            assert entity in passage
            assert re.search(marks[kind_of[name]], entity), answer


def test_a_misspelt_word_has_one_slip():
    rng = random.Random(0)
    assert {lessons.misspelt("ab", rng) for _ in range(100)} == {"ba", "b", "aab"}
    assert {lessons._passage(["table"], rng) != "table" for _ in range(100)} == {True, False}


def test_lesson_batches_are_full(tokenizer):
    batch, mask = lessons.lesson_batch([PASSAGE, "Hello.", "  : "], tokenizer, 4, 64, random.Random(0))
    assert batch.shape == mask.shape == (4, 64)
    assert (batch == tokenizer.eos_token_id).any()


def test_a_phase_has_the_same_batches_whoever_makes_them(tokenizer):
    stream = torch.arange(1, 4000, dtype=torch.int32)
    for phase in ("mix", "recall"):
        one, other = (pretrain.Lessons(phase, 8, 512, stream, [PASSAGE], tokenizer) for _ in range(2))
        for step in reversed(range(len(one))):
            assert all(map(torch.equal, one[step], other[step]))
            assert one[step][0].numel() == 512


def test_a_sum_in_words_and_in_signs_has_the_same_numbers():
    rng, seen = random.Random(0), set()
    for line in "\n".join(lessons.sum_lesson([PASSAGE], rng) for _ in range(100)).splitlines():
        said, written = re.match(r'["(]?(.*?)(?:"?: "?| = |\) )(.*)', line).groups()
        assert set(re.findall(r"[\d.]*\d", said)) <= set(re.findall(r"[\d.]*\d", written)), line
        seen |= set(re.findall(r"[^\w\s().]", written))
    assert set("+−×÷·/-√%*") <= seen
