"""``thinmeta check``: is anything wrong with a pool's metadata?"""

from __future__ import annotations

from thinmeta.cli.options import Option, parse
from thinmeta.cli.output import write_json, write_text
from thinmeta.cli.pools import find_source
from thinmeta.cli.progress import progress
from thinmeta.errors import UsageError
from thinmeta.tools import check_fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

    from thinmeta.pool import Pool
    from thinmeta.report import Scope

HELP = """\
Usage: thinmeta check [-q] [--super-block-only | --skip-mappings] [--json] [-m] META
       thinmeta check [-q] [--auto-repair] [--clear-needs-check-flag] [--json] META

Reads all of the pool's metadata in META, a device or an image of it or a live pool, and
lists what is wrong with it. Nothing is written unless you ask for it. Of a live pool the
metadata snapshot is checked, in which the counts of blocks are not. The last line says
what it means:

  CLEAN       nothing is wrong                                       exit status 0
  NOT CLEAN   small disorder; all data can be reached, and a repair  exit status 1
              loses nothing
  DAMAGED     some data cannot be reached or must not be trusted     exit status 1

Each finding has a name that never changes (for scripts), a severity (fatal, non-fatal
or info), the metadata block concerned, and the parts of devices that it affects.

Options
  -q, --quiet            print nothing; only the exit status tells
      --super-block-only look at the first block only, which is instant
      --skip-mappings    leave out the mappings of the devices
      --auto-repair      put right, in place, what the trees prove: counts that are too
                         high (leaks), sums of the space maps, numbers of mappings.
                         Nothing is written if anything fatal is found. A crash at any
                         moment leaves the pool as it was, or right
      --clear-needs-check-flag
                         clear the flag by which the kernel asks for a check, if nothing
                         is wrong then but sums of the space maps
      --json             print JSON; "scope" in it is all, superblock or without_mappings;
                         with --auto-repair, "before" and "after" are such documents
  -m, --metadata-snapshot[=BLOCK]
                         check the metadata snapshot that the pool holds, or the one
                         at BLOCK; works while the pool is in use
  -h, --help             print this

Examples
  thinmeta check pool_tmeta.img
  thinmeta check -q vg/pool && echo sound
  thinmeta check --auto-repair --clear-needs-check-flag pool_tmeta.img
"""

OPTIONS = (
    Option("quiet", "q"),
    Option("super-block-only"),
    Option("skip-mappings"),
    Option("auto-repair"),
    Option("clear-needs-check-flag"),
)


def run(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    parsed = parse("check", arguments, OPTIONS, ("META",))
    if parsed.has("help"):
        write_text(HELP)
        return 0
    quiet, superblock_only = parsed.has("quiet"), parsed.has("super-block-only")
    skip_mappings = parsed.has("skip-mappings")
    if superblock_only and skip_mappings:
        raise UsageError("check: --super-block-only and --skip-mappings exclude each other")
    scope: Scope = "all"
    if superblock_only or skip_mappings:
        scope = "superblock" if superblock_only else "without_mappings"
    source = find_source(parsed.words[0], parsed.metadata_snapshot())
    repairs = parsed.has("auto-repair")
    clears = parsed.has("clear-needs-check-flag")
    if repairs or clears:
        option = "--auto-repair" if repairs else "--clear-needs-check-flag"
        if source.reserves or source.snapshot is not None:
            raise UsageError(f"check: {option} is for a pool that nobody uses, without -m")
        if superblock_only or (repairs and skip_mappings):
            raise UsageError(f"check: {option} needs all of the pool to be looked at")
        from thinmeta.cli.auto_repair import clear, repair

        if repairs:
            return repair(parsed, source.word, source.metadata, clears=clears)
        return clear(parsed, source.word, source.metadata, skip_mappings=skip_mappings)

    def check(target: str | Pool, snapshot: Literal["held"] | int | None) -> dict[str, Any]:
        with progress("checking", quiet=quiet) as report:
            return check_fields(
                target,
                metadata_snapshot=snapshot,
                superblock_only=superblock_only,
                skip_mappings=skip_mappings,
                progress=report,
            )

    if source.reserves:
        with source.reading() as pool:
            fields = check(pool, None)
    else:
        fields = check(source.metadata, source.snapshot)
    if quiet:
        pass
    elif parsed.has("json"):
        from thinmeta.report import check_json

        write_json(check_json(fields, source.word, source.snapshot, scope))
    else:
        write_report(fields, scope)
    return 0 if fields["clean"] else 1


def write_report(fields: dict[str, Any], scope: Scope = "all") -> None:
    """Print the findings, and what they mean."""
    from thinmeta.report import check_text, verdict

    if fields["findings"] or fields.get("findings_omitted"):
        from thinmeta.types import CheckReport

        write_text(check_text(CheckReport.from_fields(fields)))
    write_text(verdict(fields, scope) + "\n")
