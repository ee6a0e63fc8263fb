"""A pool in image files that a made-up dmsetup calls active, for tests of live pools."""

import subprocess
import sys
from pathlib import Path
from typing import Self

import pytest

import thinmeta
from fake_dmsetup import FakeDmsetup

BLOCK = 65536


class LiveWorld:
    """The pool ``pool``: device 1 with three blocks, 2 its snapshot, 3 a changed copy of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.meta, self.data = folder / "meta.img", folder / "data.img"
        with self.data.open("wb") as file:
            file.truncate(1000 * BLOCK)
        with thinmeta.Pool.create(
            self.meta,
            data_block_size_sectors=128,
            data_blocks=1000,
            metadata_blocks=512,
            data=self.data,
        ) as pool:
            with pool.transaction() as txn:
                txn.create_thin(1)
            with pool.devices[1].open(mode="r+", size_bytes=16 * BLOCK) as volume:
                volume.write(b"one" * BLOCK)
            with pool.transaction() as txn:
                txn.create_snapshot(2, origin_id=1)
                txn.create_snapshot(3, origin_id=1)
            with pool.devices[3].open(mode="r+", size_bytes=16 * BLOCK) as volume:
                volume.write(b"three")
        self.dmsetup = FakeDmsetup(folder)
        self.dmsetup.add_pool("pool", self.meta, self.data)

    def live(self) -> thinmeta.LivePool:
        return thinmeta.live_pool("pool")

    def records(self) -> list[str]:
        """What is written down in the folder of the lock files."""
        run = self.folder / "run"
        return [path.name for path in run.glob("*.record")] if run.exists() else []


def make_world(folder: Path, monkeypatch: pytest.MonkeyPatch) -> LiveWorld:
    """A world that this process, and those it starts, live in."""
    world = LiveWorld(folder)
    for name, value in world.dmsetup.environment().items():
        monkeypatch.setenv(name, value)
    return world


class Child:
    """A Python program that runs beside the test, and is ended with it."""

    def __init__(self, code: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def hear(self, word: str) -> None:
        """Wait until it says something."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line.strip() != word:
            self.process.kill()
            _, complaint = self.process.communicate()
            raise AssertionError(f"it said {line!r}, not {word!r}\n{complaint}")

    def say(self, word: str = "") -> None:
        """Let it go on."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> tuple[int, str]:
        """Wait for its end: its exit status and what it complained about."""
        _, complaint = self.process.communicate(timeout=60)
        return self.process.returncode, complaint


#: A program that reads the pool until it is told to go on.
READER = """
import sys, thinmeta
live = thinmeta.live_pool("pool")
with live.metadata_snapshot() as pool:
    print("reading", flush=True)
    sys.stdin.readline()
    assert list(pool.devices)
"""
