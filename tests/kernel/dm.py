"""Device-mapper through its ioctls: a process costs a tenth of a second in this kernel.

Source: the structures of ``linux/dm-ioctl.h``, version 4 of the interface.
"""

import errno
import fcntl
import itertools
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Self

SECTOR = 512

_HEADER = struct.Struct("=3I I I I i I I I Q 128s 129s 7x")
_TARGET = struct.Struct("=QQiI16s")
_CREATE, _REMOVE, _SUSPEND, _LOAD, _STATUS, _MESSAGE = 3, 4, 6, 9, 12, 14
_SUSPEND_FLAG, _NO_FLUSH_FLAG = 1 << 1, 1 << 11
_BUFFER_BYTES = 1 << 14

_numbers = itertools.count(1)


class Target(NamedTuple):
    """What a device consists of; all of ours have one target."""

    length_sectors: int
    kind: str
    parameters: str


class Device:
    """One device-mapper device, made and removed by this object."""

    def __init__(self, name: str, target: Target) -> None:
        # What a test that failed has left does not get in the way of the next.
        self.name = f"{name}-{next(_numbers)}"
        number = self._call(_CREATE)[0]
        try:
            self._load(target)
            self.resume()
        except OSError:
            self._call(_REMOVE)
            raise
        minor = (number & 0xFF) | ((number >> 12) & 0xFFF00)
        #: The node is the kernel's own (devtmpfs).
        self.path = f"/dev/dm-{minor}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def reload(self, target: Target) -> None:
        """Take another table, as growing needs it."""
        self._load(target)
        with self.suspended():
            pass

    @contextmanager
    def suspended(self) -> Iterator[None]:
        self._call(_SUSPEND, flags=_SUSPEND_FLAG)
        try:
            yield
        finally:
            self.resume()

    def resume(self) -> None:
        self._call(_SUSPEND)

    def message(self, text: str) -> None:
        self._call(_MESSAGE, payload=struct.pack("=Q", 0) + text.encode() + b"\0")

    def status(self) -> str:
        """What the target says; a pool commits before it does."""
        _, answer = self._call(_STATUS)
        return answer[_TARGET.size :].split(b"\0", 1)[0].decode()

    def remove(self) -> None:
        """Let it go; whoever looked at it a moment ago may still have it open."""
        self.remove_name(self.name)

    @staticmethod
    def remove_name(name: str) -> None:
        """The same of any device."""
        for _ in range(100):
            try:
                call(name, _REMOVE)
                return
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
            time.sleep(0.02)
        raise TimeoutError(f"{name} stays in use") from None

    def _load(self, target: Target) -> None:
        text = target.parameters.encode() + b"\0"
        text += b"\0" * (-(_TARGET.size + len(text)) % 8)
        kind = target.kind.encode()
        head = _TARGET.pack(0, target.length_sectors, 0, _TARGET.size + len(text), kind)
        self._call(_LOAD, payload=head + text, targets=1)

    def _call(
        self, command: int, *, flags: int = 0, payload: bytes = b"", targets: int = 0
    ) -> tuple[int, bytes]:
        """One ioctl: the device's number, and what follows the header."""
        answer = call(self.name, command, flags=flags, payload=payload, targets=targets)
        return answer.number, answer.rest


class Answer(NamedTuple):
    """What an ioctl has to say."""

    number: int
    flags: int
    targets: int
    open_count: int
    name: str
    uuid: str
    rest: bytes


def call(
    name: str,
    command: int,
    *,
    flags: int = 0,
    payload: bytes = b"",
    targets: int = 0,
    number: int = 0,
    uuid: str = "",
) -> Answer:
    """One ioctl, about a device by its name, its number or its uuid."""
    buffer = bytearray(_BUFFER_BYTES)
    _HEADER.pack_into(
        buffer, 0, 4, 0, 0, len(buffer), _HEADER.size, targets, 0, flags, 0, 0, number,
        name.encode(), uuid.encode(),
    )  # fmt: skip
    buffer[_HEADER.size : _HEADER.size + len(payload)] = payload
    fcntl.ioctl(_control(), 0xC0000000 | _HEADER.size << 16 | 0xFD00 | command, buffer, True)
    header = _HEADER.unpack_from(buffer)
    text = [part.split(b"\0", 1)[0].decode() for part in header[11:13]]
    end = max(header[3], header[4])
    return Answer(
        header[10],
        header[7],
        header[5],
        header[6],
        text[0],
        text[1],
        bytes(buffer[header[4] : end]),
    )


def _control() -> int:
    global _descriptor
    if _descriptor is None:
        _descriptor = os.open("/dev/mapper/control", os.O_RDWR | os.O_CLOEXEC)
    return _descriptor


_descriptor: int | None = None
