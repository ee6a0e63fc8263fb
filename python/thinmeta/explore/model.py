"""The explorer without a screen: places in, pages out.

Nothing here raises for what is on the disk: damage becomes a :class:`Trouble` of the page
that shows the place. Only opening raises.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from thinmeta.arguments import MAX_U64
from thinmeta.errors import (
    DamagedBlockError,
    NoMetadataSnapshotError,
    NotFormattedError,
    ThinmetaError,
    UnsupportedFormatError,
)
from thinmeta.explore.blocks import block_page, role_title
from thinmeta.explore.pages import MOST_ROWS, Page, Row, part_of
from thinmeta.explore.places import (
    MAX_DEVICE_ID,
    BlockPlace,
    DevicesPlace,
    HomePlace,
    MappingPlace,
    OwnersPlace,
)
from thinmeta.explore.reading import Metadata
from thinmeta.explore.seen import Trouble

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Literal, Self

    from thinmeta.explore.places import Place, Role
    from thinmeta.explore.seen import Found

__all__ = ["Explorer", "History"]

#: Devices of a page.
MOST_DEVICES = 200


class Explorer:
    """A pool's metadata, to be walked through; a context manager.

    Args:
        path: The metadata device or an image of it, however damaged.
        metadata_snapshot: As :func:`thinmeta.open_pool` takes it; with it a pool in use
            may be read.
        name: What people call it.

    Raises:
        OSError: It cannot be opened.
        DeviceInUseError: Somebody uses it, and no snapshot was asked for.
        UnsupportedFormatError: It is shorter than one block.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        metadata_snapshot: Literal["held"] | int | None = None,
        name: str | None = None,
    ) -> None:
        self.metadata = Metadata(path, metadata_snapshot=metadata_snapshot)
        self.name = self.metadata.path if name is None else name
        if self.metadata.nr_blocks == 0:
            self.metadata.close()
            raise UnsupportedFormatError(
                self.metadata.path, "shorter than one 4096-byte block; no metadata is here"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        raised: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the device."""
        self.metadata.close()

    def page(self, place: Place, *, progress: Callable[[int, int], object] | None = None) -> Page:
        """What there is to be seen at a place, read anew.

        Args:
            place: Where to look.
            progress: Called now and then as ``progress(done, total)`` where all of the
                pool is read: by :class:`OwnersPlace` only. What it raises ends that.
        """
        match place:
            case HomePlace():
                return self._home(place)
            case DevicesPlace():
                return self._devices(place)
            case BlockPlace():
                return block_page(self.metadata, place)
            case MappingPlace():
                return self._mapping(place)
            case OwnersPlace():
                return self._owners(place, progress)

    def _home(self, place: HomePlace) -> Page:
        home = self.metadata.home()
        if isinstance(home, Trouble):
            # Block 0 says why there is none.
            page = block_page(self.metadata, BlockPlace(0, role="superblock"))
            return _at(place, page, (home, *page.troubles) if home not in page.troubles else None)
        page = block_page(self.metadata, BlockPlace(home[0], role=home[1]))
        if home[1] == "snapshot":
            live = Row(("superblock", "of the pool, with its space maps"), BlockPlace(0))
            page = _with_rows(page, (live, *page.rows))
        return _at(place, page, None)

    # ---- devices ----

    def _devices(self, place: DevicesPlace) -> Page:
        title = "thin devices" + (f" from {place.first} on" if place.first else "")
        heads = (
            "device",
            "mapped blocks",
            "transaction id",
            "created",
            "snapshotted",
            "root block",
        )
        roots = self.metadata.roots()
        if isinstance(roots, Trouble):
            return Page(place, title, troubles=(roots,), heads=heads)
        limit = MOST_DEVICES + 1
        details, bad_details = self.metadata.entries(
            roots.device_details_root, "details", place.first, limit
        )
        tops, bad_tops = self.metadata.entries(
            roots.data_mapping_root, "top_level", place.first, limit
        )
        by_id, root_of = dict(details), dict(tops)
        # Each has the first ones, so that the first of both are whole.
        ids = sorted({*by_id, *root_of})
        troubles = [*bad_details, *bad_tops]
        rows = []
        for device in ids[:MOST_DEVICES]:
            root, numbers = root_of.get(device), by_id.get(device)
            code = ""
            if device > MAX_DEVICE_ID:
                code = "bad-device-id"
            elif root is None and not bad_tops:
                code = "device-without-mappings"
            elif numbers is None and not bad_details:
                code = "mappings-without-device"
            if code:
                troubles.append(Trouble(code, "fatal", f"device {device}"))
            told = ["?"] * 4 if numbers is None else [str(number) for number in numbers]
            cells = (str(device), *told, "?" if root is None else str(root))
            to = None if root is None else BlockPlace(root, role="mappings", device=device)
            rows.append(Row(cells, to, code))
        more = DevicesPlace(ids[MOST_DEVICES]) if len(ids) > MOST_DEVICES else None
        facts = (("shown", f"{len(rows)} devices" + (" and there are more" if more else "")),)
        return Page(place, title, facts, tuple(troubles), heads, tuple(rows), more)

    # ---- one mapping ----

    def _mapping(self, place: MappingPlace) -> Page:
        title = f"block {place.block} of device {place.device}"
        facts: list[tuple[str, str]] = []
        troubles: list[Trouble] = []
        rows: list[Row] = []
        roots = self.metadata.roots()
        if isinstance(roots, Trouble):
            return Page(place, title, troubles=(roots,))
        top = self.metadata.find(roots.data_mapping_root, place.device, "top_level")
        rows += _way(top, "top_level", None)
        root: int | None = None
        if top.trouble is not None:
            troubles.append(top.trouble)
        elif top.at is None or top.leaf is None or top.leaf.numbers is None:
            facts.append(("mapping", f"there is no device {place.device}"))
        else:
            root = top.leaf.numbers[top.at]
        if root is not None:
            found = self.metadata.find(root, place.block, "mappings")
            rows += _way(found, "mappings", place.device)
            if found.trouble is not None:
                troubles.append(found.trouble)
            elif found.at is None or found.leaf is None or found.leaf.mappings is None:
                facts.append(("mapping", "none: a hole"))
            else:
                data, time = found.leaf.mappings[found.at]
                facts += self._mapping_facts(data, time)
                cells = ("data", str(data), "what else maps this data block")
                rows.append(Row(cells, OwnersPlace(data)))
        heads = ("level", "block", "what it is")
        return Page(place, title, tuple(facts), tuple(troubles), heads, tuple(rows))

    def _mapping_facts(self, data: int, time: int) -> list[tuple[str, str]]:
        count = self.metadata.count("data", data)
        if isinstance(count, Trouble):
            told = f"unknown ({count.code})"
        elif count is None:
            told = "not counted: past the end of the data (mapping-beyond-data)"
        else:
            told = f"{count} leaves map it"
        return [("data block", str(data)), ("time", str(time)), ("references", told)]

    # ---- who maps a data block ----

    def _owners(self, place: OwnersPlace, progress: Callable[[int, int], object] | None) -> Page:
        title = f"what maps data block {place.block}"
        count = self.metadata.count("data", place.block)
        told = f"unknown ({count.code})" if isinstance(count, Trouble) else str(count)
        facts = [("data block", str(place.block))]
        if count is None:
            facts.append(("references", "not counted: past the end of the data"))
        else:
            facts.append(("references", f"{told}, one for each leaf"))
        if place.block >= MAX_U64:
            return Page(place, title, tuple(facts))
        try:
            pool = self.metadata.pool()
            try:
                regions = [(place.block, place.block + 1)]
                found = pool.rmap(regions, progress=progress)
                table = [found.row(index) for index in range(len(found))]
            finally:
                pool.close()
        except (ThinmetaError, OSError) as error:
            return Page(place, title, tuple(facts), (_trouble(error),))
        rows = [
            Row((str(device), str(virtual)), MappingPlace(device, virtual))
            for _, _, device, virtual in table
        ]
        facts.append(("mapped by", f"{len(rows)} blocks of devices"))
        shown, more = part_of(rows, place)
        return Page(place, title, tuple(facts), (), ("device", "block"), shown, more)


class History:
    """Where somebody was: back and forward, as a browser has it."""

    def __init__(self, start: Place) -> None:
        self._places = [start]
        self._at = 0

    @property
    def place(self) -> Place:
        """Where we are."""
        return self._places[self._at]

    def go(self, place: Place) -> None:
        """Go somewhere; what was forward from here is forgotten."""
        if place == self.place:
            return
        del self._places[self._at + 1 :]
        self._places.append(place)
        self._at += 1

    def back(self) -> bool:
        """Go back; false at the beginning."""
        if self._at == 0:
            return False
        self._at -= 1
        return True

    def forward(self) -> bool:
        """Go forward again; false at the end."""
        if self._at + 1 == len(self._places):
            return False
        self._at += 1
        return True


def _way(found: Found, role: Role, device: int | None) -> list[Row]:
    rows = []
    for at, block in enumerate(found.path):
        to = BlockPlace(block, role=role, device=device, path=tuple(found.path[:at]))
        rows.append(Row((str(at), str(block), role_title(to)), to))
    return rows


def _trouble(error: ThinmetaError | OSError) -> Trouble:
    """What stopped a call of the pool, as a finding."""
    if isinstance(error, DamagedBlockError):
        code = "superblock-damaged" if error.validator == "thin superblock" else "node-damaged"
        return Trouble(code, "fatal", str(error), error.block)
    if isinstance(error, NoMetadataSnapshotError):
        return Trouble("metadata-snapshot-damaged", "fatal", str(error))
    if isinstance(error, NotFormattedError | UnsupportedFormatError):
        return Trouble("superblock-damaged", "fatal", str(error), 0)
    return Trouble("node-damaged", "fatal", str(error))


def _at(place: Place, page: Page, troubles: tuple[Trouble, ...] | None) -> Page:
    from dataclasses import replace

    kept = page.troubles if troubles is None else troubles
    return replace(page, place=place, troubles=kept)


def _with_rows(page: Page, rows: tuple[Row, ...]) -> Page:
    from dataclasses import replace

    return replace(page, rows=rows[:MOST_ROWS])
