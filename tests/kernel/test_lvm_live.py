"""Live pools that are LVM's, with the real LVM: found by its names, changed in its own way."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import thinmeta
from kernel import blockdev
from kernel.blockdev import KernelLog
from kernel.lvm import VolumeGroup, run
from kernel.world import pattern
from thinmeta import DeviceInUseError, LivePool, LivePoolError, ManagedByLvmError
from thinmeta.live.generation import LiveGeneration

BLOCK_BYTES = 65536
VOLUME_BYTES = 32 << 20


@pytest.fixture
def empty_group(
    kernel_log: KernelLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[VolumeGroup]:
    """Names with hyphens in them, and a pool that has no volume yet."""
    monkeypatch.setenv("THINMETA_RUN_DIR", os.fspath(tmp_path / "run"))
    with VolumeGroup(name="vg-1", pool="my-pool") as made:
        yield made


@pytest.fixture
def group(empty_group: VolumeGroup) -> VolumeGroup:
    path = empty_group.create_thin("vm-100", size_bytes=VOLUME_BYTES)
    blockdev.write(path, 0, pattern("first", 8 * BLOCK_BYTES))
    empty_group.create_snapshot("snap-1", origin="vm-100")
    return empty_group


@pytest.fixture
def live(group: VolumeGroup) -> LivePool:
    return thinmeta.live_pool(group.full_name(group.pool))


def test_a_pool_of_lvm_goes_by_many_names(group: VolumeGroup) -> None:
    for word in (
        "vg-1/my-pool",
        "/dev/vg-1/my-pool",
        "vg--1-my--pool",
        "/dev/mapper/vg--1-my--pool",
        "/dev/mapper/vg--1-my--pool-tpool",
    ):
        live = thinmeta.live_pool(word)
        assert live.name == "vg--1-my--pool-tpool", word
        assert live.lvm is not None
        assert live.lvm.full_name == "vg-1/my-pool"
    assert (live.metadata_path, live.data_path) == (group.metadata, group.data)


def test_a_pool_that_only_its_volumes_keep_active_is_found(group: VolumeGroup) -> None:
    group.deactivate(group.pool)
    assert group.volumes()[group.pool]["lv_active"] == ""
    assert thinmeta.live_pool("vg-1/my-pool").status().transaction_id == 2
    group.deactivate_all()
    with pytest.raises(LivePoolError):
        thinmeta.live_pool("vg-1/my-pool")


def test_a_pool_without_volumes_is_found_and_stays_the_same(empty_group: VolumeGroup) -> None:
    """LVM renames it, and lays a device of its old name over it, with the first volume."""
    live = thinmeta.live_pool("vg-1/my-pool")
    assert live.lvm is not None
    assert live.lvm.volumes() == []
    with live.metadata_snapshot() as pool:
        assert not pool.devices
    empty_group.create_thin("vm-100", size_bytes=VOLUME_BYTES)
    assert live.status().transaction_id == 1
    assert [volume.device_id for volume in live.volumes()] == [1]
    with live.metadata_snapshot() as pool:
        assert set(pool.devices) == {1}


def test_status_and_volumes_are_what_lvm_says(group: VolumeGroup, live: LivePool) -> None:
    rows = group.volumes()
    status = live.status()
    assert status.transaction_id == int(rows["my-pool"]["transaction_id"])
    assert live.data_block_size_sectors * 512 == int(rows["my-pool"]["chunk_size"])
    assert status.total_data_blocks == int(rows["my-pool"]["lv_size"]) // BLOCK_BYTES
    assert (status.used_data_blocks, status.mode, status.needs_check) == (8, "rw", False)

    (active,) = live.volumes()
    assert active.name == "vg--1-vm--100"
    assert active.size_bytes == int(rows["vm-100"]["lv_size"])
    assert active.device_id == int(rows["vm-100"]["thin_id"])

    assert live.lvm is not None
    assert {
        volume.name: (volume.device_id, volume.size_bytes, volume.origin, volume.active)
        for volume in live.lvm.volumes()
    } == {
        "vm-100": (1, VOLUME_BYTES, None, True),
        "snap-1": (2, VOLUME_BYTES, "vm-100", False),
    }
    for name in ("snap-1", "vg-1/snap-1", "/dev/vg-1/snap-1"):
        assert live.device_id_of(name) == 2, name
    with pytest.raises(LivePoolError):
        live.device_id_of("nosuch")


def test_an_external_origin_is_no_volume_of_the_pool(group: VolumeGroup, live: LivePool) -> None:
    run("lvcreate", "--quiet", "--yes", "--size", f"{VOLUME_BYTES}b", "--name", "plain", "vg-1")
    group.deactivate("plain")
    run("lvchange", "--quiet", "--permission", "r", "vg-1/plain")
    run(
        *("lvcreate", "--quiet", "--yes", "--type", "thin", "--name", "ext-1"),
        *("--thinpool", "my-pool", "vg-1/plain"),
    )
    assert live.lvm is not None
    assert [volume.name for volume in live.lvm.volumes()] == ["vm-100", "snap-1", "ext-1"]
    volume = live.find_volume(3)
    assert volume is not None
    assert volume.external_origin == "/dev/mapper/vg--1-plain-real"


def test_what_lvm_keeps_books_of_is_not_changed_behind_it(live: LivePool) -> None:
    changes: list[Callable[[], None]] = [
        lambda: live.create_thin(50),
        lambda: live.create_snapshot(50, origin_id=2),
        lambda: live.delete(2),
        lambda: live.set_transaction_id(2, 3),
    ]
    for change in changes:
        with pytest.raises(ManagedByLvmError):
            change()
    with live.metadata_snapshot() as pool:
        assert set(pool.devices) == {1, 2}
        assert pool.superblock.trans_id == 2
    live.create_snapshot(50, origin_id=2, force=True)
    with live.metadata_snapshot() as pool:
        assert set(pool.devices) == {1, 2, 50}
    live.delete(50, force=True)


def test_a_pool_of_lvm_is_read_through_its_metadata_snapshot(
    group: VolumeGroup, live: LivePool
) -> None:
    with live.metadata_snapshot() as pool:
        assert live.status().held_root is not None
        blockdev.write(group.path("vm-100"), 0, pattern("later", BLOCK_BYTES))
        group.create_thin("vm-101", size_bytes=VOLUME_BYTES)
        assert set(pool.devices) == {1, 2}
        with pool.devices[2].open() as volume:
            assert volume.read() == pattern("first", 8 * BLOCK_BYTES)
    assert live.status().held_root is None


def test_snapshots_come_and_go_in_lvm_s_books(group: VolumeGroup, live: LivePool) -> None:
    lvm = live.lvm
    assert lvm is not None
    made = lvm.create_snapshot("snap-2", origin="vm-100")
    assert (made.device_id, made.origin, made.active) == (3, "vm-100", False)
    with pytest.raises(LivePoolError, match="already exists"):
        lvm.create_snapshot("snap-2", origin="vm-100")
    with pytest.raises(LivePoolError, match="nosuch"):
        lvm.create_snapshot("snap-3", origin="nosuch")
    lvm.activate("snap-2")
    active = live.find_volume(3)
    assert active is not None
    assert active.read_only
    assert active.path == "/dev/mapper/vg--1-snap--2"
    first = pattern("first", 8 * BLOCK_BYTES)
    with open(active.path, "rb") as file:
        assert file.read(len(first)) == first
        with pytest.raises(DeviceInUseError, match="in use"):
            lvm.remove("snap-2")  # somebody has it open
    assert group.thin_ids() == {"vm-100": 1, "snap-1": 2, "snap-2": 3}
    lvm.deactivate("snap-2")
    lvm.remove("snap-2")
    assert group.thin_ids() == {"vm-100": 1, "snap-1": 2}
    assert live.status().transaction_id == int(group.volumes()["my-pool"]["transaction_id"])


def test_a_temporary_snapshot_is_lvm_s_own(group: VolumeGroup, live: LivePool) -> None:
    with live.temporary_snapshot("vm-100") as volume:
        blockdev.write(group.path("vm-100"), 0, pattern("later", BLOCK_BYTES))
        (name,) = set(group.thin_ids()) - {"vm-100", "snap-1"}
        assert group.thin_ids()[name] == volume.device_id
        assert volume.read_only
        with open(volume.path, "rb") as file:
            assert file.read(8 * BLOCK_BYTES) == pattern("first", 8 * BLOCK_BYTES)
    assert set(group.thin_ids()) == {"vm-100", "snap-1"}
    assert [volume.name for volume in live.volumes()] == ["vg--1-vm--100"]


def test_commands_take_lvm_s_names(group: VolumeGroup, live: LivePool) -> None:
    command = [sys.executable, "-m", "thinmeta"]
    listed = subprocess.run(
        [*command, "ls", "--json", "vg-1/my-pool"], capture_output=True, text=True, check=True
    )
    assert '"device_id": 2' in listed.stdout
    refused = subprocess.run(
        [*command, "ls", "vg-1/nosuch"], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 3
    assert refused.stderr.count("\n") == 1
    assert live.status().held_root is None


def test_a_generation_is_read_from_a_snapshot_in_lvm_s_books(
    group: VolumeGroup, live: LivePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THINMETA_STATE_DIR", os.fspath(tmp_path / "state"))
    users = {"vm-100", "snap-1"}
    content = bytearray(8 * BLOCK_BYTES)
    with LiveGeneration(live, "vm-100") as first:
        blockdev.write(group.path("vm-100"), 0, pattern("later", BLOCK_BYTES))
        first.read_into(0, content)
        assert content == pattern("first", 8 * BLOCK_BYTES)
        assert first.identity.size_bytes == VOLUME_BYTES
        assert first.identity.pool_uuid.startswith("LVM-")
        first.keep()
    assert len(set(group.thin_ids()) - users) == 1
    with LiveGeneration(live, "vm-100") as second:
        changes = second.changes(second.kept_base)
        assert list(changes.data) == [(0, BLOCK_BYTES)]
        assert not changes.zero
        second.keep()
    (kept,) = set(group.thin_ids()) - users
    # One that is killed leaves one more, which the next one removes.
    child = os.fork()
    if child == 0:
        with LiveGeneration(live, "vm-100"):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(set(group.thin_ids()) - users) == 2
    with LiveGeneration(live, "vm-100") as third:
        assert not third.changes(third.kept_base).data
    assert set(group.thin_ids()) == {*users, kept}
    assert [volume.name for volume in live.volumes()] == ["vg--1-vm--100"]
    (shown,) = live.kept()
    assert (shown.lvm_name, shown.device_id) == (kept, group.thin_ids()[kept])
    assert (shown.volume_name, shown.role, shown.presence) == ("vm-100", "kept", "there")
    with pytest.raises(LivePoolError, match="is not touched"):
        live.forget(["snap-1"])
    assert live.lvm is not None
    live.lvm.activate(kept)
    with open(f"/dev/mapper/vg--1-{kept.replace('-', '--')}", "rb"):
        with pytest.raises(DeviceInUseError, match="somebody has opened"):
            live.forget([kept])
    assert [each.lvm_name for each in live.forget("all").removed] == [kept]
    assert set(group.thin_ids()) == users
    assert live.kept() == []
