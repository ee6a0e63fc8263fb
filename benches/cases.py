"""What is measured: each function runs one group of cases and returns its lines of the table."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import agree
import bars
from backup import backing_up
from backup_archivers import beside_archivers
from bars import Bar, Row
from client import CallFailed, Worker
from engine.group import engine
from measure import Cell, Launcher, Runner, Sample, in_turn, paired, read_whole
from peers import Peer, Thinmeta
from pools import Pool
from rebuild import rebuilding
from writing.group import writing

OURS = "thinmeta"
CALL = "thinmeta call"
BARE = "python -c pass"


@dataclass
class Bench:
    """Everything a case needs; collects the measured cells as it goes."""

    launcher: Launcher
    peers: list[Peer]
    ours: Thinmeta | None
    worker: Worker | None
    pools: Mapping[str, Pool]
    folder: Path
    scale: float
    rounds: int
    budget: float
    compare: bool
    progress: Callable[[str, dict[str, Cell]], None]
    cells: dict[str, dict[str, Cell]] = field(default_factory=dict)
    starts: dict[str, float] = field(default_factory=dict)
    engines: list[str] = field(default_factory=list)

    @property
    def python(self) -> Path:
        """The interpreter of thinmeta's environment, or this one where there is none."""
        return self.ours.python if self.ours else Path(sys.executable)

    @property
    def bare_peak(self) -> float | None:
        cell = self.cells.get("start", {}).get(BARE)
        return cell.peak if cell and cell.ok else None

    def command(self, command: list[str], environment: Mapping[str, str] | None = None) -> Runner:
        return lambda: self.launcher.run(command, environment)

    def mine(self, *arguments: object, name: str = OURS) -> dict[str, Runner]:
        return {name: self.command(self.ours.command(*arguments))} if self.ours else {}

    def theirs(
        self, tool: str, *arguments: object, only: Callable[[Peer], bool] = lambda _: True
    ) -> dict[str, Runner]:
        """Each peer; those that sleep also with their sleep cut short."""
        runners: dict[str, Runner] = {}
        for peer in filter(only, self.peers):
            shown = [peer]
            if peer.is_1x and tool in ("thin_check", "thin_ls") and self.launcher.nosleep:
                shown.append(peer.without_sleep(self.launcher.nosleep))
            for one in shown:
                runners[one.name] = self.command(one.command(tool, *arguments), one.environment)
        return runners

    def run(self, case: str, runners: Mapping[str, Runner], image: Path | None) -> dict[str, Cell]:
        if image:
            read_whole(image)
        return self.measured(case, in_turn(runners, rounds=self.rounds, budget=self.budget))

    def measured(self, case: str, cells: dict[str, Cell]) -> dict[str, Cell]:
        self.cells[case] = cells
        self.progress(case, cells)
        return cells

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def work(self, cells: Mapping[str, Cell]) -> dict[str, Cell]:
        """The peers' cells, without the one that sleeps where its work was read too."""
        return {
            name: cell
            for name, cell in cells.items()
            if cell.ok and name[0].isdigit() and f"{name} work" not in cells
        }

    def newest_1x(self) -> Peer | None:
        return next((peer for peer in reversed(self.peers) if peer.is_1x), None)


def fastest(
    bench: Bench, cells: Mapping[str, Cell], ours: str, *, less_start: bool = False
) -> tuple[float | None, str]:
    """Our speed against the fastest peer (median of the rounds' ratios), and its name."""
    best: tuple[float, str] | None = None
    for name, cell in bench.work(cells).items():
        less = bench.starts.get(name.removesuffix(" work"), 0.0) if less_start else 0.0
        if best is None or cell.wall - less < best[0]:
            best = (cell.wall - less, name)
    if best is None:
        return None, ""
    name = best[1]
    less = bench.starts.get(name.removesuffix(" work"), 0.0) if less_start else 0.0
    if ours not in cells:
        return None, name
    return paired(cells[ours], cells[name], lambda sample: sample.wall, less=less), name


def speed_row(
    bench: Bench, section: str, case: str, cells: Mapping[str, Cell], bar: Bar, ours: str = OURS
) -> Row:
    value, name = fastest(bench, cells, ours, less_start=ours == CALL)
    return Row(section, case, bar, value, name, note=failure(cells, ours))


def failure(cells: Mapping[str, Cell], name: str) -> str:
    return cells[name].failed if name in cells else ""


def memory_row(bench: Bench, case: str, cells: Mapping[str, Cell]) -> Row:
    """Our peak above the bare interpreter's, as a share of the newest 1.x's whole peak."""
    row = Row("peak memory above a bare interpreter's", case, bars.MEMORY)
    peer, ours, bare = bench.newest_1x(), cells.get(OURS), bench.bare_peak
    theirs = cells[peer.name].peak if peer and peer.name in cells and cells[peer.name].ok else None
    row.against = peer.name if peer else ""
    if peer is None or peer.numbers < (1, 3):
        recorded = bars.RECORDED_PEAK.get(case) if bench.scale == 1 else None
        row.stands_in = recorded is None
        if recorded:
            theirs, row.against = recorded, f"{bars.RECORDED_VERSION} recorded"
    if ours and ours.ok and theirs and bare is not None:
        row.value = max(ours.peak - bare, 0.0) / theirs
        row.note = f"{ours.peak:.1f} - {bare:.1f} MiB against {theirs:.1f}"
    return row


def absolute_row(section: str, case: str, cell: Cell | None, bar: Bar) -> Row:
    row = Row(section, case, bar)
    if cell and cell.ok:
        row.value = cell.wall * 1e3
    elif cell:
        row.note = cell.failed
    return row


def start(bench: Bench) -> list[Row]:
    """Start to exit of what does next to nothing."""
    runners = bench.theirs("thin_check", "--version")
    runners = {name: run for name, run in runners.items() if not name.endswith(" work")}
    runners |= bench.mine("--version")
    if bench.ours:
        runners[BARE] = bench.command([str(bench.ours.python), "-c", "pass"])
    cells = bench.run("start", runners, None)
    bench.starts = {name: cell.wall for name, cell in cells.items() if cell.ok}
    section = "start to exit"
    rows = [absolute_row(section, "thinmeta --version", cells.get(OURS), bars.START)]
    pool = bench.pools.get("M")
    if pool:
        runners = bench.theirs("thin_check", "-q", "--super-block-only", pool.image)
        runners = {name: run for name, run in runners.items() if not name.endswith(" work")}
        runners |= bench.mine("check", "-q", "--super-block-only", pool.image)
        cells = bench.run("check --super-block-only M", runners, pool.image)
        case = "check --super-block-only"
        rows.append(absolute_row(section, case, cells.get(OURS), bars.START))
    return rows


def check(bench: Bench) -> list[Row]:
    rows: list[Row] = []
    for name, bar in bars.CHECK.items():
        pool = bench.pools.get(name)
        if pool:
            rows += check_one(bench, f"check {name}", pool, bar)
    return rows


def check_one(bench: Bench, case: str, pool: Pool, bar: Bar) -> list[Row]:
    path, worker = str(pool.image), bench.worker
    runners = bench.theirs("thin_check", "-q", path) | bench.mine("check", "-q", path)
    if worker:
        runners[CALL] = lambda: worker.sample("check", path=path)
    cells = bench.run(case, runners, pool.image)
    # Every tool finds a sound pool sound, or its cell would have failed.
    whole = speed_row(bench, "check, whole process", case, cells, bar)
    call = speed_row(bench, "check, the call alone", case, cells, bars.CHECK_CALL, CALL)
    if bench.ours and bench.compare:
        whole.answers = agree.check(bench.worker, path)
    rows = [whole, call]
    if case in bars.RECORDED_CPU:
        rows.append(cpu_row(bench, case, cells))
    return [*rows, memory_row(bench, case, cells)]


def cpu_row(bench: Bench, case: str, cells: Mapping[str, Cell]) -> Row:
    """Our CPU time as a share of 1.3.x's, or of what its recorded share of 1.1.0's makes it."""
    row = Row("check, CPU time", case, bars.CHECK_CPU)
    peer = bench.newest_1x()
    if peer is None:
        return row
    factor, row.against = 1.0, peer.name
    if peer.version == "1.1.0":
        factor = bars.RECORDED_CPU[case]
        row.against = f"1.1.0 x {factor:.2f}, {bars.RECORDED_VERSION} recorded"
    if OURS in cells and peer.name in cells:
        inverse = paired(cells[peer.name], cells[OURS], lambda sample: sample.cpu)
        row.value = inverse / factor if inverse is not None else None
    return row


def dump(bench: Bench) -> list[Row]:
    rows: list[Row] = []
    section = "dump to /dev/null"
    for name in ("M", "F", "L"):
        pool = bench.pools.get(name)
        if not pool:
            continue
        out = (pool.image, "-o", "/dev/null")
        runners = bench.theirs("thin_dump", *out) | bench.mine("dump", *out)
        shared = f"{OURS} --shared"
        if name == "L":
            runners |= bench.mine("dump", "--shared", *out, name=shared)
        case = f"dump {name}"
        cells = bench.run(case, runners, pool.image)
        if name != "L":
            rows.append(speed_row(bench, section, case, cells, bars.DUMP))
        else:
            new = bench.newest_1x()
            old = {key: cell for key, cell in cells.items() if not is_1x(bench, key)}
            same = {key: cell for key, cell in cells.items() if key in (shared, new and new.name)}
            rows.append(speed_row(bench, section, "dump L", old, bars.DUMP))
            rows.append(speed_row(bench, section, "dump L --shared", same, bars.DUMP, shared))
            rows[-2].note = rows[-2].note or full_against_shared(bench, cells)
        if bench.ours and bench.compare:
            at = -2 if name == "L" else -1
            rows[at].answers = agree.dump(bench.ours, bench.peers, pool)
            if name == "L":
                rows[-1].answers = agree.shared_dump(bench.ours, bench.newest_1x(), pool)
        rows.append(memory_row(bench, case, cells))
    return rows


def is_1x(bench: Bench, name: str) -> bool:
    return any(peer.name == name and peer.is_1x for peer in bench.peers)


def full_against_shared(bench: Bench, cells: Mapping[str, Cell]) -> str:
    """Ours prints every device in full and 1.x prints shared parts once: not a bar, but shown."""
    peer = bench.newest_1x()
    if peer is None or OURS not in cells or peer.name not in cells:
        return ""
    value = paired(cells[OURS], cells[peer.name], lambda sample: sample.wall)
    return f"{value:.2f}x of {peer.name}, which prints shared parts once" if value else ""


def delta(bench: Bench) -> list[Row]:
    rows: list[Row] = []
    for name in ("D1", "D20", "D1s", "D20s"):
        pool = bench.pools.get(name)
        if not pool:
            continue
        case, path = f"delta {name}", pool.image
        runners = bench.theirs("thin_delta", "--thin1", "1", "--thin2", "2", path)
        runners |= bench.mine("delta", path, "1", "2")
        if bench.worker:
            runners |= {CALL: delta_call(bench.worker, str(path))}
        cells = bench.run(case, runners, path)
        wanted = name in ("D1", "D20")
        if wanted:
            row = speed_row(bench, "delta, the command", case, cells, bars.DELTA)
            if bench.worker and bench.compare:
                row.answers = agree.delta(bench.worker, bench.peers, pool)
            rows += [row, memory_row(bench, case, cells)]
        if name == "D1":
            row = speed_row(bench, "delta, the call alone", case, cells, bars.DELTA_CALL, CALL)
            if CALL in cells and cells[CALL].ok:
                row.note = f"{cells[CALL].wall * 1e3:.2f} ms, {cells[CALL].peak:.1f} MiB more"
            rows.append(row)
        if name == "D20" and bench.worker:
            note_proportion(bench, rows)
    return rows


def delta_call(worker: Worker, path: str) -> Runner:
    """The call with its result taken into Arrow or NumPy, whichever is there."""
    into = "buffers"
    for module, name in (("pyarrow", "arrow"), ("numpy", "numpy")):
        if worker.has(module):
            into = name
            break
    return lambda: worker.sample("delta", path=path, left=1, right=2, into=into)


def note_proportion(bench: Bench, rows: list[Row]) -> None:
    """Time by differing leaf in D1 and D20: about the same if time follows the differences."""
    said = []
    for name in ("D1", "D20"):
        cell, pool = bench.cells.get(f"delta {name}", {}).get(CALL), bench.pools.get(name)
        if cell and cell.ok and pool and pool.leaves_differing:
            said.append(f"{name} {cell.wall / pool.leaves_differing * 1e6:.1f}")
    row = next((row for row in rows if row.section == "delta, the call alone"), None)
    if row and len(said) == 2:
        row.note += f"; us by differing leaf: {', '.join(said)}"


def ls(bench: Bench) -> list[Row]:
    rows: list[Row] = []
    for name in ("M", "L", "F"):
        pool = bench.pools.get(name)
        if not pool:
            continue
        case = f"ls {name}"
        runners = bench.theirs("thin_ls", pool.image) | bench.mine("ls", pool.image)
        cells = bench.run(case, runners, pool.image)
        rows.append(absolute_row("ls, default columns", case, cells.get(OURS), bars.LS))
        if name == "M":
            rows.append(memory_row(bench, case, cells))
    for name in ("M", "F"):
        pool = bench.pools.get(name)
        if not pool:
            continue
        case, columns = f"ls exclusive {name}", "dev,mapped,exclusive,shared"
        runners = bench.theirs("thin_ls", "-o", columns.upper(), pool.image)
        runners |= bench.mine("ls", "-o", columns, pool.image)
        cells = bench.run(case, runners, pool.image)
        row = speed_row(bench, "ls, exclusive and shared", case, cells, bars.LS_EXCLUSIVE)
        if bench.ours and bench.compare:
            row.answers = agree.ls(bench.ours, bench.peers, pool)
        rows += [row, memory_row(bench, case, cells)]
    return rows


def find(bench: Bench) -> list[Row]:
    """`find` and `find_many` on S: 16 MiB of metadata at scale 1, within the default cache."""
    one = Row("find from Python", "find, net of the loop", bars.FIND)
    many = Row("find from Python", "find_many, 1 M random keys", bars.FIND_MANY)
    pool = bench.pools.get("S")
    if bench.worker and pool:
        read_whole(pool.image)
        try:
            answer = bench.worker.call("find", path=str(pool.image), rounds=max(bench.rounds, 3))
        except CallFailed as error:
            one.note = many.note = str(error)[:70]
        else:
            one.value, many.value = answer["net_ns"], answer["many_per_second"] / 1e6
            one.note = f"loop {answer['loop_ns']:.0f} ns, spread {answer['spread']:.2f}"
            many.note = f"spread {answer['many_spread']:.2f}"
    return [one, many]


def volume(bench: Bench) -> list[Row]:
    """A volume read end to end through Python, beside `cat` of a file with as many bytes."""
    row = Row("volume read in sequence", "V", bars.VOLUME, against="cat")
    pool, worker = bench.pools.get("V"), bench.worker
    if not pool or not pool.data:
        return [row]
    arguments = {
        "path": str(pool.image),
        "data": str(pool.data),
        "size": pool.volume_bytes,
        "buffer_bytes": 256 << 10,
    }
    runners: dict[str, Runner] = {"cat": bench.command(["cat", str(pool.data)])}
    if worker:

        def read() -> Sample:
            return worker.sample("read_volume", **arguments, digest=False)

        runners[CALL] = read
    read_whole(pool.image)
    cells = bench.run("read V", runners, pool.data)
    if CALL in cells:
        value = paired(cells[CALL], cells["cat"], lambda sample: sample.wall)
        row.value = value * 100 if value is not None else None
        row.note = cells[CALL].failed
        if cells[CALL].ok:
            row.note = f"{pool.volume_bytes / cells[CALL].wall / 1e9:.1f} GB/s"
    if worker and bench.compare:
        row.answers = agree.volume(worker, pool, arguments)
    return [row]


GROUPS: dict[str, tuple[Callable[[Bench], list[Row]], frozenset[str]]] = {
    "start": (start, frozenset({"M"})),
    "check": (check, frozenset({"M", "F", "L"})),
    "dump": (dump, frozenset({"M", "F", "L"})),
    "delta": (delta, frozenset({"D1", "D20"})),
    "ls": (ls, frozenset({"M", "F", "L"})),
    "rebuild": (rebuilding, frozenset({"M", "F", "L", "D1", "D20"})),
    "find": (find, frozenset({"S"})),
    "volume": (volume, frozenset({"V"})),
    "engine": (engine, frozenset()),
    "pools": (writing, frozenset()),
    "backup": (backing_up, frozenset()),
    "archivers": (beside_archivers, frozenset()),
}

# What is left out unless it is named: longer than all others together, and 40 GB of disk.
ON_REQUEST = frozenset({"archivers"})
