"""Pools that we have made or changed, in the hands of the kernel."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from random import Random

import pytest

import thinmeta
from kernel.agree import kernel_agrees, metadata_agrees
from kernel.blockdev import KernelLog
from kernel.disks import Disks
from kernel.live import BLOCK_BYTES
from kernel.player import Player
from kernel.sides import KernelSide, OurSide, Side
from kernel.world import MAX_DEVICE_ID, World, pattern


@contextmanager
def made_by_us(disks: Disks) -> Iterator[tuple[World, OurSide]]:
    """A new pool to put things into; it is complete and closed afterwards."""
    world = disks.world()
    with disks.make_pool() as pool, OurSide(pool, disks.data) as side:
        yield world, side
    metadata_agrees(world, disks.metadata)


def used_by_the_kernel(world: World, disks: Disks, *, seed: int, max_volumes: int = 7) -> None:
    """The kernel reads everything, changes this and that; then we do, then it reads again."""
    player = Player(world, Random(seed), max_volumes=max_volumes)
    with disks.live_pool() as live:
        kernel_agrees(world, live)
        player.play(KernelSide(live), steps=50)
    metadata_agrees(world, disks.metadata)
    with disks.open_pool() as pool, OurSide(pool, disks.data) as side:
        player.play(side, steps=50)
    metadata_agrees(world, disks.metadata)
    with disks.live_pool() as live:
        kernel_agrees(world, live)


def write(world: World, side: Side, device_id: int, offset: int, data: bytes) -> None:
    side.write(device_id, offset, data, blocks=world.volumes[device_id].blocks)
    world.write(device_id, offset, data)


def create_thin(world: World, side: Side, device_id: int, *, blocks: int) -> None:
    side.create_thin(device_id)
    world.create_thin(device_id, blocks=blocks)


def create_snapshot(world: World, side: Side, device_id: int, *, origin_id: int) -> None:
    side.create_snapshot(device_id, origin_id=origin_id)
    world.create_snapshot(device_id, origin_id=origin_id)


def test_an_empty_pool_of_ours_is_used_by_the_kernel(disks: Disks) -> None:
    with made_by_us(disks) as (world, _):
        pass
    used_by_the_kernel(world, disks, seed=1)


def test_volumes_and_chains_of_snapshots_are_used_by_the_kernel(disks: Disks) -> None:
    with made_by_us(disks) as (world, side):
        create_thin(world, side, 0, blocks=32)
        write(world, side, 0, 0, pattern("all of it", 32 * BLOCK_BYTES))
        for link in range(1, 6):  # a snapshot of a snapshot of a snapshot
            create_snapshot(world, side, link, origin_id=link - 1)
            write(world, side, link, link * BLOCK_BYTES, pattern(f"link {link}", 3 * 512))
            write(world, side, link - 1, 20 * BLOCK_BYTES, pattern(f"origin {link}", BLOCK_BYTES))
        side.delete(2)
        world.delete(2)
    used_by_the_kernel(world, disks, seed=2)


def test_300_snapshots_of_one_origin_are_used_by_the_kernel(disks: Disks) -> None:
    with made_by_us(disks) as (world, side):
        create_thin(world, side, 1, blocks=4)
        write(world, side, 1, 0, pattern("origin", 4 * BLOCK_BYTES))
        for number in range(300):
            create_snapshot(world, side, 1000 + number, origin_id=1)
            if number % 20 == 0:
                write(world, side, 1, BLOCK_BYTES, pattern(f"after {number}", BLOCK_BYTES))
    used_by_the_kernel(world, disks, seed=3, max_volumes=400)


def test_a_pool_with_a_metadata_snapshot_of_ours_is_used_by_the_kernel(disks: Disks) -> None:
    with made_by_us(disks) as (world, side):
        create_thin(world, side, 3, blocks=32)
        write(world, side, 3, 0, pattern("held", 20 * BLOCK_BYTES))
        side.reserve_metadata_snapshot()
        world.reserve_metadata_snapshot()
        write(world, side, 3, 5 * BLOCK_BYTES, pattern("later", 20 * BLOCK_BYTES))
        create_snapshot(world, side, 4, origin_id=3)
    with disks.live_pool() as live:
        kernel_agrees(world, live)
        with thinmeta.open_pool(disks.metadata, metadata_snapshot="held") as pool:
            assert list(pool.devices) == [3]
            assert pool.devices[3].mapped_blocks == 20
    used_by_the_kernel(world, disks, seed=4)


def test_the_largest_ids_are_used_by_the_kernel(disks: Disks) -> None:
    with made_by_us(disks) as (world, side):
        for device_id in (MAX_DEVICE_ID, 0, MAX_DEVICE_ID - 1):
            create_thin(world, side, device_id, blocks=32)
            write(world, side, device_id, 4096, pattern(f"{device_id}", 4096))
        with pytest.raises(thinmeta.UsageError):
            side.create_thin(MAX_DEVICE_ID + 1)
    used_by_the_kernel(world, disks, seed=5)


def test_a_pool_whose_devices_we_grew_is_used_by_the_kernel(disks: Disks) -> None:
    with made_by_us(disks) as (world, side):
        create_thin(world, side, 0, blocks=32)
        write(world, side, 0, 0, pattern("before", 32 * BLOCK_BYTES))
        side.commit()
        # Across the end of the first bitmaps: 16320 blocks to each of them.
        disks.grow(metadata_blocks=17000, data_blocks=17001)
        world.metadata_blocks, world.data_blocks = 17000, 17001
        side.grow(metadata_blocks=17000, data_blocks=17001)
        create_thin(world, side, 1, blocks=100)
        write(world, side, 1, 0, pattern("after", 100 * BLOCK_BYTES))
    used_by_the_kernel(world, disks, seed=6)


def test_a_pool_of_ours_is_grown_by_the_kernel(disks: Disks) -> None:
    with made_by_us(disks) as (world, side):
        create_thin(world, side, 0, blocks=32)
        write(world, side, 0, 0, pattern("before", 32 * BLOCK_BYTES))
    with disks.live_pool() as live:
        disks.grow(metadata_blocks=17000, data_blocks=17001)
        world.metadata_blocks, world.data_blocks = 17000, 17001
        live.resize(17001)
        kernel_agrees(world, live)
    metadata_agrees(world, disks.metadata)
    used_by_the_kernel(world, disks, seed=7)


def test_a_full_data_device_of_ours_is_used_by_the_kernel(kernel_log: KernelLog) -> None:
    with Disks(data_blocks=96) as disks:
        disks.clear()
        with made_by_us(disks) as (world, side):
            create_thin(world, side, 0, blocks=200)
            write(world, side, 0, 0, pattern("full", 96 * BLOCK_BYTES))
            side.commit()
            assert side.pool.free_data_blocks == 0
            with pytest.raises(thinmeta.NoSpaceError, match="data"):
                side.write(0, 150 * BLOCK_BYTES, bytes(512), blocks=200)
        with disks.live_pool() as live:
            status = live.status()
            assert status.used_data_blocks == status.data_blocks == 96
            assert not status.needs_check
            with live.active(0, blocks=200) as volume:
                assert volume.read(0, 200 * BLOCK_BYTES) == world.volumes[0].content()
                data = pattern("in place", BLOCK_BYTES)
                volume.write(3 * BLOCK_BYTES, data)
                world.write(0, 3 * BLOCK_BYTES, data)
                with pytest.raises(OSError, match=r"space") as no_space:
                    volume.write(150 * BLOCK_BYTES, bytes(512))
                assert no_space.value.errno == errno.ENOSPC
                complaints = kernel_log.complaints()
                assert not [line for line in complaints if "space" not in line]
                volume.discard(10, 50)
                world.discard(0, 10, 50)
            kernel_agrees(world, live)
        metadata_agrees(world, disks.metadata)
        used_by_the_kernel(world, disks, seed=8)


def test_what_we_rolled_back_is_nothing_to_the_kernel(disks: Disks) -> None:
    with made_by_us(disks) as (world, side):
        create_thin(world, side, 0, blocks=32)
        create_thin(world, side, 1, blocks=32)
        write(world, side, 0, 0, pattern("kept", 16 * BLOCK_BYTES))
        create_snapshot(world, side, 2, origin_id=0)
    with disks.open_pool() as pool:
        for _ in range(3):
            with suppress(ZeroDivisionError), OurSide(pool, disks.data) as side:
                side.create_snapshot(3, origin_id=0)
                side.delete(2)
                side.write_by_hand(1, 0, pattern("never", 8 * BLOCK_BYTES))
                side.create_thin(9)
                raise ZeroDivisionError
    metadata_agrees(world, disks.metadata)
    used_by_the_kernel(world, disks, seed=9)


@pytest.mark.parametrize("reserved_by", ["kernel", "us"])
def test_a_metadata_snapshot_reserved_by_one_and_released_by_the_other_leaks_nothing(
    disks: Disks, reserved_by: str
) -> None:
    world = disks.world()
    player = Player(world, Random(10))

    @contextmanager
    def side(name: str) -> Iterator[Side]:
        if name == "kernel":
            with disks.live_pool() as live:
                yield KernelSide(live)
        else:
            with disks.open_pool() as pool, OurSide(pool, disks.data) as ours:
                yield ours
        metadata_agrees(world, disks.metadata)

    other = "us" if reserved_by == "kernel" else "kernel"
    with disks.make_pool():
        pass
    for _ in range(2):
        with side(reserved_by) as one:
            player.play(one, steps=30, leave_out=["metadata_snapshot"])
            one.reserve_metadata_snapshot()
            world.reserve_metadata_snapshot()
            player.play(one, steps=30, leave_out=["metadata_snapshot"])
        with side(other) as one:
            player.play(one, steps=30, leave_out=["metadata_snapshot"])
            one.release_metadata_snapshot()
            world.release_metadata_snapshot()
            player.play(one, steps=10, leave_out=["metadata_snapshot"])
