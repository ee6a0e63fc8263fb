"""``thin_delta``: where two thin devices differ, as the peer's XML."""

from __future__ import annotations

from thinmeta.cli.dropins.options import SNAPSHOT, Option
from thinmeta.cli.output import STDOUT, stdout_descriptor
from thinmeta.cli.progress import progress
from thinmeta.errors import ThinmetaError
from thinmeta.files import name_output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.cli.dropins.options import Parsed

HELP = """\
Usage: thin_delta [-m] [--verbose] --thin1 DEV --thin2 DEV META

Compares the mappings of two thin devices of the pool whose metadata is META, a device or
an image of it. This is thinmeta's stand-in for thin_delta of thin-provisioning-tools;
'thinmeta delta' prints JSON and what borg and benji read, and takes live pools.

Options
      --thin1, --snap1 DEV   one device, by its id
      --thin2, --snap2 DEV   the other
      --root1, --root2 BLOCK
                         in the place of a device, the root of a tree of mappings
      --verbose          tell the data blocks of each range, too: as the peer, those of
                         the first block of ranges that are joined wherever their data
                         lie ('thinmeta.Pool.delta' in Python has every run by itself)
  -m, --metadata-snap, --metadata-snapshot[=BLOCK]
                         read the metadata snapshot that the pool holds, or the one at
                         BLOCK (also -mBLOCK); works while the pool is in use
  -h, --help             print this
  -V, --version          print the version of the peer whose output this is
"""

OPTIONS = (
    SNAPSHOT,
    Option("--thin1", "--snap1", takes="a word"),
    Option("--thin2", "--snap2", takes="a word"),
    Option("--root1", takes="a word"),
    Option("--root2", takes="a word"),
    Option("--verbose"),
)
WORDS = ("META",)


def run(parsed: Parsed) -> int:
    """Run the program on its command line and return its exit status."""
    (left, left_is_root), (right, right_is_root) = _side(parsed, 1), _side(parsed, 2)
    with parsed.open_pool() as pool, progress("comparing") as report:
        pool._same_devices()
        try:
            pool._write_delta(
                stdout_descriptor(),
                left,
                right,
                left_is_root=left_is_root,
                right_is_root=right_is_root,
                verbose=parsed.has("verbose"),
                progress=report,
            )
        except OSError as error:
            name_output(error, STDOUT)
            raise
    return 0


def _side(parsed: Parsed, number: int) -> tuple[int, bool]:
    """A device's id, or a block and that it is a root."""
    thin, root = f"thin{number}", f"root{number}"
    parsed.refuse_together(thin, root)
    for name in (thin, root):
        value = parsed.number(name)
        if value is not None:
            return value, name == root
    # The peer does not call this wrong usage, which shows in its exit status.
    raise ThinmetaError(f"thin_delta: --{thin} or --{root} is missing")
