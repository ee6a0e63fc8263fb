"""A state of a volume that stands still, to be sent or backed up.

What is read, and what may be left out, is decided here and nowhere else:

* a block that is not mapped is not read: it shows zeros;
* a block is unchanged since a base only if that is proven: by the mappings of a snapshot
  in the same metadata, which share its data block, or by a bookmark and the time rule;
* everything else is read.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from thinmeta.bookmark import Bookmark
from thinmeta.errors import UsageError, WrongBaseError
from thinmeta.identity import Identity
from thinmeta.types import SECTOR_BYTES

log = logging.getLogger("thinmeta.source")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType
    from typing import BinaryIO, Protocol, Self, overload

    from typing_extensions import Buffer

    from thinmeta import _core
    from thinmeta.pool import Path, Pool
    from thinmeta.volume import Volume

    class Generation(Protocol):
        """One state of one volume; a context manager that lets go of it."""

        identity: Identity
        #: What people call the volume, if that is known.
        volume_name: str

        def changes(self, base: int | Bookmark | None) -> Changes:
            """What has to be read, and what is zero, to get here from a base."""

        def read_into(self, offset_bytes: int, buffer: Buffer) -> None:
            """Fill a buffer; threads may do so at the same time."""

        def save_bookmark(self, path: str) -> Bookmark | None:
            """Save what proves later that blocks are unchanged; None where nothing does."""

        @property
        def kept_base(self) -> Bookmark | None:
            """What was kept of the last one, if it is still there."""

        def keep(self) -> None:
            """Keep it as the base of the next one, if it is there for this only."""

        def leave_behind(self) -> None:
            """Let it stay, so that what was cut can be gone on with."""

        def __enter__(self) -> Self: ...
        def __exit__(
            self,
            raised: type[BaseException] | None,
            value: BaseException | None,
            traceback: TracebackType | None,
            /,
        ) -> None: ...


__all__ = [
    "Changes",
    "ImageGeneration",
    "Ranges",
    "device_changes",
    "identity_of_bookmark",
    "identity_of_device",
]


class Ranges(Sequence[tuple[int, int]]):
    """Ranges as ``(begin_bytes, length_bytes)``: ascending, none touching the next.

    A view of two numbers for each range, however many there are.
    """

    __slots__ = ("_numbers", "total_bytes")

    def __init__(self, numbers: Buffer) -> None:
        #: Where a range begins, and then how long it is.
        self._numbers: memoryview[int] = memoryview(numbers).cast("B").cast("Q")
        #: The sum of all lengths.
        self.total_bytes = sum(self._numbers[1::2])

    def __len__(self) -> int:
        return len(self._numbers) // 2

    def __iter__(self) -> Iterator[tuple[int, int]]:
        numbers = iter(self._numbers)
        return zip(numbers, numbers, strict=True)

    if TYPE_CHECKING:

        @overload
        def __getitem__(self, index: int) -> tuple[int, int]: ...

        @overload
        def __getitem__(self, index: slice) -> Sequence[tuple[int, int]]: ...

    def __getitem__(self, index: int | slice) -> tuple[int, int] | Sequence[tuple[int, int]]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return self._numbers[2 * index], self._numbers[2 * index + 1]

    @classmethod
    def of(cls, ranges: Iterable[tuple[int, int]]) -> Self:
        """Make one of pairs."""
        from array import array
        from itertools import chain

        return cls(array("Q", chain.from_iterable(ranges)))

    def __repr__(self) -> str:
        return f"<thinmeta.source.Ranges {len(self)} ranges, {self.total_bytes} bytes>"


class Changes:
    """What is to be done to a copy of the base.

    Attributes:
        base: The base's identity; ``None``: there is none, and the copy begins with nothing.
        data: Ranges whose content has to be read and written.
        zero: Ranges that show zeros.
        data_bytes: How many bytes ``data`` has.
        zero_bytes: How many bytes ``zero`` has.
    """

    __slots__ = ("base", "data", "data_bytes", "zero", "zero_bytes")

    def __init__(self, base: Identity | None, data: Buffer, zero: Buffer) -> None:
        self.base, self.data, self.zero = base, Ranges(data), Ranges(zero)
        self.data_bytes = self.data.total_bytes
        self.zero_bytes = self.zero.total_bytes


class ImageGeneration:
    """A volume of a pool that nobody uses, from its metadata and its data.

    Args:
        pool: Opened with ``data=``; it stays open.
        device_id: The volume.
        size_bytes: Its size; ``None`` takes the end of the highest mapped block.
        external_origin: What unmapped blocks show, where that is not zeros.
        flatten: Take what the external origin shows for content of the volume.
        pool_uuid: The uuid of the pool, if it is known.

    Raises:
        NoSuchDeviceError: The pool has no such device.
        UsageError: ``flatten`` without an origin, or no ``data=``.
    """

    #: Images do not know it.
    volume_name = ""

    def __init__(
        self,
        pool: Pool,
        device_id: int,
        *,
        size_bytes: int | None = None,
        external_origin: Path | BinaryIO | None = None,
        flatten: bool = False,
        pool_uuid: str = "",
    ) -> None:
        if flatten and external_origin is None:
            raise UsageError("there is no external origin whose content could be taken over")
        self._pool, self._flatten = pool, flatten
        self._device = pool.devices[device_id]
        self._volume: Volume = self._device.open(
            size_bytes=size_bytes, external_origin=external_origin
        )
        try:
            self.identity = identity_of_device(
                pool,
                device_id,
                size_bytes=size_bytes,
                external_origin=external_origin is not None and not flatten,
                pool_uuid=pool_uuid,
            )
            if size_bytes is not None:
                self._tell_of_more(size_bytes)
        except BaseException:
            self._volume.close()
            raise

    def _tell_of_more(self, size_bytes: int) -> None:
        """Warn if blocks are mapped past the size: it may be a wrong one."""
        with self._device.open() as volume:
            more = volume.size_bytes - size_bytes
        if more >= self._pool.superblock.data_block_size_bytes:
            log.warning(
                "device %d has blocks up to %d bytes past its size of %d, which are left out: it "
                "was shrunk, or the size is wrong",
                self._device.id,
                more,
                size_bytes,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        raised: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._volume.close()

    def changes(self, base: int | Bookmark | None) -> Changes:
        """What has to be read, and what is zero, to get here from a base.

        Args:
            base: Nothing; the id of a snapshot in the same pool; or a bookmark.

        Raises:
            WrongBaseError: The base cannot be one: a volume that was written, other data
                blocks, a later state, another pool.
            NoSuchDeviceError: The base is not in the pool (any more).
        """
        if self._flatten:
            if base is not None:
                raise UsageError("a volume with its external origin's content is sent whole")
            everything = Ranges.of([(0, self.identity.size_bytes)])
            return Changes(None, everything._numbers, b"")
        return device_changes(self._pool, self._device.id, self.identity, base)

    def read_into(self, offset_bytes: int, buffer: Buffer) -> None:
        """Fill a buffer from a place in the volume; threads may do so at the same time.

        Raises:
            OSError: The data cannot be read, or ends too early.
        """
        with memoryview(buffer) as view:
            count = self._volume._native.read_at(offset_bytes, view)
            if count != view.nbytes:
                raise UsageError(f"the volume ends before byte {offset_bytes + view.nbytes}")

    @property
    def kept_base(self) -> None:
        """None: nothing is kept of images."""

    def keep(self) -> None:
        """Nothing to be done: the image stays as it is."""

    def leave_behind(self) -> None:
        """Nothing to be done."""

    def save_bookmark(self, path: str) -> Bookmark | None:
        """Save the mappings, if they prove anything later: only those of a snapshot do."""
        if not self.identity.is_snapshot:
            return None
        size = self.identity.size_bytes if self.identity.size_is_known else None
        return Bookmark.save(self._device, path, size_bytes=size, pool_uuid=self.identity.pool_uuid)


def device_changes(
    pool: Pool,
    device_id: int,
    identity: Identity,
    base: int | Bookmark | None,
    *,
    progress: Callable[[int, int], object] | None = None,
) -> Changes:
    """What :meth:`Generation.changes` says, of a device of an open pool."""
    device, size = pool.devices[device_id], identity.size_bytes
    if base is None:
        return Changes(None, *device._changes(None, 0, size, progress=progress))
    side: int | _core.Bookmark
    if isinstance(base, Bookmark):
        before, side = identity_of_bookmark(base), base._native
        if before.pool_uuid and identity.pool_uuid and before.pool_uuid != identity.pool_uuid:
            raise WrongBaseError(
                f"the bookmark is of pool {before.pool_uuid}, and this is {identity.pool_uuid}"
            )
    else:
        before, side = identity_of_device(pool, base), base
        if not before.is_snapshot:
            raise WrongBaseError(
                f"device {base} was written since it was made, so that it proves nothing about "
                "what the target holds: use a snapshot as the base"
            )
    columns = device._changes(side, before.size_bytes, size, progress=progress)
    return Changes(before, *columns)


def identity_of_device(
    pool: Pool,
    device_id: int,
    *,
    size_bytes: int | None = None,
    external_origin: bool = False,
    pool_uuid: str = "",
) -> Identity:
    """Who a device of an open pool is; all its mappings are read.

    Args:
        pool: The pool.
        device_id: The device.
        size_bytes: Its size, if it is known; ``None`` takes the end of the last block.
        external_origin: Whether unmapped blocks show something else than zeros.
        pool_uuid: The uuid of the pool, if it is known.
    """
    device, superblock = pool.devices[device_id], pool.superblock
    digest, is_snapshot, end_blocks = device._summary()
    is_known = size_bytes is not None
    if size_bytes is None:
        size_bytes = end_blocks * superblock.data_block_size_bytes
    return Identity(
        digest=digest.hex(),
        device_id=device.id,
        creation_time=device.creation_time,
        pool_time=superblock.time,
        transaction_id=superblock.trans_id,
        data_block_size_sectors=superblock.data_block_size,
        size_bytes=size_bytes,
        size_is_known=is_known,
        is_snapshot=is_snapshot,
        external_origin=external_origin,
        pool_uuid=pool_uuid,
    )


def identity_of_bookmark(bookmark: Bookmark) -> Identity:
    """Who the snapshot was that a bookmark was saved of."""
    size = bookmark.size_bytes
    if size is None:
        size = bookmark.end_blocks * bookmark.data_block_size_sectors * SECTOR_BYTES
    return Identity(
        digest=bookmark.digest.hex(),
        device_id=bookmark.device_id,
        creation_time=bookmark.creation_time,
        pool_time=bookmark.pool_time,
        transaction_id=bookmark.transaction_id,
        data_block_size_sectors=bookmark.data_block_size_sectors,
        size_bytes=size,
        size_is_known=bookmark.size_bytes is not None,
        is_snapshot=True,
        external_origin=False,
        pool_uuid=bookmark.pool_uuid,
    )
