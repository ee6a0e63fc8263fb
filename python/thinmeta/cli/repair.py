"""``thinmeta repair``: a new pool from what can be read of a damaged one."""

from __future__ import annotations

from thinmeta.cli.options import REPAIR_NUMBERS, Option, parse, repair_numbers, size
from thinmeta.cli.output import write_json, write_text
from thinmeta.cli.progress import progress
from thinmeta.cli.restore import made_fields, print_new_pool
from thinmeta.cli.signals import raise_on_termination
from thinmeta.cli.undelete import (
    add_bytes,
    deleted_lines,
    keeps_overwritten,
    undeleted_lines,
    wanted_devices,
)
from thinmeta.errors import ThinmetaError, UsageError
from thinmeta.repairing import plan_repair, repair
from thinmeta.report import count, human_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from thinmeta.repairing import DeviceRepair, RepairPlan
    from thinmeta.types import NewPool

HELP = """\
Usage: thinmeta repair --plan [--json] [OPTION]... META
       thinmeta repair [-i] META -o NEW_META [--json] [OPTION]...
       thinmeta repair --list-deleted [--json] META

Makes new metadata for a pool of what can be read of those in META, a device or an image
that nobody uses. META is never written. With --plan nothing is written at all: it says
what would be kept, rebuilt and lost, and what a check finds.

Space maps, sums and trees are made anew in any case. Where nodes are damaged, every
block is looked at: for what hung under them, which is taken if the reference counts prove
where it belongs, and for older roots, from which lost leaves are filled where nobody else
accounts for the data. Where roots or the superblock are lost, the most plausible roots
are taken. A metadata snapshot is not kept.

With --undelete a device comes back that was deleted, as far as its tree is still there.
Data that somebody else has now are left to them, and the plan tells which these are.

Options
  -i, --input META       the same as the first word
  -o, --output NEW_META  where to write: a file, or a block device that nobody uses and
                         that is not META; what is there is replaced, whole or not at all
      --size BYTES       how large a file is to be, also as 64M; without it as large as
                         the one that is there, or twice what is in use in a new one
      --plan             say what would be done, and do nothing
      --list-deleted     say which deleted devices could be brought back, and do nothing
      --undelete ID      bring back this one; ID:BLOCK takes the tree whose root is there.
                         May be given more than once
      --overwritten WHAT what becomes of its blocks that are somebody else's now:
                         leave-out, as without this option, makes holes there; keep gives
                         them to it all the same, with what others have written
      --transaction-id NUMBER
      --data-block-size SECTORS
      --nr-data-blocks NUMBER
                         take this, whatever the metadata say; where the superblock is
                         lost and there is no copy of it, the size of data blocks has to
                         be said
      --json             print JSON
  -h, --help             print this

Examples
  thinmeta repair --plan /dev/vg/damaged
  thinmeta repair /dev/vg/damaged -o /dev/vg/spare
  thinmeta repair --undelete 5 --plan pool_tmeta.img
"""

#: Roots, and lost ranges of a device, that the text lists; --json has more.
MOST_ROOTS, MOST_RANGES = 5, 8

OPTIONS = (
    Option("input", "i", takes="a word"),
    Option("output", "o", takes="a word"),
    Option("size", takes="a word"),
    Option("plan"),
    Option("list-deleted"),
    Option("undelete", takes="a word"),
    Option("overwritten", takes="a word"),
    *REPAIR_NUMBERS,
)


def run(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    parsed = parse("repair", arguments, OPTIONS, ("META",), optional=1)
    if parsed.has("help"):
        write_text(HELP)
        return 0
    given = parsed.value("input")
    meta = given if given is not None else parsed.words[0] if parsed.words else None
    if meta is None or (given is not None and parsed.words):
        raise UsageError("repair: one META is needed; see 'thinmeta repair --help'")
    out = parsed.value("output")
    lists = parsed.has("list-deleted")
    if [out is not None, parsed.has("plan"), lists].count(True) != 1:
        what = "--plan, --list-deleted or -o NEW_META"
        raise UsageError(f"repair: say {what}; see 'thinmeta repair --help'")
    undelete = wanted_devices(parsed.values("undelete"))
    keep = keeps_overwritten(parsed.value("overwritten"))
    if parsed.has("overwritten") and not undelete:
        raise UsageError("repair: --overwritten says something of --undelete, which is missing")
    if lists and undelete:
        raise UsageError("repair: --list-deleted and --undelete exclude each other")
    numbers: dict[str, Any] = repair_numbers(parsed)
    room = parsed.value("size")
    raise_on_termination()
    made: NewPool | None = None
    with progress("repairing") as report:
        if out is None:
            plan = plan_repair(
                meta,
                undelete=undelete,
                keep_overwritten=keep,
                list_deleted=lists,
                progress=report,
                **numbers,
            )
        else:
            plan, made = repair(
                meta,
                out,
                undelete=undelete,
                keep_overwritten=keep,
                size_bytes=None if room is None else size(room, "--size"),
                progress=report,
                **numbers,
            )
    findings = _findings(meta) if parsed.has("plan") else None
    if parsed.has("json"):
        _print_json(plan, meta, out, made, findings)
        return 0
    if lists:
        write_text("\n".join(deleted_lines(plan)) + "\n")
        return 0
    write_text(plan_text(plan))
    if findings is not None:
        for code, number in findings.items():
            write_text(f"a check finds: {code} ({number})\n")
    if made is not None and out is not None:
        print_new_pool(made, out, None)
    return 0


def _findings(meta: str) -> dict[str, int]:
    """Codes of a check, and how often each comes up."""
    from thinmeta.tools import check_fields

    try:
        fields = check_fields(meta)
    except (ThinmetaError, OSError):
        return {"superblock-damaged": 1}  # it could not even begin
    codes: dict[str, int] = dict(fields["findings_omitted"])
    for finding in fields["findings"]:
        codes[finding["code"]] = codes.get(finding["code"], 0) + 1
    return codes


def plan_text(plan: RepairPlan) -> str:
    """A plan, to be read."""
    block = plan.data_block_size_sectors * 512
    lines = []
    if plan.superblock_source == "copy":
        lines.append(f"superblock: lost; a copy in metadata block {plan.superblock_copy} is taken")
    elif plan.superblock_source == "options":
        lines.append("superblock: lost; put together from options and from what there is")
    if plan.candidates:
        known = plan.superblock_source == "superblock"
        what = "older ones, for what is lost" if known else "the first of these are taken"
        lines.append(f"roots:      {what}")
        lines += [
            f"  mappings {each.mapping_root}, details {_or_none(each.details_root)}: "
            f"{count(each.devices, 'device')}, {each.whole_devices} of them whole, "
            f"{human_bytes(each.mapped_blocks * block)}, transaction {each.transaction_id}, "
            f"time {each.time}"
            for each in plan.candidates[:MOST_ROOTS]
        ]
        more = len(plan.candidates) - MOST_ROOTS
        if more > 0:
            lines.append(f"  {count(more, 'more pair')}, not listed")
    for each in plan.mended[:MOST_RANGES]:
        what = f"{each.field} of metadata block {each.metadata_block}"
        lines.append(f"mended:     {what}: {each.found} is taken as {each.right}")
    more = len(plan.mended) - MOST_RANGES
    if more > 0:
        lines.append(f"mended:     {count(more, 'more field')}, not listed")
    for device in plan.devices:
        lines += _device_lines(device, block)
    lines += [f"device {device}: lost" for device in plan.lost_devices]
    if plan.maybe_more_devices:
        lines.append("there may have been other devices, of which not even the id is left")
    if plan.loose_trees:
        lines.append(f"{count(plan.loose_trees, 'tree')} of unknown place left out")
    kept = sum(device.kept_blocks for device in plan.devices)
    verdict = "nothing is lost" if plan.is_whole else "something is lost"
    lines.append(f"{count(len(plan.devices), 'device')}, {human_bytes(kept * block)}: {verdict}")
    return "\n".join(lines) + "\n"


def _or_none(block: int | None) -> str:
    return "none" if block is None else str(block)


def _device_lines(device: DeviceRepair, block: int) -> list[str]:
    words = [f"{human_bytes(device.kept_blocks * block)} kept"]
    if device.found_blocks:
        words.append(f"{human_bytes(device.found_blocks * block)} of it found under lost nodes")
    if device.older_blocks:
        words.append(f"{human_bytes(device.older_blocks * block)} of it from an earlier time")
    if device.lost_blocks:
        words.append(f"{human_bytes(device.lost_blocks * block)} lost")
    if device.impossible_blocks:
        impossible = human_bytes(device.impossible_blocks * block)
        words.append(f"{impossible} left out that cannot be")
    if device.doubled_blocks:
        doubled = human_bytes(device.doubled_blocks * block)
        words.append(f"{doubled} left out whose data another place of it has, too")
    if device.recorded_blocks is None:
        words.append("details rebuilt")
    if device.source == "found":
        words.append("its root was lost and found")
    elif device.source == "older":
        words.append("as it was at an earlier time")
    lines = [f"device {device.device_id}: " + ", ".join(words)]
    if device.undeleted is not None:
        lines += undeleted_lines(device, device.undeleted, block)
    for lost in device.lost_ranges[:MOST_RANGES]:
        end = "the end" if lost.end_block is None else f"block {lost.end_block - 1}"
        what = f"from block {lost.begin_block} to {end}"
        lines.append(f"  lost: what there was {what} (metadata block {lost.metadata_block})")
    more = device.lost_ranges_total - MOST_RANGES
    if more > 0:
        lines.append(f"  lost: {count(more, 'more range')}, not listed")
    return lines


def _print_json(
    plan: RepairPlan,
    meta: str,
    out: str | None,
    made: NewPool | None,
    findings: dict[str, int] | None,
) -> None:
    import dataclasses

    block = plan.data_block_size_sectors * 512
    fields: dict[str, Any] = {"metadata": meta, "output": out, "is_whole": plan.is_whole}
    fields |= dataclasses.asdict(plan)
    del fields["data_block_size_sectors"]
    fields["data_block_size_bytes"] = block
    for device, each in zip(fields["devices"], plan.devices, strict=True):
        device["lost_blocks"] = each.lost_blocks
        for name in ("kept", "found", "older", "impossible", "doubled", "lost"):
            blocks = device[f"{name}_blocks"]
            device[f"{name}_bytes"] = None if blocks is None else blocks * block
        add_bytes(device["undeleted"], block)
    fields["findings"] = findings
    fields["made"] = None if made is None else made_fields(made)
    write_json(fields)
