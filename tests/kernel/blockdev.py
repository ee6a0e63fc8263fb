"""Block devices, read and written past the page cache; and what the kernel logs."""

import fcntl
import mmap
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_BLKDISCARD = 0x1277
_WARNING = 4


@contextmanager
def _opened(path: str) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class _Aligned(threading.local):
    """Memory for direct I/O; it is kept, as new pages are what costs most in this kernel."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 1 << 20)

    def view(self, length: int) -> memoryview:
        if length > len(self.memory):
            self.memory = mmap.mmap(-1, length)
        return memoryview(self.memory)[:length]


_aligned = _Aligned()


def read(path: str, offset: int, length: int) -> bytes:
    """Whole sectors, straight from the device."""
    view = _aligned.view(length)
    with _opened(path) as descriptor:
        count = os.preadv(descriptor, [view], offset)
    assert count == length, f"{path} ends {length - count} bytes early"
    return bytes(view)


def write(path: str, offset: int, data: bytes | bytearray, *, flush: bool = True) -> None:
    """Whole sectors, straight to the device, durable when this returns if it is told to be.

    Raises:
        OSError: ``ENOSPC``, for one.
    """
    view = _aligned.view(len(data))
    view[:] = data
    with _opened(path) as descriptor:
        count = os.pwrite(descriptor, view, offset)
        assert count == len(data), f"{path} took {count} bytes of {len(data)}"
        if flush:
            os.fsync(descriptor)


def flush(path: str) -> None:
    """Make durable what was written."""
    with _opened(path) as descriptor:
        os.fsync(descriptor)


def discard(path: str, offset: int, length: int) -> None:
    with _opened(path) as descriptor:
        fcntl.ioctl(descriptor, _BLKDISCARD, struct.pack("=QQ", offset, length))


class KernelLog:
    """What the kernel complains about from now on."""

    def __init__(self) -> None:
        self._descriptor = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(self._descriptor, 0, os.SEEK_END)

    def close(self) -> None:
        os.close(self._descriptor)

    def complaints(self) -> list[str]:
        """Warnings and worse since the last call, whoever they are from.

        That a pool gets full is news for its owner, and no complaint.
        """
        found: list[str] = []
        while True:
            try:
                record = os.read(self._descriptor, 8192).decode(errors="replace")
            except BlockingIOError:
                return found
            head, _, text = record.partition(";")
            if int(head.split(",")[0]) & 7 <= _WARNING and "reached low water mark" not in text:
                found.append(text.splitlines()[0])
