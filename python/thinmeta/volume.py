"""A volume's content as a file, put together from metadata and data images."""

from __future__ import annotations

import errno
import io
import os
from operator import index

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from typing_extensions import Buffer

    from thinmeta import _core

__all__ = ["Volume", "WritableVolume"]


class _Content(io.RawIOBase):
    """What reading and writing have in common: a size, a position, reads."""

    _native: _core.Volume | _core.WritableVolume
    _position: int

    def __repr__(self) -> str:
        name = f"thinmeta.{type(self).__name__}"
        return f"<{name} closed>" if self.closed else f"<{name} size_bytes={self.size_bytes}>"

    @property
    def size_bytes(self) -> int:
        """Size of the volume in bytes."""
        return self._native.size_bytes

    @property
    def size_is_known(self) -> bool:
        """Whether the size was given; if not, it ends where the last mapped block ends."""
        return self._native.size_is_known

    def readable(self) -> bool:
        """Always true."""
        return True

    def seekable(self) -> bool:
        """Always true."""
        return True

    def tell(self) -> int:
        """The position of the next read or write, in bytes."""
        self._check_open()
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to a byte offset, which may lie past the end, and return it.

        Raises:
            ValueError: The new position would be negative, or ``whence`` is unknown.
            TypeError: The offset is not a whole number.
        """
        self._check_open()
        offset = index(offset)
        if whence == io.SEEK_SET:
            position = offset
        elif whence == io.SEEK_CUR:
            position = self._position + offset
        elif whence == io.SEEK_END:
            position = self._native.size_bytes + offset
        else:
            raise ValueError(f"whence is {whence}, not 0, 1 or 2")
        if position < 0:
            raise ValueError(f"the position would be negative: {position}")
        self._position = position
        return position

    def readinto(self, buffer: Buffer, /) -> int:
        """Fill a buffer from the current position and return the number of bytes.

        Fewer bytes than the buffer holds mean the end of the volume.

        Raises:
            DamagedBlockError: A metadata block on the way failed its check.
            OSError: The data, or the external origin, cannot be read, or the data
                image ends before a block that is mapped there.
            ValueError: The volume is closed.
        """
        self._check_open()
        with memoryview(buffer) as view, view.cast("B") as wanted:
            # Past the end there is nothing, however far.
            here = min(self._position, self._native.size_bytes)
            count = self._native.read_at(here, wanted)
        self._position += count
        return count

    def readall(self) -> bytes:
        """Read everything up to the end at once."""
        self._check_open()
        rest = bytearray(max(self._native.size_bytes - self._position, 0))
        count = self.readinto(rest)
        return bytes(memoryview(rest)[:count])

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("the volume is closed")


class Volume(_Content):
    """What a thin device holds, as a seekable binary file to read from.

    Made by :meth:`thinmeta.ThinDevice.open`. Holes read as zeros, or as the
    external origin's bytes. A read is never short but at the end of the volume.
    Wrap it in :class:`io.BufferedReader` for many small reads.

    One object has one position: threads should open the device once each.
    """

    _native: _core.Volume

    def __init__(self, native: _core.Volume) -> None:
        self._native = native
        self._position = 0

    def write(self, data: Buffer, /) -> NoReturn:
        """Not possible."""
        raise io.UnsupportedOperation("a volume can only be read")

    def extract(
        self, descriptor: int, *, progress: Callable[[int, int], object] | None = None
    ) -> tuple[str, int, int]:
        """Write the whole volume to a file descriptor, from its first byte to its last.

        A regular file becomes sparse; anything else is written from front to end.

        Args:
            descriptor: Open for writing, at its start.
            progress: Called now and then as ``progress(done, total)``, in bytes.

        Returns:
            The content's sha256 in hexadecimal, its size in bytes, and how many of
            these bytes come from mapped blocks.

        Raises:
            DamagedBlockError: A metadata block on the way failed its check.
            OSError: As for :meth:`readinto`, or the output cannot be written.
        """
        self._check_open()
        return self._native.extract(descriptor, progress=progress)

    def close(self) -> None:
        """Close the volume; the pool stays open."""
        if not self.closed:
            super().close()
            self._native.close()


class WritableVolume(_Content):
    """What a thin device holds, as a seekable binary file to read and write.

    Made by :meth:`thinmeta.ThinDevice.open` with ``mode="r+"``. What is written to
    blocks that are not mapped, or that a snapshot may share, goes to new data blocks;
    the rest of such a block is what it showed before. Other blocks are written in their
    places, as a kernel does.

    :meth:`flush` and :meth:`close` commit: data first, then the metadata that points to
    it. A crash before leaves the mappings of the last commit. All volumes of a pool that
    are open for writing share one transaction, so that flushing one commits them all;
    while they have changes that are not committed, :meth:`thinmeta.Pool.transaction`
    raises :class:`UsageError`, and the other way around. Closing the pool commits too.

    :class:`io.BufferedRandom` may be put around it for small writes. Its ``flush`` gives
    what it has to the volume and does not commit: flush the volume after it, or close.
    """

    _native: _core.WritableVolume

    def __init__(self, native: _core.WritableVolume) -> None:
        self._native = native
        self._position = 0

    def writable(self) -> bool:
        """Always true."""
        return True

    def write(self, data: Buffer, /) -> int:
        """Write all of ``data`` at the current position; fewer bytes only at the end.

        Returns:
            How many bytes were written. The volume does not grow.

        Raises:
            NoSpaceError: There are not enough free data blocks, or only the metadata
                that is kept for freeing space: nothing was written. Where metadata runs
                out half-way, all that no volume of the pool has flushed is taken back.
            UsageError: A transaction of the pool is open, or the pool is closed.
            ReadOnlyError: The pool's state is ``"read_only"``.
            NoSuchDeviceError: The device was deleted.
            OSError: The data cannot be written; a part of it may be. ``ENOSPC`` at the
                end of the volume, too.
            ValueError: The volume is closed.
        """
        self._check_open()
        with memoryview(data) as view, view.cast("B") as given:
            if not given:
                return 0
            here = min(self._position, self._native.size_bytes)
            count = self._native.write_at(here, given)
        if not count:
            code = errno.ENOSPC
            raise OSError(code, f"{os.strerror(code)}: the volume ends at {self.size_bytes} bytes")
        self._position += count
        return count

    def discard(self, offset_bytes: int, length_bytes: int) -> int:
        """Unmap the blocks that lie wholly in a range.

        They read as zeros then, or as the external origin. Blocks that the range covers
        in part stay as they are. The data device is not told.

        Returns:
            How many bytes were unmapped.

        Raises:
            UsageError: The range is not in the volume, or a transaction is open.
            NoSpaceError: There is no metadata left.
        """
        self._check_open()
        begin, length = index(offset_bytes), index(length_bytes)
        end = begin + length
        if begin < 0 or length < 0 or end > self._native.size_bytes:
            from thinmeta.errors import UsageError

            raise UsageError(
                f"bytes {begin} to {end} are not in a volume of {self._native.size_bytes} bytes"
            )
        return self._native.discard(begin, end)

    def flush(self) -> None:
        """Commit what was written to this and all other volumes of the pool.

        Raises:
            PoisonedError: A write or a flush failed; the pool has to be opened again.
            NoSpaceError: There is no metadata left; what was not committed is gone.
            AbortedError: What was written here was taken back, as a change of another
                volume failed. Told once.
        """
        if not self.closed:
            self._native.flush()

    def close(self) -> None:
        """Commit, and close the volume; the pool stays open."""
        if not self.closed:
            try:
                super().close()  # which flushes
            finally:
                self._native.close()
