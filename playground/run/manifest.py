"""What an artifact was made from: by which recipe, with what, where and when; and would that be found today?

    python -m playground verify outputs

One line for each artifact: fine, or what is wrong with it. *Altered* is one with a file that is missing or no longer
what the stage wrote. *Stale* is one whose recipe, input or base model has changed since, or which was made from an
altered or stale one; sections of the recipe that are for other stages do not count.

The recipe is made again from the defaults, the file and the flags that the stage was given, so a changed default counts
and a flag does not. Paths are those that the stages were given: run it where they were run. What it does not see is
the code: that is for `make`, by time of change.
"""

import contextlib
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

from playground.run import recipe
from playground.run.console import command
from playground.run.errors import UserError
from playground.run.files import MODEL_FILES, read_json, sha256

# Sections of the recipe that one stage alone reads, or others only by what it has made.
OWN = {
    "baseline": "01_baseline",
    "teacher": "02_create_dataset",
    "sft": "03_finetune",
    "constrained": "05_constrained",
    "dpo": "06_dpo",
    "ppo": "07_ppo",
    "evaluate": "08_evaluate",
}
LIBRARIES = ("torch", "transformers", "datasets", "accelerate", "trl", "peft", "jsonschema", "numpy")


def base_files(base):
    """The files of a base model that decide what it says; a hub model's path names its revision instead."""
    if not base or base.get("kind") not in ("embedded", "package", "folder"):
        return []
    return sorted(path for path in Path(base["path"]).iterdir() if path.suffix in MODEL_FILES)


def manifest(artifact, key, started):
    """What manifest.json says of an Artifact; key: the recipe and the hashes of the inputs."""
    kept = [path for path in artifact.path.iterdir() if not artifact.is_state(path.name)]
    files = [file for path in kept for file in (path, *path.rglob("*")) if file.is_file()]
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
    parts = [_processor(), f"{os.cpu_count()} cores"]
    if torch := sys.modules.get("torch"):
        threads = torch.get_num_threads()
        parts += [f"{threads} thread{'s' * (threads > 1)}", torch.backends.cpu.get_cpu_capability()]
        if torch.cuda.is_available():
            parts.append(torch.cuda.get_device_name())
    return ", ".join(parts)


def _processor():
    """The processor's name where the system tells it, else its kind."""
    with contextlib.suppress(OSError):  # Linux has this file
        if named := re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return named[1]
    return platform.processor() or platform.machine()


def _git(*arguments):
    """What git says of the project's checkout, or None where there is none (a downloaded archive, say)."""
    try:
        command = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.rstrip()
    except (OSError, subprocess.CalledProcessError):
        return None


def verify(output_dir):
    """{stage: [what is wrong, in words]} of the artifacts in a folder, in their order; nothing is wrong with []."""
    output_dir, found = Path(output_dir), {}
    for path in sorted(output_dir.glob("*/manifest.json")):
        if not path.parent.suffix:  # no .partial
            found[path.parent.name] = _wrong(path.parent, output_dir, found)
    if not found:
        raise UserError(f"{output_dir} holds no artifacts: give the folder that the stages have written to.")
    return found


def _wrong(folder, output_dir, earlier):
    try:
        manifest = read_json(folder / "manifest.json")
        written_to = Path(manifest["recipe"]["output_dir"])
        wrong = [
            f"altered: {name} is {state}"
            for name, digest in manifest["outputs"].items()
            if (state := _state(folder / name, digest))
        ]
        wrong += [f"stale: {change}" for change in _recipe_changes(manifest)]
        for name, digest in manifest["inputs"].items():
            path, stage = Path(name), None
            if path.is_relative_to(written_to):  # the folder may have been moved since
                path = output_dir / path.relative_to(written_to)
                stage = path.relative_to(output_dir).parts[0]
            if stage and stage > folder.name:
                continue  # the teacher of stage 02, which is meant to be trained further on what it has written
            if state := _state(path, digest):
                wrong.append(f"stale: {path} is {state}")
            elif earlier.get(stage):
                wrong.append(f"stale: {stage} is not fine")
    except UserError as error:
        return [f"altered: {error}"]
    except (LookupError, TypeError, AttributeError):
        return ["altered: its manifest is of another form"]
    return list(dict.fromkeys(wrong))


def _state(path, digest):
    if not path.is_file():
        return "missing"
    return None if sha256(path) == digest else "changed"


def _recipe_changes(manifest):
    if manifest["origin"] is None:
        return []
    try:
        today = recipe.load(**manifest["origin"])
    except UserError as error:
        return [f"its recipe cannot be made any more: {error}"]
    then, now = recipe.flat(manifest["recipe"]), recipe.flat(today)
    return [
        f"recipe key {key} was {then.get(key, 'unknown')!r} and is now {now.get(key, 'unknown')!r}"
        for key in then | now
        if OWN.get(key.split(".")[0], manifest["stage"]) == manifest["stage"] and then.get(key) != now.get(key)
    ]
