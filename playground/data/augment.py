"""Records that say something else each time they are read: their arguments exchanged, in request and call alike.

Read ten times, 500 records can be learned by heart, and then an address that is not among them is answered with one
that is. With other arguments each time, copying what stands in the request is the only way to be right, and each
phrasing is met with arguments of other lengths: where they begin and end has to be read from the request too.

The arguments of a user's own tools may be numbers, lists, or one of a few values. They are exchanged as a whole; single
words in texts only that may hold any.
"""

import json
import re

import tools as toolbox
from playground.data import slots

SOURCES = {"templates", "teacher"}  # whose tools take any words as arguments
OWN = "examples"  # whose tools have schemas that the records' meta stands for
WORD = r"[^\W\d_]{3,}"
FOUND = re.compile(r'"(?:sky|first)": "([^"\\]+)"')  # what tools say that an answer repeats


class Exchange:
    """exchange(record, rng): the record with some of its arguments, words and numbers exchanged.

    arguments: share of the arguments that are replaced by another record's. words: share of the words and numbers
    that are replaced one by one, by words of other arguments and by random digits; 2, 3 and 100 stay, being part of
    "squared", "cubed" and "%". A word with a capital gets one with a capital. Records of imported data are not changed.
    """

    def __init__(self, records, arguments, words):
        self.argument_share, self.word_share = arguments, words
        self.arguments, vocabulary = {}, set()  # {(tool, argument): [values]}
        for record in records:
            for key, value in _arguments(record) if record.get("source") in SOURCES else ():
                self.arguments.setdefault(key, []).append(value)
                vocabulary |= _words(value)
        own = [(record, *_request_and_call(record)) for record in records if record.get("source") == OWN]
        self.cues = slots.learn_cues([(request, call) for _, request, call in own])
        for record, request, call in own:
            for slot in slots.shape_of(request, call, self.cues).slots:
                self.arguments.setdefault((call["tool"], slot.path), []).append(slot.value)
                vocabulary |= _words(str(slot.value)) if slot.path[0] in record["meta"]["free"] else set()
        self.words = sorted(vocabulary)

    def __call__(self, record, rng):
        if record.get("source") == OWN:
            return self._exchange_slots(record, rng)
        if record.get("source") in SOURCES:
            return self._exchange_words(self._exchange_arguments(record, rng), rng)
        return record

    def _exchange_slots(self, record, rng):
        request, call = _request_and_call(record)
        shape, new = slots.shape_of(request, call, self.cues), {}
        for slot in shape.slots:
            values = self.arguments.get((call["tool"], slot.path))
            value = rng.choice(values) if values and rng.random() < self.argument_share else slot.value
            new[slot.path] = self._other_words(value, rng) if slot.path[0] in record["meta"]["free"] else value
        request, args = slots.fill(shape, new)
        changed = {"tool": call["tool"], "args": args}
        _, *lines = record["prompt"].split("\n")
        if not lines:
            return {**record, "prompt": request, "completion": toolbox.to_json(changed)}
        result = slots.replaced_json(json.loads(lines[1].removeprefix("Result: ")), call["args"], args)
        answer = json.loads(record["completion"])
        answer["args"]["message"] = slots.replaced(answer["args"]["message"], call["args"], args)
        prompt = toolbox.with_results(request, [(changed, result)])
        return {**record, "prompt": prompt, "completion": toolbox.to_json(answer)}

    def _other_words(self, value, rng):
        """A text, or the texts of a list, with a share of their words exchanged; no two items become the same."""
        if isinstance(value, list):
            items = [self._other_words(item, rng) for item in value]
            return items if len(set(map(str, items))) == len(items) else value
        if not isinstance(value, str):
            return value

        def other(match):
            if rng.random() >= self.word_share:
                return match[0]
            word = rng.choice(self.words)
            return word.capitalize() if match[0][0].isupper() else word.lower()

        return re.sub(WORD, other, value)

    def _exchange_arguments(self, record, rng):
        new = {}
        for key, value in _arguments(record):
            other = rng.choice(self.arguments[key])
            new.setdefault(value, other.lower() if value.islower() else other)
        return _replaced(record, new, record["prompt"].partition("\nCall: ")[0], self.argument_share, rng)

    def _exchange_words(self, record, rng):
        values = [value for _, value in _arguments(record)] + FOUND.findall(record["prompt"])
        new = {}
        for word in sorted(set().union(*map(_words, values))):
            other = rng.choice(self.words)
            new[word] = other.capitalize() if word[0].isupper() else other.lower()
        for number in sorted(set(re.findall(r"\d+", record["completion"])) - {"2", "3", "100"}):
            new[number] = str(rng.randint(1, 9)) + "".join(rng.choice("0123456789") for _ in number[1:])
        return _replaced(record, new, record["prompt"], self.word_share, rng)


def _arguments(record):
    """[((tool, argument), value)] of the calls of a record, but for what `respond` says, which is no copy."""
    lines = re.findall(r'{"tool": .*', f"{record['prompt']}\n{record['completion']}")
    calls = [call for call in map(json.loads, lines) if call["tool"] != "respond"]
    values = [((call["tool"], name), value) for call in calls for name, value in call["args"].items()]
    return [(key, value) for key, value in values if json.dumps(value, ensure_ascii=False)[1:-1] == value]


def _request_and_call(record):
    """(request, call) of a record with one call, be it the completion or before the answer."""
    request, *lines = record["prompt"].split("\n")
    return request, json.loads(lines[0].removeprefix("Call: ") if lines else record["completion"])


def _words(text):
    return set(re.findall(WORD, text))


def _replaced(record, new, text, share, rng):
    """The record with a share of the keys of `new`, of those that stand in `text`, replaced by their values."""
    new = {old: new[old] for old in new if re.search(_whole(old), text) and rng.random() < share}
    if not new:
        return record
    pattern = re.compile("|".join(map(_whole, sorted(new, key=len, reverse=True))))
    texts = {key: pattern.sub(lambda match: new[match[0]], record[key]) for key in ("prompt", "completion")}
    return {**record, **texts}


def _whole(text):
    """A pattern of a text between other characters than letters, and neither an argument's name nor a tool's."""
    return rf'(?<!\w)(?<!"tool": "){re.escape(text)}(?!\w)(?!": )'
