"""What one large transaction of a pool adds to a process; `benches/run pools` reads its peak.

    memory.py hold   POOL VIRTUAL DATA COUNT    imports and arrays alone
    memory.py insert POOL VIRTUAL DATA COUNT    and the mappings: one transaction, one call

Run as `python -m writing.memory`. The arrays are read into place.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from writing import columns
from writing.plain import SECTORS
from writing.session import DEVICE, metadata_blocks


def main() -> None:
    what, path, virtual, data, count = sys.argv[1:]
    pool_type = importlib.import_module("thinmeta").Pool
    blocks, places = columns.read(virtual, int(count)), columns.read(data, int(count))
    if what != "insert":
        return
    Path(path).unlink(missing_ok=True)
    with pool_type.create(
        path,
        data_block_size_sectors=SECTORS,
        data_blocks=2 * int(count),
        metadata_blocks=metadata_blocks(int(count)),
    ) as pool:
        with pool.transaction() as txn:
            txn.create_thin(DEVICE)
            txn.insert_many(DEVICE, blocks, places)


if __name__ == "__main__":
    main()
