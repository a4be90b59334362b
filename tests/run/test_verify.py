"""`python -m playground verify`: what is whole, what is stale, and after what change."""

import json
import shutil
import subprocess
import sys

import pytest

from playground.run import artifacts, locking, manifest, recipe
from playground.run.files import write_jsonl
from tests.conftest import ROOT


@pytest.fixture
def configs(tmp_path, monkeypatch):
    """A copy of the default recipe, to be changed."""
    shutil.copytree(recipe.CONFIGS, tmp_path / "configs")
    monkeypatch.setattr(recipe, "CONFIGS", tmp_path / "configs")
    return tmp_path / "configs"


@pytest.fixture
def folder(tmp_path, configs):
    """Three artifacts, each made from the one before and the first from a file."""
    output_dir, source = tmp_path / "outputs", tmp_path / "source.txt"
    source.write_text("in")
    settings = recipe.load(None, [("output_dir", str(output_dir)), ("generate.batch_size", 3)])
    for stage, read in (
        ("01_a", source),
        ("02_b", output_dir / "01_a" / "rows.jsonl"),
        ("03_c", output_dir / "02_b" / "manifest.json"),
    ):
        with artifacts.stage(settings, stage, inputs=[read]) as artifact:
            write_jsonl(artifact / "rows.jsonl", [stage])
    locking.release()
    return output_dir


def test_what_nobody_touched_is_fine_also_in_another_place(folder):
    assert manifest.verify(folder) == {"01_a": [], "02_b": [], "03_c": []}
    moved = folder.rename(folder.with_name("moved"))
    assert manifest.verify(moved) == {"01_a": [], "02_b": [], "03_c": []}


def test_an_altered_file_is_named_and_so_is_what_was_made_from_it(folder):
    path = folder / "01_a" / "rows.jsonl"
    path.write_text("other\n")
    assert manifest.verify(folder) == {
        "01_a": ["altered: rows.jsonl is changed"],
        "02_b": [f"stale: {path} is changed"],
        "03_c": ["stale: 02_b is not fine"],
    }
    path.unlink()
    assert manifest.verify(folder)["01_a"] == ["altered: rows.jsonl is missing"]


def test_a_changed_input_makes_stale_what_was_made_from_it(folder, tmp_path):
    (tmp_path / "source.txt").write_text("out")
    assert manifest.verify(folder)["01_a"] == [f"stale: {tmp_path / 'source.txt'} is changed"]


def test_a_changed_default_makes_stale_and_one_that_the_command_line_had_set_does_not(folder, configs):
    change(configs, "generate", "batch_size", 9)
    assert manifest.verify(folder)["01_a"] == []
    was = change(configs, "generate", "max_new_tokens", 5)
    assert manifest.verify(folder)["01_a"] == [f"stale: recipe key generate.max_new_tokens was {was} and is now 5"]


def test_a_changed_default_of_another_stage_alone_makes_nothing_stale(folder, configs):
    settings = recipe.load(None, [("output_dir", str(folder))])
    for stage in ("03_finetune", "06_dpo"):
        with artifacts.stage(settings, stage):
            pass
    locking.release()
    was = change(configs, "dpo", "beta", 0.7)
    found = manifest.verify(folder)
    assert found["03_finetune"] == []
    assert found["06_dpo"] == [f"stale: recipe key dpo.beta was {was} and is now 0.7"]


@pytest.mark.parametrize("section, stage", manifest.OWN.items())
def test_no_other_stage_reads_a_section_that_is_one_stages_own(section, stage):
    read = [path.stem for path in ROOT.glob("0*.py") if f'settings["{section}"]' in path.read_text(encoding="utf-8")]
    assert set(read) <= {stage} and section in recipe.load() and (ROOT / f"{stage}.py").exists()


def change(configs, section, key, value):
    """Another default of a setting; returns the old one."""
    defaults = json.loads((configs / "default.json").read_text())
    was, defaults[section][key] = defaults[section][key], value
    (configs / "default.json").write_text(json.dumps(defaults))
    return was


def test_a_changed_base_model_makes_stale(folder, tmp_path):
    base = {"name": "x", "kind": "folder", "path": str(tmp_path / "model")}
    weights = tmp_path / "model" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_text("1")
    with artifacts.stage(recipe.load(None, [("output_dir", str(folder))]), "04_d", base_model=base):
        pass
    weights.write_text("2")
    assert manifest.verify(folder)["04_d"] == [f"stale: {weights} is changed"]


def test_a_teacher_that_learned_from_its_own_records_does_not_make_them_stale(folder, tmp_path):
    later = folder / "03_c" / "manifest.json"
    with artifacts.stage(recipe.load(None, [("output_dir", str(folder))]), "00_t", inputs=[later]):
        pass
    later.write_text(later.read_text() + "\n")
    assert manifest.verify(folder)["00_t"] == []


def test_a_manifest_that_is_cut_off_is_named(folder):
    path = folder / "01_a" / "manifest.json"
    path.write_text(path.read_text()[:50])
    assert "manifest.json cannot be read as JSON" in manifest.verify(folder)["01_a"][0]
    path.write_text("[]")
    assert manifest.verify(folder)["01_a"] == ["altered: its manifest is of another form"]


def test_the_command_prints_a_line_for_each_artifact_and_ends_with_a_status(folder):
    def command(output_dir):
        line = [sys.executable, "-m", "playground", "verify", str(output_dir)]
        return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)

    done = command(folder)
    assert (done.returncode, done.stdout) == (0, "01_a: fine\n02_b: fine\n03_c: fine\n")
    (folder / "03_c" / "rows.jsonl").write_text("")
    done = command(folder)
    assert (done.returncode, done.stdout.splitlines()[2]) == (1, "03_c: altered: rows.jsonl is changed")
    done = command(folder / "nowhere")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
