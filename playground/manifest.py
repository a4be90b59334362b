"""What an artifact was made from: by which recipe, with what, where and when."""

import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

from playground.files import sha256
from playground.terminal import command

LIBRARIES = ("torch", "transformers", "datasets", "accelerate", "trl", "peft", "jsonschema", "numpy")


def base_files(base):
    """The files of a base model that decide what it says; a hub model's path names its revision instead."""
    if not base or base.get("kind") not in ("embedded", "folder"):
        return []
    return sorted(path for path in Path(base["path"]).iterdir() if path.suffix in (".json", ".safetensors"))


def manifest(artifact, key, started):
    """What manifest.json says of an Artifact; key: the recipe and the hashes of the inputs."""
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
        parts.append(torch.backends.cpu.get_cpu_capability())
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
