"""Pages of single metadata blocks: superblocks, nodes, bitmaps, indexes, and whatever else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thinmeta.explore.pages import Page, Row, part_of
from thinmeta.explore.places import MAX_DEVICE_ID, BlockPlace
from thinmeta.explore.seen import Trouble
from thinmeta.explore.tables import (
    INDEX_HEADS,
    bitmap_rows,
    counted,
    index_rows,
    node_table,
    superblock_rows,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from thinmeta.explore.places import Role
    from thinmeta.explore.reading import Metadata
    from thinmeta.explore.seen import Node, Seen

__all__ = ["block_page", "role_title"]

Fact = tuple[str, str]


def block_page(metadata: Metadata, place: BlockPlace) -> Page:
    """What stands in a block, decoded and as bytes."""
    known = place if place.role is not None else _known(metadata, place)
    seen = metadata.see(place.block, known.role, low=known.low, high=known.high, path=known.path)
    if known.role is None:
        known = _guessed(metadata, known, seen)
    troubles = list(seen.troubles)
    facts = [*_common_facts(metadata, known, seen)]
    heads: tuple[str, ...] = ()
    rows: list[Row] = []
    if seen.superblock is not None:
        heads, rows = ("field", "value"), superblock_rows(seen.superblock, seen.block)
    elif seen.node is not None:
        facts += _node_facts(metadata, seen, seen.node, known)
        heads, rows, more_troubles = node_table(metadata, seen.node, known)
        troubles += more_troubles
    elif seen.bitmap is not None:
        facts += _bitmap_facts(metadata, seen.bitmap, known)
        heads, rows = (
            ("from block", "to", "blocks", "count"),
            bitmap_rows(metadata, seen.bitmap, known),
        )
    elif seen.index is not None:
        entries = [(number, entry) for number, entry in enumerate(seen.index) if entry[0]]
        heads, rows = INDEX_HEADS, index_rows(entries, "metadata")
    shown, more = part_of(rows, place)
    if place.skip:
        facts.append(("shown", f"rows {place.skip + 1} to {place.skip + len(shown)}"))
    return Page(
        place=place,
        title=f"block {place.block}: {role_title(known)}",
        facts=tuple(facts),
        troubles=tuple(troubles),
        heads=heads,
        rows=shown,
        more=more,
        raw=seen.raw,
    )


def role_title(place: BlockPlace) -> str:
    """What a block is for, in words."""
    whose = "" if place.device is None else f" of device {place.device}"
    which = "a space map" if place.map is None else f"the {place.map} space map"
    number = "a bitmap" if place.number is None else f"bitmap {place.number}"
    titles: dict[Role | None, str] = {
        "superblock": "the superblock",
        "snapshot": "the superblock of a metadata snapshot",
        "top_level": "top level of the mapping tree",
        "mappings": f"mappings{whose}",
        "details": "details of devices",
        "index": "index of the metadata space map",
        "index_tree": "index tree of the data space map",
        "bitmap": f"{number} of {which}",
        "counts": f"overflow tree of {which}",
        None: "unknown",
    }
    return titles[place.role]


# ---- what a block is for ----


def _known(metadata: Metadata, place: BlockPlace) -> BlockPlace:
    """What somebody's number means, as far as the superblocks say."""
    from dataclasses import replace

    block = place.block
    if block == 0:
        return replace(place, role="superblock")
    home = metadata.home()
    if not isinstance(home, Trouble) and home[0] == block:
        return replace(place, role="snapshot")
    live, roots = metadata.live().superblock, metadata.roots()
    tops = [each for each in (live, roots) if each is not None and not isinstance(each, Trouble)]
    for top in tops:
        if block == top.data_mapping_root:
            return replace(place, role="top_level")
        if block == top.device_details_root:
            return replace(place, role="details")
    if live is None:
        return place
    if block == live.held_root:
        return replace(place, role="snapshot")
    if block == live.data_space_map_root.bitmap_root:
        return replace(place, role="index_tree", map="data")
    if block == live.data_space_map_root.ref_count_root:
        return replace(place, role="counts", map="data")
    if block == live.metadata_space_map_root.ref_count_root:
        return replace(place, role="counts", map="metadata")
    index_block = live.metadata_space_map_root.bitmap_root
    if block == index_block:
        return replace(place, role="index", map="metadata")
    index = metadata.see(index_block, "index").index or []
    for number, entry in enumerate(index):
        if entry[0] == block:
            return replace(place, role="bitmap", map="metadata", number=number)
    return place


def _guessed(metadata: Metadata, place: BlockPlace, seen: Seen) -> BlockPlace:
    """What a block looks like that nobody named."""
    from dataclasses import replace

    if seen.superblock is not None:
        return replace(place, role="snapshot")
    if seen.index is not None:
        return replace(place, role="index", map="metadata")
    if seen.bitmap is not None:
        return replace(place, role="bitmap")
    node = seen.node
    if node is None or node.keys is None or node.children is not None:
        return place
    if node.details is not None:
        return replace(place, role="details")
    if node.index is not None:
        return replace(place, role="index_tree", map="data")
    if node.counts is not None:
        return replace(place, role="counts")
    if node.numbers is None:
        return place
    # Roots are small numbers; a mapping has its data block above 24 bits of time.
    small = all(0 < number < metadata.nr_blocks for number in node.numbers)
    ids = all(key <= MAX_DEVICE_ID for key in node.keys)
    return replace(place, role="top_level" if node.numbers and small and ids else "mappings")


# ---- facts ----


def _common_facts(metadata: Metadata, place: BlockPlace, seen: Seen) -> Iterator[Fact]:
    yield "block", f"{seen.block} of {metadata.nr_blocks}"
    if seen.raw is None:
        yield "kind", "cannot be read"
        return
    if seen.kind is not None:
        yield "kind", seen.kind
    else:
        yield "kind", "all zero" if seen.zeros else "unknown"
    yield "checksum", "ok" if seen.kind is not None else "fits no kind of block"
    if seen.block < metadata.nr_blocks:
        yield "references", _count_text(metadata.count("metadata", seen.block))
    if place.path:
        yield "path", " > ".join(map(str, (*place.path, seen.block)))


def _count_text(count: int | Trouble | None) -> str:
    if isinstance(count, Trouble):
        place = "" if count.block is None else f", block {count.block}"
        return f"unknown ({count.code}{place})"
    if count is None:
        return "not counted: past the end of the space map"
    return "0: the block is free" if count == 0 else str(count)


def _node_facts(metadata: Metadata, seen: Seen, node: Node, place: BlockPlace) -> Iterator[Fact]:
    names = {1: "internal", 2: "leaf"}
    yield "node", names.get(node.flags, f"neither internal nor leaf (flags {node.flags})")
    height = metadata.height(seen, place.role)
    if isinstance(height, Trouble):
        where = "" if height.block in (None, seen.block) else f", block {height.block}"
        yield "height", f"unknown ({height.code}{where})"
    else:
        yield "height", str(height)
    of = f"{node.nr_entries} of {node.max_entries}, values of {node.value_size} bytes"
    yield "entries", of
    if node.keys:
        yield "keys", f"{node.keys[0]} to {node.keys[-1]}"


def _bitmap_facts(metadata: Metadata, bitmap: bytes, place: BlockPlace) -> Iterator[Fact]:
    real = counted(metadata, place)
    part = bitmap[:real]
    for count, name in enumerate(("free", "count 1", "count 2", "count 3 or more")):
        yield name, f"{part.count(count)} of {real}"
