"""``thinmeta create``: a new thin device, or a new pool."""

from __future__ import annotations

from thinmeta.cli.change import change, parse_change, print_outcome
from thinmeta.cli.options import Option, device_number
from thinmeta.cli.output import write_text
from thinmeta.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.cli.options import Parsed

HELP = """\
Usage: thinmeta create [-n] [--json] META ID
       thinmeta create --pool --data-block-size SIZE --data-blocks N
                       [--metadata-blocks N] [--overwrite] [-n] [--json] META

Makes thin device ID, an empty one, in the pool whose metadata is META. ID must be a
number that no device of the pool has; its size is not the pool's business. A device with
what another one has is made by 'thinmeta snapshot'.

With --pool, makes META the metadata of a new pool without devices.

Options
      --pool             make a pool
      --data-block-size SIZE
                         size of its data blocks, for example 64K: a multiple of 64K, at
                         most 1GiB; it can never be changed
      --data-blocks N    how many blocks the data device has; 'thinmeta grow' makes more
      --metadata-blocks N
                         how many blocks of 4096 bytes META has; needed for a new file,
                         otherwise the size of META
      --overwrite        make the pool though there is something in META already, which
                         is lost
  -n, --dry-run          say what would change, and change nothing
      --json             print JSON: the pool before and after
  -h, --help             print this

Examples
  thinmeta create pool_tmeta.img 1
  thinmeta create --pool --data-block-size 64K --data-blocks 16384 \\
                  --metadata-blocks 1024 pool_tmeta.img
"""

OPTIONS = (
    Option("pool"),
    Option("data-block-size", takes="a word"),
    Option("data-blocks", takes="a word"),
    Option("metadata-blocks", takes="a word"),
    Option("overwrite"),
)


def run(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    parsed = parse_change("create", arguments, ("META", "ID"), OPTIONS, optional=1)
    if parsed.has("help"):
        write_text(HELP)
        return 0
    if parsed.has("pool"):
        from thinmeta.cli.create_pool import create_pool

        return create_pool(parsed)
    for option in OPTIONS:
        if parsed.has(option.long):
            raise _wrong(f"--{option.long} is for a new pool: say --pool, too")
    if len(parsed.words) < 2:
        raise _wrong("ID is missing")
    return _create_thin(parsed)


def _wrong(what: str) -> UsageError:
    return UsageError(f"create: {what}; see 'thinmeta create --help'")


def _create_thin(parsed: Parsed) -> int:
    device_id = device_number(parsed.words[1], "ID")
    outcome = change(parsed, lambda _, txn: txn.create_thin(device_id))
    text = f"{outcome.verb('created', 'create')} thin device {device_id}"
    print_outcome(parsed, outcome, text)
    return 0
