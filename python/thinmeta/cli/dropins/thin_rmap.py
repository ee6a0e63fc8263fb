"""``thin_rmap``: what lies where in a pool's data."""

from __future__ import annotations

from thinmeta.cli.dropins.options import MAX_U64, SNAPSHOT, Option
from thinmeta.cli.output import STDOUT, stdout_descriptor
from thinmeta.cli.progress import progress
from thinmeta.files import name_output
from thinmeta.rmap import ReverseMap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.cli.dropins.options import Parsed

HELP = """\
Usage: thin_rmap --region BEGIN..END [--region BEGIN..END]... META

Shows whose blocks lie in a region of a pool's data. This is thinmeta's stand-in for
thin_rmap of thin-provisioning-tools, with one line for what a leaf has that devices
share, as there; 'thinmeta rmap' has one for each device, and prints JSON.

Options
      --region BEGIN..END
                         data blocks, of which END is not one any more; may be repeated
  -m, --metadata-snap, --metadata-snapshot[=BLOCK]
                         read the metadata snapshot that the pool holds, or the one at
                         BLOCK (also -mBLOCK); the peers cannot do that
  -h, --help             print this
  -V, --version          print the version of the peer that this stands for
"""

OPTIONS = (SNAPSHOT, Option("--region", takes="a word", repeats=True))
WORDS = ("META",)


def run(parsed: Parsed) -> int:
    """Run the program on its command line and return its exit status."""
    words = parsed.values("region")
    if not words:
        raise parsed.wrong("--region is missing")
    regions = [_region(parsed, word) for word in words]
    with parsed.open_pool() as pool, progress("looking") as report:
        found = ReverseMap(pool._native.rmap(regions, shared_once=True, progress=report))
    try:
        found.write(stdout_descriptor())
    except OSError as error:
        name_output(error, STDOUT)
        raise
    return 0


def _region(parsed: Parsed, word: str) -> tuple[int, int]:
    begin, _, end = word.partition("..")
    for each in (begin, end):
        digits = each.removeprefix("+")
        if not (digits.isascii() and digits.isdigit()) or int(digits) > MAX_U64:
            raise parsed.wrong(f"--region takes BEGIN..END, not {word!r}")
    if int(end) <= int(begin):
        raise parsed.wrong(f"--region {word}: it ends before it has a block")
    return int(begin), int(end)
