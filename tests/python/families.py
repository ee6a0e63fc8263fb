"""Pools with devices that share blocks, each of which holds something else, and copies of them."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import thinmeta
from histories import History
from model import PoolModel
from streams import Source

if TYPE_CHECKING:
    from collections.abc import Iterator

#: So much content in one pool, at most.
CONTENT_BYTES = 24 << 20


class Family:
    """A pool in a file, what it should be, and what its data hold."""

    def __init__(self, folder: Path, model: PoolModel, image: Path, seed: int) -> None:
        self.meta, self.data, self.model = image, folder / "data.img", model
        self.block_bytes = model.block_bytes
        #: Data blocks with nothing but zeros.
        self.zeros: set[int] = set()
        draw = random.Random(seed)
        with self.data.open("w+b") as file:
            file.truncate(model.nr_data_blocks * self.block_bytes)
            for block in sorted(self.blocks()):
                if draw.random() < 0.1:
                    self.zeros.add(block)
                    continue
                place = block * self.block_bytes + 512 * draw.randrange(self.block_bytes // 512)
                os.pwrite(file.fileno(), b"%-511d\n" % block, place)

    @property
    def ids(self) -> list[int]:
        return list(self.model.devices)

    def blocks(self) -> set[int]:
        return {block for each in self.model.devices.values() for block in each.blocks()}

    def open(self) -> thinmeta.Pool:
        return thinmeta.open_pool(self.meta, data=self.data)

    def places(self, block_bytes: int) -> set[tuple[int, bytes]]:
        """Each different content of a place of a volume, in blocks of some size.

        Two blocks are the same if they are made of the same data blocks.
        """
        size, found = self.block_bytes, set()
        for device in self.model.devices.values():
            mappings = device.mappings
            for block in {
                place
                for virtual in mappings
                for place in range(
                    virtual * size // block_bytes, -(-(virtual + 1) * size // block_bytes)
                )
            }:
                first = block * block_bytes // size
                last = -(-(block + 1) * block_bytes // size)
                below = [mappings.get(each, (None, 0))[0] for each in range(first, last)]
                if below != [None] * len(below):
                    found.add((block, repr(below).encode()))
        return found


def random_families(folder: Path, seed: int) -> Iterator[Family]:
    """Pools of random histories, with snapshots of snapshots, that are not too large."""
    while True:
        here = folder / f"family-{seed}"
        here.mkdir()
        history = History(here / "meta.img", seed)
        for _ in range(40):
            history.step()
            # Whether somebody maps what somebody else maps, and not all of it.
            uses = Counter(
                data for each in history.model.devices.values() for data in each.blocks()
            )
            if len(uses) * history.model.block_bytes > CONTENT_BYTES or len(uses) > 250:
                break
        history.close()
        small = len(uses) * history.model.block_bytes <= CONTENT_BYTES
        if (
            small
            and len(history.model.devices) > 2
            and 1 in uses.values()
            and max(uses.values()) > 2
        ):
            yield Family(here, history.model, here / "meta.img", seed)
        seed += 1


def destination(folder: Path, sectors: int, data_bytes: int) -> Source:
    """An empty pool."""
    block = sectors * 512
    return Source(folder, sectors=sectors, data_blocks=-(-data_bytes // block))


def used_blocks(pool: Source) -> int:
    """Data blocks in use, as the space map counts them."""
    with pool.open() as opened:
        return opened.data_space.allocated


def assert_same(family: Family, copy: Source, called: dict[int, int]) -> None:
    """Every device reads the same bytes, wherever either of the two maps something."""
    with family.open() as before, copy.open() as after:
        theirs = after.superblock.data_block_size_bytes
        for old, new in called.items():
            mine = {
                virtual
                for run in before.devices[old].runs()
                for virtual in range(run.virtual_begin, run.virtual_begin + run.length_blocks)
            }
            others = {
                virtual
                for run in after.devices[new].runs()
                for virtual in range(run.virtual_begin, run.virtual_begin + run.length_blocks)
            }
            ranges = [(each * family.block_bytes, family.block_bytes) for each in mine]
            ranges += [(each * theirs, theirs) for each in others]
            end = max((begin + length for begin, length in ranges), default=512)
            with (
                before.devices[old].open(size_bytes=end) as source,
                after.devices[new].open(size_bytes=end) as volume,
            ):
                for begin, length in ranges:
                    assert _read(source, begin, length) == _read(volume, begin, length)


def _read(volume: thinmeta.Volume, begin: int, length: int) -> bytes:
    volume.seek(begin)
    found: bytes = volume.read(length)
    return found
