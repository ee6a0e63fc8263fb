"""The device of a live pool: what it is called, what it is made of, how it is."""

from __future__ import annotations

import os
import re
from functools import cached_property

from thinmeta.errors import LivePoolError
from thinmeta.live import dmsetup
from thinmeta.live.lvm import pool_of
from thinmeta.live.nodes import check_node, node_of
from thinmeta.live.status import LiveStatus, parse_pool_status, parse_pool_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from thinmeta.live.lvm import LvmPool
    from thinmeta.live.status import DeviceInfo, PoolTable

__all__ = ["PoolDevice"]


class PoolDevice:
    """What device-mapper knows of a pool; :class:`LivePool` is what can be done with it."""

    def __init__(self, device: DeviceInfo, table: PoolTable) -> None:
        self._device, self._table = device, table
        self._lvm = pool_of(device.name, device.uuid)

    @property
    def name(self) -> str:
        """What device-mapper calls it; of a pool of LVM ``vg-pool-tpool``."""
        return self._device.name

    @property
    def uuid(self) -> str:
        """Its device-mapper uuid, or empty."""
        return self._device.uuid

    @property
    def device_number(self) -> str:
        """``major:minor``."""
        return self._device.number

    @property
    def identity(self) -> str:
        """What tells it from all other pools: the uuid, or else number and name."""
        return self.uuid or f"{self.device_number}-{self.name}"

    @property
    def lvm(self) -> LvmPool | None:
        """The same pool in LVM's books; ``None`` if LVM does not manage it."""
        return self._lvm

    @property
    def path(self) -> str:
        """Its device node."""
        return node_of(self.device_number)

    @property
    def metadata_path(self) -> str:
        """The node of its metadata device."""
        return node_of(self._table.metadata)

    @property
    def data_path(self) -> str:
        """The node of its data device."""
        return node_of(self._table.data)

    @property
    def data_block_size_sectors(self) -> int:
        """Size of a data block, in sectors of 512 bytes."""
        return self._table.data_block_size_sectors

    @property
    def low_water_mark_blocks(self) -> int:
        """So few free data blocks cause an event."""
        return self._table.low_water_mark_blocks

    @property
    def features(self) -> tuple[str, ...]:
        """The features that it was activated with, such as ``skip_block_zeroing``."""
        return self._table.features

    @property
    def kernel_version(self) -> tuple[int, ...]:
        """The version of the running kernel, its numbers: ``(6, 1, 176)``."""
        found = re.match(r"\d+(?:\.\d+)*", os.uname().release)
        return tuple(map(int, found[0].split("."))) if found else ()

    @cached_property
    def target_version(self) -> tuple[int, int, int]:
        """The version of the kernel's thin-pool target.

        Raises:
            LivePoolError: ``dmsetup`` does not say.
        """
        found = dmsetup.targets(self.name).get("thin-pool")
        if found is None:
            raise LivePoolError(self.name, "dmsetup does not tell the thin-pool target's version")
        return found

    def check_nodes(self, *, data: bool = True) -> None:
        """Make sure that the device nodes are there, and are those of the pool.

        Args:
            data: Whether the data device is needed, too.

        Raises:
            LivePoolError: One is gone, or is another device's.
        """
        check_node(self.name, self.metadata_path, self._table.metadata)
        if data:
            check_node(self.name, self.data_path, self._table.data)

    def status(self) -> LiveStatus:
        """How it is now; the kernel is not made to commit anything.

        Raises:
            LivePoolError: It is gone, or ``dmsetup`` fails.
        """
        return parse_pool_status(self.name, dmsetup.status(self.name, self.uuid))

    def refresh(self) -> None:
        """Look again at what it is called, and at its devices.

        Raises:
            LivePoolError: It is gone, or ``dmsetup`` fails.
        """
        self._device = dmsetup.info(self.name, self.uuid)
        self._table = parse_pool_table(self.name, dmsetup.table(self.name, self.uuid))

    def tell(self, *words: object, keep: Sequence[int] = (), proof: int | None = None) -> None:
        """Send a message as it is, which is for this package's own use.

        Raises:
            LivePoolError: The kernel refuses it.
        """
        dmsetup.message(self.name, words, uuid=self.uuid, keep=keep, proof=proof)
