"""Our transactions, cut off by a loss of power, in the hands of the kernel."""

from random import Random

import pytest

import thinmeta
from kernel import blockdev
from kernel.agree import kernel_agrees, metadata_agrees
from kernel.blockdev import KernelLog
from kernel.cuts import Recording, recorded
from kernel.disks import METADATA_BLOCK_SECTORS, Disks, Place
from kernel.dm import SECTOR
from kernel.guest import say
from kernel.live import BLOCK_BYTES, BLOCK_SECTORS
from kernel.player import Player
from kernel.rounds import ROUNDS, SEED
from kernel.sides import OurSide
from kernel.world import World, pattern

METADATA_BLOCKS, DATA_BLOCKS = 256, 192
#: Both on one device, so that it is known what of both was there at the same time.
DISK = "/dev/ubda"
DATA_BEGIN = METADATA_BLOCKS * METADATA_BLOCK_SECTORS
DISK_BYTES = (DATA_BEGIN + DATA_BLOCKS * BLOCK_SECTORS) * SECTOR


def disks_on(path: str) -> Disks:
    return Disks(
        metadata_blocks=METADATA_BLOCKS,
        data_blocks=DATA_BLOCKS,
        metadata_on=Place(path),
        data_on=Place(path, DATA_BEGIN),
    )


@pytest.mark.parametrize("seed", [SEED], ids=[f"seed-{SEED}"])
def test_wherever_the_power_goes_the_kernel_has_a_whole_pool(
    kernel_log: KernelLog, seed: int
) -> None:
    """Old or new, with the content that belongs to it: nothing freed is used too early."""
    rng = Random(seed)
    with disks_on(DISK) as disks:
        disks.clear()
        with disks.make_pool():
            pass
    recording, committed = record(rng)
    assert len(recording.epochs) >= 16, "two flushes to a commit, and eight commits"
    seen = set()
    for number in range(2 * ROUNDS):
        say({"image": number})
        # Far apart, so that a few say something of all of them.
        epoch = number * 7 % len(recording.epochs)
        blockdev.write(DISK, 0, recording.cut(epoch, rng))
        with disks_on(DISK) as disks:
            with thinmeta.open_pool(disks.metadata) as pool:
                state = (pool.superblock.trans_id, pool.superblock.held_root != 0)
            metadata_agrees(committed[state], disks.metadata)
            used_by_the_kernel(committed[state].copy(), disks)
        seen.add(state)
    assert len(seen) > 3


def record(rng: Random) -> tuple[Recording, dict[tuple[int, bool], World]]:
    """Some of our transactions, what they wrote, and what each of them committed.

    A state is known by the transaction id and by whether there is a metadata snapshot,
    which is a part of the transaction that takes it, or releases it.
    """
    committed: dict[tuple[int, bool], World] = {}
    with recorded(DISK, length=DISK_BYTES) as recording, disks_on(recording.path) as disks:
        world = disks.world()
        committed[0, False] = world.copy()
        # Few volumes: what they free must be used again, and in time only.
        player = Player(world, rng, max_volumes=4)
        with disks.open_pool() as pool:
            for number in range(1, 9):
                with OurSide(pool, disks.data, by_hand=True) as side:
                    several = ["transaction_id", "metadata_snapshot", "commit"]
                    player.play(side, steps=30, leave_out=several)
                    side.set_transaction_id(world.transaction_id, number)
                    world.transaction_id = number
                    if number in (2, 6):
                        side.reserve_metadata_snapshot()
                        world.reserve_metadata_snapshot()
                    elif number in (4, 8):
                        side.release_metadata_snapshot()
                        world.release_metadata_snapshot()
                committed[number, world.held is not None] = world.copy()
    return recording, committed


def used_by_the_kernel(world: World, disks: Disks) -> None:
    """It activates the pool, reads all of it, writes, and is content to the end."""
    with disks.live_pool() as live:
        kernel_agrees(world, live)
        live.create_thin(77)
        world.create_thin(77, blocks=8)
        with live.active(77, blocks=8) as volume:
            data = pattern("after the cut", 8 * BLOCK_BYTES)
            volume.write(0, data)
            assert volume.read(0, len(data)) == data
            world.write(77, 0, data)
        live.create_snapshot(78, origin_id=77)
        world.create_snapshot(78, origin_id=77)
    metadata_agrees(world, disks.metadata)
