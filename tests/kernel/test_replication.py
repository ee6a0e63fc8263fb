"""Rounds of replication from a pool in the kernel, killed at any moment."""

import io
import json
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

import thinmeta
from kernel import quick_dmsetup
from kernel.disks import Disks
from kernel.live import BLOCK_BYTES, LivePool, LiveVolume
from thinmeta.cli import main
from thinmeta.errors import AlreadyFormattedError, StreamError, WrongBaseError
from thinmeta.replication import LocalPeer, open_peer, replicate
from thinmeta.stream import receive

BLOCKS = 48
SIZE = BLOCKS * BLOCK_BYTES
#: Whether a round is killed at each of its steps, or at some.
EVERY = int(os.environ.get("THINMETA_KERNEL_ROUNDS", "12")) >= 100
#: So many tests share the steps, as one that says nothing for long is taken for hanging.
PARTS = 12 if EVERY else 1


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


def change(volume: LiveVolume, chance: random.Random) -> None:
    """A few writes and discards."""
    for _ in range(chance.randrange(1, 6)):
        begin = chance.randrange(BLOCKS)
        length = chance.randrange(1, min(9, BLOCKS - begin + 1))
        if chance.random() < 0.3:
            volume.discard(begin, begin + length)
        else:
            volume.write(begin * BLOCK_BYTES, chance.randbytes(length * BLOCK_BYTES))


def device_ids(live: thinmeta.LivePool) -> list[int]:
    with live.metadata_snapshot(data=False) as pool:
        return list(pool.devices)


def test_each_round_brings_the_copy_up_to_date(pool: LivePool, folders: Path) -> None:
    chance = random.Random(5)
    volume = pool.activate(1, blocks=BLOCKS)
    live = thinmeta.live_pool(pool.device.name)
    copy = folders / "copy"
    peer = open_peer(str(copy))
    volume.write(0, chance.randbytes(SIZE))
    for number in range(6):
        report = replicate(live, 1, peer)
        assert copy.read_bytes() == volume.read(0, SIZE)
        assert (report.base is None) == (number == 0)
        assert (report.data_bytes == SIZE) == (number == 0)
        assert len(device_ids(live)) == 2
        change(volume, chance)
    assert live.status().held_root is None
    assert [each.device_id for each in live.volumes()] == [1]


def test_a_copy_that_was_changed_or_is_unknown_is_not_overwritten_unasked(
    pool: LivePool, folders: Path
) -> None:
    volume = pool.activate(1, blocks=BLOCKS)
    volume.write(0, random.Random(1).randbytes(SIZE))
    live = thinmeta.live_pool(pool.device.name)
    copy = folders / "copy"
    copy.write_bytes(b"precious")
    with pytest.raises(AlreadyFormattedError):
        replicate(live, 1, open_peer(str(copy)))
    assert copy.read_bytes() == b"precious"
    replicate(live, 1, open_peer(str(copy)), overwrite=True)
    assert copy.read_bytes() == volume.read(0, SIZE)
    with copy.open("r+b") as file:
        file.write(b"changed by somebody")
    os.utime(copy, ns=(1, 1))
    volume.write(0, bytes(BLOCK_BYTES))
    with pytest.raises(WrongBaseError):
        replicate(live, 1, open_peer(str(copy)))
    replicate(live, 1, open_peer(str(copy)), overwrite=True)
    assert copy.read_bytes() == volume.read(0, SIZE)


class Killer:
    """Counts what a round does that others can see, and ends the process at one of them."""

    CALLS = ("fsync", "fdatasync", "replace", "rename", "unlink", "ftruncate")

    def __init__(self, at: int) -> None:
        self.left = at
        for name in self.CALLS:
            setattr(os, name, self._counting(getattr(os, name)))
        quick_dmsetup.wrap(self._counting)

    def _counting(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            answer = call(*arguments, **options)
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return answer

        return counted


def killed_at(at: int, live: thinmeta.LivePool, copy: Path) -> bool:
    """A round in a child that is killed before or after its step ``at``, if it gets there."""
    child = os.fork()
    if child == 0:
        try:
            Killer(at)
            replicate(live, 1, open_peer(str(copy)))
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("part", range(PARTS))
def test_a_round_goes_on_after_it_was_killed_anywhere(
    pool: LivePool, folders: Path, part: int
) -> None:
    """Both ends at once; that either can be missing is what the parts of it are tested for."""
    chance = random.Random(int(os.environ.get("THINMETA_KERNEL_SEED", "3")))
    volume = pool.activate(1, blocks=BLOCKS)
    volume.write(0, chance.randbytes(SIZE))
    live = thinmeta.live_pool(pool.device.name)
    copy = folders / "copy"
    at = 1 + part
    while killed_at(at, live, copy):
        # The volume, our base, and what the one that was killed had made.
        assert len(device_ids(live)) <= 3
        if chance.random() < 0.5:
            change(volume, chance)
        if chance.random() < 0.3:  # and again before anything was put in order
            killed_at(chance.randrange(1, 60), live, copy)
            assert len(device_ids(live)) <= 3
        replicate(live, 1, open_peer(str(copy)))
        assert copy.read_bytes() == volume.read(0, SIZE)
        assert len(device_ids(live)) == 2
        change(volume, chance)
        at += PARTS if EVERY else chance.randrange(1, 12)
    assert at > 60, f"a round has {at} steps: are they counted?"
    assert copy.read_bytes() == volume.read(0, SIZE)
    assert [each.device_id for each in live.volumes()] == [1]
    assert live.status().held_root is None


def test_the_whole_volume_goes_on_after_it_was_cut(pool: LivePool, folders: Path) -> None:
    volume = pool.activate(1, blocks=BLOCKS)
    volume.write(0, random.Random(1).randbytes(SIZE))
    live = thinmeta.live_pool(pool.device.name)
    copy = folders / "copy"

    class Cut(LocalPeer):
        """A receiver that sees the stream end early."""

        def receive(self, stream: BinaryIO, *, overwrite: bool, resume: bool) -> None:
            part = io.BytesIO(stream.read(SIZE * 2 // 3))
            super().receive(part, overwrite=overwrite, resume=resume)

    with pytest.raises(StreamError, match="cut"):
        replicate(live, 1, Cut(str(copy)), checkpoint_bytes=1 << 19)
    moment = volume.read(0, SIZE)
    volume.write(0, bytes(BLOCK_BYTES))  # which is no part of what goes on
    report = replicate(live, 1, LocalPeer(str(copy)))
    assert report.resumed_at_bytes
    assert report.data_bytes < SIZE
    assert copy.read_bytes() == moment
    replicate(live, 1, LocalPeer(str(copy)))
    assert copy.read_bytes() == volume.read(0, SIZE)
    assert len(device_ids(live)) == 2


def test_commands_copy_a_live_volume(
    pool: LivePool, folders: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """In this process: another one would take its time."""
    volume = pool.activate(1, blocks=BLOCKS)
    volume.write(0, random.Random(1).randbytes(SIZE))
    name, copy, stream = pool.device.name, folders / "copy", folders / "stream"

    def run(*words: str | Path, status: int = 0) -> str:
        assert main([str(word) for word in words]) == status, capfd.readouterr()
        return capfd.readouterr().out

    answer = json.loads(run("replicate", name, "1", copy, "--json"))
    assert (answer["base"], answer["read_bytes"]) == (None, SIZE)
    volume.write(0, bytes(BLOCK_BYTES))
    assert "holds device" in run("replicate", name, "1", copy)
    assert copy.read_bytes() == volume.read(0, SIZE)
    run("send", name, "1", "--from", "kept", "-o", stream, status=1)  # nothing was sent yet
    run("send", name, "1", "-o", stream)
    shutil.copyfile(copy, folders / "second")
    first = volume.read(0, SIZE)
    assert "SOUND" in run("stream", "verify", stream)
    with stream.open("rb") as file:
        receive(file, folders / "second", overwrite=True)
    assert (folders / "second").read_bytes() == first
    volume.write(BLOCK_BYTES, random.Random(2).randbytes(BLOCK_BYTES))
    plan = json.loads(run("send", name, "1", "--from", "kept", "--dry-run", "--json"))
    assert plan["changed_bytes"] == BLOCK_BYTES
    run("send", name, "1", "--from", "kept", "-o", stream)
    with stream.open("rb") as file:
        receive(file, folders / "second")
    assert (folders / "second").read_bytes() == volume.read(0, SIZE)
    # One for each purpose: replicating to that copy, and sending.
    assert len(device_ids(thinmeta.live_pool(name))) == 3
    shown = json.loads(run("receive", "--print-state", folders / "second", "--json"))
    assert shown["changed"] is False
    digest = shown["held"]["digest"]
    assert digest in run("stream", "inspect", stream, "--json")
