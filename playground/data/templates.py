"""Records from templates: phrasings x entities x paraphrase rules, with a test that is new in every part.

    splits = build_splits({"train": 500, "val": 100, "test": 400}, tools.load_tools(), seed=0)

phrasings.json holds the sentences, a slot being `{argument}` or `{argument:kind}` and a choice `[this|that]` or
`[synonym]`; entities.json holds what fills the slots, as lists and as grammars over them. A request's values stand
in it verbatim, so a call is known by construction. Entities are dealt to the splits by position and phrasings as
`_splits` says, so both files are to be appended to: an entry put in the middle moves others to other splits.
"""

import functools
import itertools
import random
import re
from collections import Counter
from dataclasses import dataclass

import tools as toolbox
from playground.data import wording
from playground.data.entities import DEAL, Entities, parse_template, read_data
from playground.data.leaks import HeldOut
from playground.run.errors import UserError

FIRST_TURNS, SECOND_TURNS = 17, 3  # of 20 records; a second turn answers with a tool's result
CALLS, NO_CALL = 16, 4  # of 20 first turns; those that need no tool, or lack an argument, go to `respond`
TOOL_ERROR = 0.08  # of second turns

ASKS = {"no_address": "to", "no_city": "city", "no_query": "query"}  # families that lack an argument, and which
HELD_OUT, HELD_OUT_OF_FAMILY = {"test": 22, "val": 10}, {"test": 4, "val": 2}  # phrasings, at most
BY_FAMILY = {"calculator", "respond"}  # tools of which a family is an operation or a reply: words mean it, not the tool
MAX_REPEATS = 2000  # duplicates in a row after which the templates count as used up


@dataclass(frozen=True, slots=True)
class Phrasing:
    """One sentence. `parts` and `contracted` are tuples of choices (a list of str) and slots (argument, kind)."""

    id: str
    tool: str
    family: str
    parts: tuple
    contracted: tuple
    end: str
    expression: str


def build_splits(sizes, tools, seed):
    """`{split: records}` for sizes such as `{"train": 500, "test": 400}`; `seed` changes the training records only."""
    default = toolbox.load_tools()
    for name, tool in tools.items():
        if name not in default:
            raise UserError(f"no phrasings for the tool {name!r}: give another --source, or --examples of it.")
        known, schema = default[name]["parameters"]["properties"], tool["parameters"]
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not known.keys() <= properties.keys() or not set(required) <= known.keys():
            raise UserError(
                f"the templates fill {', '.join(known)} of {name!r}, and the schema has {', '.join(properties)}: "
                "give it these arguments, or another name."
            )
    splits = {split: list(distinct(split, size, tools)) for split, size in sizes.items() if split != "train"}
    held_out = HeldOut(splits)
    return {"train": list(distinct("train", sizes.get("train", 0), tools, str(seed), held_out))} | splits


def distinct(split, size, tools, seed="", held_out=None):
    """Iterator over `size` records of a split, no prompt twice and none that leaks."""
    seen, repeats = set(), 0
    candidates = _draw(split, tools, random.Random(f"templates/{split}/{seed}" if seed else f"templates/{split}"))
    while len(seen) < size:
        record = next(candidates)
        if held_out and held_out.leaks(record):
            continue
        repeats = repeats + 1 if record["prompt"] in seen else 0
        if repeats > MAX_REPEATS:
            made = f"{split}: {size} records are more than the templates can make for {', '.join(tools)}"
            raise UserError(f"{made}: ask for fewer, or for more tools.")
        if not repeats:
            seen.add(record["prompt"])
            yield {"id": f"{split}-{len(seen) - 1:06d}"} | record


def _draw(split, tools, rng):
    entities = Entities(split, rng)
    deck = _covering_deck if split == "train" else _deck
    table = _phrasings("unlabelled") if split == "unlabelled" else _phrasings()
    decks = {name: deck([p for p in table[name] if _splits().get(p.id, split) == split], rng) for name in tools}
    calling = [name for name in tools if name != "respond"]
    answers = "respond" in tools
    first = _deck(calling * CALLS + ["respond"] * NO_CALL * (len(calling) or 1) * answers, rng)
    second = _deck(calling, rng)
    for turn in _deck([1] * FIRST_TURNS + [2] * SECOND_TURNS * (answers and bool(calling)), rng):
        name = next(first if turn == 1 else second)
        phrasing = next(decks[name])
        prompt, args, used = wording.request(phrasing, entities, rng)
        call = {
            "tool": name,
            "args": {key: args[key] for key in tools[name]["parameters"]["properties"] if key in args},
        }
        if turn == 2:
            result = toolbox.execute(call, tools)
            if rng.random() < TOOL_ERROR:
                result = {"error": entities.draw("error")}
            prompt = toolbox.with_results(prompt, [(call, result)])
            call = {"tool": "respond", "args": {"message": answer(call, result)}}
        meta = {"phrasing": phrasing.id, "tool": call["tool"], "turn": turn, "entities": used}
        if phrasing.family in ASKS:
            meta["asks"] = ASKS[phrasing.family]
        yield {"prompt": prompt, "completion": toolbox.to_json(call), "source": "templates", "meta": meta}


def _deck(cards, rng):
    """The cards in shuffled rounds, so that each comes equally often."""
    while cards:
        yield from rng.sample(cards, len(cards))


def _covering_deck(phrasings, rng):
    """The phrasings in rounds, in the first of which those come early whose words have been met least.

    Five hundred records do not reach every phrasing. Dealt by chance, they lack words that held-out phrasings are made
    of; dealt so, they have nearly all of them. A word counts half as much each time that it has been met, and by the
    root of a phrasing's length, so that neither short nor long ones crowd out the others.
    """
    words = {p.id: {(_meaning(p), word) for word in _words(p)} for p in phrasings}
    left, met = rng.sample(phrasings, len(phrasings)), Counter()
    while left:
        best = max(left, key=lambda p: sum(0.5 ** met[word] for word in words[p.id]) / (len(words[p.id]) + 1) ** 0.5)
        left.remove(best)
        met.update(words[best.id])
        yield best
    yield from _deck(phrasings, rng)


def _meaning(phrasing):
    """What the words of a phrasing ask for: a tool, or an operation or a reply of one."""
    return phrasing.family if phrasing.tool in BY_FAMILY else phrasing.tool


def answer(call, result):
    """What an assistant says to the user after a call that returned this result."""
    args = call["args"]
    if "error" in result:
        return f"Sorry, that did not work: {result['error']}."
    match call["tool"]:
        case "send_email":
            return f"I sent your email about {args['subject']} to {args['to']}."
        case "search_web":
            return f"I found {result['results']} results for {args['query']}, the first at {result['first']}."
        case "get_weather":
            return f"It is {result['temperature_c']} °C and {result['sky']} in {args['city']}."
        case "calculator":
            return f"{args['expression']} is {result['value']}."


@functools.cache
def _phrasings(key="phrasings"):
    """`{tool: [Phrasing, ...]}`, in the file's order."""
    data = read_data("phrasings.json")
    contract = re.compile("|".join(rf"\b{long}\b" for long in data["contractions"]))
    table = {}
    for tool, families in data[key].items():
        lines = [(family, line) for family, lines in families.items() for line in lines]
        table[tool] = []
        for index, (family, line) in enumerate(lines):
            text, _, expression = line.partition(" => ")
            shorter = contract.sub(lambda match: data["contractions"][match[0]], text)
            end = text[-1] if text[-1] in ".?!" else ""
            parts, contracted = (parse_template(form.removesuffix(end), data["synonyms"]) for form in (text, shorter))
            name = f"{tool}/{'' if key == 'phrasings' else 'u'}{index:02d}"
            table[tool].append(Phrasing(name, tool, family, parts, contracted, end, expression))
    return table


@functools.cache
def _splits():
    """`{phrasing id: split}`. A phrasing is held out only if training has each of its words elsewhere.

    So the test asks for new sentences made of known words (who has not met "ping" cannot know that it is an email),
    and test_wild.jsonl for the rest. Known means: in another phrasing of the same tool, for the calculator and for
    `respond` of the same family, which is an operation there and a reply here.
    """
    splits, turns = {}, itertools.cycle(split for split in DEAL if split != "train")
    for tool, phrasings in _phrasings().items():
        families = {}
        for phrasing in phrasings:
            families.setdefault(phrasing.family, []).append(phrasing)
        groups = list(families.values())
        if tool not in BY_FAMILY:
            in_turn = itertools.zip_longest(*groups)  # so that no register uses up the words of the others
            groups = [[phrasing for row in in_turn for phrasing in row if phrasing]]
        for group in groups:
            seen = Counter(word for phrasing in group for word in _words(phrasing))
            quota = dict(HELD_OUT if len(groups) == 1 else HELD_OUT_OF_FAMILY)
            for phrasing in group:
                splits[phrasing.id], split = "train", next(turns)
                if quota[split] and all(seen[word] > 1 for word in _words(phrasing)):
                    splits[phrasing.id] = split
                    quota[split] -= 1
                    seen.subtract(_words(phrasing))
    return splits


def _words(phrasing):
    """The words that a phrasing may bring, those of its slots left out."""
    choices = [choice for part in phrasing.parts if isinstance(part, list) for choice in part]
    return set(re.findall(r"[^\W\d_]+", " ".join(choices).casefold()))
