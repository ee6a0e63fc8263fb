"""Copying: threads read ahead and hash, the caller's thread writes."""

from __future__ import annotations

from typing import NamedTuple

from thinmeta.migrating.ahead import ahead
from thinmeta.migrating.pieces import BATCH_BYTES, Chain, Reader
from thinmeta.stream.planning import batches_of, pieces_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from thinmeta.migrating.pieces import Read
    from thinmeta.source import Changes, Generation
    from thinmeta.stream.targets import Target

__all__ = ["CHECKPOINT_BYTES", "Copied", "How", "copy"]

#: So much content, or so much of the volume that was told, between two checkpoints.
CHECKPOINT_BYTES = 64 << 20
CHECKPOINT_VOLUME_BYTES = 256 << 20


class How(NamedTuple):
    """How the work is done.

    Attributes:
        threads: How many read and hash.
        waiting: How many batches of about a MiB are read at most before they are needed.
        checkpoint_bytes: How much content there is at most between two places from which the
            work can be gone on with.
        progress: Called with the bytes of content that were read or compared since.
    """

    threads: int
    waiting: int
    checkpoint_bytes: int
    progress: Callable[[int], object]

    @classmethod
    def of(
        cls,
        threads: int,
        buffer_bytes: int,
        checkpoint_bytes: int,
        progress: Callable[[int], object],
    ) -> How:
        """Share the buffers out: those that are read, those that wait, one that is written."""
        waiting = max(buffer_bytes // BATCH_BYTES - threads - 1, 1)
        return cls(threads, waiting, checkpoint_bytes, progress)


class Copied(NamedTuple):
    """What was copied.

    Attributes:
        copied_bytes: Content that was written.
        zeroed_bytes: What was unmapped or made zero.
        digest: Of all pieces that were read.
    """

    copied_bytes: int
    zeroed_bytes: int
    digest: bytes


def copy(
    generation: Generation, target: Target, changes: Changes, begin_bytes: int, how: How
) -> Copied:
    """Bring what has changed to where a target gathers it.

    Args:
        generation: What is read.
        target: It was begun.
        changes: What is to be copied.
        begin_bytes: All before that is there already.
        how: How the work is done.

    Raises:
        NoSpaceError: The target's pool is full.
        OSError: Something cannot be read or written.
    """
    writer = _Writer(target, begin_bytes, how)
    batches = batches_of(pieces_of(changes, begin_bytes))
    for batch in ahead(Reader(generation).read, batches, how.threads, how.waiting):
        for read in batch:
            writer.write(read)
            if read.digest:
                how.progress(read.piece.length_bytes)
    return writer.finish(generation.identity.size_bytes)


class _Writer:
    """Writes what comes in order, joins stretches of zeros, says how far it has got."""

    def __init__(self, target: Target, begin_bytes: int, how: How) -> None:
        self._target, self._every = target, how.checkpoint_bytes
        self._hole: tuple[int, int] | None = None
        self._copied = self._zeroed = self._since = 0
        self._told = self._last = begin_bytes
        self._chain = Chain()

    def write(self, read: Read) -> None:
        offset, length, _ = read.piece
        if read.digest:
            self._chain.add(read.piece, read.digest)
        if read.content is None:
            begin, before = self._hole or (offset, 0)
            if begin + before != offset:
                self._end_hole()
                begin, before = offset, 0
            self._hole = begin, before + length
            return
        self._end_hole()
        self._target.write(None, offset, read.content)
        self._copied += length
        self._since += length
        self._told = offset + length
        if self._since >= self._every or self._told - self._last >= CHECKPOINT_VOLUME_BYTES:
            self._checkpoint(self._told)

    def _end_hole(self) -> None:
        if self._hole is not None:
            (begin, length), self._hole = self._hole, None
            self._target.unmap(begin, length)
            self._zeroed += length
            self._told = begin + length

    def _checkpoint(self, offset: int) -> None:
        self._target.checkpoint(offset)
        self._since, self._last = 0, offset

    def finish(self, size_bytes: int) -> Copied:
        self._end_hole()
        # What is left to do then is to compare, which may take as long as this did.
        self._checkpoint(size_bytes)
        return Copied(self._copied, self._zeroed, self._chain.digest())
