"""Random changes, made on one side and in the model alike."""

from collections.abc import Collection
from random import Random

from kernel.dm import SECTOR
from kernel.live import BLOCK_BYTES, BLOCK_SECTORS
from kernel.sides import Side
from kernel.world import MAX_DEVICE_ID, World, pattern

VOLUME_BLOCKS = 32
#: Writing stops when fewer data blocks than this are left.
SPARE_BLOCKS = 64


class Player:
    """Each change follows from the seed and the model, whoever makes it."""

    def __init__(self, world: World, rng: Random, *, max_volumes: int = 7) -> None:
        self.world, self.rng, self.max_volumes = world, rng, max_volumes
        self._writes = 0

    def play(self, side: Side, *, steps: int, leave_out: Collection[str] = ()) -> None:
        """Make random changes, of all kinds but those left out."""
        changes = {
            "write": 40,
            "write_blocks": 10,
            "discard": 12,
            "snapshot": 12,
            "create": 8,
            "delete": 6,
            "transaction_id": 5,
            "metadata_snapshot": 5,
            "commit": 4,
        }
        for kind in leave_out:
            del changes[kind]
        for change in self.rng.choices(list(changes), list(changes.values()), k=steps):
            getattr(self, f"_{change}")(side)

    def _volume(self) -> int | None:
        ids = sorted(self.world.volumes)
        return self.rng.choice(ids) if ids else None

    def _new_id(self) -> int | None:
        if len(self.world.volumes) >= self.max_volumes:
            return None
        low = self.rng.randrange(40)
        device_id = self.rng.choice([low, MAX_DEVICE_ID - low])
        return None if device_id in self.world.volumes else device_id

    def _create(self, side: Side) -> None:
        device_id = self._new_id()
        if device_id is not None:
            side.create_thin(device_id)
            self.world.create_thin(device_id, blocks=VOLUME_BLOCKS)

    def _snapshot(self, side: Side) -> None:
        device_id, origin_id = self._new_id(), self._volume()
        if device_id is not None and origin_id is not None:
            side.create_snapshot(device_id, origin_id=origin_id)
            self.world.create_snapshot(device_id, origin_id=origin_id)

    def _delete(self, side: Side) -> None:
        device_id = self._volume()
        if device_id is not None:
            side.delete(device_id)
            self.world.delete(device_id)

    def _write(self, side: Side) -> None:
        """Some sectors, in one block or across a few."""
        self._write_somewhere(side, SECTOR, [1, 8, 77, BLOCK_SECTORS, 2 * BLOCK_SECTORS + 5])

    def _write_blocks(self, side: Side) -> None:
        """Whole blocks, of which nothing of what was there is left."""
        self._write_somewhere(side, BLOCK_BYTES, [1, 1, 2, 4])

    def _write_somewhere(self, side: Side, unit: int, lengths: list[int]) -> None:
        device_id, length = self._volume(), unit * self.rng.choice(lengths)
        if device_id is None:
            return
        if self.world.used_data_blocks() > self.world.data_blocks - SPARE_BLOCKS:
            return
        blocks = self.world.volumes[device_id].blocks
        offset = self.rng.randint(0, (blocks * BLOCK_BYTES - length) // unit) * unit
        self._writes += 1
        data = pattern(f"write {self._writes}", length)
        side.write(device_id, offset, data, blocks=blocks)
        self.world.write(device_id, offset, data)

    def _discard(self, side: Side) -> None:
        device_id = self._volume()
        if device_id is None:
            return
        blocks = self.world.volumes[device_id].blocks
        begin = self.rng.randrange(blocks)
        end = self.rng.randint(begin + 1, min(begin + 9, blocks))
        side.discard(device_id, begin, end, blocks=blocks)
        self.world.discard(device_id, begin, end)

    def _transaction_id(self, side: Side) -> None:
        new = self.world.transaction_id + self.rng.choice([1, 1, 5, 2**33])
        side.set_transaction_id(self.world.transaction_id, new)
        self.world.transaction_id = new

    def _metadata_snapshot(self, side: Side) -> None:
        if self.world.held is None:
            side.reserve_metadata_snapshot()
            self.world.reserve_metadata_snapshot()
        else:
            side.release_metadata_snapshot()
            self.world.release_metadata_snapshot()

    def _commit(self, side: Side) -> None:
        side.commit()
