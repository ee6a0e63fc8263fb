"""Failures become one line on stderr and an exit status; never a traceback."""

from __future__ import annotations

import os
import sys

from thinmeta import errors
from thinmeta.cli.output import write_error

__all__ = ["DATA", "IMPOSSIBLE", "USAGE", "report_failure"]

DATA, USAGE, IMPOSSIBLE = 1, 2, 3
INTERRUPTED, BROKEN_PIPE = 130, 141


def report_failure(error: BaseException) -> int:
    """Say what went wrong and return the exit status for it.

    With ``THINMETA_TRACEBACK`` in the environment a mistake of ours is raised again.
    """
    if isinstance(error, BrokenPipeError):
        status, message = BROKEN_PIPE, ""
    elif isinstance(error, KeyboardInterrupt):
        from thinmeta.cli.signals import Terminated

        if isinstance(error, Terminated):
            status, message = 128 + error.number, "asked to end"
        else:
            status, message = INTERRUPTED, "interrupted"
    elif isinstance(error, errors.UsageError):
        status, message = USAGE, str(error)
    elif isinstance(error, errors.ThinmetaError):
        cannot = (OSError, errors.NoSpaceError, errors.AbortedError, errors.PoisonedError)
        status, message = IMPOSSIBLE if isinstance(error, cannot) else DATA, str(error)
    elif isinstance(error, OSError):
        status, message = IMPOSSIBLE, _os_error(error)
    elif isinstance(error, MemoryError):
        status, message = IMPOSSIBLE, "out of memory"
    else:
        if os.environ.get("THINMETA_TRACEBACK"):
            raise error
        status = IMPOSSIBLE
        message = f"internal error, please report it: {type(error).__name__}: {error}"
    _finish_stdout()
    if message:
        write_error(f"thinmeta: {' '.join(message.split())}\n")
    return status


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
