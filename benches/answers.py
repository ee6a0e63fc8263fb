"""Compares what the tools say: a fast wrong answer is no result."""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

RANGE = re.compile(rb'<(\w+) begin="(\d+)" length="(\d+)"/>')
KINDS = {b"different": "changed", b"left_only": "left_only", b"right_only": "right_only"}
NAME = re.compile(rb'name="(\d+)"')
ATTRIBUTES = re.compile(rb'(\w+)="([^"]*)"')

# A run of mappings: first virtual block, first data block, length, time.
Mapped = tuple[int, int, int, int]


class NoAnswer(Exception):
    """A tool could not be run or failed."""


def lines_of(command: Sequence[str]) -> Iterator[bytes]:
    """What a command prints, line by line."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=1 << 20
    ) as process:
        if process.stdout is not None:
            yield from process.stdout
    if process.returncode != 0:
        raise NoAnswer(f"{command[0]}: status {process.returncode}")


def dump_digests(command: Sequence[str]) -> tuple[str, str]:
    """Digests of a dump: of every byte, and of all but the superblock's line.

    0.9.0 prints that line with a `flags` attribute and 1.x without.
    """
    whole, body = hashlib.sha256(), hashlib.sha256()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=1 << 20
    ) as process:
        if process.stdout is not None:
            whole.update(process.stdout.readline())
            while piece := process.stdout.read(1 << 20):
                whole.update(piece)
                body.update(piece)
    if process.returncode != 0:
        raise NoAnswer(f"{command[0]}: status {process.returncode}")
    return whole.hexdigest(), body.hexdigest()


@dataclass(frozen=True)
class Piece:
    """A part of a dump (a <def>, or what is between two <ref>s): first run, middle, last."""

    first: Mapped
    middle: bytes
    last: Mapped | None


def piece_of(runs: Sequence[Mapped]) -> Piece | None:
    if not runs:
        return None
    if len(runs) == 1:
        return Piece(runs[0], b"", None)
    return Piece(runs[0], b"".join(b"%d %d %d %d\n" % run for run in runs[1:-1]), runs[-1])


def join(left: Mapped, right: Mapped) -> Mapped | None:
    follows = (left[0] + left[2], left[1] + left[2], left[3])
    return (*left[:2], left[2] + right[2], left[3]) if follows == (*right[:2], right[3]) else None


class MeaningDigest:
    """The same for two dumps that map the same blocks, however they are cut into runs."""

    def __init__(self) -> None:
        self._sha = hashlib.sha256()
        self._held: Mapped | None = None

    def run(self, run: Mapped) -> None:
        joined = join(self._held, run) if self._held else None
        if self._held and not joined:
            self._sha.update(b"%d %d %d %d\n" % self._held)
        self._held = joined or run

    def piece(self, piece: Piece) -> None:
        self.run(piece.first)
        if piece.last is None:
            return
        if self._held:
            self._sha.update(b"%d %d %d %d\n" % self._held)
        self._sha.update(piece.middle)
        self._held = piece.last

    def text(self, text: bytes) -> None:
        if self._held:
            self._sha.update(b"%d %d %d %d\n" % self._held)
        self._held = None
        self._sha.update(text)

    def hexdigest(self) -> str:
        self.text(b"end")
        return self._sha.hexdigest()


def mapped(line: bytes) -> Mapped | None:
    """The run on a line of a dump. The attributes' order is the same in every version."""
    part = line.split(b'"')
    if len(part) == 7:  # single_mapping: origin_block, data_block, time
        return int(part[1]), int(part[3]), 1, int(part[5])
    if len(part) == 9:  # range_mapping: origin_begin, data_begin, length, time
        return int(part[1]), int(part[3]), int(part[5]), int(part[7])
    return None


def dump_meaning(command: Sequence[str]) -> str:
    """A digest of what a dump means: superblock, devices and their mappings, <ref>s resolved."""
    digest = MeaningDigest()
    defs: dict[bytes, Piece | None] = {}
    runs: list[Mapped] = []
    in_def: bytes | None = None

    def flush() -> None:
        piece = piece_of(coalesced(runs))
        if piece:
            digest.piece(piece)
        runs.clear()

    for raw in lines_of(command):
        line = raw.lstrip()
        if line.startswith((b"<single_mapping", b"<range_mapping")):
            run = mapped(line)
            if run:
                runs.append(run)
        elif line.startswith(b"<def"):
            in_def = name_in(line)
        elif line.startswith(b"</def"):
            if in_def is not None:
                defs[in_def] = piece_of(coalesced(runs))
            in_def = None
            runs.clear()
        elif line.startswith(b"<ref"):
            flush()
            piece = defs[name_in(line)]
            if piece:
                digest.piece(piece)
        elif line.startswith((b"<superblock", b"<device")):
            flush()
            wanted = [pair for pair in ATTRIBUTES.findall(line) if pair[0] != b"flags"]
            digest.text(b" ".join(b"%s=%s" % pair for pair in sorted(wanted)) + b"\n")
        elif line.startswith(b"</device"):
            flush()
    return digest.hexdigest()


def name_in(line: bytes) -> bytes:
    found = NAME.search(line)
    if not found:
        raise NoAnswer("a <def> or <ref> without a name")
    return found.group(1)


def coalesced(runs: Sequence[Mapped]) -> list[Mapped]:
    result: list[Mapped] = []
    for run in runs:
        joined = join(result[-1], run) if result else None
        if joined:
            result[-1] = joined
        else:
            result.append(run)
    return result


def delta_ranges(command: Sequence[str]) -> list[tuple[str, int, int]]:
    """The differing ranges in a thin_delta's output: kind, begin, end."""
    ranges = []
    for line in lines_of(command):
        found = RANGE.search(line)
        if found and found.group(1) in KINDS:
            begin, length = int(found.group(2)), int(found.group(3))
            ranges.append((KINDS[found.group(1)], begin, begin + length))
    return ranges


def listing(command: Sequence[str]) -> list[tuple[int, ...]]:
    """Rows of numbers as thin_ls prints them without headers."""
    return [tuple(map(int, line.split())) for line in lines_of(command) if line.strip()]
