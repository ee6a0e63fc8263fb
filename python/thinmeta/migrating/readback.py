"""Reading back what was written, past the page cache where that is possible.

What the cache holds proves nothing about the disk: it is what was written to it. Devices and
most filesystems let it be passed by (``O_DIRECT``); where they do not, the cache is told to
forget what it has, and reads it anew.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from contextlib import suppress
from mmap import mmap

from thinmeta.errors import VerificationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

    from thinmeta.stream.targets.content import Content

__all__ = ["Readback", "open_content"]

#: No logical block is larger.
_ALIGNMENT = 4096


def open_content(content: Content) -> Readback:
    """Open it to be read back; a context manager."""
    return Readback(content) if content.device is None else _Mapped(content)


class Readback:
    """A file or a device, read from the disk; threads may do so at once.

    Attributes:
        past_cache: Whether the page cache is passed by.
    """

    def __init__(self, content: Content) -> None:
        self._name, path = content.name, content.path
        self._scratch = threading.local()
        self.past_cache, self._descriptor = True, -1
        with suppress(OSError):
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
            os.preadv(self._descriptor, [mmap(-1, _ALIGNMENT)], 0)
            return
        self.close()
        self.past_cache, self._descriptor = False, os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        # What is not on the disk yet is kept; it was flushed before.
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        raised: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    @property
    def reads_zeros(self) -> bool:
        """Whether zeros have to be read to be known: nothing else says where they are."""
        return stat.S_ISBLK(os.fstat(self._descriptor).st_mode)

    def parts_in(self, begin: int, length: int) -> Iterator[tuple[int, int]]:
        """Where in a range there may be something else than zeros.

        Yields:
            Ranges, as ``(begin_bytes, length_bytes)``.
        """
        end = begin + length
        if self.reads_zeros:
            yield begin, length
            return
        while begin < end:
            try:
                first = os.lseek(self._descriptor, begin, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return  # a hole up to its end, or past it
                raise self._named(error) from error
            if first >= end:
                return
            last = min(os.lseek(self._descriptor, first, os.SEEK_HOLE), end)
            yield first, last - first
            begin = last

    def read_into(self, offset_bytes: int, buffer: memoryview) -> None:
        """Fill a buffer from a place in the volume.

        Raises:
            VerificationError: It ends before that.
            OSError: It cannot be read.
        """
        self._read(offset_bytes, buffer, offset_bytes)

    def _read(self, place: int, buffer: memoryview, offset_bytes: int) -> None:
        """Fill a buffer from a place in the file; ``offset_bytes`` is for errors."""
        first = place // _ALIGNMENT * _ALIGNMENT
        skip, wanted = place - first, buffer.nbytes
        needed = skip + wanted
        aligned = self._aligned(-(-needed // _ALIGNMENT) * _ALIGNMENT)
        done = 0
        while done < needed:
            try:
                count = os.preadv(self._descriptor, [aligned[done:]], first + done)
            except OSError as error:
                raise self._named(error) from error
            done += count
            # A read that ends between two blocks has come to the end.
            if not count or (self.past_cache and done % _ALIGNMENT and done < needed):
                missing = max(done - skip, 0)
                raise VerificationError(
                    self._name, offset_bytes + missing, wanted - missing, "it ends before that"
                )
        buffer[:] = aligned[skip:needed]

    def _aligned(self, length: int) -> memoryview:
        """Memory of this thread that a device can write to directly."""
        found: memoryview | None = getattr(self._scratch, "buffer", None)
        if found is None or found.nbytes < length:
            found = self._scratch.buffer = memoryview(mmap(-1, length))
        return found[:length]

    def _named(self, error: OSError) -> OSError:
        error.filename = self._name
        return error


class _Mapped(Readback):
    """A thin device of a pool that nobody uses: its mappings say where content is."""

    def __init__(self, content: Content) -> None:
        assert content.device is not None
        super().__init__(content)
        self._device, self._block = content.device, content.block_bytes

    @property
    def reads_zeros(self) -> bool:
        """No: what is not mapped is zero."""
        return False

    def _runs(self, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Where a range is mapped: place in the volume, place in the data, length."""
        block = self._block
        for run in self._device.runs(begin // block, -(-end // block)):
            first = max(run.virtual_begin * block, begin)
            last = min((run.virtual_begin + run.length_blocks) * block, end)
            place = run.data_begin * block + first - run.virtual_begin * block
            yield first, place, last - first

    def parts_in(self, begin: int, length: int) -> Iterator[tuple[int, int]]:
        """Where in a range something is mapped."""
        for first, _, count in self._runs(begin, begin + length):
            yield first, count

    def read_into(self, offset_bytes: int, buffer: memoryview) -> None:
        """Fill a buffer from a place in the volume."""
        here = offset_bytes
        end = offset_bytes + buffer.nbytes
        for first, place, count in self._runs(offset_bytes, end):
            self._clear(buffer[here - offset_bytes : first - offset_bytes])
            at = first - offset_bytes
            self._read(place, buffer[at : at + count], first)
            here = first + count
        self._clear(buffer[here - offset_bytes :])

    def _clear(self, buffer: memoryview) -> None:
        if buffer.nbytes:
            buffer[:] = bytes(buffer.nbytes)
