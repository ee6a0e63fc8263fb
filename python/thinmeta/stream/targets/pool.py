"""Volumes of a pool that nobody uses as targets.

What comes is gathered in a temporary thin device, which begins as a snapshot of the volume.
One transaction then lets it take the volume's place: until that is committed, the volume is
what it was.
"""

from __future__ import annotations

import os
import stat

from thinmeta._core import is_zero
from thinmeta.errors import DeviceInUseError, NoSpaceError, StreamError, UsageError
from thinmeta.stream.sidecar import Sidecar, Work, state_folder
from thinmeta.stream.targets.base import Target
from thinmeta.stream.targets.content import Content

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.identity import Identity
    from thinmeta.pool import Pool
    from thinmeta.stream.format import Header, Record
    from thinmeta.stream.sidecar import State
    from thinmeta.stream.targets.base import Begin, Evidence, Gathering
    from thinmeta.volume import WritableVolume

__all__ = ["PoolTarget", "evidence_of", "free_id"]

MAX_DEVICE_ID = (1 << 24) - 1
_AT_ONCE = 1 << 20


class PoolTarget(Target):
    """A thin device of a pool's images, or of devices that nobody uses.

    Args:
        metadata: The pool's metadata.
        data: The pool's data.
        device_id: The thin device, which need not be there yet.
    """

    def __init__(self, metadata: str, data: str, device_id: int) -> None:
        from shlex import quote

        words = f"{quote(metadata)} {device_id} --data {quote(data)}"
        super().__init__(f"device {device_id} of {metadata}", words)
        if not 0 <= device_id <= MAX_DEVICE_ID:
            raise UsageError(f"a device id cannot be {device_id}: 0 to {MAX_DEVICE_ID}")
        self._metadata, self._data, self._id = metadata, data, device_id
        self._pool: Pool | None = None
        #: Whether blocks of zeros are unmapped, also among others that are not.
        self._leaves_zeros_out = False

    def _find(self) -> None:
        found = os.stat(self._metadata)
        path = f"{os.path.realpath(self._metadata)}.device-{self._id}.thinmeta"
        if stat.S_ISBLK(found.st_mode):
            from thinmeta.stream.targets.device import device_key

            number = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
            name = f"{device_key(number)}.device-{self._id}.thinmeta"
            path = os.path.join(state_folder(), name)
        self._sidecar = Sidecar(path, self.name)

    def peek(self) -> State:
        """What is known of it, without locking it."""
        self._find()
        return self._sidecar.load()

    def _open(self) -> None:
        from thinmeta.pool import open_pool

        self._find()
        self._pool = open_pool(self._metadata, mode="r+", data=self._data)

    def _close(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    @property
    def _open_pool(self) -> Pool:
        assert self._pool is not None
        return self._pool

    def _evidence(self, held: Identity) -> Evidence | None:
        return evidence_of(self._open_pool, self._id)

    def _occupied(self) -> str:
        if self._id not in self._open_pool.devices:
            return ""
        held = self.state.held
        return "there is a volume" if held is None else f"it holds {held.describe()}"

    def _new_work(self, header: Header) -> Work:
        pool = self._open_pool
        free = free_id({*pool.devices, self._id})
        return Work(
            kind="device",
            identity=header.identity,
            base=header.base,
            resumable=header.resumable,
            device_id=free,
            # A snapshot lets the clock tick.
            creation_time=pool.superblock.time + (header.base is not None),
        )

    def _gather(self, work: Work, begin: Begin) -> Gathering:
        pool = self._open_pool
        if begin == "anew":
            if work.device_id in pool.devices:
                reason = f"thin device {work.device_id} was made just now by somebody else"
                raise DeviceInUseError(self._metadata, reason)
            with pool.transaction() as txn:
                if work.base is None:
                    txn.create_thin(work.device_id)
                else:
                    txn.create_snapshot(work.device_id, origin_id=self._id)
        elif begin == "resume" and not _is_there(pool, work):
            raise StreamError(
                f"{self.name}: thin device {work.device_id}, with what was received, is gone: "
                "send the whole volume from the beginning"
            )
        return _Device(pool, work, begin, leaves_zeros_out=self._leaves_zeros_out)

    def _gathered(self, work: Work) -> Content | None:
        return self._content_of(work.device_id)

    def content(self) -> Content:
        """Where what it holds can be read."""
        return self._content_of(self._id)

    @property
    def paths(self) -> tuple[str, ...]:
        """The pool's metadata and its data."""
        return self._metadata, self._data

    def _content_of(self, device_id: int) -> Content:
        pool = self._open_pool
        block_bytes = pool.superblock.data_block_size_bytes
        return Content(self.name, self._data, pool.devices[device_id], block_bytes)

    def _finish(self, work: Work) -> None:
        pool = self._open_pool
        if _is_there(pool, work):
            # By this it is known after a crash that it has happened.
            work.switch_time = pool.superblock.time + 1
            self._save()
            with pool.transaction() as txn:
                if self._id in txn.device_ids():
                    txn.delete(self._id)
                # All mappings are older than the new device, as those of any snapshot.
                txn.create_snapshot(self._id, origin_id=work.device_id)
                txn.delete(work.device_id)
        else:
            device = pool.devices.get(self._id)
            if device is None or device.creation_time != work.switch_time:
                raise StreamError(
                    f"{self.name}: thin device {work.device_id}, with all that was received, is "
                    "gone: send the whole volume with --overwrite"
                )
        self._holds(work.identity)


class _Device:
    """A temporary thin device; a checkpoint is a commit."""

    def __init__(self, pool: Pool, work: Work, begin: Begin, *, leaves_zeros_out: bool) -> None:
        self._pool, self._leaves_zeros_out = pool, leaves_zeros_out
        self._block_bytes = pool.superblock.data_block_size_bytes
        self._volume: WritableVolume | None = None
        if begin != "drop":
            size_bytes = work.identity.size_bytes
            self._volume = pool.devices[work.device_id].open(mode="r+", size_bytes=size_bytes)

    def write(self, record: Record | None, offset_bytes: int, content: memoryview) -> None:
        if not self._leaves_zeros_out:
            self._write(offset_bytes, content)
            return
        block, begin = self._block_bytes, 0
        for at in range(-offset_bytes % block, content.nbytes - block + 1, block):
            if is_zero(content[at : at + block]):
                self._write(offset_bytes + begin, content[begin:at])
                self.unmap(offset_bytes + at, block)
                begin = at + block
        self._write(offset_bytes + begin, content[begin:])

    def _write(self, offset_bytes: int, content: memoryview) -> None:
        assert self._volume is not None
        if content.nbytes:
            self._volume.seek(offset_bytes)
            self._volume.write(content)

    def unmap(self, offset_bytes: int, length_bytes: int) -> None:
        """Unmap whole blocks, and write zeros to the parts of others that show something."""
        volume, block = self._volume, self._block_bytes
        assert volume is not None
        end = offset_bytes + length_bytes
        first = -(-offset_bytes // block) * block
        last = end if end == volume.size_bytes else end // block * block
        if first >= last:
            self._zero(volume, offset_bytes, end)
            return
        volume.discard(first, last - first)
        self._zero(volume, offset_bytes, first)
        self._zero(volume, last, end)

    def _zero(self, volume: WritableVolume, begin: int, end: int) -> None:
        for at in range(begin, end, _AT_ONCE):
            part = memoryview(bytearray(min(_AT_ONCE, end - at)))
            volume.seek(at)
            volume.readinto(part)
            if not is_zero(part):
                volume.seek(at)
                volume.write(bytes(len(part)))

    def flush(self, work: Work) -> None:
        assert self._volume is not None
        self._volume.flush()

    def seal(self, work: Work) -> None:
        """Commit it, without what lies past the volume's end."""
        self.close()
        end_blocks = -(-work.identity.size_bytes // self._block_bytes)
        with self._pool.transaction() as txn:
            txn.remove_range(work.device_id, end_blocks, (1 << 64) - 1)

    def cut(self, work: Work) -> None:
        """What came after the last checkpoint comes again."""

    def drop(self, work: Work) -> None:
        try:
            self.close()
        except NoSpaceError:
            self._volume = None  # what could not be committed goes with the device
        if _is_there(self._pool, work):
            with self._pool.transaction() as txn:
                txn.delete(work.device_id)

    def close(self) -> None:
        if self._volume is not None:
            volume, self._volume = self._volume, None
            volume.close()


def evidence_of(pool: Pool, device_id: int) -> Evidence | None:
    """How a device looks now; ``None``: it is not there."""
    device = pool.devices.get(device_id)
    if device is None:
        return None
    digest, is_snapshot, _ = device._summary()
    # Nobody can write to it without a change of its mappings: it was made as a snapshot.
    return {
        "digest": digest.hex(),
        "creation_time": device.creation_time,
        "written": int(not is_snapshot),
    }


def free_id(taken: set[int]) -> int:
    """The highest id that is free."""
    return next(each for each in range(MAX_DEVICE_ID, -1, -1) if each not in taken)


def _is_there(pool: Pool, work: Work) -> bool:
    """Whether the temporary device is, and no other one that has its number by now."""
    device = pool.devices.get(work.device_id)
    return device is not None and device.creation_time == work.creation_time
