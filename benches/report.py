"""Prints what was measured: every cell, and then the table of bars."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bars import Row
from cases import OURS
from measure import NOISY, Cell, paired

CELL_HEAD = ("case", "tool", "wall ms", "cpu ms", "peak MiB", "n", "spread", "time x", "peak x")
ROW_HEAD = ("work", "case", "figure", "to reach", "stretch", "", "against", "answers", "note")
NUMBERS = frozenset({2, 3, 4, 5, 6, 7, 8})


def width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def table(rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset()) -> str:
    """Columns padded to their widest cell, a rule below the first row."""
    widths = [max(width(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = []
        for at, text in enumerate(row):
            space = " " * (widths[at] - width(text))
            cells.append(space + text if at in right else text + space)
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * size for size in widths))
    return "\n".join(lines)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join(lines)


def cell_rows(case: str, cells: Mapping[str, Cell]) -> list[tuple[str, ...]]:
    """One line a tool. The ratios are the tool's over thinmeta's: above 1, thinmeta took less."""
    rows: list[tuple[str, ...]] = []
    for name, cell in cells.items():
        if not cell.ok:
            rows.append((case, name, cell.failed or "not run", *[""] * 6))
            continue
        base = cells.get(OURS)
        time_x = paired(base, cell, lambda sample: sample.wall) if base else None
        peak_x = paired(base, cell, lambda sample: sample.peak) if base else None
        called = not cell.peak or name.endswith(" call")
        rows.append(
            (
                case,
                name,
                f"{cell.wall * 1e3:.1f}" if cell.wall >= 0.01 else f"{cell.wall * 1e3:.3f}",
                f"{cell.cpu * 1e3:.1f}",
                "" if called else f"{cell.peak:.1f}",
                str(len(cell.kept)),
                f"{cell.spread:.2f}" + ("!" if cell.spread > NOISY else ""),
                f"{time_x:.2f}" if time_x is not None else "",
                f"{peak_x:.2f}" if peak_x is not None and not called else "",
            )
        )
    return rows


def bar_rows(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    lines: list[tuple[str, ...]] = []
    section = ""
    for row in sorted(rows, key=lambda row: order(rows, row)):
        lines.append(
            (
                row.section if row.section != section else "",
                row.case,
                row.bar.text(row.value) or "-",
                row.bar.limit(row.bar.reach),
                row.bar.limit(row.bar.stretch),
                row.mark,
                row.against,
                row.answers,
                row.note,
            )
        )
        section = row.section
    return lines


def order(rows: Sequence[Row], row: Row) -> int:
    """Where a row's section began, so that sections stay together."""
    return next(at for at, other in enumerate(rows) if other.section == row.section)


def verdict(rows: Sequence[Row]) -> str:
    marks = [row.mark for row in rows]
    counted = [(marks.count(mark), mark) for mark in ("stretch", "pass", "MISS", "WRONG")]
    other = sum(mark.startswith("(") for mark in marks)
    counted += [(other, "(against an older 1.x)"), (marks.count(""), "not measured")]
    return ", ".join(f"{count} {mark}" for count, mark in counted if count)


def noise(cells: Mapping[str, Mapping[str, Cell]]) -> str:
    spreads = sorted(
        cell.spread
        for case in cells.values()
        for cell in case.values()
        if cell.ok and len(cell.kept) > 1
    )
    if not spreads:
        return "noise: nothing was run twice"
    middle = spreads[len(spreads) // 2]
    high = sum(spread > NOISY for spread in spreads)
    return (
        f"noise: wall time's max/min over a cell's runs is {middle:.2f} in the middle and "
        f"{spreads[-1]:.2f} at worst; {high} of {len(spreads)} cells are above {NOISY} (marked !)"
    )


def as_json(
    facts: Mapping[str, Any], rows: Sequence[Row], cells: Mapping[str, Mapping[str, Cell]]
) -> dict[str, Any]:
    return {
        "facts": dict(facts),
        "bars": [asdict(row) | {"mark": row.mark} for row in rows],
        "cells": [
            {
                "case": case,
                "tool": name,
                "failed": cell.failed,
                "runs": [asdict(sample) for sample in cell.kept],
            }
            for case, tools in cells.items()
            for name, cell in tools.items()
        ],
    }


def show_progress(case: str, cells: Mapping[str, Cell]) -> None:
    walls = ", ".join(
        f"{name} {cell.wall * 1e3:.1f} ms" if cell.ok else f"{name}: {cell.failed or 'not run'}"
        for name, cell in cells.items()
    )
    print(f"{case}: {walls}", file=sys.stderr, flush=True)
