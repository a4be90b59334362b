"""README.md: what is made is made from what is recorded, and what it says to type can be typed."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT

from playground import readme, recipe
from playground.artifacts import UserError

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = "\n".join(re.findall(r"^ {4}.*|`[^`\n]+`", TEXT, re.MULTILINE))
COMMANDS = re.findall(r"python (0\d_\w+\.py)([^#`\n]*)", CODE)


def test_the_made_parts_are_those_of_the_recorded_runs():
    assert readme.filled(TEXT) == TEXT


def test_a_changed_number_is_put_right_and_an_unknown_part_is_refused():
    changed = TEXT.replace("| sft ", "| sft! ", 1)
    assert changed != TEXT and readme.filled(changed) == TEXT
    with pytest.raises(UserError, match="nothing makes 'weather'"):
        readme.filled("<!-- weather -->\nsunny\n<!-- /weather -->")


def test_every_command_exists_and_takes_the_flags_shown():
    scripts = {name for name, _ in COMMANDS}
    assert {path.name for path in ROOT.glob("0*.py")} == scripts
    for script in scripts:
        usage = subprocess.run([sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
        shown = {flag for name, rest in COMMANDS if name == script for flag in re.findall(r"--[a-z][\w-]*", rest)}
        assert shown <= set(re.findall(r"--[a-z][\w-]*", usage.stdout)), script


def test_every_setting_shown_is_accepted_and_every_recipe_there():
    for setting in re.findall(r"--set ([\w.]+=[^\s`,]+)", CODE):
        recipe.load(None, [recipe._split(setting)])
    for name in re.findall(r"--config (configs/\S+\.json)", CODE):
        recipe.load(ROOT / name)


def test_every_module_make_target_and_bench_script_shown_is_there():
    for module in re.findall(r"python -m (playground[\w.]*)", CODE):
        assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module
    for path in re.findall(r"python ((?:bench|base_model)/\w+\.py)", CODE):
        assert (ROOT / path).exists(), path
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for target in re.findall(r"(?:^ {4}|`)make ([\w-]+)", TEXT, re.MULTILINE):
        assert target in targets


def test_no_link_is_dead():
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", TEXT):
        assert re.match("https?://", target) or (ROOT / target).exists(), target
