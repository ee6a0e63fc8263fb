"""Files in which a stream is gathered, each of which only one process has."""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from thinmeta.errors import DeviceInUseError, UsageError

__all__ = ["check_unused", "lock", "open_work_file"]

_LOOPS = "/sys/block"


def lock(descriptor: int, name: str) -> None:
    """Keep others out.

    Raises:
        DeviceInUseError: Somebody has it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            error.filename = name
            raise
        raise DeviceInUseError(name, "another process has it locked: wait for it") from error


def open_work_file(path: str, target: str, *, mode: int) -> int:
    """Open a file that is gathered in, make it if it is not there, and lock it.

    Args:
        path: The file.
        target: What it is for, for errors.
        mode: Permissions of a new one, before the umask.

    Raises:
        DeviceInUseError: Another process is gathering.
        UsageError: Something else is there.
        OSError: It cannot be opened.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    while True:
        try:
            descriptor = os.open(path, flags, mode)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise UsageError(f"{path} is in the way of receiving {target}: remove it") from error
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UsageError(f"{path} is in the way of receiving {target}: remove it")
            lock(descriptor, target)
            if _is_still(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # who had it has put it in the target's place meanwhile


def _is_still(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def check_unused(descriptor: int, name: str) -> None:
    """Refuse a file that a loop device stands on.

    Raises:
        DeviceInUseError: One does.
    """
    found = os.fstat(descriptor)
    try:
        loops = [each for each in os.listdir(_LOOPS) if each.startswith("loop")]
    except OSError:
        return  # no sysfs: nothing can be told
    for loop in loops:
        try:
            with open(f"{_LOOPS}/{loop}/loop/backing_file", "rb") as file:
                backing = file.read().removesuffix(b"\n")
            same = os.path.samestat(os.stat(backing), found)
        except OSError:
            continue
        if same:
            raise DeviceInUseError(name, f"/dev/{loop} stands on it: detach it first")
