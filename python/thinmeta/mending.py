"""Putting a pool's counts and sums right, in place."""

from __future__ import annotations

import os
from dataclasses import dataclass

from thinmeta import _core
from thinmeta.arguments import threads_argument
from thinmeta.types import CheckReport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from thinmeta.pool import Path

__all__ = ["AutoRepair", "auto_repair"]


@dataclass(frozen=True, slots=True)
class AutoRepair:
    """What was wrong with a pool, and what was put right.

    Attributes:
        before: What was found first.
        after: How the pool is now; ``None`` where nothing was put right.
        refused: Why nothing was although something is wrong.
        needs_check_cleared: Whether ``needs_check`` was set and is not any more.
    """

    before: CheckReport
    after: CheckReport | None
    refused: str | None
    needs_check_cleared: bool

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong now."""
        return (self.after or self.before).is_clean


def auto_repair(
    path: Path,
    *,
    clear_needs_check: bool = False,
    threads: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> AutoRepair:
    """Put right what a pool's trees prove: counts too high, sums, numbers of mappings.

    Only where nothing fatal is found, and so all that refers to a block is known. It is one
    transaction: what is written goes to free blocks, the whole pool is checked once more as
    it will be, and then the superblock is written. A crash at any moment leaves the pool as
    it was, or right.

    A count that is too low is not raised: its block may have been given out again since,
    and what the counts then say would hide that. :func:`thinmeta.repair` makes a new pool.

    Args:
        path: The metadata device or image, which nobody may be using.
        clear_needs_check: Clear the flag if the pool is sound then.
        threads: How many to use; ``None`` means the cores, at most 8.
        progress: Called now and then as ``progress(done, total)``.

    Returns:
        What was found and done.

    Raises:
        OSError: The path cannot be opened, read or written.
        DeviceInUseError: Somebody uses it.
        NoSpaceError: There are not enough free metadata blocks to write to; nothing changed.
        NotFormattedError: Block 0 is all zero.
        UnsupportedFormatError: It is something else, or has features that forbid a change.
        PoisonedError: A write failed; the pool is as it was, or right.
    """
    fields = auto_repair_fields(
        os.fsdecode(path),
        clear_needs_check=clear_needs_check,
        threads=threads,
        progress=progress,
    )
    after = fields["after"]
    return AutoRepair(
        before=CheckReport.from_fields(fields["before"]),
        after=None if after is None else CheckReport.from_fields(after),
        refused=fields["refused"],
        needs_check_cleared=fields["needs_check_cleared"],
    )


def auto_repair_fields(
    path: str,
    *,
    clear_needs_check: bool,
    like_1_x: bool = False,
    threads: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, Any]:
    """:func:`auto_repair`, its result as the native module gives it.

    With ``like_1_x`` what 1.x leaves alone is left alone: all counts but those of one, of
    blocks that nothing refers to, and numbers of mappings.
    """
    return _core.auto_repair(
        path,
        clear_needs_check=clear_needs_check,
        like_1_x=like_1_x,
        threads=threads_argument(threads),
        progress=progress,
    )
