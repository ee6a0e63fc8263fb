"""Restoring a generation: every piece is compared with its BLAKE3 before it is written."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from thinmeta.backup.locate import Lost, Reader, read_segment
from thinmeta.backup.segments import Segment
from thinmeta.backup.stopping import stop_point

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

    from typing_extensions import Buffer

    from thinmeta import _core
    from thinmeta.backup.manifest import StoredGeneration
    from thinmeta.backup.objects import ObjectStore
    from thinmeta.backup.targets import Target

__all__ = ["RestoreReport", "restore"]


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What was restored.

    Attributes:
        generation: Its name.
        target: What the caller calls the target.
        size_bytes: Size of the volume.
        data_bytes: How much was written; the rest is zeros.
        external_origin: Whether the volume had an external origin, whose content is not in
            the repository: what it showed is zeros now.
    """

    generation: str
    target: str
    size_bytes: int
    data_bytes: int
    external_origin: bool


def restore(
    store: ObjectStore,
    cache: str,
    stored: StoredGeneration,
    target: Target,
    *,
    threads: int,
    progress: Callable[[int, int], object] | None,
) -> RestoreReport:
    """Restore a generation.

    Args:
        store: The repository's objects.
        cache: A folder for copies of index objects.
        stored: What to restore.
        target: Into what.
        threads: How many threads read and check.
        progress: Called as ``progress(done, total)``, in bytes that are not zeros.

    Raises:
        Lost: Something is damaged or missing. A target that is written in place may be
            incomplete, but only if a pack has been altered: that all is there is looked at
            before.
        OSError: The target cannot be written.
    """
    reader = Reader(store, cache)
    if target.in_place:
        _look_ahead(store, reader, stored)
    with target, _Writing(reader, stored, target, threads, progress) as writing:
        end = 0
        for number, name, _ in stored.segments:
            segment = read_segment(store, stored, number, name)
            end = _zero_gaps(target, segment, end)
            writing.hand_out(segment, reader.locate(segment))
        if end < stored.size_bytes:
            target.zero(end, stored.size_bytes - end)
        writing.wait()
    return RestoreReport(
        stored.name,
        target.name,
        stored.size_bytes,
        writing.written_bytes,
        stored.identity.external_origin,
    )


def _look_ahead(store: ObjectStore, reader: Reader, stored: StoredGeneration) -> None:
    """Find out what is missing before anything is overwritten."""
    sizes: dict[str, int | None] = {}
    for number, name, _ in stored.segments:
        stop_point()
        segment = read_segment(store, stored, number, name)
        wanted = reader.locate(segment)
        if wanted.missing:
            raise Lost(list(wanted.missing), set())
        for group in reader.groups(wanted):
            _, pack, _, end = group
            if pack not in sizes:
                sizes[pack] = store.size(pack)
            if (sizes[pack] or 0) < end:
                # There may be another copy; what is read is judged by its hash anyway.
                reader.read(segment, wanted, group, _nothing)


def _nothing(wanted: _core.Wanted, group: int, part: Buffer) -> None:
    wanted.unpack(group, part)


def _zero_gaps(target: Target, segment: Segment, end: int) -> int:
    """Zero what no piece covers, from ``end`` to the segment's last piece; where that ends."""
    for offset, length in zip(segment.offsets, segment.lengths, strict=True):
        if end < offset:
            target.zero(end, offset - end)
        end = offset + length
    return end


class _Writing:
    """Threads that read groups of pieces and write them."""

    def __init__(
        self,
        reader: Reader,
        stored: StoredGeneration,
        target: Target,
        threads: int,
        progress: Callable[[int, int], object] | None,
    ) -> None:
        self._reader, self._target, self._progress = reader, target, progress
        self._total = stored.data_bytes
        self._room = threading.Semaphore(threads + 1)
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="thinmeta-restore")
        self.written_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[0] is not None and self._failure is None:
            self._failure = KeyboardInterrupt()  # whatever: nothing more is written
        self._pool.shutdown()

    def hand_out(self, segment: Segment, wanted: _core.Wanted) -> None:
        """Have the pieces of a segment written.

        Raises:
            Lost: Some are missing.
        """
        if wanted.missing:
            raise Lost(list(wanted.missing), set())
        for group in self._groups(wanted):
            while not self._room.acquire(timeout=0.1):
                self._look()
            self._look()
            self._pool.submit(self._write, segment, wanted, group)

    def _groups(self, wanted: _core.Wanted) -> Iterator[tuple[int, str, int, int]]:
        return self._reader.groups(wanted)

    def wait(self) -> None:
        """Wait until everything is written."""
        self._pool.shutdown()
        self._look()

    def _look(self) -> None:
        if self._failure is not None:
            raise self._failure
        stop_point()
        if self._progress is not None:
            self._progress(min(self.written_bytes, self._total), self._total)

    def _write(
        self, segment: Segment, wanted: _core.Wanted, group: tuple[int, str, int, int]
    ) -> None:
        try:
            if self._failure is None:
                self._reader.read(segment, wanted, group, self._take)
        except BaseException as error:
            with self._lock:
                if self._failure is None:
                    self._failure = error
        finally:
            self._room.release()

    def _take(self, wanted: _core.Wanted, group: int, part: Buffer) -> None:
        written = self._target.write(wanted, group, part)
        with self._lock:
            self.written_bytes += written
