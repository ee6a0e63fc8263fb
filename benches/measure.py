"""Runs things in turn and keeps what they took."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

NATIVE = Path(__file__).resolve().parent / "native"
NOISY = 1.3  # a spread above this is worth more rounds


@dataclass(frozen=True)
class Sample:
    """One run. Seconds, and MiB; `failed` says in a few words why there is nothing to read."""

    wall: float = 0.0
    cpu: float = 0.0
    peak: float = 0.0
    failed: str = ""


Runner: TypeAlias = Callable[[], Sample]


@dataclass
class Cell:
    """All runs of one thing in one case, by round; None where it was not run."""

    samples: list[Sample | None] = field(default_factory=list)
    failed: str = ""

    @property
    def kept(self) -> list[Sample]:
        return [sample for sample in self.samples if sample is not None]

    @property
    def ok(self) -> bool:
        return bool(self.kept) and not self.failed

    @property
    def wall(self) -> float:
        return statistics.median(sample.wall for sample in self.kept)

    @property
    def cpu(self) -> float:
        return statistics.median(sample.cpu for sample in self.kept)

    @property
    def peak(self) -> float:
        return statistics.median(sample.peak for sample in self.kept)

    @property
    def spread(self) -> float:
        walls = [sample.wall for sample in self.kept]
        return max(walls) / max(min(walls), 1e-9)


def paired(
    ours: Cell, theirs: Cell, of: Callable[[Sample], float], *, less: float = 0.0
) -> float | None:
    """Median over the rounds of theirs/ours, `less` taken off theirs first."""
    both = [(a, b) for a, b in zip(ours.samples, theirs.samples, strict=False) if a and b]
    if not ours.ok or not theirs.ok or not both:
        return None
    return statistics.median((of(b) - less) / max(of(a), 1e-9) for a, b in both)


class Launcher:
    """Starts commands and reports on each; builds its C helpers if there is a compiler."""

    def __init__(self, *, limit: float) -> None:
        self._limit = limit
        self._folder = tempfile.TemporaryDirectory(prefix="thinmeta-bench-")
        self.folder = Path(self._folder.name)
        self._launch = self._compile("launch", ["launch.c"])
        self.nosleep = self._compile("nosleep.so", ["-shared", "-fPIC", "nosleep.c"])

    @property
    def memory_floor(self) -> str:
        """What a peak cannot read below, if anything."""
        return "" if self._launch else "no C compiler: a peak cannot read below this script's own"

    def _compile(self, name: str, arguments: Sequence[str]) -> Path | None:
        compiler = shutil.which("cc")
        if not compiler:
            return None
        target = self.folder / name
        command = [compiler, "-O2", "-o", str(target), *arguments]
        return target if subprocess.run(command, cwd=NATIVE, check=False).returncode == 0 else None

    def run(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> Sample:
        """One run, its output thrown away, killed after the limit."""
        report, errors = self.folder / "report", self.folder / "errors"
        command = [*([str(self._launch), "3"] if self._launch else []), *command]
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        start = time.perf_counter()
        try:
            child = os.posix_spawnp(
                command[0],
                command,
                {**os.environ, **(environment or {})},
                setpgroup=0,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 2, str(errors), flags, 0o600),
                    (os.POSIX_SPAWN_OPEN, 3, str(report), flags, 0o600),
                ],
            )
        except OSError as error:
            return Sample(failed=str(error))
        status, usage = self._wait(child)
        wall = time.perf_counter() - start
        if status == 0 and self._launch:
            code, wall_ns, user_ns, system_ns, peak = map(int, report.read_text().split())
            sample = Sample(wall_ns / 1e9, (user_ns + system_ns) / 1e9, peak / 1024)
        else:
            code = status
            sample = Sample(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
        if code == 0:
            return sample
        said = errors.read_text(errors="replace").strip().splitlines()
        return Sample(failed=f"status {code} {said[-1] if said else ''}".strip()[:70])

    def _wait(self, child: int) -> tuple[int, resource.struct_rusage]:
        signal.signal(signal.SIGALRM, lambda *_: os.killpg(child, signal.SIGKILL))
        signal.setitimer(signal.ITIMER_REAL, self._limit)
        try:
            _, status, usage = os.wait4(child, 0)
        except BaseException:
            os.killpg(child, signal.SIGKILL)
            raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return os.waitstatus_to_exitcode(status), usage


def in_turn(
    runners: Mapping[str, Runner], *, rounds: int, budget: float, patient: bool = True
) -> dict[str, Cell]:
    """Runs everything once a round, the order rotating, after one round that does not count.

    What takes long is run less often: nothing is started again once it has used `budget`
    seconds, and then its warm-up counts. With `patient`, a noisy case gets as many rounds again.
    """
    cells = {name: Cell() for name in runners}
    used = dict.fromkeys(runners, 0.0)
    warm: dict[str, Sample] = {}
    names = list(runners)

    def one_round(number: int) -> None:
        shift = number % max(len(names), 1)
        for name in names[shift:] + names[:shift]:
            cell = cells[name]
            if cell.failed or used[name] > budget:
                cell.samples.append(None)
                continue
            sample = runners[name]()
            used[name] += sample.wall
            cell.failed = sample.failed
            if number == 0:
                warm[name] = sample
            else:
                cell.samples.append(sample)

    for number in range(rounds + 1):
        one_round(number)
    for name, cell in cells.items():
        if not cell.kept and name in warm:
            cell.samples[:1] = [warm[name]]
    noisy = any(cell.ok and len(cell.kept) > 1 and cell.spread > NOISY for cell in cells.values())
    for number in range(rounds + 1, 2 * rounds + 1 if patient and noisy else 0):
        one_round(number)
    return cells


def read_whole(path: Path) -> None:
    """Reads what is allocated of a file, so that it is in the page cache."""
    with path.open("rb", buffering=0) as file:
        end = os.fstat(file.fileno()).st_size
        buffer = bytearray(1 << 20)
        at = 0
        while at < end:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                return
            stop = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            os.lseek(file.fileno(), at, os.SEEK_SET)
            while at < stop and (got := file.readinto(buffer)):
                at += got
