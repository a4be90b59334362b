"""Artifacts: whole or not there, and honest about what they were made from."""

import json
import shutil

import pytest

from playground.run import artifacts, locking, recipe
from playground.run.errors import UserError
from playground.run.files import read_records, read_requests, sha256, write_json


@pytest.fixture
def settings(tmp_path):
    return recipe.load(None, [("output_dir", str(tmp_path / "outputs"))])


def test_an_artifact_appears_when_its_stage_is_done(settings, tmp_path):
    source = tmp_path / "input.txt"
    source.write_text("in")
    with artifacts.stage(settings, "01_baseline", inputs=[source], base_model={"name": "x"}) as artifact:
        write_json(artifact / "metrics.json", {"n": 1})
        assert not artifact.final.exists()
    assert sorted(path.name for path in artifact.final.iterdir()) == ["manifest.json", "metrics.json"]
    manifest = artifacts.read_manifest(settings["output_dir"], "01_baseline")
    assert manifest["inputs"] == {str(source): sha256(source)}
    assert manifest["outputs"] == {"metrics.json": sha256(artifact.final / "metrics.json")}
    assert manifest["recipe"] == settings
    assert manifest["libraries"]["torch"]
    assert manifest["base_model"] == {"name": "x"}


def test_a_stage_that_fails_leaves_the_last_artifact_as_it_was(settings):
    with artifacts.stage(settings, "01_baseline") as artifact:
        write_json(artifact / "metrics.json", {"n": 1})
    with pytest.raises(ZeroDivisionError), artifacts.stage(settings, "01_baseline") as artifact:
        write_json(artifact / "metrics.json", {"n": 2})
        1 / 0  # noqa: B018
    assert json.loads((artifact.final / "metrics.json").read_text()) == {"n": 1}


@pytest.mark.parametrize(("change", "kept"), [({}, True), ({"seed": 1}, False)])
def test_what_an_interrupted_run_reached_is_kept_for_the_same_recipe_only(settings, change, kept):
    with pytest.raises(ZeroDivisionError), artifacts.stage(settings, "03_finetune", resume=True) as artifact:
        write_json(artifact / "reached.json", 5)
        1 / 0  # noqa: B018
    with artifacts.stage({**settings, **change}, "03_finetune", resume=True) as artifact:
        assert artifact.resumed("reached.json", None) == (5 if kept else None)


def test_a_checkpoint_that_was_cut_off_is_not_resumed_from(tmp_path):
    assert artifacts.last_checkpoint(tmp_path) is None
    for step, whole in ((5, True), (10, True), (15, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if whole:
            (folder / "trainer_state.json").write_text('{"epoch": 1}')
    assert artifacts.last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


def test_a_missing_artifact_names_the_script_that_makes_it(settings):
    with pytest.raises(UserError, match=r"run `python \S*03_finetune\.py.*` first"):
        artifacts.require(settings["output_dir"], "03_finetune")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "train.jsonl:2: not JSON"),
        (b'{"id": "x"}', "train.jsonl:2: a record needs"),
        (b"\xff", "train.jsonl:2: not JSON"),
    ],
)
def test_a_bad_dataset_line_is_named(tmp_path, line, message):
    path = tmp_path / "train.jsonl"
    path.write_bytes(b'{"id": "a", "prompt": "b", "completion": "c"}\n' + line + b"\n")
    with pytest.raises(UserError, match=message):
        read_records(path)


def test_a_dataset_cut_at_the_end_of_a_line_is_named(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"id": "a", "prompt": "b", "completion": "c"}\n' * 3)
    write_json(tmp_path / "metrics.json", {"n": {"train": 3}})
    assert len(read_records(path)) == 3
    path.write_text('{"id": "a", "prompt": "b", "completion": "c"}\n' * 2)
    with pytest.raises(UserError, match=r"train\.jsonl has 2 of the 3 records that were written"):
        read_records(path)


def test_requests_have_outcomes_and_those_that_were_cut_off_are_named_and_none_at_all_are_fine(tmp_path):
    assert read_requests(tmp_path) == []
    path = tmp_path / "02_create_dataset" / "rl.jsonl"
    path.parent.mkdir()
    path.write_text('{"id": "rl-0", "prompt": "Hi\u2028there", "outcome": {}}\n', encoding="utf-8")
    assert [row["prompt"] for row in read_requests(tmp_path)] == ["Hi\u2028there"]
    path.write_text('{"id": "rl-0", "prompt": "Hi"}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"rl\.jsonl has no outcomes: run `python 02_create_dataset\.py"):
        read_requests(tmp_path)
    path.write_text('{"id": "rl-0", "prompt": "Hi"}\n{"id": "rl', encoding="utf-8")
    with pytest.raises(UserError, match=r"rl\.jsonl:2: not JSON"):
        read_requests(tmp_path)


def test_feedback_needs_calls_and_comes_first(tmp_path):
    folder = tmp_path / "02_create_dataset"
    folder.mkdir()
    (folder / "rl.jsonl").write_text('{"id": "r", "prompt": "Hi", "outcome": {}}\n')
    path = folder / "feedback.jsonl"
    path.write_text('{"id": "a", "prompt": "Hi", "completion": "b"}\n')
    assert [row["id"] for row in read_requests(tmp_path)] == ["a", "r"]
    path.write_text('{"id": "a", "prompt": "Hi", "completion": "b"}\n{"id": "a", "prompt": "Hi"}\n')
    with pytest.raises(UserError, match=r"feedback\.jsonl:2: a record needs id, prompt, completion"):
        read_requests(tmp_path)


def test_an_output_folder_that_cannot_be_written_is_one_sentence(tmp_path, settings):
    (tmp_path / "outputs").write_text("a file, not a folder")
    with pytest.raises(UserError, match="cannot be written"), artifacts.stage(settings, "01_baseline"):
        pass


@pytest.mark.parametrize(
    ("made", "named"),
    [
        ("01_baseline/notes.txt", "01_baseline was not made by a run: move it"),
        ("01_baseline/manifest.json", "01_baseline was not made by a run: move it"),
        ("01_baseline.partial/notes.txt", "01_baseline.partial was not made by a run: move it"),
        ("01_baseline.partial/run.json", "01_baseline.partial was not made by a run: move it"),
        (".lock", ".lock is no lock of a run: move it"),
    ],
)
def test_what_no_run_has_made_is_not_replaced(settings, tmp_path, made, named):
    path = tmp_path / "outputs" / made
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    with pytest.raises(UserError, match=named), artifacts.stage(settings, "01_baseline"):
        pass
    assert path.read_text() == "{}"


def test_a_backup_beside_an_artifact_stays_whatever_it_is_called(settings, tmp_path):
    with artifacts.stage(settings, "01_baseline") as artifact:
        write_json(artifact / "metrics.json", {"n": 1})
    for name in ("01_baseline.old", "01_baseline.bak", "02_create_dataset.old"):
        shutil.copytree(artifact.final, tmp_path / "outputs" / name)
    locking.release()
    with artifacts.stage(settings, "01_baseline"):
        pass
    assert len(list((tmp_path / "outputs").glob("*.*/metrics.json"))) == 3


@pytest.mark.parametrize("name", ["01_baseline", "01_baseline.partial"])
@pytest.mark.parametrize("there", [True, False])
def test_a_link_in_the_place_of_a_stages_folder_is_refused_before_anything_is_touched(settings, tmp_path, name, there):
    with artifacts.stage(settings, "01_baseline") as artifact:
        write_json(artifact / "metrics.json", {"n": 1})
    if there:
        artifact.final.rename(tmp_path / "elsewhere")
    else:
        shutil.rmtree(artifact.final)
    (tmp_path / "outputs" / name).symlink_to(tmp_path / "elsewhere")
    locking.release()
    for _ in range(2):
        with pytest.raises(UserError, match=f"{name} is a link"), artifacts.stage(settings, "01_baseline"):
            pass
        artifacts.lock(settings)  # other stages go on
    assert (tmp_path / "elsewhere" / "manifest.json").exists() == there
    assert sorted(path.name for path in (tmp_path / "outputs").iterdir()) == [".lock", name]


def test_an_output_folder_may_be_a_link(settings, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "outputs").symlink_to(tmp_path / "disk")
    for _ in range(2):
        with artifacts.stage(settings, "01_baseline"):
            pass
    assert (tmp_path / "disk" / "01_baseline" / "manifest.json").exists()


def test_a_lock_that_is_a_link_is_refused_and_what_it_points_to_stays(settings, tmp_path):
    (tmp_path / "outputs").mkdir()
    (tmp_path / "mine.txt").write_text("7")
    (tmp_path / "outputs" / ".lock").symlink_to(tmp_path / "mine.txt")
    with pytest.raises(UserError, match=r"\.lock is a link"):
        artifacts.lock(settings)
    locking.release()
    assert (tmp_path / "mine.txt").read_text() == "7"
    assert (tmp_path / "outputs" / ".lock").is_symlink()
