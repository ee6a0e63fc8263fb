"""``thinmeta edit``: many changes of a pool at once, all of them or none."""

from __future__ import annotations

from thinmeta.cli.change import change, parse_change, print_outcome
from thinmeta.cli.options import Option
from thinmeta.cli.output import write_text
from thinmeta.report import count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

    from thinmeta.cli.change import Outcome
    from thinmeta.pool import Pool
    from thinmeta.transaction import PoolTransaction

HELP = """\
Usage: thinmeta edit [-n] [--json] META SCRIPT

Makes the changes of SCRIPT to the pool whose metadata is META, in one transaction: all
of them, or, when one cannot be made, none. SCRIPT is a file, or - for standard input.
An error names the line.

Each line of SCRIPT is a JSON object; "op" is one of these, and all fields are numbers:
  create_thin                device_id
  create_snapshot            device_id, origin_id
  delete                     device_id
  insert                     device_id, virtual_block, data_block
  remove                     device_id, virtual_block
  remove_range               device_id, begin, end     (virtual blocks; end is not in it)
  set_transaction_id         expected, new
  grow_data, grow_metadata   blocks                    (how many there are afterwards)
  reserve_metadata_snapshot                            (of what the pool is afterwards)
  release_metadata_snapshot
They are done in the order of the lines. A data block that they free can be mapped again
only by the next script.
Empty lines and those that begin with # are left out. No line is longer than 1 MiB.

Options
  -n, --dry-run          say what would change, and change nothing
      --json             print JSON: the pool before and after, and how often each
                         operation was done
  -h, --help             print this

Examples
  thinmeta edit --dry-run pool_tmeta.img changes.jsonl
  echo '{"op": "create_snapshot", "device_id": 9, "origin_id": 1}' |
    thinmeta edit pool_tmeta.img -
"""

OPTIONS: tuple[Option, ...] = ()
LABELS = {
    "devices": "thin devices",
    "mapped_blocks": "mappings",
    "used_data_blocks": "data blocks in use",
    "data_blocks": "data blocks",
    "metadata_blocks": "metadata blocks",
    "transaction_id": "transaction id",
    "time": "clock",
    "metadata_snapshot": "metadata snapshot at block",
}


def run(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    parsed = parse_change("edit", arguments, ("META", "SCRIPT"))
    if parsed.has("help"):
        write_text(HELP)
        return 0
    from thinmeta.cli.script import perform

    word = parsed.words[1]
    name = "standard input" if word == "-" else word
    done: dict[str, int] = {}
    with _open(word) as script:

        def work(_: Pool, txn: PoolTransaction) -> None:
            done.update(perform(script, name, txn))

        outcome = change(parsed, work)
    print_outcome(parsed, outcome, _account(done, outcome), {"script": word, "operations": done})
    return 0


def _open(word: str) -> BinaryIO:
    import sys

    if word != "-":
        return open(word, "rb")
    if sys.stdin is None:
        import errno
        import os

        raise OSError(errno.EBADF, os.strerror(errno.EBADF), "standard input")
    return sys.stdin.buffer


def _account(done: dict[str, int], outcome: Outcome) -> str:
    """What was done, and each number of the pool that is another one afterwards."""
    changes = count(sum(done.values()), "change")
    each = ", ".join(f"{times} {operation}" for operation, times in done.items())
    lines = [f"{outcome.verb('made', 'make')} {changes}{': ' if each else ''}{each}"]
    for key, label in LABELS.items():
        before, after = outcome.before[key], outcome.after[key]
        if before != after:
            lines.append(f"  {label}: {_number(before)} before, {_number(after)} after")
    return "\n".join(lines)


def _number(value: int | None) -> str:
    return "none" if value is None else str(value)
