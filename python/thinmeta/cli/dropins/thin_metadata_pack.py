"""``thin_metadata_pack``: metadata into a small file."""

from __future__ import annotations

from thinmeta.cli.dropins.packing import OPTIONS, places
from thinmeta.cli.progress import progress
from thinmeta.packing import pack_fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.cli.dropins.options import Parsed

HELP = """\
Usage: thin_metadata_pack -i META -o PACK [-f]

Packs all blocks of a device or an image that are metadata into a small file. This is
thinmeta's stand-in for thin_metadata_pack of thin-provisioning-tools; 'thinmeta pack'
tells how much was packed and what was not, and prints JSON.

The exit status is 0 when all is well, and 1 otherwise; then PACK is as it was.

Options
  -i, --input META       the metadata, which nobody may be using
  -o, --output PACK      where to write
  -f, --force            replace PACK without asking, if it is metadata
  -h, --help             print this
  -V, --version          print the version of the peer that this stands for
"""

WORDS: tuple[str, ...] = ()
__all__ = ["HELP", "OPTIONS", "WORDS", "run"]


def run(parsed: Parsed) -> int:
    """Run the program on its command line and return its exit status."""
    meta, out = places(parsed)
    with progress("packing") as report:
        pack_fields(meta, out, overwrite=True, progress=report)
    return 0
