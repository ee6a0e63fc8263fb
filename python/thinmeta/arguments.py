"""Checks of arguments that several calls share."""

from __future__ import annotations

from thinmeta.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

__all__ = ["MAX_U64", "number", "snapshot_argument"]

MAX_U64 = 2**64 - 1


def snapshot_argument(value: object) -> Literal["held"] | int | None:
    """Check a ``metadata_snapshot`` argument before anything is opened."""
    if value is None or value == "held":
        return value
    if isinstance(value, str):
        raise UsageError(f"metadata_snapshot is {value!r}, not 'held', a block number or None")
    block = number(value, "metadata_snapshot", "'held', a block number or None")
    if not 0 < block <= MAX_U64:
        raise UsageError(f"no metadata snapshot can be at block {block}")
    return block


def number(value: object, name: str, wanted: str = "a number") -> int:
    """Return ``value`` if it is an integer; a bool is a mistake, not a number."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be {wanted}, not {type(value).__name__}")
    return int(value)
