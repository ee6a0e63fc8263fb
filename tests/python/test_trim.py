"""trim: what is free is given up, and nothing else is touched."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import small_pools
import thinmeta
from command import ThinmetaCommand, as_json, fails
from corpus import THIN, Corpus, write_sparse
from damages import damage
from dropins import DropIns
from histories import History
from loops import loop_device
from model import DeviceModel, PoolModel
from ondisk import BLOCK, Node, kind_of, patched, read_u64, seal
from oracles import NewerTools, missing, newer_tools
from small_pools import BLOCK_BYTES, block_of

#: How many times the usual number of cases.
MORE = int(os.environ.get("THINMETA_TRIM_CASES", "1"))
SEED = int(os.environ.get("THINMETA_TRIM_SEED", "1"))
#: Where block 0 has the flags, and the root of the data map's index.
FLAGS, DATA_INDEX = 4, 64 + 16


IMAGES = ["metadata-snap", "snap-chain", "deleted", "discards"]


@pytest.fixture(scope="module")
def newer() -> NewerTools:
    found = newer_tools()
    if found is None:
        missing("the newer tools are not there: make peers")
    return found


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A folder for large files; on a disk each of them takes a minute."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="thinmeta-", dir=place) as folder:
        yield Path(folder)


def content(path: Path, block_bytes: int = BLOCK_BYTES) -> set[int]:
    """Blocks of a file that are no holes."""
    found: set[int] = set()
    with path.open("rb") as file:
        end, at = os.fstat(file.fileno()).st_size, 0
        while at < end:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            hole = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            found.update(range(at // block_bytes, -(-hole // block_bytes)))
            at = hole
    return found


def mark(path: Path, blocks: int, block_bytes: int) -> None:
    """A data file in which every block has something of its own."""
    with path.open("wb") as file:
        file.truncate(blocks * block_bytes)
        for block in range(blocks):
            os.pwrite(file.fileno(), b"%08d" % block * 512, block * block_bytes)


def assert_marked(path: Path, blocks: Iterable[int], block_bytes: int) -> None:
    with path.open("rb") as file:
        for block in blocks:
            assert os.pread(file.fileno(), 4096, block * block_bytes) == b"%08d" % block * 512


def ranges_of(blocks: set[int]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for block in sorted(blocks):
        if ranges and ranges[-1][1] == block:
            ranges[-1] = (ranges[-1][0], block + 1)
        else:
            ranges.append((block, block + 1))
    return ranges


def assert_trimmed(done: thinmeta.Trimmed, blocks: int, used: set[int]) -> None:
    free = set(range(blocks)) - used
    assert (done.data_blocks, done.used_blocks, done.leaked_blocks) == (blocks, len(used), 0)
    assert done.discarded_blocks == len(free)
    assert done.discarded_bytes == len(free) * done.block_bytes
    listed = [(each.begin_block, each.end_block) for each in done.ranges]
    assert listed == ranges_of(free)[:64]
    assert done.ranges_total == len(ranges_of(free))


@pytest.mark.parametrize("seed", range(SEED, SEED + 8 * MORE))
def test_random_pools_keep_what_is_mapped(tmp_path: Path, seed: int) -> None:
    pool = small_pools.random_pool(seed + 4000)
    meta, data = tmp_path / "meta", tmp_path / "data"
    small_pools.make(pool, meta)
    small_pools.make_data(pool, data)
    used, before = small_pools.used_blocks(pool), meta.read_bytes()
    would = thinmeta.trim(meta, data, dry_run=True)
    assert would.dry_run and content(data) == set(range(pool.nr_data_blocks))
    done = thinmeta.trim(meta, data)
    assert_trimmed(done, pool.nr_data_blocks, used)
    assert (done.ranges, done.discarded_bytes) == (would.ranges, would.discarded_bytes)
    assert content(data) == used
    assert os.stat(data).st_size == pool.nr_data_blocks * BLOCK_BYTES
    # Some file systems keep a block or two of their own for a file of many pieces.
    assert os.stat(data).st_blocks * 512 <= len(used) * BLOCK_BYTES + 65536
    for block in used:
        assert block_of(data, block) == small_pools.content(block)
    assert meta.read_bytes() == before


@pytest.mark.parametrize("seed", range(SEED, SEED + 6 * MORE))
def test_histories_with_metadata_snapshots(tmp_path: Path, seed: int) -> None:
    """What only the metadata snapshot has is kept as well."""
    meta, data = tmp_path / "meta", tmp_path / "data"
    history = History(meta, seed)
    blocks = 0
    for _ in range(20):
        history.step()
        if history.held is not None and history.random.random() < 0.3:
            break
    history.close()
    model, blocks = history.model, history.model.nr_data_blocks
    used = small_pools.used_blocks(model)
    if history.held is not None:
        used |= small_pools.used_blocks(history.held)
    if blocks > 20_000:
        # The rest is a hole, and takes no time.
        with data.open("wb") as file:
            file.truncate(blocks * model.block_bytes)
        assert_trimmed(thinmeta.trim(meta, data), blocks, used)
        return
    mark(data, blocks, model.block_bytes)
    assert_trimmed(thinmeta.trim(meta, data), blocks, used)
    assert content(data, model.block_bytes) == used
    assert_marked(data, used, model.block_bytes)


def test_volumes_read_the_same(tmp_path: Path) -> None:
    meta, data = tmp_path / "meta", tmp_path / "data"
    data.touch()
    os.truncate(data, 400 * BLOCK_BYTES)
    draw = random.Random(4)
    with thinmeta.Pool.create(
        meta, data_block_size_sectors=128, data_blocks=400, metadata_blocks=256, data=data
    ) as pool:
        with pool.transaction() as txn:
            txn.create_thin(1)
            txn.create_thin(2)
        for device in (1, 2):
            with pool.devices[device].open(mode="r+", size_bytes=100 * BLOCK_BYTES) as volume:
                volume.write(draw.randbytes(100 * BLOCK_BYTES))
        with pool.transaction() as txn:
            txn.create_snapshot(3, origin_id=1)
        with pool.devices[1].open(mode="r+") as volume:
            volume.seek(7 * BLOCK_BYTES + 5)
            volume.write(draw.randbytes(20 * BLOCK_BYTES))
        with pool.transaction() as txn:
            txn.remove_range(3, 50, 80)
            txn.delete(2)

    def reads() -> dict[int, bytes]:
        with thinmeta.open_pool(meta, data=data) as pool:
            found = {}
            for device in pool.devices.values():
                with device.open(size_bytes=100 * BLOCK_BYTES) as volume:
                    found[device.id] = volume.read()
            return found

    before, taken = reads(), os.stat(data).st_blocks
    done = thinmeta.trim(meta, data)
    assert reads() == before
    assert done.discarded_blocks >= 100
    assert taken - os.stat(data).st_blocks >= 100 * BLOCK_BYTES // 512


@pytest.mark.parametrize("name", IMAGES if MORE > 1 else IMAGES[:2])
def test_the_peer_frees_the_same_ranges(
    newer: NewerTools, drop_in: DropIns, corpus: Corpus, in_memory: Path, name: str
) -> None:
    meta, data = corpus[name].meta, in_memory / "data"
    with thinmeta.open_pool(meta) as pool:
        blocks, block_bytes = pool.data_space.blocks, pool.superblock.data_block_size_bytes
    left = []
    for tool in ("ours", "theirs"):
        mark(data, blocks, block_bytes)
        with loop_device(data) as device:
            words: list[str | Path] = ["--metadata-dev", meta, "--data-dev", device]
            if tool == "ours":
                ran = drop_in("thin_trim", *words)
                assert (ran.status, ran.out, ran.err) == (0, b"", "")
            else:
                newer.run("thin_trim", *words).check_returncode()
        left.append(content(data, block_bytes))
        assert_marked(data, left[-1], block_bytes)
    assert left[0] == left[1]
    model = corpus[name].model
    assert left[0] >= small_pools.used_blocks(model)


@pytest.mark.parametrize("seed", range(SEED, SEED + 2 * MORE))
def test_the_peer_frees_the_same_of_random_pools(
    newer: NewerTools, tmp_path: Path, seed: int
) -> None:
    pool = small_pools.random_pool(seed + 5000)
    meta, data = tmp_path / "meta", tmp_path / "data"
    small_pools.make(pool, meta)
    left = []
    for tool in ("ours", "theirs"):
        small_pools.make_data(pool, data)
        with loop_device(data) as device:
            if tool == "ours":
                thinmeta.trim(meta, device)
            else:
                words: list[str | Path] = ["--metadata-dev", meta, "--data-dev", device]
                newer.run("thin_trim", *words).check_returncode()
        left.append(content(data))
    assert left[0] == left[1] == small_pools.used_blocks(pool)


STATUSES = THIN if MORE > 1 else ["needs-check", "metadata-full"]


@pytest.mark.parametrize("damaged", [False, True], ids=["sound", "damaged"])
@pytest.mark.parametrize("name", STATUSES)
def test_the_drop_in_ends_as_the_peer_does(
    newer: NewerTools, drop_in: DropIns, corpus: Corpus, tmp_path: Path, name: str, damaged: bool
) -> None:
    meta, data = tmp_path / "meta", tmp_path / "data"
    image = corpus[name].meta.read_bytes()
    # One has a leak, which ours minds only where it stands in for the peer.
    fails = damaged or name == "metadata-full"
    if damaged:
        at = next(
            at
            for at in range(len(image) // BLOCK - 1, 0, -1)
            if kind_of(image[at * BLOCK :][:BLOCK]) == "btree node" and read_u64(image, 320) == at
        )
        image = patched(image, at * BLOCK + 60, b"\x99")
    write_sparse(meta, image)
    with thinmeta.open_pool(corpus[name].meta) as pool:
        size = pool.data_space.blocks * pool.superblock.data_block_size_bytes
    data.touch()
    os.truncate(data, size)
    with loop_device(data) as device:
        words: list[str | Path] = ["--metadata-dev", meta, "--data-dev", device]
        theirs = newer.run("thin_trim", *words).returncode
        assert (drop_in("thin_trim -q", *words).status, theirs != 0) == (theirs != 0, fails)
        short: list[str | Path] = ["--metadata-dev", meta, "--data-dev", data.with_name("short")]
    data.with_name("short").touch()
    assert drop_in("thin_trim", *short).status == 1


# ---- what is refused ----


class Place:
    """A pool with data, of which nothing may change."""

    def __init__(self, folder: Path) -> None:
        self.pool = small_pools.random_pool(77)
        self.meta, self.data = folder / "meta", folder / "data"
        small_pools.make(self.pool, self.meta)
        small_pools.make_data(self.pool, self.data)
        self.before = self.data.read_bytes()

    def refuses(self, error: type[Exception], says: str, **options: Any) -> Any:
        with pytest.raises(error, match=says) as caught:
            thinmeta.trim(self.meta, self.data, **options)
        assert self.data.read_bytes() == self.before
        assert content(self.data) == set(range(self.pool.nr_data_blocks))
        return caught.value

    def spoil(self, block: int, offset: int, value: bytes) -> None:
        """Write into a block, under a checksum that is right again."""
        image = bytearray(self.meta.read_bytes())
        old = bytes(image[block * BLOCK : (block + 1) * BLOCK])
        kind = kind_of(old)
        assert kind is not None
        image[block * BLOCK : (block + 1) * BLOCK] = seal(patched(old, offset, value), kind)
        self.meta.write_bytes(image)

    def bitmap(self) -> int:
        """Where the first bitmap of the data is."""
        image = self.meta.read_bytes()
        root = read_u64(image, DATA_INDEX) * BLOCK
        return read_u64(image, root + Node.of(image[root : root + BLOCK]).value_at(0))


@pytest.fixture
def here(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_pool_that_has_to_be_checked_is_refused(here: Place) -> None:
    here.spoil(0, FLAGS, (1).to_bytes(4, "little"))
    here.refuses(thinmeta.ReadOnlyError, "--clear-needs-check")
    here.refuses(thinmeta.ReadOnlyError, "needs_check", dry_run=True)
    assert "needs-check" in {finding.code for finding in thinmeta.check(here.meta).findings}


def test_a_damaged_node_is_refused(here: Place) -> None:
    image = here.meta.read_bytes()
    root = read_u64(image, 320)
    here.meta.write_bytes(patched(image, root * BLOCK + 50, b"\xff"))
    error = here.refuses(thinmeta.UnsoundPoolError, "thinmeta repair")
    assert error.code == thinmeta.check(here.meta).findings[0].code
    assert error.path == str(here.meta)


def test_a_block_that_the_space_map_has_free_and_a_volume_maps_is_refused(here: Place) -> None:
    used = min(small_pools.used_blocks(here.pool))
    at = 16 + used // 4
    old = here.meta.read_bytes()[here.bitmap() * BLOCK + at]
    here.spoil(here.bitmap(), at, bytes([old & ~(3 << used % 4 * 2)]))
    assert here.refuses(thinmeta.UnsoundPoolError, "not sound").code == "data-count-low"


def test_a_block_that_only_the_space_map_has_in_use_is_left_alone(here: Place) -> None:
    used = small_pools.used_blocks(here.pool)
    leak = max(set(range(here.pool.nr_data_blocks)) - used)
    at = 16 + leak // 4
    old = here.meta.read_bytes()[here.bitmap() * BLOCK + at]
    # The lower bit is the more significant.
    here.spoil(here.bitmap(), at, bytes([old | 2 << leak % 4 * 2]))
    done = thinmeta.trim(here.meta, here.data)
    assert (done.leaked_blocks, done.used_blocks) == (1, len(used))
    assert content(here.data) == used | {leak}
    thinmeta.auto_repair(here.meta)
    assert thinmeta.trim(here.meta, here.data).leaked_blocks == 0
    assert content(here.data) == used


def test_what_is_in_use_is_refused(here: Place) -> None:
    with loop_device(here.data):
        here.refuses(thinmeta.DeviceInUseError, "backs /dev/loop")
    with loop_device(here.meta):
        here.refuses(thinmeta.DeviceInUseError, "backs /dev/loop")
    with thinmeta.open_pool(here.meta, mode="r+"):
        here.refuses(thinmeta.DeviceInUseError, "in use|locked")
    with thinmeta.open_pool(here.meta, data=here.data):
        here.refuses(thinmeta.DeviceInUseError, "open already")


def test_the_wrong_data_are_refused(here: Place, tmp_path: Path) -> None:
    with pytest.raises(thinmeta.UsageError, match="not the data"):
        thinmeta.trim(here.meta, here.meta)
    with pytest.raises(thinmeta.UsageError, match="data are needed"):
        thinmeta.trim(here.meta, None)
    os.truncate(here.data, os.stat(here.data).st_size - 1)
    here.before = here.data.read_bytes()
    here.refuses(thinmeta.UsageError, "not the data of")
    here.refuses(thinmeta.UsageError, "not the data of", dry_run=True)
    with pytest.raises(FileNotFoundError):
        thinmeta.trim(here.meta, tmp_path / "none")
    with pytest.raises(thinmeta.UnsupportedFormatError):
        thinmeta.trim(here.data, here.meta)


def test_what_lies_past_the_end_of_the_pool_is_left_alone(here: Place) -> None:
    with here.data.open("ab") as file:
        file.write(b"more" * 50_000)
    thinmeta.trim(here.meta, here.data)
    assert here.data.read_bytes().endswith(b"more" * 50_000)


def test_a_device_without_writing_is_refused(here: Place) -> None:
    with (
        loop_device(here.data, read_only=True) as device,
        pytest.raises(thinmeta.ReadOnlyError, match="read-only device"),
    ):
        thinmeta.trim(here.meta, device)
    assert here.data.read_bytes() == here.before


@pytest.mark.parametrize("seed", range(SEED, SEED + 10 * MORE))
def test_damaged_metadata_give_up_nothing_that_is_mapped(
    corpus: Corpus, tmp_path: Path, seed: int
) -> None:
    """Either it is refused, or what is given up is what the metadata have free."""
    draw = random.Random(f"trim {seed}")
    name = draw.choice(("crashed", "kernel-6.12", "restored-0.9.0", "snap-chain"))
    meta, data = tmp_path / "meta", tmp_path / "data"
    image, what = damage(draw, corpus[name].meta.read_bytes(), [])
    write_sparse(meta, image)
    try:
        done = thinmeta.trim(meta, None, dry_run=True)
    except (thinmeta.ThinmetaError, OSError):
        data.touch()
        os.truncate(data, 1 << 32)
        with pytest.raises((thinmeta.ThinmetaError, OSError)):
            thinmeta.trim(meta, data)
        return
    listing = tmp_path / "listing"
    thinmeta.dump(meta, listing)
    model = PoolModel.from_xml(listing.read_bytes())
    used = small_pools.used_blocks(model)
    assert done.used_blocks >= len(used), what
    for each in done.ranges:
        assert used.isdisjoint(range(each.begin_block, each.end_block)), what


# ---- stopped and killed ----


def in_crumbs(folder: Path, ranges: int = 12_000) -> tuple[PoolModel, Path, Path]:
    """A pool that has every other block in use; the data are not there yet."""
    pool = PoolModel(nr_data_blocks=2 * ranges)
    device = DeviceModel(1)
    for virtual in range(ranges):
        device.mappings[virtual] = (2 * virtual, 0)
    device.mapped_blocks = len(device.mappings)
    pool.devices[1] = device
    meta, data = folder / "meta", folder / "data"
    small_pools.make(pool, meta)
    return pool, meta, data


def test_whoever_is_stopped_or_killed_has_done_less_and_no_harm(in_memory: Path) -> None:
    pool, meta, data = in_crumbs(in_memory)
    mark(data, pool.nr_data_blocks, BLOCK_BYTES)
    work = (
        "import sys, thinmeta\n"
        "print('begins', flush=True)\n"
        "thinmeta.trim(sys.argv[1], sys.argv[2])\n"
    )
    all_of_it, used = os.stat(data).st_blocks, small_pools.used_blocks(pool)
    for number in (signal.SIGKILL, signal.SIGINT):
        before = os.stat(data).st_blocks
        with subprocess.Popen(
            [sys.executable, "-c", work, meta, data],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            until = time.monotonic() + 60
            while os.stat(data).st_blocks == before and process.poll() is None:
                assert time.monotonic() < until
            process.send_signal(number)
        assert process.returncode in (-number, 0)
        assert_marked(data, used, BLOCK_BYTES)
    assert os.stat(data).st_blocks < all_of_it

    done = thinmeta.trim(meta, data)
    assert done.ranges_total == 12_000 and len(done.ranges) == 64
    assert content(data) == used
    assert_marked(data, used, BLOCK_BYTES)


def test_progress_can_stop_it(in_memory: Path) -> None:
    class Enough(Exception):
        pass

    def stop(_done: int, _total: int) -> None:
        raise Enough

    # It is asked twenty times a second, and so many ranges take longer than that.
    pool, meta, data = in_crumbs(in_memory, 200_000)
    with data.open("wb") as file:
        file.truncate(pool.nr_data_blocks * BLOCK_BYTES)
    with pytest.raises(Enough):
        thinmeta.trim(meta, data, progress=stop)
    assert thinmeta.trim(meta, data).ranges_total == 200_000


# ---- the command ----


def test_the_command_says_how_much(command: ThinmetaCommand, here: Place, tmp_path: Path) -> None:
    used = len(small_pools.used_blocks(here.pool))
    free = here.pool.nr_data_blocks - used
    would = as_json(command("trim", "--dry-run", "--json", here.meta))
    assert would["discarded_bytes"] == free * BLOCK_BYTES
    assert (would["data"], would["dry_run"]) == (None, True)
    ran = command("trim", "-n", here.meta, "--data", here.data)
    assert ran.stdout.startswith("to give up: ")
    assert here.data.read_bytes() == here.before
    ran = command("trim", here.meta, "--data", here.data)
    assert ran.stdout.startswith("given up: ") and f"in use: {used} of " in ran.stdout
    done = as_json(command("trim", "--json", here.meta, "--data", here.data))
    assert done["discarded_bytes"] == would["discarded_bytes"]
    assert done["ranges"] == would["ranges"]
    fails(command("trim", here.meta), 2, "--data is missing")
    fails(command("trim", "-m", here.meta, "--data", here.data), 2, "a pool in use")
    here.spoil(0, FLAGS, (1).to_bytes(4, "little"))
    fails(command("trim", here.meta, "--data", here.data), 3, "needs_check")


def test_forms_of_thin_trim(drop_in: DropIns, here: Place) -> None:
    words = ["--metadata-dev", here.meta, f"--data-dev={here.data}"]
    assert drop_in("thin_trim -V").out == b"1.1.0\n"
    assert b"--data-dev" in drop_in("thin_trim --help").out
    for line, says in (
        (["--metadata-dev", here.meta], "--data-dev is missing"),
        (["--data-dev", here.data], "--metadata-dev is missing"),
        ([*words, "word"], "one word too many"),
    ):
        ran = drop_in("thin_trim", *line)
        assert (ran.status, ran.out) == (1, b"") and says in ran.err
        assert drop_in("thin_trim", *line, compat="1.x").status == 2
    # What 1.1.0 takes as well, though its owner asks for a check.
    here.spoil(0, FLAGS, (1).to_bytes(4, "little"))
    assert drop_in("thin_trim -q", *words) == (0, b"", "")
    assert content(here.data) == small_pools.used_blocks(here.pool)
