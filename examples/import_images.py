#!/usr/bin/env python3
"""Make a thin pool of disk images, without a kernel and without root.

    import_images.py METADATA DATA IMAGE...

Each image becomes a volume, numbered from 1, with a snapshot of it as it came (1001, 1002
and so on). Blocks of zeros are left out: they are holes. The kernel, or LVM after a swap of
metadata, can use the pool as it is.
"""

import sys
from pathlib import Path

import thinmeta

BLOCK_SECTORS = 128
BLOCK_BYTES = BLOCK_SECTORS * 512
#: Twice the images, and something for new snapshots.
ROOM = 2


def main(metadata: Path, data: Path, images: list[Path]) -> None:
    sizes = [image.stat().st_size for image in images]
    data_blocks = ROOM * sum(-(-size // BLOCK_BYTES) for size in sizes) + 64
    with data.open("xb") as file:
        file.truncate(data_blocks * BLOCK_BYTES)
    # A leaf of 4096 bytes holds 252 mappings; half full, and once more for snapshots.
    metadata_blocks = 64 + data_blocks // 16_320 + 4 * data_blocks // 252
    with thinmeta.Pool.create(
        metadata,
        data=data,
        data_block_size_sectors=BLOCK_SECTORS,
        data_blocks=data_blocks,
        metadata_blocks=metadata_blocks,
    ) as pool:
        with pool.transaction() as txn:
            for device_id in range(1, len(images) + 1):
                txn.create_thin(device_id)
        for device_id, (image, size) in enumerate(zip(images, sizes, strict=True), 1):
            copy(image, pool.devices[device_id], size)
        with pool.transaction() as txn:
            for device_id in range(1, len(images) + 1):
                txn.create_snapshot(1000 + device_id, origin_id=device_id)
        for device_id, image in enumerate(images, 1):
            mapped = pool.devices[device_id].mapped_blocks
            print(f"{image.name}: volume {device_id}, {mapped} blocks, snapshot {1000 + device_id}")
        if not thinmeta.check(pool).is_clean:
            sys.exit("the pool is not sound: please report this")


def copy(image: Path, device: thinmeta.ThinDevice, size: int) -> None:
    """Write what is not zero; closing the volume commits it."""
    with image.open("rb") as source, device.open(mode="r+", size_bytes=size) as volume:
        while block := source.read(BLOCK_BYTES):
            if any(block):
                volume.seek(source.tell() - len(block))
                volume.write(block)


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), [Path(word) for word in sys.argv[3:]])
