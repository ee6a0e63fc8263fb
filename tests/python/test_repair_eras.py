"""What a pool leaves behind of itself, commit by commit: which state a repair believes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import thinmeta
from corpus import Corpus
from damages import Tree, mapped
from model import PoolModel
from ondisk import BLOCK, Node, kind_of, patched, seal, u64
from test_repair import model_of, repaired, spoil

#: Where block 0 has the pool's clock, and any block its own number.
CLOCK, OWN_NUMBER = 44, 8

Change = Callable[[thinmeta.PoolTransaction], object]


def pool_of(path: Path, *changes: Change, metadata_blocks: int = 256) -> tuple[bytes, PoolModel]:
    """A pool's metadata after these transactions, and what is in it."""
    with thinmeta.Pool.create(
        path, data_block_size_sectors=128, data_blocks=4096, metadata_blocks=metadata_blocks
    ) as pool:
        for change in changes:
            with pool.transaction() as txn:
                change(txn)
    return path.read_bytes(), model_of(path)


def fill(device: int, begin: int, end: int) -> Change:
    def change(txn: thinmeta.PoolTransaction) -> None:
        for block in range(begin, end):
            txn.insert(device, virtual_block=block, data_block=txn.allocate_data())

    return change


def create(*devices: int) -> Change:
    def change(txn: thinmeta.PoolTransaction) -> None:
        for device in devices:
            txn.create_thin(device)

    return change


def delete(*devices: int) -> Change:
    def change(txn: thinmeta.PoolTransaction) -> None:
        for device in devices:
            txn.delete(device)

    return change


def snapshot(device: int, origin: int) -> Change:
    return lambda txn: txn.create_snapshot(device, origin_id=origin)


def test_mappings_tell_the_later_state_and_the_clock(tmp_path: Path) -> None:
    """Without a superblock: no details speak of the snapshot that was made and deleted."""
    content, truth = pool_of(
        tmp_path / "pool.img", create(1, 3), snapshot(2, 1), delete(1, 2), fill(3, 0, 50)
    )
    assert truth.time == 1
    plan, model = repaired(spoil(content, 0), tmp_path, data_block_size_sectors=128)
    assert model.devices == truth.devices
    # Earlier, and a snapshot made next would take what is its own for not shared.
    assert plan.time == model.time == 1


@pytest.mark.parametrize("commits", [1, 6, 7, 8, 9, 10, 11])
def test_of_equal_states_the_last_one_written_is_believed(tmp_path: Path, commits: int) -> None:
    """Without a superblock, and with fewer mappings every time; blocks come in turn."""

    def punch(at: int) -> Change:
        return lambda txn: txn.remove_range(4, at * 10, at * 10 + 10)

    content, truth = pool_of(
        tmp_path / "pool.img",
        create(4),
        fill(4, 0, 200),
        *(punch(at) for at in range(commits)),
        metadata_blocks=64,
    )
    plan, model = repaired(spoil(content, 0), tmp_path, data_block_size_sectors=128)
    assert plan.candidates[0].mapping_root == Tree(content).mapping_root
    assert mapped(model) == mapped(truth)


def test_of_trees_of_the_same_size_the_latest_top_level_tells_whose_they_are(
    tmp_path: Path,
) -> None:
    """What was device 4's is the snapshot's by now; earlier top levels still say otherwise."""

    def overwrite(txn: thinmeta.PoolTransaction) -> None:
        txn.remove_range(4, 0, 20)
        fill(4, 0, 20)(txn)

    content, truth = pool_of(
        tmp_path / "pool.img",
        create(4),
        fill(4, 0, 60),
        snapshot(5, 4),
        overwrite,
        create(9),
        fill(9, 0, 7),
        fill(9, 7, 9),
    )
    plan, model = repaired(spoil(content, Tree(content).mapping_root), tmp_path)
    assert mapped(model) == mapped(truth)
    sources = {device.device_id: device.source for device in plan.devices}
    assert sources == {4: "older", 5: "older", 9: "found"}
    # It is a guess: whoever writes there has to leave alone what may be somebody else's.
    assert plan.time == truth.time + 1
    guessed = [device for device in plan.devices if device.source == "older"]
    assert {device.snapshotted_time for device in guessed} == {plan.time}
    with thinmeta.open_pool(tmp_path / "repaired.img") as pool:
        for device in guessed:
            found = pool.devices[device.device_id].find(0)
            assert found is not None
            assert found.shared


def test_a_leaf_that_is_shared_is_found_under_several_lost_nodes(
    corpus: Corpus, tmp_path: Path
) -> None:
    """Nothing tells the ways from each other, but older trees and the counts bear it out."""
    image = corpus["snaps-300"]
    content = image.meta.read_bytes()
    roots = Tree(content).device_roots()
    devices = (92, 171, 192, 211)
    plan, model = repaired(spoil(content, *(roots[device][1] for device in devices)), tmp_path)
    lost = mapped(image.model) - mapped(model)
    # Each has changed one mapping since it was made.
    assert {device for device, _, _ in lost} <= set(devices)
    assert len(lost) <= len(devices)
    for device in plan.devices:
        assert (device.device_id in devices) == (not device.is_whole)
        assert device.kept_blocks == 300


def test_a_lost_leaf_is_filled_from_the_state_that_is_nearest(tmp_path: Path) -> None:
    """However many there are of before the device was made, with all of their devices whole."""
    short_lived = [
        change for device in range(20, 30) for change in (create(device), delete(device))
    ]
    content, truth = pool_of(
        tmp_path / "pool.img",
        create(1, 2, 3),
        fill(1, 0, 9),
        *short_lived,
        create(4),
        fill(4, 0, 60),
        fill(4, 60, 70),
    )
    plan, model = repaired(spoil(content, Tree(content).device_roots()[4][1]), tmp_path)
    assert len(plan.candidates) > 5
    assert plan.devices[-1].device_id == 4
    assert plan.devices[-1].older_blocks == 60
    assert len(mapped(truth) - mapped(model)) == 10


def test_details_that_are_there_are_not_taken_from_an_earlier_time(tmp_path: Path) -> None:
    """The top level and the device's own tree are lost, but not what it is known to have."""
    content, truth = pool_of(
        tmp_path / "pool.img", create(4, 5), fill(4, 0, 60), fill(5, 0, 9), fill(4, 60, 70)
    )
    tree = Tree(content)
    _, root = tree.device_roots()[4]
    plan, model = repaired(spoil(content, root, tree.mapping_root), tmp_path)
    assert model.devices.keys() == truth.devices.keys()
    (device, _) = plan.devices
    assert (device.source, device.recorded_blocks, device.kept_blocks) == ("older", 70, 60)
    assert device.lost_blocks == 10
    assert mapped(model) < mapped(truth)


def test_what_a_metadata_snapshot_holds_is_not_the_present(tmp_path: Path) -> None:
    """All of it is in use, more than of any later state; but by the snapshot."""
    content, truth = pool_of(
        tmp_path / "pool.img",
        create(0, 1),
        fill(0, 0, 300),
        snapshot(2, 0),
        snapshot(3, 0),
        lambda txn: txn.reserve_metadata_snapshot(),
        delete(2, 3),
        fill(1, 0, 40),
        create(4),
        fill(4, 0, 9),
        fill(1, 40, 50),
    )
    tree = Tree(content)
    plan, model = repaired(spoil(content, tree.mapping_root, tree.details_root), tmp_path)
    assert model.devices.keys() == truth.devices.keys()
    assert len(mapped(truth) - mapped(model)) == 10
    assert plan.candidates[0].live_devices == 2
    assert not plan.is_whole


def all_of_kind(content: bytes, value_size: int) -> list[int]:
    """Leaves, of the present and of earlier times, that have such values."""
    tree = Tree(content)
    sizes = {
        at: Node.of(tree.block(at)).value_size
        for at in range(len(content) // BLOCK)
        if kind_of(tree.block(at)) == "btree node"
    }
    return [at for at, size in sizes.items() if size == value_size]


def test_all_details_can_be_lost_together_with_the_root_of_the_mappings(tmp_path: Path) -> None:
    content, truth = pool_of(
        tmp_path / "pool.img", create(4, 5), snapshot(6, 4), fill(4, 0, 60), fill(5, 0, 9)
    )
    details = all_of_kind(content, 24)
    assert len(details) > 3
    damaged = spoil(content, Tree(content).mapping_root, *details)
    plan, model = repaired(damaged, tmp_path)
    assert model.devices.keys() == truth.devices.keys()
    assert len(mapped(model)) == 60
    assert plan.candidates[0].details_root is None
    assert {device.recorded_blocks for device in plan.devices} == {None}
    # All of it looks shared.
    assert {device.snapshotted_time for device in plan.devices} == {truth.time}
    assert not plan.is_whole

    plan, _ = repaired(spoil(damaged, 0), tmp_path, data_block_size_sectors=128)
    assert sum(device.kept_blocks for device in plan.devices) >= 60
    assert {device.snapshotted_time for device in plan.devices} == {plan.time}


def test_most_of_a_pool_is_better_than_all_of_next_to_nothing(tmp_path: Path) -> None:
    """Without a superblock, and with a lost leaf: an earlier state is whole, but small."""
    content, truth = pool_of(
        tmp_path / "pool.img", create(4), fill(4, 0, 9), fill(4, 9, 1500), metadata_blocks=512
    )
    tree = Tree(content)
    leaves = [leaf for _, leaf in tree.leaves(tree.device_roots()[4][1])]
    assert len(leaves) > 6
    damaged = spoil(content, 0, leaves[3])
    plan, model = repaired(damaged, tmp_path, data_block_size_sectors=128)
    gone = len(tree.entries(leaves[3])[1])
    assert mapped(model) < mapped(truth)
    assert len(mapped(model)) == 1500 - gone
    (device,) = plan.devices
    assert device.lost_blocks == gone
    assert [lost.metadata_block for lost in device.lost_ranges] == [leaves[3]]


def test_a_pool_of_which_no_root_is_left_is_not_whole(tmp_path: Path) -> None:
    content, _ = pool_of(tmp_path / "pool.img", create(4), fill(4, 0, 60))
    gone = {*all_of_kind(content, 24), *all_of_kind(content, 8)}
    plan, model = repaired(spoil(content, *gone), tmp_path)
    assert not model.devices
    assert plan.maybe_more_devices
    assert not plan.is_whole


def test_devices_whose_id_is_lost_in_both_trees_are_taken_from_an_earlier_time(
    corpus: Corpus, tmp_path: Path
) -> None:
    image = corpus["snaps-300"]
    content = image.meta.read_bytes()
    tree = Tree(content)
    tops = [leaf for _, leaf in tree.leaves(tree.mapping_root)]
    details = [leaf for _, leaf in tree.leaves(tree.details_root)]
    plan, model = repaired(spoil(content, tops[1], details[1]), tmp_path)
    both = {key for key, _ in tree.entries(tops[1])[1]}
    both &= {key for key, _ in tree.entries(details[1])[1]}
    assert len(both) > 20
    older = {device.device_id: device for device in plan.devices if device.source == "older"}
    assert len(older.keys() & both) > 20
    assert {device.snapshotted_time for device in older.values()} == {plan.time}
    assert plan.maybe_more_devices
    # Each snapshot changed one mapping after it was made.
    assert len(mapped(model) - mapped(image.model)) <= len(older)


def test_what_is_later_than_the_clock_looks_shared(tmp_path: Path) -> None:
    content, truth = pool_of(
        tmp_path / "pool.img", create(1, 3), snapshot(2, 1), fill(3, 0, 20), delete(1, 2)
    )
    assert {time for _, time in truth.devices[3].mappings.values()} == {1}
    assert truth.devices[3].snapshotted_time == 0
    block = seal(patched(content[:BLOCK], CLOCK, bytes(4)), "thin superblock")
    plan, model = repaired(block + content[BLOCK:], tmp_path)
    assert mapped(model) == mapped(truth)
    assert plan.devices[0].kept_blocks == 20
    with thinmeta.open_pool(tmp_path / "repaired.img") as pool:
        found = pool.devices[3].find(5)
        assert found is not None
        assert found.shared


def test_thousands_of_earlier_roots_take_little_memory(tmp_path: Path) -> None:
    """Each of the one kind goes with each of the other."""
    content, truth = pool_of(
        tmp_path / "pool.img",
        create(*range(100)),
        lambda txn: [fill(device, 0, 3)(txn) for device in range(100)],
        metadata_blocks=3000,
    )
    tree = Tree(content)
    stale = bytearray(spoil(content, 0))
    free = [at for at in range(1000, len(content) // BLOCK) if kind_of(tree.block(at)) is None]
    assert len(free) > 1600
    for index, at in enumerate(free[:1600]):
        block = tree.block((tree.mapping_root, tree.details_root)[index % 2])
        stale[at * BLOCK : (at + 1) * BLOCK] = seal(
            patched(block, OWN_NUMBER, u64(at)), "btree node"
        )
    meta = tmp_path / "stale.img"
    meta.write_bytes(stale)
    program = (
        "import resource, sys, thinmeta\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "plan = thinmeta.plan_repair(sys.argv[1], data_block_size_sectors=128)\n"
        "print(sum(device.kept_blocks for device in plan.devices), len(plan.candidates))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(meta)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "300 16\n"), done.stderr
    assert truth.devices.keys() == set(range(100))
