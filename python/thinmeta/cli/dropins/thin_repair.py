"""``thin_repair``: a new pool from what can be read of a damaged one."""

from __future__ import annotations

from thinmeta.cli.dropins.options import NEW_METADATA
from thinmeta.cli.output import write_text
from thinmeta.cli.progress import progress
from thinmeta.repairing import repair

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.cli.dropins.options import Parsed

HELP = """\
Usage: thin_repair -i META -o NEW_META [-q] [OPTION]...

Makes new metadata for a pool of what can be read of those in META, which is not written.
This is thinmeta's stand-in for thin_repair of thin-provisioning-tools; 'thinmeta repair
--plan' says what would be lost before anything is written.

The exit status is 0 when a pool was made, and 1 otherwise; then NEW_META is as it was.

Options
  -i, --input META       the damaged metadata
  -o, --output NEW_META  where to write: a device, or a file that is there and as large as
                         the metadata are to be
      --transaction-id NUMBER, --nr-data-blocks NUMBER
                         take this where it is more than what is found, as 1.x does
      --data-block-size SECTORS
                         take this instead of what is found
  -q, --quiet            print nothing, also of errors
  -h, --help             print this
  -V, --version          print the version of the peer that this stands for
"""

OPTIONS = NEW_METADATA
WORDS: tuple[str, ...] = ()


def run(parsed: Parsed) -> int:
    """Run the program on its command line and return its exit status."""
    meta, out = parsed.needed("input"), parsed.output()
    quiet = parsed.has("quiet")
    with progress("repairing", quiet=quiet) as report:
        plan, _ = repair(
            meta,
            out,
            progress=report,
            **parsed.overrides(),
        )
    if not quiet and not plan.is_whole:
        from thinmeta.cli.repair import plan_text

        write_text(plan_text(plan))
    return 0
