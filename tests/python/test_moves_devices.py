"""shrink and merge onto a block device, whose first block is the last one written."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest

import thinmeta
from checks import AllChecks
from loops import loop_device
from oracles import ThinTools

KILLS = int(os.environ.get("THINMETA_MOVES_KILLS", "5"))
SEED = int(os.environ.get("THINMETA_MOVES_SEED", "1"))
BLOCK = 4096
DATA_BLOCK = 65536
#: Mappings enough to make metadata that are not written in a moment.
ROWS = 250_000
MOVED = 24
END = ROWS + MOVED
METADATA_BLOCKS = 2048

PROGRAMS = {
    "shrink": f"thinmeta.shrink(meta, data, out, data_blocks={END})",
    "merge": "thinmeta.merge(meta, out, origin_id=1, snapshot_id=2)",
}
#: What is printed tells that the work begins.
RUN = """
import sys, thinmeta
meta, data, out = sys.argv[1:]
print(flush=True)
"""


class World:
    """A large pool, another one that is on the device, and what is to become of the first."""

    def __init__(self, folder: Path) -> None:
        self.meta, self.data, self.old = (folder / name for name in ("meta", "data", "old"))
        draw = random.Random(SEED)
        virtual = array("Q", range(ROWS))
        # No two in a row lie in a row.
        place = array("Q", draw.sample(range(END), ROWS - MOVED))
        self.above = draw.sample(range(END + 10, 2 * END), MOVED)
        place.extend(self.above)
        create = thinmeta.Pool.create
        with create(
            self.meta, data_block_size_sectors=128, data_blocks=2 * END, metadata_blocks=4096
        ) as pool:
            with pool.transaction() as txn:
                txn.create_thin(1)
                txn.insert_many(1, virtual, place)
            with pool.transaction() as txn:
                txn.create_snapshot(2, origin_id=1)
                txn.remove_range(2, 5, 500)
        with create(
            self.old, data_block_size_sectors=256, data_blocks=9, metadata_blocks=METADATA_BLOCKS
        ) as pool:
            with pool.transaction() as txn:
                txn.create_thin(77)
        with self.data.open("wb") as file:
            file.truncate(2 * END * DATA_BLOCK)
            for block in self.above:
                file.seek(block * DATA_BLOCK)
                file.write(self.content(block))
        self.meta_bytes = self.meta.read_bytes()
        with thinmeta.open_pool(self.meta) as pool:
            self.mapped = {each: pool.devices[each].mapped_blocks for each in (1, 2)}

    @staticmethod
    def content(block: int) -> bytes:
        return random.Random(block).randbytes(512) * (DATA_BLOCK // 512)

    def assert_whole(self) -> None:
        """The input is what it was: its metadata, and what has content."""
        assert self.meta.read_bytes() == self.meta_bytes
        with self.data.open("rb") as file:
            for block in self.above:
                file.seek(block * DATA_BLOCK)
                assert file.read(DATA_BLOCK) == self.content(block)

    def assert_made(self, tool: str, out: Path) -> None:
        """The new pool, and nothing else."""
        with thinmeta.open_pool(out) as pool, thinmeta.open_pool(self.meta) as before:
            if tool == "merge":
                assert list(pool.devices) == [1]
                assert list(pool.devices[1].runs()) == list(before.devices[2].runs())
                return
            assert pool.data_space.blocks == END
            assert {each: pool.devices[each].mapped_blocks for each in pool.devices} == self.mapped
            moved = [pool.devices[1].find(ROWS - MOVED + each) for each in range(MOVED)]
        with self.data.open("rb") as file:
            for block, found in zip(self.above, moved, strict=True):
                assert found is not None and found.data_block < END
                file.seek(found.data_block * DATA_BLOCK)
                assert file.read(DATA_BLOCK) == self.content(block)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture
def device(tmp_path: Path, world: World) -> Iterator[tuple[Path, Path]]:
    """A device with another pool on it, and the file that it stands on."""
    backing = tmp_path / "backing"
    backing.write_bytes(world.old.read_bytes())
    with loop_device(backing) as device:
        yield device, backing


def state_of(device: Path, old: bytes) -> str:
    """Which pool is on a device: the old one, byte for byte, a sound other one, or none."""
    content = device.read_bytes()
    if content == old:
        return "old"
    if content[:BLOCK] == bytes(BLOCK):
        with pytest.raises(thinmeta.NotFormattedError):
            thinmeta.check(device)
        return "none"
    assert thinmeta.check(device).is_clean
    return "new"


def first_block(backing: int) -> bytes:
    return os.pread(backing, BLOCK, 0)


@pytest.mark.parametrize("tool", PROGRAMS)
def test_whoever_is_killed_leaves_the_old_pool_the_new_one_or_clearly_none(
    world: World,
    device: tuple[Path, Path],
    thin_tools: ThinTools,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tool: str,
) -> None:
    monkeypatch.setenv("THINMETA_STATE_DIR", str(tmp_path / "state"))
    out, backing = device
    old, draw = world.old.read_bytes(), random.Random(SEED)
    seen: set[str] = set()
    words = [sys.executable, "-c", RUN + PROGRAMS[tool], *map(str, (world.meta, world.data, out))]
    turn = 0
    # Whenever it may be; and, every other time, when the new pool is on its way.
    while turn < KILLS or (not {"old", "none"} <= seen and turn < 40 + KILLS):
        turn += 1
        out.write_bytes(old)
        with backing.open("rb", buffering=0) as file, out.open("rb") as there:
            os.fsync(there.fileno())
            with subprocess.Popen(words, stdout=subprocess.PIPE) as child:
                assert child.stdout is not None
                child.stdout.readline()
                if turn % 2:
                    time.sleep(draw.random() * 0.2)
                else:
                    while child.poll() is None and first_block(file.fileno()) == old[:BLOCK]:
                        pass
                    time.sleep(draw.random() ** 3 * 0.01)  # short ones above all
                child.kill()
        world.assert_whole()
        found = state_of(out, old)
        seen.add(found)
        if found == "none":
            assert thin_tools.check(out) != 0
    assert {"old", "none"} <= seen, seen
    # The same once more makes it whole, whatever is there.
    subprocess.run(words, stdout=subprocess.DEVNULL, check=True)
    world.assert_whole()
    world.assert_made(tool, out)
    AllChecks(thin_tools)(out)
    assert [*(tmp_path / "state").glob("*")] == []
