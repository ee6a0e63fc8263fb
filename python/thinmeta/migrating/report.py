"""What a migration is asked for, and what it says in the end."""

from __future__ import annotations

from typing import Literal, NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.identity import Identity

__all__ = ["MigrationReport", "Verify"]

#: How much is read back: what was copied and made zero; all of the volume; nothing.
Verify = Literal["copied", "all", "nothing"]


class MigrationReport(NamedTuple):
    """What was migrated.

    Attributes:
        target: What the destination is called.
        identity: What it holds now.
        base: What it held before, if only what has changed since was copied.
        copied_bytes: Content that was written.
        zeroed_bytes: What was unmapped or made zero; zeros that were read among it.
        verified_bytes: Content that was read back and is what the source reads.
        verified_zero_bytes: What was found to be zero, or not to be there, in the destination.
        past_cache: Whether it was read from the disk, past the page cache.
        resumed_at_bytes: Where in the volume this run began, if one before was interrupted.
        was_there: Whether the destination held it already, and nothing had to be copied.
    """

    target: str
    identity: Identity
    base: Identity | None
    copied_bytes: int
    zeroed_bytes: int
    verified_bytes: int
    verified_zero_bytes: int
    past_cache: bool
    resumed_at_bytes: int | None
    was_there: bool
