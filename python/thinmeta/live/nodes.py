"""From device numbers to device nodes, and back."""

from __future__ import annotations

import errno
import os
import re
import stat
import time

from thinmeta.errors import LivePoolError

__all__ = ["check_node", "device_number", "node_of", "wait_for_node"]

SYSFS = "/sys/dev/block"
#: A kernel name such as ``dm-3`` or ``cciss!c0d0``; nothing that leads elsewhere.
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+!:-]*")
NODE_SECONDS = 10.0


def device_number(path: str) -> str | None:
    """``major:minor`` of a block device, or ``None`` for anything else that is there.

    Raises:
        OSError: It is not there.
    """
    found = os.stat(path)
    if not stat.S_ISBLK(found.st_mode):
        return None
    return f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"


def _is(path: str, number: str) -> bool:
    try:
        return device_number(path) == number
    except OSError:
        return False


def node_of(number: str) -> str:
    """The best name for a device: ``/dev/mapper/NAME``, the kernel's own, or by number.

    Args:
        number: ``major:minor``, as tables have it; a path stays what it is.

    Returns:
        A node of this device if there is one; else where one ought to be.
    """
    if number.startswith("/"):
        return number
    places = []
    name = _line(f"{SYSFS}/{number}/dm/name")
    if name and "/" not in name:
        places.append(f"/dev/mapper/{name}")
    for line in _lines(f"{SYSFS}/{number}/uevent"):
        key, _, value = line.partition("=")
        if key == "DEVNAME" and _SAFE.fullmatch(value.replace("/", "!")):
            places.append(f"/dev/{value}")
    places.append(f"/dev/block/{number}")
    return next((place for place in places if _is(place, number)), places[0])


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read(1 << 16).splitlines()
    except OSError:
        return []


def _line(path: str) -> str:
    lines = _lines(path)
    return lines[0] if lines else ""


def check_node(pool: str, path: str, number: str) -> None:
    """Make sure that a path leads to the device that is meant.

    Raises:
        LivePoolError: It is gone, or leads to another device.
    """
    try:
        found = device_number(path)
    except OSError as error:
        reason = f"the device node {path} is gone ({error.strerror})"
        number_ = error.errno or errno.ENOENT
    else:
        if found == number or number.startswith("/"):
            return
        reason = f"the device node {path} is not device {number}, as it should be"
        number_ = errno.ENXIO
    reason += ": 'dmsetup mknodes' or 'udevadm trigger' makes it anew"
    raise LivePoolError(pool, reason, number_)


def wait_for_node(number: str) -> str:
    """The node of a device that was just made; udev makes it, in its own time.

    Raises:
        LivePoolError: It does not come.
    """
    deadline = time.monotonic() + NODE_SECONDS
    pause = 0.001
    while True:
        path = node_of(number)
        if _is(path, number):
            return path
        if time.monotonic() > deadline:
            check_node(path, path, number)
        time.sleep(pause)
        pause = min(pause * 2, 0.1)
