"""What is copied and compared, piece by piece, and what the pieces of a copy are known by."""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from thinmeta._core import Blake3, is_zero
from thinmeta.source import Changes, Ranges
from thinmeta.stream.planning import Piece, pieces_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol

    from typing_extensions import Buffer

    from thinmeta.identity import Identity

    class Readable(Protocol):
        """What of a :class:`thinmeta.source.Generation` is needed to compare it with a copy."""

        identity: Identity

        def read_into(self, offset_bytes: int, buffer: Buffer) -> None:
            """Fill a buffer; threads may do so at the same time."""


__all__ = ["BATCH_BYTES", "Chain", "Read", "Reader", "pieces_below", "to_read"]

#: What one call of a thread reads; no piece is larger.
BATCH_BYTES = 1 << 20
_PLACE = Struct("<QQ")


class Read(NamedTuple):
    """A piece that was read.

    Attributes:
        piece: Which.
        content: What it holds; ``None`` where that is zeros.
        digest: BLAKE3 of its content; empty where nothing had to be read.
    """

    piece: Piece
    content: memoryview | None
    digest: bytes


class Reader:
    """Reads batches of pieces of a source; threads do so at once."""

    def __init__(self, source: Readable) -> None:
        self._source = source

    def read(self, batch: list[Piece]) -> list[Read]:
        """Read what has to be read.

        Raises:
            OSError: The source cannot be read.
        """
        buffer = memoryview(bytearray(sum(each.length_bytes for each in batch if each.is_data)))
        found, used = [], 0
        for piece in batch:
            if not piece.is_data:
                found.append(Read(piece, None, b""))
                continue
            content = buffer[used : used + piece.length_bytes]
            used += piece.length_bytes
            self._source.read_into(piece.offset_bytes, content)
            digest = Blake3(content).digest()
            found.append(Read(piece, None if is_zero(content) else content, digest))
        return found


class Chain:
    """One hash of many pieces: where each is, and what it holds."""

    def __init__(self) -> None:
        self._hasher = Blake3()

    def add(self, piece: Piece, digest: bytes) -> None:
        """The next piece."""
        self._hasher.update(_PLACE.pack(piece.offset_bytes, piece.length_bytes) + digest)

    def digest(self) -> bytes:
        """Of all that was added."""
        return self._hasher.digest()


def to_read(changes: Changes, *, external_origin: bool) -> Changes:
    """The same, where what is not mapped may show something else than zeros."""
    if not external_origin or not len(changes.zero):
        return changes
    everything = Ranges.of(sorted([*changes.data, *changes.zero]))
    return Changes(changes.base, everything._numbers, b"")


def pieces_below(changes: Changes, end: int) -> Iterator[Piece]:
    """What of the pieces lies before a place."""
    for piece in pieces_of(changes, 0):
        if piece.offset_bytes >= end:
            return
        yield piece._replace(length_bytes=min(piece.length_bytes, end - piece.offset_bytes))
