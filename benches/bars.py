"""The bars: what thinmeta is to reach against the fastest peer, and how a figure is judged."""

from __future__ import annotations

from dataclasses import dataclass

# Peak memory in MiB that 1.3.3 showed at scale 1, and its CPU time as a share of 1.1.0's on the
# same machine. They stand in where 1.3.x could not be had, and say so.
RECORDED_VERSION = "1.3.3"
RECORDED_PEAK = {
    "check M": 16.0,
    "check L": 15.0,
    "check F": 27.0,
    "dump M": 25.0,
    "dump L": 23.0,
    "dump L --shared": 23.0,
    "dump F": 37.0,
    "delta D1": 235.0,
    "delta D20": 235.0,
    "ls M": 13.0,
    "ls exclusive M": 13.0,
    "ls exclusive F": 16.0,
}
RECORDED_CPU = {"check M": 0.236 / 0.275, "check F": 0.611 / 0.73}


@dataclass(frozen=True)
class Bar:
    """A figure to reach and one to stretch for; `more` tells which way is better."""

    reach: float
    stretch: float | None
    unit: str
    more: bool

    def text(self, value: float | None) -> str:
        if value is None:
            return ""
        digits = 3 if self.unit == "of theirs" else 2 if value < 10 else 1 if value < 100 else 0
        space = "" if self.unit in ("x", "%") else " "
        return f"{value:.{digits}f}{space}{self.unit}"

    def limit(self, value: float | None) -> str:
        if value is None:
            return ""
        return f"{'≥' if self.more else '≤'} {value:.3g}{'x' if self.unit == 'x' else ''}"

    def mark(self, value: float | None) -> str:
        """What the figure is worth; nothing when there is none."""
        if value is None:
            return ""
        met = [
            value >= goal if self.more else value <= goal
            for goal in (self.reach, self.stretch)
            if goal is not None
        ]
        return "stretch" if len(met) > 1 and all(met) else "pass" if met[0] else "MISS"


def faster(reach: float, stretch: float | None = None) -> Bar:
    return Bar(reach, stretch, "x", more=True)


CHECK = {"M": faster(1.6, 2.5), "F": faster(2, 3), "L": faster(1.2, 1.6)}
CHECK_CALL = faster(3, 6)
CHECK_CPU = Bar(1 / 2, 1 / 3, "of theirs", more=False)
DUMP = faster(5, 9)
DELTA = faster(6, 9)
DELTA_CALL = faster(100)
RESTORE = {"M": faster(4, 8), "F": faster(5, 9)}
RESTORE_MEMORY = {
    "M": Bar(64, None, "MiB", more=False),
    "F": Bar(96, None, "MiB", more=False),
}
REPAIR = faster(6, 15)
RMAP = faster(4, 7)
PACK = UNPACK = faster(1.8, 3)
DUMP_TO_FILE = faster(3)
THIN_DELTA = faster(5, 8)
LS = Bar(60, 40, "ms", more=False)
LS_EXCLUSIVE = faster(2.5, 3.5)
MEMORY = Bar(1, 1 / 2, "of theirs", more=False)
START = Bar(45, 30, "ms", more=False)
FIND = Bar(700, 400, "ns", more=False)
FIND_MANY = Bar(5, None, "M/s", more=True)
VOLUME = Bar(70, None, "%", more=True)

# The engine, u64 to u64 in durable commits: against LMDB in C, `_PY` against py-lmdb.
ENGINE_ONE = faster(0.8, 0.95)
ENGINE_100 = faster(1, 2)
ENGINE_10K = faster(1.5, 4)
ENGINE_1M = faster(2.5, 6)
ENGINE_1M_PY = faster(4)
ENGINE_SEQUENTIAL = faster(1, 2)
ENGINE_SEQUENTIAL_PY = faster(5)
ENGINE_LOOKUP = faster(0.8, 1.2)
ENGINE_GET = Bar(700, 450, "ns", more=False)
ENGINE_GET_MANY = Bar(200, 100, "ns", more=False)
ENGINE_SCAN = faster(1, 3)
ENGINE_CALL = Bar(80, 50, "ns", more=False)
ENGINE_SHADOWS = Bar(2, None, "x", more=False)
ENGINE_BESIDE = Bar(90, None, "%", more=True)
ENGINE_MEMORY = Bar(110, 80, "MiB", more=False)

# Pools that are written.
POOL_INSERT = Bar(1.5, None, "M/s", more=True)
POOL_MEMORY = Bar(110, None, "MiB", more=False)
POOL_DELETE = Bar(0.5, None, "s", more=False)
POOL_REMOVE = Bar(5, None, "M/s", more=True)
POOL_SNAPSHOT = Bar(1, None, "ms", more=False)
POOL_SAME = Bar(2, None, "x", more=False)
POOL_WRITE = Bar(50, None, "%", more=True)
POOL_WRITE_EACH = Bar(30, None, "%", more=True)
POOL_COMMITS = faster(0.7)

# Backups.
BACKUP_FULL = Bar(40, None, "%", more=True)
BACKUP_TEXT = Bar(15, None, "%", more=True)  # what takes the time is zstd
BACKUP_RESTORE = Bar(50, None, "%", more=True)
BACKUP_CHANGE = Bar(3, None, "x", more=False)
BACKUP_READ = Bar(24, None, "MiB", more=False)
BACKUP_MEMORY = Bar(200, None, "MiB", more=False)
ARCHIVERS = faster(10)  # borg and restic, which have to read the whole volume
ARCHIVERS_FIRST = faster(1)


@dataclass
class Row:
    """One line of the final table: a case, its figure, and what it is held against."""

    section: str
    case: str
    bar: Bar
    value: float | None = None
    against: str = ""
    answers: str = ""
    note: str = ""
    stands_in: bool = False  # held against an older version than the bar means

    @property
    def mark(self) -> str:
        if self.answers.startswith("DIFFER"):
            return "WRONG"
        mark = self.bar.mark(self.value)
        return f"({mark})" if mark and self.stands_in else mark


def amount(number: int) -> str:
    """A number for the name of a row."""
    for unit, size in (("M", 1_000_000), ("k", 1000)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
