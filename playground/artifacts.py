"""outputs/NN_stage/: directories that appear whole or not at all, and say what they were made from.

A stage works in `outputs/NN_stage.partial/`, and the directory is renamed into place when the stage has
finished, with a `manifest.json` in it. So a directory that exists is complete, a killed stage has changed
nothing, and what it had reached waits in `.partial` for the next run of the same recipe and inputs.
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

from tools import ToolFileError

LIBRARIES = ("torch", "transformers", "datasets", "accelerate", "trl", "peft", "jsonschema", "numpy")


class UserError(Exception):
    """Something the person at the terminal can mend; the message is the one sentence that says how."""


def run(main):
    """Call `main()`, and turn what the user can mend into a sentence on standard error and exit status 2."""
    try:
        main()
    except (UserError, ToolFileError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nstopped: run the same command again to go on from the last checkpoint.", file=sys.stderr)
        sys.exit(130)


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
    Path(path).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_requests(output_dir):
    """The requests without labels that stage 02 wrote (rl.jsonl), [] where its source has none."""
    path = Path(output_dir) / "02_create_dataset" / "rl.jsonl"
    return read_records(path, ("id", "prompt")) if path.exists() else []


def read_records(path, keys=("id", "prompt", "completion")):
    """The records of a .jsonl file that stage 02 wrote. Raises UserError with file:line for a bad one."""
    records = []
    try:
        with Path(path).open("rb") as lines:
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
    return records


def write_jsonl(path, rows):
    with Path(path).open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_jsonl(path):
    """The values in a .jsonl file, whose lines end at line feeds only: texts in it may hold other line separators."""
    with Path(path).open(encoding="utf-8", newline="\n") as lines:
        return [json.loads(line) for line in lines]


@contextlib.contextmanager
def stage(recipe, name, inputs=(), resume=False, **facts):
    """A directory to write the artifact of stage `name` into; it becomes `outputs/<name>/` on leaving.

    inputs: files that the stage read; their hashes go into the manifest. With `resume`, what an interrupted
    run of the same recipe and inputs left in the directory is kept; otherwise it starts empty. `facts`
    (base model, device, dtype, ...) are written into the manifest, as is everything put into the dict
    `artifact.facts`. Raises UserError where the output folder cannot be written.
    """
    final = Path(recipe["output_dir"]) / name
    partial = final.with_name(f"{name}.partial")
    started = time.time()
    key = {"recipe": recipe, "inputs": {str(path): sha256(path) for path in inputs}}
    try:
        if partial.exists() and not (resume and _same_run(partial, key)):
            shutil.rmtree(partial)
        partial.mkdir(parents=True, exist_ok=True)
        write_json(partial / "run.json", key)
    except OSError as error:
        raise UserError(f"{partial} cannot be written ({error.strerror}): choose another --output-dir.") from None
    artifact = Artifact(partial, final, facts)
    yield artifact
    (partial / "run.json").unlink()
    for checkpoints in partial.glob("checkpoint-*"):
        shutil.rmtree(checkpoints)
    write_json(partial / "manifest.json", _manifest(name, partial, key, started, artifact.facts))
    old = final.with_name(f"{name}.old")
    if old.exists():
        shutil.rmtree(old)
    if final.exists():
        final.rename(old)
    partial.rename(final)
    if old.exists():
        shutil.rmtree(old)


class Artifact:
    def __init__(self, path, final, facts):
        self.path, self.final, self.facts = path, final, facts

    def __truediv__(self, name):
        return self.path / name

    def resumed(self, name, default):
        """The JSON that an interrupted run left in file `name`, or `default`."""
        return read_json(self.path / name) if (self.path / name).exists() else default


def last_checkpoint(folder):
    """The newest complete checkpoint of a Hugging Face Trainer in `folder`, or None.

    The trainer's state is the last file of a checkpoint, so one without it was cut off.
    """
    states = Path(folder).glob("checkpoint-*/trainer_state.json")
    newest = max(states, key=lambda path: int(path.parent.name.rpartition("-")[2]), default=None)
    return str(newest.parent) if newest else None


def _same_run(partial, key):
    try:
        return json.loads((partial / "run.json").read_text(encoding="utf-8")) == key
    except (OSError, ValueError):
        return False


def _manifest(name, partial, key, started, facts):
    files = sorted(path for path in partial.rglob("*") if path.is_file())
    return {
        "stage": name,
        **key,
        "seed": key["recipe"]["seed"],
        **facts,
        "libraries": {library: importlib.metadata.version(library) for library in LIBRARIES},
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "git_commit": _git_commit(),
        "outputs": {str(path.relative_to(partial)): sha256(path) for path in files},
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(started)),
        "seconds": round(time.time() - started, 2),
    }


def _git_commit():
    """The commit of the project's checkout, or None where there is none (a downloaded archive, say)."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
