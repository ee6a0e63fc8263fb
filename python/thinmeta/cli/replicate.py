"""``thinmeta replicate``: a copy of a live volume, brought up to date."""

from __future__ import annotations

from thinmeta.cli.options import Option, parse, size
from thinmeta.cli.output import write_json, write_text
from thinmeta.cli.progress import progress
from thinmeta.cli.signals import raise_on_termination
from thinmeta.errors import AlreadyFormattedError, ThinmetaError, UsageError
from thinmeta.report import human_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.cli.options import Parsed
    from thinmeta.replication import ReplicationReport

HELP = """\
Usage: thinmeta replicate [OPTION]... POOL ID TARGET

Brings TARGET, a copy of thin device ID of the live pool POOL, up to date: makes a snapshot
of the volume, sends what has changed since the state that TARGET holds, waits until TARGET
says that it holds the new one, and keeps the snapshot for the next round. Run from a timer
it is a replica. A round that was killed, here or there, is gone on with by the next one.

ID is the volume's number or name. TARGET is a file or a block device, or ssh:HOST:PATH for
one on another host, where thinmeta is installed and HOST is what ssh takes. The first round
sends the whole volume; one after which TARGET was changed, or its snapshot here is gone, is
refused.

Options
      --overwrite        send the whole volume where TARGET cannot be gone on from
      --size BYTES       the size of the volume, also as 512M or 10GiB; only needed where it
                         is not active and LVM does not know it
      --flatten          send what an external origin shows, too; always the whole volume
      --level N          of zstd, -7 to 22; 1 if it is not given
      --journal FOLDER   where TARGET is, gather changes there
      --remote-command WORDS
                         how thinmeta is called on HOST, for example 'sudo thinmeta'
      --json             print JSON
  -h, --help             print this

Examples
  thinmeta replicate vg/pool home /srv/copies/home.img
  thinmeta replicate vg/pool home ssh:backup.example.org:/dev/vg/home-copy
"""

OPTIONS = (
    Option("overwrite"),
    Option("size", takes="a word"),
    Option("flatten"),
    Option("level", takes="a word"),
    Option("journal", takes="a word"),
    Option("remote-command", takes="a word"),
)
COMMON = (Option("help", "h"), Option("json"))


def run(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    parsed = parse("replicate", arguments, OPTIONS, ("POOL", "ID", "TARGET"), common=COMMON)
    if parsed.has("help"):
        write_text(HELP)
        return 0
    from thinmeta.cli.pools import find_source
    from thinmeta.replication import open_peer, replicate

    given, level = parsed.value("size"), parsed.value("level") or "1"
    if not level.lstrip("-").isdigit():
        raise UsageError(f"--level must be a number, not {level!r}")
    source = find_source(parsed.words[0], None)
    if source.live is None:
        raise UsageError(
            f"replicate: {parsed.words[0]} is no live pool: 'thinmeta send' and 'receive' are for "
            "images"
        )
    peer = open_peer(
        parsed.words[2],
        journal=parsed.value("journal"),
        remote_command=parsed.value("remote-command") or "thinmeta",
    )
    raise_on_termination()
    try:
        with progress("replicating", in_bytes=True) as report:
            done = replicate(
                source.live,
                source.device_number(parsed.words[1], "ID"),
                peer,
                overwrite=parsed.has("overwrite"),
                size_bytes=None if given is None else size(given, "--size"),
                flatten=parsed.has("flatten"),
                level=int(level),
                progress=report,
            )
    except AlreadyFormattedError as error:
        # Its own words are for programs, which have no options with dashes.
        raise ThinmetaError(f"{error.path}: {error.reason}; --overwrite replaces it") from error
    _print_report(parsed, done)
    return 0


def _print_report(parsed: Parsed, report: ReplicationReport) -> None:
    identity, base = report.identity, report.base
    if parsed.has("json"):
        write_json(
            {
                "target": report.target,
                "identity": identity.to_json(),
                "base": None if base is None else base.to_json(),
                "read_bytes": report.data_bytes,
                "stream_bytes": report.stream_bytes,
                "resumed_at_bytes": report.resumed_at_bytes,
            }
        )
        return
    since = "" if base is None else f", after {base.describe()}"
    write_text(
        f"{report.target} holds {identity.describe()}{since}: {human_bytes(report.data_bytes)} "
        f"read, {human_bytes(report.stream_bytes)} of stream\n"
    )
