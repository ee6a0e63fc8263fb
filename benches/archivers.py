"""Backup programs as the group `archivers` starts them: thinmeta, borg and restic."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from peers import Thinmeta

BLOCK = 64 << 10  # of the pools
VERSION = re.compile(r"\d+\.\d+[.\d]*")


@dataclass(frozen=True)
class Volume:
    """A volume of a pool's images, and its two states as the raw files that others need."""

    name: str
    size: int  # bytes
    meta: Path
    data: Path
    devices: tuple[int, int]  # a snapshot of the first state, and one of the second
    states: tuple[Path, Path]
    seen: Path  # where either of the raw files is, for whoever is to back it up
    has_holes: bool

    def show(self, state: int) -> None:
        """Puts a state where it is backed up from.

        It is another file each time. Of an unchanged one borg and restic would read nothing, and
        the node of a snapshot is never the one that they have seen before.
        """
        self.seen.unlink(missing_ok=True)
        os.link(self.states[state], self.seen)


@dataclass(frozen=True)
class Archiver:
    """One program, and one way to use it. All that it keeps is in `home`."""

    name: str
    version: str
    home: Path
    init: Sequence[Sequence[str]]
    backups: tuple[list[str], list[str]]  # of the first state, then of the second
    content: list[str]  # prints what the second backup holds
    reads_pool: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def stored_bytes(self) -> int:
        paths = (self.home / "repository").rglob("*")
        return sum(path.stat().st_size for path in paths if path.is_file())


def said(*command: str) -> str:
    """What a program prints, or nothing if it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def version_in(text: str) -> str:
    found = VERSION.search(text)
    return found.group() if found else ""


def thinmeta(ours: Thinmeta, home: Path, volume: Volume, *, sealed: bool) -> Archiver:
    repository, key, restored = home / "repository", home / "key", home / "restored"

    def backup(*words: object) -> list[str]:
        return ours.command("backup", *words)

    by_key = ("--key-file", key) if sealed else ()

    def create(device: int) -> list[str]:
        words = (volume.meta, device, "--data", volume.data, "--size", volume.size)
        return backup("create", *by_key, repository, *words)

    restore = backup("restore", *by_key, repository, "latest", restored)
    return Archiver(
        name="thinmeta, encrypted" if sealed else "thinmeta",
        version=ours.version,
        home=home,
        init=[
            *([backup("key", key)] if sealed else []),
            backup("init", *by_key, repository),
        ],
        backups=(create(volume.devices[0]), create(volume.devices[1])),
        content=["sh", "-c", '"$@" >&2 && cat "$0"', str(restored), *restore],
        reads_pool=True,
        environment={"XDG_CACHE_HOME": str(home / "cache")},
    )


def borg(home: Path, volume: Volume, version: str, *, holes: bool) -> Archiver:
    """With pieces as large as the pool's blocks: of all sizes the quickest, and the smallest."""
    repository = home / "repository"
    options = ["--compression", "zstd,1", "--chunker-params", f"fixed,{BLOCK}"]
    options += ["--sparse"] if holes else []

    def create(archive: str) -> list[str]:
        return ["borg", "create", *options, f"{repository}::{archive}", str(volume.seen)]

    return Archiver(
        name="borg --sparse" if holes else "borg",
        version=version,
        home=home,
        init=[["borg", "init", "--encryption", "none", str(repository)]],
        backups=(create("first"), create("second")),
        content=["borg", "extract", "--stdout", f"{repository}::second"],
        environment={
            "BORG_BASE_DIR": str(home / "base"),
            # It asks otherwise, and nobody is there to answer.
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        },
    )


def restic(home: Path, volume: Volume, version: str) -> Archiver:
    repository = home / "repository"
    command = ["restic", "--repo", str(repository), "--cache-dir", str(home / "cache"), "--quiet"]
    create = [*command, "backup"]
    known = said("restic", "backup", "--help")
    if "--compression" in known:  # since 0.14
        create += ["--compression", "auto"]
    if "--read-concurrency" in known:  # since 0.15
        create += ["--read-concurrency", str(len(os.sched_getaffinity(0)))]
    if "--no-scan" in known:
        create += ["--no-scan"]
    create += [str(volume.seen)]
    return Archiver(
        name="restic",
        version=version,
        home=home,
        init=[[*command, "init"]],
        backups=(create, create),
        content=[*command, "dump", "latest", str(volume.seen)],
        environment={"RESTIC_PASSWORD": "a password of the benchmark"},
    )


def encrypts(ours: Thinmeta) -> bool:
    """Whether this version can, and has what it needs for it."""
    if "--key-file" not in said(*ours.command("backup", "init", "--help")):
        return False
    needs = [str(ours.python), "-c", "import cryptography; print('there')"]
    return bool(said(*needs))


def found(ours: Thinmeta, folder: Path, volume: Volume) -> Iterator[Archiver]:
    """What is on this machine, each with a home of its own."""
    yield thinmeta(ours, folder / "thinmeta", volume, sealed=False)
    if encrypts(ours):
        yield thinmeta(ours, folder / "sealed", volume, sealed=True)
    if version := version_in(said("borg", "--version")) if shutil.which("borg") else "":
        yield borg(folder / "borg", volume, version, holes=False)
        if volume.has_holes:
            yield borg(folder / "borg-sparse", volume, version, holes=True)
    if version := version_in(said("restic", "version")) if shutil.which("restic") else "":
        yield restic(folder / "restic", volume, version)
