"""Changing a pool: transactions."""

from __future__ import annotations

from thinmeta.arguments import MAX_U64, number
from thinmeta.ending import Ending
from thinmeta.errors import NoSuchDeviceError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from thinmeta import _core
    from thinmeta._core import BlockMapping
    from thinmeta.pool import Pool
    from thinmeta.types import DeviceDetails

__all__ = ["PoolTransaction"]


def _word(value: object, what: str) -> int:
    """Check a number of 64 bits.

    Raises:
        TypeError: It is no int, or a bool.
        UsageError: It does not fit.
    """
    found = number(value, what)
    if not 0 <= found <= MAX_U64:
        raise UsageError(f"{what} cannot be {found}")
    return found


def _existing(device_id: object) -> int:
    """Check the id of a device that ought to be there."""
    found = number(device_id, "a device id")
    if not 0 <= found <= MAX_U64:
        raise NoSuchDeviceError(found)
    return found


class PoolTransaction(Ending):
    """A change of a pool, all of it or nothing; made by :meth:`Pool.transaction`.

    As a context manager it commits when the block is left quietly, and rolls back when
    it is left by an exception, which goes on. One that is never ended is rolled back
    when it is collected, with a :class:`ResourceWarning`.

    Whatever it changes, the pool and its devices show the last commit until this one is
    made; the methods here show what this transaction has made of it. A call is done as a
    whole or leaves no trace, but for one: when it fails half-way (no metadata left, a
    damaged block), the transaction answers everything with :class:`AbortedError` until
    it is rolled back.

    Blocks count as the pool counts them: data blocks of
    ``Superblock.data_block_size_bytes``, metadata blocks of 4096 bytes.
    """

    __slots__ = ("_before_commit", "_pool")

    _native: _core.PoolTransaction

    def __init__(
        self,
        pool: Pool,
        native: _core.PoolTransaction,
        before_commit: Callable[[], object] | None,
    ) -> None:
        self._pool = pool
        self._native = native
        self._before_commit = before_commit

    def __repr__(self) -> str:
        ended = " ended" if self.ended else ""
        return f"<thinmeta.PoolTransaction of {self._pool.path!r}{ended}>"

    def commit(self) -> None:
        """Make all changes durable, at once, and end the transaction.

        Where nothing was changed nothing is written. When it fails, everything is rolled
        back and the transaction has ended.

        Raises:
            PoisonedError: A write or a flush failed; the pool has to be opened again.
                ``needs_check_set`` tells whether the superblock asks for a check now.
            NoSpaceError: There is no metadata left; nothing was written.
            AbortedError: A change failed half-way before.
            UsageError: The transaction has ended.
        """
        if self._before_commit is not None and not self.ended:
            try:
                self._before_commit()
            except BaseException:
                if not self.ended:
                    self.abort()
                raise
        super().commit()

    def create_thin(self, device_id: int) -> None:
        """Make a thin device without mappings.

        Args:
            device_id: 0 to 2**24 - 1.

        Raises:
            DeviceExistsError: There is one of this id.
            UsageError: An id that cannot be.
            NoSpaceError: There is no metadata left.
        """
        self._native.create_thin(_word(device_id, "a device id"))

    def create_snapshot(self, device_id: int, *, origin_id: int) -> None:
        """Make a device that is what another is now, at the same cost whatever its size.

        What a filesystem on the origin has not written yet is not in it.

        Raises:
            DeviceExistsError: There is one of this id.
            NoSuchDeviceError: There is no origin.
            UsageError: An id that cannot be; the pool's clock would pass 24 bits.
            NoSpaceError: There is no metadata left.
        """
        self._native.create_snapshot(_word(device_id, "a device id"), _existing(origin_id))

    def delete(self, device_id: int) -> None:
        """Take a device out, with all it has for itself.

        Raises:
            NoSuchDeviceError: There is none of this id.
            DamagedBlockError: A node of its mappings failed its check.
        """
        self._native.delete(_existing(device_id))

    def insert(self, device_id: int, *, virtual_block: int, data_block: int) -> bool:
        """Map a block of a device to a data block; whether it was not mapped before.

        The mapping takes a reference of its own on the data block, or the one that
        :meth:`allocate_data` has reserved. What was mapped there loses one.

        A block that another mapping has is for that to be removed before the commit, as
        when a block moves: whoever writes to either, the kernel for one, takes a mapping
        of this transaction for the only one, and writes in its place. Of a block that a
        device has twice, :func:`thinmeta.check` says so (``mapping-doubled``).

        Raises:
            NoSuchDeviceError: There is no such device.
            UsageError: A block past the end of either device, or a data block that was
                freed in this transaction: a crash would go back to what it holds.
            NoSpaceError: There is no metadata left.
        """
        virtual_block = _word(virtual_block, "a virtual block")
        data_block = _word(data_block, "a data block")
        return self._native.insert(_existing(device_id), virtual_block, data_block)

    def insert_many(self, device_id: int, virtual_blocks: object, data_blocks: object) -> int:
        """Map many blocks in one call.

        Args:
            device_id: The device.
            virtual_blocks: Unsigned 64-bit numbers in any buffer or in Arrow, for example
                a NumPy array of uint64, in any order; of one that comes twice the last
                mapping counts. Ascending order is fastest.
            data_blocks: As many. One that comes twice gets two references.

        Returns:
            How many virtual blocks were not mapped before.

        Raises:
            UsageError: As for :meth:`insert`, or columns of different length; nothing
                was mapped then.
            NoSuchDeviceError: There is no such device.
            NoSpaceError: There is no metadata left.
            TypeError: They hold no 64-bit integers.
        """
        return self._native.insert_many(_existing(device_id), virtual_blocks, data_blocks)

    def allocate_data(self) -> int:
        """Reserve a data block that is free now and was at the last commit.

        The first mapping to it takes the reservation over. One that is not taken ends
        with the transaction.

        Raises:
            NoSpaceError: ``space`` tells whether data or metadata is short.
        """
        return self._native.allocate_data()

    def remove(self, device_id: int, virtual_block: int) -> bool:
        """Unmap a block; whether it was mapped.

        Raises:
            NoSuchDeviceError: There is no such device.
        """
        return self._native.remove(_existing(device_id), _word(virtual_block, "a virtual block"))

    def remove_range(self, device_id: int, begin: int, end: int) -> int:
        """Unmap the blocks from ``begin`` up to, but not including, ``end``.

        Returns:
            How many of them were mapped. What is not mapped costs nothing.

        Raises:
            NoSuchDeviceError: There is no such device.
            UsageError: The range is reversed.
        """
        begin, end = _word(begin, "a virtual block"), _word(end, "the end of a range")
        return self._native.remove_range(_existing(device_id), begin, end)

    def set_transaction_id(self, expected: int, new: int) -> None:
        """Set the number that userspace keeps in a pool, LVM for one.

        Raises:
            StaleTransactionError: It is not ``expected``.
        """
        expected = _word(expected, "a transaction id")
        self._native.set_transaction_id(expected, _word(new, "a transaction id"))

    def reserve_metadata_snapshot(self) -> int:
        """Hold a metadata snapshot: it shows what this transaction will have committed.

        Returns:
            Its metadata block, ``held_root`` of the superblock after the commit.

        Raises:
            MetadataSnapshotHeldError: The pool holds one.
            NoSpaceError: There is no metadata left.
        """
        return self._native.reserve_metadata_snapshot()

    def release_metadata_snapshot(self) -> None:
        """Let go of the metadata snapshot, with all it has for itself.

        Raises:
            NoMetadataSnapshotError: The pool holds none.
            DamagedBlockError: A block of it failed its check.
        """
        self._native.release_metadata_snapshot()

    def grow_data(self, blocks: int) -> None:
        """Make room for data: ``blocks`` data blocks in all.

        A data image that the pool was opened with is made as long, and stays so whatever
        becomes of the transaction; a block device has to be.

        Raises:
            UsageError: Fewer than there are, or more than the device has.
            NoSpaceError: The metadata cannot hold their counts.
        """
        self._native.grow_data(_word(blocks, "a number of blocks"))

    def grow_metadata(self, blocks: int) -> None:
        """Make room for metadata: ``blocks`` blocks of 4096 bytes in all.

        A file is made as long, and stays so whatever becomes of the transaction; a block
        device has to be.

        Raises:
            UsageError: Fewer than there are, more than the device has, or more than
                4 161 600.
            NoSpaceError: The new blocks cannot even hold their own counts.
        """
        self._native.grow_metadata(_word(blocks, "a number of blocks"))

    def inc_data(self, begin: int, end: int) -> None:
        """Hold a reference on each data block of a range, all of which are in use.

        None of them is used again, though it is unmapped, before :meth:`dec_data`: for
        instance until what it held was discarded. No disk knows who holds it: what is
        held when the pool is closed stays allocated until it is repaired.

        Raises:
            UsageError: A block that is not there or not in use.
        """
        self._native.inc_data(_word(begin, "a data block"), _word(end, "the end of a range"))

    def dec_data(self, begin: int, end: int) -> None:
        """Drop references that :meth:`inc_data` took, in this transaction or before.

        Raises:
            UsageError: A block that is not held; a mapping's reference goes with it only.
        """
        self._native.dec_data(_word(begin, "a data block"), _word(end, "the end of a range"))

    def data_count(self, block: int) -> int:
        """How many references a data block has: one for each leaf entry that maps it.

        Devices that share a leaf count once.

        Raises:
            UsageError: There is no such block.
        """
        return self._native.data_count(_word(block, "a data block"))

    def block_is_shared(self, block: int) -> bool:
        """Whether a data block has more than one reference.

        Raises:
            UsageError: There is no such block.
        """
        return self._native.block_is_shared(_word(block, "a data block"))

    def device_ids(self) -> list[int]:
        """Ids of all devices, ascending, as of now."""
        return self._native.device_ids()

    def device(self, device_id: int) -> DeviceDetails:
        """A device's counters as of now.

        Raises:
            NoSuchDeviceError: There is none of this id.
        """
        from thinmeta.types import DeviceDetails

        return DeviceDetails(*self._native.device(_existing(device_id)))

    def find(self, device_id: int, virtual_block: int) -> BlockMapping | None:
        """What a virtual block is mapped to as of now; ``None`` where it is not.

        Raises:
            NoSuchDeviceError: There is no such device.
        """
        return self._native.find(_existing(device_id), _word(virtual_block, "a virtual block"))

    def is_changed(self, device_id: int) -> bool:
        """Whether this transaction has made, snapshotted or changed a device.

        Raises:
            NoSuchDeviceError: There is none of this id.
        """
        return self._native.is_changed(_existing(device_id))

    @property
    def changed(self) -> bool:
        """Whether there is anything to commit."""
        return self._native.changed()

    @property
    def transaction_id(self) -> int:
        """Userspace's own number as of now."""
        return self._native.numbers()[0]

    @property
    def time(self) -> int:
        """The pool's clock as of now: one tick a snapshot."""
        return self._native.numbers()[1]

    @property
    def held_root(self) -> int:
        """Metadata block of the metadata snapshot as of now, 0 for none."""
        return self._native.numbers()[2]

    @property
    def data_blocks(self) -> int:
        """Data blocks of the pool as of now."""
        return self._native.sizes()[0]

    @property
    def used_data_blocks(self) -> int:
        """Data blocks that have a reference now: what is in use after a commit."""
        return self._native.sizes()[1]

    @property
    def metadata_blocks(self) -> int:
        """Metadata blocks of the pool as of now."""
        return self._native.sizes()[2]

    @property
    def free_data_blocks(self) -> int:
        """Data blocks that can be allocated now: those freed since the last commit cannot."""
        return self._native.free_blocks()[0]

    @property
    def free_metadata_blocks(self) -> int:
        """Metadata blocks that can be allocated now, without the kernel's reserve.

        A tenth of the device, at most 4096 blocks, is kept for what frees space.
        """
        return self._native.free_blocks()[1]
