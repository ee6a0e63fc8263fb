"""``thinmeta delta --format borg-map`` and ``rbd-diff``: hints for other backup programs."""

from __future__ import annotations

import errno

from thinmeta.cli.options import size
from thinmeta.cli.output import write_error, write_text
from thinmeta.cli.progress import progress
from thinmeta.cli.still import live_size, still_volume
from thinmeta.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.bookmark import Bookmark
    from thinmeta.cli.options import Parsed
    from thinmeta.cli.pools import Source
    from thinmeta.live import LiveVolume
    from thinmeta.pool import Pool

__all__ = ["HINTS", "write_hints"]

HINTS = ("borg-map", "rbd-diff")


def write_hints(parsed: Parsed, source: Source, left: int | Bookmark | None, right: int) -> None:
    """Print them.

    Args:
        parsed: The command line.
        source: The pool.
        left: What the other program has: a snapshot, what it was, or nothing.
        right: What it is going to read.

    Raises:
        UsageError: The size is needed, and nobody knows it.
        WrongBaseError: ``left`` proves nothing, or shows something else where nothing is mapped.
        DeviceInUseError: ``right`` can be written to while it is read.
        LivePoolError: It is not active.
    """
    from dataclasses import replace

    from thinmeta import hints
    from thinmeta.source import device_changes, identity_of_device

    form = parsed.value("format")
    given = parsed.value("size")
    size_bytes = None if given is None else size(given, "--size")
    known = parsed.value("left-size")
    left_bytes = None if known is None else size(known, "--left-size")
    origin = parsed.has("external-origin")
    if source.live is not None:
        active = still_volume(source.live, right)
        if active is None:
            from thinmeta.errors import LivePoolError

            reason = (
                f"thin device {right} is not active: activate it read-only, as it is to be read; "
                "only then its size is known, and whether anything shows where nothing is mapped"
            )
            raise LivePoolError(source.live.name, reason, errno.ENODEV)
        if size_bytes is None:
            size_bytes = active.size_bytes
        if isinstance(left, int):
            before = source.live.find_volume(left)
            _check_origins(left, before, active)
            if left_bytes is None:
                left_bytes = live_size(source.live, left, before)
        origin = origin or active.external_origin is not None
    if size_bytes is None and form == "borg-map":
        raise UsageError(
            "delta: --size is missing: borg's map covers all of the volume, and a pool does not "
            "know how large that is (blockdev --getsize64, or lvs --units b, tells)"
        )
    with source.reading() as pool, progress("comparing") as report:
        identity = identity_of_device(pool, right, external_origin=origin)
        mapped_bytes = identity.size_bytes
        if size_bytes is not None:
            identity = replace(identity, size_bytes=size_bytes, size_is_known=True)
            if mapped_bytes - size_bytes >= pool.superblock.data_block_size_bytes:
                _tell_of_more(right, mapped_bytes, size_bytes)
        elif origin:
            raise UsageError("delta: --size is missing: what shows past the last block is data")
        else:
            identity = replace(identity, size_bytes=max(mapped_bytes, _mapped_bytes(pool, left)))
        changes = device_changes(pool, right, identity, left, progress=report)
        if form == "borg-map" and left is not None and not identity.external_origin:
            # What maps nothing is zeros, whatever has become of LEFT: a discard leaves no trace.
            whole = device_changes(pool, right, identity, None, progress=report)
            changes = hints.with_holes(changes, whole)
        if source.live is not None:
            still_volume(source.live, right)  # somebody may have come meanwhile
    make = hints.borg_map if form == "borg-map" else hints.rbd_diff
    for part in make(changes, identity, base_bytes=left_bytes):
        write_text(part)


def _check_origins(left: int, before: LiveVolume | None, now: LiveVolume) -> None:
    """Where neither maps anything both show their origins: that has to be one and the same."""
    if before is not None and before.external_origin != now.external_origin:
        from thinmeta.errors import WrongBaseError

        raise WrongBaseError(
            f"device {left} shows {before.external_origin or 'zeros'} where nothing is mapped, and "
            f"device {now.device_id} shows {now.external_origin or 'zeros'}: take --full"
        )


def _tell_of_more(device_id: int, mapped_bytes: int, size_bytes: int) -> None:
    """Who gives a wrong size by mistake should notice: benji does not."""
    write_error(
        f"thinmeta: warning: device {device_id} has blocks up to byte {mapped_bytes}, past its "
        f"size of {size_bytes}, which are left out: it was shrunk, or the size is wrong\n"
    )


def _mapped_bytes(pool: Pool, side: int | Bookmark | None) -> int:
    """Where the last mapped block ends."""
    if side is None:
        return 0
    if isinstance(side, int):
        from thinmeta.source import identity_of_device

        return identity_of_device(pool, side).size_bytes
    return side.end_blocks * pool.superblock.data_block_size_bytes
