"""The templates and the leak check, as a specification."""

import itertools
import json
import re

import pytest

import tools as toolbox
from playground.data import entities, sources, templates
from playground.data.leaks import MAX_OVERLAP, LeakError, _grams, leak_check
from playground.run import recipe
from playground.run.errors import UserError
from tests.conftest import ROOT

SIZES = {"train": 500, "val": 100, "test": 400}
TOOLS = toolbox.load_tools()
TABLE = templates._phrasings()
LISTS = entities.read_data("entities.json")["pools"]
CITIES = [city for name, pool in LISTS.items() if name.startswith("city_") for city in pool]


def build_splits(sizes, tools, seed):
    return {split: list(records) for split, records in templates.build_splits(sizes, tools, seed).items()}


@pytest.fixture(scope="module")
def splits():
    return build_splits(SIZES, TOOLS, seed=0)


def all_records(splits):
    return [record for records in splits.values() for record in records]


def request_and_call(record):
    request, *turn = record["prompt"].split("\n")
    return request, toolbox.parse_call(turn[0].removeprefix("Call: ") if turn else record["completion"])


def split_of(phrasing):
    return templates._splits()[phrasing.id]


def wordings(phrasing, named=False):
    """Every wording of a phrasing, in plain words, each slot its argument's name or a word that occurs nowhere else."""
    for parts in (phrasing.parts, phrasing.contracted):
        marks = [
            [f"{{{part[0]}}}" if named else f"slot{phrasing.id}{i}"] if isinstance(part, tuple) else dict.fromkeys(part)
            for i, part in enumerate(parts)
        ]
        for choice in itertools.product(*marks):
            yield "".join(choice).casefold()


# ---- the data


@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_has_forty_phrasings_and_some_in_each_split(tool):
    assert len(TABLE[tool]) >= 40
    for split, least in (("train", 40), ("val", 4), ("test", 10)):
        assert sum(split_of(phrasing) == split for phrasing in TABLE[tool]) >= least


def test_a_held_out_phrasing_is_a_new_sentence_of_known_words():
    for tool, phrasings in TABLE.items():
        for held_out in (phrasing for phrasing in phrasings if split_of(phrasing) != "train"):
            same = (p for p in phrasings if tool not in ("calculator", "respond") or p.family == held_out.family)
            known = set().union(*(templates._words(p) for p in same if split_of(p) == "train"))
            assert templates._words(held_out) <= known, held_out


def test_no_two_phrasings_can_read_the_same():
    seen = {}
    for phrasing in itertools.chain(*TABLE.values()):
        for wording in wordings(phrasing):
            slot = "name" if phrasing.family in templates.ASKS else "slot"  # of a person, where an address is missing
            shape = re.sub(r"slot\S+?/\d+", slot, wording).strip("!?. ")
            assert seen.setdefault(shape, phrasing.id) == phrasing.id, shape


def test_held_out_phrasings_are_no_near_duplicates_of_training_phrasings():
    phrasings = list(itertools.chain(*TABLE.values()))
    taught = [_grams(text) for phrasing in phrasings if split_of(phrasing) == "train" for text in wordings(phrasing)]
    for phrasing in phrasings:
        if split_of(phrasing) != "train":
            for own in map(_grams, wordings(phrasing)):
                assert max(len(own & other) for other in taught) / len(own) <= MAX_OVERLAP, phrasing


def test_every_form_of_expression_is_taught():
    forms = {(p.expression.translate(str.maketrans("nm", "ab")), split_of(p)) for p in TABLE["calculator"]}
    assert {form for form, _ in forms} == {form for form, split in forms if split == "train"}


def test_there_are_four_hundred_cities_of_every_kind():
    assert len({city.casefold() for city in CITIES}) >= 400
    assert {len(city.split()) for city in CITIES} >= {1, 2, 3, 4} and sum(not c.isascii() for c in CITIES) >= 40
    assert sum("-" in city for city in CITIES) >= 15


def test_no_entry_of_a_list_is_in_two_splits():
    homes = {}
    for pool in LISTS.values():
        for index, entry in enumerate(pool):
            split = entities.DEAL[index % 8]
            assert homes.setdefault(entry.casefold().rstrip("s"), split) == split, entry


# ---- the records


def test_a_record_has_the_fields_that_the_design_names(splits):
    record = splits["train"][123]
    assert list(record) == ["id", "prompt", "completion", "source", "meta"] and record["source"] == "templates"
    assert record["id"] == "train-000123" and re.fullmatch(r"\w+/\d\d+", record["meta"]["phrasing"])


def test_every_completion_is_a_canonical_call_that_validates_and_no_prompt_comes_twice(splits):
    assert all(len({record["prompt"] for record in records}) == len(records) for records in splits.values())
    for record in all_records(splits):
        call = toolbox.parse_call(record["completion"])
        assert record["completion"] == toolbox.to_json(call) and toolbox.validate_call(call, TOOLS) == []
        assert call["tool"] == record["meta"]["tool"]


def test_every_argument_stands_in_its_request_and_ends_where_a_person_sees_it():
    for record in build_splits({"train": 3000}, TOOLS, seed=1)["train"]:
        request, call = request_and_call(record)
        for value in call["args"].values() if call["tool"] not in ("calculator", "respond") else ():
            before, after = request.split(value, 1)
            assert re.match(r"$|[ ,.?!:]", after) and re.search(r"^$|[ :]$", before), record
            assert value == value.strip(" .,!?"), record


def test_every_expression_executes_and_is_spaced_canonically(splits):
    for record in all_records(splits):
        call, number = request_and_call(record)[1], r"(sqrt\()?\(*\d+(\.\d+)?\)*"
        if call["tool"] == "calculator":
            assert "value" in toolbox.execute(call, TOOLS), record
            assert re.fullmatch(rf"{number}( (\+|-|\*|/|\*\*) {number})*", call["args"]["expression"]), record


def test_arithmetic_is_told_in_words_and_in_either_order():
    records = build_splits({"train": 4000}, {"calculator": TOOLS["calculator"]}, seed=0)["train"]
    words = re.compile("|".join(rf"\b{word}\b" for word, _ in entities.NUMBER_WORDS if word != "two"), re.I)
    assert 0.04 < sum(bool(words.search(record["prompt"])) for record in records) / len(records) < 0.12
    for record in records:
        if match := re.match(r"subtract (\d+) from (\d+)(?!\.\d)\b", record["prompt"], re.I):
            assert request_and_call(record)[1]["args"]["expression"] == f"{match[2]} - {match[1]}"


def test_the_tools_come_equally_often_beside_a_fifth_of_respond_and_fifteen_percent_of_second_turns(splits):
    first = [record["meta"]["tool"] for record in splits["train"] if record["meta"]["turn"] == 1]
    assert len(first) / 500 == pytest.approx(0.85, abs=0.01)
    assert first.count("respond") / len(first) == pytest.approx(0.2, abs=0.02)
    for tool in set(TOOLS) - {"respond"}:
        assert first.count(tool) / len(first) == pytest.approx(0.2125, abs=0.02)


def test_a_second_turn_answers_with_every_fact_of_the_result():
    records = [r for r in build_splits({"train": 4000}, TOOLS, seed=0)["train"] if r["meta"]["turn"] == 2]
    for record in records:
        call = request_and_call(record)[1]
        result = json.loads(record["prompt"].split("\nResult: ")[1])
        message = json.loads(record["completion"])["args"]["message"]
        assert "error" in result or result == toolbox.execute(call, TOOLS)
        assert all(str(value) in message for key, value in result.items() if key != "status"), record
    assert 0.02 < sum('\nResult: {"error"' in record["prompt"] for record in records) / len(records) < 0.2


def test_respond_has_few_answers_and_cities_among_its_requests():
    records = build_splits({"train": 3000}, TOOLS, seed=0)["train"]
    talk = [record for record in records if record["meta"]["turn"] == 1 and record["meta"]["tool"] == "respond"]
    assert len({record["completion"] for record in talk}) == 9
    assert sum(any(city in record["prompt"] for city in CITIES) for record in talk) > len(talk) / 12


# ---- seeds, tool sets, streams


def test_the_same_seed_gives_the_same_records_and_another_seed_other_training_only(splits):
    assert build_splits(SIZES, TOOLS, seed=0) == splits
    other = build_splits(SIZES, TOOLS, seed=1)
    assert other["val"] == splits["val"] and other["test"] == splits["test"]
    assert not {r["prompt"] for r in other["train"]} >= {r["prompt"] for r in splits["train"][:20]}


def test_five_hundred_records_have_nearly_every_word_that_training_has(splits):
    def words(phrasings):
        return {(templates._meaning(p), word) for p in phrasings for word in templates._words(p)}

    training = {p.id: p for phrasings in TABLE.values() for p in phrasings if split_of(p) == "train"}
    met = words(training[record["meta"]["phrasing"]] for record in splits["train"])
    assert len(met) >= 0.92 * len(words(training.values()))  # dealt by chance, 0.82


@pytest.mark.parametrize("names", [["calculator", "respond"], ["get_weather"], ["respond"]])
def test_a_subset_of_the_tools_gets_only_its_own_records(names):
    subset = {name: TOOLS[name] for name in names}
    records = all_records(build_splits({"train": 60, "test": 20}, subset, seed=0))
    assert {record["meta"]["tool"] for record in records} == set(names)


def test_a_tool_without_phrasings_is_refused_by_name():
    with pytest.raises(UserError, match="'book_flight'"):
        build_splits({"train": 1}, TOOLS | {"book_flight": {}}, seed=0)


def test_more_records_than_there_are_is_an_error(monkeypatch):
    monkeypatch.setattr(templates, "MAX_REPEATS", 0)
    with pytest.raises(UserError, match="more than the templates can make"):
        build_splits({"val": 1000}, {"respond": TOOLS["respond"]}, seed=0)


# ---- the leak check


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_nothing_leaks(splits, seed):
    figures = leak_check(build_splits({"train": 3000, "val": 100, "test": 400}, TOOLS, seed))
    for figure in figures.values():
        assert figure["shared_phrasings"] == figure["shared_entities"] == figure["near_duplicates"] == 0
        assert 0 <= figure["mean_overlap"] <= figure["max_overlap"] <= MAX_OVERLAP


def planted(prompt, phrasing="x/00", shared=()):
    return {"prompt": prompt, "completion": "", "meta": {"phrasing": phrasing, "entities": list(shared)}}


@pytest.mark.parametrize(
    ("train", "test", "what"),
    [
        (planted("one two three"), planted("four five six"), "phrasings"),
        (planted("a", "x/01", ["Oslo"]), planted("b", "x/02", ["OSLO"]), "entities"),
        (planted("Hi there!", "x/01"), planted("hi there", "x/02"), "near-duplicate"),
        (
            planted("Is it cold in Rome right now?", "x/01"),
            planted("hey, is it cold in Rome right now", "x/02"),
            "near-duplicate",
        ),
    ],
)
def test_a_planted_leak_is_caught(train, test, what):
    with pytest.raises(LeakError, match=f"test shares 1 {what}"):
        leak_check({"train": [train], "val": [planted("seven", "x/03")], "test": [test]})


def test_a_request_with_other_numbers_is_no_near_duplicate():
    train, test = planted("What is 3 + 6 * 5, please?", "x/01"), planted("What is 9 + 6 * 5, please?", "x/02")
    assert leak_check({"train": [train], "test": [test]})["test"]["max_overlap"] == 0


# ---- requests without labels


def test_requests_without_labels_have_phrasings_and_entities_of_their_own(splits):
    pool = list(templates.distinct("unlabelled", 300, TOOLS, "0"))
    assert {record["meta"]["tool"] for record in pool} == set(TOOLS)
    known = {record["meta"]["phrasing"] for record in all_records(splits)}
    assert not known & {record["meta"]["phrasing"] for record in pool}
    lists = entities.read_data("entities.json")["unlabelled"]
    held_in_lists = {entry.casefold() for pool in LISTS.values() for entry in pool}
    assert not held_in_lists & {entry.casefold() for entries in lists.values() for entry in entries}


def test_no_entity_of_requests_without_labels_stands_in_the_hand_written_test():
    wild = (ROOT / "playground/data/wild.jsonl").read_text(encoding="utf-8").casefold()
    for kind, entries in entities.read_data("entities.json")["unlabelled"].items():
        for entry in entries:
            assert not re.search(rf"(?<!\w){re.escape(entry.casefold())}(?!\w)", wild), (kind, entry)


def later_requests(**held_out):
    _, following = sources._from_templates(recipe.load(), TOOLS)
    return sources._later_requests(recipe.load(), TOOLS, held_out, following)


def test_requests_after_training_are_not_too_close_to_held_out_ones():
    feedback, pool = later_requests()
    held_out = [{**row, "meta": {}} for row in pool[:50] + feedback[:50]]
    again = [{row["prompt"] for row in rows} for rows in later_requests(test=held_out)]
    assert len(again[1]) == len(pool) and not again[1] & {row["prompt"] for row in held_out}
    other_words = {row["prompt"] for row in feedback[:50] if "/u" in row["meta"]["phrasing"]}
    assert other_words and not again[0] & other_words


def test_feedback_goes_on_where_training_ends_and_has_half_of_its_phrasings_from_elsewhere(splits):
    feedback, pool = later_requests()
    assert len(feedback) == recipe.load()["dataset"]["feedback"]
    prompts = [row["prompt"] for row in [*feedback, *pool, *splits["train"]]]
    assert len(set(prompts)) == len(prompts)
    assert all(TOOLS[toolbox.parse_call(row["completion"])["tool"]] for row in feedback)
    assert all("completion" not in row and row["outcome"]["tool"] in TOOLS for row in pool)
    other_words = sum("/u" in row["meta"]["phrasing"] for row in feedback)
    assert other_words == len(feedback) // 2
    known = {row["meta"]["phrasing"] for row in splits["train"]}
    assert {row["meta"]["phrasing"] for row in feedback if "/u" not in row["meta"]["phrasing"]} - known


@pytest.mark.parametrize("tool", TOOLS)
def test_a_phrasing_without_a_label_is_none_of_those_with_one(tool):
    own, labelled = (
        {
            re.sub(r"[\s.,:;?!]+", " ", wording).strip()
            for phrasing in table[tool]
            for wording in wordings(phrasing, True)
        }
        for table in (templates._phrasings("unlabelled"), TABLE)
    )
    assert own and not own & labelled
