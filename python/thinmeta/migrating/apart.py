"""Whether source and destination are two things."""

from __future__ import annotations

import os
import stat

from thinmeta.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Key = tuple[str, int, int]

__all__ = ["check_apart"]

SYSFS = "/sys/dev/block"


def check_apart(sources: Iterable[str], destinations: Iterable[str]) -> None:
    """Refuse to write to what is read.

    Args:
        sources: Files and devices that are read.
        destinations: Those that would be written to; they need not be there.

    Raises:
        UsageError: One is both, by whatever name, or stands on what is read as a loop device.
    """
    read = {key: path for path in sources for key in _keys(path)}
    for path in destinations:
        for key in _keys(path):
            if key in read:
                is_called = "" if read[key] == path else f", which is read as {read[key]}"
                raise UsageError(
                    f"{path}{is_called}: source and destination are the same; nothing written"
                )


def _keys(path: str) -> list[Key]:
    """What tells a file or a device from others; also the file below a loop device."""
    try:
        found = os.stat(path)
    except OSError:
        return []  # opening it says what is wrong
    if not stat.S_ISBLK(found.st_mode):
        return [("file", found.st_dev, found.st_ino)]
    keys = [("device", os.major(found.st_rdev), os.minor(found.st_rdev))]
    number = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
    try:
        with open(f"{SYSFS}/{number}/loop/backing_file", "rb") as file:
            below = os.stat(file.read().removesuffix(b"\n"))
        keys.append(("file", below.st_dev, below.st_ino))
    except OSError:
        pass  # no loop device, or a file that has no name any more
    return keys
