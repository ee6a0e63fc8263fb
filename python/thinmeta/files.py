"""Files that are either whole or not there.

A result goes to a temporary name beside its final one, is flushed to the disk, and
only then takes the final name. Whatever ends the work early removes it again.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from thinmeta.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

__all__ = ["OutputFile"]

#: What pipes, terminals and the like answer to fsync.
_CANNOT_SYNC = (errno.EINVAL, errno.EROFS, errno.ENOTSUP)


class OutputFile:
    """An output by path, as a context manager whose value is the file descriptor.

    An absent or regular file is replaced at the end, whole. Through a symbolic link
    the file that it leads to is replaced. Devices, pipes and ``/dev/null`` are
    written in place; so is what stdout is connected to (``/dev/stdout``). A block
    device that is in use (mounted, part of a volume group) is refused by the kernel.

    Args:
        path: Where the output is to be.
        inputs: Files that the work reads; none of them may be the output.

    Raises:
        UsageError: The output is one of the inputs.
        OSError: It is a folder, or cannot be written.
    """

    def __init__(self, path: str, *, inputs: Iterable[str] = ()) -> None:
        self.path = path
        self._inputs = tuple(inputs)
        self._descriptor = -1
        self._temporary = ""
        self._final = path

    def __enter__(self) -> int:
        try:
            self._open()
        except BaseException:
            self._clean_up()
            raise
        return self._descriptor

    def _open(self) -> None:
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            self._open_temporary(mode=None)
            return
        for other in self._inputs:
            if _is_same(found, other):
                raise UsageError(f"the output {self.path} is the input {other}; nothing written")
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), self.path)
        standard = _standard_descriptor(found)
        if standard is not None:
            self._descriptor = os.dup(standard)
        elif stat.S_ISREG(found.st_mode):
            self._open_temporary(mode=stat.S_IMODE(found.st_mode))
        else:
            exclusive = os.O_EXCL if stat.S_ISBLK(found.st_mode) else 0
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC | exclusive)

    def __exit__(
        self,
        raised: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if raised is None:
                self._finish()
        finally:
            self._clean_up()

    def _clean_up(self) -> None:
        if self._temporary:
            # An interrupt may come before it is made, or after it has its final name.
            with suppress(FileNotFoundError):
                os.unlink(self._temporary)
            self._temporary = ""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def is_stdout(self) -> bool:
        """Whether what is written mixes with what is printed; to be asked inside ``with``."""
        try:
            ours, printed = os.fstat(self._descriptor), os.fstat(1)
        except OSError:
            return False
        return os.path.samestat(ours, printed) and not stat.S_ISCHR(ours.st_mode)

    def _open_temporary(self, *, mode: int | None) -> None:
        self._final = os.path.realpath(self.path)
        folder, name = os.path.split(self._final)
        # 200 bytes leave room for the rest in a name of at most 255.
        short = os.fsdecode(os.fsencode(name)[:200])
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        temporary = os.path.join(folder, f".{short}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
        self._temporary = temporary
        try:
            self._descriptor = os.open(temporary, flags, 0o666)
        except OSError as error:
            self._temporary = ""
            error.filename = self.path  # the name that the user knows
            raise
        if mode is not None:
            os.fchmod(self._descriptor, mode)

    def _finish(self) -> None:
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            if self._temporary or error.errno not in _CANNOT_SYNC:
                error.filename = self.path
                raise
        if not self._temporary:
            return
        os.replace(self._temporary, self._final)
        self._temporary = ""
        folder = os.open(os.path.dirname(self._final), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _is_same(found: os.stat_result, other: str) -> bool:
    try:
        there = os.stat(other)
    except OSError:
        return False
    if stat.S_ISBLK(found.st_mode) and stat.S_ISBLK(there.st_mode):
        return found.st_rdev == there.st_rdev
    return os.path.samestat(found, there)


def _standard_descriptor(found: os.stat_result) -> int | None:
    """The descriptor of stdout or stderr if that is the very file."""
    for descriptor in (1, 2):
        try:
            if os.path.samestat(found, os.fstat(descriptor)):
                return descriptor
        except OSError:
            continue
    return None
