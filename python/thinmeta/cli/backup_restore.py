"""``thinmeta backup restore``: a generation back into a file, a device, a volume."""

from __future__ import annotations

from thinmeta.cli.backup_events import COMMON, Reporter
from thinmeta.cli.backup_key import open_repository
from thinmeta.cli.options import Option, device_number, parse
from thinmeta.cli.output import write_text
from thinmeta.cli.signals import raise_on_termination
from thinmeta.errors import AlreadyFormattedError, ThinmetaError, UsageError
from thinmeta.report import human_bytes

HELP = """\
Usage: thinmeta backup restore [OPTION]... REPO GENERATION TARGET
       thinmeta backup restore [OPTION]... REPO GENERATION META ID --data DATA

Makes TARGET hold a generation: a file, which need not be there yet, or a block device. With
ID it is thin device ID of the pool whose metadata is META and whose data is DATA, which
nobody may be using; it is made if it is not there.

GENERATION is the name, the number or the first digits of the id that 'thinmeta backup list'
shows, or "latest"; with more than one volume in REPO, --volume says of which.

Every piece is compared with its BLAKE3 before it is written. A file appears when all of it
is there, and a volume of a pool is what it was until then; a block device is written in
place, but only after it was seen that nothing is missing. Zeros are holes in a file.

Options
      --data DATA    the data of the pool
      --volume NAME  of this volume
      --overwrite    replace what is in TARGET
      --key-file FILE, --key-command COMMAND
                     the key of an encrypted repository: in FILE, or printed by COMMAND
      --json         print events, a line of JSON each
  -v, --verbose      say more
  -h, --help         print this

Examples
  thinmeta backup restore /backup/web latest web.img
  thinmeta backup restore s3://backups/web 12 /dev/vg/web --overwrite
"""

OPTIONS = (
    Option("data", takes="a word"),
    Option("volume", takes="a word"),
    Option("overwrite"),
)


def run_restore(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    names = ("REPO", "GENERATION", "TARGET", "ID")
    parsed = parse("backup restore", arguments, OPTIONS, names, common=COMMON, optional=1)
    if parsed.has("help"):
        write_text(HELP)
        return 0
    data = parsed.value("data")
    device_id = None
    if len(parsed.words) == 4:
        device_id = device_number(parsed.words[3], "ID")
    if (data is None) != (device_id is None):
        missing = "--data is missing" if data is None else "ID is missing"
        raise UsageError(
            f"backup restore: {missing}: a volume of a pool needs both; see 'thinmeta backup "
            "restore --help'"
        )
    raise_on_termination()
    reporter = Reporter(parsed, "restore")
    with reporter.logging():
        repository = open_repository(parsed)
        try:
            with reporter.progress("restoring") as shown:
                report = repository.restore(
                    parsed.words[1],
                    parsed.words[2],
                    volume=parsed.value("volume"),
                    data=data,
                    device_id=device_id,
                    overwrite=parsed.has("overwrite"),
                    progress=shown,
                )
        except AlreadyFormattedError as error:
            # Its own words are for programs, which have no options with dashes.
            raise ThinmetaError(f"{error.path}: {error.reason}; --overwrite replaces it") from error
    origin = "; its external origin, which it needs, is not in it" if report.external_origin else ""
    reporter.done(
        f"{report.target}: {report.generation}, {human_bytes(report.size_bytes)}, of which "
        f"{human_bytes(report.data_bytes)} are not zeros{origin}\n",
        generation=report.generation,
        target=report.target,
        size_bytes=report.size_bytes,
        data_bytes=report.data_bytes,
        external_origin=report.external_origin,
    )
    return 0
