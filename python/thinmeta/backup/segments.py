"""Segments: which pieces a part of a volume consists of.

A volume is cut into parts of one length, about 256 MiB. The object of a part lists its
pieces; what none of them covers is zeros. It is named by the BLAKE3 of its bytes, so that a
part that did not change is one object in all generations::

    segment   := head; positions; hashes
    head      := magic "thmsegm1", pieces u32, stored length of the positions u32
    positions := offsets u64 each, then lengths u32 each; a zstd frame if that is shorter
    hashes    := 32 bytes each

All numbers are little-endian; offsets count from the beginning of the volume, in bytes.
"""

from __future__ import annotations

import struct
import sys
from array import array

from thinmeta import _core
from thinmeta.errors import StreamError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["HASH_BYTES", "MAX_SEGMENT_BYTES", "SEGMENTS", "Segment", "segment_bytes_for"]

MAX_PIECE_BYTES = 1 << 20
HASH_BYTES = 32
SEGMENTS = "segments/"
#: About how long a part is.
TARGET_BYTES = 256 << 20
#: Pieces have at least 64 KiB, but for the last one of a volume, and parts at most 1 GiB.
MAX_PIECES = (1 << 31) // (1 << 16)

MAX_SEGMENT_BYTES = 1024 + MAX_PIECES * 44

_MAGIC = b"thmsegm1"
_HEAD = struct.Struct("<8sII")
_POSITION_BYTES = 12


def segment_bytes_for(block_bytes: int) -> int:
    """How long the parts of a volume with data blocks of that length are."""
    return max(TARGET_BYTES // block_bytes, 1) * block_bytes


class Segment:
    """The pieces of one part, in ascending order.

    Attributes:
        offsets: Where each begins in the volume, in bytes.
        lengths: How long each is, in bytes.
        hashes: 32 bytes for each.
    """

    __slots__ = ("hashes", "lengths", "offsets")

    def __init__(self, offsets: array[int], lengths: array[int], hashes: bytes) -> None:
        self.offsets, self.lengths, self.hashes = offsets, lengths, hashes

    def __len__(self) -> int:
        return len(self.offsets)

    @classmethod
    def of(cls, rows: list[tuple[int, int, bytes]]) -> Segment:
        """Of rows in any order."""
        rows.sort()
        return cls(
            array("Q", [row[0] for row in rows]),
            array("I", [row[1] for row in rows]),
            b"".join([row[2] for row in rows]),
        )

    def rows(self) -> list[tuple[int, int, bytes]]:
        """Offset, length and hash of each piece."""
        hashes = self.hashes
        return [
            (offset, length, hashes[at : at + HASH_BYTES])
            for offset, length, at in zip(
                self.offsets, self.lengths, range(0, len(hashes), HASH_BYTES), strict=True
            )
        ]

    def encode(self) -> tuple[str, bytes]:
        """Name and bytes of the object."""
        positions = _little(self.offsets) + _little(self.lengths)
        stored = _core.compress(positions) or positions
        data = _HEAD.pack(_MAGIC, len(self), len(stored)) + stored + self.hashes
        return _core.Blake3(data).digest().hex(), data

    @classmethod
    def decode(cls, name: str, data: Buffer, begin: int, end: int) -> Segment:
        """Read an object.

        Args:
            name: Its name, without a folder.
            data: Its bytes.
            begin: Where its part of the volume begins, in bytes.
            end: Where it ends.

        Raises:
            StreamError: It is damaged, or has pieces that are not in its part.
        """
        raw = bytes(data)
        if _core.Blake3(raw).digest().hex() != name:
            raise StreamError("its BLAKE3 is another one")
        if len(raw) < _HEAD.size:
            raise StreamError("it is too short")
        magic, pieces, stored = _HEAD.unpack_from(raw)
        if magic != _MAGIC:
            raise StreamError("it is no segment")
        hashes = raw[_HEAD.size + stored :]
        if not 0 < pieces <= MAX_PIECES or len(hashes) != pieces * HASH_BYTES:
            raise StreamError("its length is not what it says")
        positions: Buffer = raw[_HEAD.size : _HEAD.size + stored]
        if stored != pieces * _POSITION_BYTES:
            packed, positions = positions, bytearray(pieces * _POSITION_BYTES)
            _core.decompress(packed, positions)
        view = memoryview(positions)
        offsets, lengths = array("Q"), array("I")
        offsets.frombytes(view[: pieces * 8])
        lengths.frombytes(view[pieces * 8 :])
        if sys.byteorder == "big":
            offsets.byteswap()
            lengths.byteswap()
        at = begin
        for offset, length in zip(offsets, lengths, strict=True):
            if offset < at or not 0 < length <= MAX_PIECE_BYTES:
                raise StreamError("it has an impossible piece")
            at = offset + length
        if at > end:
            raise StreamError("it has an impossible piece")
        return cls(offsets, lengths, hashes)


def _little(numbers: array[int]) -> bytes:
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()
