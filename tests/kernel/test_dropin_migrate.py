"""thin_migrate on volumes that a kernel has active, beside 1.x itself."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import thinmeta
from kernel import blockdev, quick_dmsetup
from kernel.disks import Disks
from kernel.guest import _mount
from kernel.live import BLOCK_BYTES, BLOCK_SECTORS, LivePool
from kernel.rounds import ROUNDS
from kernel.world import pattern
from oracles import NewerTools, newer_tools
from thinmeta.cli import main

BLOCKS = 24
SIZE = BLOCKS * BLOCK_BYTES
MAPPED = {0: 3, 9: 2, 20: 1}
SNAPSHOT, OTHER, TARGET = 2, 3, 7


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THINMETA_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("THINMETA_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("THINMETA_COMPAT", "1.x")
    quick_dmsetup.use(monkeypatch)


@pytest.fixture
def newer() -> Iterator[NewerTools]:
    """1.x, which does nothing where udev does not run, or seems not to."""
    tools = newer_tools()
    if tools is None:
        pytest.skip("1.x is not at hand: make peers")
    _mount("tmpfs", "/run")
    try:
        Path("/run/udev").mkdir()
        Path("/run/udev/control").touch()
        yield tools
    finally:
        assert ctypes.CDLL(None, use_errno=True).umount2(b"/run", 0) == 0


class Places:
    """A volume, snapshots of it, and what they may be copied to."""

    def __init__(self, live: LivePool, folder: Path) -> None:
        self.live, self.ours = live, thinmeta.live_pool(live.device.name)
        live.create_thin(1)
        self.volume = live.activate(1, blocks=BLOCKS)
        self._write("first")
        live.create_snapshot(SNAPSHOT, origin_id=1)
        self._write("second")
        live.create_snapshot(OTHER, origin_id=1)
        live.create_thin(TARGET)
        self.target = live.activate(TARGET, blocks=BLOCKS)
        sectors = BLOCKS * BLOCK_SECTORS
        activate = self.ours.activate
        self.paths = {
            "SNAPSHOT": activate(SNAPSHOT, name="snap", size_sectors=sectors).path,
            "OTHER": activate(OTHER, name="other", size_sectors=sectors).path,
            "VOLUME": self.volume.device.path,
            "TARGET": self.target.device.path,
            "POOL": live.device.path,
            "DATA": live.data,
            "FILE": str(folder / "file"),
            "FOLDER": str(folder),
            "ABSENT": str(folder / "absent" / "absent"),
        }

    def _write(self, tag: str) -> None:
        for block, blocks in MAPPED.items():
            self.volume.write(block * BLOCK_BYTES, pattern(f"{tag} {block}", blocks * BLOCK_BYTES))

    def clear(self) -> None:
        """Make the destinations old: content all over the one, no other."""
        self.target.write(0, pattern("old", SIZE))
        Path(self.paths["FILE"]).unlink(missing_ok=True)

    def line(self, text: str) -> list[str]:
        return [self.paths.get(word, word) for word in text.split()]

    def content(self, name: str) -> bytes:
        return blockdev.read(self.paths[name], 0, SIZE)

    def close(self) -> None:
        for name in ("snap", "other"):
            self.ours.deactivate(name)


@pytest.fixture
def places(disks: Disks, tmp_path: Path) -> Iterator[Places]:
    with disks.live_pool() as live:
        found = Places(live, tmp_path)
        try:
            yield found
        finally:
            found.close()


def ours(places: Places, line: str) -> int:
    return main(["thin_migrate", *places.line(line)])


#: A process costs seconds in here: these always, and all in `make kernel`.
LINES = [
    "--source-dev SNAPSHOT --dest-dev TARGET",
    "--source-dev VOLUME --dest-file FILE",
    "--source-dev SNAPSHOT --dest-file FILE",
    "--source-dev SNAPSHOT --dest-file FOLDER",
    "--source-dev SNAPSHOT --dest-file TARGET",
    "--source-dev SNAPSHOT --dest-dev TARGET --zero-dest -q",
    "--source-dev SNAPSHOT --dest-dev FILE",
    "--source-dev SNAPSHOT --dest-dev ABSENT",
    "--source-dev SNAPSHOT --dest-dev DATA",
    "--source-dev SNAPSHOT --dest-dev SNAPSHOT",
    "--source-dev SNAPSHOT --dest-file FILE --buffer-size-meg 0",
    "--source-dev SNAPSHOT --dest-file FILE --buffer-size-meg 1",
    "--source-dev DATA --dest-file FILE",
    "--source-dev POOL --dest-file FILE",
    "--source-dev ABSENT --dest-file FILE",
    "--source-dev SNAPSHOT --dest-dev TARGET --dest-file FILE",
]
LINES = LINES if ROUNDS >= 100 else LINES[:2]


def test_it_ends_as_the_peer_does(places: Places, newer: NewerTools) -> None:
    places.live.reserve_metadata_snapshot()
    old, want = pattern("old", SIZE), places.content("SNAPSHOT")
    copied = 0
    for line in LINES:
        places.clear()
        theirs = newer.run("thin_migrate", *places.line(line)).returncode
        places.clear()
        assert ours(places, line) == theirs, line
        file = Path(places.paths["FILE"])
        if theirs == 0:
            copied += 1
            where = "TARGET" if "TARGET" in line else "FILE"
            found = places.content(where) if where == "TARGET" else file.read_bytes()
            assert found == want, line
        else:
            assert not file.exists() and places.content("TARGET") == old, line
    assert copied
    # Without a metadata snapshot that shows it, nothing is done.
    held = places.live.status().held_root
    assert held is not None, "it was somebody else's"
    places.live.release_metadata_snapshot()
    line = LINES[0]
    places.clear()
    theirs = newer.run("thin_migrate", *places.line(line)).returncode
    assert ours(places, line) == theirs == 64
    assert places.live.status().held_root is None


def test_a_device_of_another_length_is_refused(places: Places, newer: NewerTools) -> None:
    places.live.reserve_metadata_snapshot()
    line = "--source-dev SNAPSHOT --dest-dev TARGET"
    for blocks in (BLOCKS - 1, BLOCKS + 1) if ROUNDS >= 100 else (BLOCKS + 1,):
        places.live.deactivate(TARGET)
        target = places.live.activate(TARGET, blocks=blocks)
        places.paths["TARGET"] = target.device.path
        theirs = newer.run("thin_migrate", *places.line(line)).returncode
        assert ours(places, line) == theirs == 64
        assert target.mapped_blocks() == 0


def test_what_is_not_mapped_is_unmapped_and_a_delta_is_one(places: Places) -> None:
    places.live.reserve_metadata_snapshot()
    places.clear()
    assert ours(places, "--source-dev SNAPSHOT --dest-dev TARGET") == 0
    assert places.target.mapped_blocks() == sum(MAPPED.values())
    before = places.target.device.status()
    assert ours(places, "--source-dev OTHER --dest-dev TARGET --delta-id 99") != 0
    assert places.target.device.status() == before
    assert ours(places, f"--source-dev OTHER --dest-dev TARGET --delta-id {SNAPSHOT}") == 0
    assert places.content("TARGET") == places.content("OTHER") != places.content("SNAPSHOT")
    assert places.target.mapped_blocks() == sum(MAPPED.values())
    # The pool is told nothing: no snapshot comes or goes.
    with places.ours.metadata_snapshot(adopt=True, data=False) as pool:
        assert list(pool.devices) == [1, SNAPSHOT, OTHER, TARGET]
    assert not [name for name in os.listdir("/dev/shm") if name.endswith(".thinmeta-partial")]
