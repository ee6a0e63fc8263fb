"""Thin pools that the kernel has active, through the program ``dmsetup``.

::

    live = thinmeta.live_pool("vg/pool")
    print(live.status().used_data_blocks)
    with live.metadata_snapshot() as pool:
        for device in pool.devices.values():
            print(device.id, device.mapped_blocks)

Nothing here asks the kernel directly: ``dmsetup`` is on every host that has such a pool,
and for pools of LVM its own programs change what LVM keeps books of.
"""

from thinmeta.live.lvm import LvmPool, LvmVolume
from thinmeta.live.pool import LivePool, live_pool
from thinmeta.live.snapshots import MetadataSnapshot
from thinmeta.live.status import LiveStatus, LiveVolume
from thinmeta.live.temporary import TemporarySnapshot

__all__ = [
    "LivePool",
    "LiveStatus",
    "LiveVolume",
    "LvmPool",
    "LvmVolume",
    "MetadataSnapshot",
    "TemporarySnapshot",
    "live_pool",
]
