"""A family: devices of one pool that are copied together, and what each has since another."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

from thinmeta.errors import UsageError
from thinmeta.source import Changes, ImageGeneration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from typing_extensions import Buffer

    from thinmeta.bookmark import Bookmark
    from thinmeta.identity import Identity
    from thinmeta.migrating.relatives import Plan
    from thinmeta.pool import Pool

__all__ = ["Member", "image_members"]


class Member:
    """A device of a family; a :class:`thinmeta.source.Generation` that has a plan.

    Args:
        pool: Its pool, which nobody changes meanwhile.
        generation: What is read of it.

    Attributes:
        identity: Who it is. A pool does not know how large a volume is: it ends with the last
            block, of the destination's size.
        volume_name: What people call it.
        plan: What is done, when that is known.
    """

    plan: Plan | None = None
    kept_base: None = None

    def __init__(self, pool: Pool, generation: ImageGeneration) -> None:
        self._pool, self._generation = pool, generation
        self.identity: Identity = replace(generation.identity, size_is_known=False)
        self.volume_name = generation.volume_name

    def since(self, other: Member | None) -> Changes:
        """What it has that another has not; to the same end, whatever the other's."""
        device, size = self._pool.devices[self.identity.device_id], self.identity.size_bytes
        if other is None:
            return Changes(None, *device._changes(None, 0, size))
        # One state of one pool, that stands still: what has the same data block is the same,
        # though it were written in place.
        return Changes(other.identity, *device._changes(other.identity.device_id, size, size))

    # ---- what a generation has to say ----

    def changes(self, base: int | Bookmark | None) -> Changes:
        """All of it; since the relative: what is planned."""
        if base is None or self.plan is None:
            return self.since(None)
        return self.plan.changes

    def read_into(self, offset_bytes: int, buffer: Buffer) -> None:
        """Fill a buffer; threads may do so at the same time."""
        self._generation.read_into(offset_bytes, buffer)

    def save_bookmark(self, path: str) -> Bookmark | None:
        """Save its mappings, if they prove anything later."""
        return self._generation.save_bookmark(path)

    def keep(self) -> None:
        """Nothing to be done: images stay."""

    def leave_behind(self) -> None:
        """Nothing to be done."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        raised: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._generation.__exit__(raised, value, traceback)


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
        UsageError: One comes twice; no ``data=``.
    """
    from contextlib import ExitStack

    ids = list(device_ids)
    ends = dict(pool._last_mapped())
    with ExitStack() as stack:
        members = []
        for device_id in ids:
            if ids.count(device_id) > 1:
                raise UsageError(f"device {device_id} is named twice")
            pool.devices[device_id]  # says which is not there
            last = ends.get(device_id)
            end = 0 if last is None else (last + 1) * pool.superblock.data_block_size_bytes
            size = max(-(-end // block_bytes), 1) * block_bytes
            generation = ImageGeneration(pool, device_id, size_bytes=size)
            members.append(stack.enter_context(Member(pool, generation)))
        yield members
