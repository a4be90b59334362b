"""Runs that are killed, run twice at once, or find the disk full: what was there stays whole, and one sentence says why.

The children here are forked, so that a test can look at every single operation on the file system.
"""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import traceback

import pytest
from conftest import ROOT

from playground import artifacts, locking, recipe
from playground.artifacts import OutputError

STAGE = "03_finetune"
FILE_OPERATIONS = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "shutil.rmtree"}


@pytest.fixture
def settings(tmp_path):
    return recipe.load(None, [("output_dir", str(tmp_path / "outputs"))])


def in_child(work, *arguments):
    """The exit status of a child process that does `work`, negative where a signal killed it."""
    if not (child := os.fork()):
        status = 1
        try:
            work(*arguments)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            locking.release()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def make_artifact(settings, content, killed_at=None):
    """A stage with what stages do: state to resume from, checkpoints, a model folder. Killed before that operation."""
    operations = 0

    def count(event, _):
        nonlocal operations
        if event not in FILE_OPERATIONS:
            return
        operations += 1
        if operations == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    with artifacts.stage(settings, STAGE, resume=True) as artifact:
        steps = artifact.resumed("steps.json", [])
        for step in range(len(steps), 2):
            (artifact / "checkpoint-1").mkdir(exist_ok=True)
            (artifact / "checkpoint-1" / "trainer_state.json").write_text("{}")
            steps.append(f"{content} {step}")
            artifacts.write_json(artifact / "steps.json", steps)
        (artifact / "model").mkdir(exist_ok=True)
        artifacts.write_jsonl(artifact / "model" / "weights.jsonl", steps)


def whole_artifact(settings):
    """The content of the artifact that the next run would find, all of it as its manifest says; None if there is none."""
    artifacts.lock(settings)
    folder = artifacts.Path(settings["output_dir"]) / STAGE
    if not folder.exists():
        return None
    outputs = artifacts.read_manifest(settings["output_dir"], STAGE)["outputs"]
    assert list(outputs) == ["model/weights.jsonl"]
    assert outputs == {
        path.relative_to(folder).as_posix(): artifacts.sha256(path)
        for path in folder.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    return artifacts.read_jsonl(folder / "model" / "weights.jsonl")


def check_whole(settings, allowed):
    assert whole_artifact(settings) in allowed


@pytest.mark.parametrize("before", [None, "old"])
def test_a_stage_killed_before_any_operation_leaves_a_whole_artifact_and_the_rerun_completes(tmp_path, before):
    for killed_at in range(1, 1000):
        settings = recipe.load(None, [("output_dir", str(tmp_path / str(killed_at)))])
        if before:
            assert in_child(make_artifact, settings, before) == 0
        status = in_child(make_artifact, settings | {"seed": 1}, "new", killed_at)
        previous, new = [f"{before} 0", f"{before} 1"] if before else None, ["new 0", "new 1"]
        assert in_child(check_whole, settings, [previous, new]) == 0, killed_at
        assert in_child(make_artifact, settings | {"seed": 1}, "new") == 0
        assert in_child(check_whole, settings, [new]) == 0
        assert os.listdir(settings["output_dir"]) == [STAGE]
        if status == 0:
            break
        assert status == -signal.SIGKILL
    assert killed_at > 30


def test_a_half_deleted_artifact_does_not_come_back(settings, tmp_path):
    assert in_child(make_artifact, settings, "old") == 0
    folder = tmp_path / "outputs" / STAGE
    old = folder.rename(folder.with_name(f"{STAGE}.old"))

    def killed_while_discarding():
        sys.addaudithook(lambda event, _: event == "os.rmdir" and os.kill(os.getpid(), signal.SIGKILL))
        artifacts.discard(old)

    assert in_child(killed_while_discarding) == -signal.SIGKILL
    assert old.exists()
    assert in_child(check_whole, settings, [None]) == 0
