"""A volume's content as a file, put together from metadata and data images."""

from __future__ import annotations

import io
from operator import index

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from typing_extensions import Buffer

    from thinmeta import _core

__all__ = ["Volume"]


class Volume(io.RawIOBase):
    """What a thin device holds, as a seekable binary file to read from.

    Made by :meth:`thinmeta.ThinDevice.open`. Holes read as zeros, or as the
    external origin's bytes. A read is never short but at the end of the volume.
    Wrap it in :class:`io.BufferedReader` for many small reads.

    One object has one position: threads should open the device once each.
    """

    def __init__(self, native: _core.Volume) -> None:
        self._native = native
        self._position = 0

    def __repr__(self) -> str:
        if self.closed:
            return "<thinmeta.Volume closed>"
        return f"<thinmeta.Volume size_bytes={self.size_bytes}>"

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
        """The position of the next read, in bytes."""
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

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("read from a closed volume")
