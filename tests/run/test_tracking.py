"""Curves go where the recipe says, besides log.jsonl."""

import sys
from unittest import mock

import pytest

from playground.run import artifacts, recipe, tracking
from tests.run.event_files import scalars


def test_no_tracker_writes_nothing(tmp_path):
    settings = recipe.load(None, [("output_dir", str(tmp_path))])
    with artifacts.stage(settings, "07_ppo") as artifact, tracking.tracker(settings, artifact) as log:
        log({"reward": 1.0}, 1)
        assert [path.name for path in artifact.path.iterdir()] == ["run.json"]


def test_the_numbers_of_a_row_are_named_by_their_place():
    row = {"loss": 1.5, "validation": {"exact_call": 0.5, "failures": {"none": 3}}, "kind": "text"}
    assert tracking.numbers(row) == {"loss": 1.5, "validation/exact_call": 0.5, "validation/failures/none": 3}


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_trackio_and_wandb_get_each_row_under_the_stages_name(monkeypatch, tmp_path, name):
    """Both are replaced, being optional and wanting a network or a server."""
    from accelerate import PartialState

    library = mock.MagicMock()
    monkeypatch.setitem(sys.modules, name, library)
    PartialState._reset_state()  # as in a stage that has no trainer
    settings = recipe.load(None, [("output_dir", str(tmp_path)), ("report_to", name)])
    with artifacts.stage(settings, "07_ppo") as artifact, tracking.tracker(settings, artifact) as log:
        log({"validation": {"exact_call": 0.5}}, 1)
    assert library.init.call_args.kwargs["project"] == "tool-calls"
    assert library.init.call_args.kwargs["name"] == "07_ppo"
    sent = library.init.return_value.log.call_args
    assert (sent.args, sent.kwargs["step"]) == (({"validation/exact_call": 0.5},), 1)
    assert library.init.return_value.finish.called


def test_tensorboard_gets_each_row_and_its_file_is_part_of_the_artifact(tmp_path):
    pytest.importorskip("tensorboard")
    settings = recipe.load(None, [("output_dir", str(tmp_path)), ("report_to", "tensorboard")])
    with artifacts.stage(settings, "07_ppo") as artifact, tracking.tracker(settings, artifact) as log:
        log({"reward": 1.0, "validation": {"exact_call": 0.5}}, 1)
        log({"reward": 2.0}, 2)
    found = scalars(artifact.final / "tensorboard")
    assert found == {"reward": [(1, 1.0), (2, 2.0)], "validation/exact_call": [(1, 0.5)]}
    assert any("tensorboard/" in name for name in artifacts.read_manifest(tmp_path, "07_ppo")["outputs"])
