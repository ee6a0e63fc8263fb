"""Files that are either whole or not there.

A result goes to a file without a name in the folder of its final one, is flushed to the
disk, and only then takes that name. Whatever ends the work early, a power cut or a signal that
nobody can catch included, leaves nothing behind, but for a moment at either end. Where a
filesystem has no files without names (NFS, FUSE), it has a temporary one, which whatever ends
the work early removes again, as far as it can.
"""

from __future__ import annotations

import errno
import os
import stat

from thinmeta.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

__all__ = ["OutputFile", "is_same_file", "name_output"]

#: What the native module, which is given a descriptor, calls it in errors.
STAND_IN = "<output>"

#: What pipes, terminals and the like answer to fsync.
_CANNOT_SYNC = (errno.EINVAL, errno.EROFS, errno.ENOTSUP)


class OutputFile:
    """An output by path, as a context manager whose value is the file descriptor.

    An absent or regular file is replaced at the end, whole, by another one that has its
    permissions and, as far as we may, its owner and group. Hard links to the old one keep
    the old content. Through a symbolic link the file that it leads to is replaced. Devices,
    pipes and ``/dev/null`` are written in place; so is what stdout is connected to
    (``/dev/stdout``). A block device that is in use (mounted, part of a volume group) is
    refused by the kernel.

    Whatever fails about the output names it as the user does.

    Args:
        path: Where the output is to be.
        inputs: Files that the work reads; none of them may be the output.
        needs_bytes: How much will be written, if that is known. A block device
            without room for it is refused before anything is written.
        name: What to call the output in errors, if not by its path.

    Raises:
        UsageError: The output is one of the inputs.
        OSError: It is a folder, too small, or cannot be written.
    """

    def __init__(
        self,
        path: str,
        *,
        inputs: Iterable[str] = (),
        needs_bytes: int = 0,
        name: str | None = None,
    ) -> None:
        self.path = path
        self._inputs = tuple(inputs)
        self._needs_bytes = needs_bytes
        self._name = path if name is None else name
        self._descriptor = -1
        #: The name that is replaced by the final one; the file may not have it yet.
        self._temporary = ""
        self._has_name = False
        self._final = path

    def __enter__(self) -> int:
        try:
            self._open()
        except BaseException:
            self._clean_up()
            raise
        return self._descriptor

    def _check_room(self) -> None:
        """Refuse a block device, which cannot grow, if it is too small."""
        if not stat.S_ISBLK(os.fstat(self._descriptor).st_mode):
            return
        here = os.lseek(self._descriptor, 0, os.SEEK_CUR)
        room = os.lseek(self._descriptor, 0, os.SEEK_END) - here
        os.lseek(self._descriptor, here, os.SEEK_SET)
        if room < self._needs_bytes:
            words = f"{os.strerror(errno.ENOSPC)}: it has room for {room} bytes"
            words += f", and {self._needs_bytes} are to be written; nothing written"
            raise OSError(errno.ENOSPC, words, self._name)

    def _open(self) -> None:
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            self._open_temporary(None)
            return
        for other in self._inputs:
            if is_same_file(found, other):
                raise UsageError(f"the output {self.path} is the input {other}; nothing written")
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), self._name)
        standard = _standard_descriptor(found)
        if standard is not None:
            self._descriptor = os.dup(standard)
        elif stat.S_ISREG(found.st_mode):
            self._open_temporary(found)
        else:
            exclusive = os.O_EXCL if stat.S_ISBLK(found.st_mode) else 0
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC | exclusive)
        self._check_room()

    def __exit__(
        self,
        raised: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if raised is None:
                self._finish()
            elif isinstance(value, OSError):
                name_output(value, self._name)
        finally:
            self._clean_up()

    def _clean_up(self) -> None:
        if self._temporary:
            # An interrupt may come before it is made, or after it has its final name.
            try:  # noqa: SIM105  what contextlib imports takes longer than small outputs
                os.unlink(self._temporary)
            except FileNotFoundError:
                pass
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

    def _open_temporary(self, replaced: os.stat_result | None) -> None:
        self._final = os.path.realpath(self.path)
        folder, name = os.path.split(self._final)
        # 200 bytes leave room for the rest in a name of at most 255.
        short = os.fsdecode(os.fsencode(name)[:200])
        self._temporary = os.path.join(folder, f".{short}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
        try:
            self._descriptor = _open_without_name(folder, self._temporary)
            self._has_name = self._descriptor < 0
            if self._has_name:
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
                self._descriptor = os.open(self._temporary, flags, 0o666)
        except OSError as error:
            self._temporary = ""
            error.filename = self._name  # what the user calls it
            raise
        if replaced is not None:
            self._take_owner(replaced)
            os.fchmod(self._descriptor, stat.S_IMODE(replaced.st_mode))

    def _take_owner(self, replaced: os.stat_result) -> None:
        """Give the new file the owner and the group of the old one, as far as we may."""
        for owner, group in ((-1, replaced.st_gid), (replaced.st_uid, -1)):
            # An owner may give a file to a group of his; to another owner, root alone. Where
            # neither is so, it is ours, as a copy would be.
            try:
                os.fchown(self._descriptor, owner, group)
            except OSError:
                continue

    def _finish(self) -> None:
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            if self._temporary or error.errno not in _CANNOT_SYNC:
                error.filename = self._name
                raise
        if not self._temporary:
            return
        if not self._has_name:
            _give_name(self._descriptor, self._temporary)
        os.replace(self._temporary, self._final)
        self._temporary = ""
        folder = os.open(os.path.dirname(self._final), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _open_without_name(folder: str, name: str) -> int:
    """A new file that no folder has; -1 where there is no such thing.

    Args:
        folder: Where it will be.
        name: A path there that nobody uses.
    """
    flags = os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC
    try:
        # To hear after hours of work that a file cannot be given a name would be too late.
        trial = os.open(folder, flags, 0o600)
        try:
            _give_name(trial, name)
            os.unlink(name)
        except OSError:
            return -1  # no /proc, or a filesystem that can do only half of it
        finally:
            os.close(trial)
        return os.open(folder, flags, 0o666)
    except OSError as error:
        # EISDIR is what a kernel or a filesystem says that does not know the flag.
        if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS):
            return -1
        raise


def _give_name(descriptor: int, path: str) -> None:
    folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # With a folder's descriptor it is linkat, which follows what /proc has.
        os.link(
            f"/proc/self/fd/{descriptor}",
            os.path.basename(path),
            dst_dir_fd=folder,
            follow_symlinks=True,
        )
    finally:
        os.close(folder)


def name_output(error: OSError, name: str) -> None:
    """Put the user's name for an output in place of the native module's stand-in."""
    if error.filename == STAND_IN:
        error.filename = name


def is_same_file(found: os.stat_result, other: str) -> bool:
    """Whether a path leads to the file or the device that was found."""
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
