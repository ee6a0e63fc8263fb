"""A family: devices of one pool that are copied together, and what each has since another."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import replace

from thinmeta.errors import UsageError
from thinmeta.source import Changes, ImageGeneration, identity_of_device

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import TracebackType
    from typing import Self, TypeAlias

    from typing_extensions import Buffer

    from thinmeta.bookmark import Bookmark
    from thinmeta.identity import Identity
    from thinmeta.migrating.relatives import Plan
    from thinmeta.pool import Pool
    from thinmeta.source import Generation

    #: Columns of what has to be read and of what is zero, since another member, to an end.
    Columns: TypeAlias = "Callable[[Member | None, int], tuple[Buffer, Buffer]]"

__all__ = ["Member", "image_members", "looked_at", "size_in"]


class Member:
    """A device of a family; a :class:`thinmeta.source.Generation` that has a plan.

    Args:
        identity: Who it is; its size is one of whole blocks of the destination.
        columns: What it has since another.
        generation: What is read of it; ``None``: it is only looked at.
        size_bytes: Where that ends; there are zeros from there on.

    Attributes:
        identity: Who it is.
        volume_name: What people call it.
        plan: What is done, when that is known.
    """

    plan: Plan | None = None
    kept_base: None = None

    def __init__(
        self,
        identity: Identity,
        columns: Columns,
        generation: Generation | None = None,
        size_bytes: int | None = None,
    ) -> None:
        self.identity, self._columns, self._generation = identity, columns, generation
        self._end = identity.size_bytes if size_bytes is None else size_bytes
        self.volume_name = "" if generation is None else generation.volume_name

    def since(self, other: Member | None) -> Changes:
        """What it has that another has not; to the same end, whatever the other's."""
        base = None if other is None else other.identity
        return Changes(base, *self._columns(other, self.identity.size_bytes))

    # ---- what a generation has to say ----

    def changes(self, base: int | Bookmark | None) -> Changes:
        """All of it; since the relative: what is planned."""
        if base is None or self.plan is None:
            return self.since(None)
        return self.plan.changes

    def read_into(self, offset_bytes: int, buffer: Buffer) -> None:
        """Fill a buffer; threads may do so at the same time."""
        assert self._generation is not None
        with memoryview(buffer).cast("B") as view:
            there = min(max(self._end - offset_bytes, 0), view.nbytes)
            if there:
                self._generation.read_into(offset_bytes, view[:there])
            view[there:] = bytes(view.nbytes - there)

    def save_bookmark(self, path: str) -> Bookmark | None:
        """Nothing: whoever wants one asks the volume for it."""

    def keep(self) -> None:
        """Nothing to be done: what is read goes away by itself."""

    def leave_behind(self) -> None:
        """Nothing to be done here; see who opened it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        raised: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing to be done."""


def size_in(blocks_bytes: int, block_bytes: int) -> int:
    """A size in whole blocks, of which there is at least one."""
    return max(-(-blocks_bytes // block_bytes), 1) * block_bytes


def _ends(pool: Pool, device_ids: Iterable[int], block_bytes: int) -> dict[int, int]:
    """Where each device ends; a pool does not know how large a volume is.

    Raises:
        NoSuchDeviceError: The pool has no such device.
    """
    last = dict(pool._last_mapped())
    size = pool.superblock.data_block_size_bytes
    ends = {}
    for device_id in device_ids:
        block = last.get(pool.devices[device_id].id)
        ends[device_id] = size_in(0 if block is None else (block + 1) * size, block_bytes)
    return ends


def _columns(pool: Pool, device_id: int) -> Columns:
    """One state of one pool, that stands still: what has the same data block is the same."""
    device = pool.devices[device_id]

    def columns(other: Member | None, size: int) -> tuple[Buffer, Buffer]:
        return device._changes(None if other is None else other.identity.device_id, size, size)

    return columns


def looked_at(pool: Pool, device_ids: Iterable[int], block_bytes: int) -> Sequence[Member]:
    """Devices of which nothing is read.

    Args:
        pool: Its metadata, of one moment.
        device_ids: Which.
        block_bytes: Size of a data block of the destination.

    Raises:
        NoSuchDeviceError: The pool has no such device.
    """
    return [
        Member(identity_of_device(pool, device_id, size_bytes=end), _columns(pool, device_id))
        for device_id, end in _ends(pool, device_ids, block_bytes).items()
    ]


@contextmanager
def image_members(
    pool: Pool, device_ids: Iterable[int], block_bytes: int
) -> Iterator[Sequence[Member]]:
    """Open devices of a pool that nobody uses.

    Args:
        pool: Opened with ``data=``.
        device_ids: Which.
        block_bytes: Size of a data block of the destination.

    Raises:
        NoSuchDeviceError: The pool has no such device.
        UsageError: The pool was opened without ``data=``.
    """
    if pool.closed:
        raise UsageError("the pool is closed")
    with ExitStack() as stack:
        members = []
        for device_id, end in _ends(pool, device_ids, block_bytes).items():
            generation = ImageGeneration(pool, device_id, size_bytes=end)
            stack.enter_context(generation)
            identity = replace(generation.identity, size_is_known=False)
            members.append(Member(identity, _columns(pool, device_id), generation))
        yield members
