"""Recipes: one place for settings, and a sentence for whatever is wrong with them."""

import importlib.metadata
import json
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from playground.run import recipe
from playground.run.errors import UserError
from playground.run.files import read_json
from tests.conftest import ROOT


def keys(schema, path=""):
    for name, value in schema.get("properties", {}).items():
        yield from keys(value, f"{path}{name}.") if "properties" in value else [f"{path}{name}"]


def leaves(value, path=""):
    for name, item in value.items():
        yield from leaves(item, f"{path}{name}.") if isinstance(item, dict) else [f"{path}{name}"]


def test_every_setting_has_a_default_and_a_description():
    schema = read_json(recipe.CONFIGS / "recipe.schema.json")
    assert sorted(keys(schema)) == sorted(leaves(recipe.load()))

    def described(node):
        assert "description" in node, node
        for child in node.get("properties", {}).values():
            described(child)

    described(schema)


def test_every_number_has_bounds_and_a_unit():
    def check(node):
        for name, child in node.get("properties", {}).items():
            check(child)
            if {"integer", "number"} & set(child.get("type", [])) or child.get("type") in ("integer", "number"):
                assert {"minimum", "exclusiveMinimum"} & set(child), name
                assert {"maximum", "unit"} <= set(child), name

    check(read_json(recipe.CONFIGS / "recipe.schema.json"))


def test_the_table_of_settings_is_the_schemas():
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    shown = page.partition("<!-- settings -->\n")[2].partition("\n<!-- /settings -->")[0]
    assert shown == recipe.table(), "put the output of `python -m playground settings` there"


def test_the_command_line_beats_the_file_and_the_file_the_defaults(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"seed": 7, "sft": {"epochs": 2, "batch_size": 4}}))
    loaded = recipe.load(path, [("sft.epochs", 3)])
    assert (loaded["seed"], loaded["sft"]["epochs"], loaded["sft"]["batch_size"]) == (7, 3, 4)
    assert loaded["dpo"] == recipe.load()["dpo"]


def test_what_depends_on_the_base_model_is_filled_in_unless_set():
    loaded = recipe.load(None, [("sft.epochs", 1)])
    by_model = read_json(recipe.CONFIGS / "by_model.json")
    embedded, others = by_model["embedded"]["sft"], by_model["any"]["sft"]
    assert recipe.for_model(loaded, "sft", "embedded") == loaded["sft"] | embedded | {"epochs": 1}
    assert recipe.for_model(loaded, "sft", "hub") == loaded["sft"] | others | {"epochs": 1}
    lora = recipe.load(None, [("model.use_lora", True)])
    adapters = by_model["embedded with adapters"]["sft"]
    assert recipe.for_model(lora, "sft", "embedded") == lora["sft"] | embedded | adapters
    assert recipe.for_model(lora, "ppo", "hub") == lora["ppo"] | by_model["any"]["ppo"]
    for kind in by_model.values():  # they are settings like any others
        recipe.load(None, recipe.flat(kind).items())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (("sft.epoch", 3), "unknown key sft.epoch; did you mean sft.epochs?"),
        (("sftt.epochs", 3), "unknown key sftt; did you mean sft?"),
        (("sft.epochs", -1), "sft.epochs"),
        (("seed", "x"), "seed"),
        (("seed", 2**31), "seed: 2147483648 is greater than the maximum of 2147483647"),
        (("sft.batch_size", 8.0), "sft.batch_size: 8.0 is not of type 'integer'"),
        (("sft.learning_rate", float("nan")), "sft.learning_rate: nan is not of type 'number'"),
        (("seed", 10**400), "seed: 1000"),
        (("sft.learning_rate", 10**400), "sft.learning_rate: 1000"),
        (("model.dtype", "int8"), "model.dtype: 'int8' is not one of"),
        (("sft", 3), "sft is a section"),
    ],
)
def test_a_wrong_setting_is_one_sentence_that_names_it(override, message):
    with pytest.raises(UserError) as caught:
        recipe.load(None, [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"seed": 1,\n "sft": }', r"mine\.json .*line 2 column 9"),
        ("[]", r"mine\.json holds no JSON object"),
        ("\xff", r"mine\.json .*decode"),
        ("[" * 10_000, r"mine\.json .*recursion"),
        (None, r"mine\.json does not exist: check"),
    ],
)
def test_a_recipe_that_is_no_json_object_is_named_with_line_and_column(tmp_path, text, message):
    path = tmp_path / "mine.json"
    if text is not None:
        path.write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=message) as caught:
        recipe.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("script", sorted(path.name for path in ROOT.glob("0*.py")))
def test_usage_and_usage_errors_import_nothing_heavy(script, tmp_path):
    code = (
        f"import sys, runpy; sys.argv = ['{script}', *{{}}]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as stop: print('status', stop.code, 'torch' in sys.modules)"
    )
    (tmp_path / "mine.json").write_text("{")
    wrong = [["--set", "nonsense=1"]]
    if script == "01_baseline.py":  # one way to read them serves all
        wrong += [["--nonsense"], ["--config", str(tmp_path / "mine.json")]]
    for arguments, status in ((["--help"], 0), *((each, 2) for each in wrong)):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-c", code.format(arguments)], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == f"status {status} False", done.stdout + done.stderr
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1  # seconds; measured: 0.1


def test_a_tracker_that_is_not_installed_is_named_before_any_work(monkeypatch, capsys):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    monkeypatch.setattr(sys, "argv", ["03_finetune.py", "--set", "report_to=wandb"])
    with pytest.raises(SystemExit) as stop:
        recipe.arguments("")
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: report_to is wandb, which is not installed: `pip install wandb`.\n"


def test_a_key_below_what_a_file_has_made_a_section_is_one_sentence(tmp_path):
    (tmp_path / "mine.json").write_text('{"seed": {}}')
    with pytest.raises(UserError, match=r"unknown key seed\.x; did you mean seed\?"):
        recipe.load(tmp_path / "mine.json", [("seed.x", 1)])


def test_a_file_alone_cannot_let_a_models_code_run(tmp_path, capsys):
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps({"model": {"trust_remote_code": True}}))
    assert recipe.load(path)["model"]["trust_remote_code"] is False
    assert "theirs.json asks to run code" in capsys.readouterr().err
    for pairs in ([("model.trust_remote_code", True)], [("model", {"trust_remote_code": True})]):
        assert recipe.load(path, pairs)["model"]["trust_remote_code"] is True
        assert recipe.load(None, pairs)["model"]["trust_remote_code"] is True
    assert capsys.readouterr().err == ""


def script(name, *arguments, cwd=ROOT):
    line = [sys.executable, str(ROOT / name), *map(str, arguments)]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, check=False)


def test_what_is_to_be_run_next_is_said_with_what_this_run_was_given(tmp_path):
    flags = ["--config", "configs/smoke.json", "--model", "embedded", "--output-dir", str(tmp_path / "my outputs")]
    flags += ["--set", "generate.max_new_tokens=90"]
    missing = script("03_finetune.py", *flags, "--epochs", "1").stderr
    asked = re.search("run `(.*)` first", missing)[1]
    assert shlex.split(asked)[:2] == ["python", str(ROOT / "02_create_dataset.py")] and "--epochs" not in asked
    made = script(Path(shlex.split(asked)[1]).name, *shlex.split(asked)[2:])
    assert made.returncode == 0, made.stderr
    following = shlex.split(made.stdout.splitlines()[-1].partition("Next: ")[2])
    assert following == ["python", str(ROOT / "03_finetune.py"), *flags]


def test_a_script_started_in_another_folder_finds_the_projects_own_files(tmp_path):
    done = script("02_create_dataset.py", "--config", "configs/smoke.json", "--output-dir", "here", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "here" / "02_create_dataset" / "tools.json").exists()


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("0*.py")))
def test_help_shows_values_rather_than_recipe_keys(name):
    shown = script(name, "--help").stdout
    assert not re.search(r"--\S+ [A-Z_]+\.[A-Z_.]+", shown)
    assert "--seed N" in shown
