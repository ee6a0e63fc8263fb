"""``thinmeta live snapshot | reserve | release``: what changes a live pool."""

from __future__ import annotations

from thinmeta.cli.options import device_number
from thinmeta.cli.output import write_json, write_text
from thinmeta.errors import UsageError
from thinmeta.live import live_pool
from thinmeta.live.kept import release_kept, reserve_kept
from thinmeta.live.messages import to_suspend

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from thinmeta.cli.options import Parsed
    from thinmeta.live import LivePool, LvmPool

__all__ = ["release", "reserve", "snapshot"]


def _say(parsed: Parsed, live: LivePool, text: str, facts: dict[str, Any]) -> int:
    if not parsed.has("json"):
        write_text(text + "\n")
        return 0
    write_json(
        {
            "pool": live.name,
            "lvm": None if live.lvm is None else live.lvm.full_name,
            "command": parsed.command,
            "dry_run": parsed.has("dry-run"),
            **facts,
        }
    )
    return 0


def _verb(parsed: Parsed, done: str, would: str) -> str:
    return f"would {would}" if parsed.has("dry-run") else done


def snapshot(parsed: Parsed) -> int:
    """Make a snapshot of a thin device, or of a volume of LVM's."""
    live = live_pool(parsed.words[0])
    _, new, origin = parsed.words
    if live.lvm is not None and not parsed.has("force"):
        return _snapshot_of_lvm(parsed, live, live.lvm)
    device_id = device_number(new, "NEW")
    origin_id = device_number(origin, "ORIGIN") if origin.isdigit() else live.device_id_of(origin)
    suspend = parsed.value("suspend")
    if parsed.has("dry-run"):
        to_suspend(live, origin_id, suspend)
    else:
        live.create_snapshot(device_id, origin_id=origin_id, suspend=suspend, force=True)
    still = "" if suspend is None else f", {suspend} standing still"
    text = (
        f"{_verb(parsed, 'created', 'create')} thin device {device_id}, a snapshot of thin device "
        f"{origin_id}{still}"
    )
    facts = {"device_id": device_id, "origin_id": origin_id, "suspended": suspend, "volume": None}
    return _say(parsed, live, text, facts)


def _snapshot_of_lvm(parsed: Parsed, live: LivePool, lvm: LvmPool) -> int:
    _, new, origin = parsed.words
    if parsed.has("suspend"):
        raise UsageError(
            f"{lvm.full_name} is a pool of LVM, which suspends the volume itself: leave --suspend "
            "out"
        )
    of = lvm.volume(origin)
    device_id = None
    if not parsed.has("dry-run"):
        device_id = lvm.create_snapshot(new, origin=of.name).device_id
    known = "" if device_id is None else f" (thin device {device_id})"
    text = (
        f"{_verb(parsed, 'created', 'create')} {lvm.volume_group}/{new}{known}, a snapshot of "
        f"{lvm.volume_group}/{of.name}"
    )
    facts = {"device_id": device_id, "origin_id": of.device_id, "suspended": None, "volume": new}
    return _say(parsed, live, text, facts)


def reserve(parsed: Parsed) -> int:
    """Reserve the metadata snapshot, to be kept."""
    live = live_pool(parsed.words[0])
    held_root = reserve_kept(live, dry_run=parsed.has("dry-run"))
    if held_root is None:
        text = "would reserve the metadata snapshot"
    else:
        text = (
            f"reserved the metadata snapshot at block {held_root}: 'thinmeta live release "
            f"{parsed.words[0]}' releases it"
        )
    return _say(parsed, live, text, {"metadata_snapshot": held_root})


def release(parsed: Parsed) -> int:
    """Release the metadata snapshot that is kept, or that was left behind."""
    live = live_pool(parsed.words[0])
    stale = parsed.has("stale")
    released = release_kept(live, stale=stale, dry_run=parsed.has("dry-run"))
    if released:
        text = f"{_verb(parsed, 'released', 'release')} the metadata snapshot"
    elif stale:
        text = "nothing was left behind"
    else:
        text = "it is being read: the last of its readers "
        text += _verb(parsed, "will release it", "have to release it")
    return _say(parsed, live, text, {"released": released})
