"""``thinmeta discard``: make a part of a thin device a hole again."""

from __future__ import annotations

from thinmeta.cli.change import change, parse_change, print_outcome
from thinmeta.cli.options import Option, device_number, size, whole_number
from thinmeta.cli.output import write_text
from thinmeta.errors import UsageError
from thinmeta.report import count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.pool import Pool
    from thinmeta.transaction import PoolTransaction

HELP = """\
Usage: thinmeta discard [--bytes] [-n] [--json] META ID BEGIN END

Removes the mappings of thin device ID from block BEGIN on, up to but not including block
END: there the device is a hole again, which reads as zeros. Blocks that nobody else uses
become free. What the device had there is lost: look first with --dry-run.

Only the metadata META is changed; the data device is not told.

Options
      --bytes            BEGIN and END are places in bytes, also as 512M, 10GiB or 8s
                         (sectors); only blocks that lie between them as a whole are
                         removed. Without it they count in the pool's data blocks.
  -n, --dry-run          say what would change, and change nothing
      --json             print JSON: the pool before and after
  -h, --help             print this

Examples
  thinmeta discard pool_tmeta.img 1 0 16
  thinmeta discard --dry-run --bytes pool_tmeta.img 1 1GiB 2GiB
"""

OPTIONS = (Option("bytes"),)


def run(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    parsed = parse_change("discard", arguments, ("META", "ID", "BEGIN", "END"), OPTIONS)
    if parsed.has("help"):
        write_text(HELP)
        return 0
    device_id = device_number(parsed.words[1], "ID")
    place = size if parsed.has("bytes") else whole_number
    first, last = place(parsed.words[2], "BEGIN"), place(parsed.words[3], "END")
    if first > last:
        raise UsageError(f"discard: END, {last}, is before BEGIN, {first}")
    begin, end = first, last

    def work(pool: Pool, txn: PoolTransaction) -> None:
        nonlocal begin, end
        if parsed.has("bytes"):
            block_bytes = pool._superblock_fields()["data_block_size"] * 512
            end = last // block_bytes
            begin = min(-(-first // block_bytes), end)
        txn.remove_range(device_id, begin, end)

    outcome = change(parsed, work)
    mappings = -outcome.more("mapped_blocks")
    if mappings:
        text = (
            f"{outcome.verb('removed', 'remove')} {count(mappings, 'mapping')} of thin device "
            f"{device_id}: {outcome.freed()}"
        )
    else:
        text = f"nothing to remove: thin device {device_id} has nothing there"
    print_outcome(
        parsed,
        outcome,
        text,
        {"device_id": device_id, "begin_block": begin, "end_block": end},
    )
    return 0
