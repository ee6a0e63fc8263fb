"""``thinmeta live status``: everything that a live pool says about itself."""

from __future__ import annotations

from thinmeta.cli.output import write_json, write_table, write_text
from thinmeta.live import live_pool
from thinmeta.live.kept import holder
from thinmeta.report import human_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from thinmeta.cli.options import Parsed
    from thinmeta.live import LivePool, LiveStatus, LiveVolume

__all__ = ["show"]

METADATA_BLOCK_BYTES = 4096
_HOLDERS = {
    "nobody": "none",
    "process": "a process of thinmeta reads it",
    "command": "reserved by a command ('thinmeta live release')",
    "stale": "left behind by a process that was killed ('thinmeta live release --stale')",
    "other": "somebody else's tool holds it",
    "unknown": "who holds it cannot be told",
}
HEADS = ["NAME", "DEV", "SIZE", "MAPPED", "ACCESS", "OPEN"]


def show(parsed: Parsed) -> int:
    """Print it."""
    live = live_pool(parsed.words[0])
    status = live.status()
    volumes = live.volumes()
    held_by = holder(live, status)
    if parsed.has("json"):
        write_json(_json(live, status, volumes, held_by))
        return 0
    rows = _rows(live, status, held_by)
    width = max(len(name) for name, _ in rows)
    write_text("".join(f"{name:<{width}}  {value}\n" for name, value in rows))
    if volumes:
        write_text("\n")
        write_table(HEADS, [_volume_row(volume) for volume in volumes])
    return 0


def _rows(live: LivePool, status: LiveStatus, held_by: str) -> list[tuple[str, str]]:
    block_bytes = live.data_block_size_sectors * 512
    rows = [("pool", live.name), ("device", live.path)]
    if live.lvm is not None:
        rows.append(("LVM", live.lvm.full_name))
    rows += [("uuid", live.uuid or "-")]
    rows += [("metadata device", live.metadata_path), ("data device", live.data_path)]
    if status.failed is not None:
        rows.append(("state", f"{status.failed}: the pool has failed, and says nothing else"))
        return rows + _versions(live)
    rows += [
        ("mode", status.mode or "-"),
        ("needs check", _yes(status.needs_check)),
        ("data", _usage(status.used_data_blocks, status.total_data_blocks, block_bytes)),
        (
            "metadata",
            _usage(status.used_metadata_blocks, status.total_metadata_blocks, METADATA_BLOCK_BYTES),
        ),
        ("transaction id", str(status.transaction_id)),
    ]
    at = "" if status.held_root is None else f"block {status.held_root}: "
    rows.append(("metadata snapshot", at + _HOLDERS[held_by]))
    full = {None: "-", True: "writes fail", False: "writes wait"}[status.error_if_no_space]
    rows += [("discards", status.discard_passdown or "-"), ("when full", full)]
    low = status.metadata_low_watermark_blocks
    mark = "-" if low is None else human_bytes(low * METADATA_BLOCK_BYTES)
    data_mark = live.low_water_mark_blocks * block_bytes
    rows += [
        ("low data", f"below {human_bytes(data_mark)}" if data_mark else "-"),
        ("low metadata", "-" if low is None else f"below {mark}"),
        ("features", " ".join(live.features) or "-"),
    ]
    return rows + _versions(live)


def _versions(live: LivePool) -> list[tuple[str, str]]:
    kernel = ".".join(map(str, live.kernel_version))
    target = ".".join(map(str, live.target_version))
    return [("kernel", f"{kernel}, thin-pool target {target}")]


def _yes(value: bool | None) -> str:
    return {None: "-", True: "yes", False: "no"}[value]


def _usage(used: int | None, total: int | None, block_bytes: int) -> str:
    assert used is not None and total is not None  # it has not failed
    share = f", {used * 100 / total:.1f} %" if total else ""
    return (
        f"{human_bytes(used * block_bytes)} of {human_bytes(total * block_bytes)}{share} "
        f"({used} of {total} blocks of {human_bytes(block_bytes)})"
    )


def _volume_row(volume: LiveVolume) -> list[str]:
    mapped = "-" if volume.mapped_sectors is None else human_bytes(volume.mapped_sectors * 512)
    access = "ro" if volume.read_only else "rw"
    if volume.suspended:
        access += ", suspended"
    size = human_bytes(volume.size_bytes)
    return [volume.name, str(volume.device_id), size, mapped, access, str(volume.open_count)]


def _json(
    live: LivePool, status: LiveStatus, volumes: list[LiveVolume], held_by: str
) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "pool": live.name,
        "uuid": live.uuid,
        "device": live.path,
        "device_number": live.device_number,
        "lvm": None if live.lvm is None else live.lvm.full_name,
        "metadata_device": live.metadata_path,
        "data_device": live.data_path,
        "data_block_size_bytes": live.data_block_size_sectors * 512,
        "low_water_mark_blocks": live.low_water_mark_blocks,
        "features": list(live.features),
        "kernel_version": ".".join(map(str, live.kernel_version)),
        "target_version": ".".join(map(str, live.target_version)),
        "status": asdict(status),
        "metadata_snapshot_holder": held_by,
        "volumes": [{**asdict(volume), "size_bytes": volume.size_bytes} for volume in volumes],
    }
