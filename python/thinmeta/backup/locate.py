"""Where the pieces of a generation are, also where a first copy is damaged or gone.

Used by whoever reads a repository: to restore, and to say what could be restored.
"""

from __future__ import annotations

import logging
from contextlib import suppress

from thinmeta.backup.index import IndexSet, damaged_packs, pack_object
from thinmeta.backup.sealed import SealedStore
from thinmeta.backup.segments import MAX_SEGMENT_BYTES, SEGMENTS, Segment
from thinmeta.errors import StreamError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import Buffer

    from thinmeta import _core
    from thinmeta.backup.manifest import StoredGeneration
    from thinmeta.backup.objects import ObjectStore

    #: Takes a group of pieces and the part of the pack that it is in.
    Take = Callable[[_core.Wanted, int, Buffer], object]

__all__ = ["Lost", "Reader", "read_segment", "readable_part"]


log = logging.getLogger("thinmeta.backup")


class Lost(Exception):  # noqa: N818 - it is caught where it is raised
    """Pieces of a segment cannot be read.

    Attributes:
        ranges: ``(offset, length)`` of each in the volume, in bytes.
        objects: The objects that are missing or damaged.
    """

    def __init__(self, ranges: list[tuple[int, int]], objects: set[str]) -> None:
        super().__init__(ranges, objects)
        self.ranges, self.objects = ranges, objects


def read_segment(store: ObjectStore, stored: StoredGeneration, number: int, name: str) -> Segment:
    """Read a segment of a generation.

    Raises:
        Lost: It is missing or damaged.
    """
    begin = number * stored.segment_bytes
    end = min(begin + stored.segment_bytes, stored.size_bytes)
    try:
        return Segment.decode(name, store.get(SEGMENTS + name, MAX_SEGMENT_BYTES), begin, end)
    except (FileNotFoundError, StreamError) as error:
        log.warning("%s: %s%s: %s", store.name, SEGMENTS, name, error)
        raise Lost([(begin, end - begin)], {SEGMENTS + name}) from error


def readable_part(store: ObjectStore, name: str, begin: int, end: int) -> Buffer:
    """Some bytes of a pack, as far as they can be read; its pieces have to be judged then."""
    try:
        return store.get_range(name, begin, end)
    except FileNotFoundError:
        return b""
    except StreamError:
        if not isinstance(store, SealedStore):
            return b""
    # One bad bit spoils a chunk of it, and not the others.
    with suppress(StreamError, FileNotFoundError):
        return store.salvage_range(name, begin, end)
    return b""


class Reader:
    """Reads pieces from packs; used by several threads.

    Args:
        store: The repository's objects.
        cache: A folder for copies of index objects.
    """

    def __init__(self, store: ObjectStore, cache: str) -> None:
        self._store, self._cache = store, cache
        #: What is in them is taken from elsewhere, as far as it is elsewhere.
        self._damaged = damaged_packs(store)
        self._index = self._load(self._damaged)
        self._everything: IndexSet | None = None
        self._adopted = False
        if self._index.damaged:
            self._adopt(self._index)

    def _load(self, without: set[bytes]) -> IndexSet:
        return IndexSet.load(self._store, self._cache, without=lambda _: without)

    def _adopt(self, index: IndexSet) -> None:
        """Look into the packs themselves for what no index has."""
        found = index.adopt()
        log.info("%d packs that no index names were found", found)

    def locate(self, segment: Segment) -> _core.Wanted:
        """Where the pieces of a segment are; some may be missing still."""
        wanted = self._index.locate(segment)
        if wanted.missing and not self._adopted:
            # A prune may have put other index objects; or one of them is lost.
            self._adopted = True
            self._index = self._load(self._damaged)
            self._adopt(self._index)
            wanted = self._index.locate(segment)
        if wanted.missing and self._damaged:
            # Perhaps it is sound in a pack that is damaged elsewhere.
            if self._everything is None:
                self._everything = self._load(set())
                self._adopt(self._everything)
            wanted = self._everything.locate(segment)
        return wanted

    def groups(self, wanted: _core.Wanted) -> Iterator[tuple[int, str, int, int]]:
        """Of each group its number, the object, its first byte and one past its last."""
        for number, (pack, begin, end, _) in enumerate(wanted.groups()):
            yield number, pack_object(pack), begin, end

    def read(
        self, segment: Segment, wanted: _core.Wanted, group: tuple[int, str, int, int], take: Take
    ) -> None:
        """Read a group and give it on; where a piece is damaged, another copy of it.

        Raises:
            Lost: There is none.
        """
        number, name, begin, end = group
        part = readable_part(self._store, name, begin, end)
        try:
            take(wanted, number, part)
            return
        except StreamError as error:
            log.warning("%s: %s: %s", self._store.name, name, error)
        damaged = {offset for offset, _, _ in wanted.damaged(number, part)}
        self._read_others(segment, wanted, number, damaged, take, bad={name})

    def _read_others(
        self,
        segment: Segment,
        wanted: _core.Wanted,
        number: int,
        damaged: set[int],
        take: Take,
        *,
        bad: set[str],
    ) -> None:
        """Take the sound pieces of a group, and of the damaged ones copies in other packs."""
        everything = {offset for offset, _, _ in wanted.damaged(number, b"")}
        sound = _only(segment, everything - damaged)
        again = (self._everything or self._index).locate(sound)
        for each, name, begin, end in self.groups(again):
            take(again, each, readable_part(self._store, name, begin, end))
        rest = _only(segment, damaged)
        without = {bytes.fromhex(each.rpartition("/")[2]) for each in bad}
        others = self._load(without)
        others.packs.update(without)  # not to be looked into again
        others.adopt()
        found = others.locate(rest)
        lost = list(found.missing)
        for each, name, begin, end in self.groups(found):
            try:
                take(found, each, readable_part(self._store, name, begin, end))
            except StreamError as error:
                log.warning("%s: %s: %s", self._store.name, name, error)
                bad.add(name)
                lost += [row[:2] for row in found.damaged(each, b"")]
        if lost:
            raise Lost(sorted(lost), bad)


def _only(segment: Segment, offsets: set[int]) -> Segment:
    """The pieces of a segment at some offsets."""
    return Segment.of([row for row in segment.rows() if row[0] in offsets])
