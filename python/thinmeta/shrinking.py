"""A pool on fewer data blocks: what lies past the new end moves below it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from thinmeta import _core
from thinmeta.arguments import MAX_U64, number
from thinmeta.errors import UsageError
from thinmeta.files import is_same_file
from thinmeta.new_metadata import NewMetadata
from thinmeta.types import NewPool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from thinmeta.pool import Path

__all__ = ["ShrinkPlan", "Shrunk", "plan_shrink", "shrink"]

#: Data that are copied between two notes in the journal, each of which costs two flushes.
BATCH_BYTES = 128 << 20


@dataclass(frozen=True, slots=True)
class ShrinkPlan:
    """What a shrink moves.

    Attributes:
        block_bytes: Size of a data block.
        data_blocks: Data blocks of the pool.
        used_blocks: Of these, how many some device maps.
        highest_used_block: The last of them; ``None`` in an empty pool.
        new_data_blocks: Data blocks afterwards; as many as there are where the plan is for
            no number.
        moved_blocks: Data blocks to copy, each once, however many devices map it.
        moves: In how many pieces.
    """

    block_bytes: int
    data_blocks: int
    used_blocks: int
    highest_used_block: int | None
    new_data_blocks: int
    moved_blocks: int
    moves: int

    @property
    def moved_bytes(self) -> int:
        """How much data is copied."""
        return self.moved_blocks * self.block_bytes

    @property
    def smallest_data_blocks(self) -> int:
        """How far the pool could be shrunk."""
        return max(self.used_blocks, 1)


@dataclass(frozen=True, slots=True)
class Shrunk:
    """What a shrink did.

    Attributes:
        plan: What was moved.
        pool: The metadata that were made.
        resumed_blocks: Of the moved blocks, how many an earlier run had copied.
    """

    plan: ShrinkPlan
    pool: NewPool
    resumed_blocks: int


def plan_shrink(
    path: Path,
    *,
    data_blocks: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> ShrinkPlan:
    """Find out what :func:`shrink` would move; nothing is written.

    Without ``data_blocks`` it tells how far the pool could be shrunk. The other arguments
    are those of :func:`shrink`, and so are the errors of reading.
    """
    planned = _planned(path, data_blocks, progress)
    return ShrinkPlan(**planned.outlook())


def shrink(
    path: Path,
    data: Path | None,
    out: Path,
    *,
    data_blocks: int,
    copy: bool = True,
    size_bytes: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Shrunk:
    """Make a pool fit on a shorter data device.

    The blocks that are in use at or past the new end, and no others, are copied to places
    that are free, and metadata are made that say where they are, for ``data_blocks`` data
    blocks. The pool itself stays whole: its metadata are not written, nor is any data block
    that it uses. Once the new metadata are there, exchange them for the old ones, and make
    the data device shorter. From the first use of either, the other is worth nothing.

    The data are durable before anything appears at ``out``. What was copied is noted in a
    small file beside it (of a block device: in the folder for the state of devices), so
    that the same call goes on after a crash: it compares what it had copied, and copies the
    rest. The pool must not be used meanwhile.

    Args:
        path: The pool's metadata, a device or an image, which nobody may be using.
        data: Its data device or image. ``None`` only where nothing is copied.
        out: Where the new metadata go: a file, which is made if it is absent, or a block
            device; whole, or not at all.
        data_blocks: How many data blocks the pool is to have.
        copy: Whether to copy the data. Without that the new metadata are right only for
            data that somebody else has copied.
        size_bytes: How large a file is to be. ``None``: as large as the one that is there,
            or twice what is in use in a new one.
        progress: Called now and then as ``progress(done, total)``, in bytes of data.

    Returns:
        What was moved and made.

    Raises:
        NoSpaceError: More data blocks are in use than there would be, or the output is too
            small. As all that follow, it comes before anything was written.
        MetadataSnapshotHeldError: The pool holds a metadata snapshot: release it first.
        ReadOnlyError: The pool has to be checked first.
        DamagedBlockError: It is damaged.
        UsageError: The pool has fewer data blocks than that; two of the three places are one; the
            data device is too small to be the pool's.
        DeviceInUseError: Somebody uses one of them.
        OSError: One of them cannot be read or written. This may come later, too.
    """
    return shrink_marked(
        path,
        data,
        out,
        data_blocks=data_blocks,
        copy=copy,
        size_bytes=size_bytes,
        ignore_marks=False,
        progress=progress,
    )


def shrink_marked(
    path: Path,
    data: Path | None,
    out: Path,
    *,
    data_blocks: int,
    copy: bool,
    size_bytes: int | None = None,
    ignore_marks: bool = True,
    progress: Callable[[int, int], object] | None = None,
) -> Shrunk:
    """:func:`shrink`, also of a pool that has to be checked or holds a metadata snapshot.

    Neither is so of what is made. It is what the peers do; what only the metadata snapshot
    shows may be overwritten.
    """
    source, target = os.fsdecode(path), os.fsdecode(out)
    where = None if data is None else os.fsdecode(data)
    if where is not None and os.path.exists(source) and is_same_file(os.stat(source), where):
        raise UsageError(f"{where} is the metadata, not the data")
    planned = _planned(source, data_blocks, None, ignore_marks=ignore_marks)
    plan = ShrinkPlan(**planned.outlook())
    if copy and where is None:
        raise UsageError("the pool's data are needed to copy them")
    inputs = (source,) if where is None else (source, where)
    with NewMetadata(target, inputs=inputs, size_bytes=size_bytes) as new:
        # Built first: where that does not fit, nothing is copied.
        fields = planned.build(new.descriptor, new.name, grows=new.grows)
        copied = None
        if copy and where is not None:
            copied = _Copying(planned, plan, where, target, progress)
        try:
            if copied is not None:
                copied.run()
            new.built(fields["metadata_blocks_used"])
        finally:
            planned.close()
    if copied is not None:
        copied.journal.remove()
    return Shrunk(plan, NewPool(**fields), copied.resumed_blocks if copied is not None else 0)


def _planned(
    path: Path,
    data_blocks: int | None,
    progress: Callable[[int, int], object] | None,
    *,
    ignore_marks: bool = False,
) -> _core.Shrink:
    blocks = None if data_blocks is None else number(data_blocks, "data_blocks")
    if blocks is not None and not 0 <= blocks <= MAX_U64:
        raise UsageError(f"no pool can have {blocks} data blocks")
    return _core.Shrink(
        os.fsdecode(path), data_blocks=blocks, ignore_marks=ignore_marks, progress=progress
    )


class _Copying:
    """The data on their way, with notes of how far they are."""

    def __init__(
        self,
        planned: _core.Shrink,
        plan: ShrinkPlan,
        data: str,
        out: str,
        progress: Callable[[int, int], object] | None,
    ) -> None:
        from thinmeta.shrink_journal import ShrinkJournal

        self._planned, self._plan, self._progress = planned, plan, progress
        planned.open_data(data)
        self.journal = ShrinkJournal(out, planned.digest())
        #: Moved blocks that were there already.
        self.resumed_blocks = 0

    def run(self) -> None:
        blocks, step = self._plan.moved_blocks, max(BATCH_BYTES // self._plan.block_bytes, 1)
        noted = min(self.journal.load(), blocks)
        for begin in range(0, blocks, step):
            end, report = min(begin + step, blocks), self._report(begin)
            # Nothing in the metadata tells whether the pool was used since: a block may
            # have been written in its place. So what was copied is looked at again.
            if end <= noted and self._planned.is_copied(begin, end, progress=report):
                self.resumed_blocks += end - begin
                continue
            self._planned.copy(begin, end, progress=report)
            if end > noted:
                self.journal.note(end)

    def _report(self, begin: int) -> Callable[[int, int], object] | None:
        """Progress of a batch, as a part of all of it."""
        progress = self._progress
        if progress is None:
            return None
        before, total = begin * self._plan.block_bytes, self._plan.moved_bytes
        return lambda done, _: progress(before + done, total)
