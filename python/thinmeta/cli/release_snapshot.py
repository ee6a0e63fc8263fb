"""``thinmeta release-snapshot``: let go of a pool's metadata snapshot."""

from __future__ import annotations

from thinmeta.cli.change import change, parse_change, print_outcome
from thinmeta.cli.options import Option
from thinmeta.cli.output import write_text

HELP = """\
Usage: thinmeta release-snapshot [-n] [--json] META

Releases the metadata snapshot that the pool holds, if a program that read a pool in use
has left it behind. What only the snapshot referred to becomes free. Thin devices that
are snapshots have nothing to do with it; 'thinmeta delete' removes those.

META must not be in use. For a pool in use there is
  thinmeta live release POOL

Options
  -n, --dry-run          say what would change, and change nothing
      --json             print JSON: the pool before and after
  -h, --help             print this

Examples
  thinmeta release-snapshot pool_tmeta.img
"""

OPTIONS: tuple[Option, ...] = ()


def run(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    parsed = parse_change("release-snapshot", arguments, ("META",))
    if parsed.has("help"):
        write_text(HELP)
        return 0
    outcome = change(parsed, lambda _, txn: txn.release_metadata_snapshot())
    text = (
        f"{outcome.verb('released', 'release')} the metadata snapshot at block "
        f"{outcome.before['metadata_snapshot']}: {outcome.freed()}"
    )
    print_outcome(parsed, outcome, text)
    return 0
