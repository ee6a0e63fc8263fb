"""Finding out whether a block device is a thin volume."""

from __future__ import annotations

import os
from typing import NamedTuple

from thinmeta.errors import LivePoolError
from thinmeta.types import SECTOR_BYTES

__all__ = ["ThinTarget", "thin_target"]

SYSFS = "/sys/dev/block"


class ThinTarget(NamedTuple):
    """A thin volume that is active.

    Attributes:
        block_bytes: Size of a data block of its pool.
        external_origin: Whether something else than zeros shows where nothing is mapped.
    """

    block_bytes: int
    external_origin: bool


def thin_target(number: str) -> ThinTarget | None:
    """What a device is; ``None``: no thin volume, or nothing says so.

    Args:
        number: ``major:minor``.
    """
    if not os.path.exists(f"{SYSFS}/{number}/dm"):
        return None
    from thinmeta.live import dmsetup
    from thinmeta.live.status import parse_pool_table, parse_thin_table

    try:
        name = dmsetup.info(f":{number}").name
        lines = dmsetup.table(name).splitlines()
        if len(lines) != 1 or lines[0].split()[2:3] != ["thin"]:
            return None
        thin = parse_thin_table(name, lines[0])
        pool = dmsetup.info(f":{thin.pool}").name
        table = parse_pool_table(pool, dmsetup.table(pool))
    except LivePoolError:
        return None  # zeros are written then, which is right anywhere
    block_bytes = table.data_block_size_sectors * SECTOR_BYTES
    return ThinTarget(block_bytes, thin.external_origin is not None)
