"""Messages to a pool, and what its refusals mean."""

from __future__ import annotations

import errno
from contextlib import ExitStack

from thinmeta.errors import (
    DeviceExistsError,
    DeviceInUseError,
    LivePoolError,
    NoSpaceError,
    NoSuchDeviceError,
    StaleTransactionError,
    ThinmetaError,
    UsageError,
)
from thinmeta.live.programs import finish
from thinmeta.live.standstill import Standstill

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.live.pool import LivePool

__all__ = ["refused_activation", "send", "snapshot", "snapshot_of_active", "to_suspend"]


def send(live: LivePool, message: str, *numbers: int) -> None:
    """Send a message that changes devices.

    Raises:
        ThinmetaError: What the refusal means.
    """
    try:
        finish(lambda: live.tell(message, *numbers))
    except LivePoolError as error:
        raise _refused(live, error, message, numbers) from error


def snapshot(live: LivePool, device_id: int, origin_id: int, suspend: str | None) -> None:
    """Make a snapshot, with a look at who uses the origin.

    Raises:
        UsageError: The origin is active and does not stand still.
        ThinmetaError: What a refusal means.
    """
    _snapshot(live, device_id, origin_id, to_suspend(live, origin_id, suspend))


def snapshot_of_active(live: LivePool, device_id: int, origin_id: int) -> None:
    """Make a snapshot; wherever the origin is active it stands still meanwhile.

    Raises:
        ThinmetaError: What a refusal means.
    """
    active = [volume.name for volume in live.volumes() if volume.device_id == origin_id]
    _snapshot(live, device_id, origin_id, active)


def _snapshot(live: LivePool, device_id: int, origin_id: int, names: list[str]) -> None:
    def work() -> None:
        with ExitStack() as stack:
            keep = [stack.enter_context(Standstill(name)).keep for name in names]
            live.tell(
                "create_snap", device_id, origin_id, keep=[one for all in keep for one in all]
            )

    try:
        finish(work)
    except LivePoolError as error:
        if error.pool != live.name:  # it is about a volume
            raise
        raise _refused(live, error, "create_snap", (device_id, origin_id)) from error


def to_suspend(live: LivePool, origin_id: int, suspend: str | None) -> list[str]:
    """What has to be suspended, if anything, before a snapshot of an origin is made.

    Raises:
        UsageError: The origin is active and would not stand still, or the name is of
            another device.
    """
    active = [volume for volume in live.volumes() if volume.device_id == origin_id]
    names = {volume.name for volume in active}
    if suspend is not None:
        suspend = suspend.removeprefix("/dev/mapper/")
        if suspend not in names:
            is_as = f"it is active as {', '.join(sorted(names))}" if names else "it is not active"
            raise UsageError(f"{suspend} is not thin device {origin_id} of {live.name}: {is_as}")
    moving = [volume.name for volume in active if not volume.suspended and volume.name != suspend]
    if moving:
        raise UsageError(
            f"thin device {origin_id} of {live.name} is active as {moving[0]}, and has to stand "
            f"still while a snapshot of it is made: suspend={moving[0]!r} sees to that"
        )
    return [] if suspend is None else [suspend]


def _refused(
    live: LivePool, error: LivePoolError, message: str, numbers: tuple[int, ...]
) -> ThinmetaError:
    """What the kernel's refusal of a message means."""
    if error.errno == errno.EEXIST:
        return DeviceExistsError(numbers[0])
    if error.errno == errno.ENODATA:
        return NoSuchDeviceError(numbers[-1])
    if error.errno == errno.EBUSY and message == "delete":
        names = [volume.name for volume in live.volumes() if volume.device_id == numbers[0]]
        where = f"active as {', '.join(names)}: deactivate it first" if names else "active"
        return DeviceInUseError(f"thin device {numbers[0]} of {live.name}", where)
    try:
        status = live.status()
    except LivePoolError:
        return error
    if status.failed is not None:
        reason = f"the pool has failed ({status.failed}): deactivate it and check its metadata"
        return LivePoolError(live.name, reason)
    full = status.free_metadata_blocks == 0
    if error.errno == errno.ENOSPC or (status.mode == "ro" and full):
        return NoSpaceError("metadata", f"{live.name}: make its metadata larger")
    if status.mode == "ro":
        reason = "the pool is read-only: deactivate it and check its metadata"
        return LivePoolError(live.name, reason, errno.EROFS)
    if message == "set_transaction_id" and status.transaction_id != numbers[0]:
        return StaleTransactionError(
            f"{live.name}: the transaction id is {status.transaction_id}, not {numbers[0]}"
        )
    return error


def refused_activation(live: LivePool, error: LivePoolError, device_id: int) -> ThinmetaError:
    """What the kernel's refusal to activate a thin device means."""
    if error.errno == errno.ENODATA:
        return NoSuchDeviceError(device_id)
    if error.errno == errno.EBUSY:
        reason = f"{error.reason}: is there a device of that name already?"
        return LivePoolError(error.pool, reason, errno.EBUSY)
    return error
