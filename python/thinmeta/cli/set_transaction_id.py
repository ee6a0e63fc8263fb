"""``thinmeta set-transaction-id``: the number that LVM compares with its own."""

from __future__ import annotations

from thinmeta.cli.change import change, parse_change, print_outcome
from thinmeta.cli.options import Option, whole_number
from thinmeta.cli.output import write_text

HELP = """\
Usage: thinmeta set-transaction-id [-n] [--json] META OLD NEW

Sets the transaction id of the pool whose metadata is META to NEW, if it is OLD now; if
it is not, somebody else has changed the pool, and nothing is done. 'thinmeta ls --json'
shows it.

The tool in charge of a pool counts this number up with each change and keeps a copy:
LVM does not use a pool that has another number than its own.

Options
  -n, --dry-run          say what would change, and change nothing
      --json             print JSON: the pool before and after
  -h, --help             print this

Examples
  thinmeta set-transaction-id pool_tmeta.img 7 8
"""

OPTIONS: tuple[Option, ...] = ()


def run(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    parsed = parse_change("set-transaction-id", arguments, ("META", "OLD", "NEW"))
    if parsed.has("help"):
        write_text(HELP)
        return 0
    old, new = whole_number(parsed.words[1], "OLD"), whole_number(parsed.words[2], "NEW")
    outcome = change(parsed, lambda _, txn: txn.set_transaction_id(old, new))
    print_outcome(
        parsed,
        outcome,
        f"{outcome.verb('set', 'set')} the transaction id from {old} to {new}",
    )
    return 0
