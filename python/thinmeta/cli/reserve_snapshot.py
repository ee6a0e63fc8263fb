"""``thinmeta reserve-snapshot``: keep the metadata as it is now, for readers."""

from __future__ import annotations

from thinmeta.cli.change import change, parse_change, print_outcome
from thinmeta.cli.options import Option
from thinmeta.cli.output import write_text

HELP = """\
Usage: thinmeta reserve-snapshot [-n] [--json] META

Makes the pool hold a metadata snapshot: a copy of the whole metadata as it is now, which
stays as it is until it is released, whatever happens to the pool meanwhile. 'thinmeta ls
-m' and others read it. A pool holds one at a time. While it does, nothing that the
snapshot refers to becomes free.

META must not be in use. For a pool in use there is
  thinmeta live reserve POOL

Options
  -n, --dry-run          say what would change, and change nothing
      --json             print JSON: the pool before and after; "metadata_snapshot" is
                         the metadata block where it lies
  -h, --help             print this

Examples
  thinmeta reserve-snapshot pool_tmeta.img
"""

OPTIONS: tuple[Option, ...] = ()


def run(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    parsed = parse_change("reserve-snapshot", arguments, ("META",))
    if parsed.has("help"):
        write_text(HELP)
        return 0
    outcome = change(parsed, lambda _, txn: txn.reserve_metadata_snapshot())
    text = f"{outcome.verb('reserved', 'reserve')} a metadata snapshot"
    print_outcome(parsed, outcome, f"{text} at block {outcome.after['metadata_snapshot']}")
    return 0
