"""Walking an explorer from page to page, as somebody does who follows every row."""

from __future__ import annotations

from collections.abc import Iterator

from thinmeta.explore import BlockPlace, DevicesPlace, Explorer, HomePlace, OwnersPlace, Page, Place


def walk(explorer: Explorer, *, most_pages: int = 5000) -> Iterator[Page]:
    """Every page that rows lead to, each block once in each role.

    Searches are left out, and the other superblock: one state of the pool is walked.
    """
    waiting: list[Place] = [HomePlace()]
    seen: set[object] = set()
    while waiting and most_pages:
        place = waiting.pop()
        if key(place) in seen:
            continue
        seen.add(key(place))
        most_pages -= 1
        page = explorer.page(place)
        yield page
        for to in (*(row.to for row in page.rows), page.more):
            if to is not None and leads_on(place, to):
                waiting.append(to)


def leads_on(place: Place, to: Place) -> bool:
    if isinstance(place, BlockPlace) and isinstance(to, DevicesPlace):
        return False  # the same devices again
    if isinstance(place, BlockPlace) and place.role in ("bitmap", "counts"):
        # Out of it lead numbers of blocks, not pointers; but the table may go on.
        return isinstance(to, BlockPlace) and to.role == place.role and to.block == place.block
    if isinstance(to, BlockPlace):
        return to.role != "snapshot" and to.block != 0
    return not isinstance(to, OwnersPlace)


def key(place: Place) -> object:
    """What makes two pages the same, whatever way led there."""
    if isinstance(place, BlockPlace):
        return (place.block, place.role, place.map, place.skip)
    if isinstance(place, DevicesPlace):
        return ("devices", place.first)
    return place


def fact(page: Page, name: str) -> str:
    return dict(page.facts)[name]


def column(page: Page, head: str) -> list[str]:
    at = page.heads.index(head)
    return [row.cells[at] for row in page.rows]


def codes(page: Page) -> set[str]:
    return {trouble.code for trouble in page.troubles}
