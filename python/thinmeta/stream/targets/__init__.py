"""What streams are received into: files, block devices, volumes of pools."""

from __future__ import annotations

import os
import stat

from thinmeta.stream.targets.base import Target
from thinmeta.stream.targets.device import DeviceTarget
from thinmeta.stream.targets.file import FileTarget
from thinmeta.stream.targets.pool import PoolTarget

__all__ = ["DeviceTarget", "FileTarget", "PoolTarget", "Target", "open_target"]


def open_target(path: str | os.PathLike[str], *, journal: str | None = None) -> Target:
    """Find out what a path is.

    Args:
        path: A file, which need not be there, or a block device.
        journal: The folder for journals.

    Raises:
        OSError: It cannot be looked at.
    """
    path = os.fspath(path)
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return FileTarget(path, journal=journal)
    if stat.S_ISBLK(found.st_mode):
        return DeviceTarget(path, journal=journal)
    return FileTarget(path, journal=journal)
