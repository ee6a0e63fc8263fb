"""What a command prints: results on stdout, everything else on stderr."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

__all__ = [
    "STDOUT",
    "flush_stdout",
    "stdout_descriptor",
    "write_error",
    "write_json",
    "write_table",
    "write_text",
]

#: What errors call it.
STDOUT = "standard output"


def write_text(text: str) -> None:
    """Print to stdout, file names byte for byte whatever the locale.

    Raises:
        OSError: Stdout is closed, full or broken.
    """
    out = sys.stdout
    if out is None:
        raise _no_stdout()
    try:
        out.buffer.write(text.encode("utf-8", "surrogateescape"))
    except OSError as error:
        error.filename = STDOUT
        raise


def flush_stdout() -> None:
    """Bring what was printed to its reader.

    Raises:
        OSError: Stdout is full or broken.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError as error:
        error.filename = STDOUT
        raise


def write_json(value: Any, write: Callable[[str], None] = write_text) -> None:
    """Print one JSON document, to stdout if not said otherwise."""
    import json

    write(json.dumps(value, indent=2) + "\n")


def write_table(heads: list[str], rows: Iterable[list[str]]) -> None:
    """Print columns, aligned right, under their heads."""
    lines = [heads, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    form = "  ".join(f"%{width}s" for width in widths) + "\n"
    write_text("".join([form % tuple(line) for line in lines]))


def write_error(text: str) -> None:
    """Print to stderr; where there is none, say nothing."""
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
            sys.stderr.buffer.write(text.encode("utf-8", "surrogateescape"))
            sys.stderr.buffer.flush()
    except OSError:
        pass


def stdout_descriptor() -> int:
    """The descriptor of stdout, for the native module to write to."""
    out = sys.stdout
    if out is None:
        raise _no_stdout()
    flush_stdout()
    return out.fileno()


def _no_stdout() -> OSError:
    import errno

    return OSError(errno.EBADF, os.strerror(errno.EBADF), STDOUT)
