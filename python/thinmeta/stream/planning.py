"""What is to be sent: ranges of a volume, in the order and the pieces in which they are."""

from __future__ import annotations

from typing import NamedTuple

from thinmeta.errors import NoSuchDeviceError, WrongBaseError
from thinmeta.stream.format import MAX_DATA_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from thinmeta.bookmark import Bookmark
    from thinmeta.source import Changes, Generation

__all__ = ["Piece", "batches_of", "pieces_of", "plan", "ranges_from"]

#: What one call of a thread reads.
_BATCH_BYTES = 1 << 20
_BATCH_PIECES = 256


def plan(generation: Generation, base: int | Bookmark | None = None) -> Changes:
    """Find out what a stream would carry; no content is read.

    Args:
        generation: The state to send.
        base: What the target holds: nothing, a snapshot of the same pool by its id, or a
            bookmark of one.

    Raises:
        WrongBaseError: Nothing can be proven from this base; the message says what to do.
        StreamError: The bookmark is damaged.
        DamagedBlockError: A block of the metadata failed its check.
        OSError: The metadata cannot be read.
    """
    try:
        return generation.changes(base)
    except NoSuchDeviceError as error:
        if error.device_id != base:
            raise
        raise WrongBaseError(
            f"the base, device {base}, is not in the pool (any more): use a bookmark that was "
            "saved of it, another snapshot that the target holds, or send the whole volume"
        ) from error


class Piece(NamedTuple):
    """A stretch of the volume: content to read, at most one record of it, or none."""

    offset_bytes: int
    length_bytes: int
    is_data: bool


def ranges_from(ranges: Iterable[tuple[int, int]], start: int) -> Iterator[tuple[int, int]]:
    """What of ranges lies at or after a place."""
    for begin, length in ranges:
        if begin + length > start:
            yield max(begin, start), begin + length - max(begin, start)


def pieces_of(changes: Changes, start: int) -> Iterator[Piece]:
    """Both kinds of ranges in one ascending order, content cut to the size of a record."""
    data, zero = ranges_from(changes.data, start), ranges_from(changes.zero, start)
    content, hole = next(data, None), next(zero, None)
    while content is not None or hole is not None:
        if content is None or (hole is not None and hole[0] < content[0]):
            assert hole is not None
            yield Piece(*hole, is_data=False)
            hole = next(zero, None)
            continue
        begin, length = content
        for at in range(begin, begin + length, MAX_DATA_BYTES):
            yield Piece(at, min(MAX_DATA_BYTES, begin + length - at), is_data=True)
        content = next(data, None)


def batches_of(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Small pieces together, so that a call of a thread is worth it."""
    batch: list[Piece] = []
    count = 0
    for piece in pieces:
        read = piece.length_bytes if piece.is_data else 0
        if batch and (count + read > _BATCH_BYTES or len(batch) == _BATCH_PIECES):
            yield batch
            batch, count = [], 0
        batch.append(piece)
        count += read
    if batch:
        yield batch
