"""Tables of what stands in single metadata blocks, whose rows lead on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thinmeta.explore.pages import Row
from thinmeta.explore.places import MAX_DEVICE_ID, BlockPlace, DevicesPlace, OwnersPlace
from thinmeta.explore.seen import BITMAP_ENTRIES, MANY, Trouble

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from thinmeta.explore.places import Map, Place, Role
    from thinmeta.explore.reading import Metadata
    from thinmeta.explore.seen import Node
    from thinmeta.types import Superblock

__all__ = [
    "INDEX_HEADS",
    "bitmap_rows",
    "counted",
    "index_rows",
    "node_table",
    "superblock_rows",
]

INDEX_HEADS = ("bitmap", "block", "from block", "to", "free", "none free before")
MAPPING_HEADS = ("from block", "to", "blocks", "in data block", "to", "time")


def superblock_rows(superblock: Superblock, block: int) -> list[Row]:
    """The fields of a superblock; a metadata snapshot has no space maps."""
    data, metadata = superblock.data_space_map_root, superblock.metadata_space_map_root

    def to(number: int, role: Role, which: Map | None = None) -> Place | None:
        return BlockPlace(number, role=role, map=which) if number else None

    needs_check = " (needs_check)" if superblock.needs_check else ""
    held = superblock.held_root
    rows = [
        Row(("devices", "with their details"), DevicesPlace()),
        _number_row("data_mapping_root", superblock.data_mapping_root, "top_level"),
        _number_row("device_details_root", superblock.device_details_root, "details"),
        Row(("held_root", str(held) if held else "none"), to(held, "snapshot")),
        Row(("trans_id", str(superblock.trans_id))),
        Row(("time", str(superblock.time))),
        Row(("flags", f"{superblock.flags}{needs_check}")),
        Row(("version", str(superblock.version))),
        Row(("data_block_size", f"{superblock.data_block_size} sectors")),
        Row(("metadata_block_size", f"{superblock.metadata_block_size} sectors")),
        Row(("metadata_nr_blocks", f"{superblock.metadata_nr_blocks} when it was made")),
        Row(("compat_flags", str(superblock.compat_flags))),
        Row(("compat_ro_flags", str(superblock.compat_ro_flags))),
        Row(("incompat_flags", str(superblock.incompat_flags))),
        Row(("uuid", superblock.uuid)),
        Row(("magic", str(superblock.magic))),
        Row(("csum", f"{superblock.csum:08x}")),
    ]
    if block != 0:
        return rows
    maps = [
        Row(("data blocks", f"{data.nr_allocated} of {data.nr_blocks} in use")),
        Row(("data index tree", str(data.bitmap_root)), to(data.bitmap_root, "index_tree", "data")),
        Row(
            ("data overflow tree", str(data.ref_count_root)),
            to(data.ref_count_root, "counts", "data"),
        ),
        Row(("metadata blocks", f"{metadata.nr_allocated} of {metadata.nr_blocks} in use")),
        Row(
            ("metadata index", str(metadata.bitmap_root)),
            to(metadata.bitmap_root, "index", "metadata"),
        ),
        Row(
            ("metadata overflow tree", str(metadata.ref_count_root)),
            to(metadata.ref_count_root, "counts", "metadata"),
        ),
    ]
    return [*rows[:4], *maps, *rows[4:]]


def _number_row(name: str, block: int, role: Role) -> Row:
    return Row((name, str(block)), BlockPlace(block, role=role))


def node_table(
    metadata: Metadata, node: Node, place: BlockPlace
) -> tuple[tuple[str, ...], list[Row], list[Trouble]]:
    """Heads and rows of a node's entries, and what is wrong with what they say."""
    keys = node.keys
    if keys is None:
        return (), [], []
    if node.children is not None:
        return ("from key", "child block"), _child_rows(metadata, node, place), []
    if node.details is not None:
        return _details_table(keys, node)
    if node.index is not None:
        return INDEX_HEADS, index_rows(zip(keys, node.index, strict=True), "data"), []
    if node.counts is not None:
        to_block = place.map == "metadata"
        rows = [
            Row((str(key), str(count)), BlockPlace(key) if to_block else _owners(place, key))
            for key, count in zip(keys, node.counts, strict=True)
        ]
        return ("block", "count"), rows, []
    if node.numbers is None:
        return ("key",), [Row((str(key),)) for key in keys], []
    if place.role == "top_level":
        return _top_level_table(metadata, keys, node.numbers)
    return _mapping_table(metadata, node, place)


def _owners(place: BlockPlace, key: int) -> Place | None:
    return OwnersPlace(key) if place.map == "data" else None


def _child_rows(metadata: Metadata, node: Node, place: BlockPlace) -> list[Row]:
    keys, children = node.keys or [], node.children or []
    path = (*place.path, place.block)
    rows = []
    for key, end, child in zip(keys, [*keys[1:], place.high], children, strict=True):
        code = _pointer_code(metadata, child)
        to = BlockPlace(
            child,
            role=place.role,
            device=place.device,
            map=place.map,
            path=path,
            low=key,
            high=end,
        )
        rows.append(Row((str(key), _told(child, code)), to, code))
    return rows


def _pointer_code(metadata: Metadata, block: int) -> str:
    return "" if 0 < block < metadata.nr_blocks else "bad-pointer"


def _told(value: object, code: str) -> str:
    return f"{value} ({code})" if code else str(value)


def _details_table(keys: list[int], node: Node) -> tuple[tuple[str, ...], list[Row], list[Trouble]]:
    heads = ("device", "mapped blocks", "transaction id", "created", "snapshotted")
    rows = []
    for key, details in zip(keys, node.details or [], strict=True):
        code = "bad-device-id" if key > MAX_DEVICE_ID else ""
        cells = (_told(key, code), *map(str, details))
        rows.append(Row(cells, DevicesPlace(key), code))
    return heads, rows, []


def _top_level_table(
    metadata: Metadata, keys: list[int], roots: list[int]
) -> tuple[tuple[str, ...], list[Row], list[Trouble]]:
    rows = []
    for key, root in zip(keys, roots, strict=True):
        id_code = "bad-device-id" if key > MAX_DEVICE_ID else ""
        code = _pointer_code(metadata, root)
        to = BlockPlace(root, role="mappings", device=key)
        rows.append(Row((_told(key, id_code), _told(root, code)), to, code or id_code))
    return ("device", "root block"), rows, []


def index_rows(entries: Iterable[tuple[int, tuple[int, int, int]]], which: Map) -> list[Row]:
    """Bitmaps by their numbers, with what the index has of each."""
    rows = []
    for number, (block, nr_free, none_free_before) in entries:
        begin = number * BITMAP_ENTRIES
        cells = (number, block, begin, begin + BITMAP_ENTRIES, nr_free, none_free_before)
        to = BlockPlace(block, role="bitmap", map=which, number=number)
        rows.append(Row(tuple(map(str, cells)), to))
    return rows


def bitmap_rows(metadata: Metadata, bitmap: bytes, place: BlockPlace) -> list[Row]:
    """The blocks that a bitmap counts, in ranges of one count."""
    from itertools import groupby

    base = (place.number or 0) * BITMAP_ENTRIES
    rows, at = [], 0
    for count, group in groupby(bitmap[: counted(metadata, place)]):
        length = sum(1 for _ in group)
        begin = base + at
        text = "3 or more" if count == MANY else "free" if count == 0 else str(count)
        to: Place | None = None
        if place.map == "metadata":
            to = BlockPlace(begin)
        elif place.map == "data" and count:
            to = OwnersPlace(begin)
        rows.append(Row((str(begin), str(begin + length), str(length), text), to))
        at += length
    return rows


def _mapping_table(
    metadata: Metadata, node: Node, place: BlockPlace
) -> tuple[tuple[str, ...], list[Row], list[Trouble]]:
    """Mappings that follow each other in the volume and in the data, as ranges."""
    keys, mappings = node.keys or [], node.mappings or []
    live = metadata.live()
    blocks = times = None
    if live.superblock is not None and live.fatal is None:
        blocks, times = live.superblock.data_space_map_root.nr_blocks, live.superblock.time
    rows: list[Row] = []
    codes: dict[str, int] = {}
    for begin, data, length, time in _runs(keys, mappings):
        code = ""
        if blocks is not None and data + length > blocks:
            code = "mapping-beyond-data"
        elif times is not None and time > times:
            code = "mapping-time"
        if code:
            codes[code] = codes.get(code, 0) + 1
        cells = (begin, begin + length, length, data, data + length, _told(time, code))
        rows.append(Row(tuple(map(str, cells)), OwnersPlace(data), code))
    troubles = [
        Trouble(code, "fatal", f"so it is with {count} of the ranges here", place.block)
        for code, count in codes.items()
    ]
    return MAPPING_HEADS, rows, troubles


def _runs(keys: list[int], mappings: list[tuple[int, int]]) -> Iterator[tuple[int, int, int, int]]:
    """Virtual block, data block, length and time of each range."""
    begin = data_begin = run_time = length = 0
    for key, (data, time) in zip(keys, mappings, strict=True):
        follows = key == begin + length and data == data_begin + length and time == run_time
        if length and follows:
            length += 1
            continue
        if length:
            yield begin, data_begin, length, run_time
        begin, data_begin, run_time, length = key, data, time, 1
    if length:
        yield begin, data_begin, length, run_time


def counted(metadata: Metadata, place: BlockPlace) -> int:
    """Entries of a bitmap that count something."""
    if place.map is None or place.number is None:
        return BITMAP_ENTRIES
    root = metadata.space_map(place.map)
    if isinstance(root, Trouble):
        return BITMAP_ENTRIES
    return max(0, min(BITMAP_ENTRIES, root.nr_blocks - place.number * BITMAP_ENTRIES))
