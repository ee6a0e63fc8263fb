"""``thinmeta grow``: more data blocks or metadata blocks for a pool."""

from __future__ import annotations

from thinmeta.cli.change import METADATA_BLOCK_BYTES, change, parse_change, print_outcome
from thinmeta.cli.options import Option, whole_number
from thinmeta.cli.output import write_text
from thinmeta.errors import UsageError
from thinmeta.report import human_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.cli.change import Outcome
    from thinmeta.pool import Pool
    from thinmeta.transaction import PoolTransaction

HELP = """\
Usage: thinmeta grow [--data-blocks N] [--metadata-blocks N] [-n] [--json] META

Makes the pool whose metadata is META larger. N is the number of blocks afterwards, not
how many come to it; a pool never becomes smaller.

Options
      --data-blocks N    as many data blocks as the data device is to have. The data
                         device itself is not touched: make it so large before the pool
                         is used.
      --metadata-blocks N
                         as many blocks of 4096 bytes as META is to have. An image file
                         is made longer; a device has to be that large already.
  -n, --dry-run          say what would change, and change nothing
      --json             print JSON: the pool before and after
  -h, --help             print this

Examples
  thinmeta grow --data-blocks 32768 pool_tmeta.img
  thinmeta grow --metadata-blocks 4096 --dry-run pool_tmeta.img
"""

OPTIONS = (
    Option("data-blocks", takes="a word"),
    Option("metadata-blocks", takes="a word"),
)


def run(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    parsed = parse_change("grow", arguments, ("META",), OPTIONS)
    if parsed.has("help"):
        write_text(HELP)
        return 0
    data_blocks, metadata_blocks = (
        None if word is None else whole_number(word, f"--{name}")
        for name in ("data-blocks", "metadata-blocks")
        for word in (parsed.value(name),)
    )
    if data_blocks is None and metadata_blocks is None:
        raise UsageError(
            "grow: say --data-blocks N, --metadata-blocks N or both; see 'thinmeta grow --help'"
        )

    def work(_: Pool, txn: PoolTransaction) -> None:
        # Metadata first: a map of more data blocks takes room there.
        if metadata_blocks is not None:
            txn.grow_metadata(metadata_blocks)
        if data_blocks is not None:
            txn.grow_data(data_blocks)

    outcome = change(parsed, work)
    lines = []
    if metadata_blocks is not None:
        lines.append(_line(outcome, "metadata", METADATA_BLOCK_BYTES))
    if data_blocks is not None:
        lines.append(_line(outcome, "data", outcome.block_bytes))
    print_outcome(parsed, outcome, "\n".join(lines))
    return 0


def _line(outcome: Outcome, space: str, block_bytes: int) -> str:
    before, after = (state[f"{space}_blocks"] or 0 for state in (outcome.before, outcome.after))
    size = human_bytes(after * block_bytes)
    if before == after:
        return f"nothing to grow: the {space} space has {after} blocks ({size}) already"
    return (
        f"{outcome.verb('grew', 'grow')} the {space} space from {before} to {after} blocks ({size})"
    )
