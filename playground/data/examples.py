"""Records of tools of one's own, from ten to thirty example requests for each (02_create_dataset.py --examples).

An example is a line {"prompt": "Set a timer for 25 minutes", "call": {"tool": "set_timer", "args": {"minutes": 25}}};
"completion" with the call as text does as well. "result" and "answer" show what is said after the tool has run.

Two examples that differ in their values alone are one phrasing, and each phrasing belongs to one split. The values are
then exchanged (values.py), and the sentences varied by the rules of the templates: openers, thanks, typos and so on.
"""

import itertools
import random
import re
from collections import Counter

import tools as toolbox
from playground.data import slots, templates, wording
from playground.data.entities import read_data
from playground.data.imports import reading
from playground.data.imports.conversation import BadRow, read_call, text_in, writable
from playground.data.values import Values, is_free, items_of, schema_at
from playground.run.errors import UserError

LEAST = 5  # phrasings of a tool, or nothing could be held out
TEST_SHARE, VALIDATION_SHARE = 0.2, 0.1  # of a tool's phrasings
KEPT = 0.1  # how often an example keeps all of its values
MAX_REPEATS = 300  # requests in a row that were made before, after which the examples count as used up
SYNONYMS = ("tell me", "information", "look up")  # of the templates', those that mean the same about any tool
# With one of these a sentence asks for something to be done, and "could you please" may stand before it.
VERBS = frozenset(
    "add arrange book buy call cancel change check clear close convert count create cut delete dim dispatch do draw "
    "fetch find get give go heat hold invite keep let list log lower make mark message move note notify open order "
    "organise organize page paint pause pay pick place plan play post print put raise read record register remind "
    "remove rename repeat request reserve ring run save schedule search send set share show sort start stop store "
    "switch take tell track transfer translate turn update wake warm write".split()
)
DRESSED = re.compile(r"\b(?:please|pls|thanks|thank you|cheers|kindly)\b|^(?:hey|hi|hello|ok|okay)\b", re.IGNORECASE)


def read(path, tools):
    """[{"prompt", "call", "result", "answer"}, ...] of a file of examples; the last two are None where it has none."""
    report = reading.Report(path)
    found = list(report.read(reading.rows(path), lambda _, row: _example(row, tools)))
    report.finish()
    return found


def _example(row, tools):
    if not isinstance(row, dict):
        raise BadRow("not a JSON object")
    prompt, answer = text_in(row, "prompt"), row.get("answer")
    name = "call" if "call" in row else "completion"
    if row.get(name) is None:
        raise BadRow("has neither call nor completion")
    call = read_call(row[name] if isinstance(row[name], str) else toolbox.to_json(row[name]), tools, name)
    if answer is not None and (not isinstance(answer, str) or not answer.strip() or "result" not in row):
        raise BadRow("answer is not a text with a result beside it")
    example = {"prompt": " ".join(prompt.split()), "call": call, "result": row.get("result"), "answer": answer}
    return writable(example, "the example")


class Examples:
    """Examples dealt to the splits, and the records that they make. Raises UserError for too few of a tool."""

    def __init__(self, examples, tools, path, added=()):
        """added: examples that a teacher has written, for training alone."""
        self.tools = tools
        self.cues = slots.learn_cues([(example["prompt"], example["call"]) for example in examples])
        self.shapes, by_tool = {"train": [], "val": [], "test": []}, {}
        for example in examples:
            shape = slots.shape_of(example["prompt"], example["call"], self.cues)
            by_tool.setdefault(example["call"]["tool"], {}).setdefault(shape.wording, []).append((shape, example))
        self.names = list(by_tool)
        told = {example["call"]["tool"] for example in examples if example["answer"]}
        self.without_answers = [tool for tool in by_tool if tool not in told | {"respond"}]
        for tool, wordings in by_tool.items():
            if len(wordings) < LEAST:
                few = f"{path}: {len(wordings)} different requests for {tool} are too few to hold some out"
                raise UserError(f"{few}: write ten to thirty, each in other words.")
            splits = _deal(list(wordings))
            for number, (words, own) in enumerate(wordings.items()):
                row = {"tool": tool, "phrasing": f"own/{tool}/{number:02d}", "variants": own}
                self.shapes[splits[words]].append(row)
        for number, example in enumerate(added):
            tool, shape = example["call"]["tool"], slots.shape_of(example["prompt"], example["call"], self.cues)
            row = {"tool": tool, "phrasing": f"own/{tool}/t{number:03d}", "variants": [(shape, example)]}
            self.shapes["train"].append(row)

    def records(self, split, size, seed, held_out=None, known=(), first=0):
        """At most `size` records of each tool, no request twice and none of `known`; fewer where no more can be made.

        held_out: a HeldOut, of which training may not have what is too close. Ids count from `first`.
        """
        rng, found, seen = random.Random(f"examples/{split}/{seed}"), [], set(known)
        shapes = {
            name: [(row["tool"], shape) for row in rows for shape, _ in row["variants"]]
            for name, rows in self.shapes.items()
        }
        values = Values(self.tools, shapes, split, rng)
        for tool in self.names:
            own, repeats, made = [row for row in self.shapes[split] if row["tool"] == tool], 0, 0
            rows = itertools.chain.from_iterable(rng.sample(own, len(own)) for _ in itertools.count())
            while made < size and repeats < MAX_REPEATS:
                record = self._record(next(rows), values, rng)
                repeats += 1
                if record["prompt"] not in seen and not (held_out and held_out.leaks(record)):
                    seen.add(record["prompt"])
                    found.append({"id": f"{split}-own-{first + len(found):06d}"} | record)
                    repeats, made = 0, made + 1
        return found

    def _record(self, row, values, rng):
        shape, example = rng.choice(row["variants"])
        drawn, used = {}, []
        for slot in shape.slots if rng.random() >= KEPT else ():
            drawn[slot.path], more = values.draw(row["tool"], slot)
            used += more
        request, args = _vary(shape, drawn, self.tools[row["tool"]], rng)
        if toolbox.validate_call({"tool": row["tool"], "args": args}, self.tools):
            request, args, used = example["prompt"], example["call"]["args"], []  # what two arguments rule out together
        call, turns = {"tool": row["tool"], "args": args}, []
        if example["answer"] and rng.randrange(templates.FIRST_TURNS + templates.SECOND_TURNS) >= templates.FIRST_TURNS:
            old = example["call"]["args"]
            turns = [(call, slots.replaced_json(example["result"], old, args))]
            call = {"tool": "respond", "args": {"message": slots.replaced(example["answer"], old, args)}}
        meta = {"phrasing": row["phrasing"], "tool": call["tool"], "turn": 1 + len(turns), "entities": used,
                "free": _free(shape, self.tools[row["tool"]])}  # fmt: skip
        prompt = toolbox.with_results(request, turns)
        return {"prompt": prompt, "completion": toolbox.to_json(call), "source": "examples", "meta": meta}


def _free(shape, tool):
    """The arguments in whose texts single words may be exchanged, too (playground/data/augment.py)."""
    texts = [slot.path for slot in shape.slots if isinstance(items_of(slot.value)[0], str)]
    return [path[0] for path in texts if is_free(tool["parameters"], path)]


def _deal(wordings):
    """{wording: split}: held out are those whose words training has elsewhere, as far as there are such."""
    words = {wording: set(re.findall(r"[^\W\d_]+", re.sub(r"\{.*?\}", " ", wording))) for wording in wordings}
    counts = Counter(word for own in words.values() for word in own)
    test, validation = (max(1, round(share * len(wordings))) for share in (TEST_SHARE, VALIDATION_SHARE))
    splits = dict.fromkeys(wordings, "train")
    for split in (["test", "val"] * len(wordings))[: 2 * validation] + ["test"] * (test - validation):
        left = [wording for wording in wordings if splits[wording] == "train"]
        best = min(left, key=lambda wording: (sum(counts[word] == 1 for word in words[wording]), wording))
        splits[best] = split
        counts.subtract(words[best])
    return splits


def _vary(shape, drawn, tool, rng):
    """(request, args): the shape with the values drawn, and varied by the rules that the templates have."""
    parts, lower = list(shape.parts), rng.random() < wording.LOWER
    for slot in shape.slots if lower else ():
        value = drawn.get(slot.path, slot.value)
        if is_free(tool["parameters"], slot.path):
            drawn[slot.path] = _lowered(value)
        elif "x-from" in schema_at(tool["parameters"], slot.path) and _lowered(value) != value:
            lower = False  # it is to stand in the request as it is
    literals = [index for index, part in enumerate(parts) if isinstance(part, str)]
    for index in literals:
        parts[index] = _reworded(parts[index], rng)
    end = parts[-1][-1] if isinstance(parts[-1], str) and parts[-1][-1] in ".?!" else ""
    if end:
        parts[-1] = parts[-1][:-1]
    if literals and rng.random() < wording.TYPO:
        at = rng.choice(literals)
        parts[at] = wording.typo(parts[at], rng)
    body, args = slots.fill(slots.Shape(tuple(parts), shape.args), drawn)
    family = _family(body, end)
    request = wording.dress(body, family, end or ".", 0 in literals, rng) if family != "greeting" else body + end
    return " ".join((request.lower() if lower else request).split()), args


def _lowered(value):
    if isinstance(value, list):
        return [_lowered(item) for item in value]
    return value.lower() if isinstance(value, str) else value


def _reworded(text, rng):
    """A part of a sentence with contractions and synonyms, where it has words that have such."""
    data = read_data("phrasings.json")
    for long, short in data["contractions"].items() if rng.random() < wording.CONTRACT else ():
        text = re.sub(rf"\b{long}\b", short, text)
    for word in SYNONYMS:
        text = re.sub(rf"\b{word}\b", lambda _, word=word: rng.choice(data["synonyms"][word]), text)
    return text


def _family(body, end):
    """Which of the templates' families a sentence is like: what may stand before and after it."""
    if DRESSED.search(body):
        return "greeting"
    first = body.split(" ", 1)[0].casefold().strip(",:")
    return "plain" if first in VERBS and end != "?" else "polite"
