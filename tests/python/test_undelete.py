"""Deleted devices brought back: what was theirs, and nothing that is somebody else's now."""

from __future__ import annotations

import copy
import os
import random
from pathlib import Path
from typing import Any

import pytest

import thinmeta
from command import ThinmetaCommand, as_json, fails
from corpus import Corpus, write_sparse
from damages import Tree, damage
from histories import History
from model import DeviceModel, PoolModel
from ondisk import BLOCK
from oracles import ThinTools, newer_tools
from test_repair import model_of, repaired, spoil
from test_repair_eras import Change, create, delete, fill, snapshot
from thinmeta.undeleting import Undeleted

#: Random histories; THINMETA_UNDELETE_HISTORIES has more.
HISTORIES = int(os.environ.get("THINMETA_UNDELETE_HISTORIES", "12"))
DAMAGES = int(os.environ.get("THINMETA_UNDELETE_DAMAGES", "8"))
SEED = int(os.environ.get("THINMETA_UNDELETE_SEED", "1"))

Mappings = dict[int, tuple[int, int]]


class Pool:
    """A pool's metadata, changed transaction by transaction."""

    def __init__(self, path: Path, *, metadata_blocks: int = 512) -> None:
        self.path = path
        thinmeta.Pool.create(
            path, data_block_size_sectors=128, data_blocks=8192, metadata_blocks=metadata_blocks
        ).close()

    def commit(self, *changes: Change) -> PoolModel:
        """Each change in a transaction of its own; the pool afterwards."""
        for change in changes:
            with thinmeta.open_pool(self.path, mode="r+") as pool, pool.transaction() as txn:
                change(txn)
        return model_of(self.path)

    def doom(self, *changes: Change) -> PoolModel:
        """As :meth:`commit`; what comes afterwards finds other free blocks to write to."""
        self.commit(create(99), fill(99, 0, 4000), *changes, delete(99))
        return model_of(self.path)

    @property
    def content(self) -> bytes:
        return self.path.read_bytes()


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return Pool(tmp_path / "pool.img")


def insert(device: int, first: int, data: int, count: int) -> Change:
    """Map blocks side by side to data blocks of one's choice."""

    def change(txn: thinmeta.PoolTransaction) -> None:
        for at in range(count):
            txn.insert(device, virtual_block=first + at, data_block=data + at)

    return change


def back(plan: thinmeta.RepairPlan, device_id: int) -> Undeleted:
    found = next(each.undeleted for each in plan.devices if each.device_id == device_id)
    assert found is not None
    return found


def fates(undeleted: Undeleted) -> dict[int, str]:
    """What became of each virtual block."""
    assert undeleted.ranges_total == len(undeleted.ranges)
    return {
        block: each.fate
        for each in undeleted.ranges
        for block in range(each.begin_block, each.end_block)
    }


def undelete(
    content: bytes, folder: Path, *devices: int, **options: Any
) -> tuple[thinmeta.RepairPlan, PoolModel]:
    """Bring devices back; what holds of all that comes of it.

    The other devices are what they were, nothing is given to two that do not share it, and
    both generations of thin_check are silent.
    """
    (folder / "before.img").write_bytes(content)
    before = model_of(folder / "before.img")
    plan, model = repaired(content, folder, undelete=[*devices], **options)
    assert ThinTools().check(folder / "repaired.img") == 0
    newer = newer_tools()
    if newer is not None:
        assert newer.run("thin_check", "-q", folder / "repaired.img").returncode == 0
    others = {device.id: device for device in model.devices.values() if device.id not in devices}
    assert others == before.devices
    assert (plan.transaction_id, plan.time) == (before.transaction_id, before.time + 1)
    users: dict[int, set[tuple[int, int]]] = {}
    for device in model.devices.values():
        for virtual, (data, time) in device.mappings.items():
            users.setdefault(data, set()).add((virtual, time))
    for device_id in devices:
        told, device = back(plan, device_id), model.devices[device_id]
        assert device.snapshotted_time == plan.time
        assert all(time < plan.time for _, time in device.mappings.values())
        if not options.get("keep_overwritten"):
            for virtual, mapping in device.mappings.items():
                assert users[mapping[0]] == {(virtual, mapping[1])}
        found = fates(told)
        kept = {block for block in found if found[block] != "overwritten"}
        if options.get("keep_overwritten"):
            kept = set(found)
        assert kept == set(device.mappings)
        for fate in ("free", "doubtful", "shared", "overwritten"):
            assert getattr(told, f"{fate}_blocks") == [*found.values()].count(fate)
    return plan, model


def assert_device(model: PoolModel, expected: DeviceModel, mappings: Mappings) -> None:
    """A device as it was, with these of its mappings."""
    found = model.devices[expected.id]
    assert found.mappings == mappings
    assert (found.transaction_id, found.creation_time) == (
        expected.transaction_id,
        expected.creation_time,
    )


def test_a_device_that_was_just_deleted_comes_back_whole(pool: Pool, tmp_path: Path) -> None:
    before = pool.commit(create(1, 2), fill(1, 0, 3000), fill(2, 5, 90), fill(1, 9000, 9001))
    pool.commit(delete(1))
    listed = thinmeta.plan_repair(pool.path, list_deleted=True).deleted_devices
    assert [device.device_id for device in listed] == [1]
    best = listed[0].versions[0]
    assert (best.is_whole, best.mapped_blocks, best.recorded_blocks) == (True, 3001, 3001)
    plan, model = undelete(pool.content, tmp_path, 1)
    assert_device(model, before.devices[1], before.devices[1].mappings)
    assert plan.is_whole
    assert back(plan, 1).free_blocks == 3001
    assert back(plan, 1).version == best


def test_what_others_have_written_is_left_to_them(pool: Pool, tmp_path: Path) -> None:
    before = pool.doom(create(1, 2), fill(1, 0, 1000))
    was = before.devices[1]
    taken = [was.mappings[virtual][0] for virtual in (*range(3, 10), 500)]

    def overwrite(txn: thinmeta.PoolTransaction) -> None:
        for at, data in enumerate(taken):
            txn.insert(2, virtual_block=70 + 2 * at, data_block=data)

    pool.commit(delete(1), overwrite)
    plan, model = undelete(pool.content, tmp_path, 1)
    left = {virtual: at for virtual, at in was.mappings.items() if at[0] not in taken}
    assert_device(model, was, left)
    told = back(plan, 1)
    assert told.version.is_whole and told.overwritten_blocks == 8
    bad = [each for each in told.ranges if each.fate == "overwritten"]
    assert [(each.begin_block, each.end_block, each.owner_id) for each in bad] == [
        (3, 10, 2),
        (500, 501, 2),
    ]
    assert not plan.is_whole
    # It may have them all the same, and then writes elsewhere.
    plan, model = undelete(pool.content, tmp_path, 1, keep_overwritten=True)
    assert_device(model, was, was.mappings)
    assert back(plan, 1).keeps_overwritten and back(plan, 1).overwritten_blocks == 8
    with thinmeta.open_pool(tmp_path / "repaired.img") as opened:
        found = opened.devices[1].find(500)
        assert found is not None and found.shared


def test_what_a_snapshot_has_is_shared_with_it_again(pool: Pool, tmp_path: Path) -> None:
    before = pool.doom(create(1), fill(1, 0, 600), snapshot(2, 1), fill(1, 600, 620))

    def overwrite(txn: thinmeta.PoolTransaction) -> None:
        txn.remove_range(2, 50, 60)
        fill(2, 50, 60)(txn)

    pool.commit(delete(1), overwrite)
    plan, model = undelete(pool.content, tmp_path, 1)
    assert_device(model, before.devices[1], before.devices[1].mappings)
    told = fates(back(plan, 1))
    assert {block for block, fate in told.items() if fate == "shared"} == {
        *range(50),
        *range(60, 600),
    }
    assert back(plan, 1).overwritten_blocks == 0
    with thinmeta.open_pool(tmp_path / "repaired.img") as opened:
        for device in (1, 2):
            found = opened.devices[device].find(7)
            assert found is not None and found.shared


def test_the_same_place_and_time_prove_nothing_by_themselves(pool: Pool, tmp_path: Path) -> None:
    """Another device, mapped just as the deleted one was, without a tick in between."""
    pool.doom(create(1), insert(1, 0, 7000, 50))
    pool.commit(delete(1), create(2), insert(2, 0, 7000, 50), snapshot(3, 2), insert(3, 90, 9, 1))
    plan, model = undelete(pool.content, tmp_path, 1)
    assert model.devices[1].mappings == {}
    assert back(plan, 1).overwritten_blocks == 50


def test_what_the_metadata_snapshot_has_is_there(pool: Pool, tmp_path: Path) -> None:
    before = pool.commit(create(1, 2), fill(1, 0, 400), lambda txn: txn.reserve_metadata_snapshot())
    pool.commit(delete(1), fill(2, 0, 3000))
    plan, model = undelete(pool.content, tmp_path, 1)
    assert_device(model, before.devices[1], before.devices[1].mappings)
    assert (back(plan, 1).free_blocks, plan.is_whole) == (400, True)


def test_what_others_had_for_a_while_is_doubtful(pool: Pool, tmp_path: Path) -> None:
    before = pool.doom(create(1, 2), insert(1, 0, 7000, 300))
    pool.commit(delete(1), insert(2, 7000, 7050, 20), lambda txn: _drop(txn, 2))
    plan, model = undelete(pool.content, tmp_path, 1)
    assert_device(model, before.devices[1], before.devices[1].mappings)
    doubtful = {block for block, fate in fates(back(plan, 1)).items() if fate == "doubtful"}
    assert doubtful == set(range(50, 70))


def _drop(txn: thinmeta.PoolTransaction, device: int) -> None:
    txn.remove_range(device, 0, 1 << 40)


def test_two_that_shared_come_back_and_share(pool: Pool, tmp_path: Path) -> None:
    before = pool.doom(
        create(1, 5), fill(1, 0, 500), snapshot(2, 1), fill(1, 600, 620), fill(2, 700, 720)
    )
    pool.commit(delete(1), delete(2))
    plan, model = undelete(pool.content, tmp_path, 1, 2)
    for device in (1, 2):
        assert_device(model, before.devices[device], before.devices[device].mappings)
    assert {back(plan, device).shared_blocks for device in (1, 2)} == {0, 500}


def test_lost_nodes_leave_the_rest(pool: Pool, tmp_path: Path) -> None:
    before = pool.commit(create(1, 2), fill(1, 0, 2000))
    trees = Tree(pool.content)
    leaves = [leaf for _, leaf in trees.leaves(trees.device_roots()[1][1])]
    pool.commit(delete(1))
    content = spoil(pool.content, leaves[3])
    plan, model = undelete(content, tmp_path, 1)
    device = next(each for each in plan.devices if each.device_id == 1)
    (lost,) = device.lost_ranges
    assert lost.metadata_block == leaves[3] and lost.end_block is not None
    gone = range(lost.begin_block, lost.end_block)
    left = {at: where for at, where in before.devices[1].mappings.items() if at not in gone}
    assert_device(model, before.devices[1], left)
    assert device.recorded_blocks == 2000 and not plan.is_whole
    assert not back(plan, 1).version.is_whole


def test_another_root_may_be_asked_for(pool: Pool, tmp_path: Path) -> None:
    early = pool.doom(create(1), fill(1, 0, 100))
    root = Tree(pool.content).device_roots()[1][1]
    pool.commit(create(98), fill(98, 0, 3000))
    late = pool.commit(fill(1, 100, 120), delete(98))
    pool.commit(delete(1))
    plan, model = undelete(pool.content, tmp_path, 1)
    assert model.devices[1].mappings == late.devices[1].mappings
    listed = next(each for each in plan.deleted_devices if each.device_id == 1)
    assert root in {version.root for version in listed.versions}
    meta, out = tmp_path / "damaged.img", tmp_path / "older.img"
    thinmeta.repair(meta, out, undelete=[(1, root)])
    assert model_of(out).devices[1].mappings == early.devices[1].mappings
    with pytest.raises(thinmeta.UsageError, match="--list-deleted"):
        thinmeta.repair(meta, out, undelete=[(1, 0)])


def test_what_cannot_be_is_refused(pool: Pool, tmp_path: Path) -> None:
    pool.commit(create(1, 2), fill(1, 0, 5), fill(2, 0, 5))
    out = tmp_path / "out.img"
    with pytest.raises(thinmeta.DeviceExistsError):
        thinmeta.repair(pool.path, out, undelete=[2])
    with pytest.raises(thinmeta.NoSuchDeviceError) as caught:
        thinmeta.plan_repair(pool.path, undelete=[9])
    assert "--list-deleted" in caught.value.__notes__[0]
    assert not out.exists()
    assert thinmeta.plan_repair(pool.path, list_deleted=True).deleted_devices == ()
    assert thinmeta.plan_repair(pool.path).deleted_devices == ()


def test_beside_a_damaged_device_both_are_done(pool: Pool, tmp_path: Path) -> None:
    before = pool.commit(create(1, 2), fill(1, 0, 900), fill(2, 0, 900))
    trees = Tree(pool.content)
    leaves = [leaf for _, leaf in trees.leaves(trees.device_roots()[2][1])]
    pool.commit(delete(1))
    content = spoil(pool.content, leaves[1])
    plan, model = repaired(content, tmp_path, undelete=[1])
    assert_device(model, before.devices[1], before.devices[1].mappings)
    assert set(model.devices[2].mappings) < set(before.devices[2].mappings)
    assert back(plan, 1).free_blocks == 900


# ---- devices that a kernel deleted ----


@pytest.mark.parametrize("name", ["deleted", "crashed", "kernel-6.12"])
def test_what_kernels_deleted(corpus: Corpus, tmp_path: Path, name: str) -> None:
    content = corpus[name].meta.read_bytes()
    meta = tmp_path / "meta.img"
    write_sparse(meta, content)
    listed = thinmeta.plan_repair(meta, list_deleted=True).deleted_devices
    if name == "deleted":
        assert listed
    for device in listed[:3]:
        plan, model = undelete(content, tmp_path, device.device_id)
        told = back(plan, device.device_id)
        assert told.version == device.versions[0]
        if told.version.is_whole:
            taken = told.version.mapped_blocks - told.overwritten_blocks
            assert len(model.devices[device.device_id].mappings) == taken


# ---- histories ----


def states(history: History, steps: int) -> dict[int, list[DeviceModel]]:
    """All that each device has been, commit by commit; ``histories`` does the changing."""
    seen: dict[int, list[DeviceModel]] = {}
    for _ in range(steps):
        history.step()
        for device in history.model.devices.values():
            known = seen.setdefault(device.id, [])
            if not known or known[-1] != device:
                known.append(copy.deepcopy(device))
    return seen


@pytest.mark.parametrize("seed", range(SEED, SEED + HISTORIES))
def test_whatever_comes_back_was_there_once(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    history = History(tmp_path / "pool.img", seed)
    seen = states(history, draw.randint(8, 30))
    doomed = [*history.model.devices]
    last: int | None = draw.choice(doomed) if doomed else None
    if last is not None:
        with history.pool.transaction() as txn:
            txn.delete(last)
        history.model.devices.pop(last)
    history.close()
    content = (tmp_path / "pool.img").read_bytes()
    listed = thinmeta.plan_repair(tmp_path / "pool.img", list_deleted=True).deleted_devices
    assert {device.device_id for device in listed}.isdisjoint(history.model.devices)
    if last is not None:
        assert last in {device.device_id for device in listed} or not seen[last][-1].mappings
    for device in draw.sample(listed, min(3, len(listed))):
        plan, model = undelete(content, tmp_path, device.device_id)
        found, told = model.devices[device.device_id], back(plan, device.device_id)
        gone = {block for block, fate in fates(told).items() if fate == "overwritten"}
        if device.device_id == last:
            # Nothing has happened since. Where it has shrunk at last, an earlier tree may look
            # as good, of which others may have something by now.
            was = seen[last][-1].mappings
            left = [
                {at: to for at, to in each.mappings.items() if at not in gone}
                for each in seen[last]
            ]
            assert told.version.is_led and found.mappings in left
            assert found.mappings == was or told.version.mapped_blocks >= len(was)
        elif told.version.is_whole and told.version.is_led:
            had = [
                each.mappings
                for each in seen[device.device_id]
                if len(each.mappings) == told.version.mapped_blocks
            ]
            left = [{at: to for at, to in each.items() if at not in gone} for each in had]
            assert found.mappings in left
            now = {
                (block, *to)
                for each in history.model.devices.values()
                for block, to in each.mappings.items()
            }
            shared = {block for block, fate in fates(told).items() if fate == "shared"}
            assert all((block, *found.mappings[block]) in now for block in shared)


@pytest.mark.parametrize("seed", range(SEED, SEED + DAMAGES))
def test_damage_stops_nobody_and_gives_nothing_to_two(
    corpus: Corpus, tmp_path: Path, seed: int
) -> None:
    draw = random.Random(f"undelete {seed}")
    name = draw.choice(("deleted", "discards", "kernel-6.12", "metadata-snap", "snap-chain"))
    content, _ = damage(draw, corpus[name].meta.read_bytes(), [])
    meta = tmp_path / "meta.img"
    write_sparse(meta, content)
    sectors: dict[str, Any] = {"data_block_size_sectors": 128}
    listed = thinmeta.plan_repair(meta, list_deleted=True, **sectors).deleted_devices
    chosen = draw.sample(listed, min(2, len(listed)))
    ids = [device.device_id for device in chosen]
    if not ids:
        return
    plan, model = repaired(content, tmp_path, undelete=ids, **sectors)
    users: dict[int, set[tuple[int, int]]] = {}
    for device in model.devices.values():
        for virtual, (data, at) in device.mappings.items():
            users.setdefault(data, set()).add((virtual, at))
    for device_id in ids:
        told, found = back(plan, device_id), model.devices[device_id]
        assert len(found.mappings) == told.free_blocks + told.doubtful_blocks + told.shared_blocks
        assert all(users[to[0]] == {(block, to[1])} for block, to in found.mappings.items())


# ---- the command ----


def test_the_command_lists_plans_and_brings_back(
    command: ThinmetaCommand, pool: Pool, tmp_path: Path
) -> None:
    meta, out = pool.path, tmp_path / "new.img"
    assert command("repair", "--list-deleted", meta).stdout == "no deleted device was found\n"
    pool.doom(create(1, 2), insert(1, 0, 7000, 300), fill(2, 0, 9))
    pool.commit(delete(1), insert(2, 4000, 7050, 16))
    ran = command("repair", "--list-deleted", meta)
    assert ran.stdout.startswith("deleted device 1: 18.8 MiB, its tree is whole, root ")
    listed = as_json(command("repair", "--list-deleted", "--json", meta))["deleted_devices"]
    assert listed[0]["device_id"] == 1
    root = listed[0]["versions"][0]["root"]
    before = meta.read_bytes()
    ran = command("repair", "--plan", "--undelete", 1, meta)
    assert "1 MiB are somebody else's now, left out" in ran.stdout
    assert "block 50 to 65: overwritten (device 2)" in ran.stdout
    assert not out.exists()
    ran = command("repair", "--undelete", f"1:{root}", meta, "-o", out, "--json")
    done = next(each for each in as_json(ran)["devices"] if each["device_id"] == 1)
    assert done["undeleted"]["overwritten_bytes"] == 16 * 65536
    assert len(model_of(out).devices[1].mappings) == 284
    ran = command("repair", "--undelete=1", "--overwritten=keep", meta, "-o", out)
    assert "given to it all the same" in ran.stdout
    assert len(model_of(out).devices[1].mappings) == 300
    assert meta.read_bytes() == before
    for words, status, says in (
        (["--undelete", "1", "--list-deleted"], 2, "exclude each other"),
        (["--undelete", "x", "--plan"], 2, "--undelete"),
        (["--undelete", "1", "--undelete", "1", "--plan"], 2, "more than once"),
        (["--overwritten", "keep", "--plan"], 2, "which is missing"),
        (["--undelete", "1", "--overwritten", "no", "--plan"], 2, "keep or leave-out"),
        (["--undelete", "7", "--plan"], 1, "--list-deleted tells"),
        (["--undelete", "2", "--plan"], 1, "a thin device 2 already"),
        (["--list-deleted", "--plan"], 2, "say --plan"),
    ):
        fails(command("repair", *words, meta), status, says)
    assert BLOCK == 4096
