"""``thinmeta.live`` on pools that a real kernel has active, through the real dmsetup."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest

import thinmeta
from kernel import live
from kernel.blockdev import KernelLog
from kernel.disks import Disks
from kernel.live import BLOCK_BYTES
from kernel.world import pattern
from live_world import Child
from oracles import require
from thinmeta import (
    LivePool,
    LivePoolError,
    MetadataSnapshotHeldError,
    NoMetadataSnapshotError,
    NoSpaceError,
)
from thinmeta.live import MetadataSnapshot

BLOCKS = 32
SECTORS = BLOCKS * live.BLOCK_SECTORS


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require("dmsetup")
    monkeypatch.setenv("THINMETA_RUN_DIR", str(tmp_path / "run"))
    # There is no udev here: dmsetup makes the nodes itself.
    monkeypatch.setenv("DM_DISABLE_UDEV", "1")


class Both:
    """A pool as the tests know it, and as thinmeta does."""

    def __init__(self, kernel: live.LivePool) -> None:
        self.kernel = kernel
        self.ours = thinmeta.live_pool(kernel.device.name)

    def held_root(self) -> int | None:
        return self.kernel.status().held_root


@pytest.fixture
def both(disks: Disks) -> Iterator[Both]:
    """A pool with volume 0, all of it written, and its snapshot 1."""
    with disks.live_pool() as pool:
        pool.create_thin(0)
        pool.activate(0, blocks=BLOCKS).write(0, pattern("first", BLOCKS * BLOCK_BYTES))
        pool.create_snapshot(1, origin_id=0)
        yield Both(pool)


def name_of(pool: live.LivePool, device_id: int) -> str:
    return pool._volumes[device_id].name


@contextmanager
def writing(volume: live.LiveVolume) -> Iterator[list[int]]:
    """Blocks are written in order, over and over, and each of its round; value: how many were."""
    stop, written = Event(), [0]

    def write() -> None:
        while not stop.is_set():
            number = written[0]
            data = pattern(f"round {number // BLOCKS}", BLOCK_BYTES)
            volume.write(number % BLOCKS * BLOCK_BYTES, data)
            written[0] += 1

    writer = Thread(target=write)
    writer.start()
    try:
        yield written
    finally:
        stop.set()
        writer.join()


def reader(name: str, end: str) -> Child:
    return Child(f"""
import sys, thinmeta
snapshot = thinmeta.live_pool({name!r}).metadata_snapshot()
pool = snapshot.__enter__()
assert list(pool.devices)[:2] == [0, 1]
print("reading", flush=True)
sys.stdin.readline()
{end}
""")


def test_what_the_kernel_says_is_read(both: Both, disks: Disks) -> None:
    ours, kernel = both.ours, both.kernel
    status, said = ours.status(), kernel.status()
    assert status.transaction_id == said.transaction_id == 0
    assert status.used_metadata_blocks == said.used_metadata_blocks
    assert (status.used_data_blocks, status.total_data_blocks) == (BLOCKS, disks.data_blocks)
    assert (status.mode, status.held_root, status.failed) == ("rw", None, None)
    assert status.line.endswith(said.line.strip())
    assert (ours.metadata_path, ours.data_path) == (disks.metadata, disks.data)
    assert ours.path == kernel.device.path
    assert ours.features == live.FEATURES
    assert ours.target_version > (1, 14, 0)
    (volume,) = ours.volumes()
    assert (volume.device_id, volume.size_sectors, volume.mapped_sectors) == (0, SECTORS, SECTORS)
    assert (volume.read_only, volume.suspended) == (False, False)
    for word in (kernel.device.path, f"/dev/mapper/{kernel.device.name}"):
        assert thinmeta.live_pool(word).name == ours.name


def test_a_pool_is_read_while_a_writer_goes_on(both: Both) -> None:
    with writing(both.kernel.activate(0, blocks=BLOCKS)) as written:
        for _ in range(4):
            before = written[0]
            with both.ours.metadata_snapshot() as pool:
                runs = list(pool.devices[1].runs())
                assert thinmeta.check(pool).is_clean
                with pool.devices[1].open() as volume:  # it stands still
                    assert volume.read() == pattern("first", BLOCKS * BLOCK_BYTES)
                assert list(pool.devices[1].runs()) == runs
            assert written[0] > before
    assert both.held_root() is None


def test_a_snapshot_shows_one_moment(both: Both) -> None:
    """The blocks are written in order: what comes after the last new one is all old."""
    kernel, ours = both.kernel, both.ours
    volume = kernel.activate(0, blocks=BLOCKS)
    with writing(volume) as written:
        for device_id in range(10, 14):
            before = written[0]
            ours.create_snapshot(device_id, origin_id=0, suspend=name_of(kernel, 0))
            after = written[0]
            active = ours.activate(device_id, name=f"look-{device_id}", size_sectors=SECTORS)
            assert stat.S_ISBLK(os.stat(active.path).st_mode)
            assert active.read_only
            content = read_all(active.path, BLOCKS * BLOCK_BYTES)
            ours.deactivate(active.name)
            # The one that was on its way may be in it.
            assert before <= moment(content, written[0]) <= after + 1
    with ours.metadata_snapshot() as pool:
        assert list(pool.devices) == [0, 1, 10, 11, 12, 13]
    assert not ours.volumes()[0].suspended


def moment(content: bytes, most: int) -> int:
    """How many blocks had been written when a volume was as it is here: one after the other."""
    tags = {pattern("first", 32): -1}
    tags |= {pattern(f"round {number}", 32): number for number in range(most // BLOCKS + 1)}
    rounds = []
    for at in range(0, len(content), BLOCK_BYTES):
        block = content[at : at + BLOCK_BYTES]
        assert block == block[:32] * (BLOCK_BYTES // 32)
        rounds.append(tags[block[:32]])
    new = rounds.count(rounds[0])
    assert rounds == [rounds[0]] * new + [rounds[0] - 1] * (BLOCKS - new)
    return rounds[0] * BLOCKS + new


def read_all(path: str, length: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return b"".join(
            os.pread(descriptor, BLOCK_BYTES, at) for at in range(0, length, BLOCK_BYTES)
        )
    finally:
        os.close(descriptor)


def test_a_temporary_snapshot_is_read_and_removed(both: Both) -> None:
    ours = both.ours
    with ours.temporary_snapshot(name_of(both.kernel, 0)) as volume:
        both.kernel.activate(0, blocks=BLOCKS).write(0, pattern("later", BLOCK_BYTES))
        content = read_all(volume.path, BLOCKS * BLOCK_BYTES)
        assert content == pattern("first", BLOCKS * BLOCK_BYTES)
        with ours.metadata_snapshot(fresh=True) as pool:
            assert pool.devices[volume.device_id].mapped_blocks == BLOCKS
            assert pool.delta(volume.device_id, 0).changed_bytes == BLOCK_BYTES
    assert [each.device_id for each in ours.volumes()] == [0]
    with ours.metadata_snapshot() as pool:
        assert list(pool.devices) == [0, 1]


def test_messages_of_the_kernel_s_are_typed_errors(both: Both, kernel_log: KernelLog) -> None:
    ours = both.ours
    ours.create_thin(7)
    ours.set_transaction_id(0, 3)
    with pytest.raises(thinmeta.DeviceExistsError):
        ours.create_thin(7)
    with pytest.raises(thinmeta.NoSuchDeviceError):
        ours.create_snapshot(9, origin_id=99)
    with pytest.raises(thinmeta.NoSuchDeviceError):
        ours.delete(99)
    with pytest.raises(thinmeta.DeviceInUseError):
        ours.delete(0)
    with pytest.raises(thinmeta.StaleTransactionError):
        ours.set_transaction_id(0, 4)
    with pytest.raises(thinmeta.NoSuchDeviceError):
        ours.activate(99, name="look", size_sectors=SECTORS)
    ours.delete(7)
    assert ours.status().transaction_id == 3
    assert [each.device_id for each in ours.volumes()] == [0]
    kernel_log.complaints()  # about each of them


def test_it_is_released_at_exit_and_after_a_kill_and_shared(both: Both) -> None:
    name = both.ours.name
    with reader(name, "sys.exit(5)") as first:
        first.hear("reading")
        held = both.held_root()
        assert held is not None
        with reader(name, "") as second:
            second.hear("reading")
            assert both.held_root() == held
            first.say()
            assert first.end() == (5, "")
            assert both.held_root() == held
            with both.ours.metadata_snapshot() as pool:
                assert list(pool.devices) == [0, 1]
            assert both.held_root() == held
            second.kill()
    assert both.held_root() == held  # nobody was left to release it
    both.kernel.create_thin(2)
    snapshot = both.ours.metadata_snapshot()
    with snapshot as pool:
        assert not snapshot.joined
        assert list(pool.devices) == [0, 1, 2]
    assert both.held_root() is None


def test_somebody_else_s_is_read_and_not_touched(both: Both) -> None:
    both.kernel.reserve_metadata_snapshot()
    held = both.held_root()
    with pytest.raises(MetadataSnapshotHeldError, match="somebody else's tool"):
        both.ours.metadata_snapshot().__enter__()
    with both.ours.metadata_snapshot(adopt=True) as pool:
        assert list(pool.devices) == [0, 1]
    assert both.held_root() == held
    both.kernel.release_metadata_snapshot()
    both.ours.reserve_metadata_snapshot()
    assert both.held_root() is not None
    assert both.ours.release_metadata_snapshot()
    assert both.held_root() is None


def test_one_that_is_released_in_the_middle_ends_the_reading(both: Both) -> None:
    kernel = both.kernel
    with both.ours.metadata_snapshot() as pool:
        assert list(pool.devices) == [0, 1]
        kernel.release_metadata_snapshot()
        kernel.activate(0, blocks=BLOCKS).write(0, pattern("later", BLOCKS * BLOCK_BYTES))
        kernel.reserve_metadata_snapshot()  # somebody else's
        held = both.held_root()
        for read in (
            lambda: list(pool.devices),
            lambda: list(pool.devices[0].runs()),
            lambda: thinmeta.check(pool),
            lambda: pool.delta(0, 1),
        ):
            with pytest.raises(NoMetadataSnapshotError):
                read()
    assert both.held_root() == held
    kernel.release_metadata_snapshot()


COMMANDS = [
    ("ls", "POOL", "-o", "all"),
    ("check", "POOL"),
    ("dump", "POOL"),
    ("delta", "POOL", "0", "1"),
    ("extract", "POOL", "1", "-o", "OUT", "--size", f"{SECTORS}s"),
    ("live", "status", "POOL"),
]


def test_every_reading_command_takes_it(both: Both, tmp_path: Path) -> None:
    program = str(Path(sys.executable).with_name("thinmeta"))
    kernel = both.kernel
    kernel.activate(0, blocks=BLOCKS).write(0, pattern("later", 2 * BLOCK_BYTES))
    answers = {}
    out = tmp_path / "out"
    names = {"POOL": both.ours.name, "OUT": str(out)}
    for words in COMMANDS:
        argv = [program, *(names.get(word, word) for word in words)]
        done = subprocess.run(argv, capture_output=True, check=False)
        assert done.returncode == 0, (words, done.stderr)
        answers[words[0]] = done.stdout
        assert both.held_root() is None
    assert b"CLEAN" in answers["check"]
    assert answers["ls"].count(b"\n") == 3
    assert answers["dump"].count(b"<device ") == 2
    assert b"128 KiB differ" in answers["delta"]
    assert out.read_bytes() == pattern("first", BLOCKS * BLOCK_BYTES)
    out.unlink()
    assert name_of(kernel, 0).encode() in answers["live"]
    argv = [program, "extract", both.ours.name, "0", "-o", str(out)]
    done = subprocess.run(argv, capture_output=True, check=False)
    assert done.returncode == 3
    assert f"--suspend {name_of(kernel, 0)}".encode() in done.stderr
    assert not out.exists()


def test_a_node_that_is_gone_is_said(both: Both) -> None:
    path = both.ours.data_path
    node = os.stat(path)
    os.unlink(path)
    try:
        with pytest.raises(LivePoolError, match=r"is gone.*dmsetup mknodes"):
            both.ours.metadata_snapshot().__enter__()
        assert both.held_root() is None
        with both.ours.metadata_snapshot(data=False) as pool:
            assert list(pool.devices) == [0, 1]
        # Another device in its place is not taken for it.
        os.mknod(path, node.st_mode, os.makedev(1, 250))
        with pytest.raises(LivePoolError, match="is gone"):
            both.ours.metadata_snapshot().__enter__()
    finally:
        if os.path.exists(path):
            os.unlink(path)
        os.mknod(path, node.st_mode, node.st_rdev)
    assert both.held_root() is None


def test_a_pool_that_runs_out_of_metadata_while_one_is_held(kernel_log: KernelLog) -> None:
    with Disks(metadata_blocks=128) as disks:
        disks.clear()
        with disks.live_pool() as kernel:
            kernel.create_thin(0)
            both, name = Both(kernel), kernel.device.name
            snapshot = both.ours.metadata_snapshot()
            with snapshot as pool:
                held = snapshot.held_root
                assert fill(both.ours).space == "metadata"
                assert both.ours.status().mode == "ro"
                assert list(pool.devices) == [0]  # it can be read to the end
                with pytest.raises(NoSpaceError):
                    both.ours.create_thin(1000)
                # A read-only pool takes no messages, so this one has to be told of.
                snapshot_end(snapshot, both.ours)
        assert kernel_log.complaints()
        disks.grow(metadata_blocks=512)
        with disks.live_pool() as kernel:
            # A pool without a uuid is known again by its number and its name.
            subprocess.run([require("dmsetup"), "rename", kernel.device.name, name], check=True)
            kernel.device.name = name
            both = Both(kernel)
            assert both.ours.status().held_root == held
            with both.ours.metadata_snapshot() as pool:
                assert 0 in pool.devices
            assert both.held_root() is None
            assert both.ours.status().mode == "rw"
        kernel_log.complaints()


def fill(ours: LivePool) -> NoSpaceError:
    """Make devices until there is no metadata left."""
    for device_id in range(1, 200):
        try:
            ours.create_thin(device_id)
        except NoSpaceError as error:
            return error
    raise AssertionError("there is room for everything")


def snapshot_end(snapshot: MetadataSnapshot, ours: LivePool) -> None:
    with pytest.raises(LivePoolError, match=rf"could not be released.*--stale {ours.name}"):
        snapshot.__exit__(None, None, None)


def test_a_pool_that_is_nearly_full_is_left_alone(kernel_log: KernelLog) -> None:
    with Disks(metadata_blocks=128) as disks:
        disks.clear()
        with disks.live_pool() as kernel:
            both = Both(kernel)
            for device_id in range(200):
                free = both.ours.status().free_metadata_blocks
                if free is not None and free < 16:
                    break
                both.ours.create_thin(device_id)
            with pytest.raises(NoSpaceError, match="metadata blocks left"):
                both.ours.metadata_snapshot().__enter__()
            status = both.ours.status()
            assert (status.mode, status.held_root) == ("rw", None)
    kernel_log.complaints()
