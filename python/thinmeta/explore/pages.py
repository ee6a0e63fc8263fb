"""What an explorer shows of a place: facts, a table whose rows lead on, and bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from thinmeta.explore.places import BlockPlace, OwnersPlace, Place
    from thinmeta.explore.seen import Trouble

__all__ = ["MOST_ROWS", "Page", "Row", "fields_of_page", "hex_lines", "part_of"]

#: Rows of a page; more are on the next one.
MOST_ROWS = 500


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a page's table.

    Attributes:
        cells: What it says, one text for each head.
        to: Where it leads.
        code: The code of what is wrong with what it says; empty: nothing is.
    """

    cells: tuple[str, ...]
    to: Place | None = None
    code: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """What there is to be seen at a place.

    Attributes:
        place: Where it is.
        title: What it is, in a few words.
        facts: Names and what they are.
        troubles: What is wrong here.
        heads: Of the table.
        rows: Of the table, at most :data:`MOST_ROWS`.
        more: Where the table goes on.
        raw: The bytes of the block, where it is one.
    """

    place: Place
    title: str
    facts: tuple[tuple[str, str], ...] = ()
    troubles: tuple[Trouble, ...] = ()
    heads: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()
    more: Place | None = None
    raw: bytes | None = None


def part_of(
    rows: Sequence[Row], place: BlockPlace | OwnersPlace
) -> tuple[tuple[Row, ...], Place | None]:
    """The rows that a page has room for, and where the rest is."""
    end = place.skip + MOST_ROWS
    more = replace(place, skip=end) if len(rows) > end else None
    return tuple(rows[place.skip : end]), more


def hex_lines(raw: bytes) -> list[str]:
    """Bytes as people read them: offset, sixteen bytes, and those that are letters."""
    lines = []
    for at in range(0, len(raw), 16):
        piece = raw[at : at + 16]
        left, right = piece[:8].hex(" "), piece[8:].hex(" ")
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in piece)
        lines.append(f"{at:04x}  {left:23}  {right:23}  {text}")
    return lines


def fields_of_page(page: Page) -> dict[str, Any]:
    """A page for JSON: rows by their heads, places by their words."""
    return {
        "place": _place_fields(page.place),
        "title": page.title,
        "facts": dict(page.facts),
        "findings": [
            {
                "code": trouble.code,
                "severity": trouble.severity,
                "message": trouble.message,
                "block": trouble.block,
            }
            for trouble in page.troubles
        ],
        "heads": list(page.heads),
        "rows": [
            {
                "cells": list(row.cells),
                "to": None if row.to is None else _place_fields(row.to),
                "code": row.code or None,
            }
            for row in page.rows
        ],
        "more": None if page.more is None else _place_fields(page.more),
        "bytes": None if page.raw is None else page.raw.hex(),
    }


def _place_fields(place: Place) -> dict[str, Any]:
    from dataclasses import asdict

    kind = type(place).__name__.removesuffix("Place").lower()
    return {"kind": kind, **asdict(place)}
