"""shrink: blocks move below the new end, and everything reads as it did."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import small_pools
import thinmeta
from checks import AllChecks
from command import ThinmetaCommand, as_json, fails
from guides import run_console, unpack_example
from model import DeviceModel, PoolModel
from oracles import ThinTools
from small_pools import BLOCK_BYTES, block_of
from test_docs import DOCS
from thinmeta import _core, shrinking
from thinmeta.shrink_journal import ShrinkJournal

POOLS = int(os.environ.get("THINMETA_MOVES_POOLS", "20"))
SEED = int(os.environ.get("THINMETA_MOVES_SEED", "1"))
KILLS = int(os.environ.get("THINMETA_MOVES_KILLS", "2"))


@pytest.fixture
def tmp_path(memory_path: Path) -> Path:
    """Nothing here is about a disk, and each of many outputs is flushed."""
    return memory_path


class Place:
    """A pool with data, and where the new metadata go."""

    def __init__(self, folder: Path, pool: PoolModel) -> None:
        self.pool = pool
        self.meta, self.data, self.out = (folder / name for name in ("meta", "data", "new"))
        self.journal = folder / "new.shrink"
        small_pools.make(pool, self.meta)
        small_pools.make_data(pool, self.data)
        self.meta_bytes = self.meta.read_bytes()
        self.used = small_pools.used_blocks(pool)

    def shrink(self, data_blocks: int, **options: Any) -> thinmeta.Shrunk:
        return thinmeta.shrink(self.meta, self.data, self.out, data_blocks=data_blocks, **options)

    def assert_input_whole(self) -> None:
        """The pool is what it was: its metadata, and every block that it uses."""
        assert self.meta.read_bytes() == self.meta_bytes
        for block in self.used:
            assert block_of(self.data, block) == small_pools.content(block), block

    def assert_shrunk(self, data_blocks: int, moved: int, changed: dict[int, bytes]) -> None:
        """The new pool has all that the old one has, on so many blocks.

        Args:
            data_blocks: How many.
            moved: How many of them are somewhere else.
            changed: Content of blocks that is not what they had at first.
        """
        assert not self.journal.exists()
        new = small_pools.read(self.out)
        old = self.pool
        assert (new.nr_data_blocks, new.time, new.transaction_id) == (
            data_blocks,
            old.time,
            old.transaction_id,
        )
        assert list(new.devices) == list(old.devices)
        places: dict[int, int] = {}
        for device_id, device in old.devices.items():
            other = new.devices[device_id]
            details = ("transaction_id", "creation_time", "snapshotted_time", "mapped_blocks")
            for name in details:
                assert getattr(other, name) == getattr(device, name)
            assert other.mappings.keys() == device.mappings.keys()
            for virtual, (block, at) in device.mappings.items():
                place, new_time = other.mappings[virtual]
                assert new_time == at
                assert places.setdefault(block, place) == place, "shared, and not any more"
        assert len(set(places.values())) == len(places), "two blocks in one place"
        assert {block for block, place in places.items() if block != place} == {
            block for block in self.used if block >= data_blocks
        }
        assert sum(block != place for block, place in places.items()) == moved
        for block, place in places.items():
            assert place < data_blocks
            expected = changed.get(block, small_pools.content(block))
            assert block_of(self.data, place) == expected, (block, place)


def place(folder: Path, seed: int) -> tuple[Place, int]:
    """A random pool with something in it, and an end to shrink it to."""
    draw = random.Random(seed)
    while True:
        pool = small_pools.random_pool(draw.randrange(1 << 60))
        used = small_pools.used_blocks(pool)
        if used and len(used) < pool.nr_data_blocks:
            break
    end = draw.choice((len(used), draw.randint(len(used), pool.nr_data_blocks)))
    return Place(folder, pool), end


def busy_place(folder: Path, moved: int) -> tuple[Place, int]:
    """A pool of which so many blocks, in two devices and in pieces, have to move."""
    pool = PoolModel(nr_data_blocks=3 * moved + 10)
    draw = random.Random(moved)
    one, other = (DeviceModel(each, snapshotted_time=1, creation_time=each) for each in (0, 1))
    pool.time = 1
    above = range(moved + 10, pool.nr_data_blocks)
    for virtual, block in enumerate(draw.sample(above, moved)):
        one.mappings[virtual] = (block, 0)
        if draw.random() < 0.7:
            other.mappings[virtual] = (block, 0)
    for device in (one, other):
        device.mapped_blocks = len(device.mappings)
        pool.devices[device.id] = device
    return Place(folder, pool), moved + 5


@pytest.mark.parametrize("seed", range(SEED, SEED + POOLS))
def test_random_pools_read_the_same_on_fewer_blocks(
    thin_tools: ThinTools, tmp_path: Path, seed: int
) -> None:
    here, end = place(tmp_path, seed)
    above = [block for block in here.used if block >= end]
    plan = thinmeta.plan_shrink(here.meta, data_blocks=end)
    assert not here.out.exists()
    assert plan == shrinking.ShrinkPlan(
        block_bytes=BLOCK_BYTES,
        data_blocks=here.pool.nr_data_blocks,
        used_blocks=len(here.used),
        highest_used_block=max(here.used),
        new_data_blocks=end,
        moved_blocks=len(above),
        moves=plan.moves,
    )
    assert plan.smallest_data_blocks == len(here.used)
    assert min(len(above), 1) <= plan.moves <= len(above)
    done = here.shrink(end)
    assert done.plan == plan
    assert (done.resumed_blocks, done.pool.data_blocks_used) == (0, len(here.used))
    here.assert_input_whole()
    here.assert_shrunk(end, len(above), {})
    AllChecks(thin_tools)(here.out, newer=POOLS > 20 or seed % 10 == 0)
    # It is a pool like any other: a device can be written, and is read so.
    with here.data.open("r+b") as data:
        data.truncate(end * BLOCK_BYTES)
    device_id, device = next(iter(here.pool.devices.items()))
    with thinmeta.open_pool(here.out, data=here.data) as pool:
        found = pool.devices[device_id].open(size_bytes=small_pools.VOLUME_BYTES)
        with found as volume:
            for virtual, (block, _) in device.mappings.items():
                volume.seek(virtual * BLOCK_BYTES)
                assert volume.read(BLOCK_BYTES) == small_pools.content(block)


def test_shrinking_without_moving_takes_no_data(tmp_path: Path) -> None:
    here, _ = place(tmp_path, 5)
    end = max(here.used) + 1
    before = here.data.read_bytes()
    done = here.shrink(end)
    assert (done.plan.moved_blocks, done.plan.moves) == (0, 0)
    assert here.data.read_bytes() == before
    here.assert_shrunk(end, 0, {})


def test_metadata_alone(tmp_path: Path) -> None:
    here, end = busy_place(tmp_path, 10)
    before = here.data.read_bytes()
    done = thinmeta.shrink(here.meta, None, here.out, data_blocks=end, copy=False)
    assert done.plan.moved_blocks == 10
    assert here.data.read_bytes() == before
    assert small_pools.read(here.out).nr_data_blocks == end


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shrinking, "BATCH_BYTES", 4 * BLOCK_BYTES)


def noted(here: Place, end: int, blocks: int) -> None:
    """What a run leaves that was cut off when so many blocks were copied."""
    planned = _core.Shrink(str(here.meta), data_blocks=end)
    planned.open_data(str(here.data))
    planned.copy(0, blocks)
    journal = ShrinkJournal(str(here.out), planned.digest())
    journal.note(blocks)
    planned.close()


@pytest.mark.usefixtures("small_batches")
def test_the_same_call_goes_on_with_what_was_begun(tmp_path: Path) -> None:
    here, end = busy_place(tmp_path, 20)
    noted(here, end, 12)
    assert here.journal.exists()
    here.assert_input_whole()
    done = here.shrink(end)
    assert done.resumed_blocks == 12
    here.assert_input_whole()
    here.assert_shrunk(end, 20, {})


@pytest.mark.usefixtures("small_batches")
def test_a_block_that_was_written_in_its_place_meanwhile_is_copied_again(tmp_path: Path) -> None:
    """Metadata do not tell of it: the kernel changes none when it writes in place."""
    here, end = busy_place(tmp_path, 20)
    noted(here, end, 20)
    block = min(block for block in here.used if block >= end)
    new = b"\x11" * BLOCK_BYTES
    with here.data.open("r+b") as data:
        data.seek(block * BLOCK_BYTES)
        data.write(new)
    done = here.shrink(end)
    assert done.resumed_blocks == 16
    here.assert_shrunk(end, 20, {block: new})


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("kind", ["another end", "another state", "damaged", "too far"])
def test_notes_of_something_else_count_for_nothing(tmp_path: Path, kind: str) -> None:
    here, end = busy_place(tmp_path, 20)
    noted(here, end, 20)
    note = json.loads(here.journal.read_text())
    if kind == "another end":
        end += 1
    elif kind == "another state":
        with thinmeta.open_pool(here.meta, mode="r+") as pool, pool.transaction() as txn:
            txn.set_transaction_id(0, 7)
        here.pool.transaction_id = 7
    elif kind == "damaged":
        note["copied_blocks"] = 16
        here.journal.write_text(json.dumps(note))
    else:
        note["copied_blocks"] = -1
        here.journal.write_text(json.dumps(note))
    done = here.shrink(end)
    assert done.resumed_blocks == 0
    here.assert_shrunk(end, len([block for block in here.used if block >= end]), {})


def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path) -> None:
    here, end = busy_place(tmp_path, 5)
    for text in (b"mine", b"[" * 5000, b"{}", b"[1]"):
        here.journal.write_bytes(text)
        data = here.data.read_bytes()
        with pytest.raises(thinmeta.UsageError, match="in the way"):
            here.shrink(end)
        assert here.journal.read_bytes() == text
        assert here.data.read_bytes() == data
        assert not here.out.exists()


KILLED = """
import sys, thinmeta
from thinmeta import _core, shrinking
from thinmeta.shrink_journal import ShrinkJournal
shrinking.BATCH_BYTES = 65536
meta, data, out, end = sys.argv[1:]
print("begun", flush=True)
done = thinmeta.shrink(meta, data, out, data_blocks=int(end))
print("resumed", done.resumed_blocks, flush=True)
"""


def test_whoever_is_killed_leaves_the_pool_whole_and_goes_on(
    thin_tools: ThinTools, tmp_path: Path
) -> None:
    draw = random.Random(SEED)
    resumed = cut = 0
    for number in range(KILLS):
        folder = tmp_path / str(number)
        folder.mkdir()
        here, end = busy_place(folder, 150)
        words = [sys.executable, "-c", KILLED]
        words += [*map(str, (here.meta, here.data, here.out)), str(end)]
        for _ in range(3):
            child = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
            assert child.stdout is not None
            assert child.stdout.readline() == "begun\n"
            time.sleep(draw.random() * 0.3)
            child.send_signal(signal.SIGKILL)
            child.communicate()
            cut += child.returncode != 0
            here.assert_input_whole()
            if here.out.exists():
                # Whole, or not there: it may be that only the journal is left.
                assert thinmeta.check(here.out).is_clean
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        resumed += int(done.stdout.split()[-1])
        here.assert_input_whole()
        here.assert_shrunk(end, 150, {})
        AllChecks(thin_tools)(here.out, newer=False)
        # What a killed run was writing has another name, and stays.
        names = {path.name for path in folder.iterdir() if not path.name.startswith(".new.")}
        assert names == {"meta", "data", "new"}
    assert resumed and cut, "no run was cut off in its midst"


# ---- what is refused, before anything is written ----


def refused(here: Place, error: type[Exception], says: str, end: int, **options: Any) -> None:
    before = [path.read_bytes() for path in (here.meta, here.data)]
    out = here.out.read_bytes() if here.out.exists() else None
    with pytest.raises(error, match=says):
        here.shrink(end, **options)
    assert [path.read_bytes() for path in (here.meta, here.data)] == before
    assert (here.out.read_bytes() if here.out.exists() else None) == out
    assert not here.journal.exists()


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    here, _ = busy_place(tmp_path, 10)
    refused(here, thinmeta.NoSpaceError, "10 data blocks are in use", 9)
    for end in (0, here.pool.nr_data_blocks + 1):
        refused(here, thinmeta.UsageError, "cannot be shrunk", end)
    for wrong in (-1, 1 << 64):
        refused(here, thinmeta.UsageError, "no pool can have", wrong)
    with pytest.raises(thinmeta.NoSpaceError):
        thinmeta.plan_shrink(here.meta, data_blocks=9)
    here.out.write_bytes(bytes(3 * 4096))
    refused(here, thinmeta.NoSpaceError, "metadata", 20)
    refused(here, thinmeta.NoSpaceError, "metadata", 20, size_bytes=5 * 4096)


def test_places_that_are_wrong_are_refused(tmp_path: Path) -> None:
    here, end = busy_place(tmp_path, 10)
    data, out = here.data, here.out
    here.out = here.meta
    refused(here, thinmeta.UsageError, "is the input", end)
    here.out = here.data
    refused(here, thinmeta.UsageError, "is the input", end)
    here.out, here.data = out, here.meta
    refused(here, thinmeta.UsageError, "is the metadata", end)
    here.data = data
    with data.open("r+b") as file:
        file.truncate((max(here.used) + 1) * BLOCK_BYTES - 1)
    refused(here, thinmeta.UsageError, "it is not the data", end)
    with pytest.raises(FileNotFoundError):
        thinmeta.shrink(here.meta, tmp_path / "none", out, data_blocks=end)
    with pytest.raises(thinmeta.UsageError, match="data are needed"):
        thinmeta.shrink(here.meta, None, out, data_blocks=end)


def test_what_is_in_use_is_refused(tmp_path: Path) -> None:
    here, end = busy_place(tmp_path, 10)
    with thinmeta.open_pool(here.meta, mode="r+", data=here.data):
        refused(here, thinmeta.DeviceInUseError, "in use", end)
    other = tmp_path / "other"
    small_pools.make(here.pool, other)
    with thinmeta.open_pool(other, mode="r+", data=here.data):
        refused(here, thinmeta.DeviceInUseError, "data: in use", end)
    os.replace(other, here.out)
    with thinmeta.open_pool(here.out, mode="r+"):
        refused(here, thinmeta.DeviceInUseError, "new: in use", end)


def test_a_held_metadata_snapshot_and_a_check_that_is_due_are_heeded(
    tmp_path: Path, corpus: Any
) -> None:
    here, end = busy_place(tmp_path, 10)
    with thinmeta.open_pool(here.meta, mode="r+") as pool, pool.transaction() as txn:
        txn.reserve_metadata_snapshot()
    refused(here, thinmeta.MetadataSnapshotHeldError, "metadata snapshot", end)
    with pytest.raises(thinmeta.ReadOnlyError, match="needs_check"):
        thinmeta.plan_shrink(corpus["needs-check"].meta, data_blocks=1000)


def test_damage_is_refused(tmp_path: Path) -> None:
    here, end = busy_place(tmp_path, 10)
    raw = bytearray(here.meta_bytes)
    draw = random.Random(3)
    for _ in range(60):
        damaged = bytearray(raw)
        block = draw.randrange(1, 8)
        damaged[block * 4096 + draw.randrange(4096)] ^= 1 << draw.randrange(8)
        here.meta.write_bytes(damaged)
        before = here.data.read_bytes()
        try:
            here.shrink(end)
        except thinmeta.DamagedBlockError:
            assert here.data.read_bytes() == before
            assert not here.out.exists()
            continue
        # Space maps are made anew, and nobody asks the old ones.
        here.assert_shrunk(end, 10, {})
        here.out.unlink()
        small_pools.make_data(here.pool, here.data)


# ---- the command ----


def test_the_command_plans_and_shrinks(command: ThinmetaCommand, tmp_path: Path) -> None:
    here, end = busy_place(tmp_path, 10)
    plan = as_json(command("shrink", "--plan", "--json", here.meta))
    assert (plan["smallest_data_blocks"], plan["moved_blocks"]) == (10, 0)
    assert plan["highest_used_block"] == max(here.used)
    text = command("shrink", "--plan", "--data-blocks", end, here.meta).stdout
    assert "to copy:   10 blocks (640 KiB)" in text
    size = f"{end * 64 + 63}K"
    words = ("--data", here.data, "--data-blocks", size, "-o", here.out)
    made = as_json(command("shrink", here.meta, *words, "--json"))
    assert (made["new_data_blocks"], made["moved_bytes"]) == (end, 10 * BLOCK_BYTES)
    assert (made["resumed_blocks"], made["made"]["devices"]) == (0, 2)
    here.assert_shrunk(end, 10, {})


def test_the_command_says_what_is_missing(command: ThinmetaCommand, tmp_path: Path) -> None:
    here, end = busy_place(tmp_path, 5)
    rest = ("--data-blocks", end)
    fails(command("shrink", here.meta, *rest), 2, "say --plan or -o")
    fails(command("shrink", here.meta, *rest, "-o", here.out), 2, "--data DATA or --no-copy")
    fails(command("shrink", here.meta, "--data", here.data, "-o", here.out), 2, "--data-blocks")
    fails(command("shrink", "-m", here.meta, "--plan"), 2, "cannot be shrunk")
    fails(command("shrink", here.meta, "--plan", "--data-blocks", 1), 3, "5 data blocks")
    assert not here.out.exists()


def test_the_guide_shows_what_is_printed(command: ThinmetaCommand, tmp_path: Path) -> None:
    unpack_example(tmp_path)
    assert run_console(DOCS / "moving.md", command, tmp_path) == 7
