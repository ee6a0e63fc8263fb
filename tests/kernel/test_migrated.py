"""Volumes in other places, and pools put right in place, as the kernel uses them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

import thinmeta
from counts import Counts
from kernel import blockdev, quick_dmsetup
from kernel.agree import kernel_agrees, metadata_agrees
from kernel.blockdev import KernelLog
from kernel.disks import Disks, Place
from kernel.dm import Device, Target
from kernel.live import BLOCK_BYTES, BLOCK_SECTORS
from kernel.player import VOLUME_BLOCKS, Player
from kernel.rounds import ROUNDS, SEED
from kernel.sides import KernelSide
from kernel.world import Block, VolumeModel, World, pattern
from thinmeta.cli import main

#: One, and ten of them in `make kernel`.
SEEDS = range(SEED, SEED + max(ROUNDS // 10, 1))
#: How often what has changed is brought.
LAST = 5 if ROUNDS >= 100 else 3
VOLUME_BYTES = VOLUME_BLOCKS * BLOCK_BYTES
#: Behind the first pool on the same disks, and the origin behind both.
SECOND = Place("/dev/ubda", 128 << 11), Place("/dev/ubdb", 256 << 11)
ORIGIN = f"/dev/ubdb {512 << 11}"


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THINMETA_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("THINMETA_RUN_DIR", str(tmp_path / "run"))
    quick_dmsetup.use(monkeypatch)


@pytest.fixture
def second(kernel_log: KernelLog) -> Iterator[Disks]:
    """Devices for another pool."""
    metadata, data = SECOND
    with Disks(metadata_on=metadata, data_on=data) as made:
        made.clear()
        yield made


def run(capsys: pytest.CaptureFixture[str], *words: object, status: int = 0) -> str:
    """A command, in this process; what it printed, or complained of."""
    capsys.readouterr()
    found = main([*map(str, words)])
    out, err = capsys.readouterr()
    assert found == status, err
    return err if status else out


def played(world: World, disks: Disks, player: Player, *, steps: int, left: set[int]) -> None:
    """The kernel changes this and that, and no devices but those that are left."""
    with disks.live_pool() as live:
        kernel_agrees(world, live)
        side = KernelSide(live)
        out = ("create", "delete", "snapshot", "metadata_snapshot", "transaction_id")
        others = {each: world.volumes.pop(each) for each in set(world.volumes) - left}
        player.play(side, steps=steps, leave_out=out)
        world.volumes.update(others)
        side.commit()
    metadata_agrees(world, disks.metadata)


def brought(world: World, source: VolumeModel, device_id: int, before: VolumeModel | None) -> None:
    """What a copy of a volume is in a pool: its own blocks, but for those that did not change."""
    old = world.volumes.get(device_id)
    blocks = {}
    for virtual, block in source.mapped.items():
        same = before is not None and old is not None and before.mapped.get(virtual) is block
        blocks[virtual] = old.mapped[virtual] if same and old else Block(block.content)
    world.volumes[device_id] = VolumeModel(source.blocks, blocks)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_migrated_between_inactive_pools_is_read_and_written_by_the_kernel(
    disks: Disks, second: Disks, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    draw = Random(seed)
    here, there = disks.world(), second.world()
    # Both pools are the kernel's own.
    for world, place, device_id in ((here, disks, 1), (there, second, 4)):
        with place.live_pool() as live:
            KernelSide(live).create_thin(device_id)
            world.create_thin(device_id, blocks=VOLUME_BLOCKS)
        played(world, place, Player(world, draw), steps=25, left={device_id})
    before: VolumeModel | None = None
    for number in range(2, LAST + 1):
        with disks.live_pool() as live:
            live.create_snapshot(number, origin_id=1)
        here.create_snapshot(number, origin_id=1)
        words: list[object] = ["migrate", disks.metadata, number, "--data", disks.data]
        words += [second.metadata, 9, "--dest-data", second.data]
        words += ["--size", VOLUME_BYTES, "--json"]
        words += [] if before is None else ["--delta-id", number - 1]
        told = json.loads(run(capsys, *words))
        source = here.volumes[number]
        changed = [
            virtual
            for virtual, block in source.mapped.items()
            if before is None or before.mapped.get(virtual) is not block
        ]
        assert told["copied_bytes"] == told["verified_bytes"] == len(changed) * BLOCK_BYTES
        metadata_agrees(here, disks.metadata)
        brought(there, source, 9, before)
        metadata_agrees(there, second.metadata)
        with second.live_pool() as live:
            kernel_agrees(there, live)
            # What a snapshot of the copy has is left to it by the next round.
            live.create_snapshot(number + 10, origin_id=9)
        there.create_snapshot(number + 10, origin_id=9)
        before = source
        played(here, disks, Player(here, draw), steps=12, left={1})
    # A pool like any other.
    played(there, second, Player(there, draw), steps=40, left={4, 9, 12})


def test_what_is_migrated_between_pools_in_use_is_read_by_the_kernel(
    disks: Disks, second: Disks, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    draw, bookmark = Random(5), tmp_path / "bookmark"
    world = World(metadata_blocks=disks.metadata_blocks, data_blocks=disks.data_blocks)
    player = Player(world, draw)
    with disks.live_pool() as source, second.live_pool() as target:
        side = KernelSide(source)
        side.create_thin(1)
        world.create_thin(1, blocks=VOLUME_BLOCKS)
        target.create_thin(7)
        volume = source.activate(1, blocks=VOLUME_BLOCKS)
        copy = target.activate(7, blocks=VOLUME_BLOCKS)
        name = source.device.name
        for number in range(LAST):
            player.play(side, steps=15, leave_out=("create", "delete", "snapshot"))
            if world.held is not None:
                side.release_metadata_snapshot()
                world.release_metadata_snapshot()
            more = ["--delta-id", "kept"] if number else []
            told = json.loads(
                run(capsys, "migrate", name, 1, copy.device.path, "--keep", "--json", *more)
            )
            assert (told["base"] is None) == (number == 0)
            content = world.volumes[1].content()
            assert volume.read(0, VOLUME_BYTES) == content
            assert copy.read(0, VOLUME_BYTES) == content
            # What is not mapped here is not mapped there.
            assert copy.mapped_blocks() == volume.mapped_blocks() == len(world.volumes[1].mapped)
            if number:
                assert told["copied_bytes"] < VOLUME_BYTES
        # By the ids of snapshots that the kernel made, also of one that is gone.
        for device_id in (20, 21):
            source.create_snapshot(device_id, origin_id=1)
            player.play(side, steps=10, leave_out=("create", "delete", "snapshot", "discard"))
            if world.held is not None:
                side.release_metadata_snapshot()
                world.release_metadata_snapshot()
            more = ["--overwrite"] if device_id == 20 else ["--delta-id", "20"]
            words = ("migrate", name, device_id, copy.device.path, "--size", VOLUME_BYTES, *more)
            run(capsys, *words)
            with source.active(device_id, blocks=VOLUME_BLOCKS) as snapshot:
                assert copy.read(0, VOLUME_BYTES) == snapshot.read(0, VOLUME_BYTES)
        run(capsys, "bookmark", "save", name, 21, bookmark, "--size", VOLUME_BYTES)
        source.delete(21)
        source.create_snapshot(22, origin_id=1)
        words = ("migrate", name, 22, copy.device.path, "--size", VOLUME_BYTES)
        run(capsys, *words, "--delta-bookmark", bookmark)
        assert copy.read(0, VOLUME_BYTES) == volume.read(0, VOLUME_BYTES)
        assert source.status().held_root is None


@pytest.mark.parametrize("live", [True, False], ids=["live", "inactive"])
def test_an_external_origin_has_what_was_merged_into_it(
    disks: Disks, capsys: pytest.CaptureFixture[str], live: bool
) -> None:
    draw, sectors = Random(7), VOLUME_BLOCKS * BLOCK_SECTORS
    below = pattern("origin", VOLUME_BYTES)
    with Device("origin", Target(sectors, "linear", ORIGIN)) as origin:
        blockdev.write(origin.path, 0, below)
        into = ("--into-external-origin", origin.path)
        with disks.live_pool() as pool:
            pool.create_thin(3)
            over = Target(sectors, "thin", f"{pool.device.path} 3 {origin.path}")
            with Device("over", over) as volume:
                for _ in range(40):
                    length = draw.choice((512, 7 * 512, BLOCK_BYTES, 3 * BLOCK_BYTES))
                    offset = draw.randrange(0, VOLUME_BYTES - length, 512)
                    blockdev.write(volume.path, offset, draw.randbytes(length))
                # Zeros that are mapped, and blocks through which the origin shows again.
                blockdev.write(volume.path, 5 * BLOCK_BYTES, bytes(BLOCK_BYTES))
                blockdev.discard(volume.path, 9 * BLOCK_BYTES, 2 * BLOCK_BYTES)
                shown = blockdev.read(volume.path, 0, VOLUME_BYTES)
                assert shown not in (below, bytes(VOLUME_BYTES))
                why = run(capsys, "merge", pool.device.path, 3, *into, status=3)
                assert "thin device 3 can be written to" in why
            # Nor while another one stands on the origin.
            pool.create_thin(4)
            over = Target(sectors, "thin", f"{pool.device.path} 4 {origin.path}")
            with Device("other", over) as other:
                why = run(capsys, "merge", pool.device.path, 3, *into, status=3)
                assert "used by another device" in why
                assert blockdev.read(other.path, 0, VOLUME_BYTES) == below
            pool.delete(4)
            assert blockdev.read(origin.path, 0, VOLUME_BYTES) == below
            if live:
                run(capsys, "merge", pool.device.path, 3, *into)
                assert pool.status().held_root is None
        if not live:
            run(capsys, "merge", disks.metadata, 3, "--data", disks.data, *into)
        assert blockdev.read(origin.path, 0, VOLUME_BYTES) == shown
        # The volume over it reads as it did, and can go.
        with disks.live_pool() as pool:
            over = Target(sectors, "thin", f"{pool.device.path} 3 {origin.path}")
            with Device("over", over) as volume:
                assert blockdev.read(volume.path, 0, VOLUME_BYTES) == shown
            pool.delete(3)
            assert pool.status().used_data_blocks == 0
        assert blockdev.read(origin.path, 0, VOLUME_BYTES) == shown


@pytest.mark.parametrize("seed", SEEDS)
def test_a_pool_that_was_put_right_in_place_is_written_by_the_kernel(
    disks: Disks, capsys: pytest.CaptureFixture[str], tmp_path: Path, seed: int
) -> None:
    world = disks.world()
    player = Player(world, Random(seed))
    with disks.live_pool() as live:
        side = KernelSide(live)
        player.play(side, steps=70)
        if world.held is not None:
            side.release_metadata_snapshot()
            world.release_metadata_snapshot()
        side.commit()
    metadata_agrees(world, disks.metadata)
    # All that is free is leaked, sums are wrong, and the kernel would not write before a check.
    image = tmp_path / "image"
    image.write_bytes(blockdev.read(disks.metadata, 0, disks.metadata_blocks * 4096))
    counts = Counts(image)
    for block in range(disks.data_blocks):
        if counts.get("data", block) == 0:
            counts.set("data", block, 1 + block % 2)
    free = [block for block in range(disks.metadata_blocks) if counts.get("metadata", block) == 0]
    for block in free[:-20]:
        counts.set("metadata", block, 1)
    counts.set_sums("metadata", 0, 7, 7)
    counts.set_superblock(4, b"\1")
    blockdev.write(disks.metadata, 0, bytes(counts.content))
    assert not thinmeta.check(disks.metadata).is_clean
    said = run(capsys, "check", "--auto-repair", "--clear-needs-check-flag", disks.metadata)
    assert "was put right" in said and "needs_check was cleared" in said
    metadata_agrees(world, disks.metadata)
    with disks.live_pool() as live:
        kernel_agrees(world, live)
        # What was leaked is given out again, to the last block.
        live.create_thin(999)
        room = disks.data_blocks - world.used_data_blocks()
        content = pattern("all", room * BLOCK_BYTES)
        with live.active(999, blocks=room) as volume:
            volume.write(0, content)
            assert live.status().used_data_blocks == disks.data_blocks
            assert volume.read(0, len(content)) == content
        kernel_agrees(world, live)
        live.delete(999)
    metadata_agrees(world, disks.metadata)
