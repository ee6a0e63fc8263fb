"""Reading a stream, of which nothing is believed.

Every record is checked when it comes: its checksum, its kind, its place after the one
before, and at checkpoints and at the end the BLAKE3 of all that came. Memory is a record.
"""

from __future__ import annotations

from thinmeta._core import Blake3
from thinmeta.errors import StreamError
from thinmeta.stream.format import (
    CHECKPOINT,
    DATA,
    DIGEST_BYTES,
    END,
    HEAD_BYTES,
    PREFIX_BYTES,
    UNMAP,
    Header,
    Record,
    Totals,
    check_record,
    decode_head,
    decode_prefix,
    parse_header,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol

    class Source(Protocol):
        """What bytes are read from: a binary file, a pipe, a socket's file."""

        def read(self, size: int, /) -> bytes | None: ...


__all__ = ["StreamReader"]


class StreamReader:
    """A stream from its first byte on.

    Args:
        source: A binary file; it is read to its end, and not further than that.

    Raises:
        StreamError: It is no stream, of another version, or damaged. (So do all methods.)
        OSError: It cannot be read.

    Attributes:
        header: What the stream says of itself.
        stream_bytes: How many bytes of it have been read.
        told_bytes: Everything of the volume below this has been told.
        ended: Whether the end came, and was right.
        is_forged: Whether something was wrong though checksums were right: nothing since the
            last checkpoint, or the whole stream, is to be trusted.
        data_records: Records with content so far.
        unmap_records: Records without.
        checkpoints: Checkpoints so far.
        data_bytes: Content so far, before it was compressed.
        unmap_bytes: What was said to be unmapped so far.
    """

    def __init__(self, source: Source) -> None:
        self._source, self._hasher = source, Blake3()
        self.stream_bytes = 0
        self.ended = self.is_forged = False
        self.data_records = self.unmap_records = self.checkpoints = 0
        self.data_bytes = self.unmap_bytes = 0
        self.header = self._read_header()
        self.told_bytes = self.header.begin_bytes

    def _read(self, count: int) -> bytes:
        """Exactly so many bytes; fewer only where the stream ends."""
        found = self._source.read(count)
        if found is None:
            raise BlockingIOError("a stream cannot be read from what does not wait")
        if len(found) < count:  # a pipe gives what it has
            parts = [found]
            while found and (missing := count - sum(map(len, parts))):
                found = self._source.read(missing) or b""
                parts.append(found)
            found = b"".join(parts)
        self.stream_bytes += len(found)
        return found

    def _need(self, count: int) -> bytes:
        found = self._read(count)
        if len(found) < count:
            raise StreamError(f"the stream was cut: it ends after {self.stream_bytes} bytes")
        return found

    def _read_header(self) -> Header:
        prefix = self._read(PREFIX_BYTES)
        if not prefix:
            raise StreamError("nothing came: there is no stream (did 'thinmeta send' fail?)")
        if len(prefix) < PREFIX_BYTES:
            if not _begins_like_one(prefix):
                raise StreamError("this is no stream of thinmeta: it does not begin like one")
            raise StreamError(f"the stream was cut: it ends after {self.stream_bytes} bytes")
        length = decode_prefix(prefix)
        text, crc = self._need(length), self._need(4)
        header = parse_header(prefix, text, crc)
        for part in (prefix, text, crc):
            self._hasher.update(part)
        return header

    def records(self) -> Iterator[Record]:
        """What comes, one after the other; quietly over only after a right end.

        ``END`` itself is not given.
        """
        while not self.ended:
            begin = self.stream_bytes
            try:
                record = self._next(begin)
            except StreamError as error:
                if "was cut" in str(error):
                    raise
                raise StreamError(f"damaged stream: at byte {begin}: {error}") from error
            if record.kind != END:
                yield record

    def _next(self, begin: int) -> Record:
        head = self._need(HEAD_BYTES)
        kind, codec, stored, offset, length = decode_head(head)
        record = Record(kind, codec, offset, length, head, self._need(stored) if stored else b"")
        check_record(record)
        if kind in (DATA, UNMAP):
            self._check_place(record)
        elif kind == CHECKPOINT:
            self._check_mark(record, begin, bytes(record.payload))
            self.checkpoints += 1
        else:
            self._check_end(record, begin)
        self._hasher.update(head)
        if stored:
            self._hasher.update(record.payload)
        return record

    def _check_place(self, record: Record) -> None:
        offset, end = record.offset_bytes, record.end_bytes
        if offset < self.told_bytes:
            raise StreamError("a record for a place before the last one's end")
        if end > self.header.identity.size_bytes:
            raise StreamError("a record past the end of the volume")
        if self.header.base is None and offset != self.told_bytes:
            raise StreamError("a stream of a whole volume leaves something out")
        self.told_bytes = end
        if record.kind == DATA:
            self.data_records += 1
            self.data_bytes += record.length_bytes
        else:
            self.unmap_records += 1
            self.unmap_bytes += record.length_bytes

    def _check_mark(self, record: Record, begin: int, digest: bytes) -> None:
        if record.offset_bytes != self.told_bytes or record.length_bytes != begin:
            raise StreamError("a checkpoint or an end that belongs somewhere else")
        if digest != self._hasher.digest():
            self.is_forged = True
            raise StreamError("the BLAKE3 of what came is another one than it should be")

    def _check_end(self, record: Record, begin: int) -> None:
        size_bytes = self.header.identity.size_bytes
        if self.header.base is None and self.told_bytes != size_bytes:
            raise StreamError("a stream of a whole volume leaves something out")
        self.told_bytes = size_bytes
        totals = record.totals()
        self._check_mark(record, begin, totals.digest)
        if totals != self.totals(totals.digest):
            raise StreamError("another number of records came than were sent")
        if self._read(1):
            raise StreamError("something follows the end")
        self.ended = True

    def totals(self, digest: bytes = bytes(DIGEST_BYTES)) -> Totals:
        """What came so far."""
        return Totals(
            self.data_records,
            self.unmap_records,
            self.checkpoints,
            self.data_bytes,
            self.unmap_bytes,
            digest,
        )


def _begins_like_one(prefix: bytes) -> bool:
    from thinmeta.stream.format import MAGIC

    return prefix[: len(MAGIC)] == MAGIC[: len(prefix)]
