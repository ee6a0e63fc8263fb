"""``thinmeta merge``: what a volume holds, put back into what it was made of."""

from __future__ import annotations

from thinmeta.cli.options import Option, device_number, parse, size
from thinmeta.cli.output import write_error, write_json, write_text
from thinmeta.cli.progress import progress
from thinmeta.cli.restore import print_new_pool
from thinmeta.cli.signals import raise_on_termination
from thinmeta.cli.whole_pool import needs_whole_pool
from thinmeta.errors import UsageError
from thinmeta.merging.snapshot import merge, plan_merge
from thinmeta.report import count, human_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from thinmeta.cli.options import Parsed
    from thinmeta.merging.snapshot import MergePlan

HELP = """\
Usage: thinmeta merge META --origin ID --snapshot ID -o NEW_META [--json] [OPTION]...
       thinmeta merge META --origin ID --snapshot ID --plan [--json] [OPTION]...
       thinmeta merge META ID --data DATA --into-external-origin DEVICE [OPTION]...
       thinmeta merge POOL ID --into-external-origin DEVICE [OPTION]...

Puts what a volume holds back into what it was made of: an origin in the same pool, or an
external origin, outside of it.

Into an origin in the pool
Makes new metadata for the pool of META, which nobody uses, in which the origin has the
content of its snapshot, and the snapshot is not there any more. Whoever reads the origin
then reads what the snapshot read, what was discarded in it included. All other devices
stay as they are, and no data are copied. META is not written.

      --origin ID        the thin device that is changed; it keeps its id
      --snapshot ID      the one whose content it takes over
  -o, --output NEW_META  where to write: a file, or a block device that nobody uses and
                         that is not META; what is there is replaced, whole or not at all
      --size BYTES       how large a file is to be, also as 64M; without it as large as
                         the one that is there, or twice what is in use in a new one
      --keep-snapshot    leave the snapshot as it is, too
      --overlay          keep what only the origin maps. That is for a device that has the
                         other one as its external origin: what it does not map reads as
                         that one. A snapshot in the pool is a volume of its own, whose
                         holes read as zeros, and are holes of the origin afterwards.

A snapshot and its origin mostly have blocks in common; where these two have none, a
warning is printed.

Into an external origin
Writes what thin device ID has mapped back to DEVICE, the external origin that it was
made over, reads it back from the disk, and compares it with what the volume reads.
Afterwards DEVICE has the volume's content. META and DATA are the pool's metadata and
data, devices or images of them; or POOL is a live pool, where the volume may not be
active.

Only what is mapped is written; where nothing is, the volume shows what DEVICE has there.
The volume is not changed: while this is done, and if it is interrupted, it reads as
before, so that nothing is lost. The same command once more goes on.

EVERYTHING ELSE THAT STANDS ON DEVICE SEES THE CHANGE: other volumes over the same origin
read differently afterwards. A pool does not know which volumes have which origin; LVM
does (lvs -o+origin). DEVICE is refused while it is mounted, or a volume over it is
active. LVM keeps such origins read-only; with all volumes over it inactive, DEVICE is one
of your own over the same place: 'lvchange -ay VG/LV', 'dmsetup table VG-LV-real > T',
'lvchange -an VG/LV', 'dmsetup create base T', and afterwards 'dmsetup remove base'.

      --into-external-origin DEVICE
                         the origin: a device, or an image of it
      --data DATA        the pool's data device, or an image of it
      --size BYTES       the size of the volume, also as 512M, 10GiB or 20971520s
                         (sectors), where it ends in the middle of a block past the end of
                         DEVICE, and there is something in the rest of it
      --no-verify        do not read it back

Options of both
  -n, --plan, --dry-run  say what would change, and do nothing
      --json             print JSON
  -h, --help             print this

Examples
  thinmeta merge pool_tmeta.img --origin 1 --snapshot 4 --plan
  thinmeta merge pool_tmeta.img --origin 1 --snapshot 4 -o new_tmeta.img
  thinmeta merge pool_tmeta.img 1 --data pool_tdata.img --into-external-origin base.img
  thinmeta merge vg/pool 3 --into-external-origin /dev/vg/base --dry-run
"""

OPTIONS = (
    Option("origin", takes="a word"),
    Option("snapshot", takes="a word"),
    Option("output", "o", takes="a word"),
    Option("size", takes="a word"),
    Option("keep-snapshot"),
    Option("overlay"),
    Option("into-external-origin", takes="a word"),
    Option("data", takes="a word"),
    Option("no-verify"),
    Option("plan"),
    Option("dry-run", "n"),
)
#: What each of the two has for itself.
IN_THE_POOL = ("origin", "snapshot", "output", "keep-snapshot", "overlay")
OUTSIDE = ("data", "no-verify")


def run(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    parsed = parse("merge", arguments, OPTIONS, ("META", "ID"), optional=1)
    if parsed.has("help"):
        write_text(HELP)
        return 0
    if parsed.has("metadata-snapshot"):
        raise UsageError("merge: in a pool in use nothing can be merged, nor in its snapshot")
    if parsed.has("into-external-origin"):
        _refuse(parsed, IN_THE_POOL, "is for an origin in the pool, not for an external one")
        if len(parsed.words) == 1:
            raise UsageError("merge: ID is missing; see 'thinmeta merge --help'")
        from thinmeta.cli.merge_external import merge_external

        return merge_external(parsed, dry_run=parsed.has("plan") or parsed.has("dry-run"))
    _refuse(parsed, OUTSIDE, "is for --into-external-origin")
    if len(parsed.words) == 2:
        raise UsageError(
            "merge: say --origin and --snapshot, or ID and --into-external-origin; see "
            "'thinmeta merge --help'"
        )
    ids = {}
    for name in ("origin", "snapshot"):
        word = parsed.value(name)
        if word is None:
            raise UsageError(f"merge: --{name} is missing; see 'thinmeta merge --help'")
        ids[f"{name}_id"] = device_number(word, f"--{name}")
    meta, out, room = parsed.words[0], parsed.value("output"), parsed.value("size")
    if (out is None) != (parsed.has("plan") or parsed.has("dry-run")):
        raise UsageError("merge: say --plan or -o NEW_META; see 'thinmeta merge --help'")
    size_bytes = None if room is None else size(room, "--size")
    keep, overlay = parsed.has("keep-snapshot"), parsed.has("overlay")
    raise_on_termination()
    made = None
    with needs_whole_pool("merge", meta), progress("merging") as report:
        if out is None:
            plan = plan_merge(meta, keep_snapshot=keep, overlay=overlay, progress=report, **ids)
        else:
            plan, made = merge(
                meta,
                out,
                keep_snapshot=keep,
                overlay=overlay,
                size_bytes=size_bytes,
                progress=report,
                **ids,
            )
    if plan.origin_blocks and not plan.common_blocks and not overlay:
        write_error(
            f"thinmeta: merge: devices {ids['origin_id']} and {ids['snapshot_id']} have no block "
            "in common: is one a snapshot of the other? All that the origin has goes away\n"
        )
    if parsed.has("json"):
        fields = _fields(plan, {"metadata": meta, **ids, "output": out})
        if made is not None and out is not None:
            print_new_pool(made, out, fields)
        else:
            write_json({**fields, "made": None})
        return 0
    write_text(_text(plan, keep=keep, overlay=overlay, **ids))
    if made is not None and out is not None:
        print_new_pool(made, out, None)
    return 0


def _refuse(parsed: Parsed, names: tuple[str, ...], why: str) -> None:
    for name in names:
        if parsed.has(name):
            raise UsageError(f"merge: --{name} {why}; see 'thinmeta merge --help'")


def _fields(plan: MergePlan, head: dict[str, Any]) -> dict[str, Any]:
    import dataclasses

    fields = dataclasses.asdict(plan)
    size = fields.pop("block_bytes")
    return {**head, "data_block_size_bytes": size, **fields, "freed_bytes": plan.freed_bytes}


def _text(plan: MergePlan, *, keep: bool, overlay: bool, origin_id: int, snapshot_id: int) -> str:
    def sized(blocks: int) -> str:
        return f"{count(blocks, 'block')} ({human_bytes(blocks * plan.block_bytes)})"

    lines = [
        f"device {origin_id}: {sized(plan.origin_blocks)}, afterwards {sized(plan.merged_blocks)}",
        f"  as they are:     {sized(plan.common_blocks)}",
        f"  replaced:        {sized(plan.replaced_blocks)}",
        f"  new:             {sized(plan.added_blocks)}",
        f"  {'kept:      ' if overlay else 'holes now: '}      {sized(plan.origin_only_blocks)}",
        f"device {snapshot_id}: {'stays' if keep else 'goes away'}",
        f"free afterwards: {sized(plan.freed_blocks)} of data",
    ]
    return "\n".join(lines) + "\n"
