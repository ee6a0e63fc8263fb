"""The group `backup`: repositories in a folder, beside `cp` and a copy of the changed ranges."""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import bars
from bars import Row
from measure import Cell, Runner, Sample, in_turn, paired, read_whole

if TYPE_CHECKING:
    from cases import Bench

OURS, COPY, RANGES = "thinmeta", "cp, flushed", "the ranges"
HERE = Path(__file__).resolve().parent

FULL_BYTES, TEXT_BYTES, CHANGE_BYTES = 4 << 30, 1 << 30, 10 << 30  # at scale 1
BLOCK = 64 << 10
SECTION = "backup: a repository in a folder"


@dataclass
class Ground:
    """The folder that everything is in, and how its processes are started."""

    bench: Bench
    folder: Path

    def scaled(self, size: int) -> int:
        return max(int(size * self.bench.scale) // (64 * BLOCK), 1) * 64 * BLOCK

    def path(self, name: str) -> Path:
        return self.folder / name

    def work(self, *words: object) -> list[str]:
        return [str(self.bench.python), "-m", "backup_work", *map(str, words)]

    @property
    def environment(self) -> dict[str, str]:
        path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
        return {"PYTHONPATH": path}

    def make(self, name: str, size: int) -> None:
        """A pool, unless it is there from the last time."""
        mark = self.path(f"{name}.{size}")
        if not mark.exists():
            command = self.work(name, self.folder, size)
            subprocess.run(command, check=True, env={**os.environ, **self.environment})
            mark.touch()
        read_whole(self.path(f"{name}.data"))

    def ours(self, *words: object) -> list[str]:
        assert self.bench.ours is not None
        return self.bench.ours.command("backup", *words)

    def create(self, repository: Path, name: str, device: int, size: int) -> list[str]:
        meta, data = self.path(f"{name}.meta"), self.path(f"{name}.data")
        return self.ours(
            *("create", repository, meta, device, "--data", data, "--size", size, "--json")
        )

    def fresh(self, like: Path | None = None) -> Path:
        """A repository of its own for each run; what it had stored is not to be found."""
        repository = self.path("repository")
        shutil.rmtree(repository, ignore_errors=True)
        if like is None:
            subprocess.run(self.ours("init", repository), check=True, stdout=subprocess.DEVNULL)
        else:
            # Objects are never changed: links do.
            shutil.copytree(like, repository, copy_function=os.link)
        return repository

    def running(self, before: Callable[[], object], command: list[str]) -> Runner:
        def run() -> Sample:
            before()
            os.sync()
            return self.bench.launcher.run(command, self.environment)

        return run

    def cells(self, case: str, runners: dict[str, Runner]) -> dict[str, Cell]:
        ran = in_turn(runners, rounds=self.bench.rounds, budget=4 * self.bench.budget)
        return self.bench.measured(f"backup {case}", ran)

    def judged(self, name: str, size: int) -> str:
        """Whether a restored generation is what the volume holds."""
        assert self.bench.ours is not None
        restored, extracted = self.path("restored"), self.path("copy")
        words = (self.path(f"{name}.meta"), self.path(f"{name}.data"), 2, "--size", size)
        for path, command in (
            (restored, self.ours("restore", self.path("repository"), 1, restored)),
            (extracted, self.bench.ours.command("extract", *words, "-o", extracted)),
        ):
            path.unlink(missing_ok=True)
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return "same" if filecmp.cmp(restored, extracted, shallow=False) else "DIFFER"

    def copying(self, name: str) -> Runner:
        source, target = self.path(f"{name}.data"), self.path("copy")
        script = 'cp --sparse=never --reflink=never "$1" "$2" && sync "$2"'
        return self.running(
            lambda: target.unlink(missing_ok=True),
            ["sh", "-c", script, "sh", str(source), str(target)],
        )


def backing_up(bench: Bench) -> list[Row]:
    """All rows of the group."""
    rows = [
        Row(SECTION, "a volume of random content, in full", bars.BACKUP_FULL, against=COPY),
        Row(SECTION, "the same, restored", bars.BACKUP_RESTORE, against=COPY),
        Row(SECTION, "a volume of text, in full", bars.BACKUP_TEXT, against=COPY),
        Row(SECTION, "1 % changed, less a second", bars.BACKUP_CHANGE, against=RANGES),
        Row(SECTION, "the same, read beyond what changed", bars.BACKUP_READ),
        Row(SECTION, "the most memory of all", bars.BACKUP_MEMORY),
    ]
    if bench.ours is None:
        return rows
    ground = Ground(bench, bench.folder / "backup")
    ground.folder.mkdir(parents=True, exist_ok=True)
    try:
        peaks = [*full(ground, rows[0], rows[1]), *text(ground, rows[2])]
        peaks += change(ground, rows[3], rows[4])
    finally:
        for name in ("repository", "template"):
            shutil.rmtree(ground.path(name), ignore_errors=True)
        for name in ("copy", "restored"):
            ground.path(name).unlink(missing_ok=True)
    if peaks:
        rows[5].value = max(peaks)
    return rows


def share(row: Row, cells: dict[str, Cell], size: int) -> list[float]:
    """Our speed as a share of the other's; our peaks."""
    ours, theirs = cells.values()
    row.note = ours.failed or theirs.failed
    ratio = paired(ours, theirs, lambda sample: sample.wall)
    if ratio is None:
        return []
    row.value = 100 * ratio
    row.note = (
        f"{size / ours.wall / 1e6:.0f} against {size / theirs.wall / 1e6:.0f} MB/s; CPU "
        f"{ours.cpu:.1f} s against {theirs.cpu:.1f}; peak {ours.peak:.0f} MiB; "
        f"spread {ours.spread:.2f} and {theirs.spread:.2f}"
    )
    return [ours.peak]


def full(ground: Ground, row: Row, restored: Row) -> list[float]:
    size = ground.scaled(FULL_BYTES)
    ground.make("full", size)
    repository, target = ground.path("repository"), ground.path("restored")
    runners = {
        OURS: ground.running(ground.fresh, ground.create(repository, "full", 2, size)),
        COPY: ground.copying("full"),
    }
    peaks = share(row, ground.cells("full", runners), size)
    if not peaks:
        return peaks
    runners = {
        OURS: ground.running(
            lambda: target.unlink(missing_ok=True), ground.ours("restore", repository, 1, target)
        ),
        COPY: ground.copying("full"),
    }
    peaks += share(restored, ground.cells("restore", runners), size)
    restored.answers = row.answers = ground.judged("full", size)
    return peaks


def text(ground: Ground, row: Row) -> list[float]:
    size = ground.scaled(TEXT_BYTES)
    ground.make("text", size)
    repository = ground.path("repository")
    runners = {
        OURS: ground.running(ground.fresh, ground.create(repository, "text", 2, size)),
        COPY: ground.copying("text"),
    }
    peaks = share(row, ground.cells("text", runners), size)
    if peaks:
        stored = sum(path.stat().st_size for path in (repository / "packs").rglob("*/*"))
        row.note = f"stored 1/{size / stored:.1f}; {row.note}"
        row.answers = ground.judged("text", size)
    return peaks


def change(ground: Ground, row: Row, read: Row) -> list[float]:
    size = ground.scaled(CHANGE_BYTES)
    ground.make("change", size)
    template, repository = ground.path("template"), ground.path("repository")
    shutil.rmtree(template, ignore_errors=True)
    quiet = subprocess.DEVNULL
    subprocess.run(ground.ours("init", template), check=True, stdout=quiet)
    subprocess.run(ground.create(template, "change", 2, size), check=True, stdout=quiet)
    words = ground.create(repository, "change", 3, size)
    runners = {
        OURS: ground.running(lambda: ground.fresh(template), words),
        RANGES: ground.running(
            lambda: ground.path("copy").unlink(missing_ok=True),
            ground.work("ranges", ground.folder, ground.path("copy")),
        ),
    }
    ours, theirs = ground.cells("change", runners).values()
    row.note = ours.failed or theirs.failed
    ratio = paired(theirs, ours, lambda sample: sample.wall, less=1.0)
    if ratio is None:
        return []
    changed = sum(int(line.split()[1]) for line in ground.path("ranges").read_text().splitlines())
    row.value = max(ratio, 0.0)
    row.note = (
        f"{ours.wall:.2f} s against {theirs.wall:.2f} for {changed >> 20} of {size >> 20} MiB; "
        f"spread {ours.spread:.2f} and {theirs.spread:.2f}"
    )
    ground.fresh(template)
    assert ground.bench.ours is not None
    program = ground.work("counted", *words[words.index("backup") :])
    done = subprocess.run(
        program,
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **ground.environment},
    )
    made = json.loads(done.stdout.splitlines()[-1])
    beyond = int(done.stderr.split()[-1]) - changed
    read.value = beyond / (1 << 20)
    read.note = f"the interpreter's modules, the metadata, the index; {made['read_bytes']} of data"
    read.answers = "same" if made["read_bytes"] == changed and made["base"] else "DIFFER"
    return [ours.peak]
