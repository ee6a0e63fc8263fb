"""``thinmeta merge --into-external-origin``: a volume, back onto what it was made over."""

from __future__ import annotations

from thinmeta.cli.options import size
from thinmeta.cli.output import write_json, write_text
from thinmeta.cli.pools import find_source
from thinmeta.cli.progress import progress
from thinmeta.cli.signals import raise_on_termination
from thinmeta.cli.still import live_size, still_volume
from thinmeta.errors import UsageError
from thinmeta.report import count, human_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.cli.options import Parsed
    from thinmeta.merging.external import ExternalMerge


def merge_external(parsed: Parsed, *, dry_run: bool) -> int:
    """Do what a command line says whose words are META or POOL, and ID; its exit status."""
    origin = parsed.value("into-external-origin")
    assert origin is not None
    given, data = parsed.value("size"), parsed.value("data")
    size_bytes = None if given is None else size(given, "--size")
    source = find_source(parsed.words[0], None)
    device_id = source.device_number(parsed.words[1], "ID")
    live = source.live
    if live is None and data is None:
        raise _wrong(parsed, f"--data is missing: {source.word} is no live pool")
    if live is not None and data is not None:
        raise _wrong(parsed, f"--data: {source.word} is a live pool, and knows its data")
    if live is not None:
        data = live.data_path
        active = still_volume(live, device_id)
        if size_bytes is None:
            size_bytes = live_size(live, device_id, active)
    assert data is not None
    raise_on_termination()
    from thinmeta.merging.external import merge_into_external_origin

    with source.reading(data) as pool, progress("merging", in_bytes=True) as show:
        report = merge_into_external_origin(
            pool,
            device_id,
            origin,
            sources=(source.metadata, data),
            size_bytes=size_bytes,
            dry_run=dry_run,
            verify=not parsed.has("no-verify"),
            progress=show,
        )
        if live is not None:
            still_volume(live, device_id)  # somebody may have come meanwhile
    _print_report(parsed, report)
    return 0


def _wrong(parsed: Parsed, what: str) -> UsageError:
    return UsageError(f"{parsed.command}: {what}; see 'thinmeta {parsed.command} --help'")


def _print_report(parsed: Parsed, report: ExternalMerge) -> None:
    identity = report.identity
    if parsed.has("json"):
        write_json(
            {
                "pool": parsed.words[0],
                "data": parsed.value("data"),
                "external_origin": report.origin,
                "identity": identity.to_json(),
                "mapped_bytes": report.mapped_bytes,
                "mapped_ranges": report.ranges,
                "written_bytes": report.written_bytes,
                "verified_bytes": report.verified_bytes,
                "past_cache": report.past_cache,
                "resumed_at_bytes": report.resumed_at_bytes,
                "dry_run": report.dry_run,
            }
        )
        return
    ranges = count(report.ranges, "range")
    if report.dry_run:
        write_text(
            f"{report.mapped_bytes} bytes of {identity.describe()} would be written to "
            f"{report.origin} ({human_bytes(report.mapped_bytes)}, {ranges})\n"
        )
        return
    went_on = report.resumed_at_bytes
    resumed = "" if went_on is None else f", from byte {went_on} on"
    write_text(
        f"{report.origin} has the content of {identity.describe()}: "
        f"{human_bytes(report.written_bytes)} written{resumed}\n"
    )
    if parsed.has("no-verify"):
        write_text("not verified\n")
        return
    read = "from the disk" if report.past_cache else "through the page cache, emptied before"
    write_text(f"verified: {human_bytes(report.verified_bytes)} read back {read}\n")
