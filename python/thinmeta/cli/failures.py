"""Failures become one line on stderr and an exit status; never a traceback."""

from __future__ import annotations

import os
import sys

from thinmeta import errors
from thinmeta.cli.output import write_error

__all__ = [
    "BROKEN_PIPE",
    "DATA",
    "IMPOSSIBLE",
    "INTERRUPTED",
    "USAGE",
    "LineError",
    "judge",
    "report_failure",
]

DATA, USAGE, IMPOSSIBLE = 1, 2, 3
INTERRUPTED, BROKEN_PIPE = 130, 141


class LineError(Exception):
    """A line of a script failed; the cause is what went wrong.

    Attributes:
        where: The script and the line.
    """

    def __init__(self, where: str) -> None:
        super().__init__(where)
        self.where = where


def report_failure(error: BaseException, *, quiet: bool = False) -> int:
    """Say what went wrong, unless ``quiet``, and return the exit status for it.

    With ``THINMETA_TRACEBACK`` in the environment a mistake of ours is raised again.
    """
    if isinstance(error, LineError) and error.__cause__ is not None:
        status, message = judge(error.__cause__)
        # A script is input, even where a call for it could not have been right.
        status = DATA if status == USAGE else status
        message = f"{error.where}: {message}"
    else:
        status, message = judge(error)
    _finish_stdout()
    for note in getattr(error, "__notes__", ()) if message else ():
        message += f"; {note}"
    if message and not quiet:
        write_error(f"thinmeta: {' '.join(message.split())}\n")
    return status


def judge(error: BaseException) -> tuple[int, str]:
    """The exit status for an error, and what to say about it."""
    if isinstance(error, BrokenPipeError):
        return BROKEN_PIPE, ""
    if isinstance(error, KeyboardInterrupt):
        from thinmeta.cli.signals import Terminated

        if isinstance(error, Terminated):
            return 128 + error.number, "asked to end"
        return INTERRUPTED, "interrupted"
    if isinstance(error, errors.UsageError):
        return USAGE, str(error)
    if isinstance(error, errors.ThinmetaError):
        cannot = (OSError, errors.NoSpaceError, errors.AbortedError, errors.PoisonedError)
        return IMPOSSIBLE if isinstance(error, cannot) else DATA, str(error)
    if isinstance(error, OSError):
        return IMPOSSIBLE, _os_error(error)
    if isinstance(error, MemoryError):
        return IMPOSSIBLE, "out of memory"
    if os.environ.get("THINMETA_TRACEBACK"):
        raise error
    kind = type(error).__name__
    return IMPOSSIBLE, f"internal error, please report it: {kind}: {error}"


def _os_error(error: OSError) -> str:
    words = error.strerror or str(error) or type(error).__name__
    if error.filename is None:
        return words
    name = error.filename
    return f"{os.fsdecode(name) if isinstance(name, str | bytes) else name}: {words}"


def _finish_stdout() -> None:
    """Print what is left; where that fails, keep the interpreter from trying again."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
