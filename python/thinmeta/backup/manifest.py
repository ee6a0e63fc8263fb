"""Small documents of a repository: what it is, and what its generations are.

Each is one line of JSON that holds a value and the BLAKE3 of that value's bytes::

    {"blake3":"<64 digits>","value":{...}}

The digest is taken over the bytes from behind ``"value":`` up to the last brace, so that no
question of spelling comes up.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from thinmeta._core import Blake3
from thinmeta.errors import OtherVersionError, StreamError
from thinmeta.identity import Identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, overload

    from typing_extensions import Buffer

    from thinmeta.backup.objects import ObjectStore

__all__ = [
    "CREATED",
    "GENERATIONS",
    "MAX_DOCUMENT_BYTES",
    "VERSION",
    "SegmentRows",
    "StoredGeneration",
    "decode",
    "encode",
    "generation_of",
    "is_name",
    "read_manifest",
]

GENERATIONS = "generations/"


#: How moments are written, in UTC.
CREATED = "%Y-%m-%dT%H:%M:%SZ"
#: Of the repository's form. Nobody reads another one.
VERSION = 1
#: A manifest of a volume of a hundred TiB has half of that.
MAX_DOCUMENT_BYTES = 64 << 20
MAX_SEGMENTS = 1 << 20
MAX_TEXT = 4096

_HEAD, _MIDDLE, _END = b'{"blake3":"', b'","value":', b"}\n"
_HEX = re.compile(r"[0-9a-f]+")
_TIME = re.compile(r"[0-9]{4}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}Z")
#: Bytes of the name of an object.
HASH_BYTES = 32
_NAME = re.compile(r"[0-9]{8}-[0-9a-f]{16}")


def encode(value: dict[str, Any]) -> bytes:
    """A document's bytes."""
    body = json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode()
    return b"".join([_HEAD, Blake3(body).digest().hex().encode(), _MIDDLE, body, _END])


def decode(data: Buffer) -> dict[str, Any]:
    """A document's value.

    Raises:
        StreamError: It is damaged, or something else.
    """
    begin = len(_HEAD) + 64 + len(_MIDDLE)
    with memoryview(data) as view:
        if view.nbytes > MAX_DOCUMENT_BYTES:
            raise StreamError("it is too long")
        raw = bytes(view)
    digest, body = raw[len(_HEAD) : len(_HEAD) + 64], raw[begin : -len(_END)]
    if raw[: len(_HEAD)] != _HEAD or raw[-len(_END) :] != _END:
        raise StreamError("it does not look like one")
    if Blake3(body).digest().hex().encode() != digest:
        raise StreamError("its BLAKE3 is another one")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise StreamError("it is no JSON") from error
    if not isinstance(value, dict):
        raise StreamError("it is no JSON object")
    version = value.get("version")
    if version != VERSION:
        raise OtherVersionError(
            f"it is of version {version!r:.20}, and this thinmeta knows {VERSION}: use a newer one"
        )
    return value


def is_name(text: str) -> bool:
    """Whether that can be the name of a generation."""
    return _NAME.fullmatch(text) is not None


def generation_of(name: str) -> str | None:
    """The name of the generation whose manifest an object is; ``None`` if it is none."""
    short = name.removeprefix(GENERATIONS).removesuffix(".json")
    return short if f"{GENERATIONS}{short}.json" == name and is_name(short) else None


def read_manifest(store: ObjectStore, name: str) -> StoredGeneration:
    """Read the manifest of the generation of a name.

    Raises:
        StreamError: It is damaged.
        FileNotFoundError: It is not there.
    """
    data = store.get(f"{GENERATIONS}{name}.json", MAX_DOCUMENT_BYTES)
    return StoredGeneration.from_bytes(name, data)


class SegmentRows(Sequence[tuple[int, str, int]]):
    """Which object each part of a volume has, in 48 bytes a part: see ``segments``.

    A hundred generations of a large volume have millions of parts.

    Args:
        rows: ``(number, object, bytes)``, ascending.
    """

    __slots__ = ("_lengths", "_names", "_numbers")

    def __init__(self, rows: Iterable[tuple[int, str, int]] = ()) -> None:
        numbers, names, lengths = array("Q"), bytearray(), array("Q")
        for number, name, length in rows:
            numbers.append(number)
            names += bytes.fromhex(name)
            lengths.append(length)
        self._numbers, self._names, self._lengths = numbers, bytes(names), lengths

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[tuple[int, str, int]]:
        return (self._row(at) for at in range(len(self)))

    if TYPE_CHECKING:

        @overload
        def __getitem__(self, index: int) -> tuple[int, str, int]: ...

        @overload
        def __getitem__(self, index: slice) -> Sequence[tuple[int, str, int]]: ...

    def __getitem__(
        self, index: int | slice
    ) -> tuple[int, str, int] | Sequence[tuple[int, str, int]]:
        if isinstance(index, slice):
            return [self._row(each) for each in range(*index.indices(len(self)))]
        return self._row(range(len(self))[index])

    def _row(self, at: int) -> tuple[int, str, int]:
        name = self._names[at * HASH_BYTES : (at + 1) * HASH_BYTES].hex()
        return self._numbers[at], name, self._lengths[at]

    @property
    def total_bytes(self) -> int:
        """The sum of their bytes."""
        return sum(self._lengths)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SegmentRows):
            return NotImplemented
        return (self._numbers, self._names, self._lengths) == (
            other._numbers,
            other._names,
            other._lengths,
        )

    def __hash__(self) -> int:
        return hash((self._names, len(self)))

    def __repr__(self) -> str:
        return f"<thinmeta.backup.SegmentRows {len(self)} parts, {self.total_bytes} bytes>"


@dataclass(frozen=True, slots=True)
class StoredGeneration:
    """One generation of a volume in a repository.

    Attributes:
        name: Sequence number and id, as in ``00000007-0123456789abcdef``.
        sequence: Counts the generations of the repository; two that were made at the same
            time may have one number.
        created: When it was made: UTC, as ``2025-11-27T10:00:00Z``.
        volume: What the caller calls the volume; may be empty.
        pool: What the pool is known by: its uuid, or what the caller said.
        identity: The state that was backed up.
        piece_bytes: Into pieces of which length the volume was cut.
        segment_bytes: How much of the volume one object of ``segments`` describes.
        segments: ``(number, object, bytes)`` of each part of the volume that is not all zero:
            which one, its object, and how many bytes of it are not zero pieces.
        bookmark: The object that proves later what is unchanged, or ``None``.
        base: The generation that it was made from, or ``None`` if all was read.
        lineage: Name of the first of those that were made from one another, each with most of
            its content from the one before: what volumes without a name are known by.
        read_bytes: How much of the volume was read.
        stored_bytes: How much of that was new to the repository, before compression.
        packed_bytes: The same as it is stored.
    """

    name: str
    sequence: int
    created: str
    volume: str
    pool: str
    identity: Identity
    piece_bytes: int
    segment_bytes: int
    segments: SegmentRows
    bookmark: str | None
    base: str | None
    lineage: str
    read_bytes: int
    stored_bytes: int
    packed_bytes: int

    @property
    def created_at(self) -> datetime:
        """When it was made, in UTC."""
        return datetime.strptime(self.created, CREATED).replace(tzinfo=UTC)

    @property
    def size_bytes(self) -> int:
        """Size of the volume in bytes."""
        return self.identity.size_bytes

    @property
    def data_bytes(self) -> int:
        """How much of the volume is not zeros, counted in whole pieces."""
        return self.segments.total_bytes

    def to_json(self) -> dict[str, Any]:
        """As what JSON can say."""
        return {
            "version": VERSION,
            "name": self.name,
            "sequence": self.sequence,
            "created": self.created,
            "volume": self.volume,
            "pool": self.pool,
            "identity": self.identity.to_json(),
            "piece_bytes": self.piece_bytes,
            "segment_bytes": self.segment_bytes,
            "segments": [list(row) for row in self.segments],
            "bookmark": self.bookmark,
            "base": self.base,
            "lineage": self.lineage,
            "read_bytes": self.read_bytes,
            "stored_bytes": self.stored_bytes,
            "packed_bytes": self.packed_bytes,
        }

    @classmethod
    def from_bytes(cls, name: str, data: Buffer) -> StoredGeneration:
        """Read a manifest.

        Raises:
            StreamError: It is damaged, or not the one of that name.
        """
        value = decode(data)
        if value.get("name") != name:
            raise StreamError("it is the manifest of another generation")
        identity = Identity.from_json(value.get("identity"))
        piece, segment = _count(value, "piece_bytes"), _count(value, "segment_bytes")
        if not 0 < piece <= 1 << 20 or not 0 < segment <= 1 << 31 or segment % piece:
            raise StreamError("its sizes cannot be")
        bookmark, base = value.get("bookmark"), value.get("base")
        if bookmark is not None and not _is_hash(bookmark):
            raise StreamError("its bookmark cannot be")
        if base is not None and not (isinstance(base, str) and is_name(base)):
            raise StreamError("its base cannot be")
        lineage = value.get("lineage")
        if not isinstance(lineage, str) or not is_name(lineage):
            raise StreamError("its lineage cannot be")
        return cls(
            name=name,
            sequence=_count(value, "sequence"),
            created=_time(value, "created"),
            volume=_text(value, "volume"),
            pool=_text(value, "pool"),
            identity=identity,
            piece_bytes=piece,
            segment_bytes=segment,
            segments=_segments(value.get("segments"), identity.size_bytes, segment),
            bookmark=bookmark,
            base=base,
            lineage=lineage,
            read_bytes=_count(value, "read_bytes"),
            stored_bytes=_count(value, "stored_bytes"),
            packed_bytes=_count(value, "packed_bytes"),
        )


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and _HEX.fullmatch(value) is not None


def _count(value: dict[str, Any], key: str) -> int:
    number = value.get(key)
    if type(number) is not int or not 0 <= number < 1 << 63:
        raise StreamError(f"its {key} cannot be")
    return number


def _text(value: dict[str, Any], key: str) -> str:
    text = value.get(key)
    if not isinstance(text, str) or len(text) > MAX_TEXT or not text.isprintable():
        raise StreamError(f"its {key} cannot be")
    return text


def _time(value: dict[str, Any], key: str) -> str:
    text = _text(value, key)
    try:
        if _TIME.fullmatch(text) is None:  # strptime takes 2026-1-1, too
            raise ValueError
        datetime.strptime(text, CREATED)
    except ValueError as error:
        raise StreamError(f"its {key} cannot be") from error
    return text


def _segments(rows: object, size: int, segment_bytes: int) -> SegmentRows:
    if not isinstance(rows, list) or len(rows) > MAX_SEGMENTS:
        raise StreamError("its segments cannot be")
    found: list[tuple[int, str, int]] = []
    least = 0
    for row in rows:
        if not isinstance(row, list) or len(row) != 3:
            raise StreamError("its segments cannot be")
        number, name, length = row
        if type(number) is not int or type(length) is not int or not _is_hash(name):
            raise StreamError("its segments cannot be")
        if number < least or number * segment_bytes >= size or not 0 < length <= segment_bytes:
            raise StreamError("its segments cannot be")
        least = number + 1
        found.append((number, name, length))
    return SegmentRows(found)
