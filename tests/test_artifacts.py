"""Artifacts: whole or not there, and honest about what they were made from."""

import json

import pytest

from playground import artifacts, recipe
from playground.artifacts import UserError


@pytest.fixture
def settings(tmp_path):
    return recipe.load(None, [("output_dir", str(tmp_path / "outputs"))])


def test_an_artifact_appears_when_its_stage_is_done(settings, tmp_path):
    source = tmp_path / "input.txt"
    source.write_text("in")
    with artifacts.stage(settings, "01_baseline", inputs=[source], base_model={"name": "x"}) as artifact:
        artifacts.write_json(artifact / "metrics.json", {"n": 1})
        assert not artifact.final.exists()
    assert sorted(path.name for path in artifact.final.iterdir()) == ["manifest.json", "metrics.json"]
    manifest = artifacts.read_manifest(settings["output_dir"], "01_baseline")
    assert manifest["inputs"] == {str(source): artifacts.sha256(source)}
    assert manifest["outputs"] == {"metrics.json": artifacts.sha256(artifact.final / "metrics.json")}
    assert manifest["recipe"] == settings
    assert manifest["libraries"]["torch"]
    assert manifest["base_model"] == {"name": "x"}


def test_a_stage_that_fails_leaves_the_last_artifact_as_it_was(settings):
    with artifacts.stage(settings, "01_baseline") as artifact:
        artifacts.write_json(artifact / "metrics.json", {"n": 1})
    with pytest.raises(ZeroDivisionError), artifacts.stage(settings, "01_baseline") as artifact:
        artifacts.write_json(artifact / "metrics.json", {"n": 2})
        1 / 0  # noqa: B018
    assert json.loads((artifact.final / "metrics.json").read_text()) == {"n": 1}


@pytest.mark.parametrize(("change", "kept"), [({}, True), ({"seed": 1}, False)])
def test_what_an_interrupted_run_reached_is_kept_for_the_same_recipe_only(settings, change, kept):
    with pytest.raises(ZeroDivisionError), artifacts.stage(settings, "03_finetune", resume=True) as artifact:
        artifacts.write_json(artifact / "reached.json", 5)
        1 / 0  # noqa: B018
    with artifacts.stage({**settings, **change}, "03_finetune", resume=True) as artifact:
        assert artifact.resumed("reached.json", None) == (5 if kept else None)


def test_a_checkpoint_that_was_cut_off_is_not_resumed_from(tmp_path):
    assert artifacts.last_checkpoint(tmp_path) is None
    for step, whole in ((5, True), (10, True), (15, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if whole:
            (folder / "trainer_state.json").write_text("{}")
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
        artifacts.read_records(path)


def test_a_dataset_cut_at_the_end_of_a_line_is_named(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"id": "a", "prompt": "b", "completion": "c"}\n' * 3)
    artifacts.write_json(tmp_path / "metrics.json", {"n": {"train": 3}})
    assert len(artifacts.read_records(path)) == 3
    path.write_text('{"id": "a", "prompt": "b", "completion": "c"}\n' * 2)
    with pytest.raises(UserError, match=r"train\.jsonl has 2 of the 3 records that were written"):
        artifacts.read_records(path)


def test_requests_without_calls_that_were_cut_off_are_named_and_none_at_all_are_fine(tmp_path):
    assert artifacts.read_requests(tmp_path) == artifacts.read_feedback(tmp_path) == []
    path = tmp_path / "02_create_dataset" / "rl.jsonl"
    path.parent.mkdir()
    path.write_text('{"id": "rl-0", "prompt": "Hi\u2028there"}\n', encoding="utf-8")
    assert [row["prompt"] for row in artifacts.read_requests(tmp_path)] == ["Hi\u2028there"]
    path.write_text('{"id": "rl-0", "prompt": "Hi"}\n{"id": "rl', encoding="utf-8")
    with pytest.raises(UserError, match=r"rl\.jsonl:2: not JSON"):
        artifacts.read_requests(tmp_path)
    assert artifacts.read_feedback(tmp_path) == []


def test_feedback_needs_calls(tmp_path):
    path = tmp_path / "02_create_dataset" / "feedback.jsonl"
    path.parent.mkdir()
    path.write_text('{"id": "a", "prompt": "Hi", "completion": "b"}\n{"id": "a", "prompt": "Hi"}\n')
    with pytest.raises(UserError, match=r"feedback\.jsonl:2: a record needs id, prompt, completion"):
        artifacts.read_feedback(tmp_path)


def test_an_output_folder_that_cannot_be_written_is_one_sentence(tmp_path, settings):
    (tmp_path / "outputs").write_text("a file, not a folder")
    with pytest.raises(UserError, match="cannot be written"), artifacts.stage(settings, "01_baseline"):
        pass
