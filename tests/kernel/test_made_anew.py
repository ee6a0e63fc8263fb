"""Metadata that we made anew, in the hands of the kernel."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

import thinmeta
from kernel.agree import kernel_agrees, metadata_agrees
from kernel.disks import Disks
from kernel.player import Player
from kernel.sides import KernelSide, OurSide
from kernel.world import World

BLOCK = 4096


def played_by_the_kernel(world: World, disks: Disks, seed: int) -> None:
    """The kernel reads all, changes this and that, and leaves no metadata snapshot."""
    player = Player(world, Random(seed))
    with disks.live_pool() as live:
        kernel_agrees(world, live)
        side = KernelSide(live)
        player.play(side, steps=70)
        if world.held is not None:
            side.release_metadata_snapshot()
            world.release_metadata_snapshot()
        side.commit()
    metadata_agrees(world, disks.metadata)


def wiped(disks: Disks) -> bytes:
    """What the metadata device had; it is all noise now."""
    with open(disks.metadata, "r+b") as device:
        content = device.read()
        device.seek(0)
        device.write(b"\xa5" * len(content))
    return content


def number(content: bytes | bytearray, offset: int) -> int:
    return int.from_bytes(content[offset : offset + 8], "little")


@pytest.mark.parametrize("seed", [1, 2])
def test_what_is_restored_and_repaired_is_used_by_the_kernel(
    disks: Disks, tmp_path: Path, seed: int
) -> None:
    world = disks.world()
    with disks.make_pool() as pool, OurSide(pool, disks.data):
        pass
    played_by_the_kernel(world, disks, seed)

    # From XML, told in full: what is shared has to be found again.
    xml = tmp_path / "pool.xml"
    thinmeta.dump(disks.metadata, xml)
    wiped(disks)
    made = thinmeta.restore(xml, disks.metadata)
    assert made.devices == len(world.volumes)
    metadata_agrees(world, disks.metadata)
    played_by_the_kernel(world, disks, seed + 10)

    # From metadata without the details, and with spoiled indices of both space maps.
    damaged = bytearray(wiped(disks))
    for block in (number(damaged, 328), number(damaged, 64 + 16), number(damaged, 192 + 16)):
        damaged[block * BLOCK + 200] ^= 0xFF
    image = tmp_path / "damaged.img"
    image.write_bytes(damaged)
    with pytest.raises(thinmeta.DamagedBlockError):
        thinmeta.dump(image, tmp_path / "none")
    plan, _ = thinmeta.repair(image, disks.metadata)
    assert not plan.lost_devices
    assert {device.device_id for device in plan.devices} == set(world.volumes)
    metadata_agrees(world, disks.metadata)
    played_by_the_kernel(world, disks, seed + 20)
