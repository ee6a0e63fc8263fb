"""Reads what has changed, makes packs of it and stores them, several things at a time.

Threads that read, hash and compress take jobs of a few MiB, each into a pack of its own;
others store finished packs, so that nobody waits for a disk or a network who could compute.
When all pieces of a part of the volume are stored, its segment is. What is kept in memory is
bounded, whatever the volume's size: a pack for each thread, a few on their way, and the
pieces of the parts that are not complete yet.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from queue import Empty, Full, Queue

from thinmeta import _core
from thinmeta.backup.index import SPILL_PIECES, pack_object
from thinmeta.backup.sealed import folder_of
from thinmeta.backup.segments import HASH_BYTES, MAX_SEGMENT_BYTES, SEGMENTS, Segment
from thinmeta.backup.stopping import stop_point
from thinmeta.errors import StreamError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from thinmeta.backup.index import IndexSet
    from thinmeta.backup.manifest import StoredGeneration
    from thinmeta.backup.objects import ObjectStore
    from thinmeta.backup.plan import Part
    from thinmeta.source import Generation

__all__ = ["BaseDamagedError", "Pipeline"]

#: A pack is finished when it has so many bytes, or so many pieces came for it. With one more
#: read it has 16 MiB at most: memory up to that is used again, and more is not, by glibc.
PACK_BYTES, PACK_PIECES = 12 << 20, 1 << 14
#: Read at once, and so the least that a thread takes.
READ_BYTES = 4 << 20
#: How long nobody looks whether something has failed, or was interrupted.
LOOK_SECONDS = 0.1

log = logging.getLogger("thinmeta.backup")


class BaseDamagedError(Exception):
    """An object of the base is not what it should be; the argument says which."""


class _Pending:
    """A part whose pieces are on their way.

    Attributes:
        part: What there is to do.
        rows: Offset, length and hash of the pieces that are stored.
        jobs: Jobs of it that are under way, and one for whoever hands them out.
    """

    __slots__ = ("jobs", "part", "rows")

    def __init__(self, part: Part) -> None:
        self.part = part
        self.rows: list[tuple[int, int, bytes]] = []
        self.jobs = 1


class Pipeline:
    """One run over a volume.

    Args:
        generation: What to read.
        store: Where packs and segments go.
        index: Which pieces are there.
        piece_bytes: Length of a piece.
        part_bytes: Length of a part.
        base: Whose pieces are kept where nothing has changed.
        level: How hard zstd tries.
        threads: Threads that read and compute.
        progress: Called in the thread of :meth:`run` as ``progress(done, total)``, in bytes.

    Attributes:
        segments: Of each part that was looked at its object, and how many bytes of it are not
            zero pieces; ``None`` if all is.
        read_bytes: How much was read.
        stored_bytes: How much of it was new, before compression.
        packed_bytes: The packs that were stored.
    """

    def __init__(
        self,
        generation: Generation,
        store: ObjectStore,
        index: IndexSet,
        *,
        piece_bytes: int,
        part_bytes: int,
        base: StoredGeneration | None,
        level: int,
        threads: int,
        progress: Callable[[int, int], object] | None,
    ) -> None:
        self._generation, self._store, self._index = generation, store, index
        self._piece, self._part = piece_bytes, part_bytes
        self._base = {row[0]: row[1] for row in base.segments} if base is not None else {}
        self._level, self._threads, self._progress = level, threads, progress
        self._size = generation.identity.size_bytes
        self._jobs: Queue[tuple[_Pending, list[tuple[int, int]]] | None] = Queue(2 * threads)
        self._lock, self._spilling = threading.Lock(), threading.Lock()
        #: Held by each thread that computes while it adds pieces to its pack.
        self._turns = [threading.Lock() for _ in range(threads)]
        self._failure: BaseException | None = None
        self._total = 0
        self.segments: dict[int, tuple[str, int] | None] = {}
        self.read_bytes = self.stored_bytes = self.packed_bytes = 0
        # As many packs wait to be stored as there are who store them, and one.
        storing = 2 if folder_of(store) is not None else 4
        self._room = threading.Semaphore(storing + 1)
        self._storing = ThreadPoolExecutor(storing, thread_name_prefix="thinmeta-store")

    def run(self, parts: Iterable[Part], total_bytes: int) -> None:
        """Do what there is to do; all of it is stored afterwards, but not yet flushed.

        Raises:
            BaseDamagedError: An object of the base is damaged.
            OSError: Something cannot be read or stored.
        """
        self._total = total_bytes
        workers = [
            threading.Thread(
                target=self._work, args=(turn,), name=f"thinmeta-read-{number}", daemon=True
            )
            for number, turn in enumerate(self._turns)
        ]
        try:
            for worker in workers:
                worker.start()
            try:
                for part in parts:
                    self._hand_out(_Pending(part))
                    if self._failure is not None:
                        break
            finally:
                for _ in workers:
                    self._put(None)
            for worker in workers:
                while worker.is_alive():
                    worker.join(LOOK_SECONDS)
                    self._tell()
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            for worker in workers:
                if worker.ident is not None:
                    self._drain()
                    worker.join()
            self._storing.shutdown()
        if self._failure is not None:
            raise self._failure
        self._tell()

    def _hand_out(self, pending: _Pending) -> None:
        """Make jobs of a part, each of up to ``READ_BYTES``."""
        ranges: list[tuple[int, int]] = []
        gathered = 0
        most = max(READ_BYTES // self._piece, 1) * self._piece
        for begin, end in pending.part.read:
            while begin < end:
                here = min(end, begin + most - gathered)
                ranges.append((begin, here))
                gathered += here - begin
                begin = here
                if gathered >= most:
                    self._hand_out_job(pending, ranges)
                    ranges, gathered = [], 0
        if ranges:
            self._hand_out_job(pending, ranges)
        with self._lock:
            pending.jobs -= 1
            complete = pending.jobs == 0
        if complete and self._failure is None:
            self._room.acquire()
            self._storing.submit(self._guarded, self._store_segment, pending)

    def _hand_out_job(self, pending: _Pending, ranges: list[tuple[int, int]]) -> None:
        with self._lock:
            pending.jobs += 1
        self._put((pending, ranges))

    def _put(self, job: tuple[_Pending, list[tuple[int, int]]] | None) -> None:
        while True:
            self._tell()
            try:
                self._jobs.put(job, timeout=LOOK_SECONDS)
                return
            except Full:
                continue

    def _drain(self) -> None:
        """After a failure: nobody waits for somebody to take a job."""
        if self._failure is not None:
            try:
                while True:
                    self._jobs.get_nowait()
            except Empty:
                for _ in range(self._threads):
                    self._jobs.put_nowait(None)

    def _tell(self) -> None:
        if self._failure is None:
            stop_point()
        if self._progress is not None and self._failure is None:
            self._progress(min(self.read_bytes, self._total), self._total)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self._failure is None:
                self._failure = error

    # ---- threads that read and compute ----

    def _work(self, turn: threading.Lock) -> None:
        try:
            builder = _core.PackBuilder(level=self._level)
            with memoryview(bytearray(max(READ_BYTES, self._piece))) as buffer:
                self._read(builder, buffer, turn)
        except BaseException as error:
            self._fail(error)
            while self._jobs.get() is not None:
                pass

    def _read(self, builder: _core.PackBuilder, buffer: memoryview, turn: threading.Lock) -> None:
        taken: list[_Pending] = []
        while (job := self._jobs.get()) is not None:
            if self._failure is not None:
                continue
            pending, ranges = job
            packed, pieces = 0, 0
            for begin, end in ranges:
                with buffer[: end - begin] as view:
                    self._generation.read_into(begin, view)
                    with turn:
                        packed, pieces = builder.add(self._index.blocks, view, begin, self._piece)
                with self._lock:
                    self.read_bytes += end - begin
            taken.append(pending)
            if packed >= PACK_BYTES or pieces >= PACK_PIECES:
                self._finish(builder, taken)
                taken = []
        if taken and self._failure is None:
            self._finish(builder, taken)

    def _finish(self, builder: _core.PackBuilder, taken: list[_Pending]) -> None:
        packed = builder.finish()
        self._room.acquire()
        self._storing.submit(self._guarded, self._store_pack, packed, taken)

    # ---- threads that store ----

    def _guarded(self, work: Callable[..., object], *arguments: object) -> None:
        try:
            if self._failure is None:
                work(*arguments)
        except BaseException as error:
            self._fail(error)
        finally:
            self._room.release()

    def _store_pack(self, packed: _core.Packed, taken: list[_Pending]) -> None:
        pack, table, offsets, lengths, hashes, stored_bytes = packed.take()
        if len(table):
            self._store.put(pack_object(table.name), pack, later=True)
            self._index.blocks.record(table)
            with self._lock:
                self.stored_bytes += stored_bytes
                with memoryview(pack) as view:
                    self.packed_bytes += view.nbytes
            del pack
            self._spill()
        self._deliver(taken, memoryview(offsets), memoryview(lengths), bytes(hashes))
        complete = []
        with self._lock:
            for pending in taken:
                pending.jobs -= 1
                if pending.jobs == 0:
                    complete.append(pending)
        for pending in complete:
            self._store_segment(pending)

    def _spill(self) -> None:
        """Put an index object of what was stored, now and then."""
        if self._index.blocks.fresh_pieces >= SPILL_PIECES:
            with self._spilling:
                if self._index.blocks.fresh_pieces >= SPILL_PIECES:
                    self._index.put(self._nobody_adds())

    @contextmanager
    def _nobody_adds(self) -> Iterator[None]:
        with ExitStack() as stack:
            for turn in self._turns:
                stack.enter_context(turn)
            yield

    def _deliver(
        self,
        taken: list[_Pending],
        offsets: memoryview[int],
        lengths: memoryview[int],
        hashes: bytes,
    ) -> None:
        by_number = {pending.part.number: pending for pending in taken}
        with self._lock:
            for at, offset in enumerate(offsets):
                row = offset, lengths[at], hashes[at * HASH_BYTES : (at + 1) * HASH_BYTES]
                by_number[offset // self._part].rows.append(row)

    def _store_segment(self, pending: _Pending) -> None:
        part = pending.part
        found = None
        rows = [*self._kept(part), *pending.rows]
        if rows:
            name, data = Segment.of(rows).encode()
            self._store.put(SEGMENTS + name, data, later=True)
            found = name, sum(row[1] for row in rows)
        with self._lock:
            self.segments[part.number] = found

    def _kept(self, part: Part) -> list[tuple[int, int, bytes]]:
        """The base's pieces of a part that are what they were."""
        name = self._base.get(part.number)
        if name is None:
            return []
        begin = part.number * self._part
        try:
            data = self._store.get(SEGMENTS + name, MAX_SEGMENT_BYTES)
            old = Segment.decode(name, data, begin, begin + self._part)
        except (StreamError, FileNotFoundError) as error:
            raise BaseDamagedError(f"{SEGMENTS}{name}: {error}") from error
        changed = sorted([*part.read, *part.drop])
        kept, at = [], 0
        for row in old.rows():
            offset, end = row[0], row[0] + row[1]
            while at < len(changed) and changed[at][1] <= offset:
                at += 1
            if end <= self._size and (at == len(changed) or end <= changed[at][0]):
                kept.append(row)
        return kept
