"""Pools that were shrunk, merged or migrated, in the hands of the kernel."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

import thinmeta
from kernel import blockdev
from kernel.agree import kernel_agrees, metadata_agrees
from kernel.disks import Disks
from kernel.live import BLOCK_BYTES
from kernel.player import Player
from kernel.sides import KernelSide
from kernel.world import World, pattern
from thinmeta.migrating import migrate_family


def played_by_the_kernel(world: World, disks: Disks, player: Player) -> None:
    """The kernel reads all, changes this and that, and leaves no metadata snapshot."""
    with disks.live_pool() as live:
        kernel_agrees(world, live)
        side = KernelSide(live)
        player.play(side, steps=70)
        if world.held is not None:
            side.release_metadata_snapshot()
            world.release_metadata_snapshot()
        side.commit()
    metadata_agrees(world, disks.metadata)


def set_aside(disks: Disks, folder: Path) -> Path:
    """The metadata as a file; their device is all noise now."""
    image = folder / "old.img"
    with open(disks.metadata, "r+b") as device:
        image.write_bytes(device.read())
        device.seek(0)
        device.write(b"\xa5" * image.stat().st_size)
    return image


@pytest.fixture(autouse=True)
def state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("THINMETA_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.mark.parametrize("seed", [1, 2])
def test_a_shrunk_pool_is_used_by_the_kernel_on_a_shorter_device(
    disks: Disks, tmp_path: Path, state_folder: Path, seed: int
) -> None:
    world = disks.world()
    player = Player(world, Random(seed))
    with disks.make_pool():
        pass
    played_by_the_kernel(world, disks, player)
    used = world.used_data_blocks()
    moved = 0
    # First to where it still has some room, then as far as it goes.
    for end in (used + 40, used):
        old = set_aside(disks, tmp_path)
        plan = thinmeta.plan_shrink(old)
        assert plan.used_blocks == used
        done = thinmeta.shrink(old, disks.data, disks.metadata, data_blocks=end)
        assert done.pool.data_blocks_used == used
        moved += done.plan.moved_blocks
        assert not [*state_folder.glob("*")]
        disks.grow(data_blocks=end)
        world.data_blocks = end
        metadata_agrees(world, disks.metadata)
        with disks.live_pool() as live:
            kernel_agrees(world, live)
    assert moved
    # The kernel goes on with it, once there is room again.
    disks.grow(data_blocks=used + 200)
    world.data_blocks = used + 200
    with disks.live_pool() as live:
        live.resize(used + 200)
    played_by_the_kernel(world, disks, player)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_kernel_writes_a_merged_origin_and_no_other_volume_changes(
    disks: Disks, tmp_path: Path, seed: int, keep: bool
) -> None:
    world, draw = disks.world(), Random(seed)
    player = Player(world, draw, max_volumes=6)
    with disks.make_pool():
        pass
    # An origin with three snapshots, each of which has something of its own and a hole.
    with disks.live_pool() as live:
        side = KernelSide(live)

        def write(device_id: int, block: int, blocks: int, tag: str) -> None:
            content = pattern(f"{tag} {device_id}", blocks * BLOCK_BYTES)
            side.write(device_id, block * BLOCK_BYTES, content, blocks=32)
            world.write(device_id, block * BLOCK_BYTES, content)

        side.create_thin(1)
        world.create_thin(1, blocks=32)
        write(1, 0, 24, "all")
        for device_id in (2, 3, 4):
            side.create_snapshot(device_id, origin_id=1)
            world.create_snapshot(device_id, origin_id=1)
            write(1, device_id * 3, 2, f"later than {device_id}")
            write(device_id, device_id, 3, "own")
            side.discard(device_id, 15, 18, blocks=32)
            world.discard(device_id, 15, 18)
        for device_id in (1, 2, 3, 4):
            # As late as can be: only a later time makes these look shared.
            write(device_id, 24, 3, "last")
    metadata_agrees(world, disks.metadata)

    old = set_aside(disks, tmp_path)
    snapshot = draw.choice((2, 3, 4))
    thinmeta.merge(old, disks.metadata, origin_id=1, snapshot_id=snapshot, keep_snapshot=keep)
    world.volumes[1] = world.volumes[snapshot].copy()
    if not keep:
        world.delete(snapshot)
    metadata_agrees(world, disks.metadata)
    with disks.live_pool() as live:
        kernel_agrees(world, live)
        # Every block of the origin, a sector of it or all, which is where it would be
        # written in its place.
        side = KernelSide(live)
        for block in range(32):
            content = pattern(f"after {block}", draw.choice((512, BLOCK_BYTES)))
            side.write(1, block * BLOCK_BYTES, content, blocks=32)
            world.write(1, block * BLOCK_BYTES, content)
        kernel_agrees(world, live)
    metadata_agrees(world, disks.metadata)
    played_by_the_kernel(world, disks, player)


def test_what_a_cut_off_shrink_has_copied_hurts_nobody(
    disks: Disks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel goes on with the old pool, and the shrink with what is true then."""
    from thinmeta import shrinking

    monkeypatch.setattr(shrinking, "BATCH_BYTES", BLOCK_BYTES)
    world = disks.world()
    player = Player(world, Random(7))
    with disks.make_pool():
        pass
    played_by_the_kernel(world, disks, player)
    image = tmp_path / "old.img"
    end = world.used_data_blocks() + 10
    for _ in range(3):
        image.write_bytes(blockdev.read(disks.metadata, 0, disks.metadata_blocks * 4096))
        planned = thinmeta._core.Shrink(str(image), data_blocks=end)
        planned.open_data(disks.data)
        planned.copy(0, planned.outlook()["moved_blocks"] // 2)
        planned.close()
        played_by_the_kernel(world, disks, player)
        end = world.used_data_blocks() + 10
    old = set_aside(disks, tmp_path)
    thinmeta.shrink(old, disks.data, disks.metadata, data_blocks=end)
    disks.grow(data_blocks=end)
    world.data_blocks = end
    metadata_agrees(world, disks.metadata)
    with disks.live_pool() as live:
        kernel_agrees(world, live)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_family_shares_in_another_pool_what_it_shared(
    disks: Disks, tmp_path: Path, seed: int
) -> None:
    """Every data block has one copy, for just those who had it; and the kernel goes on."""
    world = disks.world()
    player = Player(world, Random(seed))
    with disks.make_pool():
        pass
    played_by_the_kernel(world, disks, player)
    played_by_the_kernel(world, disks, player)
    old, old_data = set_aside(disks, tmp_path), tmp_path / "old_data.img"
    old_data.write_bytes(blockdev.read(disks.data, 0, disks.data_blocks * BLOCK_BYTES))
    for block in range(disks.data_blocks):
        blockdev.write(disks.data, block * BLOCK_BYTES, b"\xa5" * BLOCK_BYTES, flush=False)
    disks.clear()
    with disks.make_pool() as pool, pool.transaction() as txn:
        txn.set_transaction_id(0, world.transaction_id)
    with thinmeta.open_pool(old, data=old_data) as pool:
        ids = [*pool.devices]
        report = migrate_family(pool, ids, disks.metadata, disks.data)
    assert report.shared_bytes and len(ids) > 2
    for volume in world.volumes.values():
        for block, held in [*volume.mapped.items()]:
            if not any(held.content):
                del volume.mapped[block]
    metadata_agrees(world, disks.metadata)
    with disks.live_pool() as live:
        kernel_agrees(world, live)
    played_by_the_kernel(world, disks, player)
