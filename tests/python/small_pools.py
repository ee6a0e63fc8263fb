"""Random pools that are small enough to have data: a model, metadata, and content.

The model keeps the pool's laws: a block that two devices map was mapped before the last
snapshot of either.
"""

from __future__ import annotations

import copy
import random
from collections import Counter
from functools import cache
from pathlib import Path

import thinmeta
from model import DeviceModel, PoolModel

BLOCK_BYTES = 65536
VIRTUAL_BLOCKS = 120
#: What is written at the last of them goes past it.
VOLUME_BYTES = (VIRTUAL_BLOCKS + 50) * BLOCK_BYTES


def random_pool(seed: int, *, most_blocks: int = 300) -> PoolModel:
    """A pool after a random history; its data blocks are taken here and there."""
    draw = random.Random(seed)
    pool = PoolModel(nr_data_blocks=draw.randint(30, most_blocks))
    pool.transaction_id = draw.randrange(5)
    scattered = draw.random() < 0.5
    for _ in range(draw.randint(5, 60)):
        kind = draw.randrange(10)
        devices = [*pool.devices.values()]
        if kind == 0 or not devices:
            new = draw.choice((draw.randrange(30), 2**24 - 1 - draw.randrange(3)))
            if new not in pool.devices:
                pool.devices[new] = DeviceModel(
                    new,
                    transaction_id=pool.transaction_id,
                    creation_time=pool.time,
                    snapshotted_time=pool.time,
                )
                pool.transaction_id += 1
            continue
        device = draw.choice(devices)
        if kind in (1, 2):
            new = next(each for each in range(2**24) if each not in pool.devices)
            pool.time += 1
            device.snapshotted_time = pool.time
            made = copy.deepcopy(device)
            made.id, made.transaction_id = new, pool.transaction_id
            made.creation_time = pool.time
            pool.devices[new] = made
        elif kind == 3 and draw.random() < 0.3:
            del pool.devices[device.id]
        elif kind == 4:
            begin = draw.randrange(VIRTUAL_BLOCKS)
            for block in range(begin, begin + draw.choice((1, 8, 40))):
                device.mappings.pop(block, None)
        else:
            _write(pool, device, draw, scattered=scattered)
    for device in pool.devices.values():
        device.mapped_blocks = len(device.mappings)
    pool.devices = dict(sorted(pool.devices.items()))
    assert_times(pool)
    return pool


def _write(pool: PoolModel, device: DeviceModel, draw: random.Random, *, scattered: bool) -> None:
    used = used_blocks(pool)
    free = [block for block in range(pool.nr_data_blocks) if block not in used]
    begin = draw.randrange(VIRTUAL_BLOCKS)
    for block in range(begin, begin + draw.choice((1, 3, 25))):
        found = device.mappings.get(block)
        if found is not None and found[1] >= device.snapshotted_time:
            continue  # in its place
        if not free:
            return
        where = draw.randrange(len(free)) if scattered else 0
        device.mappings[block] = (free.pop(where), pool.time)


def used_blocks(pool: PoolModel) -> set[int]:
    return {block for device in pool.devices.values() for block in device.blocks()}


def assert_times(pool: PoolModel) -> None:
    """What two devices map is older than the last snapshot of either.

    So nobody, the kernel least of all, writes it in its place.
    """
    users = Counter(block for device in pool.devices.values() for block in device.blocks())
    for device in pool.devices.values():
        assert device.snapshotted_time <= pool.time
        for virtual, (block, time) in device.mappings.items():
            assert time <= pool.time
            assert users[block] == 1 or time < device.snapshotted_time, (device.id, virtual)


@cache
def content(block: int) -> bytes:
    """What a data block has at first."""
    return random.Random(block).randbytes(512) * (BLOCK_BYTES // 512)


def make(pool: PoolModel, meta: Path) -> None:
    """The pool's metadata."""
    listing = meta.with_suffix(".xml")
    listing.write_bytes(pool.to_xml())
    thinmeta.restore(listing, meta)
    listing.unlink()


def make_data(pool: PoolModel, path: Path) -> None:
    """The pool's data: what is in use has content, everything else noise."""
    noise = b"\xa5" * BLOCK_BYTES
    used = used_blocks(pool)
    with path.open("wb") as file:
        for block in range(pool.nr_data_blocks):
            file.write(content(block) if block in used else noise)


def read(meta: Path) -> PoolModel:
    """What metadata say."""
    listing = meta.with_suffix(".read")
    thinmeta.dump(meta, listing)
    pool = PoolModel.from_xml(listing.read_bytes())
    listing.unlink()
    return pool


def block_of(data: Path, block: int) -> bytes:
    with data.open("rb") as file:
        file.seek(block * BLOCK_BYTES)
        return file.read(BLOCK_BYTES)
