"""What generations are restored into: files, block devices, volumes of pools.

A file and a volume are what they were until all of the new content is there and durable; a
block device has no room for both, and is written in place.
"""

from __future__ import annotations

import errno
import os
import stat
from threading import Lock

from thinmeta._core import is_zero
from thinmeta.errors import AlreadyFormattedError, DeviceInUseError, UsageError
from thinmeta.files import STAND_IN, OutputFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from typing_extensions import Buffer

    from thinmeta import _core
    from thinmeta.pool import Pool
    from thinmeta.stream.targets.media import DeviceMedium
    from thinmeta.volume import WritableVolume

__all__ = ["DeviceTarget", "FileTarget", "PoolTarget", "Target", "open_target"]

MAX_DEVICE_ID = (1 << 24) - 1
#: What is looked at to tell whether something is on a device.
_FIRST_BYTES = 1 << 20


class Target:
    """What is restored into; a context manager that is left quietly when all is there.

    Attributes:
        name: What the user calls it.
        in_place: Whether what was there is gone as soon as something is written.
    """

    name: str
    in_place = False

    def __enter__(self) -> Self:
        raise NotImplementedError

    def __exit__(
        self,
        raised: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        raise NotImplementedError

    def write(self, wanted: _core.Wanted, group: int, part: Buffer) -> int:
        """Write the pieces of a group; threads may do so at the same time. How many bytes.

        Raises:
            StreamError: A piece is damaged.
            OSError: It cannot be written.
        """
        raise NotImplementedError

    def zero(self, offset_bytes: int, length_bytes: int) -> None:
        """Make a range show zeros that nothing was written to."""


class FileTarget(Target):
    """A raw file, sparse: it appears when all of it is there.

    Args:
        path: Where.
        size_bytes: Size of the volume.
        overwrite: Replace a file that is there.
    """

    def __init__(self, path: str, size_bytes: int, *, overwrite: bool) -> None:
        self.name, self._size, self._overwrite = path, size_bytes, overwrite
        self._file = OutputFile(path)
        self._descriptor = -1

    def __enter__(self) -> Self:
        if not self._overwrite and os.path.exists(self.name) and os.path.getsize(self.name):
            raise AlreadyFormattedError(self.name, "there is a file already")
        self._descriptor = self._file.__enter__()
        try:
            if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
                raise UsageError(f"{self.name} is neither a file nor a block device")
            os.ftruncate(self._descriptor, self._size)
        except BaseException as error:
            if isinstance(error, OSError):
                error.filename = self.name
            self._file.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self,
        raised: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.__exit__(raised, value, traceback)

    def write(self, wanted: _core.Wanted, group: int, part: Buffer) -> int:
        """Write the pieces of a group."""
        return _write(wanted, group, part, self._descriptor, self.name)


class DeviceTarget(Target):
    """A block device, which may be larger; what lies past the volume's end stays.

    Args:
        path: The device.
        size_bytes: Size of the volume.
        overwrite: Also if something is on it.
    """

    in_place = True

    def __init__(self, path: str, size_bytes: int, *, overwrite: bool) -> None:
        self.name, self._size, self._overwrite = path, size_bytes, overwrite
        self._descriptor = -1
        self._medium: DeviceMedium | None = None
        self._lock = Lock()

    def __enter__(self) -> Self:
        try:
            self._descriptor = os.open(self.name, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            reason = "it is mounted, or used by another device or process: unmount it first"
            raise DeviceInUseError(self.name, reason) from error
        try:
            self._check()
        except BaseException:
            os.close(self._descriptor)
            raise
        return self

    def _check(self) -> None:
        from thinmeta.stream.targets.media import DeviceMedium
        from thinmeta.stream.targets.thin import thin_target

        room = os.lseek(self._descriptor, 0, os.SEEK_END)
        if room < self._size:
            words = f"{os.strerror(errno.ENOSPC)}: it has {room} bytes, and the volume {self._size}"
            raise OSError(errno.ENOSPC, f"{words}; nothing written", self.name)
        if not self._overwrite and not is_zero(os.pread(self._descriptor, _FIRST_BYTES, 0)):
            raise AlreadyFormattedError(self.name, "something is on it")
        device = os.fstat(self._descriptor).st_rdev
        thin = thin_target(f"{os.major(device)}:{os.minor(device)}")
        self._medium = DeviceMedium(self._descriptor, self.name, thin)

    def __exit__(
        self,
        raised: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if raised is None and self._medium is not None:
                self._medium.sync()
        finally:
            os.close(self._descriptor)

    def write(self, wanted: _core.Wanted, group: int, part: Buffer) -> int:
        """Write the pieces of a group."""
        return _write(wanted, group, part, self._descriptor, self.name)

    def zero(self, offset_bytes: int, length_bytes: int) -> None:
        """Make a range show zeros."""
        assert self._medium is not None
        with self._lock:
            self._medium.zero(offset_bytes, length_bytes)


class PoolTarget(Target):
    """A thin device of a pool that nobody uses.

    What comes goes into a new device, which takes the place of the wanted one in one
    transaction.

    Args:
        metadata: The pool's metadata.
        data: The pool's data.
        device_id: The thin device, which need not be there.
        size_bytes: Size of the volume.
        overwrite: Replace a device that is there.
    """

    def __init__(
        self, metadata: str, data: str, device_id: int, size_bytes: int, *, overwrite: bool
    ) -> None:
        if not 0 <= device_id <= MAX_DEVICE_ID:
            raise UsageError(f"a device id cannot be {device_id}: 0 to {MAX_DEVICE_ID}")
        self.name = f"device {device_id} of {metadata}"
        self._metadata, self._data, self._id = metadata, data, device_id
        self._size, self._overwrite = size_bytes, overwrite
        self._pool: Pool | None = None
        self._volume: WritableVolume | None = None
        self._lock = Lock()
        self._new = 0

    def __enter__(self) -> Self:
        from thinmeta.pool import open_pool

        self._pool = pool = open_pool(self._metadata, mode="r+", data=self._data)
        try:
            if self._id in pool.devices and not self._overwrite:
                raise AlreadyFormattedError(self.name, "there is a volume already")
            taken = {*pool.devices, self._id}
            self._new = next(each for each in range(MAX_DEVICE_ID, -1, -1) if each not in taken)
            with pool.transaction() as txn:
                txn.create_thin(self._new)
            try:
                self._volume = pool.devices[self._new].open(mode="r+", size_bytes=self._size)
            except BaseException as error:
                self._give_up(pool, None, error)
                raise
        except BaseException:
            pool.close()
            raise
        return self

    def __exit__(
        self,
        raised: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pool, volume = self._pool, self._volume
        assert pool is not None and volume is not None
        try:
            if value is not None:
                self._give_up(pool, volume, value)
                return
            try:
                volume.close()
                with pool.transaction() as txn:
                    if self._id in txn.device_ids():
                        txn.delete(self._id)
                    txn.create_snapshot(self._id, origin_id=self._new)
                    txn.delete(self._new)
            except BaseException as error:
                self._give_up(pool, volume, error)
                raise
        finally:
            pool.close()

    def _give_up(self, pool: Pool, volume: WritableVolume | None, error: BaseException) -> None:
        """Take the new device away."""
        try:
            try:
                if volume is not None:
                    volume.close()
            finally:
                with pool.transaction() as txn:
                    if self._new in txn.device_ids():
                        txn.delete(self._new)
        except Exception as failure:
            # What went wrong first is what the caller has to know.
            error.add_note(f"thin device {self._new} could not be taken away: {failure}")

    def write(self, wanted: _core.Wanted, group: int, part: Buffer) -> int:
        """Write the pieces of a group."""
        volume, written = self._volume, 0
        assert volume is not None
        pieces = wanted.unpack(group, part)
        with self._lock:  # it has one position
            for offset, piece in pieces:
                volume.seek(offset)
                written += volume.write(piece)
        return written


def open_target(
    target: str | os.PathLike[str],
    size_bytes: int,
    *,
    overwrite: bool,
    data: str | None = None,
    device_id: int | None = None,
) -> Target:
    """Find out what a path is.

    Args:
        target: A file, which need not be there, a block device, or the metadata of a pool.
        size_bytes: Size of the volume.
        overwrite: Replace what is there.
        data: The data of the pool.
        device_id: The thin device of the pool.

    Raises:
        UsageError: One of ``data`` and ``device_id`` without the other.
        OSError: It cannot be looked at.
    """
    path = os.fspath(target)
    if (data is None) != (device_id is None):
        raise UsageError("to restore into a pool, both its data and a device id are needed")
    if data is not None and device_id is not None:
        return PoolTarget(path, data, device_id, size_bytes, overwrite=overwrite)
    try:
        is_block = stat.S_ISBLK(os.stat(path).st_mode)
    except FileNotFoundError:
        is_block = False
    kind: Callable[..., Target] = DeviceTarget if is_block else FileTarget
    return kind(path, size_bytes, overwrite=overwrite)


def _write(wanted: _core.Wanted, group: int, part: Buffer, descriptor: int, name: str) -> int:
    try:
        return wanted.write(group, part, descriptor)
    except OSError as error:
        if error.filename == STAND_IN:
            error.filename = name
        raise
