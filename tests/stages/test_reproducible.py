"""The same recipe makes the same artifacts, bit for bit, however often it was killed on the way. Slow."""

import json
import random
import re
import shutil
import signal
import subprocess
import time

import pytest

from playground.run import artifacts
from playground.run.files import sha256
from tests.conftest import ROOT
from tests.scripts import STAGES, command, run, run_all

pytestmark = pytest.mark.slow
KILLS = 20
TIMINGS = {"train_seconds", "tokens_per_second", "peak_memory_mb", "seconds_per_call", "seconds"}


def without_timings(value):
    if isinstance(value, dict):
        return {key: without_timings(item) for key, item in value.items() if key not in TIMINGS}
    return [without_timings(item) for item in value] if isinstance(value, list) else value


def content(output_dir, stage):
    """{file: its bytes' hash} of an artifact without its manifest, which has times and paths; of the
    other files only what tells when something was done, how long it took and in how much memory is left out."""
    found = {}
    for path in sorted((output_dir / stage).rglob("*")):
        name = path.relative_to(output_dir / stage).as_posix()
        if path.name in ("metrics.json", "log.jsonl") or (stage, name) == ("08_evaluate", "predictions.jsonl"):
            found[name] = without_timings([json.loads(line) for line in as_lines(path)])
        elif name == "report.md":
            found[name] = re.sub(r"\| \d+ +\|$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)  # ms a call
        elif name == "report.html":
            text = path.read_text(encoding="utf-8").replace(str(output_dir), "OUT")
            text = re.sub(r"(</span>[^<]*</td>)<td>\d+\.\d</td>", r"\1", text)  # ms a call
            found[name] = re.sub(
                r"<dd>[-+:\dT]+, [\d.]+ s, commit [^,]+,", "<dd>", text
            )  # when a stage ran, and of which commit
        elif path.is_file() and name != "manifest.json":
            found[name] = sha256(path)
    return found


def as_lines(path):
    text = path.read_text(encoding="utf-8")
    return [text] if path.suffix == ".json" else text.splitlines()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    output_dir = tmp_path_factory.mktemp("unbroken")
    run_all(output_dir, "embedded")
    return output_dir


def test_the_same_recipe_makes_the_same_artifacts(unbroken, tmp_path):
    run_all(tmp_path, "embedded")
    for stage in STAGES:
        assert content(tmp_path, stage) == content(unbroken, stage), stage


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_killed_again_and_again_ends_as_an_unbroken_one(unbroken, tmp_path, stage):
    for earlier in STAGES[: STAGES.index(stage)]:
        shutil.copytree(unbroken / earlier, tmp_path / earlier)
    seconds, rng = artifacts.read_manifest(unbroken, stage)["seconds"], random.Random(stage)
    expected, killed = content(unbroken, stage), 0
    for _ in range(KILLS):
        with subprocess.Popen(
            command(stage, tmp_path), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            lock = tmp_path / ".lock"
            while not (lock.exists() and lock.read_text() == str(process.pid)) and process.poll() is None:
                time.sleep(0.01)  # imports come before; nothing can be broken there
            if rng.random() < 0.8:  # most kills while the artifact is written, the others while models are loaded
                while not (tmp_path / f"{stage}.partial").exists() and process.poll() is None:
                    time.sleep(0.01)
            time.sleep(rng.uniform(0, seconds))
            process.send_signal(signal.SIGKILL)
        killed += process.returncode == -signal.SIGKILL
        if (tmp_path / stage).exists():
            outputs = artifacts.read_manifest(tmp_path, stage)["outputs"]
            assert {name: sha256(tmp_path / stage / name) for name in outputs} == outputs
            assert content(tmp_path, stage) == expected
    assert killed > KILLS / 2
    run(stage, tmp_path)
    assert content(tmp_path, stage) == expected
    assert not list(tmp_path.glob("*.partial")) + list(tmp_path.glob("*.old"))


@pytest.mark.parametrize("stage", ["03_finetune", "06_dpo", "07_ppo"])
def test_ctrl_c_says_how_to_go_on_and_that_ends_as_an_unbroken_run(unbroken, tmp_path, stage):
    for earlier in STAGES[: STAGES.index(stage)]:
        shutil.copytree(unbroken / earlier, tmp_path / earlier)
    seconds = artifacts.read_manifest(unbroken, stage)["seconds"]
    for share in (0.1, 0.5, 0.9):
        stopped = interrupt(command(stage, tmp_path), tmp_path / f"{stage}.partial", share * seconds)
        assert stopped.returncode == 130
        assert re.search(rf"^stopped: .*python {stage}\.py .*\n\Z", stopped.stderr, re.MULTILINE)
        assert "Traceback" not in stopped.stderr and "ignored" not in stopped.stderr
    run(stage, tmp_path)
    assert content(tmp_path, stage) == content(unbroken, stage)


def interrupt(arguments, partial, seconds):
    """The process, stopped by SIGINT so many seconds after it has begun to write."""
    with subprocess.Popen(
        arguments,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job would ignore it
    ) as process:
        while not partial.exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate()
    return subprocess.CompletedProcess(arguments, process.returncode, None, stderr)
