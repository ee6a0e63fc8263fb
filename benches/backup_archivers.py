"""The group `archivers`: a volume of which 1 % has changed, beside borg and restic."""

from __future__ import annotations

import filecmp
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import archivers
import bars
from archivers import Archiver, Volume
from backup import Ground
from bars import Row
from measure import Cell, Runner, Sample, in_turn, paired, read_whole

if TYPE_CHECKING:
    from cases import Bench

SECTION = "backup beside borg and restic"
OURS, SEALED = "thinmeta", "thinmeta, encrypted"
PEERS = ("borg", "borg --sparse", "restic")  # the second where there are holes
DEVICES = (2, 3)


@dataclass(frozen=True)
class Variant:
    """A pool that `backup_work` makes, and how it is called in the table."""

    pool: str
    size: int  # of the volume at scale 1, in bytes
    title: str
    has_holes: bool


VARIANTS = (
    Variant("change", 10 << 30, "a tenth mapped", has_holes=True),
    Variant("half", 4 << 30, "all mapped", has_holes=False),
)


@dataclass
class Second:
    """What is known of each program's second backup, besides its time."""

    read_bytes: dict[str, int] = field(default_factory=dict)
    stored_bytes: dict[str, int] = field(default_factory=dict)
    same: dict[str, bool] = field(default_factory=dict)


def beside_archivers(bench: Bench) -> list[Row]:
    """All rows of the group."""
    rows: list[Row] = []
    if bench.ours is None:
        return [Row(SECTION, each.title, bars.ARCHIVERS) for each in VARIANTS]
    ground = Ground(bench, bench.folder / "backup")
    ground.folder.mkdir(parents=True, exist_ok=True)
    for variant in VARIANTS:
        with volume_of(ground, variant) as volume:
            there = list(archivers.found(bench.ours, ground.path("archivers"), volume))
            rows += rows_of(bench, variant, volume, there)
    return rows


@contextmanager
def volume_of(ground: Ground, variant: Variant) -> Iterator[Volume]:
    """The volume, and its states as raw files, which go again, as do all repositories."""
    size, folder = ground.scaled(variant.size), ground.path("archivers")
    ground.make(variant.pool, size)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "seen").mkdir(parents=True)
    volume = Volume(
        name=variant.pool,
        size=size,
        meta=ground.path(f"{variant.pool}.meta"),
        data=ground.path(f"{variant.pool}.data"),
        devices=DEVICES,
        states=(folder / "first.raw", folder / "second.raw"),
        seen=folder / "seen" / "volume",
        has_holes=variant.has_holes,
    )
    try:
        assert ground.bench.ours is not None
        for device, path in zip(DEVICES, volume.states, strict=True):
            words = ("extract", volume.meta, volume.data, device, "--size", size, "-o", path)
            command = ground.bench.ours.command(*words)
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        if filecmp.cmp(*volume.states, shallow=False):
            raise AssertionError("both states of the volume are the same: nothing to measure")
        yield volume
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def rows_of(bench: Bench, variant: Variant, volume: Volume, there: Sequence[Archiver]) -> list[Row]:
    first, second, known = measured(bench, variant, volume, there)
    versions = {each.name: each.version for each in there}
    rows = []
    for peer in PEERS:
        if peer == "borg --sparse" and not variant.has_holes:
            continue
        # restic always encrypts: like is compared with like.
        ours = SEALED if peer == "restic" and SEALED in versions else OURS
        name = f"{variant.title}, {'encrypted, ' if ours == SEALED else ''}"
        row = Row(SECTION, f"{name}1 % changed", bars.ARCHIVERS, against=peer)
        row_first = Row(SECTION, f"{name}in full", bars.ARCHIVERS_FIRST, against=peer)
        rows += [row, row_first]
        if peer not in versions:
            row.note = row_first.note = "not installed"
            continue
        row.against = row_first.against = f"{peer} {versions[peer]}"
        judge(row, second, ours, peer)
        judge(row_first, first, ours, peer)
        if row.value is not None:
            row.answers = "same" if known.same[ours] and known.same[peer] else "DIFFER"
            read, grown = known.read_bytes, known.stored_bytes
            row.note += (
                f"; read {read[ours] / 1e6:.0f} against {read[peer] / 1e6:.0f} MB, "
                f"stored {grown[ours] / 1e6:.0f} against {grown[peer] / 1e6:.0f}"
            )
    return rows


def judge(row: Row, cells: dict[str, Cell], ours: str, peer: str) -> None:
    """How much faster ours was, and what that is in seconds."""
    mine, theirs = cells[ours], cells[peer]
    row.value = paired(mine, theirs, lambda sample: sample.wall)
    if row.value is None:
        row.note = mine.failed or theirs.failed or "not run"
        return
    row.note = (
        f"{mine.wall:.2f} s against {theirs.wall:.2f}; CPU {mine.cpu:.1f} s against "
        f"{theirs.cpu:.1f}; peak {mine.peak:.0f} MiB against {theirs.peak:.0f}; "
        f"spread {mine.spread:.2f} and {theirs.spread:.2f}"
    )


def measured(
    bench: Bench, variant: Variant, volume: Volume, there: Sequence[Archiver]
) -> tuple[dict[str, Cell], dict[str, Cell], Second]:
    """First backups, then second ones, each of these on a copy of what the first has left."""

    def running(each: Archiver, state: int, prepare: Callable[[Archiver], None]) -> Runner:
        def run() -> Sample:
            try:
                prepare(each)
            except subprocess.CalledProcessError as error:
                return Sample(failed=f"init: {str(error.stderr).strip()}"[:70])
            volume.show(state)
            read_whole(volume.data if each.reads_pool else volume.seen)
            os.sync()
            return bench.launcher.run(each.backups[state], each.environment)

        return run

    # These take long, and are not what the group is for.
    few = (bench.rounds + 1) // 2
    runners = {each.name: running(each, 0, emptied) for each in there}
    ran = in_turn(runners, rounds=few, budget=4 * bench.budget, patient=False)
    first = bench.measured(f"backup in full, {variant.title}", ran)
    for each in there:
        shutil.rmtree(kept(each), ignore_errors=True)
        each.home.rename(kept(each))
    fit = [each for each in there if first[each.name].ok]
    runners = {each.name: running(each, 1, after_first) for each in fit}
    ran = in_turn(runners, rounds=bench.rounds, budget=4 * bench.budget)
    ran |= {each.name: Cell(failed=first[each.name].failed) for each in there if each not in fit}
    second = bench.measured(f"backup 1 % changed, {variant.title}", ran)
    known = Second()
    digest = digest_of(["cat", str(volume.states[1])])
    for each in fit:
        if second[each.name].ok:
            known.same[each.name] = digest_of(each.content, each.environment) == digest
            after_first(each)
            before = each.stored_bytes
            known.read_bytes[each.name] = read_by(bench, each.backups[1], each.environment)
            known.stored_bytes[each.name] = each.stored_bytes - before
    return first, second, known


def kept(each: Archiver) -> Path:
    """Where what the first backup has left is kept, for every second one to start from."""
    return each.home.with_name(f"{each.home.name}.first")


def emptied(each: Archiver) -> None:
    shutil.rmtree(each.home, ignore_errors=True)
    each.home.mkdir()
    environment = {**os.environ, **each.environment}
    for command in each.init:
        subprocess.run(command, check=True, capture_output=True, text=True, env=environment)


def after_first(each: Archiver) -> None:
    """Everything as the first backup has left it, caches and times of files included.

    It is copied, not linked, as not everybody promises never to change a file, and it is copied to
    where it was, as borg has noted the place.
    """
    shutil.rmtree(each.home, ignore_errors=True)
    shutil.copytree(kept(each), each.home, symlinks=True)


def digest_of(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Of what a command prints; nothing if it fails."""
    digest = hashlib.sha256()
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **(environment or {})},
    ) as process:
        assert process.stdout is not None
        while got := process.stdout.read(1 << 20):
            digest.update(got)
    return digest.hexdigest() if process.returncode == 0 else ""


def read_by(bench: Bench, command: Sequence[str], environment: Mapping[str, str]) -> int:
    """How many bytes a command reads, from files of every kind, in a run that is not timed."""
    here = Ground(bench, bench.folder)
    done = subprocess.run(
        here.work("reads", *command),
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment, **here.environment},
    )
    return int(done.stderr.split()[-1])
