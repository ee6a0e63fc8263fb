"""Making a generation: what changed since the last one is read, what is new is stored.

What is durable when: packs before the index object that names them, these and the segments
and the bookmark before the manifest. Whoever finds a manifest finds all of it.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from dataclasses import dataclass

from thinmeta._core import Blake3
from thinmeta.backup.base import BOOKMARKS, Base, BaseFinder, choose_base, pool_of
from thinmeta.backup.index import PACKS, IndexSet, damaged_packs, pack_name
from thinmeta.backup.listing import newest_first
from thinmeta.backup.locate import Lost, read_segment
from thinmeta.backup.manifest import (
    CREATED,
    GENERATIONS,
    SegmentRows,
    StoredGeneration,
    encode,
    generation_of,
)
from thinmeta.backup.markers import (
    ACTIVE,
    abandon,
    markers,
    put_marker,
    take_back,
    wait_for_deletion,
)
from thinmeta.backup.pipeline import BaseDamagedError, Pipeline
from thinmeta.backup.plan import parts, piece_bytes_for, work_for
from thinmeta.backup.sealed import piece_key
from thinmeta.backup.segments import SEGMENTS, segment_bytes_for
from thinmeta.errors import RepositoryBusyError, RepositoryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from thinmeta.backup.objects import ObjectStore
    from thinmeta.source import Generation

    Progress = Callable[[int, int], object]

__all__ = ["Creation", "Outlook", "file_digest"]

SECTOR_BYTES = 512
#: So many numbers may be missing between a generation that can be read and the last one.
FAR = 1000

log = logging.getLogger("thinmeta.backup")


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a backup would do.

    Attributes:
        base: Name of the generation that it would be made from; ``None``: of none.
        size_bytes: Size of the volume.
        read_bytes: How much would be read.
    """

    base: str | None
    size_bytes: int
    read_bytes: int


class Creation:
    """One generation that is being made.

    Args:
        store: The repository's objects.
        cache: A folder for copies of index objects.
        generation: The state to back up.
        volume: What the caller calls the volume.
        pool: What the pool is known by, if it has no uuid.
        wanted: The base that the caller wants.
        full: Read everything that is mapped.
        level: How hard zstd tries.
        threads: Threads that read and compute.
        wait_seconds: How long to wait for a prune that deletes.
        progress: Called as ``progress(done, total)``, in bytes.
    """

    def __init__(
        self,
        store: ObjectStore,
        cache: str,
        generation: Generation,
        *,
        volume: str,
        pool: str,
        wanted: StoredGeneration | None,
        full: bool,
        level: int,
        threads: int,
        wait_seconds: float,
        progress: Progress | None,
    ) -> None:
        self._store, self._cache, self._generation = store, cache, generation
        self._volume, self._pool = volume, pool_of(generation, pool)
        self._wanted, self._full = wanted, full
        self._level, self._threads = level, threads
        self._wait_seconds, self._progress = wait_seconds, progress
        self._id = os.urandom(8).hex()
        self._index: IndexSet | None = None
        self._has_lost = False
        block = generation.identity.data_block_size_sectors * SECTOR_BYTES
        self._piece, self._part = piece_bytes_for(block), segment_bytes_for(block)

    def outlook(self, stored: Iterable[StoredGeneration]) -> Outlook:
        """What it would do; nothing is stored.

        Args:
            stored: The generations that there are, the newest first.
        """
        with tempfile.TemporaryDirectory(prefix="thinmeta-backup-") as folder:
            for base in self._bases(folder, stored):
                work = work_for(
                    self._generation, base.changes, _size_bytes(base.stored), self._piece
                )
                name = base.stored.name if base.stored is not None else None
                return Outlook(name, self._generation.identity.size_bytes, work.read_bytes)
        raise AssertionError("the last base is none")

    def run(self, newest_first: Callable[[], Iterable[StoredGeneration]]) -> StoredGeneration:
        """Make it.

        Args:
            newest_first: Reads the generations that there are, the newest first.

        Raises:
            RepositoryBusyError: A prune deletes, or somebody has declared this process dead.
            WrongBaseError: The base that the caller wants proves nothing.
            OSError: The volume cannot be read or the repository not written.
        """
        marker = put_marker(self._store, ACTIVE, "create", self._id)
        try:
            wait_for_deletion(self._store, self._wait_seconds, log)
            others = [each for each in markers(self._store, ACTIVE) if each.name != marker]
            self._load_index(adopt=bool(others))
            with tempfile.TemporaryDirectory(prefix="thinmeta-backup-") as folder:
                made = self._make(folder, newest_first())
            self._commit(made, marker)
        except BaseException:
            self._leave(marker)
            raise
        try:
            take_back(self._store, marker)
            # What others had stored before they were killed is in an index object now.
            dead = [each for each in others if (each.kind, each.state) == ("create", "dead")]
            self._store.delete([each.name for each in dead])
        except OSError as error:
            abandon(marker)
            log.warning("%s is made, but its marker could not be removed: %s", made.name, error)
        return made

    def _load_index(self, *, adopt: bool) -> None:
        self._index = index = IndexSet.load(self._store, self._cache, without=self._absent)
        if adopt or index.damaged:
            found = index.adopt(index.put)
            log.info("%d packs that no index object names were taken over", found)

    def _absent(self, packs: set[bytes]) -> set[bytes]:
        """Of these packs those that are lost or damaged: what they had is stored again."""
        damaged = damaged_packs(self._store)
        lost = packs.difference(pack_name(name) or b"" for name, _ in self._store.list(PACKS))
        if lost:
            log.warning("%s: %d packs are missing: run verify", self._store.name, len(lost))
        self._has_lost = bool(lost or damaged)
        return lost | damaged

    def _lost_pieces(self, base: StoredGeneration) -> int:
        """How many pieces of a base no pack has any more."""
        assert self._index is not None
        if not self._has_lost and not self._index.damaged:
            return 0
        lost = 0
        for number, name, _ in base.segments:
            segment = read_segment(self._store, base, number, name)
            lost += len(self._index.locate(segment).missing)
        return lost

    def _bases(self, folder: str, stored: Iterable[StoredGeneration]) -> Iterator[Base]:
        if self._full:
            return iter([Base(None, self._generation.changes(None))])
        finder = BaseFinder(
            self._store,
            folder,
            self._generation,
            piece_bytes=self._piece,
            part_bytes=self._part,
        )
        return choose_base(
            finder,
            self._generation,
            stored,
            volume=self._volume,
            pool=self._pool,
            wanted=self._wanted,
        )

    def _make(self, folder: str, stored: Iterable[StoredGeneration]) -> StoredGeneration:
        """Store everything but the manifest, and return what that has to say."""
        for base in self._bases(folder, stored):
            if base.stored is not None and (lost := self._lost_segments(base.stored)):
                log.warning("%s is no base: %s is missing", base.stored.name, lost)
                continue
            try:
                if base.stored is not None and (count := self._lost_pieces(base.stored)):
                    log.warning("%s is no base: it has lost %d pieces", base.stored.name, count)
                    continue
            except Lost as error:
                log.warning("%s is no base: %s", base.stored and base.stored.name, error)
                continue
            try:
                pipeline = self._run_pipeline(base)
            except BaseDamagedError as error:
                assert base.stored is not None
                log.warning("%s is no base: %s", base.stored.name, error)
                # What was claimed to be stored and then was not has to be forgotten.
                self._put_index()
                self._load_index(adopt=False)
                continue
            self._put_index()
            return self._describe(base, pipeline, self._put_bookmark(folder))
        raise AssertionError("the last base is none")

    def _lost_segments(self, base: StoredGeneration) -> str | None:
        there = {name for name, _ in self._store.list(SEGMENTS)}
        lost = [SEGMENTS + name for _, name, _ in base.segments if SEGMENTS + name not in there]
        return lost[0] if lost else None

    def _run_pipeline(self, base: Base) -> Pipeline:
        assert self._index is not None
        size = self._generation.identity.size_bytes
        work = work_for(self._generation, base.changes, _size_bytes(base.stored), self._piece)
        log.info(
            "reading %d of %d bytes, on top of %s",
            work.read_bytes,
            size,
            base.stored.name if base.stored is not None else "nothing",
        )
        pipeline = Pipeline(
            self._generation,
            self._store,
            self._index,
            piece_bytes=self._piece,
            part_bytes=self._part,
            base=base.stored,
            level=self._level,
            threads=self._threads,
            progress=self._progress,
        )
        pipeline.run(parts(work, size, self._piece, self._part), work.read_bytes)
        return pipeline

    def _put_index(self) -> None:
        assert self._index is not None
        self._index.put()

    def _put_bookmark(self, folder: str) -> str | None:
        path = os.path.join(folder, "bookmark")
        if self._generation.save_bookmark(path) is None:
            return None
        name = file_digest(path, piece_key(self._store))
        self._store.put_file(BOOKMARKS + name, path)
        return name

    def _describe(self, base: Base, pipeline: Pipeline, bookmark: str | None) -> StoredGeneration:
        identity = self._generation.identity
        segments: dict[int, tuple[str, int] | None] = {}
        if base.stored is not None:
            for number, name, length in base.stored.segments:
                if number * self._part < identity.size_bytes:
                    segments[number] = name, length
        segments.update(pipeline.segments)
        sequence = self._next_number()
        name = f"{sequence:08d}-{self._id}"
        rows = SegmentRows((at, *found) for at, found in sorted(segments.items()) if found)
        stored = base.stored
        has_most = stored is not None and 2 * pipeline.read_bytes < rows.total_bytes
        return StoredGeneration(
            name=name,
            sequence=sequence,
            created=time.strftime(CREATED, time.gmtime()),
            volume=self._volume,
            pool=self._pool,
            identity=identity,
            piece_bytes=self._piece,
            segment_bytes=self._part,
            segments=rows,
            bookmark=bookmark,
            base=None if stored is None else stored.name,
            lineage=stored.lineage if stored is not None and has_most else name,
            read_bytes=pipeline.read_bytes,
            stored_bytes=pipeline.stored_bytes,
            packed_bytes=pipeline.packed_bytes,
        )

    def _next_number(self) -> int:
        """One more than the last; a name that cannot be in its place counts for nothing."""
        newest = next(newest_first(self._store), None)
        known = 0 if newest is None else newest.sequence
        names = (generation_of(name) for name, _ in self._store.list(GENERATIONS))
        numbers = (int(name[:8]) for name in names if name is not None)
        return max((each for each in numbers if each <= known + FAR), default=known) + 1

    def _commit(self, made: StoredGeneration, marker: str) -> None:
        self._store.flush()  # segments
        self._check_marker(marker)
        name = f"{GENERATIONS}{made.name}.json"
        if generation_of(name) is None:
            reason = f"nobody would find a generation of the name {made.name}: nothing was made"
            raise RepositoryError(self._store.name, reason)
        if not self._store.put_new(name, encode(made.to_json())):
            raise RepositoryBusyError(self._store.name, f"{made.name} is there already: run again")
        try:
            self._check_marker(marker)
        except RepositoryBusyError:
            # A prune may have deleted what this generation needs.
            self._store.delete([name])
            raise

    def _check_marker(self, marker: str) -> None:
        if self._store.size(marker) is None:
            raise RepositoryBusyError(
                self._store.name,
                "this backup was declared dead while it was made ('thinmeta backup unlock'): "
                "run it again; what was stored is not stored twice",
            )

    def _leave(self, marker: str) -> None:
        """After a failure: what is stored is to be found by the next one."""
        try:
            if self._index is not None:
                self._put_index()
            take_back(self._store, marker)
        except BaseException as error:
            # The marker stays, as that of somebody dead: whoever comes looks for our packs.
            abandon(marker)
            log.info("what was stored is in no index object: %s", error)


def _size_bytes(stored: StoredGeneration | None) -> int | None:
    return stored.size_bytes if stored is not None else None


def file_digest(path: str, key: bytes | None = None) -> str:
    """BLAKE3 of a file, in hexadecimal; with a key, the keyed one."""
    hasher = Blake3(key=key)
    with open(path, "rb", buffering=0) as file:
        while part := file.read(1 << 20):
            hasher.update(part)
    return hasher.digest().hex()
