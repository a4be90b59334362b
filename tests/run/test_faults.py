"""Runs that are killed, run twice at once, or find the disk full: what was there stays whole.

The children here are forked, so that a test can look at every single operation on the file system.
"""

import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest

from playground.run import artifacts, locking, manifest, recipe
from playground.run.errors import why_not_written
from playground.run.files import read_jsonl, sha256, write_json, write_jsonl
from tests.conftest import ROOT

STAGE = "03_finetune"
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
FILE_OPERATIONS = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "shutil.rmtree"}


@pytest.fixture
def settings(tmp_path):
    return recipe.load(None, [("output_dir", str(tmp_path / "outputs"))])


@pytest.fixture(autouse=True)
def without_git(monkeypatch):
    """Two processes for each of hundreds of artifacts."""
    monkeypatch.setattr(manifest, "_git", lambda *_: None)


def in_child(work, *arguments):
    """The exit status of a child process that does `work`, negative where a signal killed it."""
    if not (child := os.fork()):
        status = 1
        try:
            work(*arguments)
            status = 0
        except Exception:
            traceback.print_exc()
        finally:
            locking.release()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def make_artifact(settings, content, killed_at=None):
    """A stage with what stages do: state to resume from, checkpoints, a model folder. Killed before that operation."""
    operations = 0

    def count(event, arguments):
        nonlocal operations
        if event not in FILE_OPERATIONS or (event == "open" and not arguments[2] & WRITING):
            return  # what a kill before reading leaves, a kill before the next write leaves too
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
            write_json(artifact / "steps.json", steps)
        (artifact / "model").mkdir(exist_ok=True)
        write_jsonl(artifact / "model" / "weights.jsonl", steps)


def whole_artifact(settings):
    """The content of the artifact that the next run would find, all as its manifest says; None if there is none."""
    artifacts.lock(settings)
    folder = Path(settings["output_dir"]) / STAGE
    if not folder.exists():
        return None
    outputs = artifacts.read_manifest(settings["output_dir"], STAGE)["outputs"]
    assert list(outputs) == ["model/weights.jsonl"]
    assert outputs == {
        path.relative_to(folder).as_posix(): sha256(path)
        for path in folder.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    return read_jsonl(folder / "model" / "weights.jsonl")


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
        assert [path.name for path in Path(settings["output_dir"]).iterdir()] == [STAGE]
        if status == 0:
            break
        assert status == -signal.SIGKILL
    assert killed_at > 20


def test_a_half_deleted_run_is_not_gone_on_from_and_not_in_the_way(settings, tmp_path):
    assert in_child(make_artifact, settings, "old", 20) == -signal.SIGKILL
    partial = tmp_path / "outputs" / f"{STAGE}.partial"
    assert (partial / "steps.json").exists()

    def killed_while_discarding():
        sys.addaudithook(lambda event, _: event == "os.rmdir" and os.kill(os.getpid(), signal.SIGKILL))
        artifacts._discard(partial)

    assert in_child(killed_while_discarding) == -signal.SIGKILL
    assert partial.exists()
    assert in_child(make_artifact, settings, "new") == 0
    assert in_child(check_whole, settings, [["new 0", "new 1"]]) == 0


def own_files(output_dir):
    """Files of a user's in and beside an artifact and a copy of it, under names that the stages use and others."""
    if (output_dir / STAGE).exists():
        shutil.copytree(output_dir / STAGE, output_dir / f"{STAGE}.old")
    names = "notes.txt 04_mine/x.json 01_baseline.old/manifest.json 02_mine.partial/run.json".split()
    names += [f"{STAGE}/{name}" for name in ("notes.txt", "model/notes.txt", "model/deep/er.txt", "replaced/x.txt")]
    for path in (output_dir / name for name in names):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"mine, {path.name}")
    copied = [path for path in (output_dir / f"{STAGE}.old").rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in [*copied, *(output_dir / name for name in names)]}


def test_a_run_killed_before_any_operation_over_a_users_own_files_loses_none(tmp_path):
    for killed_at in range(1, 1000):
        settings = recipe.load(None, [("output_dir", str(tmp_path / str(killed_at)))])
        assert in_child(make_artifact, settings, "old") == 0
        mine = own_files(tmp_path / str(killed_at))
        status = in_child(make_artifact, settings | {"seed": 1}, "new", killed_at)
        assert in_child(make_artifact, settings | {"seed": 2}, "newer") == 0
        assert {path: path.read_bytes() for path in mine} == mine, killed_at
        if status == 0:
            break
    assert killed_at > 25


@pytest.mark.slow
def test_twenty_kills_of_stage_02_over_a_users_own_files_lose_none(tmp_path):
    assert run_02(tmp_path).returncode == 0
    shutil.copytree(tmp_path / "02_create_dataset", tmp_path / "02_create_dataset.old")
    for name in ("notes.txt", "02_create_dataset/notes.txt", "03_finetune.old/model.bin", "01_baseline.partial/x.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"mine, {name}")
    own = [path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != "02_create_dataset"]
    mine = {path: path.read_bytes() for path in [*own, tmp_path / "02_create_dataset" / "notes.txt"]}
    begin = time.monotonic()
    assert run_02(tmp_path).returncode == 0
    took = time.monotonic() - begin
    for kill in range(20):
        arguments = ["--config", "configs/smoke.json", "--output-dir", str(tmp_path), "--seed", str(kill)]
        with subprocess.Popen(
            [sys.executable, "02_create_dataset.py", *arguments],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            time.sleep(took * (kill + 1) / 20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        found = {path: path.read_bytes() for path in mine if path.exists()}
        missing = mine.keys() - found.keys()  # a stage that was killed while it took its place may keep it in .partial
        assert missing <= {tmp_path / "02_create_dataset" / "notes.txt"}
        assert found == {path: mine[path] for path in found}
    assert run_02(tmp_path).returncode == 0
    assert {path: path.read_bytes() for path in mine} == mine


@pytest.mark.parametrize("resume", [True, False])
def test_ctrl_c_at_any_operation_over_a_users_own_files_loses_none(tmp_path, resume):
    def interrupted(settings, at):
        operations = 0

        def count(event, _):
            nonlocal operations
            operations += event in FILE_OPERATIONS
            if operations == at:
                operations += 1
                raise KeyboardInterrupt

        sys.addaudithook(count)
        with contextlib.suppress(KeyboardInterrupt), artifacts.stage(settings, STAGE, resume=resume) as artifact:
            write_jsonl(artifact / "rows.jsonl", ["new"])
        os._exit(operations < at)

    for at in range(1, 1000):
        settings = recipe.load(None, [("output_dir", str(tmp_path / str(at)))])
        assert in_child(make_artifact, settings, "old") == 0
        mine = own_files(tmp_path / str(at))
        ended = in_child(interrupted, settings | {"seed": 1}, at)
        assert in_child(make_artifact, settings | {"seed": 2}, "newer") == 0
        assert {path: path.read_bytes() for path in mine} == mine, at
        if ended:
            break
    assert at > 15


def test_a_second_run_in_the_folder_is_refused_with_the_process_id_of_the_first(settings, tmp_path):
    artifacts.lock(settings)
    done = run_01(settings["output_dir"])
    assert done.returncode == 2
    assert re.fullmatch(rf"error: .*outputs is in use by process {os.getpid()}: .*\n", done.stderr)
    locking.release()
    assert list(tmp_path.iterdir()) == []  # the lock's file goes, and the folder that was made for it


def test_a_killed_run_holds_no_lock_even_if_a_worker_of_it_lives_on(settings, tmp_path):
    holder = (
        "import os, sys, time; from playground.run import artifacts\n"
        "artifacts.lock({'output_dir': sys.argv[1]})\n"
        "worker = os.fork()\n"
        "if worker: print(worker, flush=True)\n"
        "time.sleep(60)"
    )
    command = [sys.executable, "-c", holder, settings["output_dir"]]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        worker = int(process.stdout.readline())
        assert in_child(artifacts.lock, settings) == 1
        process.kill()
        process.wait()
        try:
            assert in_child(artifacts.lock, settings) == 0
        finally:
            os.kill(worker, signal.SIGKILL)


def test_ctrl_c_is_not_lost_in_a_finalizer():
    program = (
        "import signal, time; from playground.run import console\n"
        "class Deaf:\n"
        "    def __del__(self):\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "def main():\n"
        "    Deaf()\n"
        "    for _ in range(200): time.sleep(0.1)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "console.run(main)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "stopped: nothing was changed; to start again: python -c\n")


def run_01(output_dir):
    """Stage 01 as far as the lock: what it is asked for then does not exist."""
    command = [sys.executable, "01_baseline.py", "--output-dir", str(output_dir), "--set", "tools.file=/nowhere.json"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def run_02(output_dir, seed=0, file_size=None):
    """Stage 02 in a process of its own; file_size: bytes that a file may have."""
    arguments = ["--config", "configs/smoke.json", "--output-dir", str(output_dir), "--seed", str(seed)]
    limit = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))) if file_size else None
    return subprocess.run(
        [sys.executable, "02_create_dataset.py", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
    )


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_refused(done, output_dir, before, reason):
    assert done.returncode == 1, done.stderr
    assert re.fullmatch(rf"error: .* cannot be written \({reason}\): .*\n", done.stderr)
    assert contents(output_dir / "02_create_dataset") == before
    assert [path.name for path in output_dir.iterdir() if path.is_dir()] == ["02_create_dataset"]


@pytest.mark.parametrize("file_size", [1, 1000, 10_000])
def test_a_file_that_cannot_be_written_is_one_sentence_and_the_last_artifact_stays(tmp_path, file_size):
    assert run_02(tmp_path).returncode == 0
    before = contents(tmp_path)
    assert_refused(run_02(tmp_path, seed=1, file_size=file_size), tmp_path, before, "File too large")


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a small tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("room", [0, 8, 40])
def test_a_full_disk_is_one_sentence_and_the_last_artifact_stays(small_disk, room):
    output_dir = small_disk / "outputs"
    assert run_02(output_dir).returncode == 0
    before = contents(output_dir / "02_create_dataset")
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    (small_disk / "filler").write_bytes(bytes(free - room * 1024))
    assert_refused(run_02(output_dir, seed=1), output_dir, before, "No space left on device")
    (small_disk / "filler").unlink()
    assert run_02(output_dir, seed=1).returncode == 0


def test_a_read_only_output_folder_is_one_sentence_and_can_still_be_read(small_disk):
    output_dir = small_disk / "outputs"
    assert run_02(output_dir).returncode == 0
    before = contents(output_dir / "02_create_dataset")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert_refused(run_02(output_dir, seed=1), output_dir, before, "Read-only file system")


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 15352640 vs 15352532"),
    ],
)
def test_a_full_disk_is_known_in_every_librarys_words(error):
    assert why_not_written(error)
    wrapped = ValueError("saving failed")
    wrapped.__cause__ = error
    assert why_not_written(wrapped)


def test_other_errors_are_not_taken_for_a_full_disk():
    assert why_not_written(RuntimeError("shape mismatch")) is None
    assert why_not_written(FileNotFoundError(2, "No such file or directory")) is None


@pytest.mark.parametrize("write", [write_json, write_jsonl])
def test_a_file_whose_writing_is_killed_is_still_the_old_one(tmp_path, write):
    class Deadly(dict):
        def items(self):
            os.kill(os.getpid(), signal.SIGKILL)

    path = tmp_path / "state.json"
    write(path, ["old"])
    before = path.read_bytes()
    assert in_child(write, path, ["x" * 100_000, Deadly(a=1)]) == -signal.SIGKILL
    assert path.read_bytes() == before
