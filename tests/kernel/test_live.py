"""Reading the metadata snapshot of a pool that the kernel goes on writing."""

from random import Random
from threading import Event, Thread

import thinmeta
from kernel.agree import kernel_agrees, mappings_agree, metadata_agrees
from kernel.disks import Disks
from kernel.live import BLOCK_BYTES
from kernel.player import Player
from kernel.sides import KernelSide
from kernel.world import pattern


def test_what_the_kernel_writes_is_read_as_the_model_has_it(disks: Disks) -> None:
    world = disks.world()
    player = Player(world, Random(1))
    for _ in range(3):
        with disks.live_pool() as pool:
            player.play(KernelSide(pool), steps=60)
            kernel_agrees(world, pool)
        metadata_agrees(world, disks.metadata)


def test_each_metadata_snapshot_shows_its_own_state(disks: Disks) -> None:
    """In one process: what an earlier one made it read, and cache, is of no use later."""
    world = disks.world()
    with disks.live_pool() as live:
        side = KernelSide(live)
        player = Player(world, Random(2))
        for _ in range(4):
            player.play(side, steps=25)
            if world.held is None:
                side.reserve_metadata_snapshot()
                world.reserve_metadata_snapshot()
            held = dict(world.held or {})
            with thinmeta.open_pool(disks.metadata, metadata_snapshot="held") as pool:
                mappings_agree(held, pool)
                for device_id in world.volumes:
                    side.discard(device_id, 0, 8, blocks=32)
                    world.discard(device_id, 0, 8)
                    side.write(device_id, 0, pattern("later", BLOCK_BYTES), blocks=32)
                    world.write(device_id, 0, pattern("later", BLOCK_BYTES))
                side.commit()
                mappings_agree(held, pool)
            assert thinmeta.check(disks.metadata, metadata_snapshot="held").is_clean
            side.release_metadata_snapshot()
            world.release_metadata_snapshot()
            kernel_agrees(world, live)
    metadata_agrees(world, disks.metadata)


def test_a_metadata_snapshot_is_read_while_the_pool_is_written(disks: Disks) -> None:
    world = disks.world()
    stop = Event()
    with disks.live_pool() as live:
        side = KernelSide(live)
        side.create_thin(0)
        world.create_thin(0, blocks=100)
        side.write(0, 0, pattern("first", 100 * BLOCK_BYTES), blocks=100)
        world.write(0, 0, pattern("first", 100 * BLOCK_BYTES))
        side.create_snapshot(1, origin_id=0)
        world.create_snapshot(1, origin_id=0)
        side.reserve_metadata_snapshot()
        world.reserve_metadata_snapshot()
        written: list[tuple[int, bytes]] = []

        def write() -> None:
            rng = Random(3)
            while not stop.is_set():
                offset = rng.randrange(100) * BLOCK_BYTES
                data = pattern(f"while it is read {len(written)}", BLOCK_BYTES)
                side.write(0, offset, data, blocks=100)
                written.append((offset, data))

        writer = Thread(target=write)
        writer.start()
        try:
            for _ in range(30):
                with thinmeta.open_pool(disks.metadata, metadata_snapshot="held") as pool:
                    mappings_agree(world.held or {}, pool)
        finally:
            stop.set()
            writer.join()
        assert len(written) > 10
        for offset, data in written:
            world.write(0, offset, data)
        kernel_agrees(world, live)
    metadata_agrees(world, disks.metadata)


def test_content_is_read_through_a_metadata_snapshot(disks: Disks) -> None:
    """What was overwritten in place since the last look is seen, not an old page of it."""
    world = disks.world()
    with disks.live_pool() as live:
        side = KernelSide(live)
        side.create_thin(5)
        world.create_thin(5, blocks=16)
        for look in range(3):
            data = pattern(f"look {look}", 16 * BLOCK_BYTES)
            side.write(5, 0, data, blocks=16)
            world.write(5, 0, data)
            side.reserve_metadata_snapshot()
            with (
                thinmeta.open_pool(
                    disks.metadata, metadata_snapshot="held", data=disks.data
                ) as pool,
                pool.devices[5].open() as volume,
            ):
                assert volume.read() == data
            side.release_metadata_snapshot()
