"""Measures thinmeta beside every peer on this machine, in one run.

    benches/run [GROUP ...] [--scale 0.2] [--rounds 5] [--json FILE] [--markdown FILE]

Groups: start check dump delta ls rebuild find volume engine pools backup (default: all of these),
and archivers. README.md tells how to read it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import pools
import report
from bars import Row
from cases import GROUPS, ON_REQUEST, Bench
from client import Worker
from measure import Launcher
from peers import ROOT, Peer, Thinmeta, find_peers, find_thinmeta

DEFAULT_SCALE = 0.2


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benches/run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("group", nargs="*", help=" ".join(GROUPS))
    parser.add_argument("--dir", type=Path, default=ROOT / "bench-data", help="where the pools are")
    parser.add_argument(
        "--scale", type=float, default=DEFAULT_SCALE, help="size of the pools; the bars are for 1"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--budget", type=float, help="seconds after which a slow tool is not started again"
    )
    parser.add_argument("--limit", type=float, default=300, help="kill a run after these seconds")
    parser.add_argument("--peer", type=Path, action="append", default=[], help="a pdata_tools")
    parser.add_argument("--thinmeta", type=Path, help="default: .venv/bin/thinmeta")
    parser.add_argument("--no-answers", action="store_true", help="do not compare the answers")
    parser.add_argument("--scattered", action="store_true", help="also delta of D1s and D20s")
    parser.add_argument("--json", type=Path, help="write every run to this file")
    parser.add_argument("--markdown", type=Path, help="write the table of bars to this file")
    given = parser.parse_args()
    unknown = set(given.group) - set(GROUPS)
    if unknown:
        parser.error(f"no such group: {', '.join(sorted(unknown))}")
    return given


def wanted_pools(groups: list[str], *, scattered: bool) -> list[str]:
    names = {name for group in groups for name in GROUPS[group][1]}
    if scattered and "delta" in groups:
        names |= {"D1s", "D20s"}
    return [name for name in pools.NAMES if name in names]


def restorer(peers: list[Peer]) -> tuple[list[str], bool]:
    """The thin_restore to make pools with, and whether it understands <def> and <ref>."""
    if not peers:
        return [], False
    newest = peers[-1]
    return newest.command("thin_restore", "-q"), newest.is_1x


def machine(peers: list[Peer], ours: Thinmeta | None, scale: float) -> dict[str, Any]:
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "thinmeta": ours.version if ours else None,
        "peers": [peer.version for peer in peers],
        "scale": scale,
        "cores": len(os.sched_getaffinity(0)),
        "processor": model,
        "kernel": platform.release(),
        "load": os.getloadavg()[0],
    }


def heading(facts: dict[str, Any]) -> str:
    peers = ", ".join(facts["peers"]) or "none"
    lines = [
        (
            f"thinmeta {facts['thinmeta'] or 'not found'}; thin-provisioning-tools {peers}; "
            f"scale {facts['scale']:g}"
        ),
        (
            f"{facts['cores']} cores, {facts['processor']}, Linux {facts['kernel']}; "
            f"load at the start {facts['load']:.2f}"
        ),
    ]
    if facts["engines"]:
        lines.append(f"engines: {', '.join(facts['engines'])}")
    if facts["scale"] != 1:
        lines.append("the bars are meant for --scale 1: on small pools start-up weighs more")
    if not any(peer >= "1.3" for peer in facts["peers"]):
        lines.append(
            "no 1.3.x here: what was recorded of it stands in where the last table says so"
        )
    return "\n".join(lines)


def measure(bench: Bench, groups: list[str]) -> list[Row]:
    rows: list[Row] = []
    for group in groups:
        rows += GROUPS[group][0](bench)
    return rows


def main() -> int:
    given = arguments()
    asked = set(given.group) or set(GROUPS) - ON_REQUEST
    groups = [group for group in GROUPS if group in asked]
    # The others take the start-up times and the bare peak from it, but those that need no pool.
    alone = {"engine", "pools", "backup", "archivers"}
    if "start" not in groups and not set(groups) <= alone:
        groups.insert(0, "start")
    began = time.perf_counter()
    peers, ours = find_peers(given.peer), find_thinmeta(given.thinmeta)
    facts = machine(peers, ours, given.scale)
    launcher = Launcher(limit=given.limit)
    command, shared = restorer(peers)
    worker = Worker(ours.python) if ours else None
    bench = Bench(
        launcher=launcher,
        peers=peers,
        ours=ours,
        worker=worker,
        pools=pools.ensure(
            given.dir,
            wanted_pools(groups, scattered=given.scattered),
            given.scale,
            command,
            understands_shared=shared,
        ),
        folder=given.dir,
        scale=given.scale,
        rounds=given.rounds,
        budget=given.budget if given.budget is not None else max(2.0, 15 * given.scale),
        compare=not given.no_answers,
        progress=report.show_progress,
    )
    rows = measure(bench, groups)
    if worker:
        worker.close()
    facts["engines"] = bench.engines
    facts["seconds"] = round(time.perf_counter() - began, 1)
    publish(given, bench, facts, rows)
    return 1 if any(row.mark == "WRONG" for row in rows) else 0


def publish(
    given: argparse.Namespace, bench: Bench, facts: dict[str, Any], rows: list[Row]
) -> None:
    cells = [line for case, tools in bench.cells.items() for line in report.cell_rows(case, tools)]
    bars = [report.ROW_HEAD, *report.bar_rows(rows)]
    closing = f"{report.verdict(rows)}; {facts['seconds']:.0f} s in all"
    said = [heading(facts), report.noise(bench.cells)]
    if bench.launcher.memory_floor:
        said.append(bench.launcher.memory_floor)
    print("\n".join(said), end="\n\n")
    print(report.table([report.CELL_HEAD, *cells], report.NUMBERS), end="\n\n")
    print(report.table(bars, frozenset({2})), end="\n\n")
    print(closing)
    if given.json:
        document = report.as_json(facts, rows, bench.cells)
        given.json.write_text(json.dumps(document, indent=1) + "\n")
    if given.markdown:
        body = "\n\n".join([*said, report.markdown(bars), closing])
        given.markdown.write_text(body + "\n")


if __name__ == "__main__":
    sys.exit(main())
