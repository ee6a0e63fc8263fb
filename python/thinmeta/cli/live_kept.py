"""``thinmeta live kept | forget``: the snapshots that thinmeta keeps for its next runs."""

from __future__ import annotations

import time

from thinmeta.cli.options import device_number
from thinmeta.cli.output import write_error, write_json, write_table, write_text
from thinmeta.errors import UsageError
from thinmeta.live import live_pool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from thinmeta.cli.options import Parsed
    from thinmeta.live import LivePool
    from thinmeta.live.keeping import KeptSnapshot

__all__ = ["forget", "kept"]

HEADS = ["DEV", "VOLUME", "MADE", "STATE", "PURPOSE"]
_ROLES = {"kept": "kept", "left": "left behind", "removing": "to be removed"}
_ABSENT = {"gone": "gone from the pool", "changed": "written to, or another's"}


def kept(parsed: Parsed) -> int:
    """List them."""
    live = live_pool(parsed.words[0])
    found = live.kept()
    if parsed.has("json"):
        write_json({**_pool(parsed, live), "snapshots": [_json(each) for each in found]})
    elif found:
        write_table(HEADS, [_row(each) for each in found])
    else:
        write_text("nothing is kept\n")
    return 0


def _row(each: KeptSnapshot) -> list[str]:
    number = "-" if each.device_id is None else str(each.device_id)
    return [
        f"{each.lvm_name} ({number})" if each.lvm_name else number,
        f"{each.volume_name} ({each.volume_id})" if each.volume_name else str(each.volume_id),
        _made(each) or "-",
        _state(each),
        each.purpose,
    ]


def _made(each: KeptSnapshot) -> str | None:
    if each.made_at is None:
        return None
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(each.made_at))


def _state(each: KeptSnapshot) -> str:
    """In words: first who has it, then whether it is there at all."""
    if each.in_use:
        return "in use"
    return _ABSENT.get(each.presence) or _ROLES[each.role]


def _pool(parsed: Parsed, live: LivePool) -> dict[str, Any]:
    return {
        "pool": live.name,
        "lvm": None if live.lvm is None else live.lvm.full_name,
        "command": parsed.command,
    }


def _json(each: KeptSnapshot) -> dict[str, Any]:
    from dataclasses import asdict

    facts = asdict(each)
    del facts["made_at"]
    return {**facts, "made": _made(each)}


def forget(parsed: Parsed) -> int:
    """Remove some of them, or all."""
    words, everything = parsed.words[1:], parsed.has("all")
    if bool(words) == everything:
        what = "--all and an ID" if everything else "which? An ID, or --all"
        raise UsageError(f"live forget: {what}; see 'thinmeta live --help'")
    live = live_pool(parsed.words[0])
    which = [device_number(word, "ID") if word.isdigit() else word for word in words]
    dry_run = parsed.has("dry-run")
    report = live.forget("all" if everything else which, dry_run=dry_run)
    if parsed.has("json"):
        write_json(
            {
                **_pool(parsed, live),
                "dry_run": dry_run,
                "removed": [_json(each) for each in report.removed],
                "dropped": [_json(each) for each in report.dropped],
                "left": [{**_json(each), "reason": why} for each, why in report.left],
            }
        )
        return 0
    removed = "would remove" if dry_run else "removed"
    dropped = "would forget" if dry_run else "forgot"
    lines = [f"{removed} {_words(each)}" for each in report.removed]
    for each in report.dropped:
        is_left = each.presence == "changed"
        why = "is not as it was, or another's, and stays" if is_left else "is not in the pool"
        lines.append(f"{dropped} {_words(each)}, which {why}")
    write_text("".join(f"{line}\n" for line in lines))
    for each, reason in report.left:
        write_error(f"thinmeta: {_words(each)} is left alone: {reason}\n")
    if not lines and not report.left:
        write_text("nothing is kept\n")
    return 0


def _words(each: KeptSnapshot) -> str:
    number = "" if each.device_id is None else f"thin device {each.device_id}"
    name = f"{each.lvm_name} ({number})" if each.lvm_name and number else each.lvm_name or number
    volume = f"{each.volume_name} ({each.volume_id})" if each.volume_name else str(each.volume_id)
    return f"{name}, a snapshot of {volume} for {each.purpose}"
