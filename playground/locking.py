"""One run at a time in an output folder: two would delete and rename each other's directories."""

import atexit
import contextlib
import os
import shutil
import time
from pathlib import Path

from playground import parallel
from playground.errors import OutputError, UserError

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

NAME = ".lock"
LOCKED_BYTE = 1 << 20  # on Windows a locked byte cannot be read, so it is one behind the process id

_held = {}  # {folder: its open lock file, whether this process made the folder}
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_held.clear)  # the lock stays with the parent


def lock(recipe):
    """Keep other runs out of the recipe's output folder until this process ends, and settle what a killed one left.

    Call it before anything in the folder is read, so that what is read is what the manifest says. Raises UserError
    with the process id of a run that is there already, OutputError where the folder cannot be written. Several
    processes that work as one meet here, and the main one keeps the lock for all.
    """
    parallel.join(recipe)
    if parallel.is_main():
        _settle(recipe["output_dir"])
    parallel.wait()


def _settle(output_dir):
    try:
        owner = take(output_dir)
        if owner is None:
            for old in Path(output_dir).glob("[0-9][0-9]_*.old"):
                final = old.with_suffix("")
                if (old / "manifest.json").exists() and not final.exists():
                    old.rename(final)
                else:
                    discard(old)
    except OSError as error:
        raise OutputError(f"{output_dir} cannot be written ({error.strerror}): choose another --output-dir.") from None
    if owner is not None:
        raise UserError(
            f"{output_dir} is in use by process {owner}: wait until that is done, or choose another --output-dir."
        )


def discard(folder):
    """Delete a folder, first of all what makes it count: killed on the way, it is rubbish and no half artifact."""
    for name in ("manifest.json", "run.json"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder)


def take(output_dir):
    """Lock an output folder for as long as this process lives; returns None, or the process id of who has it.

    The system holds the lock, so it ends with the process, however that ends; the file only says whose it is.
    None too where this process has it already. Raises OSError where the folder cannot be written.
    """
    folder = Path(output_dir).resolve()
    if folder in _held:
        return None
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        file = (folder / NAME).open("a+", encoding="utf-8")
        if not _lock(file):
            with file:
                return _owner(file)
        if os.name == "nt" or _is_still(folder / NAME, file):
            break
        file.close()  # the last owner deleted the file between opening and locking
    _held[folder] = file, made
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return None


def held():
    """The folders that this process has locked."""
    return list(_held)


@atexit.register
def release():
    """Give all locks back, and leave nothing behind that a run has not made."""
    while _held:
        folder, (file, made) = _held.popitem()
        with contextlib.suppress(OSError):  # the folder may have been deleted meanwhile
            if os.name == "nt":
                file.close()  # an open file cannot be deleted there
            (folder / NAME).unlink()
            if made:
                folder.rmdir()  # only where it is empty: the run wrote nothing
        with contextlib.suppress(OSError):
            file.close()


def _lock(file):
    try:
        if os.name == "nt":
            file.seek(LOCKED_BYTE)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            # Not flock: a worker process would inherit that one, and keep it if this process is killed.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _is_still(path, file):
    try:
        return path.stat().st_ino == os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False


def _owner(file):
    """The process id in a lock file; "unknown" where its owner does not write one within a second."""
    for _ in range(100):
        file.seek(0)
        if owner := file.read():
            return owner
        time.sleep(0.01)
    return "unknown"
