"""Results in words and in JSON: the forms that the commands print."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

    from thinmeta.types import AffectedRange, CheckReport, Finding

    Scope = Literal["all", "superblock", "without_mappings"]

__all__ = ["check_json", "check_text", "count", "human_bytes", "verdict"]

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def human_bytes(size_bytes: int) -> str:
    """A number of bytes for people: ``"12.5 MiB"``; one decimal, none when it is 0."""
    value, unit = float(size_bytes), 0
    while round(value, 1) >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.1f}".removesuffix(".0") + f" {_UNITS[unit]}"


def count(number: int, noun: str) -> str:
    """A number and its noun: ``"1 block"``, ``"2 blocks"``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def verdict(fields: dict[str, Any], scope: Scope = "all") -> str:
    """The last line of a check: what it means, for somebody who does it the first time.

    Args:
        fields: The native module's result.
        scope: What was looked at.
    """
    if scope == "superblock":
        looked = "only the superblock checked"
    else:
        looked = (
            f"{count(fields.get('metadata_blocks_checked', 0), 'metadata block')}, "
            f"{count(fields.get('devices', 0), 'thin device')}"
        )
        if scope == "all":
            looked += f", {count(fields.get('mappings_checked', 0), 'mapping')} checked"
        else:
            looked += " checked; mappings were not looked at"
    omitted = sum(fields.get("findings_omitted", {}).values())
    severities = [finding["severity"] for finding in fields["findings"]]
    fatal, minor = severities.count("fatal"), severities.count("non-fatal")
    if fields["clean"]:
        notes = f" {count(severities.count('info'), 'note')} above." if "info" in severities else ""
        if scope == "superblock":
            return f"CLEAN: the superblock is sound; nothing else was looked at.{notes}"
        return f"CLEAN: nothing is wrong ({looked}).{notes}"
    others = minor + omitted
    total = count(fatal + others, "problem")
    if fatal:
        what = f"{total}, {fatal} of them fatal" if others else count(fatal, "fatal problem")
        return (
            f"DAMAGED: {what}: some data cannot be reached or must not be trusted "
            f"({looked}). Do not activate the pool before it is repaired."
        )
    return (
        f"NOT CLEAN: {total}, none fatal: all data can be reached, a repair loses nothing "
        f"({looked})."
    )


def check_text(report: CheckReport) -> str:
    """The findings of a check, a paragraph each; empty when there are none."""
    block_bytes = 512 * (report.data_block_size_sectors or 0)
    parts = [_finding_text(finding, block_bytes) for finding in report.findings]
    parts += [
        f"{number} more of {code}, not listed\n" for code, number in report.findings_omitted.items()
    ]
    return "".join(parts)


def _finding_text(finding: Finding, block_bytes: int) -> str:
    lines = [f"{finding.severity}: {finding.code}: {finding.message}"]
    place = []
    if finding.block is not None:
        place.append(f"metadata block {finding.block}")
    if finding.tree:
        place.append(f"in the {finding.tree}")
    if len(finding.path) > 1:
        place.append("reached through blocks " + " > ".join(map(str, finding.path)))
    if place:
        lines.append("  where:   " + ", ".join(place))
    lines += ["  affects: " + _affected_text(each, block_bytes) for each in finding.affected]
    more = finding.affected_total - len(finding.affected)
    if more > 0:
        lines.append(f"  affects: {count(more, 'more range')}, not listed")
    return "\n".join(lines) + "\n"


def _affected_text(part: AffectedRange, block_bytes: int) -> str:
    begin, end = part.begin_block, part.end_block
    if end is None or end >= 1 << 63:
        if begin == 0:
            return f"all of device {part.device_id}"
        where = f"from byte {begin * block_bytes} to the end, " if block_bytes else ""
        return f"device {part.device_id}, {where}blocks {begin} and up"
    where = ""
    if block_bytes:
        length = human_bytes((end - begin) * block_bytes)
        where = f"{length} at byte {begin * block_bytes}, "
    blocks = f"block {begin}" if end - begin == 1 else f"blocks {begin} to {end - 1}"
    return f"device {part.device_id}, {where}{blocks}"


def check_json(
    fields: dict[str, Any], path: str, snapshot: str | int | None, scope: Scope = "all"
) -> dict[str, Any]:
    """The result of a check as a JSON document.

    Args:
        fields: The native module's result.
        path: What was checked.
        snapshot: Which metadata snapshot, if one.
        scope: What was looked at.
    """
    findings = [
        {
            **finding,
            "affected": [
                {"device_id": device_id, "begin_block": begin, "end_block": end}
                for device_id, begin, end in finding.get("affected", ())
            ],
        }
        for finding in fields["findings"]
    ]
    head = {"metadata": path, "metadata_snapshot": snapshot, "scope": scope}
    told = {**head, **fields, "findings": findings}
    told.pop("overcounted", None)  # what 1.x asks for; here the findings tell
    # Sizes are in bytes, as in every command's JSON.
    sectors = told.pop("data_block_size_sectors", None)
    return {**told, "data_block_size_bytes": None if sectors is None else sectors * 512}
