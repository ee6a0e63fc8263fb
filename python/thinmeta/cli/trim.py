"""``thinmeta trim``: free data blocks of an inactive pool, given up."""

from __future__ import annotations

from thinmeta.cli.options import Option, parse
from thinmeta.cli.output import write_json, write_text
from thinmeta.cli.progress import progress
from thinmeta.cli.signals import raise_on_termination
from thinmeta.errors import UsageError
from thinmeta.report import count, human_bytes
from thinmeta.trimming import trim

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.trimming import Trimmed

HELP = """\
Usage: thinmeta trim META --data DATA [-n] [--json]

Gives up the data blocks that no volume of an inactive pool uses: in an image they become
holes, of a device they are discarded. META are the pool's metadata as they are now: what
old ones call free may be in use.

META is checked first. A block is given up only if nothing in it leads there, be it the
metadata snapshot, and if the space map has it free as well. A pool that is in use, has
needs_check set, or is not sound, is refused. It may be stopped or killed at any time.

Options
      --data DATA        the pool's data; may be left out with --dry-run
  -n, --dry-run          say how much it would be, and change nothing
      --json             print JSON: bytes, and the first ranges in blocks
  -h, --help             print this

Examples
  thinmeta trim --dry-run pool_tmeta.img
  thinmeta trim /dev/vg/pool_tmeta --data /dev/vg/pool_tdata
"""

OPTIONS = (Option("data", takes="a word"), Option("dry-run", "n"))


def run(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    parsed = parse("trim", arguments, OPTIONS, ("META",))
    if parsed.has("help"):
        write_text(HELP)
        return 0
    if parsed.has("metadata-snapshot"):
        raise UsageError("trim: a pool in use cannot be trimmed; it discards by itself")
    meta, data, dry_run = parsed.words[0], parsed.value("data"), parsed.has("dry-run")
    if data is None and not dry_run:
        raise UsageError("trim: --data is missing; see 'thinmeta trim --help'")
    raise_on_termination()
    with progress("trimming", in_bytes=True) as report:
        done = trim(meta, data, dry_run=dry_run, progress=report)
    if parsed.has("json"):
        _print_json(done, meta, data)
        return 0
    verb = "to give up" if dry_run else "given up"
    ranges = count(done.ranges_total, "range")
    write_text(
        f"{verb}: {human_bytes(done.discarded_bytes)} in {ranges}; in use: "
        f"{done.used_blocks} of {count(done.data_blocks, 'block')}\n"
    )
    if done.leaked_blocks:
        leaked = human_bytes(done.leaked_blocks * done.block_bytes)
        write_text(
            f"left alone: {leaked} that no volume uses and the space map has in use; "
            f"'thinmeta check --auto-repair {meta}' makes them free\n"
        )
    return 0


def _print_json(done: Trimmed, meta: str, data: str | None) -> None:
    import dataclasses

    told = dataclasses.asdict(done)
    size = told.pop("block_bytes")
    fields = {"metadata": meta, "data": data, "data_block_size_bytes": size, **told}
    for name in ("used", "leaked", "discarded"):
        fields[f"{name}_bytes"] = fields[f"{name}_blocks"] * done.block_bytes
    write_json(fields)
