"""``thinmeta delete``: remove a thin device, and free what only it uses."""

from __future__ import annotations

from thinmeta.cli.change import change, parse_change, print_outcome
from thinmeta.cli.options import Option, device_number
from thinmeta.cli.output import write_text
from thinmeta.report import count

HELP = """\
Usage: thinmeta delete [-n] [--json] META ID

Removes thin device ID, a volume or a snapshot, from the pool whose metadata is META.
Blocks that no other device uses become free, unless the pool holds a metadata snapshot
that still refers to them. What the device had is lost: look first with --dry-run.

Options
  -n, --dry-run          say what would change, and change nothing
      --json             print JSON: the pool before and after
  -h, --help             print this

Examples
  thinmeta delete --dry-run pool_tmeta.img 3
  thinmeta delete pool_tmeta.img 3
"""

OPTIONS: tuple[Option, ...] = ()


def run(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    parsed = parse_change("delete", arguments, ("META", "ID"))
    if parsed.has("help"):
        write_text(HELP)
        return 0
    device_id = device_number(parsed.words[1], "ID")
    outcome = change(parsed, lambda _, txn: txn.delete(device_id))
    mappings = count(-outcome.more("mapped_blocks"), "mapping")
    print_outcome(
        parsed,
        outcome,
        f"{outcome.verb('deleted', 'delete')} thin device {device_id}: "
        f"{mappings} removed, {outcome.freed()}",
    )
    return 0
