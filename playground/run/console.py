"""How a script speaks and ends: in text that no outside text can take over, sentences and exit statuses."""

import _thread
import contextlib
import gc
import os
import re
import shlex
import signal
import sys
import threading
import unicodedata
from pathlib import Path

import tools as toolbox
from playground import schemas
from playground.run import locking, parallel
from playground.run.errors import UserError, why_not_written

given = []  # the flags of this run that the other scripts take too, as they were typed: see recipe.arguments


def run(main, in_parallel=False):
    """Call `main()`, and turn what the user can mend into a sentence on standard error and an exit status.

    1 where the output folder cannot be written, 2 for anything else that was asked wrongly, 130 for Ctrl-C.
    in_parallel: whether several processes may share the work; they say the sentence once and end alike.
    """
    sys.unraisablehook = _interrupt_again
    out, err = _Printable(sys.stdout), _Printable(sys.stderr, bars=True)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        _run(main, in_parallel)


def printable(text):
    """Text without the control and direction characters that could take over a terminal or a page."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" or unicodedata.category(c) == "Zs" else "\ufffd" for c in text)


class _Printable:
    """A stream on which rows, tool names, models and messages are printed, and only tqdm moves the cursor."""

    def __init__(self, stream, bars=False):
        self.stream, self.bars = stream, bars

    def write(self, text):
        bar = self.bars and re.fullmatch(r"((?:\x1b\[A)+\Z|\r)(.*?)(\r?)", text, re.DOTALL)  # goes up, draws or wipes
        begin, shown, end = bar.groups() if bar else ("", text, "")
        return self.stream.write(begin + printable(shown) + end)

    def __getattr__(self, name):
        return getattr(self.stream, name)


def _run(main, in_parallel):
    try:
        with _only_main_speaks():
            if parallel.size() > 1 and not in_parallel:
                raise UserError(f"{sys.argv[0]} works in one process: start it as `python {sys.argv[0]}`.")
            main()
            for tool, (count, why) in toolbox.FAILED.items():
                print(f"The executor of {tool} failed in {count} calls ({why}): mend it.", file=sys.stderr)
        parallel.leave(0)
        return
    except (UserError, toolbox.ToolFileError, schemas.OutsideError) as error:
        status, message = getattr(error, "status", 2), f"error: {error}".replace("\n", " ")
    except KeyboardInterrupt as interrupt:
        status, message = 130, f"stopped: {str(interrupt) or 'nothing was changed; to start again:'} {command()}"
    except Exception as error:
        status, reason = 1, why_not_written(error)
        if not reason and _first_to_fail(status)[0]:
            raise
        folders = " or ".join(map(str, locking.held)) or "the output folder"
        message = (
            f"error: {folders} cannot be written ({reason}): the artifacts there are as they were; make room or "
            "choose another --output-dir, and run the same command again."
        )
    gc.collect()  # what is left of main() goes, and with it its progress bar, so that the sentence comes last
    first, status = _first_to_fail(status)
    if first:
        print(message, file=sys.stderr)
    parallel.leave(status)
    sys.exit(status)


@contextlib.contextmanager
def _only_main_speaks():
    """A block in which the other processes print nothing, and end without a word on Ctrl-C."""
    if parallel.is_main():
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with Path(os.devnull).open("w") as no, contextlib.redirect_stdout(no), contextlib.redirect_stderr(no):
        yield


def _first_to_fail(status):
    """(whether this process is to tell its error, the status that all end with): the first one to fail decides.

    The others fail soon after it, waiting for a process that is no more.
    """
    if not parallel.have_met():
        return parallel.is_main(), status  # until they have met, what is wrong for one is wrong for all
    from torch.distributed import TCPStore

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(host, port, is_master=False)  # the launcher's, which outlives the processes
    first, status = store.compare_set("failed", "", f"{parallel.rank()} {status}").decode().split()
    return int(first) == parallel.rank(), int(status)


def _interrupt_again(unraisable):
    """Ctrl-C in the middle of a finalizer is printed and forgotten by Python: let it come again, a moment later."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        threading.Timer(0.01, _thread.interrupt_main).start()
    elif not issubclass(unraisable.exc_type, schemas.OutOfTime):  # which comes again by itself
        sys.__unraisablehook__(unraisable)


def command(script=None):
    """The command that started this process, or one for `script`, with the flags that both scripts accept."""
    if not script:
        return f"{'accelerate launch ...' if parallel.size() > 1 else 'python'} {shlex.join(sys.argv)}"
    path = Path(sys.argv[0]).parent / script  # where this one lies
    return f"python {shlex.join([str(path) if path.exists() else script, *given])}"
