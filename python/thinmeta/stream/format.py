"""The bytes of a stream; ``docs/stream.md`` is their description.

A header, records in ascending order of their place in the volume, and an end. Nothing
here reads or writes: bytes become values, and values bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

from thinmeta._core import crc32c, decompress
from thinmeta.errors import StreamError
from thinmeta.identity import Identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from typing_extensions import Buffer

__all__ = [
    "CHECKPOINT",
    "DATA",
    "DIGEST_BYTES",
    "END",
    "HEAD_BYTES",
    "MAGIC",
    "MAX_DATA_BYTES",
    "MAX_HEADER_BYTES",
    "PREFIX_BYTES",
    "RAW",
    "UNMAP",
    "VERSION",
    "ZSTD",
    "Header",
    "Record",
    "Totals",
    "decode_head",
    "decode_prefix",
    "encode_head",
    "encode_header",
    "parse_header",
    "parse_json",
]

MAGIC = b"thinmeta-stream\n"
VERSION = 1
#: Kinds of records.
DATA: Final = 1
UNMAP: Final = 2
CHECKPOINT: Final = 3
END: Final = 4
#: How content is stored.
RAW: Final = 0
ZSTD: Final = 1

#: No header makes a reader set aside more than this.
MAX_HEADER_BYTES = 1 << 20
#: Content of one record, before it is compressed.
MAX_DATA_BYTES = 1 << 20
DIGEST_BYTES = 32
MAX_U63 = (1 << 63) - 1

#: Magic, version, length of the JSON.
_PREFIX = Struct("<16sII")
#: Kind, codec, zero, bytes of the payload, place, length; the CRC-32C follows.
_HEAD = Struct("<BBHIQQ")
_CRC = Struct("<I")
_TOTALS = Struct("<QQQQQ32s")
PREFIX_BYTES = _PREFIX.size
HEAD_BYTES = _HEAD.size + _CRC.size
_KINDS = {DATA: "data", UNMAP: "unmap", CHECKPOINT: "checkpoint", END: "end"}


@dataclass(frozen=True, slots=True)
class Header:
    """What a stream says of itself.

    Attributes:
        identity: The state that a target has afterwards.
        base: The state that it must have before; ``None``: the whole volume comes.
        resume_offset_bytes: A target has what lies before this already, from a stream that
            was cut; ``None``: everything comes.
        resumable: Whether the state can be sent again exactly: it is a snapshot.
        data_bytes: Content in the stream, before it is compressed.
        zero_bytes: How much of the volume it says to be unmapped.
        program: What made it, for people.
    """

    identity: Identity
    base: Identity | None
    resume_offset_bytes: int | None
    resumable: bool
    data_bytes: int
    zero_bytes: int
    program: str

    @property
    def begin_bytes(self) -> int:
        """Where in the volume it begins."""
        return self.resume_offset_bytes or 0

    def to_json(self) -> dict[str, Any]:
        """As what JSON can say."""
        base = None if self.base is None else self.base.to_json()
        return {
            "identity": self.identity.to_json(),
            "base": base,
            "resume_offset_bytes": self.resume_offset_bytes,
            "resumable": self.resumable,
            "data_bytes": self.data_bytes,
            "zero_bytes": self.zero_bytes,
            "program": self.program,
        }

    @classmethod
    def from_json(cls, value: object) -> Header:
        """Make one from what a stream says; fields that are not known are left alone.

        Raises:
            StreamError: That cannot be.
        """
        if not isinstance(value, dict):
            raise StreamError("the header is not an object")
        try:
            identity, base = value["identity"], value["base"]
            resume, resumable = value["resume_offset_bytes"], value["resumable"]
            data_bytes, zero_bytes = value["data_bytes"], value["zero_bytes"]
            program = value["program"]
        except KeyError as error:
            raise StreamError(f"the header has no {error.args[0]}") from error
        known = Identity.from_json(identity)
        counts = [data_bytes, zero_bytes, *([] if resume is None else [resume])]
        for count in counts:
            if type(count) is not int or not 0 <= count <= known.size_bytes:
                raise StreamError("the header has a number that cannot be")
        if (
            type(resumable) is not bool
            or not isinstance(program, str)
            or len(program) > 200
            or not program.isprintable()
        ):
            raise StreamError("the header has a value that cannot be")
        return cls(
            known,
            None if base is None else Identity.from_json(base),
            resume,
            resumable,
            data_bytes,
            zero_bytes,
            program,
        )


class Totals(NamedTuple):
    """What an end says: counts of what came before it, and the BLAKE3 of all bytes of it."""

    data_records: int
    unmap_records: int
    checkpoints: int
    data_bytes: int
    unmap_bytes: int
    digest: bytes

    def pack(self) -> bytes:
        """As an end's payload."""
        return _TOTALS.pack(*self)


class Record(NamedTuple):
    """One record, whose checksum was right and whose numbers can be.

    Attributes:
        kind: ``DATA``, ``UNMAP``, ``CHECKPOINT`` or ``END``.
        codec: How content is stored.
        offset_bytes: Its place in the volume.
        length_bytes: Of it, in the volume; bytes of the stream before it for the last two kinds.
        head: Its head as it came.
        payload: What follows the head.
    """

    kind: int
    codec: int
    offset_bytes: int
    length_bytes: int
    head: bytes
    payload: Buffer

    @property
    def end_bytes(self) -> int:
        """One past its last byte in the volume."""
        return self.offset_bytes + self.length_bytes

    def content(self, buffer: memoryview) -> memoryview:
        """The content of ``DATA``.

        Args:
            buffer: At least ``MAX_DATA_BYTES``, for what has to be decompressed.

        Raises:
            StreamError: It is not what it says.
        """
        if self.codec == RAW:
            return memoryview(self.payload)
        view = buffer[: self.length_bytes]
        decompress(self.payload, view)
        return view

    def totals(self) -> Totals:
        """What ``END`` says."""
        return Totals._make(_TOTALS.unpack(self.payload))


def encode_header(header: Header) -> bytes:
    """The first bytes of a stream."""
    text = json.dumps(header.to_json(), separators=(",", ":")).encode()
    head = _PREFIX.pack(MAGIC, VERSION, len(text)) + text
    return head + _CRC.pack(crc32c(head))


def decode_prefix(prefix: bytes) -> int:
    """How many bytes of JSON follow the first ``PREFIX_BYTES``; a CRC-32C follows those.

    Raises:
        StreamError: It is no stream, or one of another version.
    """
    magic, version, length = _PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise StreamError("this is no stream of thinmeta: it does not begin like one")
    if version != VERSION:
        raise StreamError(
            f"a stream of version {version}, and this program reads version {VERSION}: "
            "use one that is as new as the sender's, or a sender that is as old as this"
        )
    if not 0 < length <= MAX_HEADER_BYTES:
        raise StreamError(f"damaged stream: a header of {length} bytes")
    return int(length)


def parse_header(prefix: bytes, text: bytes, crc: bytes) -> Header:
    """What the header says.

    Raises:
        StreamError: It is damaged, or cannot be.
    """
    if _CRC.pack(crc32c(prefix, text)) != crc:
        raise StreamError("damaged stream: the checksum of its header is wrong")
    return Header.from_json(parse_json(text, "the header of a stream"))


def parse_json(text: bytes, what: str) -> object:
    """JSON of somebody else.

    Raises:
        StreamError: It cannot be read.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # a bad word, a long number, deep brackets
        raise StreamError(f"{what} cannot be read") from error


def encode_head(
    kind: int, offset_bytes: int, length_bytes: int, payload: Buffer = b"", codec: int = RAW
) -> bytes:
    """The head of a record with this payload."""
    with memoryview(payload) as view:
        head = _HEAD.pack(kind, codec, 0, view.nbytes, offset_bytes, length_bytes)
    return head + _CRC.pack(crc32c(head, payload))


def decode_head(head: bytes) -> tuple[int, int, int, int, int]:
    """Kind, codec, bytes of the payload, place and length of a record.

    Raises:
        StreamError: No record can be like this.
    """
    kind, codec, zero, stored, offset, length = _HEAD.unpack_from(head)
    if kind not in _KINDS:
        raise StreamError(
            f"a record of kind {kind}, which version {VERSION} does not have: the stream is "
            "damaged, or made by a newer program"
        )
    if kind == DATA:
        possible = 0 < length <= MAX_DATA_BYTES and (
            (codec == RAW and stored == length) or (codec == ZSTD and 0 < stored < length)
        )
    else:
        wanted = {UNMAP: 0, CHECKPOINT: DIGEST_BYTES, END: _TOTALS.size}[kind]
        possible = codec == RAW and stored == wanted and length > 0
    if zero or not possible or offset > MAX_U63 or length > MAX_U63:
        raise StreamError(f"a record ({_KINDS[kind]}) that cannot be")
    return kind, codec, stored, offset, length


def check_record(record: Record) -> None:
    """Compare head and payload with the checksum.

    Raises:
        StreamError: It is another one.
    """
    if _CRC.pack(crc32c(record.head[: _HEAD.size], record.payload)) != record.head[_HEAD.size :]:
        raise StreamError("the checksum of a record is wrong")
