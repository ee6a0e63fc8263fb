"""``thinmeta migrate --family``: devices that share blocks, to a pool where they do so again."""

from __future__ import annotations

from contextlib import ExitStack

from thinmeta.cli.options import buffer_size, device_number
from thinmeta.cli.output import write_json, write_text
from thinmeta.cli.progress import progress
from thinmeta.cli.signals import raise_on_termination
from thinmeta.errors import AlreadyFormattedError, ThinmetaError, UsageError
from thinmeta.report import count, human_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from thinmeta.cli.options import Parsed
    from thinmeta.live import LivePool
    from thinmeta.migrating import FamilyReport, MemberPlan, Verify
    from thinmeta.pool import Pool

__all__ = ["run_family"]

#: What is for one volume, or for what is no pool.
_FOR_ONE = (
    "delta-id",
    "delta-bookmark",
    "keep",
    "force-base",
    "size",
    "external-origin",
    "journal",
)


def run_family(parsed: Parsed, scope: Verify) -> int:
    """Run the command on its words, of which there are two, and return its exit status."""
    for option in _FOR_ONE:
        if parsed.has(option):
            raise UsageError(f"migrate: --family and --{option} exclude each other")
    source, destination = parsed.words
    data, dest_data = parsed.value("data"), parsed.value("dest-data")
    if dest_data is None:
        raise UsageError("migrate: --dest-data is missing: the content goes there")
    buffer_bytes = buffer_size(parsed)
    raise_on_termination()
    from thinmeta.migrating.apart import check_apart
    from thinmeta.migrating.family import migrate_family, plan_family
    from thinmeta.migrating.work import BUFFER_BYTES
    from thinmeta.pool import open_pool

    try:
        with ExitStack() as stack:
            pool: Pool | LivePool
            if data is None:
                pool = _live(source)
            else:
                check_apart([source, data], [destination, dest_data])
                pool = stack.enter_context(open_pool(source, data=data))
            called = _called(pool, parsed.values("family"))
            if parsed.has("dry-run"):
                plans = plan_family(pool, called, destination, destination_ids=called)
                _print_plans(parsed, plans)
                return 0
            with progress("migrating", in_bytes=True) as show:
                report = migrate_family(
                    pool,
                    called,
                    destination,
                    dest_data,
                    destination_ids=called,
                    overwrite=parsed.has("overwrite"),
                    verify=scope,
                    buffer_bytes=BUFFER_BYTES if buffer_bytes is None else buffer_bytes,
                    progress=show,
                )
    except AlreadyFormattedError as error:
        raise ThinmetaError(f"{error.path}: {error.reason}; --overwrite replaces it") from error
    _print_report(parsed, report)
    return 0


def _live(source: str) -> LivePool:
    from thinmeta.cli.pools import find_source

    live = find_source(source, None).live
    if live is None:
        raise UsageError(
            f"migrate: --data is missing: {source} is no live pool, and says only where the "
            "content is; see 'thinmeta migrate --help'"
        )
    return live


def _called(pool: Pool | LivePool, values: list[str]) -> dict[int, int]:
    """What each device is to be called."""
    from thinmeta.pool import Pool

    words = [word for value in values for word in value.split(",") if word]
    if words == ["all"]:
        if isinstance(pool, Pool):
            return {each: each for each in pool.devices}
        return {each.device_id: each.device_id for each in pool.volumes()}
    called: dict[int, int] = {}
    for word in words:
        name, equals, new = word.partition("=")
        if isinstance(pool, Pool) or name.isdigit():
            device_id = device_number(name, "--family")
        else:
            device_id = pool.device_id_of(name)
        if device_id in called:
            raise UsageError(f"migrate: --family: device {device_id} is named twice")
        called[device_id] = device_number(new, "--family") if equals else device_id
    if not called:
        raise UsageError("migrate: --family: no device was named")
    return called


def _facts(parsed: Parsed) -> dict[str, Any]:
    source, destination = parsed.words
    return {
        "pool": source,
        "data": parsed.value("data"),
        "destination": destination,
        "destination_data": parsed.value("dest-data"),
    }


def _relation(plan: MemberPlan) -> dict[str, Any]:
    return {
        "device_id": plan.device_id,
        "destination_id": plan.destination_id,
        "relative_id": plan.relative_id,
        "mapped_bytes": plan.mapped_bytes,
        "shared_bytes": plan.shared_bytes,
    }


def _print_plans(parsed: Parsed, plans: list[MemberPlan]) -> None:
    copied = sum(plan.copy_bytes for plan in plans)
    shared = sum(plan.shared_bytes for plan in plans)
    if parsed.has("json"):
        devices = [
            {**_relation(plan), "copy_bytes": plan.copy_bytes, "zero_bytes": plan.zero_bytes}
            for plan in plans
        ]
        totals = {"copy_bytes": copied, "shared_bytes": shared, "dry_run": True}
        write_json({**_facts(parsed), "devices": devices, **totals})
        return
    for plan in plans:
        write_text(
            f"{_line(plan)}: {human_bytes(plan.copy_bytes)} to copy, "
            f"{human_bytes(plan.shared_bytes)} shared\n"
        )
    write_text(f"{count(len(plans), 'device')}: {copied} bytes to copy, {shared} bytes shared\n")


def _line(plan: MemberPlan) -> str:
    """Who, as what, beginning as what."""
    called = "" if plan.device_id == plan.destination_id else f" as {plan.destination_id}"
    after = "" if plan.relative_id is None else f", after {plan.relative_id}"
    return f"device {plan.device_id}{called}{after}"


def _print_report(parsed: Parsed, report: FamilyReport) -> None:
    if parsed.has("json"):
        devices = [
            {
                **_relation(plan),
                "copied_bytes": done.copied_bytes,
                "zeroed_bytes": done.zeroed_bytes,
                "verified_bytes": done.verified_bytes,
                "verified_zero_bytes": done.verified_zero_bytes,
                "past_cache": done.past_cache,
                "resumed_at_bytes": done.resumed_at_bytes,
                "was_there": done.was_there,
                "identity": done.identity.to_json(),
            }
            for plan, done in report.members
        ]
        totals = {
            "copied_bytes": report.copied_bytes,
            "shared_bytes": report.shared_bytes,
            "dry_run": False,
        }
        write_json({**_facts(parsed), "devices": devices, **totals})
        return
    for plan, done in report.members:
        what = f"{human_bytes(done.copied_bytes)} copied"
        if done.was_there:
            what = "it was there already"
        elif done.resumed_at_bytes is not None:
            what += f", from byte {done.resumed_at_bytes} on"
        write_text(f"{_line(plan)}: {what}, {human_bytes(plan.shared_bytes)} shared\n")
    verified = sum(done.verified_bytes for _, done in report.members)
    proof = "not verified" if parsed.has("no-verify") else f"{human_bytes(verified)} read back"
    write_text(
        f"{parsed.words[1]} holds {count(len(report.members), 'device')}: "
        f"{report.copied_bytes} bytes copied, {report.shared_bytes} bytes shared; {proof}\n"
    )
