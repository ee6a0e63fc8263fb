"""A pool that the kernel has activated, and its volumes."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Self

from kernel import blockdev
from kernel.dm import SECTOR, Device, Target

BLOCK_SECTORS = 128
BLOCK_BYTES = BLOCK_SECTORS * SECTOR
# What cannot be, or is not wanted, is said at once: else the log has a warning about it.
FEATURES = ("no_discard_passdown", "error_if_no_space")


@dataclass(frozen=True)
class PoolStatus:
    """The kernel's line on a pool, and what matters of it here."""

    line: str
    transaction_id: int
    used_metadata_blocks: int
    used_data_blocks: int
    data_blocks: int
    held_root: int | None
    mode: str
    needs_check: bool

    @classmethod
    def parse(cls, line: str) -> Self:
        words = line.split()
        assert len(words) > 4, f"the pool has failed: {line}"
        used, total = map(int, words[2].split("/"))
        return cls(
            line=line,
            transaction_id=int(words[0]),
            used_metadata_blocks=int(words[1].split("/")[0]),
            used_data_blocks=used,
            data_blocks=total,
            held_root=None if words[3] == "-" else int(words[3]),
            mode=words[4],
            needs_check="needs_check" in words,
        )


class LiveVolume:
    """An active volume, read and written as a user of it would."""

    def __init__(self, device: Device) -> None:
        self.device = device

    def read(self, offset: int, length: int) -> bytes:
        return blockdev.read(self.device.path, offset, length)

    def write(self, offset: int, data: bytes) -> None:
        blockdev.write(self.device.path, offset, data)

    def discard(self, begin: int, end: int) -> None:
        """Unmap data blocks."""
        length = (end - begin) * BLOCK_BYTES
        blockdev.discard(self.device.path, begin * BLOCK_BYTES, length)

    def mapped_blocks(self) -> int:
        return int(self.device.status().split()[0]) // BLOCK_SECTORS


class LivePool:
    """A pool in the kernel; a context manager that takes it, and its volumes, down."""

    def __init__(self, metadata: str, data: str, *, data_blocks: int) -> None:
        self.metadata, self.data = metadata, data
        self.device = Device("pool", self._target(data_blocks))
        self._volumes: dict[int, Device] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as stack:
            stack.callback(self.device.remove)
            for device_id in list(self._volumes):
                stack.callback(self.deactivate, device_id)

    def _target(self, data_blocks: int) -> Target:
        features = f"{len(FEATURES)} {' '.join(FEATURES)}"
        parameters = f"{self.metadata} {self.data} {BLOCK_SECTORS} 0 {features}"
        return Target(data_blocks * BLOCK_SECTORS, "thin-pool", parameters)

    def activate(self, device_id: int, *, blocks: int) -> LiveVolume:
        """A volume to read and write; it stays active."""
        if device_id not in self._volumes:
            target = Target(blocks * BLOCK_SECTORS, "thin", f"{self.device.path} {device_id}")
            self._volumes[device_id] = Device(f"thin-{device_id}", target)
        return LiveVolume(self._volumes[device_id])

    def deactivate(self, device_id: int) -> None:
        device = self._volumes.pop(device_id, None)
        if device is not None:
            device.remove()

    @contextmanager
    def active(self, device_id: int, *, blocks: int) -> Iterator[LiveVolume]:
        """A volume for a moment."""
        yield self.activate(device_id, blocks=blocks)
        self.deactivate(device_id)

    def create_thin(self, device_id: int) -> None:
        self.device.message(f"create_thin {device_id}")

    def create_snapshot(self, device_id: int, *, origin_id: int) -> None:
        """As LVM does it: the origin stands still meanwhile."""
        with ExitStack() as stack:
            origin = self._volumes.get(origin_id)
            if origin is not None:
                stack.enter_context(origin.suspended())
            self.device.message(f"create_snap {device_id} {origin_id}")

    def delete(self, device_id: int) -> None:
        self.deactivate(device_id)
        self.device.message(f"delete {device_id}")

    def set_transaction_id(self, expected: int, new: int) -> None:
        self.device.message(f"set_transaction_id {expected} {new}")

    def reserve_metadata_snapshot(self) -> None:
        self.device.message("reserve_metadata_snap")

    def release_metadata_snapshot(self) -> None:
        self.device.message("release_metadata_snap")

    def resize(self, data_blocks: int) -> None:
        """Take the data device's, and the metadata device's, new size."""
        self.device.reload(self._target(data_blocks))

    def status(self) -> PoolStatus:
        """How it is; everything that came before is committed then."""
        return PoolStatus.parse(self.device.status())
