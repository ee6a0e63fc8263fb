"""``thin_restore``: metadata from XML."""

from __future__ import annotations

from thinmeta.cli.dropins.options import NEW_METADATA
from thinmeta.cli.progress import progress
from thinmeta.restoring import restore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.cli.dropins.options import Parsed

HELP = """\
Usage: thin_restore -i XML -o META [-q] [OPTION]...

Makes a pool's metadata from the XML of thin_dump. This is thinmeta's stand-in for
thin_restore of thin-provisioning-tools; 'thinmeta restore' makes files of the size that
is needed, and prints JSON.

The exit status is 0 when all is well, and 1 otherwise; then META is as it was.

Options
  -i, --input XML        the XML
  -o, --output META      where to write: a device, or a file that is there and as large as
                         the metadata are to be
      --transaction-id NUMBER, --nr-data-blocks NUMBER
                         take this where it is more than what the XML says, as 1.x does
      --data-block-size SECTORS
                         take this instead of what the XML says
  -q, --quiet            print nothing, also of errors
  -h, --help             print this
  -V, --version          print the version of the peer that this stands for
"""

OPTIONS = NEW_METADATA
WORDS: tuple[str, ...] = ()


def run(parsed: Parsed) -> int:
    """Run the program on its command line and return its exit status."""
    xml, out = parsed.needed("input"), parsed.output()
    with progress("restoring", in_bytes=True, quiet=parsed.has("quiet")) as report:
        restore(
            xml,
            out,
            flags=0,  # as 1.x does
            progress=report,
            **parsed.overrides(),
        )
    return 0
