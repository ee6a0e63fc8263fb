"""Bookmarks: what the mappings of a snapshot that is gone still prove, and what not."""

import os
import random
from array import array
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import thinmeta
from streams import BLOCK, Source
from thinmeta.bookmark import Bookmark
from thinmeta.source import ImageGeneration, identity_of_bookmark


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Volume 1 with blocks 0 to 3, and snapshot 2 of it."""
    source = Source(tmp_path / "pool", data_blocks=20)
    source.size = 8 * BLOCK
    source.create(1)
    source.write(1, *((block * BLOCK, bytes([65 + block]) * BLOCK) for block in range(4)))
    source.snapshot(2)
    return source


def save(source: Source, device_id: int, name: str = "bookmark", **options: Any) -> Bookmark:
    options.setdefault("size_bytes", source.size)
    with source.open() as pool:
        return Bookmark.save(pool.devices[device_id], source.meta.with_name(name), **options)


def rows(source: Source, left: Any, right: Any, **options: Any) -> list[tuple[str, int, int]]:
    with source.open() as pool:
        return [
            (row.kind, row.begin_blocks, row.length_blocks)
            for row in pool.delta(left, right, **options)
        ]


def mappings(source: Source, device_id: int) -> dict[int, int]:
    """Data block of each block."""
    with source.open() as pool:
        return {
            run.virtual_begin + each: run.data_begin + each
            for run in pool.devices[device_id].runs()
            for each in range(run.length_blocks)
        }


def test_a_bookmark_says_what_the_snapshot_was(source: Source) -> None:
    bookmark = save(source, 2, pool_uuid="LVM-abc")
    with source.open() as pool:
        device = pool.devices[2]
        assert list(bookmark.runs()) == list(device.runs())
        assert bookmark.creation_time == device.creation_time == 1
        assert bookmark.digest.hex() == ImageGeneration(pool, 2).identity.digest
    assert bookmark.device_id == 2
    assert (bookmark.mapped_blocks, bookmark.end_blocks) == (4, 4)
    assert (bookmark.size_bytes, bookmark.data_block_size_sectors) == (source.size, 128)
    assert bookmark.pool_uuid == "LVM-abc"
    again = Bookmark.open(bookmark.path)
    assert again.digest == bookmark.digest
    assert identity_of_bookmark(again).is_snapshot
    assert repr(again) == f"<thinmeta.Bookmark {bookmark.path!r} device_id=2>"
    assert os.stat(bookmark.path).st_size < 400
    assert save(source, 2, size_bytes=None).size_bytes is None


def test_what_has_changed_since_is_known_when_the_snapshot_is_gone(source: Source) -> None:
    bookmark = save(source, 2)
    assert rows(source, bookmark, 1) == []
    assert rows(source, bookmark, 1, same=True) == [("same", 0, 4)]
    source.write(1, (BLOCK, b"x"), (6 * BLOCK, b"y"))
    source.discard(1, 3 * BLOCK, BLOCK)
    expected = [("changed", 1, 1), ("left_only", 3, 1), ("right_only", 6, 1)]
    assert rows(source, 2, 1) == expected
    assert rows(source, bookmark, 1) == expected
    source.delete(2)
    assert rows(source, bookmark, 1) == expected
    swapped = {"left_only": "right_only", "right_only": "left_only"}
    assert rows(source, 1, bookmark) == [
        (swapped.get(kind, kind), *place) for kind, *place in expected
    ]


def test_a_block_that_was_overwritten_in_its_place_counts_as_changed(source: Source) -> None:
    """Since the bookmark it is nobody's but the volume's: its mapping stays as it is."""
    source.write(1, (0, b"after the snapshot"))  # a new block, at the clock's time
    source.snapshot(3)
    source.delete(3)
    bookmark = save(source, 2)
    before = mappings(source, 1)
    source.write(1, (0, b"again"))
    moved = mappings(source, 1)
    # The snapshot that is gone by now had it, so that it moved. It is changed either way.
    assert moved[0] != before[0]
    source.write(1, (0, b"in its place"))
    assert mappings(source, 1) == moved
    assert rows(source, bookmark, 1) == [("changed", 0, 1)]


def test_equal_places_prove_nothing_where_the_time_is_not_before_the_snapshot(
    source: Source,
) -> None:
    bookmark = save(source, 2)
    there = mappings(source, 1)
    source.discard(1, 0, 2 * BLOCK)
    source.delete(2)
    # Both blocks are free now, and are given to the same places again.
    with source.open(mode="r+") as pool, pool.transaction() as txn:
        for block in range(2):
            txn.insert(1, virtual_block=block, data_block=there[block])
    assert mappings(source, 1) == there
    assert rows(source, bookmark, 1) == [("changed", 0, 2)]
    with source.open() as pool, ImageGeneration(pool, 1, size_bytes=source.size) as generation:
        assert list(generation.changes(bookmark).data) == [(0, 2 * BLOCK)]


def test_blocks_that_were_freed_and_used_again_are_told_apart(source: Source) -> None:
    bookmark = save(source, 2)
    source.delete(2)
    source.discard(1, 0, 4 * BLOCK)
    source.write(1, *((block * BLOCK, b"new" * 100) for block in range(4)))
    assert rows(source, bookmark, 1) == [("changed", 0, 4)]


def test_a_number_that_is_used_again_is_another_snapshot(source: Source) -> None:
    bookmark = save(source, 2)
    source.delete(2)
    source.write(1, (2 * BLOCK, b"new"))
    source.snapshot(2)
    other = save(source, 2, "other")
    assert other.device_id == bookmark.device_id and other.digest != bookmark.digest
    assert rows(source, bookmark, 2) == [("changed", 2, 1)]
    assert rows(source, other, 2) == []
    assert [(row.kind, row.begin_blocks) for row in bookmark.delta(other)] == [("changed", 2)]
    assert [(row.kind, row.length_blocks) for row in bookmark.delta(bookmark, same=True)] == [
        ("same", 4)
    ]
    assert len(bookmark.delta(bookmark)) == 0


def test_a_volume_that_is_written_is_refused(source: Source) -> None:
    path = source.meta.with_name("bookmark")
    with pytest.raises(thinmeta.UsageError, match="make a snapshot of it"):
        save(source, 1)
    source.write(2, (5 * BLOCK, b"a snapshot that is a volume, too"))
    with pytest.raises(thinmeta.UsageError, match="device 2 was written"):
        save(source, 2)
    assert not path.exists()


def test_the_clock_tells_an_earlier_pool(source: Source, tmp_path: Path) -> None:
    source.snapshot(3)
    bookmark = save(source, 3)
    young = Source(tmp_path / "young")
    young.create(1)
    for pool in (young,):
        with pytest.raises(thinmeta.WrongBaseError, match="clock is 0, and was 2"):
            rows(pool, bookmark, 1)
    other = Source(tmp_path / "other", sectors=256)
    other.create(1)
    with pytest.raises(thinmeta.WrongBaseError, match="data blocks of 128 sectors"):
        rows(other, bookmark, 1)


def test_bookmarks_of_different_pools_are_not_compared(source: Source, tmp_path: Path) -> None:
    one, two = save(source, 2, "a", pool_uuid="one"), save(source, 2, "b", pool_uuid="two")
    with pytest.raises(thinmeta.WrongBaseError, match="different pools"):
        one.delta(two)
    assert len(one.delta(save(source, 2, "c"))) == 0  # not known: it may be the same
    with source.open() as pool:
        generation = ImageGeneration(pool, 1, size_bytes=source.size, pool_uuid="two")
        with generation, pytest.raises(thinmeta.WrongBaseError, match="of pool one"):
            generation.changes(one)
    for wrong in ("x" * 129, "nul\0"):
        with pytest.raises(thinmeta.UsageError):
            save(source, 2, pool_uuid=wrong)
    with pytest.raises(thinmeta.UsageError):
        save(source, 2, size_bytes=1 << 64)
    with source.open() as pool:
        with pytest.raises(thinmeta.UsageError, match="is the input"):
            Bookmark.save(pool.devices[2], source.meta)
        with pytest.raises(IsADirectoryError):
            Bookmark.save(pool.devices[2], tmp_path)


def test_any_damage_is_noticed(source: Source, tmp_path: Path) -> None:
    sound = Path(save(source, 2, pool_uuid="LVM-abc").path).read_bytes()
    path = tmp_path / "damaged"

    def refused(content: bytes) -> None:
        path.write_bytes(content)
        with pytest.raises((thinmeta.StreamError, thinmeta.UnsupportedFormatError)):
            Bookmark.open(path)

    for at in range(len(sound)):
        for bit in (1, 0x80):
            refused(sound[:at] + bytes([sound[at] ^ bit]) + sound[at + 1 :])
        refused(sound[:at])
    refused(sound + b"\0")
    with pytest.raises(FileNotFoundError):
        Bookmark.open(tmp_path / "nothing")


@given(st.binary(max_size=600))
@settings(max_examples=200)
def test_random_bytes_are_no_bookmark(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "random.bookmark"
    for begin in (b"", b"thinmeta-bookmrk\1\0\0\0\0\1\0\0"):
        path.write_bytes(begin + content)
        with pytest.raises((thinmeta.StreamError, thinmeta.UnsupportedFormatError)):
            Bookmark.open(path)


def test_a_bookmark_that_changes_after_it_was_opened_is_noticed(source: Source) -> None:
    bookmark = save(source, 2)
    path = Path(bookmark.path)
    content = bytearray(path.read_bytes())
    content[-3] ^= 0xFF
    path.write_bytes(content[:-1])
    with pytest.raises(thinmeta.StreamError):
        list(bookmark.runs())
    with pytest.raises(thinmeta.StreamError):
        rows(source, bookmark, 1)


@pytest.mark.parametrize("seed", range(20))
def test_what_a_bookmark_calls_the_same_is_the_same(tmp_path: Path, seed: int) -> None:
    """Random lives of a volume: no block that differs is ever left out."""
    draw = random.Random(seed)
    source = Source(tmp_path, data_blocks=25)
    source.size = 8 * BLOCK
    source.create(1)
    snapshots: list[tuple[Bookmark, bytes]] = []
    there: set[int] = set()
    for step in range(30):
        kind, block = draw.random(), draw.randrange(8)
        if kind < 0.5:
            source.write(1, (block * BLOCK, draw.randbytes(20)))
        elif kind < 0.65:
            source.discard(1, block * BLOCK, draw.choice((1, 2)) * BLOCK if block < 7 else BLOCK)
        elif kind < 0.75 and there:
            source.delete(there.pop())
        elif len(there) < 2:
            device_id = draw.choice([each for each in (2, 3, 4) if each not in there])
            source.snapshot(device_id)
            there.add(device_id)
            bookmark = save(source, device_id, f"bookmark-{step}")
            snapshots.append((bookmark, source.content(device_id)))
        now = source.content(1)
        for bookmark, content in snapshots:
            with source.open() as pool:
                table = pool.delta(bookmark, 1)
                told = {
                    each
                    for row in table
                    for each in range(row.begin_blocks, row.begin_blocks + row.length_blocks)
                }
            for each in range(8):
                part = slice(each * BLOCK, (each + 1) * BLOCK)
                assert content[part] == now[part] or each in told
    assert len(snapshots) > 1


def test_long_bookmarks_are_read_and_compared(tmp_path: Path) -> None:
    """Half a million blocks, of which every thousandth has changed."""
    meta, blocks = tmp_path / "meta.img", 500_000
    with thinmeta.Pool.create(
        meta, data_block_size_sectors=128, data_blocks=2 * blocks, metadata_blocks=8000
    ) as pool:
        with pool.transaction() as txn:
            txn.create_thin(1)
            places = array("Q", range(blocks))
            txn.insert_many(1, places, array("Q", [2 * place for place in places]))
        with pool.transaction() as txn:
            txn.create_snapshot(2, origin_id=1)
        bookmark = Bookmark.save(pool.devices[2], tmp_path / "bookmark")
        with pool.transaction() as txn:
            changed = array("Q", range(0, blocks, 1000))
            txn.insert_many(1, changed, array("Q", [2 * place + 1 for place in changed]))
        table = pool.delta(bookmark, 1)
        assert len(table) == len(changed)
        assert table.changed_bytes == len(changed) * BLOCK
        assert Path(bookmark.path).stat().st_size < blocks // 50
        seen: list[tuple[int, int]] = []
        Bookmark.open(bookmark.path, progress=lambda *each: seen.append(each))
        assert all(done <= total == blocks for done, total in seen)
