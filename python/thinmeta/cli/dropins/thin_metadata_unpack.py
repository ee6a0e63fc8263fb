"""``thin_metadata_unpack``: metadata from what was packed."""

from __future__ import annotations

from thinmeta.cli.dropins.packing import OPTIONS, places
from thinmeta.cli.progress import progress
from thinmeta.packing import unpack_fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.cli.dropins.options import Parsed

HELP = """\
Usage: thin_metadata_unpack -i PACK -o META [-f]

Makes metadata of what thin_metadata_pack 1.x, or 'thinmeta pack', has packed. This is
thinmeta's stand-in for thin_metadata_unpack of thin-provisioning-tools; 'thinmeta unpack'
prints JSON.

The exit status is 0 when all is well, and 1 otherwise; then META is as it was.

Options
  -i, --input PACK       what was packed
  -o, --output META      where to write: a file, which becomes as large as the metadata
                         were, or a device that is large enough
  -f, --force            replace META without asking, if it is metadata
  -h, --help             print this
  -V, --version          print the version of the peer that this stands for
"""

WORDS: tuple[str, ...] = ()
__all__ = ["HELP", "OPTIONS", "WORDS", "run"]


def run(parsed: Parsed) -> int:
    """Run the program on its command line and return its exit status."""
    packed, out = places(parsed)
    with progress("unpacking", in_bytes=True) as report:
        unpack_fields(packed, out, overwrite=True, progress=report)
    return 0
