"""Looking at a pool's metadata block by block, as it stands on the disk.

:class:`Explorer` has no screen: it turns places into pages, and needs nothing beyond
thinmeta. ``thinmeta explore`` shows the pages in a terminal, by means of textual (``pip
install 'thinmeta[explore]'``), in :mod:`thinmeta.explore.view`.
"""

from thinmeta.explore.model import Explorer, History
from thinmeta.explore.pages import Page, Row, fields_of_page, hex_lines
from thinmeta.explore.places import (
    BlockPlace,
    DevicesPlace,
    HomePlace,
    MappingPlace,
    OwnersPlace,
    Place,
    parse_place,
)
from thinmeta.explore.seen import Trouble

__all__ = [
    "BlockPlace",
    "DevicesPlace",
    "Explorer",
    "History",
    "HomePlace",
    "MappingPlace",
    "OwnersPlace",
    "Page",
    "Place",
    "Row",
    "Trouble",
    "fields_of_page",
    "hex_lines",
    "parse_place",
]
