"""Making a stream: reading ahead and compressing in threads, writing in the caller's."""

from __future__ import annotations

import os
from collections import deque
from typing import NamedTuple

from thinmeta._core import Blake3, compress, is_zero
from thinmeta.arguments import threads_argument
from thinmeta.errors import UsageError
from thinmeta.stream.format import (
    CHECKPOINT,
    DATA,
    END,
    RAW,
    UNMAP,
    ZSTD,
    Header,
    Totals,
    encode_head,
    encode_header,
)
from thinmeta.stream.log import log
from thinmeta.stream.planning import Piece, batches_of, pieces_of, plan, ranges_from

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from typing import Protocol

    from typing_extensions import Buffer

    from thinmeta.bookmark import Bookmark
    from thinmeta.identity import Identity
    from thinmeta.source import Changes, Generation
    from thinmeta.stream.token import Token

    class Sink(Protocol):
        """What bytes are written to."""

        def write(self, data: Buffer, /) -> int | None: ...


__all__ = ["CHECKPOINT_BYTES", "SendReport", "send"]

#: So much stream, or so much of the volume that was told, between two checkpoints.
CHECKPOINT_BYTES = 64 << 20
CHECKPOINT_VOLUME_BYTES = 256 << 20
_MAX_THREADS = 8


class SendReport(NamedTuple):
    """What was sent.

    Attributes:
        identity: The state.
        base: What it was made from, or ``None``.
        data_bytes: Content that was read.
        zero_bytes: What was said to be unmapped, zeros that were read among it.
        stream_bytes: Length of the stream.
        records: How many records it has.
        resumed_at_bytes: Where in the volume it began; ``None``: it is no continuation.
    """

    identity: Identity
    base: Identity | None
    data_bytes: int
    zero_bytes: int
    stream_bytes: int
    records: int
    resumed_at_bytes: int | None


def send(
    generation: Generation,
    out: Sink,
    *,
    base: int | Bookmark | None = None,
    token: Token | str | None = None,
    level: int = 1,
    threads: int | None = None,
    flattened: bool = False,
    checkpoint_bytes: int = CHECKPOINT_BYTES,
    progress: Callable[[int, int], object] | None = None,
) -> SendReport:
    """Write a stream that makes a copy become a state of a volume.

    Only what is mapped, and with a base what may have changed since, is read.

    Args:
        generation: The state to send; it has to stand still meanwhile.
        out: A binary file, a pipe.
        base: What the target holds: nothing, a snapshot of the same pool by its id, or a
            bookmark of one.
        token: From a receiver whose stream was cut: begin where that one got to. The other
            arguments have to be as they were.
        level: Of zstd, -7 to 22; 1 is fast.
        threads: How many read and compress; ``None`` means the cores, at most 8.
        flattened: The generation has taken over what an external origin shows.
        checkpoint_bytes: How much stream there is at most between two places where a
            receiver can go on.
        progress: Called now and then as ``progress(done, total)``, in bytes of content.

    Raises:
        WrongBaseError: The base cannot be one, or the token is for another stream.
        StreamError: The token is none; a bookmark is damaged.
        UsageError: There is no such level or number of threads.
        DamagedBlockError: A block of the metadata failed its check.
        OSError: Something cannot be read or written.
    """
    from thinmeta.stream.token import Token

    count = threads_argument(threads) or min(len(os.sched_getaffinity(0)), _MAX_THREADS)
    if not -7 <= level <= 22:
        raise UsageError(f"zstd has levels from -7 to 22, and none {level}")
    if checkpoint_bytes <= 0:
        raise UsageError("there must be something between two checkpoints")
    if isinstance(token, str):
        token = Token.parse(token)
    changes = plan(generation, base)
    header = _header(generation.identity, changes, token, resumable=not flattened)
    if token is not None:
        token.check(header)
    log("sending %s", generation.identity.describe())
    writer = _Writer(out, header, checkpoint_bytes)
    pieces = pieces_of(changes, header.begin_bytes)
    zeros_are_unmapped = not generation.identity.external_origin
    encode = _Encoder(generation, level, zeros_are_unmapped).encode
    done = 0
    for records in _ahead(encode, batches_of(pieces), count):
        for record in records:
            writer.write(record)
            done += record.read_bytes
        if progress is not None:
            progress(done, header.data_bytes)
    report = writer.finish()
    log("sent %d bytes", report.stream_bytes)
    return report


def _header(
    identity: Identity, changes: Changes, token: Token | None, *, resumable: bool
) -> Header:
    from thinmeta._core import __version__

    begin = 0 if token is None else min(token.offset_bytes, identity.size_bytes)
    left = [
        sum(length for _, length in ranges_from(ranges, begin)) if begin else ranges.total_bytes
        for ranges in (changes.data, changes.zero)
    ]
    return Header(
        identity=identity,
        base=changes.base,
        resume_offset_bytes=None if token is None else begin,
        resumable=identity.is_snapshot and resumable,
        data_bytes=left[0],
        zero_bytes=left[1],
        program=f"thinmeta {__version__}",
    )


class _Record(NamedTuple):
    """What comes of it; of an unmapped stretch the head is made when all of it is known."""

    offset_bytes: int
    length_bytes: int
    codec: int
    payload: Buffer | None
    head: bytes
    read_bytes: int


class _Encoder:
    """Reads pieces and makes records of them; threads do so at once."""

    def __init__(self, generation: Generation, level: int, zeros_are_unmapped: bool) -> None:
        self._generation, self._level = generation, level
        # Where nothing is mapped an external origin shows, so that zeros have to be said.
        self._zeros_are_unmapped = zeros_are_unmapped

    def encode(self, batch: list[Piece]) -> list[_Record]:
        buffer = memoryview(bytearray(sum(each.length_bytes for each in batch if each.is_data)))
        records, used = [], 0
        for offset, length, is_data in batch:
            if not is_data:
                records.append(_Record(offset, length, RAW, None, b"", 0))
                continue
            content = buffer[used : used + length]
            used += length
            self._generation.read_into(offset, content)
            if self._zeros_are_unmapped and is_zero(content):
                records.append(_Record(offset, length, RAW, None, b"", length))
                continue
            packed = compress(content, self._level)
            codec = RAW if packed is None else ZSTD
            payload: Buffer = content if packed is None else packed
            head = encode_head(DATA, offset, length, payload, codec)
            records.append(_Record(offset, length, codec, payload, head, length))
        return records


def _ahead(
    encode: Callable[[list[Piece]], list[_Record]], batches: Iterator[list[Piece]], threads: int
) -> Iterator[list[_Record]]:
    """The results in order; a few batches are under way while one is written."""
    from concurrent.futures import ThreadPoolExecutor

    waiting: deque[Future[list[_Record]]] = deque()
    executor = ThreadPoolExecutor(threads, thread_name_prefix="thinmeta-send")
    try:
        for batch in batches:
            waiting.append(executor.submit(encode, batch))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # Nothing reads the generation any more when this returns.
        executor.shutdown(wait=True, cancel_futures=True)


class _Writer:
    """Writes records, counts and hashes them, and joins unmapped stretches."""

    def __init__(self, out: Sink, header: Header, checkpoint_bytes: int) -> None:
        self._out, self._header, self._hasher = out, header, Blake3()
        self._every = checkpoint_bytes
        self._stream_bytes = 0
        self._hole: tuple[int, int] | None = None
        self._told = header.begin_bytes
        self._data = self._unmaps = self._checkpoints = 0
        self._data_bytes = self._unmap_bytes = self._read_bytes = 0
        self._put(encode_header(header))
        self._last = (self._stream_bytes, self._told)

    def _put(self, data: Buffer) -> None:
        self._hasher.update(data)
        with memoryview(data) as view, view.cast("B") as rest:
            self._stream_bytes += len(rest)
            while rest:
                count = self._out.write(rest)
                if count is None or count >= len(rest):
                    return
                rest = rest[count:]  # a raw file takes what fits

    def write(self, record: _Record) -> None:
        self._read_bytes += record.read_bytes
        if record.payload is None:
            begin, length = self._hole or (record.offset_bytes, 0)
            if begin + length != record.offset_bytes:
                self._end_hole()
                begin, length = record.offset_bytes, 0
            self._hole = begin, length + record.length_bytes
            return
        self._end_hole()
        self._put(record.head)
        self._put(record.payload)
        self._data += 1
        self._data_bytes += record.length_bytes
        self._told = record.offset_bytes + record.length_bytes
        stream_bytes, told = self._last
        if (
            self._stream_bytes - stream_bytes >= self._every
            or self._told - told >= CHECKPOINT_VOLUME_BYTES
        ):
            self._checkpoint()

    def _end_hole(self) -> None:
        if self._hole is not None:
            (begin, length), self._hole = self._hole, None
            self._put(encode_head(UNMAP, begin, length))
            self._unmaps += 1
            self._unmap_bytes += length
            self._told = begin + length

    def _checkpoint(self) -> None:
        digest = self._hasher.digest()
        self._put(encode_head(CHECKPOINT, self._told, self._stream_bytes, digest) + digest)
        self._checkpoints += 1
        self._last = (self._stream_bytes, self._told)

    def finish(self) -> SendReport:
        self._end_hole()
        size_bytes = self._header.identity.size_bytes
        totals = Totals(
            self._data,
            self._unmaps,
            self._checkpoints,
            self._data_bytes,
            self._unmap_bytes,
            self._hasher.digest(),
        )
        payload = totals.pack()
        self._put(encode_head(END, size_bytes, self._stream_bytes, payload) + payload)
        return SendReport(
            identity=self._header.identity,
            base=self._header.base,
            data_bytes=self._read_bytes,
            zero_bytes=self._unmap_bytes,
            stream_bytes=self._stream_bytes,
            records=self._data + self._unmaps + self._checkpoints,
            resumed_at_bytes=self._header.resume_offset_bytes,
        )
