"""What ``thinmeta repair`` says of deleted devices."""

from __future__ import annotations

from thinmeta.cli.options import device_number, whole_number
from thinmeta.errors import UsageError
from thinmeta.report import count, human_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from thinmeta.repairing import DeviceRepair, RepairPlan
    from thinmeta.undeleting import Undeleted, Wanted

#: Ranges and trees that the text lists; --json has more.
MOST_RANGES, MOST_VERSIONS = 12, 4
#: What becomes of data, in the order of how good that is.
FATES = {
    "free": "come back",
    "shared": "come back, and another device has them as well",
    "doubtful": "come back, but somebody else may have had them since",
    "overwritten": "are somebody else's now",
}


def wanted_devices(words: list[str]) -> list[Wanted]:
    """Devices to bring back, from the values of ``--undelete``."""
    found: dict[int, int | None] = {}
    for word in words:
        device, colon, root = word.partition(":")
        device_id = device_number(device, "--undelete")
        if device_id in found:
            raise UsageError(f"repair: --undelete {device_id} was given more than once")
        found[device_id] = whole_number(root, "--undelete ID:BLOCK") if colon else None
    return [*found.items()]


def keeps_overwritten(word: str | None) -> bool:
    """What ``--overwritten`` asks for."""
    if word not in (None, "keep", "leave-out"):
        raise UsageError(f"repair: --overwritten takes keep or leave-out, not {word!r}")
    return word == "keep"


def deleted_lines(plan: RepairPlan) -> list[str]:
    """Devices that could be brought back."""
    block = plan.data_block_size_sectors * 512
    lines = []
    for device in plan.deleted_devices:
        best, *others = device.versions
        words = [human_bytes(best.mapped_blocks * block)]
        if best.is_whole:
            words.append("its tree is whole")
        elif best.recorded_blocks is None:
            words.append("its details are lost, so that nothing tells whether that is all")
        else:
            words.append(f"of {human_bytes(best.recorded_blocks * block)}, as far as can be told")
        if not best.is_led:
            words.append("known by its size alone")
        words.append(f"root {best.root}")
        lines.append(f"deleted device {device.device_id}: " + ", ".join(words))
        lines += [
            f"  another root: {each.root}, {human_bytes(each.mapped_blocks * block)}"
            f"{', whole' if each.is_whole else ''}"
            for each in others[:MOST_VERSIONS]
        ]
        more = device.versions_total - 1 - MOST_VERSIONS
        if more > 0:
            lines.append(f"  {count(more, 'more root')}, not listed")
    return lines or ["no deleted device was found"]


def undeleted_lines(device: DeviceRepair, back: Undeleted, block: int) -> list[str]:
    """What comes back of one."""
    version = back.version
    whole = "its tree is whole" if version.is_whole else "not all of its tree is certain"
    if not version.is_led:
        whole += ", and only its size tells that it is this device's"
    lines = [f"  it was deleted; root {version.root}: {whole}"]
    for fate, words in FATES.items():
        blocks = getattr(back, f"{fate}_blocks")
        if not blocks:
            continue
        if fate == "overwritten":
            kept = "given to it all the same" if back.keeps_overwritten else "left out"
            words = f"{words}, {kept}"
        lines.append(f"  {human_bytes(blocks * block)} {words}")
    for each in back.ranges[:MOST_RANGES]:
        owner = "" if each.owner_id is None else f" (device {each.owner_id})"
        lines.append(f"    block {each.begin_block} to {each.end_block - 1}: {each.fate}{owner}")
    more = back.ranges_total - MOST_RANGES
    if more > 0:
        lines.append(f"    {count(more, 'more range')}, not listed")
    return lines


def add_bytes(fields: dict[str, Any] | None, block: int) -> None:
    """Put bytes beside the blocks of an undeleted device's fields."""
    if fields is not None:
        for fate in FATES:
            fields[f"{fate}_bytes"] = fields[f"{fate}_blocks"] * block
