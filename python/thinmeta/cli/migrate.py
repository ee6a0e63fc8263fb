"""``thinmeta migrate``: a volume to another pool, a device or a file, and the proof of it."""

from __future__ import annotations

from thinmeta.cli.options import Option, buffer_size, device_number, parse, size
from thinmeta.cli.output import write_error, write_json, write_text
from thinmeta.cli.progress import progress
from thinmeta.cli.signals import raise_on_termination
from thinmeta.errors import AlreadyFormattedError, ThinmetaError, UsageError, WrongBaseError
from thinmeta.report import count, human_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from thinmeta.bookmark import Bookmark
    from thinmeta.cli.options import Parsed
    from thinmeta.migrating import MigrationReport, Verify
    from thinmeta.source import Changes, Generation
    from thinmeta.stream.targets import Target

HELP = """\
Usage: thinmeta migrate [OPTION]... META ID --data DATA DEST
       thinmeta migrate [OPTION]... META ID --data DATA DEST_META DEST_ID --dest-data DATA
       thinmeta migrate [OPTION]... POOL ID DEST [DEST_ID --dest-data DATA]
       thinmeta migrate [OPTION]... META --family ID,ID... --data DATA DEST_META
         --dest-data DATA
       thinmeta migrate [OPTION]... POOL --family ID,ID... DEST_META --dest-data DATA

Copies thin device ID of a pool to another pool, or to a device or a file of its own,
reads the copy back from the disk and compares it with what the volume reads. The pool is
given by its metadata META and its data DATA, devices or images of them, or as a live
pool, where ID may be a name. Of a live pool a snapshot of the volume is made and read.

DEST is a file, which may not be there yet; a block device, an active thin volume of
another pool for example; or, with DEST_ID and --dest-data, the metadata of a pool that
nobody is using: then thin device DEST_ID is made there.

Only what is mapped is copied. What is not is a hole in a file, unmapped in a thin volume
or a pool, and made zero on any other device. What shows through from an external origin
is copied, too.

With --family several devices are copied to a pool that nobody is using, where they share
what they share here: each block is copied once. Each begins there as a snapshot of the
one that has most of it, and is given what others have. Of a live pool a snapshot of each
is read, which is as of its own moment.

The same command once more goes on where one was interrupted, whatever ended it. A file
or a volume of a pool takes effect when all of it is there and proven, and is what it was
until then; a block device that a whole volume is copied to is incomplete until the end.

Options
      --data DATA        the data of the pool that is read
      --dest-data DATA   the data of the pool that is written to
      --delta-id BASE    copy only what has changed since thin device BASE, a snapshot
                         that DEST holds already, and unmap or make zero what is not
                         mapped any more; 'kept': since what an earlier --keep has kept
      --delta-bookmark FILE
                         the same, since a snapshot whose mappings were saved; it may be
                         gone ('thinmeta bookmark save')
      --family ID,ID...  copy these devices, ID=DEST_ID to give one another number there;
                         'all': every device of the pool; of a live pool: every active
                         volume
      --keep             of a live pool: keep the snapshot that was read, for '--delta-id
                         kept'
      --overwrite        a whole volume may take the place of what is in DEST
      --force-base       believe that DEST holds BASE, and compare all of the volume in
                         the end
      --verify-all       compare all of the volume, not only what was copied because it
                         had changed
      --no-verify        do not read the copy back
      --size BYTES       the size of the volume, also as 512M, 10GiB or 20971520s
                         (sectors). A pool does not know how large its volumes are (LVM
                         does: lvs --units b); without --size the end of the last block
                         written is taken, or what the kernel or LVM says of a live pool.
      --external-origin FILE
                         what shows through where nothing was written, for volumes that
                         were made as snapshots of something outside the pool; of a live
                         pool it is known
      --journal FOLDER   gather changes there, and not beside DEST
      --buffer-size BYTES
                         for content that was read and not written yet; 16M if not given
  -n, --dry-run          say how much would be copied, and change nothing
      --json             print JSON
  -h, --help             print this

Examples
  thinmeta migrate pool_tmeta.img 2 --data pool_tdata.img volume.img
  thinmeta migrate pool_tmeta.img 2 --data pool_tdata.img new_tmeta.img 7
    --dest-data new_tdata.img
  thinmeta migrate pool_tmeta.img 3 --data pool_tdata.img --delta-id 2 volume.img
  thinmeta migrate pool_tmeta.img --family 1,2,3=30 --data pool_tdata.img
    new_tmeta.img --dest-data new_tdata.img
  thinmeta migrate vg/pool home /dev/vg2/home --keep
  thinmeta migrate vg/pool home /dev/vg2/home --delta-id kept
"""

OPTIONS = (
    Option("data", takes="a word"),
    Option("dest-data", takes="a word"),
    Option("delta-id", takes="a word"),
    Option("delta-bookmark", takes="a word"),
    Option("family", takes="a word"),
    Option("keep"),
    Option("overwrite"),
    Option("force-base"),
    Option("verify-all"),
    Option("no-verify"),
    Option("size", takes="a word"),
    Option("external-origin", takes="a word"),
    Option("journal", takes="a word"),
    Option("buffer-size", takes="a word"),
    Option("dry-run", "n"),
)
COMMON = (Option("help", "h"), Option("json"))
WORDS = ("META", "ID", "DEST", "DEST_ID")
FAMILY_WORDS = ("META", "DEST_META")
KEPT = "kept"


def run(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    parsed = parse("migrate", arguments, OPTIONS, WORDS, common=COMMON, optional=len(WORDS))
    is_family = parsed.has("family")
    words, optional = (FAMILY_WORDS, 0) if is_family else (WORDS, 1)
    # How many words there have to be is known only now.
    parse("migrate", arguments, OPTIONS, words, common=COMMON, optional=optional)
    if parsed.has("help"):
        write_text(HELP)
        return 0
    scope = _scope(parsed)
    if is_family:
        from thinmeta.cli.migrate_family import run_family

        return run_family(parsed, scope)
    base = _base(parsed)
    if parsed.has("data") and (parsed.has("keep") or base == KEPT):
        raise UsageError("migrate: snapshots of live volumes can be kept; of images, name one")
    given = parsed.value("size")
    size_bytes = None if given is None else size(given, "--size")
    buffer_bytes = buffer_size(parsed)
    target = _target(parsed)
    raise_on_termination()
    from thinmeta.cli.migrating import open_source
    from thinmeta.migrating.work import BUFFER_BYTES, migrate

    try:
        with open_source(
            "migrate",
            parsed.words[0],
            parsed.words[1],
            target,
            data=parsed.value("data"),
            size_bytes=size_bytes,
            external_origin=parsed.value("external-origin"),
            # What an earlier one has kept only counts for those who go on from it.
            keeps=parsed.has("keep") or base == KEPT,
            force_base=parsed.has("force-base"),
            look=parsed.has("dry-run"),
        ) as generation:
            from_here = _kept(generation) if isinstance(base, str) else base
            if parsed.has("dry-run"):
                from thinmeta.stream.planning import plan

                _print_plan(parsed, target, generation, plan(generation, from_here))
                return 0
            with progress("migrating", in_bytes=True) as show:
                report = migrate(
                    generation,
                    target,
                    base=from_here,
                    overwrite=parsed.has("overwrite"),
                    force_base=parsed.has("force-base"),
                    verify=scope,
                    buffer_bytes=BUFFER_BYTES if buffer_bytes is None else buffer_bytes,
                    progress=show,
                )
            if parsed.has("keep"):
                generation.keep()
    except AlreadyFormattedError as error:
        # Its own words are for programs, which have no options with dashes.
        raise ThinmetaError(f"{error.path}: {error.reason}; --overwrite replaces it") from error
    _print_report(parsed, report)
    return 0


def _scope(parsed: Parsed) -> Verify:
    if parsed.has("no-verify"):
        for other in ("verify-all", "force-base"):
            if parsed.has(other):
                raise UsageError(f"migrate: --no-verify and --{other} exclude each other")
        return "nothing"
    return "all" if parsed.has("verify-all") or parsed.has("force-base") else "copied"


def _base(parsed: Parsed) -> int | str | Bookmark | None:
    word, path = parsed.value("delta-id"), parsed.value("delta-bookmark")
    if word is not None and path is not None:
        raise UsageError("migrate: --delta-id and --delta-bookmark: there is one base")
    if path is not None:
        from thinmeta.bookmark import Bookmark

        return Bookmark.open(path)
    if word is None and parsed.has("force-base"):
        raise UsageError("migrate: --force-base: without --delta-id there is no base")
    if word == KEPT:
        return KEPT
    return None if word is None else device_number(word, "--delta-id")


def _kept(generation: Generation) -> Bookmark:
    kept = generation.kept_base
    if kept is None:
        raise WrongBaseError(
            "migrate: no earlier 'thinmeta migrate --keep' of this volume to this destination "
            "has kept a snapshot that is still there: copy the whole of it once, with --keep"
        )
    return kept


def _target(parsed: Parsed) -> Target:
    from thinmeta.stream.targets import PoolTarget, open_target

    word, data = parsed.words[2], parsed.value("dest-data")
    if len(parsed.words) == 3:
        if data is not None:
            raise UsageError(
                "migrate: DEST_ID is missing: --dest-data is for a thin device of a pool; see "
                "'thinmeta migrate --help'"
            )
        return open_target(word, journal=parsed.value("journal"))
    if data is None:
        raise UsageError(
            "migrate: --dest-data is missing: content goes there, and into DEST only where it "
            "is; of a live pool give the volume's device as DEST, and no DEST_ID"
        )
    if parsed.has("journal"):
        raise UsageError("migrate: --journal: changes of a pool's volume are gathered in the pool")
    return PoolTarget(word, data, device_number(parsed.words[3], "DEST_ID"))


def _print_plan(parsed: Parsed, target: Target, generation: Generation, changes: Changes) -> None:
    identity, base = generation.identity, changes.base
    if parsed.has("json"):
        write_json(
            {
                **_facts(parsed),
                "destination": target.name,
                "identity": identity.to_json(),
                "base": None if base is None else base.to_json(),
                "copy_bytes": changes.data_bytes,
                "copy_ranges": len(changes.data),
                "zero_bytes": changes.zero_bytes,
                "zero_ranges": len(changes.zero),
                "dry_run": True,
            }
        )
        return
    what = "the whole volume" if base is None else f"changes since {base.describe()}"
    unmapped = "are not mapped" if base is None else "are not mapped any more"
    write_text(
        f"{identity.describe()}, {human_bytes(identity.size_bytes)}, to {target.name}: {what}\n"
        f"  {changes.data_bytes} bytes to copy ({human_bytes(changes.data_bytes)}, "
        f"{count(len(changes.data), 'range')})\n"
        f"  {changes.zero_bytes} bytes {unmapped} ({human_bytes(changes.zero_bytes)}, "
        f"{count(len(changes.zero), 'range')})\n"
    )


def _facts(parsed: Parsed) -> dict[str, Any]:
    return {"pool": parsed.words[0], "data": parsed.value("data")}


def _print_report(parsed: Parsed, report: MigrationReport) -> None:
    identity, base = report.identity, report.base
    if parsed.has("json"):
        write_json(
            {
                **_facts(parsed),
                "destination": report.target,
                "identity": identity.to_json(),
                "base": None if base is None else base.to_json(),
                "copied_bytes": report.copied_bytes,
                "zeroed_bytes": report.zeroed_bytes,
                "verified_bytes": report.verified_bytes,
                "verified_zero_bytes": report.verified_zero_bytes,
                "past_cache": report.past_cache,
                "resumed_at_bytes": report.resumed_at_bytes,
                "was_there": report.was_there,
                "dry_run": False,
            }
        )
        return
    if not identity.size_is_known:
        write_error(
            f"thinmeta: the size, {human_bytes(identity.size_bytes)} ({identity.size_bytes} "
            "bytes), was guessed from the last block written; --size gives the real one\n"
        )
    after = "" if base is None else f", after {base.describe()}"
    done = f"{human_bytes(report.copied_bytes)} copied, {human_bytes(report.zeroed_bytes)} zero"
    if report.was_there:
        done = "it was there already"
    elif report.resumed_at_bytes is not None:
        done += f", from byte {report.resumed_at_bytes} on"
    write_text(
        f"{report.target} holds {identity.describe()}{after}: {done}\n{_verified(parsed, report)}"
    )


def _verified(parsed: Parsed, report: MigrationReport) -> str:
    if parsed.has("no-verify"):
        return "not verified\n"
    read = "from the disk" if report.past_cache else "through the page cache, emptied before"
    return (
        f"verified: {human_bytes(report.verified_bytes)} read back {read}, "
        f"{human_bytes(report.verified_zero_bytes)} zero\n"
    )
