"""Pools of real LVM: what docs/lvm.md says of them, and what we read and change there."""

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import thinmeta
from kernel import blockdev
from kernel.blockdev import KernelLog
from kernel.lvm import DISK, LvmError, VolumeGroup, run
from kernel.world import pattern
from ondisk import patched, seal
from thinmeta import DeviceInUseError, NoMetadataSnapshotError

BLOCK_BYTES = 65536
METADATA_BLOCK_BYTES = 4096
VOLUME_BYTES = 32 << 20
LAST_ID = (1 << 24) - 1


@pytest.fixture
def group(kernel_log: KernelLog) -> Iterator[VolumeGroup]:
    """A pool with a volume that has something in it, a snapshot, and more written since."""
    with VolumeGroup() as made:
        path = made.create_thin("thin1", size_bytes=VOLUME_BYTES)
        blockdev.write(path, 0, pattern("first", 8 * BLOCK_BYTES))
        made.create_snapshot("snap1", origin="thin1")
        blockdev.write(path, 2 * BLOCK_BYTES, pattern("later", BLOCK_BYTES))
        yield made


def test_lvm_and_its_pool_say_the_same(group: VolumeGroup) -> None:
    rows = group.volumes()
    row = rows["pool"]
    group.message("reserve_metadata_snap")
    with thinmeta.open_pool(group.metadata, metadata_snapshot="held", data=group.data) as pool:
        assert set(pool.devices) == set(group.thin_ids().values()) == {1, 2}
        assert pool.superblock.trans_id == int(row["transaction_id"]) == 2
        for name, device_id in group.thin_ids().items():
            assert pool.devices[device_id].transaction_id == int(rows[name]["transaction_id"])
        assert pool.superblock.data_block_size * 512 == int(row["chunk_size"]) == BLOCK_BYTES
        assert pool.data_space.blocks * BLOCK_BYTES == int(row["lv_size"])
        metadata_bytes = int(rows["[pool_tmeta]"]["lv_size"])
        assert pool.superblock.metadata_nr_blocks * METADATA_BLOCK_BYTES == metadata_bytes
        (change,) = pool.delta(1, 2)
        assert (change.begin_bytes, change.length_bytes) == (2 * BLOCK_BYTES, BLOCK_BYTES)
        before = pattern("first", 8 * BLOCK_BYTES)
        with pool.devices[2].open() as volume:  # LVM has not even activated it
            assert volume.read() == before
    group.message("release_metadata_snap")


def test_a_metadata_snapshot_outlasts_what_lvm_does(group: VolumeGroup) -> None:
    group.message("reserve_metadata_snap")
    group.remove("snap1")
    group.create_thin("thin2", size_bytes=VOLUME_BYTES)
    assert group.thin_ids() == {"thin1": 1, "thin2": 2}, "LVM uses an id again"
    group.deactivate_all()
    group.activate("thin1")
    with thinmeta.open_pool(group.metadata, metadata_snapshot="held") as pool:
        assert pool.devices[2].mapped_blocks == 8
        assert pool.superblock.trans_id == 2
    group.message("release_metadata_snap")
    with pytest.raises(NoMetadataSnapshotError):
        thinmeta.open_pool(group.metadata, metadata_snapshot="held")


def test_metadata_that_lvm_uses_are_refused(group: VolumeGroup) -> None:
    with pytest.raises(DeviceInUseError):
        thinmeta.open_pool(group.metadata)
    with pytest.raises(DeviceInUseError):
        thinmeta.open_pool(group.metadata, mode="r+")


def test_metadata_alone_are_looked_at_and_not_changed(group: VolumeGroup) -> None:
    """LVM lends them out for reading, with nothing else active."""
    group.deactivate_all()
    group.activate("pool_tmeta")
    assert thinmeta.check(group.metadata).is_clean
    with thinmeta.open_pool(group.metadata) as pool:
        assert set(pool.devices) == set(group.thin_ids().values())
    with pytest.raises(LvmError, match="prohibited while logical volume vg/pool_tmeta is active"):
        group.activate("thin1")
    with (
        pytest.raises((thinmeta.ThinmetaError, OSError)),
        thinmeta.open_pool(group.metadata, mode="r+") as pool,
        pool.transaction() as txn,
    ):
        txn.create_thin(100)
    with thinmeta.open_pool(group.metadata) as pool:
        assert 100 not in pool.devices
    group.deactivate("pool_tmeta")
    group.activate("thin1")


def test_a_pool_is_changed_while_its_metadata_are_swapped_out(group: VolumeGroup) -> None:
    ids = group.thin_ids()
    with group.metadata_swapped_out() as path:
        with thinmeta.open_pool(path, mode="r+") as pool, pool.transaction() as txn:
            txn.create_snapshot(LAST_ID, origin_id=ids["snap1"])
            txn.remove_range(ids["thin1"], 4, 8)
        assert thinmeta.check(path).is_clean
    group.activate("thin1", "snap1")
    assert group.volumes()["pool"]["transaction_id"] == "2"
    first, later = pattern("first", 8 * BLOCK_BYTES), pattern("later", BLOCK_BYTES)
    assert blockdev.read(group.path("snap1"), 0, len(first)) == first
    expected = first[: 2 * BLOCK_BYTES] + later + first[3 * BLOCK_BYTES : 4 * BLOCK_BYTES]
    expected += bytes(4 * BLOCK_BYTES)
    assert blockdev.read(group.path("thin1"), 0, len(expected)) == expected

    # And LVM goes on, with an id that is nowhere near ours.
    group.create_thin("thin2", size_bytes=VOLUME_BYTES)
    assert group.thin_ids()["thin2"] == 3
    group.message("reserve_metadata_snap")
    with thinmeta.open_pool(group.metadata, metadata_snapshot="held") as pool:
        assert set(pool.devices) == {1, 2, 3, LAST_ID}
        assert pool.devices[3].mapped_blocks == 0
        assert not list(pool.delta(2, LAST_ID))
    group.message("release_metadata_snap")


def test_lvm_takes_a_device_that_has_the_next_id_for_its_own(
    group: VolumeGroup, kernel_log: KernelLog
) -> None:
    """Nobody says a word but the kernel's log: the reason to keep away from LVM's ids."""
    with (
        group.metadata_swapped_out() as path,
        thinmeta.open_pool(path, mode="r+") as pool,
        pool.transaction() as txn,
    ):
        txn.create_snapshot(3, origin_id=2)
    path = group.create_thin("thin2", size_bytes=VOLUME_BYTES)
    first = pattern("first", 8 * BLOCK_BYTES)
    assert blockdev.read(path, 0, len(first)) == first
    assert any("device with id 3 failed" in line for line in kernel_log.complaints())


def test_lvm_refuses_a_pool_with_another_transaction_id(group: VolumeGroup) -> None:
    with (
        group.metadata_swapped_out() as path,
        thinmeta.open_pool(path, mode="r+") as pool,
        pool.transaction() as txn,
    ):
        txn.set_transaction_id(2, 7)
    with pytest.raises(LvmError, match="transaction_id is 7, while expected 2"):
        group.activate("thin1")
    assert not any(row["lv_active"] for row in group.volumes().values())


def test_a_volume_whose_device_is_gone_can_only_be_removed(
    group: VolumeGroup, kernel_log: KernelLog
) -> None:
    device_id = group.thin_ids()["snap1"]
    with (
        group.metadata_swapped_out() as path,
        thinmeta.open_pool(path, mode="r+") as pool,
        pool.transaction() as txn,
    ):
        txn.delete(device_id)
    group.activate("thin1")
    with pytest.raises(LvmError, match="No data available"):
        group.activate("snap1")
    group.remove("snap1")
    assert set(group.thin_ids()) == {"thin1"}
    complaints = kernel_log.complaints()
    assert "device-mapper: thin: Deletion of thin device 2 failed." in complaints
    group.deactivate_all()
    group.activate("thin1")


def test_lvm_asks_us_whether_a_pool_is_sound(kernel_log: KernelLog, tmp_path: Path) -> None:
    log = tmp_path / "asked"
    script = tmp_path / "thin_check"
    # The last word is the device; what comes before are options of thin_check's.
    script.write_text(
        f'#!/bin/sh\necho "$*" >>"{log}"\nfor device; do :; done\n'
        f'exec "{sys.executable}" -m thinmeta check "$device"\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    with VolumeGroup(thin_check=os.fspath(script)) as group:
        group.create_thin("thin1", size_bytes=VOLUME_BYTES)
        offset = group.metadata_offset_bytes()
        group.deactivate_all()
        log.unlink()
        group.activate("thin1")
        assert log.read_text().split() == ["-q", group.metadata]

        group.deactivate_all()
        superblock = blockdev.read(DISK, offset, METADATA_BLOCK_BYTES)
        blockdev.write(DISK, offset, superblock[:99] + b"\xff" + superblock[100:])
        with pytest.raises(LvmError, match="Check of pool vg/pool failed"):
            group.activate("thin1")
        blockdev.write(DISK, offset, superblock)
        group.activate("thin1")


def test_lvm_calls_our_link_and_a_mark_is_taken_away(kernel_log: KernelLog, tmp_path: Path) -> None:
    """lvm.conf as docs/lvm.md has it: the link alone, and both options."""
    program = Path(sys.executable).with_name("thinmeta")
    link = tmp_path / "thin_check"
    link.symlink_to(program)
    options = ("-q", "--clear-needs-check-flag")
    with VolumeGroup(thin_check=os.fspath(link), thin_check_options=options) as group:
        path = group.create_thin("thin1", size_bytes=VOLUME_BYTES)
        content = pattern("marked", 4 * BLOCK_BYTES)
        blockdev.write(path, 0, content)
        offset = group.metadata_offset_bytes()
        group.deactivate_all()
        superblock = blockdev.read(DISK, offset, METADATA_BLOCK_BYTES)
        marked = seal(patched(superblock, 4, bytes([1])), "thin superblock")
        blockdev.write(DISK, offset, marked)

        group.activate("thin1")
        status = run("dmsetup", "status", "--target", "thin-pool")
        assert "needs_check" not in status and " rw " in status
        assert blockdev.read(path, 0, len(content)) == content
        blockdev.write(path, 0, pattern("goes on", BLOCK_BYTES))

        # What is wrong is never taken for sound, and the mark stays.
        group.deactivate_all()
        superblock = blockdev.read(DISK, offset, METADATA_BLOCK_BYTES)
        details = int.from_bytes(superblock[328:336], "little") * METADATA_BLOCK_BYTES
        node = blockdev.read(DISK, offset + details, METADATA_BLOCK_BYTES)
        marked = seal(patched(superblock, 4, bytes([1])), "thin superblock")
        blockdev.write(DISK, offset, marked)
        blockdev.write(DISK, offset + details, patched(node, 99, bytes([node[99] ^ 1])))
        with pytest.raises(LvmError, match="Check of pool vg/pool failed"):
            group.activate("thin1")
        assert blockdev.read(DISK, offset, METADATA_BLOCK_BYTES) == marked
        blockdev.write(DISK, offset + details, node)
        group.activate("thin1")


def test_lvm_repairs_a_pool_with_our_link(kernel_log: KernelLog, tmp_path: Path) -> None:
    """`lvconvert --repair`, as docs/lvm.md has it, of a pool that it does not activate."""
    program = Path(sys.executable).with_name("thinmeta")
    links = {name: tmp_path / name for name in ("thin_check", "thin_repair")}
    for link in links.values():
        link.symlink_to(program)
    check, repair = (os.fspath(links[name]) for name in ("thin_check", "thin_repair"))
    with VolumeGroup(thin_check=check, thin_check_options=("-q",), thin_repair=repair) as group:
        path = group.create_thin("thin1", size_bytes=VOLUME_BYTES)
        content = pattern("repaired", 40 * BLOCK_BYTES)
        blockdev.write(path, 0, content)
        snapshot = group.create_snapshot("snap1", origin="thin1", active=True)
        later = pattern("later", 3 * BLOCK_BYTES)
        blockdev.write(path, 5 * BLOCK_BYTES, later)
        offset = group.metadata_offset_bytes()
        group.deactivate_all()
        superblock = blockdev.read(DISK, offset, METADATA_BLOCK_BYTES)
        for field in (328, 64 + 16):  # the details, and the index of the data's space map
            at = offset + int.from_bytes(superblock[field : field + 8], "little") * 4096
            block = blockdev.read(DISK, at, METADATA_BLOCK_BYTES)
            blockdev.write(DISK, at, patched(block, 99, bytes([block[99] ^ 1])))
        with pytest.raises(LvmError, match="Check of pool vg/pool failed"):
            group.activate("thin1")

        run("lvconvert", "--yes", "--repair", group.full_name("pool"))

        group.activate("thin1")
        group.activate("snap1")
        assert blockdev.read(snapshot, 0, len(content)) == content
        blocks = [content[: 5 * BLOCK_BYTES], later, content[8 * BLOCK_BYTES :]]
        assert blockdev.read(path, 0, len(content)) == b"".join(blocks)
        # What they share is still so: what is written to one is not in the other.
        blockdev.write(path, 0, pattern("goes on", BLOCK_BYTES))
        assert blockdev.read(snapshot, 0, len(content)) == content
