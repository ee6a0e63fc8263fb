"""``thinmeta receive``: a stream becomes the content of a file, a device, a volume."""

from __future__ import annotations

import sys

from thinmeta.cli.options import Option, device_number, parse
from thinmeta.cli.output import write_json, write_text
from thinmeta.cli.progress import progress
from thinmeta.cli.signals import raise_on_termination
from thinmeta.errors import AlreadyFormattedError, ThinmetaError, UsageError
from thinmeta.report import human_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

    from thinmeta.cli.options import Parsed
    from thinmeta.stream.receiver import ReceiveReport
    from thinmeta.stream.targets import Target

HELP = """\
Usage: thinmeta receive [OPTION]... TARGET < STREAM
       thinmeta receive [OPTION]... META ID --data DATA < STREAM
       thinmeta receive --print-token TARGET
       thinmeta receive --print-state TARGET

Makes a copy of a volume of what 'thinmeta send' has written. TARGET is a file, which may
not be there yet, or a block device, an active thin volume for example. With ID it is thin
device ID of the pool whose metadata is META and whose data is DATA, which nobody may be
using; it is made if it is not there.

A stream of changes is only taken by a TARGET that holds what the changes were made to.
That is known from TARGET.thinmeta beside a file, META.device-ID.thinmeta beside a pool,
and for devices from a file in /var/lib/thinmeta/targets (or in the folder that
THINMETA_STATE_DIR in the environment names). A TARGET that was changed since is refused.

Nothing is believed before it was checked, and TARGET is never half of one state and half
of another when this command is done: a whole volume is gathered in a new file, changes in
a journal, and in a pool a temporary thin device, before they take effect at once. What was
killed in the middle of that is finished by the next 'thinmeta receive' for TARGET. Only a
block device that a whole volume is sent to is written at once, and incomplete until the
end. When a stream is cut, an error says what TARGET holds, and a TOKEN from which
'thinmeta send --resume TOKEN' goes on.

What is not mapped in the volume is a hole in a file, unmapped in a thin volume, and zeros
on any other device.

Options
      --data DATA        the data of the pool
      --overwrite        a whole volume may take the place of what is in TARGET
      --resume           take up a stream that was cut; without a stream, finish what is
                         all there
      --print-token      print the TOKEN once more
      --print-state      say what TARGET is known to hold, and whether it was changed since
      --force-base       believe that TARGET holds what the changes were made to
      --external-origin FILE
                         what the volume shows where nothing was written to it, if it was
                         sent with --external-origin. It is copied into TARGET.
      --journal FOLDER   gather changes there, and not beside TARGET
  -n, --dry-run          read and check all of the stream, say what would be done, and do
                         nothing
      --json             print JSON
  -h, --help             print this

Examples
  thinmeta receive copy.img < monday.stream
  ssh host thinmeta send pool_tmeta 3 --data pool_tdata --from 2 |
    thinmeta receive /dev/vg/copy
  thinmeta receive pool_tmeta.img 7 --data pool_tdata.img < monday.stream
"""

OPTIONS = (
    Option("data", takes="a word"),
    Option("overwrite"),
    Option("resume"),
    Option("print-token"),
    Option("print-state"),
    Option("force-base"),
    Option("external-origin", takes="a word"),
    Option("journal", takes="a word"),
    Option("dry-run", "n"),
)
COMMON = (Option("help", "h"), Option("json"))
_BUFFER_BYTES = 1 << 20


def run(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    parsed = parse("receive", arguments, OPTIONS, ("TARGET", "ID"), common=COMMON, optional=1)
    if parsed.has("help"):
        write_text(HELP)
        return 0
    target = _target(parsed)
    if parsed.has("print-state"):
        _print_state(parsed, target)
        return 0
    if parsed.has("print-token"):
        from thinmeta.stream.receiver import print_token

        token = str(print_token(target))
        if parsed.has("json"):
            write_json({"target": target.name, "token": token})
        else:
            write_text(token + "\n")
        return 0
    raise_on_termination()
    stream = _stream(parsed)
    from thinmeta.stream.receiver import receive

    try:
        with progress("receiving", in_bytes=True) as report:
            received = receive(
                stream,
                target,
                overwrite=parsed.has("overwrite"),
                resume=parsed.has("resume"),
                force_base=parsed.has("force-base"),
                external_origin=parsed.value("external-origin"),
                dry_run=parsed.has("dry-run"),
                progress=report,
            )
    except AlreadyFormattedError as error:
        # Its own words are for programs, which have no options with dashes.
        raise ThinmetaError(f"{error.path}: {error.reason}; --overwrite replaces it") from error
    finally:
        if stream is not None:
            stream.close()
    _print_report(parsed, received)
    return 0


def _target(parsed: Parsed) -> Target:
    from thinmeta.stream.targets import PoolTarget, open_target

    word, data = parsed.words[0], parsed.value("data")
    if len(parsed.words) == 1:
        if data is not None:
            raise UsageError(
                "receive: ID is missing: --data is for a thin device of a pool; see 'thinmeta "
                "receive --help'"
            )
        return open_target(word, journal=parsed.value("journal"))
    if data is None:
        raise UsageError(
            "receive: --data is missing: content goes there, and into META only where it is; of "
            "a live pool give the volume's device as TARGET, and no ID"
        )
    if parsed.has("journal"):
        raise UsageError("receive: --journal: changes of a pool's volume are gathered in the pool")
    return PoolTarget(word, data, device_number(parsed.words[1], "ID"))


def _print_state(parsed: Parsed, target: Target) -> None:
    from thinmeta.stream.receiver import look

    found = look(target)
    if parsed.has("json"):
        write_json(
            {
                "target": target.name,
                "held": None if found.held is None else found.held.to_json(),
                "changed": found.changed,
                "token": found.token,
                "complete": found.complete,
            }
        )
        return
    holds = "nothing that is known" if found.held is None else found.held.describe()
    changed = "; it was changed since" if found.changed else ""
    write_text(f"{target.name} holds {holds}{changed}\n")
    if found.complete:
        write_text("all of another state is there: 'thinmeta receive --resume' finishes it\n")
    elif found.token is not None:
        write_text(f"a stream was cut: 'thinmeta send --resume {found.token}' goes on\n")


def _stream(parsed: Parsed) -> BinaryIO | None:
    if sys.stdin is None:
        return None
    if sys.stdin.isatty():
        if parsed.has("resume"):
            return None
        raise UsageError(
            "receive: there is no stream: it comes from a file or a pipe; see 'thinmeta receive "
            "--help'"
        )
    return open(sys.stdin.fileno(), "rb", buffering=_BUFFER_BYTES, closefd=False)


def _print_report(parsed: Parsed, report: ReceiveReport) -> None:
    identity, base = report.identity, report.base
    if parsed.has("json"):
        write_json(
            {
                "target": report.target,
                "identity": identity.to_json(),
                "base": None if base is None else base.to_json(),
                "data_bytes": report.data_bytes,
                "unmapped_bytes": report.unmap_bytes,
                "stream_bytes": report.stream_bytes,
                "resumed_at_bytes": report.resumed_at_bytes,
                "finished": report.finished,
                "dry_run": report.dry_run,
            }
        )
        return
    if report.finished:
        write_text(f"{report.target} holds {identity.describe()}: all of it was there already\n")
        return
    holds, written = ("would hold", "to write") if report.dry_run else ("holds", "written")
    was = "" if base is None else f", after {base.describe()}"
    write_text(
        f"{report.target} {holds} {identity.describe()}{was}: "
        f"{human_bytes(report.data_bytes)} {written}, {human_bytes(report.unmap_bytes)} unmapped\n"
    )
