"""``thinmeta shrink``: a pool that fits on a shorter data device."""

from __future__ import annotations

from thinmeta.cli.options import Option, parse, size, whole_number
from thinmeta.cli.output import write_json, write_text
from thinmeta.cli.progress import progress
from thinmeta.cli.restore import print_new_pool
from thinmeta.cli.signals import raise_on_termination
from thinmeta.cli.whole_pool import needs_whole_pool
from thinmeta.errors import UsageError
from thinmeta.report import count, human_bytes
from thinmeta.shrinking import plan_shrink, shrink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from thinmeta.shrinking import ShrinkPlan

HELP = """\
Usage: thinmeta shrink --plan [--data-blocks N] [--json] META
       thinmeta shrink META --data DATA --data-blocks N -o NEW_META [--json] [OPTION]...

Makes the pool of META and DATA, which nobody uses, fit on a data device of N blocks. The
blocks in use past that, and no others, are copied to places below that are free, and new
metadata are made that say so. META is not written, and no block that the pool uses: it
stays as it is until you exchange NEW_META for it and make the data device shorter
(docs/moving.md). Then use neither the old metadata nor the old length any more.

A run that was cut off is gone on with by the same command; do not use the pool meanwhile.
How far it came is in NEW_META.shrink (of a device, in /var/lib/thinmeta/targets), which
is gone at the end.

With --plan nothing is written: it says how much would be copied; without --data-blocks,
how far the pool could be shrunk.

Options
      --data DATA        the pool's data
      --data-blocks N    how many data blocks there are to be; also as a size, 10G, of
                         which the blocks that fit are taken
  -o, --output NEW_META  where to write: a file, or a block device that nobody uses and
                         that is not META; what is there is replaced, whole or not at all
      --size BYTES       how large a file is to be, also as 64M; without it as large as
                         the one that is there, or twice what is in use in a new one
      --no-copy          make the metadata alone: somebody else copies the data
      --plan             say what would be done, and do nothing
      --json             print JSON
  -h, --help             print this

Examples
  thinmeta shrink --plan pool_tmeta.img
  thinmeta shrink pool_tmeta.img --data pool_tdata.img --data-blocks 8192 -o new_tmeta.img
"""

OPTIONS = (
    Option("data", takes="a word"),
    Option("data-blocks", takes="a word"),
    Option("output", "o", takes="a word"),
    Option("size", takes="a word"),
    Option("no-copy"),
    Option("plan"),
)


def run(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    parsed = parse("shrink", arguments, OPTIONS, ("META",))
    if parsed.has("help"):
        write_text(HELP)
        return 0
    if parsed.has("metadata-snapshot"):
        raise UsageError("shrink: a pool in use cannot be shrunk, nor its metadata snapshot")
    meta, data, out = parsed.words[0], parsed.value("data"), parsed.value("output")
    wanted, room = parsed.value("data-blocks"), parsed.value("size")
    if (out is None) != parsed.has("plan"):
        raise UsageError("shrink: say --plan or -o NEW_META; see 'thinmeta shrink --help'")
    if out is not None and wanted is None:
        raise UsageError("shrink: --data-blocks is missing; see 'thinmeta shrink --help'")
    if out is not None and (data is None) != parsed.has("no-copy"):
        raise UsageError("shrink: say --data DATA or --no-copy; see 'thinmeta shrink --help'")
    size_bytes = None if room is None else size(room, "--size")
    raise_on_termination()
    blocks = None if wanted is None else _blocks(wanted, meta)
    if out is None or blocks is None:
        with needs_whole_pool("shrink", meta), progress("looking") as report:
            plan = plan_shrink(meta, data_blocks=blocks, progress=report)
        if parsed.has("json"):
            write_json({**_plan_fields(plan, {"metadata": meta}), "made": None})
        else:
            write_text(_plan_text(plan, of_a_number=blocks is not None))
        return 0
    with needs_whole_pool("shrink", meta), progress("copying", in_bytes=True) as report:
        done = shrink(
            meta,
            data,
            out,
            data_blocks=blocks,
            copy=data is not None,
            size_bytes=size_bytes,
            progress=report,
        )
    head = {"metadata": meta, "data": data, "output": out, "resumed_blocks": done.resumed_blocks}
    if parsed.has("json"):
        print_new_pool(done.pool, out, _plan_fields(done.plan, head))
        return 0
    verb = "to copy" if data is None else "copied"
    again = f", of these {done.resumed_blocks} by an earlier run" if done.resumed_blocks else ""
    write_text(f"{verb}: {_moved(done.plan)}{again}\n")
    print_new_pool(done.pool, out, None)
    return 0


def _blocks(word: str, meta: str) -> int:
    """A number of blocks, or as many as a size has."""
    if word.isdigit():
        return whole_number(word, "--data-blocks")
    from thinmeta.pool import open_pool

    size_bytes = size(word, "--data-blocks")
    with open_pool(meta) as pool:
        return size_bytes // pool.superblock.data_block_size_bytes


def _plan_fields(plan: ShrinkPlan, head: dict[str, Any]) -> dict[str, Any]:
    import dataclasses

    fields = dataclasses.asdict(plan)
    return {
        **head,
        "data_block_size_bytes": fields.pop("block_bytes"),
        **fields,
        "moved_bytes": plan.moved_bytes,
        "smallest_data_blocks": plan.smallest_data_blocks,
        "smallest_data_bytes": plan.smallest_data_blocks * plan.block_bytes,
    }


def _moved(plan: ShrinkPlan) -> str:
    blocks, pieces = count(plan.moved_blocks, "block"), count(plan.moves, "piece")
    return f"{blocks} ({human_bytes(plan.moved_bytes)}) in {pieces}"


def _plan_text(plan: ShrinkPlan, *, of_a_number: bool) -> str:
    def sized(blocks: int) -> str:
        return f"{count(blocks, 'block')} ({human_bytes(blocks * plan.block_bytes)})"

    highest = plan.highest_used_block
    lines = [
        f"data:      {sized(plan.data_blocks)}, {plan.used_blocks} of them in use",
        f"highest:   {'none is in use' if highest is None else f'block {highest}'}",
        f"smallest:  {sized(plan.smallest_data_blocks)}",
    ]
    if of_a_number:
        lines.append(f"shrunk to: {sized(plan.new_data_blocks)}")
        lines.append(f"to copy:   {_moved(plan)}")
    elif highest is not None and highest + 1 < plan.data_blocks:
        lines.append(f"no copies: down to {sized(highest + 1)}")
    return "\n".join(lines) + "\n"
