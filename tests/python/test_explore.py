"""The explorer without its screen: what pages say of sound images."""

from __future__ import annotations

import random
from collections import Counter

import pytest

import thinmeta
from corpus import THIN, Corpus
from damages import Tree
from exploring import codes, column, fact, walk
from model import PoolModel
from thinmeta.explore import (
    BlockPlace,
    DevicesPlace,
    Explorer,
    History,
    HomePlace,
    MappingPlace,
    OwnersPlace,
    Page,
    Place,
    hex_lines,
    parse_place,
)
from thinmeta.explore.reading import Metadata
from thinmeta.explore.seen import Seen


def ranges_of(model: PoolModel) -> dict[int, dict[int, tuple[int, int]]]:
    return {device.id: device.mappings for device in model.devices.values()}


def ranges_on(pages: list[Page]) -> dict[int, dict[int, tuple[int, int]]]:
    """All mappings that leaves show, by device."""
    found: dict[int, dict[int, tuple[int, int]]] = {}
    for page in pages:
        place = page.place
        if not isinstance(place, BlockPlace) or place.role != "mappings":
            continue
        assert place.device is not None
        device = found.setdefault(place.device, {})
        if "in data block" not in page.heads:
            continue
        for row in page.rows:
            begin, end, length, data, data_end, time = map(int, row.cells)
            assert end - begin == length == data_end - data
            for at in range(length):
                assert begin + at not in device
                device[begin + at] = (data + at, time)
    return found


# ---- sound images ----


@pytest.mark.parametrize("name", THIN)
def test_whoever_follows_every_row_sees_every_mapping_and_no_trouble(
    corpus: Corpus, name: str
) -> None:
    image = corpus[name]
    with Explorer(image.meta) as explorer:
        pages = list(walk(explorer))
        assert {code for page in pages for code in codes(page)} == set()
        # What devices share is walked once, as a part of one of them.
        shown, expected = ranges_on(pages), ranges_of(image.model)
        mapped = {data for device in shown.values() for data, _ in device.values()}
        assert mapped == {data for device in expected.values() for data, _ in device.values()}
        assert shown.keys() <= expected.keys()
        for device, mappings in shown.items():
            assert mappings.items() <= expected[device].items()
        rows = [
            row.cells[:5]
            for page in pages
            if isinstance(page.place, DevicesPlace)
            for row in page.rows
        ]
        assert rows == [
            tuple(map(str, (each.id, each.mapped_blocks, each.transaction_id,
                            each.creation_time, each.snapshotted_time)))
            for each in image.model.devices.values()
        ]  # fmt: skip


@pytest.mark.parametrize("name", ["snap-chain", "sparse-keys", "random-60k"])
def test_a_mapping_is_found_by_its_device_and_block(corpus: Corpus, name: str) -> None:
    model, draw = corpus[name].model, random.Random(name)
    with Explorer(corpus[name].meta) as explorer:
        for device in draw.sample([*model.devices.values()], min(8, len(model.devices))):
            mapped = draw.sample([*device.mappings], min(20, len(device.mappings)))
            for block in mapped:
                page = explorer.page(MappingPlace(device.id, block))
                data, time = device.mappings[block]
                assert (fact(page, "data block"), fact(page, "time")) == (str(data), str(time))
                assert page.troubles == () and page.rows[-1].to == OwnersPlace(data)
            for block in {each + 1 for each in mapped} - device.mappings.keys() | {2**64 - 1}:
                page = explorer.page(MappingPlace(device.id, block))
                assert fact(page, "mapping") == "none: a hole" and page.troubles == ()
        assert fact(explorer.page(MappingPlace(4711, 0)), "mapping") == "there is no device 4711"


def test_what_maps_a_data_block_is_found(corpus: Corpus) -> None:
    model = corpus["snap-chain"].model
    owners: dict[int, set[tuple[str, ...]]] = {}
    for device in model.devices.values():
        for virtual, (data, _) in device.mappings.items():
            owners.setdefault(data, set()).add((str(device.id), str(virtual)))
    with Explorer(corpus["snap-chain"].meta) as explorer:
        for data in random.Random(1).sample([*owners], 12):
            page = explorer.page(OwnersPlace(data))
            assert {row.cells for row in page.rows} == owners[data] and not page.troubles
            for row in page.rows:
                assert isinstance(row.to, MappingPlace)
                assert fact(explorer.page(row.to), "data block") == str(data)
        for nothing in (model.nr_data_blocks, 2**64 - 1):
            page = explorer.page(OwnersPlace(nothing))
            assert page.rows == () and "past the end" in fact(page, "references")


@pytest.mark.parametrize("name", ["snap-chain", "deleted", "metadata-snap"])
def test_counts_are_those_of_pointers_and_leaves(corpus: Corpus, name: str) -> None:
    content = corpus[name].meta.read_bytes()
    tree = Tree(content)
    leaves = {leaf for _, root in tree.device_roots().values() for _, leaf in tree.leaves(root)}
    if corpus[name].has_held_root:
        held = int.from_bytes(content[56:64], "little")
        top = int.from_bytes(tree.block(held)[320:328], "little")
        for _, leaf in tree.leaves(top):
            for _, root in tree.entries(leaf)[1]:
                leaves |= {each for _, each in tree.leaves(int.from_bytes(root, "little"))}
    data = Counter(
        int.from_bytes(value, "little") >> 24
        for leaf in leaves
        for _, value in tree.entries(leaf)[1]
    )
    metadata = Metadata(corpus[name].meta)
    live = metadata.live().superblock
    assert live is not None
    for block in range(0, live.data_space_map_root.nr_blocks, 7):
        assert metadata.count("data", block) == data[block], block
    counts = [metadata.count("metadata", block) for block in range(metadata.nr_blocks)]
    used = [count for count in counts if count not in (0, None)]
    assert len(used) == live.metadata_space_map_root.nr_allocated
    assert metadata.count("metadata", 2**64) is None
    metadata.close()


def test_both_space_maps_are_shown_down_to_the_ranges(corpus: Corpus) -> None:
    with Explorer(corpus["snap-chain"].meta) as explorer:
        pages = list(walk(explorer))
        for which in ("data", "metadata"):
            bitmaps = [
                page for page in pages
                if isinstance(page.place, BlockPlace)
                and (page.place.role, page.place.map) == ("bitmap", which)
            ]  # fmt: skip
            assert bitmaps
            lengths = [int(row.cells[2]) for page in bitmaps for row in page.rows]
            free = [int(row.cells[2]) for page in bitmaps for row in page.rows
                    if row.cells[3] == "free"]  # fmt: skip
            with thinmeta.open_pool(corpus["snap-chain"].meta) as pool:
                space = pool.data_space if which == "data" else pool.metadata_space
            assert (sum(lengths), sum(free)) == (space.blocks, space.free)
        many = [page for page in pages if "count 3 or more" in dict(page.facts)]
        assert {page.heads for page in many} == {("from block", "to", "blocks", "count")}


def test_the_height_is_the_number_of_levels_below(corpus: Corpus) -> None:
    with Explorer(corpus["random-60k"].meta) as explorer:
        for page in walk(explorer):
            if "height" in dict(page.facts):
                leaf = fact(page, "node") == "leaf"
                assert (fact(page, "height") == "0") == leaf
                assert int(fact(page, "references")) > 0 and fact(page, "checksum") == "ok"


def test_one_page_reads_little_of_a_large_pool(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    see = Metadata.see

    def counted(self: Metadata, block: int, *args: object, **kwargs: object) -> Seen:
        reads.append(block)
        return see(self, block, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Metadata, "see", counted)
    most = 0
    for name in ("random-60k", "snaps-300"):
        with Explorer(corpus[name].meta) as explorer:
            for page in walk(explorer, most_pages=400):
                bound = 40 if isinstance(page.place, DevicesPlace) else 16
                assert len(set(reads)) <= bound, page.title
                most = max(most, len(reads))
                reads.clear()
    assert most > 4, "nothing was counted"


def test_a_block_by_its_number_is_known_for_what_it_is(corpus: Corpus) -> None:
    for name in ("metadata-snap", "random-60k"):
        with Explorer(corpus[name].meta) as explorer:
            for page in walk(explorer, most_pages=150):
                place = page.place
                if not isinstance(place, BlockPlace) or place.role in (None, "superblock"):
                    continue
                again = explorer.page(BlockPlace(place.block))
                assert not again.troubles
                if page.rows and place.role not in ("bitmap", "counts"):
                    assert again.heads == page.heads, (page.title, again.title)
                    assert [row.cells for row in again.rows] == [row.cells for row in page.rows]


def test_a_metadata_snapshot_is_explored_beside_the_pool(corpus: Corpus) -> None:
    image = corpus["metadata-snap"]
    with Explorer(image.meta, metadata_snapshot="held") as explorer:
        home = explorer.page(HomePlace())
        assert "metadata snapshot" in home.title and home.rows[0].to == BlockPlace(0)
        pages = list(walk(explorer))
        assert {code for page in pages for code in codes(page)} == set()
        shown, expected = ranges_on(pages), ranges_of(image.held_model)
        assert shown and all(shown[each].items() <= expected[each].items() for each in shown)
        mapped = {data for device in shown.values() for data, _ in device.values()}
        assert mapped == {data for device in expected.values() for data, _ in device.values()}
        assert image.held_model != image.model, "the snapshot shows what the pool has not"
        for device, mappings in expected.items():
            for block, (data, _) in [*mappings.items()][:5]:
                page = explorer.page(MappingPlace(device, block))
                assert fact(page, "data block") == str(data)
        assert explorer.page(OwnersPlace(0)).troubles == ()
    with Explorer(image.meta) as explorer:
        (held,) = (row.to for row in explorer.page(HomePlace()).rows if row.cells[0] == "held_root")
        assert isinstance(held, BlockPlace)
        assert explorer.page(held).rows == home.rows[1:] and not explorer.page(held).troubles
    with Explorer(image.meta, metadata_snapshot=held.block) as explorer:
        assert explorer.page(HomePlace()).rows == home.rows
    with Explorer(corpus["snap-chain"].meta, metadata_snapshot="held") as explorer:
        for place in (HomePlace(), DevicesPlace(), MappingPlace(1, 0), OwnersPlace(1)):
            assert codes(explorer.page(place)) == {"metadata-snapshot-damaged"}


def test_long_tables_and_many_devices_go_on_elsewhere(corpus: Corpus) -> None:
    model = corpus["snaps-300"].model
    with Explorer(corpus["snaps-300"].meta) as explorer:
        place: Place | None = DevicesPlace()
        ids: list[str] = []
        while place is not None:
            page = explorer.page(place)
            ids += column(page, "device")
            assert len(page.rows) <= 200
            place = page.more
        assert ids == [str(device) for device in model.devices]
        assert column(explorer.page(DevicesPlace(250)), "device")[0] == str(
            min(device for device in model.devices if device >= 250)
        )


# ---- places, history, bytes ----


def test_places_are_typed_in_a_few_ways() -> None:
    assert parse_place("361") == parse_place(" block 361 ") == BlockPlace(361)
    assert parse_place("5:100") == MappingPlace(5, 100)
    assert parse_place("dev 5") == DevicesPlace(5) and parse_place("devices") == DevicesPlace()
    assert parse_place("data 77") == OwnersPlace(77) and parse_place("home") == HomePlace()
    for wrong in ("", "x", "-1", "5:", ":5", "1 2", "data", "data x", "block", str(2**64), "٣"):
        with pytest.raises(thinmeta.UsageError, match="there is no place"):
            parse_place(wrong)


def test_history_goes_back_and_forward() -> None:
    history = History(HomePlace())
    assert not history.back() and not history.forward()
    history.go(BlockPlace(1))
    history.go(BlockPlace(1))  # no step
    history.go(BlockPlace(2))
    trail = [history.place]
    while history.back():
        trail.append(history.place)
    assert trail == [BlockPlace(2), BlockPlace(1), HomePlace()]
    assert history.forward()
    history.go(DevicesPlace())
    assert not history.forward(), "what was forward is forgotten"
    trail = [history.place]
    while history.back():
        trail.append(history.place)
    assert trail == [DevicesPlace(), BlockPlace(1), HomePlace()]


def test_bytes_are_shown_sixteen_a_line() -> None:
    lines = hex_lines(bytes(range(256)) * 16)
    assert len(lines) == 256 and {len(line) for line in lines} == {72}
    assert lines[4] == ("0040  40 41 42 43 44 45 46 47  48 49 4a 4b 4c 4d 4e 4f  @ABCDEFGHIJKLMNO")
