"""Notes that work in progress leaves for whoever goes on with it: small JSON files.

A note is replaced as a whole and durably: whoever is killed leaves the one before or the new one.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress

__all__ = ["remove_note", "sync_folder", "write_note"]


def write_note(path: str, value: object) -> None:
    """Write a note in the place of the one that is there, if there is one.

    Raises:
        OSError: It cannot be written; the one before is still there.
    """
    new = f"{path}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        with open(os.open(new, flags, 0o644), "wb") as file:
            file.write(json.dumps(value, indent=1).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except OSError as error:
        with suppress(OSError):
            os.unlink(new)
        error.filename, error.filename2 = path, None
        raise
    sync_folder(path)


def remove_note(path: str) -> None:
    """Take a note away, durably, if it is there."""
    with suppress(FileNotFoundError):
        os.unlink(path)
        sync_folder(path)


def sync_folder(path: str) -> None:
    """Make the name of a file as durable as its content."""
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
