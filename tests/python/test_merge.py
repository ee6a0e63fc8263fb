"""merge: an origin reads as its snapshot did, and nobody else notices."""

from __future__ import annotations

import copy
import os
import random
from array import array
from pathlib import Path
from typing import Any

import pytest

import small_pools
import thinmeta
from checks import AllChecks
from command import ThinmetaCommand, as_json, fails
from model import DeviceModel, PoolModel
from oracles import ThinTools
from small_pools import BLOCK_BYTES, VOLUME_BYTES

POOLS = int(os.environ.get("THINMETA_MOVES_POOLS", "20"))
SEED = int(os.environ.get("THINMETA_MOVES_SEED", "1"))


@pytest.fixture
def tmp_path(memory_path: Path) -> Path:
    """Nothing here is about a disk, and each of many outputs is flushed."""
    return memory_path


def merged(pool: PoolModel, origin: int, snapshot: int, *, keep: bool, overlay: bool) -> PoolModel:
    """What a merge makes, in the simplest way."""
    new = copy.deepcopy(pool)
    one, other = new.devices[origin], new.devices[snapshot]
    one.mappings = {**(one.mappings if overlay else {}), **other.mappings}
    one.mapped_blocks = len(one.mappings)
    if keep:
        new.time += 1
        one.snapshotted_time = other.snapshotted_time = new.time
    else:
        one.snapshotted_time = max(one.snapshotted_time, other.snapshotted_time)
        del new.devices[snapshot]
    return new


def pool_of_two(seed: int) -> tuple[PoolModel, int, int]:
    """A random pool, and two of its devices: often a real snapshot and its origin."""
    draw = random.Random(seed)
    while True:
        pool = small_pools.random_pool(draw.randrange(1 << 60), most_blocks=2000)
        if len(pool.devices) < 2:
            continue
        origin, snapshot = draw.sample(list(pool.devices), 2)
        common = pool.devices[origin].blocks() & pool.devices[snapshot].blocks()
        if common or draw.random() < 0.1:
            return pool, origin, snapshot


@pytest.mark.parametrize("overlay", [False, True])
def test_random_pools_are_merged_as_dictionaries_are(
    thin_tools: ThinTools, tmp_path: Path, overlay: bool
) -> None:
    meta, out = tmp_path / "meta", tmp_path / "new"
    for seed in range(SEED, SEED + POOLS):
        pool, origin, snapshot = pool_of_two(seed)
        keep = bool(seed % 3 == 0)
        small_pools.make(pool, meta)
        before = meta.read_bytes()
        options: dict[str, Any] = {
            "origin_id": origin,
            "snapshot_id": snapshot,
            "keep_snapshot": keep,
            "overlay": overlay,
        }
        plan = thinmeta.plan_merge(meta, **options)
        done, made = thinmeta.merge(meta, out, **options)
        assert meta.read_bytes() == before
        expected = merged(pool, origin, snapshot, keep=keep, overlay=overlay)
        small_pools.assert_times(expected)
        assert small_pools.read(out) == expected, seed
        one, other = pool.devices[origin].mappings, pool.devices[snapshot].mappings
        both = one.keys() & other.keys()
        common = sum(one[block][0] == other[block][0] for block in both)
        used = small_pools.used_blocks(expected)
        assert plan == done == thinmeta.MergePlan(
            block_bytes=BLOCK_BYTES,
            origin_blocks=len(one),
            snapshot_blocks=len(other),
            merged_blocks=len(expected.devices[origin].mappings),
            common_blocks=common,
            replaced_blocks=len(both) - common,
            added_blocks=len(other.keys() - one.keys()),
            origin_only_blocks=len(one.keys() - other.keys()),
            freed_blocks=len(small_pools.used_blocks(pool) - used),
        ), seed  # fmt: skip
        assert (made.devices, made.data_blocks_used) == (len(expected.devices), len(used))
        AllChecks(thin_tools)(out, newer=POOLS > 20 or seed == SEED)
        out.unlink()
        meta.unlink()


def test_a_large_pool_of_snapshots_is_merged_and_stays_shared(tmp_path: Path) -> None:
    """Nodes are shared, in the input and in what is made."""
    meta, out = tmp_path / "meta", tmp_path / "new"
    rows = 40_000
    with thinmeta.Pool.create(
        meta, data_block_size_sectors=128, data_blocks=100_000, metadata_blocks=2000
    ) as pool:
        with pool.transaction() as txn:
            txn.create_thin(1)
            txn.insert_many(1, array("Q", range(rows)), array("Q", range(rows)))
        for each in range(2, 12):
            with pool.transaction() as txn:
                txn.create_snapshot(each, origin_id=1)
                for block in (each * 1000, each * 3000):
                    txn.insert(1, virtual_block=block, data_block=txn.allocate_data())
        used = pool.metadata_space.allocated
        with pool.transaction() as txn:
            txn.remove_range(5, 100, 20_000)
        kept = {each: list(pool.devices[each].runs()) for each in pool.devices}
    _, made = thinmeta.merge(meta, out, origin_id=1, snapshot_id=5)
    assert made.metadata_blocks_used < used
    with thinmeta.open_pool(out) as pool:
        assert list(pool.devices) == [each for each in kept if each != 5]
        for each in pool.devices:
            assert list(pool.devices[each].runs()) == kept[5 if each == 1 else each]
    assert thinmeta.check(out).is_clean
    # The same leaves, told again by a shrink.
    made = thinmeta.shrink(meta, None, out, data_blocks=50_000, copy=False).pool
    assert made.metadata_blocks_used < used
    with thinmeta.open_pool(out) as pool:
        assert {each: list(pool.devices[each].runs()) for each in pool.devices} == kept


def volume(meta: Path, data: Path, device_id: int) -> bytes:
    with thinmeta.open_pool(meta, data=data) as pool:
        found = pool.devices[device_id].open(size_bytes=VOLUME_BYTES)
        with found as file:
            return file.read()


@pytest.mark.parametrize("keep", [False, True])
def test_what_is_written_to_the_merged_origin_is_seen_by_nobody_else(
    tmp_path: Path, keep: bool
) -> None:
    meta, data, out = (tmp_path / name for name in ("meta", "data", "new"))
    for seed in range(SEED + 500, SEED + 504):
        pool, origin, snapshot = pool_of_two(seed)
        pool.nr_data_blocks += 400  # room for copies
        small_pools.make(pool, meta)
        small_pools.make_data(pool, data)
        before = {each: volume(meta, data, each) for each in pool.devices}
        thinmeta.merge(meta, out, origin_id=origin, snapshot_id=snapshot, keep_snapshot=keep)
        others = {each for each in before if each != origin and (keep or each != snapshot)}
        assert volume(out, data, origin) == before[snapshot]
        with (
            thinmeta.open_pool(out, mode="r+", data=data) as opened,
            opened.devices[origin].open(mode="r+", size_bytes=VOLUME_BYTES) as file,
        ):
            for virtual in pool.devices[snapshot].mappings:
                file.seek(virtual * BLOCK_BYTES + 512)
                file.write(b"\x77" * 512)
        for each in others:
            assert volume(out, data, each) == before[each], (seed, each)
        for path in (meta, data, out):
            path.unlink()


def small(tmp_path: Path) -> Path:
    """Devices 1, its snapshot 2, and 3, which has neither's blocks."""
    pool = PoolModel(nr_data_blocks=100, time=1, transaction_id=4)
    for device_id, mappings in (
        (1, {0: (0, 0), 1: (1, 0), 2: (2, 1), 9: (9, 1)}),
        (2, {0: (0, 0), 1: (11, 1), 5: (5, 1)}),
        (3, {}),
    ):
        pool.devices[device_id] = DeviceModel(
            device_id, snapshotted_time=1, mappings=mappings, mapped_blocks=len(mappings)
        )
    meta = tmp_path / "meta"
    small_pools.make(pool, meta)
    return meta


def test_what_was_discarded_in_the_snapshot_is_a_hole_of_the_origin(tmp_path: Path) -> None:
    meta, out = small(tmp_path), tmp_path / "new"
    plan, _ = thinmeta.merge(meta, out, origin_id=1, snapshot_id=2)
    new = small_pools.read(out).devices
    assert new[1].mappings == {0: (0, 0), 1: (11, 1), 5: (5, 1)}
    assert list(new) == [1, 3]
    assert (plan.origin_only_blocks, plan.freed_blocks, plan.freed_bytes) == (2, 3, 3 * BLOCK_BYTES)
    plan, _ = thinmeta.merge(meta, out, origin_id=1, snapshot_id=2, overlay=True)
    new = small_pools.read(out).devices
    assert new[1].mappings == {0: (0, 0), 1: (11, 1), 2: (2, 1), 5: (5, 1), 9: (9, 1)}
    assert plan.freed_blocks == 1
    # An empty one empties the origin.
    plan, _ = thinmeta.merge(meta, out, origin_id=1, snapshot_id=3)
    assert small_pools.read(out).devices[1].mappings == {}


def test_what_cannot_be_is_refused(tmp_path: Path, corpus: Any) -> None:
    meta, out = small(tmp_path), tmp_path / "new"
    before = meta.read_bytes()
    cases: list[tuple[dict[str, Any], type[Exception]]] = [
        ({"origin_id": 1, "snapshot_id": 7}, thinmeta.NoSuchDeviceError),
        ({"origin_id": 7, "snapshot_id": 1}, thinmeta.NoSuchDeviceError),
        ({"origin_id": 1, "snapshot_id": 1}, thinmeta.UsageError),
        ({"origin_id": -1, "snapshot_id": 1}, thinmeta.UsageError),
        ({"origin_id": 1, "snapshot_id": 1 << 24}, thinmeta.UsageError),
        ({"origin_id": 1, "snapshot_id": 2, "size_bytes": 4 * 4096}, thinmeta.NoSpaceError),
    ]
    for options, error in cases:
        with pytest.raises(error):
            thinmeta.merge(meta, out, **options)
        assert not out.exists()
    with pytest.raises(thinmeta.UsageError, match="is the input"):
        thinmeta.merge(meta, meta, origin_id=1, snapshot_id=2)
    assert meta.read_bytes() == before
    with thinmeta.open_pool(meta, mode="r+") as pool:
        with pytest.raises(thinmeta.DeviceInUseError):
            thinmeta.merge(meta, out, origin_id=1, snapshot_id=2)
        with pool.transaction() as txn:
            txn.reserve_metadata_snapshot()
    with pytest.raises(thinmeta.MetadataSnapshotHeldError):
        thinmeta.plan_merge(meta, origin_id=1, snapshot_id=2)
    with pytest.raises(thinmeta.ReadOnlyError):
        thinmeta.plan_merge(corpus["needs-check"].meta, origin_id=0, snapshot_id=1)


def test_a_clock_that_cannot_go_on_keeps_no_snapshot(tmp_path: Path) -> None:
    pool = PoolModel(nr_data_blocks=10, time=2**24 - 1)
    for device_id in (1, 2):
        pool.devices[device_id] = DeviceModel(device_id)
    meta, out = tmp_path / "meta", tmp_path / "new"
    small_pools.make(pool, meta)
    with pytest.raises(thinmeta.UsageError, match="clock"):
        thinmeta.merge(meta, out, origin_id=1, snapshot_id=2, keep_snapshot=True)
    thinmeta.merge(meta, out, origin_id=1, snapshot_id=2)
    assert small_pools.read(out).time == 2**24 - 1


def test_the_command_plans_and_merges(command: ThinmetaCommand, tmp_path: Path) -> None:
    meta, out = small(tmp_path), tmp_path / "new"
    words = ("merge", meta, "--origin", 1, "--snapshot", 2)
    for plan in ("--plan", "-n", "--dry-run"):
        text = command(*words, plan).stdout
        assert "device 1: 4 blocks (256 KiB), afterwards 3 blocks (192 KiB)" in text
        assert "holes now:       2 blocks (128 KiB)" in text
        assert "device 2: goes away" in text
        assert "free afterwards: 3 blocks (192 KiB) of data" in text
    assert not out.exists()
    made = as_json(command(*words, "-o", out, "--json"))
    assert (made["origin_id"], made["freed_bytes"]) == (1, 3 * BLOCK_BYTES)
    assert made["made"]["devices"] == 2
    kept = command(*words, "-o", out, "--keep-snapshot", "--overlay").stdout
    assert "device 2: stays" in kept and "kept:            2 blocks" in kept
    assert list(small_pools.read(out).devices) == [1, 2, 3]
    fails(command(*words), 2, "say --plan or -o")
    fails(command("merge", meta, "--origin", 1, "--plan"), 2, "--snapshot is missing")
    fails(command(*words[:5], 9, "--plan"), 1, "no thin device 9")
    fails(command(*words, "-m", "--plan"), 2, "nothing can be merged")
