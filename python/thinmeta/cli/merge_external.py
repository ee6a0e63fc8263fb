"""``thinmeta merge-external``: a volume back onto the external origin that it was made over."""

from __future__ import annotations

from thinmeta.cli.options import Option, parse, size
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

HELP = """\
Usage: thinmeta merge-external [OPTION]... META ID --data DATA
                               --into-external-origin DEVICE
       thinmeta merge-external [OPTION]... POOL ID --into-external-origin DEVICE

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
active. LVM makes such origins read-only: lvchange -prw VG/LV allows it.

Options
      --into-external-origin DEVICE
                         the origin: a device, or an image of it
      --data DATA        the pool's data device, or an image of it
      --size BYTES       the size of the volume, also as 512M, 10GiB or 20971520s
                         (sectors), where it ends in the middle of a block past the end of
                         DEVICE, and there is something in the rest of it
      --no-verify        do not read it back
  -n, --dry-run          say how much would be written, and change nothing
      --json             print JSON
  -h, --help             print this

Examples
  thinmeta merge-external --dry-run pool_tmeta.img 1 --data pool_tdata.img
    --into-external-origin base.img
  thinmeta merge-external vg/pool 3 --into-external-origin /dev/vg/base
"""

#: What it takes besides the options of every command that changes something.
OPTIONS = (
    Option("into-external-origin", takes="a word"),
    Option("data", takes="a word"),
    Option("size", takes="a word"),
    Option("no-verify"),
)
COMMON = (Option("help", "h"), Option("json"), Option("dry-run", "n"))
NAMES = ("META", "ID")


def run(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    parsed = parse("merge-external", arguments, OPTIONS, NAMES, common=COMMON)
    if parsed.has("help"):
        write_text(HELP)
        return 0
    return merge(parsed)


def merge(parsed: Parsed) -> int:
    """Do what a command line says that has these options; its words are META or POOL, and ID."""
    origin = parsed.value("into-external-origin")
    if origin is None:
        raise _wrong(parsed, "--into-external-origin is missing")
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
            dry_run=parsed.has("dry-run"),
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
