"""The two who change a pool: the kernel and thinmeta, with the same words for both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self

from kernel import blockdev
from kernel.live import BLOCK_BYTES, LivePool, LiveVolume
from kernel.world import pieces

if TYPE_CHECKING:
    from thinmeta import Pool, PoolTransaction
    from thinmeta.volume import WritableVolume


class Side(Protocol):
    """One who changes a pool, a change at a time."""

    def create_thin(self, device_id: int) -> None: ...
    def create_snapshot(self, device_id: int, *, origin_id: int) -> None: ...
    def delete(self, device_id: int) -> None: ...
    def write(self, device_id: int, offset: int, data: bytes, *, blocks: int) -> None: ...
    def discard(self, device_id: int, begin: int, end: int, *, blocks: int) -> None: ...
    def set_transaction_id(self, expected: int, new: int) -> None: ...
    def reserve_metadata_snapshot(self) -> None: ...
    def release_metadata_snapshot(self) -> None: ...
    def commit(self) -> None: ...


class KernelSide:
    """Changes by the kernel; volumes stay active once they were needed."""

    def __init__(self, pool: LivePool) -> None:
        self.pool = pool
        self.create_thin = pool.create_thin
        self.create_snapshot = pool.create_snapshot
        self.delete = pool.delete
        self.set_transaction_id = pool.set_transaction_id
        self.reserve_metadata_snapshot = pool.reserve_metadata_snapshot
        self.release_metadata_snapshot = pool.release_metadata_snapshot

    def write(self, device_id: int, offset: int, data: bytes, *, blocks: int) -> None:
        self._volume(device_id, blocks).write(offset, data)

    def discard(self, device_id: int, begin: int, end: int, *, blocks: int) -> None:
        self._volume(device_id, blocks).discard(begin, end)

    def commit(self) -> None:
        self.pool.status()

    def _volume(self, device_id: int, blocks: int) -> LiveVolume:
        return self.pool.activate(device_id, blocks=blocks)


class OurSide:
    """Changes by thinmeta; a context manager that commits, or rolls back.

    What belongs to the structure is done in a transaction, content is written to volumes,
    or, every other time, by hand: allocate, write, insert. With ``by_hand`` that is all,
    and everything up to a commit is one transaction.
    """

    def __init__(self, pool: Pool, data: str, *, by_hand: bool = False) -> None:
        self.pool, self.data, self.by_hand = pool, data, by_hand
        self._transaction: PoolTransaction | None = None
        self._volumes: dict[int, WritableVolume] = {}
        self._turn = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, raised: type[BaseException] | None, *_: object) -> None:
        if raised is None:
            self.commit()
        elif self._transaction is not None:
            self._transaction.abort()
            self._transaction = None

    def create_thin(self, device_id: int) -> None:
        self._change().create_thin(device_id)

    def create_snapshot(self, device_id: int, *, origin_id: int) -> None:
        self._change().create_snapshot(device_id, origin_id=origin_id)

    def delete(self, device_id: int) -> None:
        self._change().delete(device_id)

    def set_transaction_id(self, expected: int, new: int) -> None:
        self._change().set_transaction_id(expected, new)

    def reserve_metadata_snapshot(self) -> None:
        """Take one of the pool as it is now, as the kernel does.

        A transaction's own shows all of it, what is changed afterwards too.
        """
        self._change().reserve_metadata_snapshot()
        self.commit()

    def release_metadata_snapshot(self) -> None:
        self._change().release_metadata_snapshot()

    def grow(self, *, metadata_blocks: int, data_blocks: int) -> None:
        """Take the devices' new sizes."""
        transaction = self._change()
        transaction.grow_metadata(metadata_blocks)
        transaction.grow_data(data_blocks)

    def write(self, device_id: int, offset: int, data: bytes, *, blocks: int) -> None:
        if self._next_by_hand():
            self.write_by_hand(device_id, offset, data)
            return
        volume = self._volume(device_id, blocks)
        volume.seek(offset)
        assert volume.write(data) == len(data)

    def write_by_hand(self, device_id: int, offset: int, data: bytes) -> None:
        """Put new blocks under a part of a volume, as a tool does that brings its own data."""
        transaction = self._change()
        for virtual, begin, piece in pieces(offset, data):
            content = bytearray(BLOCK_BYTES)
            old = transaction.find(device_id, virtual)
            if old is not None:
                content[:] = blockdev.read(self.data, old.data_block * BLOCK_BYTES, BLOCK_BYTES)
            content[begin : begin + len(piece)] = piece
            block = transaction.allocate_data()
            blockdev.write(self.data, block * BLOCK_BYTES, bytes(content), flush=False)
            transaction.insert(device_id, virtual_block=virtual, data_block=block)

    def discard(self, device_id: int, begin: int, end: int, *, blocks: int) -> None:
        if self._next_by_hand():
            self._change().remove_range(device_id, begin, end)
            return
        volume = self._volume(device_id, blocks)
        volume.discard(begin * BLOCK_BYTES, (end - begin) * BLOCK_BYTES)

    def commit(self) -> None:
        if self._transaction is not None:
            self._transaction.commit()
            self._transaction = None
        while self._volumes:
            self._volumes.popitem()[1].close()

    def _change(self) -> PoolTransaction:
        """The open transaction; what volumes have gathered is committed before."""
        if self._transaction is None:
            self.commit()
            # What is written by hand is made durable when all of it is there.
            self._transaction = self.pool.transaction(
                before_commit=lambda: blockdev.flush(self.data)
            )
        return self._transaction

    def _volume(self, device_id: int, blocks: int) -> WritableVolume:
        if self._transaction is not None:
            self.commit()
        if device_id not in self._volumes:
            self._volumes[device_id] = self.pool.devices[device_id].open(
                mode="r+", size_bytes=blocks * BLOCK_BYTES
            )
        return self._volumes[device_id]

    def _next_by_hand(self) -> bool:
        self._turn += 1
        return self.by_hand or self._turn % 2 == 0
