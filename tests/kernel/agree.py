"""Whether a pool is what the model says: as thinmeta, the kernel and thin_check see it."""

import subprocess
from collections.abc import Mapping

import thinmeta
from kernel.live import BLOCK_BYTES, LivePool
from kernel.world import VolumeModel, World
from oracles import require
from thinmeta import Pool


def metadata_agrees(world: World, metadata: str) -> None:
    """Compare a pool that nobody uses: mappings, sharing, counts."""
    sound(metadata)
    with thinmeta.open_pool(metadata) as pool:
        assert not pool.superblock.needs_check
        assert pool.superblock.trans_id == world.transaction_id
        assert pool.metadata_space.blocks == world.metadata_blocks
        assert pool.data_space.blocks == world.data_blocks
        used = mappings_agree(world.volumes, pool)
        held_root = pool.superblock.held_root
        allocated = pool.data_space.allocated
    assert bool(held_root) == (world.held is not None)
    if world.held is not None:
        with thinmeta.open_pool(metadata, metadata_snapshot="held") as pool:
            used |= mappings_agree(world.held, pool)
    # That counts are right is what the check says; here, that nothing is left over.
    assert allocated == len(used)


def mappings_agree(volumes: Mapping[int, VolumeModel], pool: Pool) -> set[int]:
    """Compare what is mapped and what is shared; returns the data blocks in use."""
    assert list(pool.devices) == sorted(volumes)
    blocks: dict[int, int] = {}
    numbers: dict[int, int] = {}
    for device_id, volume in volumes.items():
        device = pool.devices[device_id]
        found = {
            run.virtual_begin + i: run.data_begin + i
            for run in device.runs()
            for i in range(run.length_blocks)
        }
        assert found.keys() == volume.mapped.keys(), f"device {device_id}"
        assert device.mapped_blocks == len(volume.mapped), f"device {device_id}"
        for virtual, number in found.items():
            # One data block for each object of the model, and the other way round.
            block = id(volume.mapped[virtual])
            where = f"device {device_id}, block {virtual}"
            assert blocks.setdefault(number, block) == block, f"{where}: shared, and should not be"
            assert numbers.setdefault(block, number) == number, f"{where}: not shared any more"
    return set(blocks)


def sound(metadata: str) -> None:
    """Nothing whatever is wrong, by our check and by the installed thin_check."""
    report = thinmeta.check(metadata)
    assert report.is_clean, report.findings
    done = subprocess.run(
        [require("thin_check"), "-q", metadata], capture_output=True, text=True, check=False
    )
    # With -q its exit status is all there is; anything printed is a complaint, too.
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def kernel_agrees(world: World, pool: LivePool) -> None:
    """Compare an active pool: each volume's every byte, read through the kernel."""
    status = pool.status()
    assert (status.mode, status.needs_check) == ("rw", False), status.line
    assert status.transaction_id == world.transaction_id
    assert status.data_blocks == world.data_blocks
    assert (status.held_root is not None) == (world.held is not None)
    for device_id, model in world.volumes.items():
        with pool.active(device_id, blocks=model.blocks) as volume:
            assert volume.mapped_blocks() == len(model.mapped), f"device {device_id}"
            content = volume.read(0, model.blocks * BLOCK_BYTES)
            assert content == model.content(), f"device {device_id} differs"
