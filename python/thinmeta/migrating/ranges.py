"""Arithmetic of ranges: ascending pairs ``(begin, end)``, none touching the next."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    Range = tuple[int, int]

__all__ = ["covering", "joined", "without"]


def joined(ranges: Iterable[Range]) -> list[Range]:
    """Ranges in order of where they begin, as ranges that do not touch."""
    found: list[Range] = []
    for begin, end in ranges:
        if found and begin <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((begin, end))
    return found


def covering(lengths: Iterable[tuple[int, int]], block: int) -> list[Range]:
    """The blocks that ranges touch, of which it is said where they begin and how long they are."""
    return joined((begin // block, -(-(begin + length) // block)) for begin, length in lengths)


def without(ranges: Iterable[Range], others: Sequence[Range]) -> Iterator[Range]:
    """What of the first lies in none of the others."""
    at = 0
    for begin, end in ranges:
        while at < len(others) and others[at][1] <= begin:
            at += 1
        behind = at
        while behind < len(others) and others[behind][0] < end:
            first, last = others[behind]
            if begin < first:
                yield begin, first
            begin = last
            if last >= end:
                break
            behind += 1
        if begin < end:
            yield begin, end
