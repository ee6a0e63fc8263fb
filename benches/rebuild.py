"""Metadata made anew, and the old names: restore, repair, rmap, dumps, packs, thin_delta."""

from __future__ import annotations

import filecmp
import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import bars
from bars import Bar, Row

if TYPE_CHECKING:
    from cases import Bench
    from measure import Cell
    from peers import Peer
    from pools import Pool

OURS = "thinmeta"
METADATA_BYTES = 2 << 30


def rebuilding(bench: Bench) -> list[Row]:
    """All of it; 0.9.0 takes minutes for some, and is never the fastest there."""
    rows: list[Row] = []
    for name, bar in bars.RESTORE.items():
        if pool := bench.pools.get(name):
            rows += _restore(bench, name, pool, bar)
    for name in ("M", "L"):
        if pool := bench.pools.get(name):
            rows.append(_repair(bench, name, pool))
    if pool := bench.pools.get("M"):
        rows.append(_rmap(bench, pool))
        rows += _pack(bench, pool)
    if pool := bench.pools.get("F"):
        rows.append(_dump_to_file(bench, pool))
    rows += [
        _thin_delta(bench, name, pool) for name in ("D1", "D20") if (pool := bench.pools.get(name))
    ]
    return rows


def _is_1x(peer: Peer) -> bool:
    return peer.is_1x


def _row(bench: Bench, section: str, case: str, cells: dict[str, Cell], bar: Bar) -> Row:
    from cases import speed_row

    return speed_row(bench, section, case, cells, bar)


def _room(bench: Bench, name: str) -> Path:
    path = bench.folder / name
    with path.open("wb") as file:
        file.truncate(METADATA_BYTES)
    return path


def _dumped(bench: Bench, image: Path) -> bytes:
    """A hash of all that an image says."""
    if bench.ours is None:
        return b""
    words = bench.ours.command("dump", image)
    with subprocess.Popen(words, stdout=subprocess.PIPE) as dump:
        done = subprocess.run(["sha256sum"], stdin=dump.stdout, capture_output=True, check=True)
    return done.stdout


def _restore(bench: Bench, name: str, pool: Pool, bar: Bar) -> list[Row]:
    xml = bench.folder / f"{name}.restore.xml"
    if bench.ours:
        subprocess.run(bench.ours.command("dump", pool.image, "-o", xml), check=True)
    ours, theirs = _room(bench, "ours.img"), _room(bench, "theirs.img")
    runners = bench.theirs("thin_restore", "-i", xml, "-o", theirs, only=_is_1x)
    runners |= bench.mine("restore", xml, "-o", ours)
    cells = bench.run(f"restore {name}", runners, xml)
    row = _row(bench, "restore", f"restore {name}", cells, bar)
    if bench.compare and bench.ours:
        row.answers = "same" if _dumped(bench, ours) == _dumped(bench, pool.image) else "DIFFER"
    memory = Row("restore, peak memory", f"restore {name}", bars.RESTORE_MEMORY[name])
    if OURS in cells and cells[OURS].ok:
        memory.value = cells[OURS].peak
    for path in (xml, ours, theirs):
        path.unlink(missing_ok=True)
    return [row, memory]


def _repair(bench: Bench, name: str, pool: Pool) -> Row:
    ours, theirs = _room(bench, "ours.img"), _room(bench, "theirs.img")
    runners = bench.theirs("thin_repair", "-i", pool.image, "-o", theirs, only=_is_1x)
    runners |= bench.mine("repair", pool.image, "-o", ours)
    cells = bench.run(f"repair {name}", runners, pool.image)
    row = _row(bench, "repair", f"repair {name}", cells, bars.REPAIR)
    if bench.compare and bench.ours:
        row.answers = "same" if _dumped(bench, ours) == _dumped(bench, pool.image) else "DIFFER"
    for path in (ours, theirs):
        path.unlink(missing_ok=True)
    return row


def _rmap(bench: Bench, pool: Pool) -> Row:
    words = ("--region", "0..1000000000000", pool.image)
    runners = bench.theirs("thin_rmap", *words) | bench.mine("thin_rmap", *words)
    cells = bench.run("rmap M", runners, pool.image)
    return _row(bench, "rmap, whole data device", "rmap M", cells, bars.RMAP)


def _dump_to_file(bench: Bench, pool: Pool) -> Row:
    ours, theirs = bench.folder / "ours.xml", bench.folder / "theirs.xml"
    runners = bench.theirs("thin_dump", pool.image, "-o", theirs, only=_is_1x)
    runners |= bench.mine("thin_dump", pool.image, "-o", ours)
    cells = bench.run("dump F to a file", runners, pool.image)
    row = _row(bench, "dump to a file", "dump F", cells, bars.DUMP_TO_FILE)
    if bench.compare and ours.exists() and theirs.exists():
        row.answers = "same" if filecmp.cmp(ours, theirs, shallow=False) else "DIFFER"
    for path in (ours, theirs):
        path.unlink(missing_ok=True)
    return row


def _pack(bench: Bench, pool: Pool) -> list[Row]:
    """Packed, and unpacked again, in memory: ours waits for the disk, and 1.x does not."""
    place = bench.folder if not os.access("/dev/shm", os.W_OK) else Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="thinmeta-bench-", dir=place) as folder:
        ours, theirs, image, other = (
            Path(folder, name) for name in ("ours.pack", "theirs.pack", "ours.img", "theirs.img")
        )
        words = ("-f", "-i", pool.image, "-o")
        runners = bench.theirs("thin_metadata_pack", *words, theirs, only=_is_1x)
        runners |= bench.mine("thin_metadata_pack", *words, ours)
        cells = bench.run("pack M", runners, pool.image)
        rows = [_row(bench, "pack", "pack M", cells, bars.PACK)]
        if not theirs.exists() or not ours.exists():
            return rows
        # Both unpack what the peer has packed.
        words = ("-f", "-i", theirs, "-o")
        runners = bench.theirs("thin_metadata_unpack", *words, other, only=_is_1x)
        runners |= bench.mine("thin_metadata_unpack", *words, image)
        cells = bench.run("unpack M", runners, theirs)
        rows.append(_row(bench, "unpack", "unpack M", cells, bars.UNPACK))
        if bench.compare and bench.ours and image.exists() and other.exists():
            rows[1].answers = "same" if filecmp.cmp(image, other, shallow=False) else "DIFFER"
            again = bench.ours.command("thin_metadata_unpack", "-f", "-i", ours, "-o", image)
            subprocess.run(again, check=True)
            rows[0].answers = "same" if filecmp.cmp(image, other, shallow=False) else "DIFFER"
    return rows


def _thin_delta(bench: Bench, name: str, pool: Pool) -> Row:
    words = ("--thin1", "1", "--thin2", "2", pool.image)
    runners = bench.theirs("thin_delta", *words) | bench.mine("thin_delta", *words)
    cells = bench.run(f"thin_delta {name}", runners, pool.image)
    return _row(bench, "thin_delta, as 1.x prints it", f"thin_delta {name}", cells, bars.THIN_DELTA)
