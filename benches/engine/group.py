"""The group `engine`: u64 to u64 in durable commits, beside LMDB, redb and sqlite3."""

from __future__ import annotations

import random
import shutil
import zlib
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import bars
from bars import Bar, Row, amount
from engine.sessions import (
    HERE,
    Asked,
    Failed,
    Session,
    lmdb_c,
    python_session,
    redb,
    thinmeta_rust,
)
from measure import Cell, in_turn, paired

if TYPE_CHECKING:
    from cases import Bench

OURS = "thinmeta"
RUST = "thinmeta Rust"
LMDB = "LMDB C"
PY_LMDB = "py-lmdb"
PY_LMDB_CUT = "py-lmdb cut"
REDB = "redb"
SQLITE = "sqlite3"
INSERTERS = (OURS, RUST, LMDB, REDB, PY_LMDB, SQLITE)

KEYS = 1_000_000  # at scale 1
LOOKUPS = 200_000
PATIENCE = 2  # times the budget of a command: these cells hang on flushes
MEMORY_KEYS = 10_000_000
MEMORY_CALL = 1_000_000


@dataclass(frozen=True)
class Insert:
    """A cell of inserts: so many commits of so many keys, at scale 1."""

    name: str
    order: str
    commits: int
    per_commit: int
    held: Sequence[tuple[str, Bar]]
    columns: Sequence[str] = INSERTERS


FROM_BUFFERS = (*INSERTERS, PY_LMDB_CUT)
INSERTS = (
    Insert("random", "random", 3000, 1, ((LMDB, bars.ENGINE_ONE),)),
    Insert("random", "random", 1000, 100, ((LMDB, bars.ENGINE_100),)),
    Insert("random", "random", 100, 10_000, ((LMDB, bars.ENGINE_10K),)),
    Insert(
        "random, from buffers",
        "random",
        1,
        KEYS,
        ((LMDB, bars.ENGINE_1M), (PY_LMDB, bars.ENGINE_1M_PY)),
        FROM_BUFFERS,
    ),
    Insert(
        "sequential, from buffers",
        "sorted",
        1,
        KEYS,
        ((LMDB, bars.ENGINE_SEQUENTIAL), (PY_LMDB, bars.ENGINE_SEQUENTIAL_PY)),
        FROM_BUFFERS,
    ),
)


@dataclass
class Ground:
    """What all cells share: the sessions, the folder that their files are in, the keys."""

    bench: Bench
    folder: Path
    sessions: dict[str, Session]
    _keys: dict[str, array[int]] = field(default_factory=dict)

    def scaled(self, number: int) -> int:
        return max(round(number * self.bench.scale), 1)

    def keys(self, order: str, count: int) -> Path:
        """A file with 0..COUNT in an order, or with some of them at random."""
        path = self.folder / f"keys-{order}-{count}"
        if path.exists() and path.stat().st_size == 8 * count:
            return path
        among = range(self.scaled(KEYS) if order == "looked-up" else count)
        seed = 10 if order == "looked-up" else 9
        words = among if order == "sorted" else random.Random(seed).sample(among, count)
        path.write_bytes(array("Q", words).tobytes())
        return path

    def words(self, path: Path) -> array[int]:
        if path.name not in self._keys:
            self._keys[path.name] = array("Q")
            self._keys[path.name].frombytes(path.read_bytes())
        return self._keys[path.name]

    def run(
        self,
        case: str,
        columns: Sequence[str],
        words: Sequence[object],
        asked: Asked,
        before: tuple[object, ...] = (),
    ) -> dict[str, Cell]:
        runners = {
            name: self.sessions[name].runner(asked, *words, before=before) for name in columns
        }
        budget = PATIENCE * self.bench.budget
        return self.bench.measured(case, in_turn(runners, rounds=self.bench.rounds, budget=budget))

    def close(self) -> None:
        for session in self.sessions.values():
            session.close()
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)


def engine(bench: Bench) -> list[Row]:
    """All rows of the engine; what is not there is missed alone, and its row says why."""
    folder = bench.folder / "engine"
    folder.mkdir(parents=True, exist_ok=True)
    python = bench.python
    sessions = [
        *(python_session(name, python, folder) for name in (OURS, PY_LMDB, PY_LMDB_CUT, SQLITE)),
        lmdb_c(folder, bench.launcher.folder),
        redb(folder),
        thinmeta_rust(folder),
    ]
    ground = Ground(bench, folder, {session.name: session for session in sessions})
    try:
        for session in sessions:
            session.start()
            if session.missing:
                bench.say(f"engine: no {session.name}: {session.missing}")
        bench.engines = [session.shown for session in sessions if session.version]
        rows = [row for cell in INSERTS for row in inserts(ground, cell)]
        fill(ground)
        rows += [*lookups(ground), scan(ground), call(ground), shadows(ground), *beside(ground)]
        return [*rows, memory(ground)]
    finally:
        ground.close()


def inserts(ground: Ground, cell: Insert) -> list[Row]:
    count, per_commit = ground.scaled(cell.commits * cell.per_commit), cell.per_commit
    if cell.per_commit == KEYS:
        per_commit = count
    path = ground.keys(cell.order, ground.scaled(KEYS))
    keys = ground.words(path)[:count]
    asked = Asked({"digest": digest(keys)})
    case = f"{cell.name}, {amount(per_commit)} per commit"
    words = ("insert", f"../{path.name}", count, per_commit, cell.order)
    cells = ground.run(f"engine {case}", cell.columns, words, asked, ("fresh",))
    return [
        against(ground, "inserts", case, cells, theirs, bar, count, asked)
        for theirs, bar in cell.held
    ]


def digest(keys: array[int]) -> str:
    """What every engine is to hold: the pairs' number, and a CRC of keys and of values in order."""
    ordered = sorted(keys)
    values = array("Q", [3 * key for key in ordered])
    sums = (zlib.crc32(array("Q", ordered)), zlib.crc32(values))
    return f"{len(keys)} {sums[0]:08x} {sums[1]:08x}"


def against(
    ground: Ground,
    section: str,
    case: str,
    cells: Mapping[str, Cell],
    theirs: str,
    bar: Bar,
    count: int,
    asked: Asked,
    ours: str = OURS,
) -> Row:
    """Our speed against one peer's, the rates of both beside it."""
    row = Row(f"engine: {section}", case, bar, against=ground.sessions[theirs].shown)
    row.value = paired(cells[ours], cells[theirs], lambda sample: sample.wall)
    row.answers = asked.verdict()
    if failed := cells[ours].failed or cells[theirs].failed:
        row.note = failed
    else:
        row.note = f"{rate(cells[ours], count)} against {rate(cells[theirs], count)}"
    if theirs == PY_LMDB and PY_LMDB_CUT in cells:
        cut = paired(cells[ours], cells[PY_LMDB_CUT], lambda sample: sample.wall)
        row.note += f"; {cut:.2f}x of its fastest way" if cut else ""
    return row


def rate(cell: Cell, count: int) -> str:
    return f"{amount(round(count / cell.wall))}/s"


def fill(ground: Ground) -> None:
    """The same million pairs in every engine, put in at random by one commit."""
    count = ground.scaled(KEYS)
    path = ground.keys("random", count)
    for session in ground.sessions.values():
        try:
            session.ask("fresh")
            session.ask("insert", f"../{path.name}", count, count, "random")
        except Failed:
            continue  # the cells to come say it


def per_key(section: str, case: str, cell: Cell, bar: Bar, count: int, asked: Asked) -> Row:
    row = Row(f"engine: {section}", case, bar, answers=asked.verdict(), note=cell.failed)
    if cell.ok:
        row.value = cell.wall / count * 1e9
    return row


def lookups(ground: Ground) -> list[Row]:
    count = min(LOOKUPS, ground.scaled(KEYS))
    path = ground.keys("looked-up", count)
    asked = Asked({"sum": 3 * sum(ground.words(path))})
    name, section = f"../{path.name}", "look-up"
    columns = (RUST, LMDB, REDB, OURS, PY_LMDB, SQLITE)
    cells = ground.run("engine look-up", columns, ("lookup", name, count), asked)
    rows = [
        against(ground, section, "in Rust", cells, LMDB, bars.ENGINE_LOOKUP, count, asked, RUST),
        per_key(section, "tree[k], net of the loop", cells[OURS], bars.ENGINE_GET, count, asked),
    ]
    if cells[PY_LMDB].ok:
        said = f"py-lmdb with packing {cells[PY_LMDB].wall / count * 1e9:.0f} ns"
        rows[1].note = "; ".join(filter(None, [rows[1].note, said]))
    asked = Asked(asked.expected)
    words = ("lookup_many", name, count)
    cells = ground.run("engine lookup_many", (OURS, PY_LMDB), words, asked)
    bar = bars.ENGINE_GET_MANY
    return [*rows, per_key(section, "lookup_many, a key", cells[OURS], bar, count, asked)]


def scan(ground: Ground) -> Row:
    """Ours into buffers that are made for it; LMDB in C only adds up what it sees."""
    count = ground.scaled(KEYS)
    total = count * (count - 1) // 2
    asked = Asked({"count": count, "keys": total, "values": 3 * total})
    columns = (OURS, RUST, LMDB, REDB, PY_LMDB, SQLITE)
    cells = ground.run("engine scan", columns, ("scan",), asked)
    case = "from Python into buffers"
    return against(ground, "full scan", case, cells, LMDB, bars.ENGINE_SCAN, count, asked)


def call(ground: Ground) -> Row:
    row = Row("engine: binding", "a method with a key, net of the loop", bars.ENGINE_CALL)
    try:
        took = ground.sessions[OURS].ask("call", max(ground.bench.rounds, 3))
    except Failed as error:
        row.note = str(error)[:70]
    else:
        row.value = took["method_ns"]
        row.note = (
            f"builtin {took['builtin_ns']:.0f} ns, loop {took['loop_ns']:.0f} ns, "
            f"spread {took['spread']:.2f}"
        )
    return row


def shadows(ground: Ground) -> Row:
    """Time by look-up in a large shadow table as a multiple of that in a small one."""
    row = Row("engine: shadow table", "look-up at 10^6 against 10^2", bars.ENGINE_SHADOWS)
    took: dict[int, list[float]] = {100: [], 1_000_000: []}
    try:
        for _ in range(max(ground.bench.rounds, 3)):
            for size, times in took.items():
                times.append(ground.sessions[RUST].ask("shadows", size)["ns"])
    except Failed as error:
        row.note = str(error)[:70]
    else:
        small, large = took.values()
        row.value = median(b / a for a, b in zip(small, large, strict=True))
        row.note = f"{median(large):.1f} ns against {median(small):.1f}"
    return row


def beside(ground: Ground) -> list[Row]:
    """A pure-Python thread's share of its solo speed while another thread commits in a loop."""
    count = ground.scaled(KEYS)
    path = ground.keys("random", count)
    columns = (OURS, PY_LMDB, SQLITE)
    rows = []
    for per_commit in (1, min(10_000, count)):
        row = Row(
            "engine: a thread beside commits",
            f"{amount(per_commit)} per commit",
            bars.ENGINE_BESIDE,
        )
        heard: dict[str, list[dict[str, Any]]] = {name: [] for name in columns}
        for turn in range(max(ground.bench.rounds, 3)):
            for at in range(len(columns)):
                name = columns[(at + turn) % len(columns)]
                try:
                    words = ("beside", f"../{path.name}", count, per_commit)
                    heard[name].append(ground.sessions[name].ask(*words))
                except Failed as error:
                    if name == OURS:
                        row.note = str(error)[:70]
        said = []
        for name, answers in heard.items():
            if not answers:
                continue
            share = 100 * median(answer["share"] for answer in answers)
            commits = median(answer["commits_per_second"] for answer in answers)
            if name == OURS:
                row.value = share
                said.append(f"{commits:.0f} commits/s")
            else:
                said.append(f"{name} {share:.0f} % at {commits:.0f}")
        row.note = "; ".join([row.note, *said] if row.note else said)
        rows.append(row)
    return rows


def memory(ground: Ground) -> Row:
    """Peak of one large transaction above a process with the same arrays and imports."""
    bench, count = ground.bench, ground.scaled(MEMORY_KEYS)
    case = f"{amount(count)} random inserts in one transaction"
    row = Row("engine: memory", case, bars.ENGINE_MEMORY)
    if missing := ground.sessions[OURS].missing:
        row.note = missing[:70]
        return row
    path, store = ground.keys("random", count), ground.folder / "memory.img"

    def run(what: str) -> Callable[[], Any]:
        arguments = [store, path, count, min(MEMORY_CALL, count)]
        return bench.command(
            [str(bench.python), str(HERE / "memory.py"), what, *map(str, arguments)]
        )

    try:
        runners = {f"{OURS} hold": run("hold"), OURS: run("insert")}
        cells = bench.measured("engine memory", in_turn(runners, rounds=1, budget=bench.budget))
        hold, whole = cells.values()
        if hold.ok and whole.ok:
            row.value = max(whole.peak - hold.peak, 0.0)
            row.note = f"{whole.peak:.1f} - {hold.peak:.1f} MiB, {whole.wall:.1f} s"
            wrong = run("check")().failed
            row.answers = f"DIFFER: {wrong}" if wrong else "same"
        else:
            row.note = hold.failed or whole.failed
    finally:
        store.unlink(missing_ok=True)
    return row
