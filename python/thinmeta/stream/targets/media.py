"""Writing content and zeros to a file or a block device.

Zeros take up no space where that is possible: a hole in a file, nothing on a device that
can forget. Whatever the system cannot do is done by writing zeros.
"""

from __future__ import annotations

import errno
import os
from functools import cache
from struct import pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from thinmeta.stream.targets.thin import ThinTarget

__all__ = ["DeviceMedium", "FileMedium", "Medium", "write_at"]

BLKDISCARD = 0x1277
BLKZEROOUT = 0x127F
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
#: What a system says that cannot do something other than writing.
_CANNOT = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ENOSYS)
#: No logical block is larger, and no page of a cache is cut.
_ALIGNMENT = 4096
_ZEROS_BYTES = 1 << 20
#: One call is not to keep an interrupt waiting for too long.
_ZERO_AT_ONCE = 1 << 30


class Medium:
    """What bytes are written to.

    Args:
        descriptor: Open for reading and writing; it stays open.
        name: What errors call it.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor, self._name = descriptor, name

    def write(self, offset_bytes: int, content: memoryview) -> None:
        """Put content in its place.

        Raises:
            OSError: It cannot be written.
        """
        write_at(self._descriptor, offset_bytes, content, self._name)

    def zero(self, offset_bytes: int, length_bytes: int) -> None:
        """Make a range show zeros.

        Raises:
            OSError: It cannot be written.
        """
        raise NotImplementedError

    def reserve(self, offset_bytes: int, length_bytes: int) -> None:
        """See to it that writing there will not fail for want of room; changes no content.

        Raises:
            OSError: There is not enough room.
        """

    def resize(self, size_bytes: int) -> None:
        """Make it end there, if it is something that can."""

    def sync(self) -> None:
        """Make it durable.

        Raises:
            OSError: It cannot be.
        """
        self._named(lambda: os.fsync(self._descriptor))

    def _named(self, work: Callable[[], object]) -> None:
        try:
            work()
        except OSError as error:
            error.filename = self._name
            raise

    def _write_zeros(self, offset_bytes: int, length_bytes: int) -> None:
        zeros = memoryview(_zeros())
        for at in range(offset_bytes, offset_bytes + length_bytes, _ZEROS_BYTES):
            self.write(at, zeros[: offset_bytes + length_bytes - at])


class FileMedium(Medium):
    """A regular file."""

    def zero(self, offset_bytes: int, length_bytes: int) -> None:
        """Make a hole; what lies past the end stays a hole."""
        end = min(offset_bytes + length_bytes, os.fstat(self._descriptor).st_size)
        if end <= offset_bytes:
            return
        try:
            mode = _PUNCH_HOLE | _KEEP_SIZE
            _fallocate(self._descriptor, mode, offset_bytes, end - offset_bytes)
        except OSError as error:
            if error.errno not in _CANNOT:
                error.filename = self._name
                raise
            self._write_zeros(offset_bytes, end - offset_bytes)

    def reserve(self, offset_bytes: int, length_bytes: int) -> None:
        """Take the room, where the filesystem can."""
        try:
            _fallocate(self._descriptor, _KEEP_SIZE, offset_bytes, length_bytes)
        except OSError as error:
            if error.errno not in _CANNOT:
                error.filename = self._name
                raise

    def resize(self, size_bytes: int) -> None:
        """Cut it, or put a hole at its end."""
        self._named(lambda: os.ftruncate(self._descriptor, size_bytes))


class DeviceMedium(Medium):
    """A block device.

    Args:
        descriptor: Open for reading and writing; it stays open.
        name: What errors call it.
        thin: What it is, if it is a thin volume.
    """

    def __init__(self, descriptor: int, name: str, thin: ThinTarget | None) -> None:
        super().__init__(descriptor, name)
        # Of a volume with an external origin something else than zeros would show.
        unmaps = thin is not None and not thin.external_origin
        self._thin_block_bytes = thin.block_bytes if thin is not None and unmaps else 0

    def zero(self, offset_bytes: int, length_bytes: int) -> None:
        """Unmap whole blocks of a thin volume, let the device zero the rest."""
        end = offset_bytes + length_bytes
        block = self._thin_block_bytes
        first, last = (-(-offset_bytes // block), end // block) if block else (0, 0)
        if first < last:
            self._zero_out(offset_bytes, first * block)
            if not self._tell(BLKDISCARD, first * block, last * block):
                self._zero_out(first * block, last * block)
            self._zero_out(last * block, end)
        else:
            self._zero_out(offset_bytes, end)

    def _zero_out(self, begin: int, end: int) -> None:
        first = -(-begin // _ALIGNMENT) * _ALIGNMENT
        last = end // _ALIGNMENT * _ALIGNMENT
        if first >= last or not self._tell(BLKZEROOUT, first, last):
            self._write_zeros(begin, end - begin)
            return
        self._write_zeros(begin, first - begin)
        self._write_zeros(last, end - last)

    def _tell(self, request: int, begin: int, end: int) -> bool:
        """Whether the device did it."""
        import fcntl

        for at in range(begin, end, _ZERO_AT_ONCE):
            length = min(_ZERO_AT_ONCE, end - at)
            try:
                fcntl.ioctl(self._descriptor, request, pack("QQ", at, length))
            except OSError as error:
                if error.errno not in _CANNOT:
                    error.filename = self._name
                    raise
                return False
        return True


def write_at(descriptor: int, offset_bytes: int, content: memoryview, name: str) -> None:
    """Write all of it.

    Raises:
        OSError: It cannot be written; ``filename`` is ``name``.
    """
    try:
        while content:
            count = os.pwrite(descriptor, content, offset_bytes)
            if not count:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            offset_bytes += count
            content = content[count:]
    except OSError as error:
        error.filename = name
        raise


@cache
def _zeros() -> bytes:
    return bytes(_ZEROS_BYTES)


@cache
def _library() -> Callable[[int, int, int, int], int]:
    """``fallocate`` of the C library, for which Python has no name."""
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    function = getattr(library, "fallocate64", None) or library.fallocate
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    function.restype = ctypes.c_int
    found: Callable[[int, int, int, int], int] = function
    return found


def _fallocate(descriptor: int, mode: int, offset_bytes: int, length_bytes: int) -> None:
    import ctypes

    while _library()(descriptor, mode, offset_bytes, length_bytes):
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
