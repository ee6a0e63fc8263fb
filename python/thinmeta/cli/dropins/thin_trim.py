"""``thin_trim``: discards what is free in an inactive pool."""

from __future__ import annotations

from thinmeta.cli.dropins.options import QUIET, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.cli.dropins.options import Parsed

HELP = """\
Usage: thin_trim [-q] --metadata-dev META --data-dev DATA

Discards the data blocks of an inactive pool that nothing uses. This is thinmeta's
stand-in for thin_trim of thin-provisioning-tools; 'thinmeta trim --dry-run' says
beforehand how much it is. Other than 1.1.0, it takes data in a file, and makes holes.

The exit status is 0 when all is well, and 1 otherwise.

Options
      --metadata-dev META  the pool's metadata, a device or a file
      --data-dev DATA      its data, a device or a file
  -q, --quiet              print nothing
  -h, --help               print this
  -V, --version            print the version of the peer that this stands for
"""

OPTIONS = (
    QUIET,
    Option("--metadata-dev", takes="a word"),
    Option("--data-dev", takes="a word"),
)
WORDS: tuple[str, ...] = ()


def run(parsed: Parsed) -> int:
    """Run the program on its command line and return its exit status."""
    from thinmeta.cli.progress import progress
    from thinmeta.cli.signals import raise_on_termination
    from thinmeta.trimming import trim_like

    meta, data = parsed.needed("metadata-dev"), parsed.needed("data-dev")
    raise_on_termination()
    with progress("trimming", in_bytes=True, quiet=parsed.has("quiet")) as report:
        trim_like(meta, data, progress=report)
    return 0
