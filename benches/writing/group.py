"""The group `pools`: changing pools and writing volumes, beside plain files on the same disk."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bars
from bars import Bar, Row, amount
from engine.sessions import HERE, Asked, Failed, Session
from measure import Cell, Runner, Sample, in_turn, paired
from writing import columns
from writing.plain import BLOCK_BYTES, Content

if TYPE_CHECKING:
    from cases import Bench

OURS = "thinmeta"
STORE = "thinmeta Store"
PLAIN = "plain file"

MAPPINGS = 5_000_000  # at scale 1
CALLS = 5
LARGE, SMALL = 20_000_000, 1000
SNAPSHOTS = 20  # a run
COMMITS, COMMIT_SLICES = 1000, 20
UNHURRIED = math.inf  # these cells are slices of one work, and all of it is to be done


@dataclass(frozen=True)
class Writing:
    """Blocks written in sequence: so many flushes a slice, after each of so many blocks."""

    name: str
    per_flush: int
    flushes: int
    slices: int
    bar: Bar


WRITINGS = (
    Writing("a flush every 16 MiB", (16 << 20) // BLOCK_BYTES, 4, 8, bars.POOL_WRITE),
    Writing("a flush every block", 1, 64, 16, bars.POOL_WRITE_EACH),
)


@dataclass
class Ground:
    """What all cells share: the sessions, and the folder that their files are in."""

    bench: Bench
    folder: Path
    sessions: dict[str, Session]

    def scaled(self, number: int) -> int:
        return max(round(number * self.bench.scale), 1)

    def numbers(self, name: str, count: int, among: int) -> Path:
        """A file of so many different numbers below `among`, in random order."""
        path = self.folder / f"{name}-{count}"
        if path.exists() and path.stat().st_size == 8 * count:
            return path
        path.write_bytes(columns.chosen(among, count, seed=len(name)))
        return path

    def ask(self, *words: object) -> dict[str, Any]:
        return self.sessions[OURS].ask(*words)

    def asking(
        self, words: tuple[object, ...], before: tuple[object, ...], asked: Asked, look: Any
    ) -> Runner:
        """One of our own requests as a run, and a look at what it has left."""

        def run() -> Sample:
            try:
                self.ask(*before)
                answer = self.ask(*words)
                asked.note(OURS, answer)
                asked.note(OURS, self.ask(*look))
            except Failed as error:
                return Sample(failed=str(error)[:70])
            return Sample(answer["seconds"], answer["cpu"])

        return run

    def cells(self, case: str, runners: Mapping[str, Runner], slices: int = 0) -> dict[str, Cell]:
        """Runs of the whole work, as many as there are rounds; or slices of it."""
        rounds, budget = slices or self.bench.rounds, 2 * self.bench.budget
        ran = in_turn(
            runners,
            rounds=rounds,
            budget=UNHURRIED if slices else budget,
            patient=not slices,
        )
        return self.bench.measured(f"pools {case}", ran)

    def close(self) -> None:
        for session in self.sessions.values():
            session.close()
        for name in ("pool", "data", "plain", "filled"):
            (self.folder / name).unlink(missing_ok=True)


def writing(bench: Bench) -> list[Row]:
    """All rows of the group."""
    folder = bench.folder / "writing"
    folder.mkdir(parents=True, exist_ok=True)
    command = [str(bench.python), "-m", "writing.session"]
    sessions = [Session(name, [*command, name, str(folder)]) for name in (OURS, STORE, PLAIN)]
    ground = Ground(bench, folder, {session.name: session for session in sessions})
    try:
        for session in sessions:
            session.start()
            if session.missing:
                bench.say(f"pools: no {session.name}: {session.missing}")
        rows = [*mappings(ground), *snapshots(ground)]
        for cell in WRITINGS:
            rows += volume(ground, cell)
        return [*rows, commits(ground)]
    finally:
        ground.close()


def spread(cell: Cell) -> str:
    return f"spread {cell.spread:.2f}"


def mappings(ground: Ground) -> list[Row]:
    """Putting many mappings in at random, and taking them out again."""
    count = ground.scaled(MAPPINGS)
    virtual = ground.numbers("virtual", count, count)
    data = ground.numbers("data", count, count + count // 2)
    section = "pools: many mappings"
    rows = [
        Row(section, f"{amount(count)} random in one transaction", bars.POOL_INSERT),
        Row(section, f"the same, {CALLS} calls", bars.POOL_INSERT),
        Row(section, "the same in one call, memory", bars.POOL_MEMORY),
        Row(section, f"delete a device of {amount(count)}", bars.POOL_DELETE),
        Row(section, f"remove a range of {amount(count // 2)}", bars.POOL_REMOVE),
    ]
    places = columns.in_order(columns.read(str(virtual), count), columns.read(str(data), count))
    for row, calls in zip(rows, (1, CALLS), strict=False):
        insert(ground, row, virtual, data, places, calls)
    memory(ground, rows[2], virtual, data)
    try:
        ground.ask("insert", virtual.name, data.name, count, count)
        ground.ask("keep", "filled")
    except Failed as error:
        rows[3].note = rows[4].note = str(error)[:70]
        return rows
    delete(ground, rows[3], count)
    remove(ground, rows[4], places)
    return rows


def insert(ground: Ground, row: Row, virtual: Path, data: Path, places: Any, calls: int) -> None:
    """A store of ours does the same without a pool's counts: how much they cost."""
    count = len(places)
    words = ("insert", virtual.name, data.name, count, math.ceil(count / calls))
    look = ("mappings", 0, count)
    asked = Asked({"mapped": count, "data": columns.crc(places), "clean": True})

    def runner(name: str) -> Runner:
        session = ground.sessions[name]

        def run() -> Sample:
            try:
                answer = session.ask(*words)
                asked.note(name, answer)
                asked.note(name, session.ask(*look))
            except Failed as error:
                return Sample(failed=str(error)[:70])
            return Sample(answer["seconds"], answer["cpu"])

        return run

    cells = ground.cells(f"insert, calls: {calls}", {OURS: runner(OURS), STORE: runner(STORE)})
    ours, theirs = cells.values()
    row.note, row.answers, row.against = ours.failed, asked.verdict(), "a store of ours"
    if ours.ok:
        row.value = count / ours.wall / 1e6
        ratio = paired(ours, theirs, lambda sample: sample.wall)
        row.note = f"{ratio:.2f}x of it; {spread(ours)}" if ratio else spread(ours)
        if not all(answer.get("numpy", True) for answer in asked.heard[OURS]):
            row.note += "; no NumPy, from arrays"


def memory(ground: Ground, row: Row, virtual: Path, data: Path) -> None:
    """Peak of the transaction above a process with the same arrays and imports."""
    bench, pool = ground.bench, ground.folder / "pool"
    count = virtual.stat().st_size // 8
    path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))

    def run(what: str) -> Runner:
        arguments = [str(word) for word in (what, pool, virtual, data, count)]
        command = [str(bench.python), "-m", "writing.memory", *arguments]
        return bench.command(command, {"PYTHONPATH": path})

    cells = ground.cells("memory", {f"{OURS} hold": run("hold"), OURS: run("insert")})
    hold, whole = cells.values()
    row.note = hold.failed or whole.failed
    if hold.ok and whole.ok:
        row.value = max(whole.peak - hold.peak, 0.0)
        row.note = f"{whole.peak:.1f} - {hold.peak:.1f} MiB"
        asked = Asked({"mapped": count, "clean": True})
        try:
            asked.note(OURS, ground.ask("mappings", 0, count))
        except Failed as error:
            row.note = str(error)[:70]
        row.answers = asked.verdict()


def delete(ground: Ground, row: Row, count: int) -> None:
    asked = Asked({"mapped": 0, "devices": 0, "free": 2 * count, "clean": True})
    run = ground.asking(("delete",), ("restore", "filled"), asked, ("mappings", 0, 0))
    cell = ground.cells("delete", {OURS: run})[OURS]
    row.answers, row.note = asked.verdict(), cell.failed
    if cell.ok:
        row.value = cell.wall
        row.note = f"{amount(round(count / cell.wall))}/s; {spread(cell)}"


def remove(ground: Ground, row: Row, places: Any) -> None:
    """The half in the middle."""
    count = len(places)
    begin, end = count // 4, count // 4 + count // 2
    left, gone = count - (end - begin), end - begin
    asked = Asked(
        {
            "removed": gone,
            "mapped": left,
            "free": 2 * count - left,
            "data": columns.crc(places[:begin]),
            "clean": True,
        }
    )
    words = ("remove_range", begin, end)
    run = ground.asking(words, ("restore", "filled"), asked, ("mappings", 0, begin))
    cell = ground.cells("remove_range", {OURS: run})[OURS]
    row.answers, row.note = asked.verdict(), cell.failed
    if cell.ok:
        row.value = gone / cell.wall / 1e6
        row.note = spread(cell)


def snapshots(ground: Ground) -> list[Row]:
    """One of a small device and one of a large: what is ours in it, and that it is the same."""
    sizes = {amount(count): count for count in (SMALL, ground.scaled(LARGE))}
    small, large = sizes
    section = "pools: a snapshot"
    rows = [
        Row(section, f"create_snapshot of {large}", bars.POOL_SNAPSHOT),
        Row(section, f"create_snapshot, {large} against {small}", bars.POOL_SAME),
        Row(section, f"with its commit, CPU, {large}", bars.POOL_SNAPSHOT),
        Row(section, f"with its commit, {large} against {small}", bars.POOL_SAME),
    ]
    asked, firsts = Asked({"alike": True, "clean": True}), dict.fromkeys(sizes, 0.0)

    def runner(size: str, until: str) -> Runner:
        def run() -> Sample:
            try:
                answer = ground.ask("snapshot", f"mapped-{sizes[size]}", SNAPSHOTS, until)
            except Failed as error:
                return Sample(failed=str(error)[:70])
            asked.note(OURS, answer)
            firsts[size] = firsts[size] or answer["first"]
            return Sample(answer["seconds"], answer["cpu"])

        return run

    try:
        for count in sizes.values():
            ground.ask("fill", f"mapped-{count}", count)
        call, commit = (
            ground.cells(f"snapshot, {until}", {size: runner(size, until) for size in sizes})
            for until in ("call", "commit")
        )
        for count in sizes.values():
            asked.note(OURS, ground.ask("shut", f"mapped-{count}"))
    except Failed as error:
        rows[0].note = str(error)[:70]
        return rows
    for row, cells in zip(rows, (call, call, commit, commit), strict=True):
        row.answers = asked.verdict()
        row.note = cells[large].failed or cells[small].failed
    if call[large].ok and commit[large].ok:
        rows[0].value, rows[2].value = call[large].wall * 1e3, commit[large].cpu * 1e3
        rows[0].note = f"the first {firsts[large] * 1e3:.2f} ms; {spread(call[large])}"
        rows[2].note = f"wall {commit[large].wall * 1e3:.2f} ms; {spread(commit[large])}"
    rows[1].value = paired(call[small], call[large], lambda sample: sample.wall)
    rows[3].value = paired(commit[small], commit[large], lambda sample: sample.wall)
    return rows


def volume(ground: Ground, cell: Writing) -> list[Row]:
    """A volume written in sequence, beside a plain file that is flushed as often."""
    flushes = ground.scaled(cell.flushes)
    count = flushes * cell.per_flush
    blocks = count * (cell.slices + 1)
    rows = [
        Row("pools: a volume written", f"new blocks, {cell.name}", cell.bar),
        Row("pools: a volume written", f"mapped blocks, {cell.name}", cell.bar),
    ]
    sides = (ground.sessions[OURS], ground.sessions[PLAIN])
    try:
        for side in sides:
            side.ask("fresh_volume", blocks)
        for turn, row in enumerate(rows):
            if turn:
                for side in sides:
                    side.ask("again")
            asked = Asked({})
            runners = {
                side.name: side.runner(asked, "write", count, cell.per_flush) for side in sides
            }
            cells = ground.cells(row.case, runners, cell.slices)
            row.note, row.against = cells[OURS].failed or cells[PLAIN].failed, PLAIN
            ratio = paired(cells[OURS], cells[PLAIN], lambda sample: sample.wall)
            row.value = 100 * ratio if ratio is not None else None
            if not row.note:
                row.note = beside(cells, count, flushes)
            held = Asked({"sha256": content(blocks, turn), "clean": True})
            for side in sides:
                held.note(side.name, side.ask("content"))
            row.answers = held.verdict()
    except Failed as error:
        row = next(row for row in rows if not row.answers)
        row.note = str(error)[:70]
    return rows


def beside(cells: Mapping[str, Cell], count: int, flushes: int) -> str:
    said = []
    for name in (OURS, PLAIN):
        rate = count * BLOCK_BYTES / cells[name].wall / 1e6
        each = cells[name].wall / flushes * 1e3
        said.append(f"{rate:.0f} MB/s, {each:.2f} ms a flush, {spread(cells[name])}")
    return " against ".join(said)


def content(blocks: int, turn: int) -> str:
    digest, written = hashlib.sha256(), Content()
    for number in range(blocks):
        digest.update(written.block(number, turn))
    return digest.hexdigest()


def commits(ground: Ground) -> Row:
    """Transactions of one snapshot, in slices, beside the least that a commit can be."""
    each = max(ground.scaled(COMMITS) // COMMIT_SLICES, 1)
    total = each * (COMMIT_SLICES + 1)
    row = Row("pools: commits", f"{total} of one snapshot each", bars.POOL_COMMITS)
    row.against = "two flushes"
    sides = (ground.sessions[OURS], ground.sessions[PLAIN])
    try:
        for side in sides:
            side.ask("fresh_snapshots")
        asked = Asked({"devices": total + 1, "alike": True, "clean": True})
        runners = {side.name: side.runner(asked, "snapshots", each) for side in sides}
        cells = ground.cells("commits", runners, COMMIT_SLICES)
        asked.note(OURS, ground.ask("devices"))
    except Failed as error:
        row.note = str(error)[:70]
        return row
    ours, floor = cells[OURS], cells[PLAIN]
    row.value = paired(ours, floor, lambda sample: sample.wall)
    row.answers, row.note = asked.verdict(), ours.failed or floor.failed
    if not row.note:
        row.note = f"{each / ours.wall:.0f}/s against {each / floor.wall:.0f}/s; {spread(ours)}"
    return row
