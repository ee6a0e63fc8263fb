"""States of live volumes that stand still while somebody writes the volume."""

import json
import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

import pytest

import thinmeta
from kernel import blockdev, quick_dmsetup
from kernel.disks import Disks
from kernel.live import BLOCK_BYTES, LivePool
from kernel.world import pattern
from thinmeta.cli import main
from thinmeta.errors import (
    DeviceInUseError,
    LivePoolError,
    NoSuchDeviceError,
    UsageError,
    WrongBaseError,
)
from thinmeta.live.generation import LiveGeneration
from thinmeta.live.look import LiveLook
from thinmeta.live.own import Books, OwnSnapshot
from thinmeta.stream.token import Token

BLOCKS = 32
SIZE = BLOCKS * BLOCK_BYTES


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("THINMETA_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("THINMETA_STATE_DIR", str(tmp_path / "state"))
    quick_dmsetup.use(monkeypatch)
    return tmp_path


@pytest.fixture
def pool(disks: Disks) -> Iterator[LivePool]:
    with disks.live_pool() as live:
        live.create_thin(1)
        yield live


def content(generation: LiveGeneration) -> bytes:
    buffer = bytearray(SIZE)
    generation.read_into(0, buffer)
    return bytes(buffer)


def device_ids(live: thinmeta.LivePool) -> list[int]:
    with live.metadata_snapshot(data=False) as pool:
        return list(pool.devices)


def test_a_generation_is_of_one_moment_while_the_volume_is_written(pool: LivePool) -> None:
    volume = pool.activate(1, blocks=BLOCKS)
    stop = Event()

    def write() -> None:
        # The second place is written when the first one is durable: it is never ahead.
        number = 0
        while not stop.is_set():
            number += 1
            for place in (0, BLOCKS - 1):
                data = struct.pack("<Q", number) * (BLOCK_BYTES // 8)
                blockdev.write(volume.device.path, place * BLOCK_BYTES, data)

    live = thinmeta.live_pool(pool.device.name)
    thread = Thread(target=write)
    thread.start()
    try:
        for _ in range(2):
            with LiveGeneration(live, 1) as generation:
                first = content(generation)
                assert content(generation) == first
                numbers = struct.unpack_from("<Q", first), struct.unpack_from("<Q", first, SIZE - 8)
                (early,), (late,) = numbers
                assert early - 1 <= late <= early
                assert generation.identity.size_bytes == SIZE
                assert generation.identity.is_snapshot
    finally:
        stop.set()
        thread.join()
    assert device_ids(live) == [1]
    assert live.status().held_root is None


def test_what_was_kept_proves_what_is_unchanged(pool: LivePool) -> None:
    volume = pool.activate(1, blocks=BLOCKS)
    volume.write(0, pattern("first", 8 * BLOCK_BYTES))
    live = thinmeta.live_pool(pool.device.name)
    copy = bytearray(SIZE)
    for step in range(3):
        with LiveGeneration(live, 1, purpose="test") as generation:
            base = generation.kept_base
            assert (base is None) == (step == 0)
            changes = generation.changes(base)
            if step:
                # Block 1 was overwritten in place as far as the kernel was concerned.
                assert list(changes.data) == [(BLOCK_BYTES, BLOCK_BYTES)]
                assert list(changes.zero) == ([(5 * BLOCK_BYTES, BLOCK_BYTES)] if step == 2 else [])
            for begin, length in changes.data:
                part = bytearray(length)
                generation.read_into(begin, part)
                copy[begin : begin + length] = part
            for begin, length in changes.zero:
                copy[begin : begin + length] = bytes(length)
            assert content(generation) == copy
            generation.keep()
        volume.write(BLOCK_BYTES, pattern(f"step {step}", BLOCK_BYTES))
        if step == 1:
            volume.discard(5, 6)
    assert len(device_ids(live)) == 2


def test_a_snapshot_that_was_left_behind_is_removed_by_the_next_one(pool: LivePool) -> None:
    pool.activate(1, blocks=BLOCKS).write(0, pattern("it", BLOCK_BYTES))
    live = thinmeta.live_pool(pool.device.name)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with LiveGeneration(live, 1) as generation:
            assert generation.identity.is_snapshot
            os.write(writing, b"x")
            os.kill(os.getpid(), 9)
    os.close(writing)
    assert os.read(reading, 1) == b"x"
    os.close(reading)
    os.waitpid(child, 0)
    left = device_ids(live)
    assert len(left) == 2
    with LiveGeneration(live, 1) as generation:
        assert generation.kept_base is None
        assert len(device_ids(live)) == 2
    assert device_ids(live) == [1]


def test_a_device_of_somebody_else_with_the_noted_number_is_left_alone(pool: LivePool) -> None:
    volume = pool.activate(1, blocks=BLOCKS)
    volume.write(0, pattern("it", BLOCK_BYTES))
    live = thinmeta.live_pool(pool.device.name)
    # Noted, and then killed before it was made; somebody else takes the number.
    with Books(live.name, live.identity, 1, "send") as books:
        books.write(making=OwnSnapshot(7, pool_time=0), base=None)
    pool.create_thin(7)
    pool.activate(7, blocks=BLOCKS).write(0, pattern("theirs", BLOCK_BYTES))
    with LiveGeneration(live, 1) as generation:
        assert generation.snapshot_id >= 2**23
    assert device_ids(live) == [1, 7]


def test_a_base_that_was_written_to_or_is_gone_is_none(pool: LivePool) -> None:
    volume = pool.activate(1, blocks=BLOCKS)
    volume.write(0, pattern("it", 4 * BLOCK_BYTES))
    live = thinmeta.live_pool(pool.device.name)
    with LiveGeneration(live, 1) as generation:
        kept = generation.snapshot_id
        generation.keep()
    pool.activate(kept, blocks=BLOCKS).write(0, pattern("spoilt", BLOCK_BYTES))
    with LiveGeneration(live, 1) as generation:
        assert generation.kept_base is None
        with pytest.raises(WrongBaseError, match="was written"):
            generation.changes(kept)
        with pytest.raises(NoSuchDeviceError):
            generation.changes(99)
    pool.delete(kept)
    with LiveGeneration(live, 1) as generation:
        assert generation.kept_base is None


def test_one_at_a_time_and_never_of_what_is_not_there(pool: LivePool) -> None:
    live = thinmeta.live_pool(pool.device.name)
    with pytest.raises(UsageError, match="size"), LiveGeneration(live, 1):
        pass
    with pytest.raises(NoSuchDeviceError), LiveGeneration(live, 5, size_bytes=SIZE):
        pass
    with LiveGeneration(live, 1, size_bytes=SIZE):
        with pytest.raises(LivePoolError, match="another process"), LiveGeneration(live, 1):
            pass
        with LiveGeneration(live, 1, purpose="another", size_bytes=SIZE):
            assert len(device_ids(live)) == 3
    assert device_ids(live) == [1]


def test_what_is_kept_is_listed_and_forgotten(pool: LivePool) -> None:
    volume = pool.activate(1, blocks=BLOCKS)
    volume.write(0, pattern("it", 4 * BLOCK_BYTES))
    pool.create_snapshot(7, origin_id=1)
    live = thinmeta.live_pool(pool.device.name)
    with LiveGeneration(live, 1) as generation:
        kept = generation.snapshot_id
        generation.keep()
    child = os.fork()
    if child == 0:
        with LiveGeneration(live, 1, purpose="other"):
            os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    (other, first) = live.kept()
    assert (first.device_id, first.role, first.presence) == (kept, "kept", "there")
    assert (other.role, other.presence, other.in_use) == ("left", "there", False)
    assert first.size_bytes == SIZE
    with LiveGeneration(live, 1) as generation:
        with pytest.raises(DeviceInUseError, match="a process of thinmeta"):
            live.forget([kept])
        # Of the other purpose nobody makes use, though its snapshot is still active.
        report = live.forget("all")
        assert [each.device_id for each in report.removed] == [other.device_id]
        assert {each.snapshot.device_id for each in report.left} == {kept, generation.snapshot_id}
        base = generation.kept_base
        assert base is not None and not generation.changes(base).data
    with pytest.raises(LivePoolError, match="is not touched"):
        live.forget([7])
    assert device_ids(live) == [1, 7, kept]
    assert [each.device_id for each in live.forget("all").removed] == [kept]
    assert device_ids(live) == [1, 7]
    assert live.kept() == []
    assert [each.device_id for each in live.volumes()] == [1]
    assert live.status().held_root is None


def test_a_look_tells_what_a_generation_would_and_changes_nothing(pool: LivePool) -> None:
    chance = random.Random(11)
    volume = pool.activate(1, blocks=BLOCKS)
    volume.write(0, pattern("it", 20 * BLOCK_BYTES))
    live = thinmeta.live_pool(pool.device.name)
    for step in range(6):
        ids, volumes = device_ids(live), live.volumes()
        with LiveLook(live, 1) as look:
            base = look.kept_base
            told = look.changes(base), look.changes(None)
            digest = look.identity.digest
        assert (device_ids(live), live.volumes()) == (ids, volumes)
        assert live.status().held_root is None
        with LiveGeneration(live, 1) as generation:
            base = generation.kept_base
            assert (base is None) == (step == 0)
            for saw, real in zip(
                told, (generation.changes(base), generation.changes(None)), strict=True
            ):
                assert (list(saw.data), list(saw.zero)) == (list(real.data), list(real.zero))
            assert (look.identity.device_id, generation.identity.device_id) == (1, 1)
            assert digest == generation.identity.digest
            generation.keep()
        for _ in range(3):
            begin = chance.randrange(BLOCKS - 4)
            if chance.random() < 0.3:
                volume.discard(begin, begin + 3)
            else:
                volume.write(begin * BLOCK_BYTES, chance.randbytes(2 * BLOCK_BYTES))
    assert len(device_ids(live)) == 2


def test_a_dry_run_leaves_what_a_cut_stream_was_read_from(
    pool: LivePool, capfd: pytest.CaptureFixture[str]
) -> None:
    volume = pool.activate(1, blocks=BLOCKS)
    volume.write(0, pattern("it", 4 * BLOCK_BYTES))
    live = thinmeta.live_pool(pool.device.name)
    with LiveGeneration(live, 1) as generation:
        left, identity = generation.snapshot_id, generation.identity
        generation.leave_behind()
    volume.write(8 * BLOCK_BYTES, pattern("later", BLOCK_BYTES))
    before = device_ids(live)
    assert before == [1, left]
    token = str(Token.of(identity, None, BLOCK_BYTES))
    words = ["send", live.name, "1", "--resume", token, "--dry-run", "--json"]
    assert main(words) == 0
    shown = json.loads(capfd.readouterr().out)
    assert (shown["identity"]["digest"], shown["identity"]["device_id"]) == (identity.digest, 1)
    assert shown["changed_bytes"] == 4 * BLOCK_BYTES
    assert main(["send", live.name, "1", "--dry-run", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["changed_bytes"] == 5 * BLOCK_BYTES
    assert device_ids(live) == before
    (own,) = live.kept()
    assert (own.device_id, own.role, own.presence) == (left, "left", "there")
