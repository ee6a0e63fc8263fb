"""Looking at every object of a repository, and what its damage means."""

from __future__ import annotations

import logging
import os
import tempfile
from dataclasses import dataclass, field

from thinmeta.backup.base import BOOKMARKS
from thinmeta.backup.create import file_digest
from thinmeta.backup.index import (
    DAMAGED,
    INDEX,
    MAX_PACK_BYTES,
    PACKS,
    IndexSet,
    damaged_packs,
    pack_name,
    pack_object,
    read_table,
)
from thinmeta.backup.local import reading_object
from thinmeta.backup.locate import Lost, read_segment, readable_part
from thinmeta.backup.manifest import (
    GENERATIONS,
    StoredGeneration,
    generation_of,
    read_manifest,
)
from thinmeta.backup.markers import CONDEMNED, markers
from thinmeta.backup.sealed import piece_key
from thinmeta.backup.segments import SEGMENTS
from thinmeta.backup.stopping import stop_point
from thinmeta.errors import StreamError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from thinmeta import _core
    from thinmeta.backup.objects import ObjectStore

__all__ = ["Finding", "GenerationState", "VerifyReport", "verify"]

#: Of one generation not more lost ranges are listed; their bytes are counted.
MAX_RANGES = 10_000
#: How often it looks again because something was deleted meanwhile.
ATTEMPTS = 3

log = logging.getLogger("thinmeta.backup")


@dataclass(frozen=True, slots=True)
class Finding:
    """An object that is not what it should be.

    Attributes:
        object: Its name.
        problem: What is wrong.
        error: The same as an error, where there was one.
    """

    object: str
    problem: str
    error: BaseException | None = field(default=None, compare=False, repr=False)


@dataclass(slots=True)
class GenerationState:
    """What is left of a generation.

    Attributes:
        name: The generation's.
        lost_bytes: How much of the volume cannot be restored.
        lost: ``(offset_bytes, length_bytes)`` of it, at most ten thousand ranges.
        objects: The objects that this is about; empty if no index or pack has a piece.
        bookmark_lost: Whether only the proof of what is unchanged later is gone: the content
            is there, and the next backup reads more.
        readable: Whether its manifest can be read; if not, nothing is known of it.
    """

    name: str
    lost_bytes: int = 0
    lost: list[tuple[int, int]] = field(default_factory=list)
    objects: set[str] = field(default_factory=set)
    bookmark_lost: bool = False
    readable: bool = True

    @property
    def is_restorable(self) -> bool:
        """Whether all of it can be restored."""
        return self.readable and self.lost_bytes == 0

    def to_json(self) -> dict[str, Any]:
        """As what JSON can say."""
        return {
            "generation": self.name,
            "restorable": self.is_restorable,
            "manifest_readable": self.readable,
            "lost_bytes": self.lost_bytes,
            "lost": [{"begin_bytes": begin, "length_bytes": length} for begin, length in self.lost],
            "objects": sorted(self.objects),
            "bookmark_lost": self.bookmark_lost,
        }


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was found.

    Attributes:
        findings: Objects that are missing or damaged.
        generations: Of each generation what is left.
        objects: How many objects were looked at.
        read_bytes: How much was read of packs.
        quick: Whether the packs were not read.
    """

    findings: list[Finding]
    generations: list[GenerationState]
    objects: int
    read_bytes: int
    quick: bool

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


def verify(
    store: ObjectStore,
    cache: str,
    *,
    quick: bool,
    mend: bool = False,
    progress: Callable[[int, int], object] | None,
) -> VerifyReport:
    """Look at all objects; see :meth:`thinmeta.backup.Repository.verify`."""
    if not quick:
        # Copies of index objects say nothing about what is there.
        with tempfile.TemporaryDirectory(prefix="thinmeta-index-") as fresh:
            return _verify(store, fresh, quick=quick, mend=mend, progress=progress)
    return _verify(store, cache, quick=quick, mend=mend, progress=progress)


def _verify(
    store: ObjectStore,
    cache: str,
    *,
    quick: bool,
    mend: bool,
    progress: Callable[[int, int], object] | None,
) -> VerifyReport:
    for _ in range(ATTEMPTS):
        before = _looks(store)
        verification = _Verification(store, cache, quick=quick, progress=progress)
        report = verification.run()
        if report.is_clean or _looks(store) == before:
            break
        log.info("a prune was at work meanwhile: looking again")
    if mend:
        verification.note_damaged()
    return report


def _looks(store: ObjectStore) -> set[str]:
    """By this it is known that nothing was deleted meanwhile."""
    gates = {each.name for each in markers(store, CONDEMNED) if each.state != "dead"}
    names = {name for folder in (GENERATIONS, INDEX) for name, _ in store.list(folder)}
    return names | gates


class _Verification:
    def __init__(
        self,
        store: ObjectStore,
        cache: str,
        *,
        quick: bool,
        progress: Callable[[int, int], object] | None,
    ) -> None:
        self._store, self._cache = store, cache
        self._quick, self._progress = quick, progress
        self._findings: dict[str, object] = {}
        self._objects = self._read_bytes = 0
        #: Packs that are there, and of those with damage which pieces.
        self._packs: dict[bytes, int] = {}
        self._bad: set[bytes] = set()
        #: Everything, if the index that is used leaves out damaged packs.
        self._partly: IndexSet | None = None
        self._segments: dict[tuple[str, int, int], GenerationState] = {}

    def run(self) -> VerifyReport:
        # First what is needed, then what there is: a backup that is made meanwhile only adds.
        generations, states = self._generations()
        self._packs = {
            pack: size
            for name, size in self._store.list(PACKS)
            if (pack := pack_name(name)) is not None
        }
        self._objects += len(self._packs)
        if not self._quick:
            self._read_packs()
        index = self._load_index()
        for stored in generations:
            states[stored.name] = self._state(stored, index)
        self._bookmarks(generations, states)
        findings = [
            Finding(name, str(what), what if isinstance(what, BaseException) else None)
            for name, what in sorted(self._findings.items())
        ]
        ordered = [states[name] for name in sorted(states)]
        return VerifyReport(findings, ordered, self._objects, self._read_bytes, self._quick)

    def note_damaged(self) -> None:
        """Say in the repository which packs are damaged, so that nobody relies on them."""
        said, found = damaged_packs(self._store), self._bad
        for pack in found - said:
            self._store.put(DAMAGED + pack.hex(), b"")
        if not self._quick:
            self._store.delete(DAMAGED + pack.hex() for pack in said - found)

    def _found(self, name: str, problem: object) -> None:
        self._findings.setdefault(name, problem)

    def _generations(self) -> tuple[list[StoredGeneration], dict[str, GenerationState]]:
        found, states = [], {}
        for name, _ in list(self._store.list(GENERATIONS)):
            short = generation_of(name)
            self._objects += 1
            if short is None:
                self._found(name, "nothing of ours")
                continue
            try:
                found.append(read_manifest(self._store, short))
            except FileNotFoundError:
                continue
            except StreamError as error:
                self._found(name, error)
                states[short] = GenerationState(short, objects={name}, readable=False)
        return found, states

    def _read_packs(self) -> None:
        total, done = sum(self._packs.values()), 0
        for pack, size in self._packs.items():
            stop_point()
            name = pack_object(pack)
            try:
                data = self._store.get(name, MAX_PACK_BYTES)
                with memoryview(data) as view:
                    size = view.nbytes
                table = read_table(self._store, name, size)
                damaged = table.damaged(data, key=piece_key(self._store))
                if damaged:
                    raise StreamError(f"{len(damaged)} of {len(table)} pieces are damaged")
            except FileNotFoundError:
                continue  # a prune took it away
            except StreamError as error:
                self._found(name, error)
                self._bad.add(pack)
            self._read_bytes += size
            done += size
            if self._progress is not None:
                self._progress(min(done, total), total)

    def _load_index(self) -> IndexSet:
        """Everything that is stored and can be read, however it is found."""
        index = IndexSet.load(self._store, self._cache)
        for name, problem in index.damaged.items():
            self._found(name, problem)
        for pack in index.packs.difference(self._packs):
            if self._store.size(pack_object(pack)) is None:
                self._found(pack_object(pack), "it is missing")
                self._bad.add(pack)
        if self._quick:
            self._find_short(index)
        self._objects += len(index.objects) + len(index.damaged)
        suspects = self._bad | damaged_packs(self._store)
        if suspects:
            index = IndexSet.load(self._store, self._cache, without=lambda _: suspects)
            # What is sound in a damaged pack counts, too.
            self._partly = IndexSet.load(self._store, self._cache)
            self._partly.adopt()
            index.packs |= suspects
        # What no index object names may be what a lost one has named.
        index.adopt()
        return index

    def _find_short(self, index: IndexSet) -> None:
        """Of packs that are not read: whether they can have what they are said to have."""
        for pack, stored_bytes, _ in index.blocks.usage():
            size = self._packs.get(pack)
            if size is not None and size < stored_bytes:
                self._found(pack_object(pack), f"it has {size} bytes of {stored_bytes} and more")
                self._bad.add(pack)

    def _state(self, stored: StoredGeneration, index: IndexSet) -> GenerationState:
        state = GenerationState(stored.name)
        for number, name, _ in stored.segments:
            stop_point()
            key = name, number, min(stored.size_bytes, (number + 1) * stored.segment_bytes)
            if key not in self._segments:
                self._segments[key] = self._segment(stored, number, name, index)
            part = self._segments[key]
            state.lost_bytes += part.lost_bytes
            state.lost += part.lost[: MAX_RANGES - len(state.lost)]
            state.objects |= part.objects
        return state

    def _segment(
        self, stored: StoredGeneration, number: int, name: str, index: IndexSet
    ) -> GenerationState:
        """What is lost of one part of a volume."""
        state = GenerationState(name)
        self._objects += 1
        try:
            segment = read_segment(self._store, stored, number, name)
        except Lost as error:
            self._found(SEGMENTS + name, error.__cause__)
            state.lost, state.objects = error.ranges, error.objects
            state.lost_bytes = sum(length for _, length in error.ranges)
            return state
        wanted = index.locate(segment)
        missing = set(wanted.missing)
        if missing and self._partly is not None:
            missing -= self._sound_in_damaged(missing, segment.rows(), state)
        state.lost = sorted(missing)
        state.lost_bytes = sum(length for _, length in missing)
        if not missing:
            state.objects = set()
        elif not state.objects:
            self._found(
                f"{SEGMENTS}{name}", f"no pack has {len(missing)} of the pieces that it names"
            )
        return state

    def _sound_in_damaged(
        self,
        missing: set[tuple[int, int]],
        rows: list[tuple[int, int, bytes]],
        state: GenerationState,
    ) -> set[tuple[int, int]]:
        """Of missing pieces those that are sound in a pack that is damaged elsewhere."""
        some = [row for row in rows if (row[0], row[1]) in missing]
        assert self._partly is not None
        wanted: _core.Wanted = self._partly.blocks.locate(
            [row[0] for row in some], [row[1] for row in some], b"".join([row[2] for row in some])
        )
        sound = missing - set(wanted.missing)
        for at, (pack, begin, end, _) in enumerate(wanted.groups()):
            name = pack_object(pack)
            state.objects.add(name)
            part = readable_part(self._store, name, begin, end)
            sound -= {(offset, length) for offset, length, _ in wanted.damaged(at, part)}
        return sound

    def _bookmarks(
        self, generations: list[StoredGeneration], states: dict[str, GenerationState]
    ) -> None:
        judged: dict[str, bool] = {}
        for stored in generations:
            name = stored.bookmark
            if name is None:
                continue
            if name not in judged:
                judged[name] = self._is_sound_bookmark(name)
            states[stored.name].bookmark_lost = not judged[name]

    def _is_sound_bookmark(self, name: str) -> bool:
        self._objects += 1
        path = self._store.path(BOOKMARKS + name)
        with tempfile.TemporaryDirectory(prefix="thinmeta-backup-") as folder:
            try:
                if path is None:
                    path = os.path.join(folder, "bookmark")
                    self._store.fetch(BOOKMARKS + name, path)
                with reading_object():
                    digest = file_digest(path, piece_key(self._store))
                if digest == name:
                    return True
                self._found(BOOKMARKS + name, "its BLAKE3 is another one")
            except FileNotFoundError:
                self._found(BOOKMARKS + name, "it is missing")
            except StreamError as error:
                self._found(BOOKMARKS + name, error)
        return False
