"""``thinmeta explore``: look at a pool's metadata block by block, in a terminal."""

from __future__ import annotations

import sys

from thinmeta.cli.options import parse
from thinmeta.cli.output import write_json, write_text
from thinmeta.cli.pools import find_source
from thinmeta.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.cli.pools import Source
    from thinmeta.explore import Place

HELP = """\
Usage: thinmeta explore [--json] [-m] META [PLACE]

Shows the metadata in META, a device or an image of it or a live pool, block by block: the
superblock, the trees of mappings and of details, the mappings in a leaf as ranges, both
space maps, and the bytes beside all of it. Enter follows what is selected, from node to
node, and backspace goes back. Only what is shown is read, and nothing is ever written.
Damaged blocks are shown with the code that 'thinmeta check' gives them.

It needs the package textual: pip install 'thinmeta[explore]'. With --json it does not.

PLACE is where to begin, and what the key g asks for:
  361            metadata block 361
  5:100          block 100 of device 5, and the way to its mapping
  'dev 5'        the devices, from 5 on
  'data 77'      whatever maps data block 77: all mappings are read for that
  home           the superblock; of a metadata snapshot, its own

Keys
  enter follow      backspace, b back      f forward      g go to a place
  s superblock      d devices              o who maps a data block
  x bytes on/off    r read it again        escape stop    q quit

Options
      --json             print what is at PLACE as JSON, and exit; the status is 1 if
                         something fatal is wrong with it
  -m, --metadata-snapshot[=BLOCK]
                         read the metadata snapshot that the pool holds, or the one
                         at BLOCK; works while the pool is in use
  -h, --help             print this

Examples
  thinmeta explore pool_tmeta.img
  thinmeta explore vg/pool 5:100
  thinmeta explore --json damaged.img 361
"""


def run(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    parsed = parse("explore", arguments, (), ("META", "PLACE"), optional=1)
    if parsed.has("help"):
        write_text(HELP)
        return 0
    from thinmeta.explore import HomePlace, parse_place

    place = parse_place(parsed.words[1]) if parsed.words[1:] else HomePlace()
    as_json = parsed.has("json")
    if not as_json:
        _check_screen()
    source = find_source(parsed.words[0], parsed.metadata_snapshot())
    if source.reserves:
        with source.reading():
            return _explore(source, place, as_json=as_json)
    if source.live is not None:
        source.live.check_nodes(data=False)
    return _explore(source, place, as_json=as_json)


def _check_screen() -> None:
    """Find out that there is no screen, or nothing to draw on it with, before any work."""
    try:
        import textual  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise UsageError(
            "explore needs textual: pip install 'thinmeta[explore]' (with --json it does not)"
        ) from error
    if not (sys.stdin and sys.stdin.isatty() and sys.stdout and sys.stdout.isatty()):
        raise UsageError("explore needs a terminal; --json prints what is at one place")


def _explore(source: Source, place: Place, *, as_json: bool) -> int:
    from thinmeta.explore import Explorer

    explorer = Explorer(source.metadata, metadata_snapshot=source.snapshot, name=source.word)
    with explorer:
        if as_json:
            from thinmeta.explore import fields_of_page

            page = explorer.page(place)
            fields = {"metadata": source.word, "metadata_snapshot": source.snapshot}
            write_json(fields | fields_of_page(page))
            return int(any(trouble.severity == "fatal" for trouble in page.troubles))
        from thinmeta.explore.view import ExploreApp

        app = ExploreApp(explorer, place)
        app.run()
        return app.return_code or 0
