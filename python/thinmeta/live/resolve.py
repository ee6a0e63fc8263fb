"""From what a user calls a pool to its device."""

from __future__ import annotations

import errno

from thinmeta.errors import LivePoolError, UsageError
from thinmeta.live import dmsetup
from thinmeta.live.lvm import is_name, join_name, layered, pool_of
from thinmeta.live.nodes import device_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.live.status import DeviceInfo

__all__ = ["pool_device", "table_word"]


def pool_device(word: str) -> tuple[DeviceInfo, str]:
    """The device of a pool, and its table.

    Raises:
        LivePoolError: There is no such pool.
        UsageError: It is something else.
    """
    if not isinstance(word, str):
        raise TypeError(f"a pool is a name or a path, not {type(word).__name__}")
    if not word:
        raise UsageError("no pool is named ''")
    try:
        device = _device(word)
        table = dmsetup.table(device.name)
        # LVM lays a device of the pool's own name over the one with the target.
        if _target(table) == "linear" and pool_of(device.name, device.uuid) is not None:
            below = _if_there(layered(device.name))
            if below is not None:
                device, table = below, dmsetup.table(below.name)
    except LivePoolError as error:
        if error.errno == errno.ENXIO:
            raise _no_such(word) from None
        raise
    target = _target(table)
    if target == "thin-pool":
        return device, table
    if target == "thin":
        raise UsageError(f"{word} is a volume of a thin pool, not the pool")
    raise UsageError(f"{word} is no thin pool, but a device with the target {target or 'none'!r}")


def _device(word: str) -> DeviceInfo:
    if not word.startswith("/"):
        if "/" not in word:
            return dmsetup.info(word)
        if not is_name(word):
            raise LivePoolError(word, "neither a name nor VG/POOL", errno.ENXIO)
        return _of_lvm(word)
    try:
        number = device_number(word)
    except OSError as error:
        rest = word.removeprefix("/dev/")
        if error.errno != errno.ENOENT or rest == word:
            raise LivePoolError(word, error.strerror or str(error), error.errno or 0) from None
        # The node may be gone, and the pool be there.
        if rest.startswith("mapper/"):
            return dmsetup.info(rest.removeprefix("mapper/"))
        if is_name(rest):
            return _of_lvm(rest)
        raise LivePoolError(word, error.strerror or str(error), errno.ENXIO) from None
    if number is None:
        raise UsageError(f"{word} is no device: open_pool() reads metadata from files")
    try:
        return dmsetup.info(f":{number}")
    except LivePoolError as error:
        if error.errno == errno.ENXIO:
            raise UsageError(f"{word} is no device of device-mapper, so it is no pool") from None
        raise


def _of_lvm(word: str) -> DeviceInfo:
    name = join_name(*word.split("/"))
    # A pool without volumes has its target under its own name.
    return _if_there(layered(name)) or dmsetup.info(name)


def _if_there(name: str) -> DeviceInfo | None:
    try:
        return dmsetup.info(name)
    except LivePoolError as error:
        if error.errno == errno.ENXIO:
            return None
        raise


def _target(table: str) -> str:
    """The kind of a device's first target; empty if it has none."""
    words = table.split()
    return words[2] if len(words) > 2 else ""


def _no_such(word: str) -> LivePoolError:
    """Say that there is none, and which there are."""
    try:
        names = dmsetup.pool_names(word)
    except LivePoolError:
        names = []
    active = f"active pools: {', '.join(names[:8])}" if names else "no thin pool is active"
    more = ", …" if len(names) > 8 else ""
    return LivePoolError(
        word, f"there is no such thin pool on this host; {active}{more}", errno.ENXIO
    )


def table_word(path: str) -> str:
    """A device as a table wants it.

    Raises:
        LivePoolError: It is not there.
        UsageError: It is no block device.
    """
    try:
        number = device_number(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise LivePoolError(path, reason, error.errno or errno.EIO) from None
    if number is None:
        raise UsageError(f"{path} is no block device: an external origin has to be one")
    return number
