"""How far a merge into an external origin has got, for whoever goes on with it.

JSON with a checksum, replaced as a whole, beside a file, or for devices in the folder where
what is known of targets is. One that is damaged, or of another volume, says nothing, and then
all of it is done once more.
"""

from __future__ import annotations

import json
import os
import stat

from thinmeta._core import crc32c
from thinmeta.notes import remove_note, write_note
from thinmeta.stream.sidecar import state_folder
from thinmeta.stream.targets.device import device_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.identity import Identity

__all__ = ["Journal"]

VERSION = 1
_MAX_BYTES = 1 << 16


class Journal:
    """What is written down.

    Args:
        path: The external origin.
        descriptor: The same, open: nobody else has it.
        identity: What is merged into it.

    Attributes:
        done_bytes: All of the volume below this was written, and is durable.
    """

    def __init__(self, path: str, descriptor: int, identity: Identity) -> None:
        found = os.fstat(descriptor)
        self._path = f"{os.path.realpath(path)}.thinmeta-merge"
        if stat.S_ISBLK(found.st_mode):
            key = device_key(f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}")
            self._path = os.path.join(state_folder(), f"{key}.thinmeta-merge")
        self._volume = {
            "device_id": identity.device_id,
            "creation_time": identity.creation_time,
            "digest": identity.digest,
            "size_bytes": identity.size_bytes,
        }
        self.done_bytes = self._load(identity.size_bytes)

    def _load(self, size_bytes: int) -> int:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return 0
        with open(descriptor, "rb") as file:
            text = file.read(_MAX_BYTES)
        try:
            value = json.loads(text)
            state = value["state"]
            known = value["thinmeta-merge"] == VERSION and value["crc32c"] == _checksum(state)
            done = state["done_bytes"]
            if not known or state["volume"] != self._volume or type(done) is not int:
                return 0
        except (ValueError, KeyError, TypeError, RecursionError):
            return 0
        return done if 0 <= done <= size_bytes else 0

    def note(self, done_bytes: int) -> None:
        """Write down how far it has got; durable when this returns.

        Raises:
            OSError: It cannot be written.
        """
        state = {"volume": self._volume, "done_bytes": done_bytes}
        value = {"thinmeta-merge": VERSION, "crc32c": _checksum(state), "state": state}
        write_note(self._path, value)

    def forget(self) -> None:
        """Nothing is left to be done, or all of it."""
        remove_note(self._path)


def _checksum(content: object) -> str:
    return f"{crc32c(json.dumps(content, sort_keys=True).encode()):08x}"
