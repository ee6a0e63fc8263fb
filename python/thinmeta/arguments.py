"""Checks of arguments that several calls share."""

from __future__ import annotations

from thinmeta.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

__all__ = [
    "MAX_U32",
    "MAX_U64",
    "cache_argument",
    "mode_argument",
    "number",
    "optional_number",
    "snapshot_argument",
    "threads_argument",
]

MAX_U32 = 2**32 - 1
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


def mode_argument(mode: object) -> None:
    """Check a ``mode`` argument."""
    if mode not in ("r", "r+"):
        raise UsageError(f"mode is {mode!r}, not 'r' or 'r+'")


def threads_argument(value: object) -> int | None:
    """Check a ``threads`` argument."""
    if value is None:
        return None
    threads = number(value, "threads", "a number or None")
    if not 0 < threads <= MAX_U64:
        raise UsageError(f"threads is {threads}; at least 1 is needed, or None to let us choose")
    return threads


def cache_argument(value: object) -> int:
    """Check a ``cache_bytes`` argument."""
    cache_bytes = number(value, "cache_bytes")
    if not 0 <= cache_bytes <= MAX_U64:
        raise UsageError(f"no cache can have {cache_bytes} bytes")
    return cache_bytes


def optional_number(value: object, name: str, most: int) -> int | None:
    """Check a number that may be missing: 0 to ``most``."""
    if value is None:
        return None
    found = number(value, name, "a number or None")
    if not 0 <= found <= most:
        raise UsageError(f"{name} is {found}; it is 0 to {most}")
    return found


def number(value: object, name: str, wanted: str = "a number") -> int:
    """Return ``value`` if it is an integer; a bool is a mistake, not a number."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be {wanted}, not {type(value).__name__}")
    return int(value)
