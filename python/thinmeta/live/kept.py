"""Metadata snapshots that stay when the process ends; and who holds the one that there is."""

from __future__ import annotations

from thinmeta.errors import LivePoolError, NoMetadataSnapshotError
from thinmeta.live.held import (
    check_kernel,
    check_room,
    foreign,
    held_error,
    ours,
    release_held,
    reserve,
    shared,
    working,
)
from thinmeta.live.holders import Holders
from thinmeta.live.programs import finish
from thinmeta.live.snapshots import MUTEX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from thinmeta.live.pool import LivePool
    from thinmeta.live.status import LiveStatus

    Holder = Literal["nobody", "process", "command", "stale", "other", "unknown"]

__all__ = ["holder", "release_kept", "reserve_kept"]


def reserve_kept(live: LivePool, *, dry_run: bool = False) -> int | None:
    """Reserve one that stays until :func:`release_kept`, also when this process ends.

    Returns:
        Its metadata block; ``None`` for a dry run, that could do it.
    """

    def work() -> int | None:
        check_kernel(live)
        holders = Holders(live.name, live.identity)
        with MUTEX.it, holders.critical() as critical:
            status = working(live)
            if status.held_root is not None:
                record = ours(live, holders, status)
                if record is None:
                    raise foreign(live, status.held_root)
                descriptor, alone = holders.enter()
                holders.leave(descriptor)
                if not alone or record.keeper == "command":
                    raise shared(live, status.held_root, record.keeper)
                if not dry_run:
                    release_held(live, holders)
                    status = working(live)
            if dry_run:
                check_room(live, status)
                return None
            return reserve(live, holders, critical, status, "command")

    return finish(work)


def release_kept(live: LivePool, *, stale: bool, dry_run: bool = False) -> bool:
    """Release what :func:`reserve_kept` has reserved, or what a dead process has left.

    Returns:
        Whether it is released now, or would be.
    """

    def work() -> bool:
        holders = Holders(live.name, live.identity)
        with MUTEX.it, holders.critical():
            status = working(live)
            if status.held_root is None:
                if stale:
                    return False
                raise NoMetadataSnapshotError(live.name)
            record = ours(live, holders, status)
            if record is None:
                raise foreign(live, status.held_root)
            descriptor, alone = holders.enter()
            holders.leave(descriptor)
            is_stale = alone and record.keeper == "process"
            if stale:
                if is_stale and not dry_run:
                    release_held(live, holders)
                return is_stale
            if is_stale:
                raise held_error(
                    status.held_root,
                    f"{live.name}: the metadata snapshot was left by a process that was killed: "
                    f"'thinmeta live release --stale {live.name}' releases it",
                )
            if record.keeper == "process":
                raise shared(live, status.held_root, record.keeper)
            if dry_run:
                pass
            elif alone:
                release_held(live, holders)
            else:  # the last of those who read it does
                holders.note(record._replace(keeper="process"))
            return alone

    return finish(work)


def holder(live: LivePool, status: LiveStatus) -> Holder:
    """Who holds the metadata snapshot that a status speaks of.

    Returns:
        ``"nobody"``; ``"process"`` of thinmeta that runs, ``"stale"`` for one that was
        killed, ``"command"`` for :func:`reserve_kept`; ``"other"`` for somebody else's
        tool; ``"unknown"`` where our own records cannot be read.
    """
    if status.held_root is None:
        return "nobody"
    holders = Holders(live.name, live.identity)
    try:
        if not holders.has_record():  # nothing is made for the sake of a look
            return "other"
        with MUTEX.it, holders.critical():
            record = ours(live, holders, status)
            if record is None:
                return "other"
            if record.keeper == "command":
                return "command"
            descriptor, alone = holders.enter()
            holders.leave(descriptor)
            return "stale" if alone else "process"
    except LivePoolError:
        return "unknown"
