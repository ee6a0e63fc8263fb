"""What of a repository is needed by the generations that stay."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from thinmeta.backup.base import BOOKMARKS
from thinmeta.backup.index import INDEX, PACKS, IndexSet, damaged_packs, pack_name, packs_of_index
from thinmeta.backup.locate import Lost, read_segment
from thinmeta.backup.pipeline import PACK_BYTES
from thinmeta.backup.segments import SEGMENTS
from thinmeta.backup.stopping import stop_point

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.backup.manifest import StoredGeneration
    from thinmeta.backup.objects import ObjectStore

__all__ = ["Waste", "find_waste"]

#: Packs of which less than this share is needed are written anew.
LEAST_SHARE = 0.5
#: So many packs that are not a quarter full are put together.
MANY_SMALL = 8

log = logging.getLogger("thinmeta.backup")


@dataclass(slots=True)
class Waste:
    """What is needed, and what is not.

    Attributes:
        index: The index objects, in which the needed pieces are marked.
        names: Of each index object the packs that it names.
        generations: Names of the generations whose needs were marked.
        indexes_seen: Names of the index objects that there were.
        needed: Objects of segments and bookmarks that are needed.
        sizes: The packs that are there, with their bytes.
        dead: Those that nobody needs.
        mostly_dead: Those of which a part is needed that is to be written to another pack.
        live_bytes: How much that part is, in all of them.
    """

    index: IndexSet
    names: dict[str, set[bytes]] = field(default_factory=dict)
    generations: set[str] = field(default_factory=set)
    indexes_seen: set[str] = field(default_factory=set)
    needed: set[str] = field(default_factory=set)
    sizes: dict[bytes, int] = field(default_factory=dict)
    dead: set[bytes] = field(default_factory=set)
    mostly_dead: set[bytes] = field(default_factory=set)
    live_bytes: int = 0


def find_waste(store: ObjectStore, cache: str, kept: list[StoredGeneration]) -> Waste:
    """Mark what generations need.

    Args:
        store: The repository's objects.
        cache: A folder for copies of index objects.
        kept: The generations that stay.

    Raises:
        Lost: Something that they need is missing or damaged.
    """
    # Index objects first: what they name was put before them.
    seen = {name for name, _ in store.list(INDEX)}
    index = IndexSet.load(store, cache)
    sizes = {pack: size for name, size in store.list(PACKS) if (pack := pack_name(name))}
    damaged = damaged_packs(store)
    if index.damaged or damaged or index.packs.difference(sizes):
        # Marks are to be made on what is there and sound, and on nothing else.
        log.warning("%s: objects are damaged: every pack is looked into", store.name)
        index = _from_packs(store, cache, index, damaged)
    try:
        waste = _marked(store, index, kept)
    except _NowhereError as error:
        if index.packs.issuperset(sizes):
            raise
        # Packs that no index object names have it, perhaps: one that did is lost.
        log.warning("%s: %s: every pack is looked into", store.name, ", ".join(error.objects))
        waste = _marked(store, _from_packs(store, cache, index, damaged), kept)
    waste.sizes, waste.indexes_seen = sizes, seen
    index = waste.index
    waste.names = {name: set(packs_of_index(index.path(name))) for name in index.objects}
    _judge_packs(waste)
    return waste


def _from_packs(store: ObjectStore, cache: str, old: IndexSet, without: set[bytes]) -> IndexSet:
    """What the packs that are there say of themselves; no index object counts."""
    index = IndexSet(store, cache)
    index.packs |= without
    index.adopt()
    index.packs -= without
    index.spill()
    index.damaged = dict.fromkeys([*old.objects, *old.damaged], "it is replaced")
    return index


class _NowhereError(Lost):
    """Pieces are needed that are nowhere, as far as was looked."""


def _marked(store: ObjectStore, index: IndexSet, kept: list[StoredGeneration]) -> Waste:
    """Mark in an index what generations need."""
    waste = Waste(index, generations={each.name for each in kept})
    marked: set[tuple[str, int, int]] = set()
    for stored in kept:
        if stored.bookmark is not None:
            waste.needed.add(BOOKMARKS + stored.bookmark)
        for number, name, _ in stored.segments:
            key = name, number, min(stored.size_bytes, (number + 1) * stored.segment_bytes)
            if key in marked:
                continue
            marked.add(key)
            stop_point()
            waste.needed.add(SEGMENTS + name)
            segment = read_segment(store, stored, number, name)
            if waste.index.blocks.mark(segment.hashes):
                raise _NowhereError([(number * stored.segment_bytes, 0)], {SEGMENTS + name})
    return waste


def _judge_packs(waste: Waste) -> None:
    usage = {name: (stored, needed) for name, stored, needed in waste.index.blocks.usage()}
    small = []
    for pack, size in waste.sizes.items():
        stored, needed = usage.get(pack, (0, 0))
        if needed == 0:
            waste.dead.add(pack)
        elif needed < stored * LEAST_SHARE:
            waste.mostly_dead.add(pack)
            waste.live_bytes += needed
        elif size < PACK_BYTES // 4:
            small.append((pack, needed))
    if len(small) >= MANY_SMALL:
        waste.mostly_dead.update(pack for pack, _ in small)
        waste.live_bytes += sum(needed for _, needed in small)
