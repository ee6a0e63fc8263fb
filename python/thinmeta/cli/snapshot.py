"""``thinmeta snapshot``: a new thin device with what another one has now."""

from __future__ import annotations

from thinmeta.cli.change import change, parse_change, print_outcome
from thinmeta.cli.options import Option, device_number
from thinmeta.cli.output import write_text
from thinmeta.report import count

HELP = """\
Usage: thinmeta snapshot [-n] [--json] META ORIGIN ID

Makes thin device ID, a snapshot of thin device ORIGIN, in the pool whose metadata is
META. The two share all blocks until one of them is written to, so it takes no time and
no data block, whatever the size. ID must be a number that no device of the pool has.

Options
  -n, --dry-run          say what would change, and change nothing
      --json             print JSON: the pool before and after
  -h, --help             print this

Examples
  thinmeta snapshot pool_tmeta.img 1 2
"""

OPTIONS: tuple[Option, ...] = ()


def run(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    parsed = parse_change("snapshot", arguments, ("META", "ORIGIN", "ID"))
    if parsed.has("help"):
        write_text(HELP)
        return 0
    origin_id = device_number(parsed.words[1], "ORIGIN")
    device_id = device_number(parsed.words[2], "ID")
    outcome = change(parsed, lambda _, txn: txn.create_snapshot(device_id, origin_id=origin_id))
    print_outcome(
        parsed,
        outcome,
        f"{outcome.verb('created', 'create')} thin device {device_id}, a snapshot of thin "
        f"device {origin_id}: {count(outcome.more('mapped_blocks'), 'mapping')} shared",
    )
    return 0
