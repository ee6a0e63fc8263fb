"""Reserving and releasing metadata snapshots, and telling whose they are.

What is here is done within the critical moment of :class:`Holders`.
"""

from __future__ import annotations

import errno
from contextlib import suppress

from thinmeta import _core
from thinmeta.errors import (
    LivePoolError,
    MetadataSnapshotHeldError,
    NoMetadataSnapshotError,
    NoSpaceError,
    ThinmetaError,
)
from thinmeta.live.holders import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.live.holders import Critical, Holders, Keeper
    from thinmeta.live.pool import LivePool
    from thinmeta.live.status import LiveStatus

__all__ = [
    "check_kernel",
    "check_room",
    "foreign",
    "held_error",
    "left_behind",
    "ours",
    "release_held",
    "reserve",
    "shared",
    "working",
]

#: Before it, releasing a metadata snapshot left parts of it behind, or took too much.
OLDEST_KERNEL = (4, 4)
#: A pool that runs out of metadata becomes read-only, and then not even a release is
#: possible. Reserving takes a few blocks, and every change afterwards some more.
SPARE_METADATA_BLOCKS = 16


def check_kernel(live: LivePool) -> None:
    """Refuse kernels on which this does harm.

    Raises:
        LivePoolError: It is older than 4.4.
    """
    version = live.kernel_version
    if version < OLDEST_KERNEL:
        reason = (
            f"metadata snapshots are unsafe on Linux {'.'.join(map(str, version))}: releasing "
            "them leaks or frees too much before 4.4; read the pool while it is not active"
        )
        raise LivePoolError(live.name, reason, errno.EOPNOTSUPP)


def working(live: LivePool) -> LiveStatus:
    """The status of a pool that answers.

    Raises:
        LivePoolError: It has failed.
    """
    status = live.status()
    if status.failed is not None:
        reason = f"the pool has failed ({status.failed}): deactivate it and check its metadata"
        raise LivePoolError(live.name, reason)
    return status


def ours(live: LivePool, holders: Holders, status: LiveStatus) -> Record | None:
    """What was written down about the snapshot that is held, if it is ours."""
    record = holders.record()
    if record is None or status.held_root is None or not record.reserved:
        return None
    if record.held_root is None:  # we were killed before we had seen it
        return record
    if record.held_root != status.held_root:
        return None
    if record.checksum is not None:
        checksum = _checksum(live, status.held_root)
        if checksum is not None and checksum != record.checksum:
            return None  # the block was used again, for another one
    return record


def _checksum(live: LivePool, held_root: int) -> int | None:
    """The checksum in the block of a held snapshot; ``None`` if it cannot be read."""
    try:
        native = _core.Pool(
            live.metadata_path, metadata_snapshot=held_root, data=None, cache_bytes=1 << 20
        )
    except (OSError, ThinmetaError):
        return None
    try:
        found: int = native.superblock()["csum"]
    finally:
        native.close()
    return found


def reserve(
    live: LivePool, holders: Holders, critical: Critical, status: LiveStatus, keeper: Keeper
) -> int:
    """Reserve one and write down that it is ours; within the critical moment.

    Returns:
        Its metadata block.
    """
    check_room(live, status)
    live.refresh()
    live.check_nodes(data=False)
    proof = holders.write(Record(keeper, None, None, reserved=False))
    try:
        live.tell("reserve_metadata_snap", keep=(critical.lock,), proof=proof)
    except LivePoolError as error:
        # Killed in the middle, it may have reserved one: then the record says so.
        record = holders.record()
        if record is not None and record.reserved:
            release_held(live, holders)
        holders.forget()
        raise _refused(live, error) from error
    finally:
        holders.done(proof)
    try:
        held = working(live).held_root
        if held is None:
            reason = "the metadata snapshot was released by somebody else at once; try again"
            raise NoMetadataSnapshotError(live.name, reason)
        holders.note(Record(keeper, held, _checksum(live, held), reserved=True))
    except BaseException:
        with suppress(LivePoolError):
            release_held(live, holders)
        raise
    return held


def check_room(live: LivePool, status: LiveStatus) -> None:
    """Refuse before the kernel would have to.

    Raises:
        NoSpaceError: There is too little metadata left.
        LivePoolError: The pool is read-only.
    """
    free = status.free_metadata_blocks
    if free is not None and free < SPARE_METADATA_BLOCKS:
        reason = (
            f"{live.name} has {free} metadata blocks left, and a metadata snapshot wants "
            f"{SPARE_METADATA_BLOCKS}: make its metadata larger"
        )
        raise NoSpaceError("metadata", f"{reason} ({_grow_words(live)})")
    if status.mode == "ro":
        raise LivePoolError(live.name, _READ_ONLY, errno.EROFS)


_READ_ONLY = (
    "the pool is read-only and takes no messages: deactivate it, check its metadata and read them "
    "as they are"
)


def _grow_words(live: LivePool) -> str:
    if live.lvm is not None:
        return f"lvextend --poolmetadatasize +SIZE {live.lvm.full_name}"
    return "grow the metadata device, and reload the pool"


def _refused(live: LivePool, error: LivePoolError) -> Exception:
    """What a refused reservation means."""
    try:
        status = live.status()
    except LivePoolError:
        return error
    if error.errno == errno.EBUSY and status.held_root is not None:
        return foreign(live, status.held_root)
    if error.errno == errno.ENOSPC or (status.mode == "ro" and status.free_metadata_blocks == 0):
        return NoSpaceError("metadata", f"{live.name}: {_grow_words(live)}")
    if status.mode == "ro":
        return LivePoolError(live.name, _READ_ONLY, errno.EROFS)
    return error


def release_held(live: LivePool, holders: Holders) -> None:
    """Let the kernel release what is held, and forget about it.

    Raises:
        LivePoolError: It refuses; the record stays.
    """
    try:
        live.tell("release_metadata_snap")
    except LivePoolError as error:
        raise left_behind(live, error) from error
    holders.forget()


def left_behind(live: LivePool, error: LivePoolError) -> LivePoolError:
    """What is to be done about a snapshot that cannot be released now."""
    reason = (
        f"the metadata snapshot could not be released: {error.reason}; while it is held, nothing "
        f"that it refers to becomes free: when the pool works again, 'thinmeta live release "
        f"--stale {live.name}', or while it is not active 'thinmeta release-snapshot META'"
    )
    return LivePoolError(live.name, reason, error.errno or errno.EIO)


def held_error(held_root: int, message: str) -> MetadataSnapshotHeldError:
    """An error that knows which snapshot it is about."""
    error = MetadataSnapshotHeldError(message)
    error.held_root = held_root
    return error


def foreign(live: LivePool, held_root: int) -> MetadataSnapshotHeldError:
    """The error for a snapshot that is not ours."""
    return held_error(
        held_root,
        f"{live.name}: somebody else's tool holds a metadata snapshot (block {held_root}): wait "
        "until it is done, or read that one (adopt=True, -m); if nobody uses it any more, 'dmsetup "
        f"message {live.name} 0 release_metadata_snap' releases it",
    )


def shared(live: LivePool, held_root: int, keeper: Keeper) -> MetadataSnapshotHeldError:
    """The error for a snapshot of ours that somebody still needs."""
    if keeper == "command":
        words = f"it was reserved by a command: 'thinmeta live release {live.name}' releases it"
    else:
        words = "a process that runs reads it, and releases it when it is done: try again later"
    return held_error(
        held_root,
        f"{live.name}: thinmeta holds a metadata snapshot already (block {held_root}); {words}",
    )
