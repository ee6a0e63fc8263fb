"""A metadata device and a data device for one test, as small as it wants, to grow later."""

from contextlib import ExitStack
from typing import NamedTuple, Self

import thinmeta
from kernel import blockdev
from kernel.dm import SECTOR, Device, Target
from kernel.live import BLOCK_SECTORS, LivePool
from kernel.world import World
from thinmeta import Pool

METADATA_BLOCK_BYTES = 4096
METADATA_BLOCK_SECTORS = METADATA_BLOCK_BYTES // SECTOR


class Place(NamedTuple):
    """Where a device begins."""

    path: str
    begin_sector: int = 0


METADATA, DATA = Place("/dev/ubda"), Place("/dev/ubdb")


class Disks:
    """Two devices on the guest's disks; a context manager that removes them.

    What is on them is what the last test has left; :meth:`clear` makes room for a pool.
    """

    def __init__(
        self,
        *,
        metadata_blocks: int = 1024,
        data_blocks: int = 512,
        metadata_on: Place = METADATA,
        data_on: Place = DATA,
    ) -> None:
        self.metadata_blocks, self.data_blocks = metadata_blocks, data_blocks
        self._metadata_on, self._data_on = metadata_on, data_on
        with ExitStack() as stack:
            self._metadata = stack.enter_context(Device("metadata", self._metadata_target()))
            self._data = stack.enter_context(Device("data", self._data_target()))
            self._devices = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._devices.close()

    def clear(self) -> None:
        """Make block 0 zero: a new pool may be made here, by us or by the kernel."""
        blockdev.write(self.metadata, 0, bytes(METADATA_BLOCK_BYTES))

    @property
    def metadata(self) -> str:
        return self._metadata.path

    @property
    def data(self) -> str:
        return self._data.path

    def grow(self, *, metadata_blocks: int | None = None, data_blocks: int | None = None) -> None:
        """Make the devices larger; whoever uses them has to be told."""
        self.metadata_blocks = metadata_blocks or self.metadata_blocks
        self.data_blocks = data_blocks or self.data_blocks
        self._metadata.reload(self._metadata_target())
        self._data.reload(self._data_target())

    def live_pool(self) -> LivePool:
        """The pool, activated by the kernel on all of the data device."""
        return LivePool(self.metadata, self.data, data_blocks=self.data_blocks)

    def make_pool(self) -> Pool:
        """A new pool of ours, on all of the metadata device and all of the data device."""
        return Pool.create(
            self.metadata,
            data_block_size_sectors=BLOCK_SECTORS,
            data_blocks=self.data_blocks,
            data=self.data,
        )

    def open_pool(self) -> Pool:
        """The pool, opened by us for writing."""
        return thinmeta.open_pool(self.metadata, mode="r+", data=self.data)

    def world(self) -> World:
        """What a new pool is that uses all of them."""
        return World(metadata_blocks=self.metadata_blocks, data_blocks=self.data_blocks)

    def _metadata_target(self) -> Target:
        length = self.metadata_blocks * METADATA_BLOCK_SECTORS
        return Target(
            length, "linear", f"{self._metadata_on.path} {self._metadata_on.begin_sector}"
        )

    def _data_target(self) -> Target:
        length = self.data_blocks * BLOCK_SECTORS
        return Target(length, "linear", f"{self._data_on.path} {self._data_on.begin_sector}")
