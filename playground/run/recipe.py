"""Recipes: JSON settings for a run, their defaults, and the command line on top of them.

Order: configs/default.json < `--config FILE` < the script's own flags < `--set section.key=value`.
`python -m playground settings` prints docs/settings.md's table of all settings, which is made from the schema.
"""

import argparse
import difflib
import importlib.metadata
import json
import math
import sys
from pathlib import Path

from jsonschema import Draft202012Validator
from jsonschema.validators import extend

from playground import schemas
from playground.run import console
from playground.run.errors import UserError
from playground.run.files import read_json

CONFIGS = Path(__file__).parents[2] / "configs"
# JSON Schema calls 8.0 an integer, and compares NaN with no bound.
TYPES = Draft202012Validator.TYPE_CHECKER.redefine_many(
    {
        "integer": lambda _, value: isinstance(value, int) and not isinstance(value, bool),
        "number": lambda _, value: type(value) is int or (type(value) is float and math.isfinite(value)),
    }
)
Validator = extend(Draft202012Validator, type_checker=TYPES)


class Settings(dict):
    """The settings, by section. `origin` is what they were made from: `load(**origin)` makes them again."""

    origin = None

    def __or__(self, changes):
        changed = Settings(super().__or__(changes))
        changed.origin = self.origin
        return changed


def arguments(description, add_flags=None):
    """Parse a script's command line: returns (recipe, options).

    add_flags(parser) adds the script's own flags; one whose `dest` is a recipe key, such as "sft.epochs",
    sets that key when given. Exits with status 2 and one sentence for anything wrong.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", metavar="FILE", help="a recipe (JSON): only what differs from configs/default.json")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="e.g. sft.epochs=3")
    parser.add_argument("--model", dest="model.name", metavar="NAME", help="hub name, folder, or `embedded`")
    parser.add_argument("--seed", dest="seed", type=int, help="seed of everything random")
    parser.add_argument("--output-dir", dest="output_dir", metavar="DIR", help="where artifacts go (outputs)")
    if add_flags:
        add_flags(parser)
    for action in parser._actions:  # argparse would show a flag's recipe key for its value
        if (action.type or "." in action.dest) and action.nargs is None and action.metavar is None:
            action.metavar = "N" if action.type else action.option_strings[0].strip("-").upper()
    options = parser.parse_args()
    given = {key: value for key, value in vars(options).items() if value is not None}
    shared = {"--config": "config", "--model": "model.name", "--seed": "seed", "--output-dir": "output_dir"}
    console.given[:] = [word for flag, key in shared.items() if key in given for word in (flag, str(given[key]))]
    console.given += [word for text in options.set for word in ("--set", text)]
    flags = [(key, value) for key, value in given.items() if "." in key or key in ("seed", "output_dir")]
    try:
        settings = load(options.config, flags + [_split(text) for text in options.set])
        _require_tracker(settings["report_to"])
        return settings, options
    except UserError as error:
        parser.exit(2, f"error: {error}\n")


def load(config=None, overrides=()):
    """The whole recipe: defaults, then the file `config`, then (key, value) pairs such as ("sft.epochs", 3).

    The file's `model.trust_remote_code` counts only where the pairs, which are the command line's, say it too. Raises
    UserError for an unknown key (naming the nearest known one) or a value out of its bounds.
    """
    settings = Settings(read_json(CONFIGS / "default.json"))
    settings.origin = {"config": config, "overrides": list(overrides)}
    schema = read_json(CONFIGS / "recipe.schema.json")
    if config:
        changes = read_json(_own_file(config))
        if not isinstance(changes, dict):
            raise UserError(f"{config} holds no JSON object: a recipe reads {{...}}.")
        _merge(settings, changes, config)
    for key, value in overrides:
        for part in reversed(key.split(".")):
            value = {part: value}
        _merge(settings, value, "the command line")
    for error in schemas.validator(schema, Validator).iter_errors(settings):
        raise UserError(f"recipe key {'.'.join(map(str, error.absolute_path))}: {error.message[:300]}.")
    settings["tools"]["file"] = _own_file(settings["tools"]["file"])
    if config and settings["model"]["trust_remote_code"] and not said(settings, "model", "trust_remote_code"):
        settings["model"]["trust_remote_code"] = False
        message = f"{config} asks to run code of the model's: it is not run without --set model.trust_remote_code=true."
        print(message, file=sys.stderr)
    return settings


def flat(nested, separator=".", path=""):
    """{"section.key": value} of dicts in dicts."""
    found = {}
    for key, value in nested.items():
        place = f"{path}{key}"
        found |= flat(value, separator, place + separator) if isinstance(value, dict) else {place: value}
    return found


def said(settings, section, key):
    """What the command line, over the defaults, says of a setting that no file may decide alone."""
    origin = getattr(settings, "origin", None) or {"overrides": []}
    return load(None, origin["overrides"])[section][key]


def _own_file(path):
    """A path of the user's, or else of the project, which lies beside the scripts, wherever one starts them."""
    beside = CONFIGS.parent / path
    return str(beside) if beside.exists() and not Path(path).exists() else path


def for_model(settings, section, base_kind):
    """A section with what is null in it filled in for the kind of base model, from configs/by_model.json."""
    by_model, kind = read_json(CONFIGS / "by_model.json"), "embedded" if base_kind == "embedded" else "any"
    defaults = dict(by_model[kind][section])
    if settings["model"]["use_lora"]:
        defaults |= by_model[f"{kind} with adapters"].get(section, {})
    return settings[section] | {key: value for key, value in defaults.items() if settings[section][key] is None}


def table():
    """Markdown: each setting with its default, the values it may have, in which unit, and what it means."""
    lines = ["| setting | default | values | |", "|---|---|---|---|"]

    def describe(schema, defaults, path):
        for name, child in schema["properties"].items():
            if "properties" in child:
                describe(child, defaults[name], f"{path}{name}.")
            else:
                default = json.dumps(defaults[name], ensure_ascii=False)
                lines.append(f"| `{path}{name}` | `{default}` | {_values(child)} | {child['description']} |")

    describe(read_json(CONFIGS / "recipe.schema.json"), read_json(CONFIGS / "default.json"), "")
    return "\n".join(lines)


def _values(schema):
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    kinds = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    values = {"string": "text", "boolean": "`true`, `false`"}.get(kinds[0])
    if values is None:
        low = f"over {schema['exclusiveMinimum']}" if "exclusiveMinimum" in schema else schema["minimum"]
        values = f"{low} to {schema['maximum']:,} {schema['unit']}".removesuffix(" -")
    return values + ", `null`" * ("null" in kinds)


def _require_tracker(name):
    if name != "none":
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            raise UserError(f"report_to is {name}, which is not installed: `pip install {name}`.") from None


def _split(text):
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--set {text} has no value: write --set section.key=value.")
    try:
        return key, json.loads(value)
    except (ValueError, RecursionError):
        return key, value  # a bare word is a string


def _merge(settings, changes, origin, path=""):
    for key, value in changes.items():
        if key not in settings:
            key = key[:100]
            nearest = difflib.get_close_matches(key, settings, n=1, cutoff=0) or [""]
            raise UserError(f"{origin}: unknown key {path + key}; did you mean {(path + nearest[0]).rstrip('.')}?")
        if isinstance(settings[key], dict) and isinstance(value, dict):
            _merge(settings[key], value, origin, f"{path}{key}.")
        elif isinstance(settings[key], dict):
            raise UserError(f"{origin}: {path + key} is a section: write {{...}} or {path + key}.KEY.")
        else:
            settings[key] = value
