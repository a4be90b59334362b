"""What the person at the terminal can mend, as opposed to mistakes in the program."""

import errno
import os
import re

NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class UserError(Exception):
    """Something the person at the terminal can mend; the message is the one sentence that says how."""


class OutputError(UserError):
    """The output folder cannot be written."""

    status = 1


def why_not_written(error):
    """Why the system refused to write a file, where that is what an exception comes from; else None.

    Libraries raise exceptions of their own, with the system's words in them or, as PyTorch does, without.
    """
    while error:
        for refusal in NOT_WRITTEN:
            if getattr(error, "errno", None) == refusal or os.strerror(refusal) in str(error):
                return os.strerror(refusal)
        if isinstance(error, RuntimeError) and re.search("PytorchStreamWriter|inline_container", str(error)):
            return "a file could not be written to its end"
        error = error.__cause__ or error.__context__
    return None
