"""How far a shrink has come: a small file beside its output, replaced as a whole."""

from __future__ import annotations

import json
import os
import stat

from thinmeta._core import crc32c
from thinmeta.errors import UsageError
from thinmeta.notes import remove_note, write_note

__all__ = ["ShrinkJournal"]

KIND = "thinmeta-shrink"
VERSION = 1
_MAX_BYTES = 1 << 16


class ShrinkJournal:
    """The file.

    Args:
        out: Where the new metadata go. The journal of a file is beside it; that of a block
            device, beside which nothing can be, in the folder for the state of devices.
        plan: By what the pool as it is and what moves where are known; notes of any other
            work count for nothing.
    """

    def __init__(self, out: str, plan: str) -> None:
        self.path, self._plan = _path(out), plan

    def load(self) -> int:
        """How many moved blocks are copied and durable.

        Raises:
            UsageError: Something else has its name.
            OSError: It cannot be read.
        """
        try:
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
            descriptor = os.open(self.path, flags)
        except FileNotFoundError:
            return 0
        try:
            # A folder has no bytes, and cannot be told from other things that are no notes.
            is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
            text = os.read(descriptor, _MAX_BYTES) if is_file else b""
        finally:
            os.close(descriptor)
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict) or value.get(KIND) != VERSION:
            raise UsageError(
                f"{self.path} is not what a shrink notes down, and is in the way: move it"
            )
        plan, copied = value.get("plan"), value.get("copied_blocks")
        if plan != self._plan or type(copied) is not int or copied < 0:
            return 0
        return copied if value.get("crc32c") == _checksum(plan, copied) else 0

    def note(self, copied_blocks: int) -> None:
        """Say durably how many moved blocks are copied and durable.

        Raises:
            OSError: It cannot be written; it says what it said before.
        """
        value = {
            KIND: VERSION,
            "crc32c": _checksum(self._plan, copied_blocks),
            "plan": self._plan,
            "copied_blocks": copied_blocks,
        }
        write_note(self.path, value)

    def remove(self) -> None:
        """Take it away: the work is done."""
        remove_note(self.path)


def _checksum(plan: str, copied_blocks: int) -> str:
    return f"{crc32c(f'{plan} {copied_blocks}'.encode()):08x}"


def _path(out: str) -> str:
    try:
        found = os.stat(out)
    except FileNotFoundError:
        found = None
    if found is None or not stat.S_ISBLK(found.st_mode):
        return f"{os.path.realpath(out)}.shrink"
    from thinmeta.stream.sidecar import state_folder
    from thinmeta.stream.targets.device import device_key

    key = device_key(f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}")
    return os.path.join(state_folder(), f"{key}.shrink")
