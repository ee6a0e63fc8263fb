"""Pools, opened from a metadata device or image."""

from __future__ import annotations

import os

from thinmeta import _core
from thinmeta.arguments import (
    MAX_U64,
    cache_argument,
    mode_argument,
    number,
    snapshot_argument,
    threads_argument,
)
from thinmeta.devices import Devices
from thinmeta.errors import NoSuchDeviceError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Any, Literal, Self, TypeAlias

    from thinmeta.bookmark import Bookmark
    from thinmeta.delta import Delta
    from thinmeta.devices import ThinDevice
    from thinmeta.rmap import ReverseMap
    from thinmeta.statistics import PoolStatistics
    from thinmeta.transaction import PoolTransaction
    from thinmeta.types import PoolState, SpaceUsage, Superblock

    Path: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]

__all__ = ["DEFAULT_CACHE_BYTES", "Pool", "open_pool"]

DEFAULT_CACHE_BYTES = 64 << 20


def open_pool(
    path: Path,
    *,
    mode: Literal["r", "r+"] = "r",
    metadata_snapshot: Literal["held"] | int | None = None,
    data: Path | None = None,
    cache_bytes: int = DEFAULT_CACHE_BYTES,
) -> Pool:
    """Open the metadata of a thin pool.

    A pool that is live in the kernel changes under a reader; of such a one only
    the metadata snapshot can be read. Without ``metadata_snapshot`` a device or
    file that somebody uses is refused.

    Args:
        path: The metadata device, or an image of it.
        mode: ``"r"`` reads, beside other readers; ``"r+"`` reads and writes, and keeps
            every other process out. Opening and closing write nothing.
        metadata_snapshot: ``None`` for the live superblock, ``"held"`` for the
            metadata snapshot that the pool holds, a number for one at that metadata
            block. None of them can be written.
        data: The data device, or an image of it; :meth:`ThinDevice.open` needs it.
        cache_bytes: How much of the metadata may be kept in memory.

    Returns:
        The pool, a context manager that closes it.

    Raises:
        OSError: The path cannot be opened or read.
        DeviceInUseError: Somebody uses it, and no snapshot was asked for.
        NotFormattedError: Block 0 is all zero.
        UnsupportedFormatError: It is something else; the message says what.
        DamagedBlockError: The superblock failed its check.
        NoMetadataSnapshotError: No metadata snapshot is held.
        UsageError: A mode, a snapshot or a cache that makes no sense; to write, a data
            device that is shorter than the pool's data.
        PoisonedError: This process failed to write it before, and the kernel still
            shows something else than the disk has.
        TypeError: A snapshot that is neither ``"held"`` nor a number; a bool is none.
    """
    mode_argument(mode)
    data = None if data is None else os.fsdecode(data)
    snapshot = snapshot_argument(metadata_snapshot)
    cache_bytes = cache_argument(cache_bytes)
    path = os.fsdecode(path)
    if mode == "r+":
        if snapshot is not None:
            raise UsageError("a metadata snapshot can only be read: mode='r'")
        import thinmeta.forks  # noqa: F401 # children are told

        return Pool(_core.Pool.open_writable(path, data=data, cache_bytes=cache_bytes))
    return Pool(_core.Pool(path, metadata_snapshot=snapshot, data=data, cache_bytes=cache_bytes))


class Pool:
    """An open thin pool: its superblock, its space, its devices.

    Made by :func:`open_pool` or :meth:`create`; a context manager. Once it is closed
    every use raises :class:`UsageError`.

    A pool that is open to be changed shows its last commit, also while a transaction is
    under way. Its devices follow the commits.
    """

    __slots__ = ("_devices", "_native")

    def __init__(self, native: _core.Pool) -> None:
        self._native = native
        self._devices = Devices(native)

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        data_block_size_sectors: int,
        data_blocks: int,
        metadata_blocks: int | None = None,
        overwrite: bool = False,
        data: Path | None = None,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> Self:
        """Make a pool without devices, and open it to be changed.

        Args:
            path: The metadata device or file.
            data_block_size_sectors: Size of a data block in sectors of 512 bytes: a
                multiple of 128, 128 to 2 097 152.
            data_blocks: Data blocks of the pool.
            metadata_blocks: Makes a file of so many blocks of 4096 bytes, or makes it
                longer; ``None`` takes the file or device as it is. More than 4 161 600
                are of no use.
            overwrite: Make the pool though there is something already.
            data: The data device, or an image of it, to write volumes.
            cache_bytes: How much of the metadata may be kept in memory.

        Raises:
            AlreadyFormattedError: Block 0 is not all zero, and ``overwrite`` is not set.
            DeviceInUseError: Somebody uses it.
            NoSpaceError: The metadata device is too small.
            UsageError: A size that cannot be; a data device that is shorter than so
                many blocks; a file that is not there and no ``metadata_blocks``.
            OSError: The path cannot be opened or written.
        """
        sectors = number(data_block_size_sectors, "data_block_size_sectors")
        if not 0 <= sectors < 2**32:
            raise UsageError(f"data blocks cannot have {sectors} sectors")
        counts = [number(data_blocks, "data_blocks")]
        if metadata_blocks is not None:
            counts.append(number(metadata_blocks, "metadata_blocks", "a number or None"))
        for count in counts:
            if not 0 <= count <= MAX_U64:
                raise UsageError(f"no pool can have {count} blocks")
        import thinmeta.forks  # noqa: F401 # children are told

        native = _core.Pool.create(
            os.fsdecode(path),
            data_block_size_sectors=sectors,
            data_blocks=counts[0],
            metadata_blocks=None if metadata_blocks is None else counts[1],
            overwrite=overwrite,
            data=None if data is None else os.fsdecode(data),
            cache_bytes=cache_argument(cache_bytes),
        )
        return cls(native)

    def __enter__(self) -> Self:
        if self.closed:
            raise UsageError("the pool is closed")
        return self

    def __exit__(
        self,
        raised: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        closed = " closed" if self.closed else ""
        return f"<thinmeta.Pool {self.path!r}{closed}>"

    @property
    def path(self) -> str:
        """The metadata device or image."""
        return self._native.path

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` has been called."""
        return self._native.closed

    def close(self) -> None:
        """Let go of the device; closing twice does nothing.

        What volumes have written is committed; an open transaction is rolled back.

        Raises:
            PoisonedError: The commit failed; the pool is closed all the same.
            AbortedError: So it is when writes of a volume were taken back and nobody was
                told yet.
            UsageError: The pool is in the middle of a call of this thread; it stays open.
        """
        self._native.close()

    @property
    def mode(self) -> Literal["r", "r+"]:
        """How it was opened."""
        return "r+" if self._native.writable else "r"

    @property
    def state(self) -> PoolState:
        """What it allows.

        ``"write"``: everything. ``"out_of_data_space"``: all but what takes a data
        block, until it grows or blocks become free. ``"read_only"``: the last commit can
        be read; it was opened so, ``needs_check`` is set, or a commit failed.
        ``"failed"``: it can only be closed.
        """
        return self._native.condition()

    def transaction(self, *, before_commit: Callable[[], object] | None = None) -> PoolTransaction:
        """Begin to change the pool.

        Args:
            before_commit: Called when all changes are made and before any of them is
                durable: to make data durable that new mappings point to. What it raises
                rolls the transaction back and goes on.

        Raises:
            ReadOnlyError: The pool was opened with ``mode="r"``, or its state is
                ``"read_only"``.
            UsageError: A transaction is open, a volume has changes that are not
                committed, or the pool is closed.
        """
        from thinmeta.transaction import PoolTransaction

        return PoolTransaction(self, self._native.transaction(), before_commit)

    @property
    def superblock(self) -> Superblock:
        """Every field of the superblock, or of the metadata snapshot's copy of it."""
        from thinmeta.types import Superblock

        return Superblock.from_fields(self._native.superblock())

    @property
    def devices(self) -> Devices:
        """The thin devices by id, in ascending order."""
        return self._devices

    @property
    def metadata_space(self) -> SpaceUsage:
        """How full the metadata device is, in metadata blocks of 4096 bytes.

        The kernel's own figure of free blocks, :attr:`free_metadata_blocks`, is smaller:
        it holds back a reserve.
        """
        return self._usage(*self._native.metadata_space())

    @property
    def free_metadata_blocks(self) -> int:
        """Free metadata blocks as the kernel counts them: without its reserve.

        That is a tenth of all, at most 4096 blocks.
        """
        return self._native.free_blocks()[1]

    @property
    def free_data_blocks(self) -> int:
        """Free data blocks."""
        return self._native.free_blocks()[0]

    @property
    def data_space(self) -> SpaceUsage:
        """How full the data device is, in data blocks."""
        return self._usage(*self._native.data_space())

    def delta(
        self,
        left: int | ThinDevice | Bookmark,
        right: int | ThinDevice | Bookmark,
        *,
        same: bool = False,
        threads: int | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> Delta:
        """Compare two volumes by their mappings; no data is read.

        What the two share as whole sub-trees is not even visited: the work grows
        with what differs, not with the size of the volumes.

        Args:
            left: A device's id, a thin device of this pool, or a bookmark: what a snapshot
                of this pool was, which may be gone by now. With a bookmark blocks are the
                same only if it proves that they are: the time of the mapping must be the
                same, too, and lie before the snapshot. The rest is ``"changed"``, even
                where both sides name one data block. All mappings are read then.
            right: The other one.
            same: List the ranges that are the same, too.
            threads: How many to use; ``None`` means the cores, at most 8.
            progress: Called now and then as ``progress(done, total)``.

        Returns:
            A table of ranges.

        Raises:
            NoSuchDeviceError: One of the ids is not there.
            UsageError: A device of another pool, or the pool is closed.
            WrongBaseError: The bookmark is of a pool with other data blocks, or of a later
                state than this one.
            StreamError: The bookmark has changed since it was opened.
            DamagedBlockError: A mapping node failed its check.
        """
        from thinmeta.delta import Delta

        sides = self._side(left, "left"), self._side(right, "right")
        threads = threads_argument(threads)
        return Delta(self._native.delta(*sides, same=same, threads=threads, progress=progress))

    def rmap(
        self,
        regions: Iterable[tuple[int, int]] | None = None,
        *,
        threads: int | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> ReverseMap:
        """Find out what lies where in the pool's data: the mappings, the other way round.

        Args:
            regions: Parts of the data device as ``(begin, end)``, in data blocks; ``None``
                means all of it. Parts that overlap or touch count as one.
            threads: How many to use; ``None`` means the cores, at most 8.
            progress: Called now and then as ``progress(done, total)``.

        Returns:
            A table of runs by data block. What several devices share is there for each of
            them. 24 bytes of memory for each run.

        Raises:
            UsageError: A region has no block, or the pool is closed.
            DamagedBlockError: A mapping node failed its check.
        """
        from thinmeta.rmap import ReverseMap

        asked = [(number(begin, "begin"), number(end, "end")) for begin, end in regions or ()]
        if regions is not None and not asked:
            raise UsageError("no region was given; None means all of the data")
        threads = threads_argument(threads)
        return ReverseMap(self._native.rmap(asked, threads=threads, progress=progress))

    def statistics(
        self,
        *,
        threads: int | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> PoolStatistics:
        """Find out what the pool is like: runs, sharing, seeks, shapes of trees, free space.

        Visits every mapping of the pool; nodes that devices share are visited once.

        Args:
            threads: How many to use; ``None`` means the cores, at most 8.
            progress: Called now and then as ``progress(done, total)``.

        Raises:
            DamagedBlockError: A block failed its check: nothing is said past damage.
            UsageError: The pool is closed.
        """
        from thinmeta.statistics import PoolStatistics

        numbers = self._native.statistics(threads=threads_argument(threads), progress=progress)
        return PoolStatistics.of(numbers, self.superblock.data_block_size_bytes)

    def exclusive_blocks(
        self,
        *,
        threads: int | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> dict[int, tuple[int, int]]:
        """Count what each device has for itself and what it shares.

        Visits every mapping of the pool.

        Args:
            threads: How many to use; ``None`` means the cores, at most 8.
            progress: Called now and then as ``progress(done, total)``.

        Returns:
            ``{device id: (exclusive, shared)}`` in data blocks: those that no other
            device maps, and those that others map too. Removing a device frees its
            exclusive blocks; but while the pool holds a metadata snapshot
            (``superblock.held_root`` is not 0), only those that the snapshot does
            not refer to.

        Raises:
            DamagedBlockError: A node failed its check.
        """
        return self._native.exclusive_blocks(threads=threads_argument(threads), progress=progress)

    def freed_if_deleted(
        self,
        device_ids: Iterable[int],
        *,
        threads: int | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> tuple[int, int]:
        """Count what would become free if all of these devices were deleted.

        That is not the sum of what each has for itself: what two snapshots share and
        nobody else has becomes free when both go. What a metadata snapshot refers to that
        the pool holds stays, until that is released.

        Args:
            device_ids: Thin devices of this pool.
            threads: How many to use; ``None`` means the cores, at most 8.
            progress: Called now and then as ``progress(done, total)``.

        Returns:
            Data blocks, and metadata blocks of the devices' trees; deleting takes and
            frees a few metadata blocks more.

        Raises:
            NoSuchDeviceError: One of them is not there.
            DamagedBlockError: A node failed its check.
        """
        ids = [number(device_id, "a device id") for device_id in device_ids]
        for device_id in ids:
            if not 0 <= device_id <= MAX_U64:
                raise NoSuchDeviceError(device_id)
        threads = threads_argument(threads)
        return self._native.freed_if_deleted(ids, threads=threads, progress=progress)

    def _side(self, side: int | ThinDevice | Bookmark, name: str) -> int | _core.Bookmark:
        from thinmeta.bookmark import Bookmark

        if isinstance(side, Bookmark):
            return side._native
        if isinstance(side, _core.ThinDevice):
            if side._pool() is not self._native:
                raise UsageError(
                    f"{name} is a device of another open pool ({side._pool().path}); "
                    "only devices of one pool can be compared"
                )
            return side.id
        device_id = number(side, name)
        if not 0 <= device_id <= MAX_U64:
            raise NoSuchDeviceError(device_id)
        return device_id

    def _usage(self, blocks: int, allocated: int) -> SpaceUsage:
        from thinmeta.types import SpaceUsage

        return SpaceUsage(blocks=blocks, free=blocks - allocated, allocated=allocated)

    def _superblock_fields(self) -> dict[str, Any]:
        """The superblock without the cost of a dataclass, for the command line."""
        return self._native.superblock()

    def _live_superblock_fields(self) -> dict[str, Any]:
        """Those of block 0, also where a metadata snapshot is read."""
        return self._native.live_superblock()

    def _space_numbers(self) -> tuple[int, int]:
        """Free metadata blocks, and data blocks, without the cost of a dataclass."""
        blocks, allocated = self._native.metadata_space()
        return blocks - allocated, self._native.data_space()[0]

    def _metadata_snapshot_held(self) -> bool:
        """Whether the pool holds a metadata snapshot, whichever superblock is read."""
        return self._native.metadata_snapshot_held()

    def _device_rows(self) -> list[tuple[int, int, int, int, int]]:
        """All devices at once, for the command line; in the order of their ids.

        Each is (id, mapped_blocks, transaction_id, creation_time, snapshotted_time).
        """
        return self._native.device_rows()

    def _same_devices(self) -> None:
        """Raise if only one of the pool's trees has a device, for the drop-ins."""
        self._native.same_devices()

    def _last_mapped(self) -> list[tuple[int, int | None]]:
        """Each device's id and highest mapped block, in the order of the ids."""
        return self._native.last_mapped()

    def _write_delta(
        self,
        out_fd: int,
        left: int,
        right: int,
        *,
        left_is_root: bool,
        right_is_root: bool,
        verbose: bool,
        progress: Callable[[int, int], object] | None,
    ) -> None:
        """Write a comparison as thin_delta 1.x does.

        Each side is a device's id, or the block of a tree's root.
        """
        self._native.write_delta(
            out_fd,
            left,
            right,
            left_is_root=left_is_root,
            right_is_root=right_is_root,
            verbose=verbose,
            progress=progress,
        )

    def _dump(
        self,
        out_fd: int,
        *,
        format: str,
        shared: bool,
        device_ids: list[int] | None,
        skip_mappings: bool,
        transaction_id: int | None,
        data_block_size_sectors: int | None,
        nr_data_blocks: int | None,
        progress: Callable[[int, int], object] | None,
    ) -> None:
        """Write a dump, also in the peers' newer words (``"xml-1.x"``, ``"human-1.x"``).

        Devices that are not there are passed over.
        """
        self._native.dump(
            out_fd,
            format=format,
            shared=shared,
            device_ids=device_ids,
            skip_mappings=skip_mappings,
            transaction_id=transaction_id,
            data_block_size_sectors=data_block_size_sectors,
            nr_data_blocks=nr_data_blocks,
            progress=progress,
        )
