"""What a backup has to do to each part of a volume, from what has changed.

Changes come as ranges of any length, in ascending order, and there may be millions. They
are taken one by one, cut at the borders of the parts (``segments.py``) and rounded to whole
pieces: a piece that has changed in part is read whole.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import merge
from itertools import chain

from thinmeta.source import Ranges

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from thinmeta.source import Changes, Generation

    Pairs = Iterable[tuple[int, int]]

__all__ = ["Part", "Work", "parts", "piece_bytes_for", "work_for"]

SECTOR_BYTES = 512
#: All sizes of data blocks are multiples of it.
UNIT_BYTES = 64 << 10
MAX_PIECE_BYTES = 1 << 20

_READ, _DROP = 0, 1


def piece_bytes_for(block_bytes: int) -> int:
    """The longest piece that fits a whole number of times into a data block."""
    units, most = block_bytes // UNIT_BYTES, MAX_PIECE_BYTES // UNIT_BYTES
    if units == 0 or block_bytes % UNIT_BYTES:
        return block_bytes  # no pool has such blocks
    return max(each for each in range(1, most + 1) if units % each == 0) * UNIT_BYTES


@dataclass(slots=True)
class Part:
    """One part of the volume, in which something has changed.

    Attributes:
        number: Which one.
        read: ``(begin, end)`` of what has to be read, in bytes, ascending, whole pieces.
        drop: The same of what is zeros now; may overlap ``read``, and reach past the end of a
            volume that was shrunk.
    """

    number: int
    read: list[tuple[int, int]] = field(default_factory=list)
    drop: list[tuple[int, int]] = field(default_factory=list)


@dataclass(slots=True)
class Work:
    """What there is to do; ranges are ``(begin_bytes, length_bytes)``.

    Attributes:
        read: What has to be read.
        drop: What is zeros now.
        read_bytes: How much has to be read, about.
    """

    read: Pairs
    drop: Pairs
    read_bytes: int


def work_for(generation: Generation, changes: Changes, base_bytes: int | None, piece: int) -> Work:
    """What there is to do to get from a base to a generation.

    Where the volume was shrunk or grown, the base's pieces end elsewhere than the new ones:
    from the piece on in which the shorter one ends, everything mapped is read.

    Args:
        generation: The state to back up.
        changes: What its ``changes`` said.
        base_bytes: The size of the base; ``None`` where there is none.
        piece: Length of a piece in bytes.
    """
    size = generation.identity.size_bytes
    read, zero = changes.data, changes.zero
    if base_bytes is None:
        return Work(read, (), changes.data_bytes)
    if base_bytes == size:
        return Work(read, zero, changes.data_bytes)
    border = min(base_bytes, size) // piece * piece
    beyond = _clip(generation.changes(None).data, border, size)
    new = Ranges.of(chain(_clip(read, 0, border), beyond))
    # Up to the longer end: pieces beyond the new one go, too.
    rest = border, max(base_bytes, size) - border
    return Work(new, chain(_clip(zero, 0, border), [rest]), new.total_bytes)


def parts(work: Work, size: int, piece: int, part_bytes: int) -> Iterator[Part]:
    """The parts of a volume in which something is to be done, in ascending order.

    Args:
        work: What there is to do.
        size: Size of the volume in bytes.
        piece: Length of a piece.
        part_bytes: Length of a part; whole pieces.
    """
    part: Part | None = None
    done = 0  # what was read up to where: ranges that were rounded may overlap
    end = -(-size // part_bytes) * part_bytes
    read, drop = _read_ranges(work.read, size, piece), _drop_ranges(work.drop, size, piece, end)
    for begin, end, kind in merge(_cut(read, part_bytes), _cut(drop, part_bytes)):
        if kind == _READ:
            begin, done = max(begin, done), max(end, done)
            if begin >= end:
                continue
        number = begin // part_bytes
        if part is None or part.number != number:
            if part is not None:
                yield part
            part = Part(number)
        (part.read if kind == _READ else part.drop).append((begin, end))
    if part is not None:
        yield part


def _cut(ranges: Iterator[tuple[int, int, int]], part_bytes: int) -> Iterator[tuple[int, int, int]]:
    """Cut at the borders of parts, before they are merged: none holds up what comes after."""
    for begin, end, kind in ranges:
        while begin < end:
            border = min(end, (begin // part_bytes + 1) * part_bytes)
            yield begin, border, kind
            begin = border


def _read_ranges(ranges: Pairs, size: int, piece: int) -> Iterator[tuple[int, int, int]]:
    for begin, length in ranges:
        yield begin // piece * piece, min(-(-(begin + length) // piece) * piece, size), _READ


def _drop_ranges(
    ranges: Pairs, size: int, piece: int, limit: int
) -> Iterator[tuple[int, int, int]]:
    """Whole pieces only; what is zeros in a part of a piece is read, and found to be."""
    for begin, length in ranges:
        end = min(begin + length, limit)
        first = -(-begin // piece) * piece
        last = end if end >= size else end // piece * piece
        if begin < first:
            yield begin // piece * piece, min(first, size), _READ
        if first < last:
            yield first, last, _DROP
        if max(first, last) < end:
            yield last, min(last + piece, size), _READ


def _clip(ranges: Pairs, begin: int, end: int) -> Iterator[tuple[int, int]]:
    for first, length in ranges:
        low, high = max(first, begin), min(first + length, end)
        if low < high:
            yield low, high - low
