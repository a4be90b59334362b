"""How a script ends: in sentences and exit statuses, whatever happened."""

import _thread
import gc
import shlex
import sys
import threading

from playground import locking, parallel
from playground.errors import UserError, why_not_written
from tools import ToolFileError


def run(main, in_parallel=False):
    """Call `main()`, and turn what the user can mend into a sentence on standard error and an exit status.

    1 where the output folder cannot be written, 2 for anything else that was asked wrongly, 130 for Ctrl-C.
    in_parallel: whether several processes may share the work; they say the sentence once and end alike.
    """
    sys.unraisablehook = _interrupt_again
    try:
        with parallel.only_main_speaks():
            if parallel.size() > 1 and not in_parallel:
                raise UserError(f"{sys.argv[0]} works in one process: start it as `{command()}`.")
            main()
        return
    except (UserError, ToolFileError) as error:
        status, message = getattr(error, "status", 2), f"error: {error}"
    except KeyboardInterrupt as interrupt:
        status, message = 130, f"stopped: {str(interrupt) or 'nothing was changed; to start again:'} {command()}"
    except Exception as error:
        if not (reason := why_not_written(error)):
            first, status = parallel.first_to_fail(1)
            if first:
                raise
            sys.exit(status)
        folders = " or ".join(map(str, locking.held())) or "the output folder"
        status = 1
        message = (
            f"error: {folders} cannot be written ({reason}): the artifacts there are as they were; make room or "
            "choose another --output-dir, and run the same command again."
        )
    gc.collect()  # what is left of main() goes, and with it its progress bar, so that the sentence comes last
    first, status = parallel.first_to_fail(status)
    if first:
        print(message, file=sys.stderr)
    sys.exit(status)


def _interrupt_again(unraisable):
    """Ctrl-C in the middle of a finalizer is printed and forgotten by Python: let it come again, a moment later."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        threading.Timer(0.01, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(unraisable)


def command():
    """The command line of this process, as one would type it."""
    return shlex.join(["python", *sys.argv])
