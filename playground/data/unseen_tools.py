"""Records whose prompts list the tools that there are, with a test on tools that training has never seen.

unseen_tools.json holds families of tools, each with several names, descriptions and names of its arguments, which
make tools of their own: a model that is to tell them apart has to read the list. The families under "unseen" are
for the test alone, names, arguments, phrasings and all. A prompt is the request and, on a line of its own, the
signatures of a few tools of different families. Now and then the right one is not among them, and `respond` says so.
Nothing runs these tools: the results of which `respond` tells in a second turn are made up.
"""

import functools
import itertools
import random
from collections import namedtuple

import tools as toolbox
from playground.data.entities import Entities, parse_template, read_data
from playground.data.imports.conversation import RESPOND
from playground.data.imports.shapes import closed
from playground.data.steps import record_of
from playground.run.errors import UserError

LISTED = (2, 5)  # tools in a prompt's list, at least and at most
NONE_FITS = 0.1  # of the requests: the list does not have their tool
SECOND_TURNS = 0.15
NO_TOOL = "None of my tools can do that."
NUMBERS = {"number": range(2, 100), "hour": range(1, 13)}  # kinds of values that are integers
LOWER, FINAL_STOP, TOOL_ERROR = 0.3, 0.6, 0.1
MAX_REPEATS = 2000  # duplicates in a row after which the phrasings count as used up
# Tools that do one thing: [(tool, {slot of the phrasings: argument})], [(id, parsed template)], {slot: its data}.
Family = namedtuple("Family", "tools phrasings arguments")


@functools.cache
def _families():
    """{"seen" or "unseen": [Family, ...]}."""
    data = read_data("unseen_tools.json")
    return {part: [_family(entry) for entry in data[part]] for part in ("seen", "unseen")}


def _family(entry):
    tools = []
    for index, name in enumerate(entry["names"]):
        slots, properties = {}, {}
        for slot, argument in entry["arguments"].items():
            slots[slot] = argument["names"][index]
            is_number = argument["kind"] in NUMBERS
            properties[slots[slot]] = {"type": "integer"} if is_number else {"type": "string", "x-from": "request"}
        parameters = closed({"properties": properties, "required": list(properties)})
        description = entry["descriptions"][index % len(entry["descriptions"])]
        tools.append(({"name": name, "description": description, "parameters": parameters}, slots))
    lines = enumerate(entry["phrasings"])
    phrasings = [(f"{entry['names'][0]}/{index:02d}", parse_template(line)) for index, line in lines]
    return Family(tools, phrasings, entry["arguments"])


def all_tools():
    """Every tool as a tool set, `respond` last."""
    tools = [tool for families in _families().values() for family in families for tool, _ in family.tools]
    return {tool["name"]: tool for tool in tools} | {"respond": RESPOND}


def build_splits(sizes, seed, list_tools):
    """`{split: records}` for sizes such as `{"train": 1500, "val": 100, "test": 400}`.

    Training has all phrasings of a seen family but its first, validation the first, the test the unseen families.
    Entities are dealt to the splits as those of the templates are. seed changes the training records only.
    list_tools: whether the prompts list tools; without, the same requests stand alone.
    """
    return {
        split: list(itertools.islice(_distinct(split, seed if split == "train" else "", list_tools), size))
        for split, size in sizes.items()
    }


def _distinct(split, seed, list_tools):
    """Endless iterator over the records of a split, no request twice."""
    rng, seen, repeats = random.Random(f"unseen_tools/{split}/{seed}"), set(), 0
    entities, families = Entities(split, rng), _families()["unseen" if split == "test" else "seen"]
    keep = {"train": slice(1, None), "val": slice(1), "test": slice(None)}[split]
    while repeats < MAX_REPEATS:
        family = rng.choice(families)
        (tool, slots), (phrasing, parts) = rng.choice(family.tools), rng.choice(family.phrasings[keep])
        request, values, used = _request(parts, family.arguments, entities, rng)
        others = rng.sample([other for other in families if other is not family], rng.randint(*LISTED))
        listed = [rng.choice(other.tools)[0] for other in others]
        call, turns = {"tool": tool["name"], "args": {slots[slot]: values[slot] for slot in slots}}, []
        kind = rng.random()
        if kind < NONE_FITS:
            call = {"tool": "respond", "args": {"message": NO_TOOL}}
        else:
            listed[rng.randrange(len(listed))] = tool
        if NONE_FITS <= kind < NONE_FITS + SECOND_TURNS:
            turns = [(call, _result(entities, rng))]
            call = {"tool": "respond", "args": {"message": answer(turns[0][1])}}
        repeats = repeats + 1 if request in seen else 0
        if repeats:
            continue
        seen.add(request)
        offered = {tool["name"]: tool for tool in listed}
        prompt = toolbox.with_results(request, turns, offered if list_tools else None)
        meta = {"phrasing": phrasing, "tool": call["tool"], "turn": 1 + len(turns), "entities": used}
        meta["tools"] = [*offered, "respond"]
        yield record_of(f"{split}-{len(seen) - 1:06d}", prompt, call, "unseen_tools", meta)
    made = f"{split}: {len(seen)} records are all that the phrasings of unseen_tools.json make"
    raise UserError(f"{made}: ask for fewer with dataset.size, validation_size or test_size.")


def _result(entities, rng):
    """What a tool might have returned."""
    if rng.random() < TOOL_ERROR:
        return {"error": entities.draw("error")}
    result = {}
    for key, template in rng.choice(read_data("unseen_tools.json")["results"]).items():
        parts = parse_template(template)
        if parts == (("number", "number"),):
            result[key] = rng.choice(NUMBERS["number"])
        else:
            result[key] = "".join(rng.choice(p) if isinstance(p, list) else entities.draw(p[1]) for p in parts)
    return result


def answer(result):
    """What an assistant that knows nothing of a tool says of what it returned."""
    if "error" in result:
        return f"Sorry, that did not work: {result['error']}."
    return "I got this: " + ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in result.items()) + "."


def _request(parts, arguments, entities, rng):
    """(request, {slot: value}, entities that no other split may have); values stand in the request verbatim."""
    lower, values, used = rng.random() < LOWER, {}, []
    for slot, argument in arguments.items():
        if argument["kind"] in NUMBERS:
            values[slot] = rng.choice(NUMBERS[argument["kind"]])
            continue
        values[slot] = entities.draw(argument["kind"])
        if argument["kind"] not in entities.shared:
            used.append(values[slot])
        values[slot] = values[slot].lower() if lower else values[slot]
    text = "".join(rng.choice(part) if isinstance(part, list) else str(values[part[0]]) for part in parts)
    text += rng.choice(".!") * (rng.random() < FINAL_STOP)
    return text.lower() if lower else text, values, used
