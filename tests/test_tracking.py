"""Curves go where the recipe says, besides log.jsonl."""

import pytest

from playground import artifacts, recipe, tracking


def test_no_tracker_writes_nothing(tmp_path):
    settings = recipe.load(None, [("output_dir", str(tmp_path))])
    with artifacts.stage(settings, "07_ppo") as artifact, tracking.tracker(settings, artifact) as log:
        log({"reward": 1.0}, 1)
        assert [path.name for path in artifact.path.iterdir()] == ["run.json"]


def test_the_numbers_of_a_row_are_named_by_their_place():
    row = {"loss": 1.5, "validation": {"exact_call": 0.5, "failures": {"none": 3}}, "kind": "text"}
    assert tracking.numbers(row) == {"loss": 1.5, "validation/exact_call": 0.5, "validation/failures/none": 3}


def scalars(folder):
    """{name: [(step, value), ...]} of TensorBoard's files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {name: [(row.step, row.value) for row in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_tensorboard_gets_each_row_and_its_file_is_part_of_the_artifact(tmp_path):
    pytest.importorskip("tensorboard")
    settings = recipe.load(None, [("output_dir", str(tmp_path)), ("report_to", "tensorboard")])
    with artifacts.stage(settings, "07_ppo") as artifact, tracking.tracker(settings, artifact) as log:
        log({"reward": 1.0, "validation": {"exact_call": 0.5}}, 1)
        log({"reward": 2.0}, 2)
    found = scalars(artifact.final / "tensorboard")
    assert found == {"reward": [(1, 1.0), (2, 2.0)], "validation/exact_call": [(1, 0.5)]}
    assert any("tensorboard/" in name for name in artifacts.read_manifest(tmp_path, "07_ppo")["outputs"])
