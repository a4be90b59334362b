"""One run at a time in an output folder: two would delete and rename each other's directories.

Not with `filelock`, whose flock a worker process inherits and keeps when this one is killed, and which names no owner.
"""

import atexit
import contextlib
import os
from pathlib import Path

from playground.run.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

NAME = ".lock"
LOCKED_BYTE = 1 << 20  # on Windows a locked byte cannot be read, so it is one behind the process id

held = {}  # {folder that this process has locked: its open lock file, whether this process made the folder}
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=held.clear)  # the lock stays with the parent


def take(output_dir):
    """Lock an output folder for as long as this process lives.

    The system holds the lock, so it ends with the process, however that ends; the file only says whose it is.
    Raises UserError where another process has it, OSError where the folder cannot be written.
    """
    folder = Path(output_dir).resolve()
    path, made = folder / NAME, not folder.exists()
    if folder in held:
        return
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        if path.is_symlink():
            raise UserError(f"{path} is a link, and no lock of a run: move it, or choose another --output-dir.")
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666), "rb+")
        if not _lock(file):
            with file:
                owner = file.read(30).decode("ascii", "replace") or "unknown"  # it has not written its number yet
            raise UserError(f"{output_dir} is in use by process {owner}: wait for it, or choose another --output-dir.")
        if os.fstat(file.fileno()).st_nlink:
            break
        file.close()  # the last owner deleted the file between opening and locking
    if file.read(30).strip(b"0123456789"):
        with file:
            raise UserError(f"{path} is no lock of a run: move it, or choose another --output-dir.")
    held[folder] = file, made
    file.seek(0)
    file.truncate()
    file.write(str(os.getpid()).encode())
    file.flush()


@atexit.register
def release():
    """Give all locks back, and leave nothing behind that a run has not made."""
    while held:
        folder, (file, made) = held.popitem()
        with contextlib.suppress(OSError), file:  # the folder may have been deleted, or the disk be full
            if os.name == "nt":
                file.close()  # an open file cannot be deleted there
            (folder / NAME).unlink()
            if made:
                folder.rmdir()  # only where it is empty: the run wrote nothing


def _lock(file):
    try:
        if os.name == "nt":
            file.seek(LOCKED_BYTE)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    finally:
        file.seek(0)
    return True
