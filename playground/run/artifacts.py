"""outputs/NN_stage/: directories that appear whole or not at all, and say what they were made from.

A stage works in `outputs/NN_stage.partial/`, which is renamed into place when the stage has finished, with a
`manifest.json` in it. So a directory that exists is complete, a killed stage has changed nothing, and what it had
reached waits in `.partial` for the next run of the same recipe and inputs.

Nothing is deleted or replaced but what a run has marked as its own: a `.partial` by its `run.json`, an artifact by its
manifest, in which its files are listed. Files of other people in an artifact move into the one that replaces it.
"""

import contextlib
import json
import os
import shutil
import time
from pathlib import Path

import tools as toolbox
from playground.run import parallel
from playground.run.console import command
from playground.run.errors import OutputError, UserError
from playground.run.files import NEW, read_json, read_records, sha256, write_json
from playground.run.locking import take
from playground.run.manifest import base_files, manifest

RUN = "run.json"  # marks a folder that a run works in; there last of all, and empty while the folder is being deleted
REPLACED = ".replaced"  # the artifact of the run before, in the one that takes its place, until its files are deleted


def require(output_dir, stage, name="manifest.json"):
    """The path of a file in an earlier stage's artifact. Raises UserError naming the script that makes it."""
    path = Path(output_dir) / stage / name
    if not path.exists():
        raise UserError(f"{path} does not exist: run `{command(f'{stage}.py')}` first.")
    return path


def read_manifest(output_dir, stage):
    return read_json(require(output_dir, stage))


def dataset(output_dir):
    """({name: path} of stage 02's files, training records, validation records, the tools that they call)."""
    names = ("train.jsonl", "val.jsonl", "tools.json")
    paths = {name: require(output_dir, "02_create_dataset", name) for name in names}
    return paths, *(read_records(paths[name]) for name in names[:2]), toolbox.load_tools(paths["tools.json"])


@contextlib.contextmanager
def stage(settings, name, inputs=(), resume=False, **facts):
    """A directory to write the artifact of stage `name` into; it becomes `outputs/<name>/` on leaving.

    inputs: files that the stage read; their hashes go into the manifest, with those of a base model's folder. With
    `resume`, what an interrupted run of the same recipe and inputs left in the directory is kept; otherwise it starts
    empty, and goes where the stage fails. `facts`, and what is put into `artifact.facts`, are written into the
    manifest. Of several processes, the main one writes all of it, while the others wait. Raises as `lock` does.
    """
    lock(settings)
    final, started = Path(settings["output_dir"]) / name, time.time()
    partial = final.with_name(f"{name}.partial")
    artifact = Artifact(partial, final, facts)
    key = _begin(artifact, settings, inputs, resume) if parallel.is_main() else None
    parallel.wait()  # until the folder is there
    try:
        yield artifact
        parallel.wait()  # for whoever is still in it
        if key:
            write_json(partial / "manifest.json", manifest(artifact, key, started))
            _finish(partial)
        parallel.wait()
    except BaseException as error:
        if key and not resume and not (partial / REPLACED).exists():
            _discard(partial)
        elif key and resume and isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(f"what was reached is kept in {partial}; to go on from there:") from None
        raise


def _begin(artifact, settings, inputs, resume):
    """Make the folder to work in, or leave it as it is to go on from there; returns what its run is known by."""
    partial = artifact.path
    _require_own(partial, artifact.final)
    files = [*inputs, *base_files(artifact.facts.get("base_model"))]
    key = {"recipe": settings, "inputs": {str(path): sha256(path) for path in files}}
    if parallel.size() > 1:
        key["processes"] = parallel.size()  # another number draws other samples, so it cannot go on from there
    going_on = resume and _dict_in(partial / RUN) == key
    try:
        if partial.exists() and not going_on:
            _discard(partial)
        for cut_off in partial.rglob(f"*{NEW}"):
            cut_off.unlink()
        partial.mkdir(parents=True, exist_ok=True)
        write_json(partial / RUN, key)
    except OSError as error:
        if not going_on:
            _discard(partial)
        raise _not_written(partial, error) from None
    return key


def lock(settings):
    """Keep other runs out of the recipe's output folder until this process ends, and finish what a killed one began.

    Call it before anything in the folder is read, so that what is read is what the manifest says. Several processes
    meet here. Raises UserError where a run is there already, OutputError where the folder cannot be written.
    """
    parallel.join(settings)
    folder = Path(settings["output_dir"])
    try:
        if parallel.is_main():
            take(folder)
            for mark in folder.glob(f"[0-9][0-9]_*/{RUN}"):
                with contextlib.suppress(UserError):  # something else is in its place: its stage will say so
                    _finish(mark.parent)
    except OSError as error:
        raise _not_written(folder, error) from None
    parallel.wait()


def _not_written(folder, error):
    return OutputError(f"{folder} cannot be written ({error.strerror}): choose another --output-dir.")


def _require_own(partial, final):
    """Raise UserError where one of a stage's folders is there and no run has made it."""
    for folder, own in ((partial, _is_own(partial)), (final, _is_artifact(final))):
        if folder.is_symlink():
            raise UserError(f"{folder} is a link, and a stage replaces its folder: let --output-dir be the link.")
        if folder.exists() and not own:
            raise UserError(f"{folder} was not made by a run: move it elsewhere, or choose another --output-dir.")


def _is_own(partial):
    """Whether a run works or has worked in a folder; also if it was killed just after making it."""
    mark = partial / RUN
    if not mark.exists():
        return partial.is_dir() and all(path.name == RUN + NEW for path in partial.iterdir())
    return not mark.is_symlink() and (not mark.stat().st_size or {"recipe", "inputs"} <= _dict_in(mark).keys())


def _is_artifact(folder):
    """Whether a folder is what its stage has made, or will be when it is renamed."""
    made = _dict_in(folder / "manifest.json")
    return made.get("stage") == folder.with_suffix("").name and isinstance(made.get("outputs"), dict)


def _dict_in(path):
    """The JSON object in a file, empty where it holds none."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {}


def _discard(partial):
    """Delete what a run has left, as far as it can be; killed on the way, it is rubbish, and still the run's."""
    with contextlib.suppress(OSError):
        (partial / RUN).write_bytes(b"")
        for path in sorted(partial.iterdir(), key=lambda path: path.name == RUN):  # which comes last
            _delete(path)
        partial.rmdir()


def _delete(path):
    path.unlink() if path.is_symlink() or not path.is_dir() else shutil.rmtree(path)


def _finish(folder):
    """Make a folder that has a manifest its stage's artifact. A kill in between is harmless: `lock` goes on here.

    Of the artifact that it replaces, what the manifest lists is deleted; other files move to where they were.
    """
    final = folder.with_suffix("")
    if folder.is_symlink() or folder.suffix not in ("", ".partial") or not _is_artifact(folder):
        return
    if folder != final:
        listed = {name.split("/")[0] for name in _dict_in(folder / "manifest.json")["outputs"]}
        for path in folder.iterdir():
            if path.name not in listed | {RUN, REPLACED, "manifest.json"}:  # only a resumed run needs it
                _delete(path)
        _require_own(folder, final)
        if final.exists():
            final.rename(folder / REPLACED)
        folder.rename(final)
    old = final / REPLACED
    outputs = _dict_in(old / "manifest.json").get("outputs", {})
    for path in sorted(old.rglob("*"), reverse=True):  # what is in a folder before the folder
        name = path.relative_to(old)
        if path.is_dir() and not path.is_symlink():
            with contextlib.suppress(OSError):
                path.rmdir()  # only where it is empty
        elif name.as_posix() in outputs:
            path.unlink()
        elif name.as_posix() != "manifest.json" and not os.path.lexists(final / name):
            (final / name).parent.mkdir(parents=True, exist_ok=True)
            path.rename(final / name)
    (old / "manifest.json").unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        old.rmdir()  # stays with a file whose name another has now
    (final / RUN).unlink()


class Artifact:
    """A directory that is being written; `artifact / name` is the path of a file in it."""

    def __init__(self, path, final, facts):
        self.path, self.final, self.facts = path, final, facts
        self._state = {RUN}

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
        states = filter(_dict_in, Path(folder).glob("checkpoint-*/trainer_state.json"))
        newest = max(states, key=lambda path: int(path.parent.name.rpartition("-")[2]), default=None)
        return str(newest.parent) if newest else None

    return parallel.from_main(find)
