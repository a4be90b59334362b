"""Values for the arguments of a tool of one's own: what its schema allows, from entities that fit and from examples.

An entity fits by the argument's format ("email") or by its name (`city`, `guests`), and if the examples' own values are
written as it is. Each split has entities and examples of its own, so its values are its own, too, but for numbers and
the values of an enum, of which there may be few.
"""

import datetime
import json
import math
import re

from jsonschema import Draft202012Validator

from playground.data.entities import Entities

# What an argument with such a word in its name is filled with, beside the examples' own values.
NAMES = {
    "city": "city location place town destination origin", "weekday": "day weekday", "dish": "dish meal food recipe",
    "person": "recipient person contact guest attendee who friend member", "product": "product item",
    "topic": "topic query", "subject": "subject", "country": "country", "company": "company", "plant": "plant",
    "pet": "pet", "project": "project",
}  # fmt: skip
KINDS = {name: kind for kind, names in NAMES.items() for name in names.split()}
OWN = {"entity": 0.4, "number": 0.4}  # how often an example's own value is taken where others would do, too
FULL_RANGE = 0.25  # how often a number comes from all that the schema allows, and not from about where the examples are
WIDE = 10_000  # a wider range than this is never drawn from as a whole
TRIES = 20
DATE, DAYS = datetime.date(2025, 1, 1), 730  # the first of the dates that are drawn, and of how many


class Values:
    """New values for the slots of one split."""

    def __init__(self, tools, shapes, split, rng):
        """shapes: {split: [(tool, Shape), ...]}, of which the own split's values are taken."""
        self.tools, self.rng, self.entities, self.own = tools, rng, Entities(split, rng), {}
        elsewhere = {
            (tool, slot.path, str(item))
            for other, rows in shapes.items()
            if other != split
            for tool, shape in rows
            for slot in shape.slots
            for item in items_of(slot.value)
        }
        for tool, shape in shapes[split]:
            for slot in shape.slots:
                own = self.own.setdefault((tool, slot.path), {"values": [], "lengths": []})
                own["values"] += items_of(slot.value)
                own["lengths"].append(len(items_of(slot.value)))
        if split != "train":  # a text that training has, too, shows nothing; where there is no other, it has to do
            for (tool, path), own in self.own.items():
                new = [value for value in own["values"] if (tool, path, str(value)) not in elsewhere]
                own["values"] = new or own["values"]

    def draw(self, tool, slot):
        """(a new value for a slot of a tool's request, the entities in it that no other split may have)."""
        schema, own = schema_at(self.tools[tool]["parameters"], slot.path), self.own[tool, slot.path]
        if '"$ref"' in json.dumps(schema) or not isinstance(schema.get("items", {}), dict):
            return slot.value, []  # what may stand there is said elsewhere
        if not isinstance(slot.value, list):
            return self._one(slot.value, schema, own["values"], slot.path)
        inner, most = schema.get("items", {}), schema.get("maxItems", max(own["lengths"]) + 1)
        wanted = self.rng.randint(max(1, schema.get("minItems", 1)), max(1, min(most, max(own["lengths"]) + 1)))
        values, used = [], []
        for _ in range(TRIES):
            value, more = self._one(slot.value[0], inner, own["values"], slot.path)
            if value not in values and len(values) < wanted:
                values.append(value)
                used += more
        return values if Draft202012Validator(schema).is_valid(values) else slot.value, used

    def _one(self, value, schema, own, path):
        rng = self.rng
        if "enum" in schema:
            return rng.choice([other for other in schema["enum"] if type(other) is type(value)] or [value]), []
        if isinstance(value, bool):
            return rng.random() < 0.5, []
        own = [other for other in own if isinstance(other, str) == isinstance(value, str)] or [value]
        if isinstance(value, int | float):
            return self._number(value, schema, own), []
        kind = self._kind(schema, path, own)
        for _ in range(TRIES if kind and rng.random() >= OWN["entity"] else 0):
            drawn = str(DATE + datetime.timedelta(rng.randrange(DAYS))) if kind == "date" else self.entities.draw(kind)
            drawn = drawn.lower() if own and all(text.islower() for text in own) else drawn
            if Draft202012Validator(schema).is_valid(drawn):
                return drawn, [] if kind == "date" or kind in self.entities.shared else [drawn]
        return rng.choice(own), []

    def _number(self, value, schema, own):
        if value == 1 or self.rng.random() < OWN["number"]:  # "1 hour" would become "7 hour"
            return value if value == 1 else self.rng.choice(own)
        low = schema.get("minimum", schema.get("exclusiveMinimum", -math.inf))
        high = schema.get("maximum", schema.get("exclusiveMaximum", math.inf))
        wide = math.isinf(low) or math.isinf(high) or high - low > WIDE
        if wide or self.rng.random() >= FULL_RANGE:
            low, high = max(low, min(own) / 2), min(high, max(own) * 2)
        if min(own) > 1:
            low = max(low, 2)
        step = schema.get("multipleOf") or 10 ** -max(_decimals(number) for number in own)
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        drawn = round(self.rng.randint(first, last) * step, 6) if first <= last else value
        drawn = int(drawn) if isinstance(value, int) else drawn
        return drawn if Draft202012Validator(schema).is_valid(drawn) else value

    def _kind(self, schema, path, own):
        """What kind of entity fits, or None: by format, else by the name if the examples are written as such are."""
        if schema.get("format") == "email" or (own and all(re.fullmatch(r"\S+@\S+\.\w+", text) for text in own)):
            return "address"
        if schema.get("format") == "date":
            return "date"
        if "pattern" in schema or "format" in schema:
            return None
        words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", str(path[-1])).lower())
        kind = next((KINDS[name] for word in words for name in (word, word.removesuffix("s")) if name in KINDS), None)
        capital = kind in ("city", "person", "country", "weekday", "project")
        return kind if kind and capital == (2 * sum(text[:1].isupper() for text in own) > len(own)) else None


def schema_at(parameters, path):
    """The schema of the value at a path of the arguments, {} where the parameters say nothing of it."""
    for key in path:
        parameters = parameters.get("properties", {}).get(key, {}) if isinstance(parameters, dict) else {}
    return parameters if isinstance(parameters, dict) else {}


def is_free(parameters, path):
    """Whether any other words would do there as well: a text without an enum, a pattern or a format."""
    schema = schema_at(parameters, path)
    inner = schema.get("items", schema)
    return isinstance(inner, dict) and not {"enum", "const", "pattern", "format"} & inner.keys()


def items_of(value):
    return value if isinstance(value, list) else [value]


def _decimals(number):
    return 0 if isinstance(number, int) else len(f"{number:.6f}".rstrip("0").partition(".")[2])
