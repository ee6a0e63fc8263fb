"""Random histories of a pool, done to the library and to a model at once."""

from __future__ import annotations

import copy
import random
from array import array
from pathlib import Path

import thinmeta
from model import DeviceModel, PoolModel

#: Virtual blocks of the devices made here.
VIRTUAL_BLOCKS = 3000


class History:
    """A pool in a file and what it should be; each step is one transaction."""

    def __init__(self, image: Path, seed: int, *, metadata_blocks: int = 1500) -> None:
        self.random = random.Random(seed)
        self.image = image
        image.unlink(missing_ok=True)
        blocks = self.random.choice((700, 5000, 40_000))
        sectors = self.random.choice((128, 384))
        self.model = PoolModel(data_block_size_sectors=sectors, nr_data_blocks=blocks)
        #: What the metadata snapshot shows, if one is held.
        self.held: PoolModel | None = None
        self._to_hold = False
        self.pool = thinmeta.Pool.create(
            image,
            data_block_size_sectors=sectors,
            data_blocks=blocks,
            metadata_blocks=metadata_blocks,
        )

    def step(self) -> None:
        """One transaction of a few changes, committed or rolled back."""
        model, held = copy.deepcopy(self.model), self.held
        self._to_hold = False
        txn = self.pool.transaction()
        for _ in range(self.random.randint(1, 8)):
            self._change(txn)
        if self.random.random() < 0.2:
            txn.abort()
            self.model, self.held = model, held
            return
        txn.commit()
        for device in self.model.devices.values():
            device.mapped_blocks = len(device.mappings)
        self.model.devices = dict(sorted(self.model.devices.items()))
        if self._to_hold:
            self.held = copy.deepcopy(self.model)
            # What a listing of a metadata snapshot says of the data device.
            self.held.nr_data_blocks = 0

    def close(self) -> None:
        self.pool.close()

    def reopen(self) -> None:
        self.pool = thinmeta.open_pool(self.image, mode="r+")

    def _change(self, txn: thinmeta.PoolTransaction) -> None:
        model, draw = self.model, self.random
        device = draw.choice([*model.devices.values()]) if model.devices else None
        kind = draw.randrange(14)
        if device is None or kind == 0:
            device_id = draw.choice((draw.randrange(60), draw.randrange(2**24), 2**24 - 1))
            if device_id not in model.devices:
                txn.create_thin(device_id)
                model.devices[device_id] = DeviceModel(
                    device_id,
                    transaction_id=model.transaction_id,
                    creation_time=model.time,
                    snapshotted_time=model.time,
                )
        elif kind in (1, 2):
            self._snapshot(txn, device)
        elif kind == 3:
            txn.delete(device.id)
            del model.devices[device.id]
        elif kind in (4, 5, 6):
            self._write(txn, device)
        elif kind == 7:
            self._insert_many(txn, device)
        elif kind == 8:
            block = draw.choice([*device.mappings, draw.randrange(VIRTUAL_BLOCKS)])
            assert txn.remove(device.id, block) == (device.mappings.pop(block, None) is not None)
        elif kind in (9, 10):
            begin = draw.randrange(VIRTUAL_BLOCKS)
            end = begin + draw.choice((3, 300, VIRTUAL_BLOCKS))
            gone = [block for block in device.mappings if begin <= block < end]
            for block in gone:
                del device.mappings[block]
            assert txn.remove_range(device.id, begin, end) == len(gone)
        elif kind == 11:
            new = model.transaction_id + draw.randrange(3)
            txn.set_transaction_id(model.transaction_id, new)
            model.transaction_id = new
        elif kind == 12:
            if self.held or self._to_hold:
                txn.release_metadata_snapshot()
                self.held, self._to_hold = None, False
            else:
                txn.reserve_metadata_snapshot()
                self._to_hold = True
        else:
            model.nr_data_blocks += draw.randrange(20_000)
            txn.grow_data(model.nr_data_blocks)

    def _snapshot(self, txn: thinmeta.PoolTransaction, origin: DeviceModel) -> None:
        model = self.model
        device_id = next(each for each in range(2**24) if each not in model.devices)
        txn.create_snapshot(device_id, origin_id=origin.id)
        model.time += 1
        origin.snapshotted_time = model.time
        made = copy.deepcopy(origin)
        made.id, made.transaction_id = device_id, model.transaction_id
        made.creation_time = model.time
        model.devices[device_id] = made

    def _write(self, txn: thinmeta.PoolTransaction, device: DeviceModel) -> None:
        """Map a run of blocks to data blocks of its own, as writing does."""
        at = self.random.randrange(VIRTUAL_BLOCKS)
        for block in range(at, at + self.random.choice((1, 20, 300))):
            try:
                data = txn.allocate_data()
            except thinmeta.NoSpaceError as error:
                if error.space != "data":
                    raise
                return
            txn.insert(device.id, virtual_block=block, data_block=data)
            device.mappings[block] = (data, self.model.time)

    def _insert_many(self, txn: thinmeta.PoolTransaction, device: DeviceModel) -> None:
        """Map blocks that nobody has: one that somebody has would be written in its place."""
        pools = [self.model, *([self.held] if self.held else [])]
        used = {
            block for pool in pools for each in pool.devices.values() for block in each.blocks()
        }
        free = [block for block in range(self.model.nr_data_blocks) if block not in used]
        count = min(self.random.choice((5, 1000)), len(free))
        virtual = array("Q", (self.random.randrange(VIRTUAL_BLOCKS) for _ in range(count)))
        data = array("Q", self.random.sample(free, count))
        try:
            added = txn.insert_many(device.id, virtual, data)
        except thinmeta.UsageError as error:
            if "was freed" not in str(error):
                raise
            return
        before = len(device.mappings)
        for block, where in zip(virtual, data, strict=True):
            device.mappings[block] = (where, self.model.time)
        assert added == len(device.mappings) - before
