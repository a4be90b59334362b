"""Recipes: JSON settings for a run, their defaults, and the command line on top of them.

Order: configs/default.json < `--config FILE` < the script's own flags < `--set section.key=value`.
"""

import argparse
import copy
import difflib
import json
from pathlib import Path

from jsonschema import Draft202012Validator

from playground.artifacts import UserError, read_json

CONFIGS = Path(__file__).parents[1] / "configs"


class Recipe(dict):
    """The settings, by section. `origin` is what they were made from: `load(**origin)` makes them again."""

    origin = None


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
    options = parser.parse_args()
    try:
        return load(options.config, _flags(options) + [_split(text) for text in options.set]), options
    except UserError as error:
        parser.exit(2, f"error: {error}\n")


def load(config=None, overrides=()):
    """The whole recipe: defaults, then the file `config`, then (key, value) pairs such as ("sft.epochs", 3).

    Raises UserError for an unknown key (naming the nearest known one) or a value out of its bounds.
    """
    recipe = Recipe(read_json(CONFIGS / "default.json"))
    recipe.origin = {"config": config, "overrides": list(overrides)}
    schema = read_json(CONFIGS / "recipe.schema.json")
    if config:
        changes = read_json(config)
        if not isinstance(changes, dict):
            raise UserError(f"{config} holds no JSON object: a recipe reads {{...}}.")
        _merge(recipe, changes, config)
    for key, value in overrides:
        for part in reversed(key.split(".")):
            value = {part: value}
        _merge(recipe, value, "the command line")
    for error in Draft202012Validator(schema).iter_errors(recipe):
        raise UserError(f"recipe key {'.'.join(map(str, error.absolute_path))}: {error.message}.")
    return recipe


def sft_settings(recipe, base_kind):
    """Section sft with learning rate, epochs and batch size filled in for the kind of base model."""
    sft = copy.deepcopy(recipe["sft"])
    defaults = sft.pop("by_model")["embedded" if base_kind == "embedded" else "any"]
    return {**sft, **{key: value for key, value in defaults.items() if sft[key] is None}}


def _flags(options):
    known = {"config", "set"}
    return [
        (key, value)
        for key, value in vars(options).items()
        if value is not None and key not in known and ("." in key or key in ("seed", "output_dir"))
    ]


def _split(text):
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--set {text} has no value: write --set section.key=value.")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value  # a bare word is a string


def _merge(recipe, changes, origin, path=""):
    for key, value in changes.items():
        if key not in recipe:
            nearest = difflib.get_close_matches(key, recipe, n=1, cutoff=0)
            raise UserError(f"{origin}: unknown key {path + key}; did you mean {path + nearest[0]}?")
        if isinstance(recipe[key], dict) and isinstance(value, dict):
            _merge(recipe[key], value, origin, f"{path}{key}.")
        elif isinstance(recipe[key], dict):
            raise UserError(f"{origin}: {path + key} is a section: write {{...}} or {path + key}.KEY.")
        else:
            recipe[key] = value
