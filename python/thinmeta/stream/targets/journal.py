"""A journal: what has to be done to a target, complete and checked before it is begun.

A file with 16 bytes that say what it is, 16 that say whose, and the records of the stream
as they came. A target is changed only when all of it is there and durable, and from then on
a crash is mended by doing all of it again.
"""

from __future__ import annotations

import os
from contextlib import suppress

from thinmeta.errors import StreamError, UsageError
from thinmeta.stream.format import (
    DATA,
    HEAD_BYTES,
    MAX_DATA_BYTES,
    UNMAP,
    Record,
    check_record,
    decode_head,
    encode_head,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from typing_extensions import Buffer

    from thinmeta.stream.sidecar import Work
    from thinmeta.stream.targets.base import Begin
    from thinmeta.stream.targets.media import Medium

__all__ = ["Journal", "apply", "new_mark", "reserve"]

HEAD = b"thinmeta-journal"
_MARK_BYTES = 16
_BEGIN = len(HEAD) + _MARK_BYTES
_BUFFER_BYTES = 1 << 20


def new_mark() -> str:
    """What a journal is known by."""
    return os.urandom(_MARK_BYTES).hex()


class Journal:
    """A journal that is being written.

    Args:
        descriptor: The file, open and locked; it is closed with this.
        work: What is gathered; its ``path`` is the file's.
        begin: How: ``"anew"``, ``"resume"`` at the last checkpoint, or to ``"drop"`` it.

    Raises:
        StreamError: What is to be continued is not there.
        UsageError: Something else is there.
    """

    def __init__(self, descriptor: int, work: Work, begin: Begin) -> None:
        # It is closed by whoever has this object.
        self._file = open(descriptor, "r+b", buffering=_BUFFER_BYTES)  # noqa: SIM115
        self._path = work.path
        try:
            found = os.pread(descriptor, len(HEAD), 0)
            if found != HEAD[: len(found)]:
                raise UsageError(f"{work.path} is no journal, and is in the way: remove it")
            if begin == "anew":
                self._file.truncate(0)
                self._file.write(HEAD + bytes.fromhex(work.mark))
            elif begin == "resume":
                if not _is_sound(descriptor, work):
                    raise _lost(work.path)
                self._file.truncate(work.length_bytes)
                self._file.seek(work.length_bytes)
        except BaseException:
            self._file.close()
            raise

    def write(self, record: Record | None, offset_bytes: int, content: memoryview) -> None:
        """Take content, compressed as it came."""
        if record is None:
            head = encode_head(DATA, offset_bytes, content.nbytes, content)
            self._put(head, content)
        else:
            self._put(record.head, record.payload)

    def unmap(self, offset_bytes: int, length_bytes: int) -> None:
        """Take notice of a range."""
        self._put(encode_head(UNMAP, offset_bytes, length_bytes))

    def _put(self, *parts: Buffer) -> None:
        try:
            for part in parts:
                self._file.write(part)
        except OSError as error:
            error.filename = self._path
            raise

    def flush(self, work: Work) -> None:
        """Make all durable that came."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            error.filename = self._path
            raise
        work.length_bytes = self._file.tell()

    def seal(self, work: Work) -> None:
        """The same, with nothing to follow."""
        self.flush(work)

    def cut(self, work: Work) -> None:
        """Leave out what came after the last checkpoint."""
        with suppress(OSError):
            self._file.flush()
        os.ftruncate(self._file.fileno(), work.length_bytes)

    def drop(self, work: Work) -> None:
        """Take it away."""
        with suppress(FileNotFoundError):
            os.unlink(work.path)

    def close(self) -> None:
        """Let go of it."""
        # What a full disk did not take is not to be tried again.
        with suppress(OSError):
            self._file.close()


def _is_sound(descriptor: int, work: Work) -> bool:
    begin = os.pread(descriptor, _BEGIN, 0)
    long_enough = os.fstat(descriptor).st_size >= work.length_bytes
    return begin == HEAD + bytes.fromhex(work.mark) and long_enough


def _lost(path: str) -> StreamError:
    return StreamError(
        f"{path}: the journal is not there any more, or is another one: send the whole volume"
    )


def apply(work: Work, medium: Medium) -> None:
    """Do what a complete journal says; as often as it takes.

    Args:
        work: Whose journal.
        medium: The target.

    Raises:
        StreamError: The journal is damaged.
        OSError: It cannot be read, or the target not written.
    """
    with open(os.open(work.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb") as file:
        if not _is_sound(file.fileno(), work):
            raise _lost(work.path)
        buffer = memoryview(bytearray(MAX_DATA_BYTES))
        file.seek(_BEGIN)
        for record in _records(file, work):
            if record.kind == UNMAP:
                medium.zero(record.offset_bytes, record.length_bytes)
            else:
                medium.write(record.offset_bytes, record.content(buffer))
    medium.resize(work.identity.size_bytes)
    medium.sync()


def reserve(work: Work, medium: Medium) -> None:
    """See to it that the target has room for all that a complete journal says.

    Raises:
        OSError: There is not enough.
    """
    with open(work.path, "rb") as file:
        file.seek(_BEGIN)
        for record in _records(file, work):
            if record.kind == DATA:
                medium.reserve(record.offset_bytes, record.length_bytes)


def _records(file: BinaryIO, work: Work) -> Iterator[Record]:
    left = work.length_bytes - _BEGIN
    try:
        while left > 0:
            head = file.read(HEAD_BYTES)
            if len(head) < HEAD_BYTES:
                raise StreamError("it ends early")
            kind, codec, stored, offset, length = decode_head(head)
            payload = file.read(stored) if stored else b""
            record = Record(kind, codec, offset, length, head, payload)
            check_record(record)
            left -= HEAD_BYTES + stored
            yield record
        if left:
            raise StreamError("it ends early")
    except StreamError as error:
        raise StreamError(
            f"{work.path}: damaged journal: {error}: the target is incomplete, send the whole "
            "volume with --overwrite"
        ) from error
