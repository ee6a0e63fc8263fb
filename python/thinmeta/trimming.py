"""Free data blocks of a pool, given up: holes in an image, discards on a device."""

from __future__ import annotations

import os
from dataclasses import dataclass

from thinmeta import _core
from thinmeta.errors import UsageError
from thinmeta.files import is_same_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from thinmeta.pool import Path

__all__ = ["FreeRange", "Trimmed", "trim"]


@dataclass(frozen=True, slots=True)
class FreeRange:
    """Data blocks side by side that nobody uses.

    Attributes:
        begin_block: First of them.
        end_block: One past the last.
    """

    begin_block: int
    end_block: int


@dataclass(frozen=True, slots=True)
class Trimmed:
    """What a trim gave up, or would.

    Attributes:
        block_bytes: Size of a data block.
        data_blocks: Data blocks of the pool.
        used_blocks: Of these, how many some device maps, or one of the metadata snapshot.
        leaked_blocks: How many nobody maps, and yet the space map has in use: they were left
            alone. ``thinmeta check --auto-repair`` makes them free.
        discarded_blocks: How many were given up: the rest.
        ranges: In which ranges that do not touch, the first 64.
        ranges_total: How many there are in all.
        dry_run: Nothing was given up; this is what would be.
    """

    block_bytes: int
    data_blocks: int
    used_blocks: int
    leaked_blocks: int
    discarded_blocks: int
    ranges: tuple[FreeRange, ...]
    ranges_total: int
    dry_run: bool

    @property
    def discarded_bytes(self) -> int:
        """How much was given up; some of it may have been a hole already."""
        return self.discarded_blocks * self.block_bytes


def trim(
    path: Path,
    data: Path | None,
    *,
    dry_run: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Trimmed:
    """Give up the data blocks of an inactive pool that are free.

    In an image they become holes; of a device they are discarded. The metadata are checked
    first, as :func:`thinmeta.check` does, and a block counts as free only if nothing in them
    leads to it, the metadata snapshot included, and if the space map says so as well. Nothing
    else is touched: a run that is stopped or killed has only done less.

    The metadata have to be those of the data, as they are now. What old copies of them call
    free may be in use.

    Args:
        path: The pool's metadata, a device or an image, which nobody may be using.
        data: Its data device or image, which nobody may be using. ``None`` only in a dry run.
        dry_run: Say what would be given up, and change nothing.
        progress: Called now and then as ``progress(done, total)``, in bytes; both are 0 while
            the metadata are checked.

    Returns:
        How much was given up, and where.

    Raises:
        UnsoundPoolError: Something fatal is wrong with the metadata.
        ReadOnlyError: ``needs_check`` is set: check the pool first, which clears it.
        DamagedBlockError: The superblock is damaged.
        NotFormattedError: Block 0 is all zero.
        UnsupportedFormatError: It is something else.
        UsageError: The data are shorter than the pool says, or are the metadata.
        DeviceInUseError: Somebody uses one of the two.
        OSError: One of them cannot be read, or the other gives nothing up.
    """
    return trim_like(path, data, dry_run=dry_run, like_1_x=False, progress=progress)


def trim_like(
    path: Path,
    data: Path | None,
    *,
    dry_run: bool = False,
    like_1_x: bool = True,
    progress: Callable[[int, int], object] | None = None,
) -> Trimmed:
    """:func:`trim`, or with ``like_1_x`` what the peers do.

    They do not mind ``needs_check``, and refuse a pool that has leaked blocks.
    """
    source = os.fsdecode(path)
    where = None if data is None else os.fsdecode(data)
    if where is None and not dry_run:
        raise UsageError("the pool's data are needed to give anything up")
    if where is not None and os.path.exists(source) and is_same_file(os.stat(source), where):
        raise UsageError(f"{where} is the metadata, not the data")
    # The check counts in something else than bytes.
    checking = None if progress is None else lambda _done, _total: progress(0, 0)
    planned = _core.Trim(source, like_1_x=like_1_x, progress=checking)
    try:
        if where is not None and dry_run:
            planned.check_data(where)
        elif where is not None:
            planned.run(where, progress=progress)
        fields = planned.outlook()
    finally:
        # A traceback would keep it, and with it the claim to the metadata.
        del planned
    ranges = tuple(FreeRange(*each) for each in fields.pop("ranges"))
    return Trimmed(**fields, ranges=ranges, dry_run=dry_run)
