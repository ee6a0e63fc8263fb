"""Looking into a stream without a target."""

from __future__ import annotations

from typing import NamedTuple

from thinmeta.stream.format import CHECKPOINT, DATA, MAX_DATA_BYTES
from thinmeta.stream.reader import StreamReader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from thinmeta.stream.format import Header
    from thinmeta.stream.reader import Source

__all__ = ["StreamSummary", "inspect", "verify"]


class StreamSummary(NamedTuple):
    """What is in a stream.

    Attributes:
        header: What it says of itself.
        stream_bytes: Its length.
        data_records: Records with content.
        unmap_records: Records that say that a range is not mapped.
        checkpoints: Places where a receiver can go on.
        data_bytes: Content, before it was compressed.
        stored_bytes: The same as it is in the stream.
        unmap_bytes: What is said to be unmapped.
    """

    header: Header
    stream_bytes: int
    data_records: int
    unmap_records: int
    checkpoints: int
    data_bytes: int
    stored_bytes: int
    unmap_bytes: int


def inspect(
    stream: Source,
    *,
    record: Callable[[str, int, int, int], object] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> StreamSummary:
    """Read a stream from beginning to end, all of its checksums, and count.

    Args:
        stream: A binary file.
        record: Called for each record as ``record(kind, offset_bytes, length_bytes,
            stored_bytes)``; the kinds are ``"data"``, ``"unmap"`` and ``"checkpoint"``.
        progress: Called now and then as ``progress(done, total)``, in bytes of content.

    Raises:
        StreamError: It is no stream, is damaged, cut, or of another version.
        OSError: It cannot be read.
    """
    return _examine(stream, record, progress, unpack=False)


def verify(
    stream: Source, *, progress: Callable[[int, int], object] | None = None
) -> StreamSummary:
    """The same, and decompress everything: a receiver would take it.

    Raises:
        StreamError: It is no stream, is damaged, cut, or of another version.
        OSError: It cannot be read.
    """
    return _examine(stream, None, progress, unpack=True)


def _examine(
    stream: Source,
    record: Callable[[str, int, int, int], object] | None,
    progress: Callable[[int, int], object] | None,
    *,
    unpack: bool,
) -> StreamSummary:
    reader = StreamReader(stream)
    buffer = memoryview(bytearray(MAX_DATA_BYTES))
    stored_bytes = 0
    for each in reader.records():
        stored = memoryview(each.payload).nbytes
        kind = "unmap"
        if each.kind == DATA:
            kind, stored_bytes = "data", stored_bytes + stored
            if unpack:
                each.content(buffer)
            if progress is not None:
                progress(reader.data_bytes, reader.header.data_bytes)
        elif each.kind == CHECKPOINT:
            kind = "checkpoint"
        if record is not None:
            length = 0 if kind == "checkpoint" else each.length_bytes
            record(kind, each.offset_bytes, length, stored)
    return StreamSummary(
        header=reader.header,
        stream_bytes=reader.stream_bytes,
        data_records=reader.data_records,
        unmap_records=reader.unmap_records,
        checkpoints=reader.checkpoints,
        data_bytes=reader.data_bytes,
        stored_bytes=stored_bytes,
        unmap_bytes=reader.unmap_bytes,
    )
