"""outputs/NN_stage/: directories that appear whole or not at all, and say what they were made from.

A stage works in `outputs/NN_stage.partial/`, and the directory is renamed into place when the stage has
finished, with a `manifest.json` in it. So a directory that exists is complete, a killed stage has changed
nothing, and what it had reached waits in `.partial` for the next run of the same recipe and inputs. The artifact
of the run before is `NN_stage.old/` between two renames; the next run puts it back if the second did not come.

    python -m playground.artifacts verify outputs    # see playground/verify.py

Of several processes that work as one, the main one writes all of it, while the others wait.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

from playground import parallel
from playground.errors import OutputError, UserError
from playground.locking import discard, lock
from playground.terminal import command, run

LIBRARIES = ("torch", "transformers", "datasets", "accelerate", "trl", "peft", "jsonschema", "numpy")
NEW = ".new"  # ends the name of a file that is being written


def sha256(path):
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def require(output_dir, stage, name="manifest.json"):
    """The path of a file in an earlier stage's artifact. Raises UserError naming the script that makes it."""
    path = Path(output_dir) / stage / name
    if not path.exists():
        raise UserError(f"{path} does not exist: run `python {stage}.py` first.")
    return path


def read_manifest(output_dir, stage):
    return read_json(require(output_dir, stage))


def read_json(path):
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): mend it or make it again.") from None


def write_json(path, value):
    """Write a .json file, which appears whole or not at all."""
    if parallel.is_main():
        with _whole(path) as file:
            file.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def _whole(path):
    new = Path(path).with_name(Path(path).name + NEW)
    with new.open("w", encoding="utf-8") as file:
        yield file
    new.replace(path)


def later_files(output_dir, *names):
    """The files for the stages after SFT that stage 02 wrote, all or those named; [] where its source has none."""
    paths = (Path(output_dir) / "02_create_dataset" / name for name in names or ("feedback.jsonl", "rl.jsonl"))
    return [path for path in paths if path.exists()]


def read_feedback(output_dir):
    """The labelled requests that SFT does not see (feedback.jsonl), [] where stage 02's source has none."""
    return [row for path in later_files(output_dir, "feedback.jsonl") for row in read_records(path)]


def read_requests(output_dir):
    """The requests without labels that stage 02 wrote (rl.jsonl), [] where its source has none."""
    return [row for path in later_files(output_dir, "rl.jsonl") for row in read_records(path, ("id", "prompt"))]


def read_records(path, keys=("id", "prompt", "completion")):
    """The records of a .jsonl file that stage 02 wrote. Raises UserError: file:line, or how many lack."""
    path, records = Path(path), []
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                record = json.loads(line.decode("utf-8"))
                if not isinstance(record, dict) or not all(isinstance(record.get(key), str) for key in keys):
                    raise UserError(f"{path}:{number}: a record needs {', '.join(keys)}: run stage 02 again.")
                records.append(record)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): run `python 02_create_dataset.py` first.") from None
    except ValueError as error:
        raise UserError(f"{path}:{len(records) + 1}: not JSON ({error}): run stage 02 again.") from None
    if not records:
        raise UserError(f"{path} is empty: run `python 02_create_dataset.py` again.")
    metrics = path.with_name("metrics.json")
    written = read_json(metrics).get("n", {}).get(path.stem, 0) if metrics.exists() else 0
    if len(records) < written:
        raise UserError(f"{path} has {len(records)} of the {written} records that were written: run stage 02 again.")
    return records


def write_jsonl(path, rows):
    """Write a .jsonl file, which appears whole or not at all."""
    if parallel.is_main():
        with _whole(path) as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_jsonl(path):
    """The values in a .jsonl file, whose lines end at line feeds only: texts in it may hold other line separators."""
    with Path(path).open(encoding="utf-8", newline="\n") as lines:
        return [json.loads(line) for line in lines]


@contextlib.contextmanager
def stage(recipe, name, inputs=(), resume=False, **facts):
    """A directory to write the artifact of stage `name` into; it becomes `outputs/<name>/` on leaving.

    inputs: files that the stage read; their hashes go into the manifest, with those of a base model that is a
    folder. With `resume`, what an interrupted run of the same recipe and inputs left in the directory is kept;
    otherwise it starts empty, and goes where the stage fails. `facts` (base model, device, dtype, ...) are written
    into the manifest, as is everything put into the dict `artifact.facts`. Raises as `lock` does.
    """
    lock(recipe)
    final = Path(recipe["output_dir"]) / name
    partial = final.with_name(f"{name}.partial")
    started = time.time()
    artifact = Artifact(partial, final, facts)
    if not parallel.is_main():
        parallel.wait()  # until the folder is there
        yield artifact
        parallel.wait()  # for whoever is still in it
        parallel.wait()  # until the main process has finished it
        return
    files = [*inputs, *_base_files(facts.get("base_model"))]
    key = {"recipe": recipe, "inputs": {str(path): sha256(path) for path in files}}
    if parallel.size() > 1:
        key["processes"] = parallel.size()  # another number draws other samples, so it cannot go on from there
    try:
        if partial.exists() and not (resume and _same_run(partial, key)):
            discard(partial)
        for cut_off in partial.rglob(f"*{NEW}"):
            cut_off.unlink()
        partial.mkdir(parents=True, exist_ok=True)
        write_json(partial / "run.json", key)
    except OSError as error:
        if not (resume and _same_run(partial, key)):
            shutil.rmtree(partial, ignore_errors=True)
        raise OutputError(f"{partial} cannot be written ({error.strerror}): choose another --output-dir.") from None
    parallel.wait()
    try:
        yield artifact
        parallel.wait()
        _finish(artifact, key, started)
        parallel.wait()
    except BaseException as error:
        if not resume:
            shutil.rmtree(partial, ignore_errors=True)
        elif isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(f"what was reached is kept in {partial}; to go on from there:") from None
        raise


def _finish(artifact, key, started):
    """Write the manifest, delete what only a resumed run needs, and put the artifact in its place.

    The order is what makes a kill harmless: until run.json is gone, the stage can be resumed with all that it needs.
    """
    partial, final = artifact.path, artifact.final
    write_json(partial / "manifest.json", _manifest(artifact, key, started))
    (partial / "run.json").unlink()
    for path in partial.iterdir():
        if artifact.is_state(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    old = final.with_name(f"{final.name}.old")
    if final.exists():
        final.rename(old)
    partial.rename(final)
    if old.exists():
        discard(old)


class Artifact:
    """A directory that is being written; `artifact / name` is the path of a file in it."""

    def __init__(self, path, final, facts):
        self.path, self.final, self.facts = path, final, facts
        self._state = {"run.json"}

    def __truediv__(self, name):
        return self.path / name

    def resumed(self, name, default):
        """The JSON that an interrupted run left in file `name`, or `default`; the finished artifact is without it."""
        self._state.add(name)
        return parallel.from_main(lambda: read_json(self.path / name) if (self.path / name).exists() else default)

    def is_state(self, name):
        """Whether the file or folder `name` is there for a resumed run only."""
        return name in self._state or name.startswith("checkpoint-")


def last_checkpoint(folder):
    """The newest complete checkpoint of a Hugging Face Trainer in `folder`, or None.

    The trainer's state is the last file of a checkpoint, so where it is missing or cut off, so is the checkpoint.
    """

    def find():
        states = filter(_is_json, Path(folder).glob("checkpoint-*/trainer_state.json"))
        newest = max(states, key=lambda path: int(path.parent.name.rpartition("-")[2]), default=None)
        return str(newest.parent) if newest else None

    return parallel.from_main(find)


def _is_json(path):
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


def _same_run(partial, key):
    try:
        return json.loads((partial / "run.json").read_text(encoding="utf-8")) == key
    except (OSError, ValueError):
        return False


def _base_files(base):
    """The files of a base model that decide what it says; a hub model's path names its revision instead."""
    if not base or base.get("kind") not in ("embedded", "folder"):
        return []
    return sorted(path for path in Path(base["path"]).iterdir() if path.suffix in (".json", ".safetensors"))


def _manifest(artifact, key, started):
    kept = [path for path in artifact.path.iterdir() if not artifact.is_state(path.name)]
    files = [file for path in kept for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
    return {
        "stage": artifact.final.name,
        **key,
        "seed": key["recipe"]["seed"],
        **artifact.facts,
        "libraries": {library: importlib.metadata.version(library) for library in LIBRARIES},
        "python": platform.python_version(),
        "machine": _machine(),
        "origin": getattr(key["recipe"], "origin", None),
        "command": command(),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_changes": _git("status", "--porcelain"),
        "outputs": {
            path.relative_to(artifact.path).as_posix(): sha256(path)
            for path in sorted(files)
            if path != artifact / "manifest.json"
        },
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(started)),
        "seconds": round(time.time() - started, 2),
    }


def _machine():
    """What numbers may depend on, in words: sums are taken in another order with another number of threads."""
    parts = [platform.machine(), f"{os.cpu_count()} cores"]
    if torch := sys.modules.get("torch"):
        parts.append(f"{torch.get_num_threads()} threads")
        if torch.cuda.is_available():
            parts.append(torch.cuda.get_device_name())
    return ", ".join(parts)


def _git(*arguments):
    """What git says of the project's checkout, or None where there is none (a downloaded archive, say)."""
    try:
        command = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.rstrip()
    except (OSError, subprocess.CalledProcessError):
        return None


if __name__ == "__main__":
    from playground import verify

    run(verify.main)
