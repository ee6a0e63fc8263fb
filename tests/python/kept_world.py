"""Snapshots that thinmeta has made of live volumes, where a made-up dmsetup has the pool."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import thinmeta
from live_world import BLOCK, Child, LiveWorld
from thinmeta.live.own import Books, OwnSnapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

#: Of an active volume, as the made-up dmsetup has it.
SIZE = 10485760
#: A process that sends the volume for a purpose, until it is told to go on.
USER = """
import sys, thinmeta
from thinmeta.live.own import Books
live = thinmeta.live_pool("pool")
with Books(live.name, live.identity, 1, {purpose!r}):
    print("using", flush=True)
    sys.stdin.readline()
"""


class KeptWorld(LiveWorld):
    """The pool, whose volume 1 is active as ``home``."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.state = folder / "state"
        self.dmsetup.add_volume("home", 1)

    def device_ids(self) -> list[int]:
        with thinmeta.open_pool(self.meta) as pool:
            return list(pool.devices)

    def messages(self, word: str = "") -> list[str]:
        return [each for each in self.dmsetup.log() if each.startswith(f"message pool 0 {word}")]

    def books(self, purpose: str, *, origin_id: int = 1) -> Books:
        live = self.live()
        return Books(live.name, live.identity, origin_id, purpose)

    def snapshot(
        self,
        device_id: int,
        purpose: str,
        *,
        role: Literal["kept", "left", "removing"] = "kept",
        origin_id: int = 1,
    ) -> OwnSnapshot:
        """Make one as a run does, and write down what came of it."""
        with self.books(purpose, origin_id=origin_id) as books:
            left = books.making
            with thinmeta.open_pool(self.meta) as pool:
                clock = pool.superblock.time
            own = OwnSnapshot(device_id, pool_time=clock, made_at=int(time.time()))
            books.write(making=own, base=books.base)
            self.dmsetup.tell("pool", f"create_snap {device_id} {origin_id}")
            with thinmeta.open_pool(self.meta) as pool:
                digest, _, _ = pool.devices[device_id]._summary()
            own = replace(own, digest=digest.hex(), size_bytes=SIZE)
            if role == "left":
                books.write(making=own, base=books.base)
            elif role == "kept":
                books.write(making=None, base=own)
            else:
                books.write(making=left, base=books.base, removing=(*books.removing, own))
        return own

    def write(self, device_id: int, offset: int, content: bytes) -> None:
        """Write to a volume, as the kernel would."""
        with (
            thinmeta.open_pool(self.meta, mode="r+", data=self.data) as pool,
            pool.devices[device_id].open(mode="r+", size_bytes=16 * BLOCK) as volume,
        ):
            volume.seek(offset)
            volume.write(content)

    def files(self) -> dict[str, bytes]:
        """What is written down, byte for byte."""
        return {path.name: path.read_bytes() for path in sorted(self.state.rglob("*.json"))}

    @contextmanager
    def user(self, purpose: str) -> Iterator[Child]:
        with Child(USER.format(purpose=purpose)) as child:
            child.hear("using")
            yield child


def make_kept_world(folder: Path, monkeypatch: pytest.MonkeyPatch) -> KeptWorld:
    """A world that this process, and those it starts, live in."""
    world = KeptWorld(folder)
    for name, value in world.dmsetup.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("THINMETA_STATE_DIR", str(world.state))
    return world
