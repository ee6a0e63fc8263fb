"""``thinmeta send``: a volume, or what changed in it, as a stream."""

from __future__ import annotations

import os
import sys

from thinmeta.cli.generations import open_generation
from thinmeta.cli.options import Option, device_number, parse, size
from thinmeta.cli.output import STDOUT, stdout_descriptor, write_error, write_json, write_text
from thinmeta.cli.progress import progress
from thinmeta.cli.signals import raise_on_termination
from thinmeta.errors import UsageError, WrongBaseError
from thinmeta.report import count, human_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from typing_extensions import Buffer

    from thinmeta.bookmark import Bookmark
    from thinmeta.cli.options import Parsed
    from thinmeta.identity import Identity
    from thinmeta.source import Changes, Generation
    from thinmeta.stream.sender import SendReport

HELP = """\
Usage: thinmeta send [OPTION]... POOL ID --data DATA > STREAM
       thinmeta send [OPTION]... POOL ID > STREAM

Writes the content of thin device ID, or with --from what has changed in it, as a stream
that 'thinmeta receive' makes a copy of. POOL is the pool's metadata and DATA its data,
devices or images of them; or a live pool, where ID may be a name. Only what is mapped and
may have changed is read; what is not mapped is said to be so and takes up no space.

Of a live pool a snapshot of the volume is made and read, never the volume itself. When all
is sent it is kept, and the one before is removed: '--from kept' sends what has changed
since.

With --from BASE only the changes since BASE are sent: a snapshot in the same pool that
the copy holds. BASE may be gone if its mappings were saved ('thinmeta bookmark save', or
--save-bookmark when it was sent): --from-bookmark FILE.

A snapshot that nobody has written to is best sent: only of that a bookmark can be saved,
and only its stream can be continued if it is cut ('thinmeta receive' prints a TOKEN then).

Options
      --data DATA        the pool's data device, or an image of it
      --from BASE        send what has changed since thin device BASE; 'kept': since the
                         snapshot that the last 'send' of this live volume has kept
      --from-bookmark FILE
                         send what has changed since the snapshot whose mappings were saved
      --save-bookmark FILE
                         save the mappings of what is sent, when all of it is sent
      --purpose NAME     each copy that is brought up to date with '--from kept' needs a
                         NAME of its own
      --resume TOKEN     go on where a stream that was cut got to; all other options as
                         they were
      --size BYTES       the size of the volume, also as 512M, 10GiB or 20971520s
                         (sectors). A pool does not know how large its volumes are (LVM
                         does: lvs --units b); without --size the end of the last block
                         written is taken.
      --external-origin FILE
                         what shows through where nothing was written, for volumes that
                         were made as snapshots of something outside the pool. It is not
                         sent: 'thinmeta receive' has to be given it, too.
      --flatten          send all of what --external-origin shows, so that the copy does
                         not need it
      --level N          of zstd, -7 to 22; 1 if it is not given
  -o, --output FILE      write to FILE, which appears when it is whole
  -n, --dry-run          say how much would be sent, and send nothing. In a live pool
                         nothing is changed: it is told as of the pool's last commit
      --json             print what was sent as JSON, to stderr where the stream goes to
                         stdout
  -h, --help             print this

Examples
  thinmeta send pool_tmeta.img 2 --data pool_tdata.img | thinmeta receive copy.img
  thinmeta send pool_tmeta.img 3 --data pool_tdata.img --from 2 |
    ssh host thinmeta receive /dev/vg/copy
  thinmeta send pool_tmeta.img 3 --data pool_tdata.img --from 2 --dry-run
  thinmeta send vg/pool home --from kept | thinmeta receive home.img
"""

OPTIONS = (
    Option("data", takes="a word"),
    Option("from", takes="a word"),
    Option("from-bookmark", takes="a word"),
    Option("save-bookmark", takes="a word"),
    Option("resume", takes="a word"),
    Option("purpose", takes="a word"),
    Option("size", takes="a word"),
    Option("external-origin", takes="a word"),
    Option("flatten"),
    Option("level", takes="a word"),
    Option("output", "o", takes="a word"),
    Option("dry-run", "n"),
)
COMMON = (Option("help", "h"), Option("json"))
KEPT = "kept"
_SET_PIPE_SIZE = 1031
_PIPE_BYTES = 1 << 20


def run(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    parsed = parse("send", arguments, OPTIONS, ("POOL", "ID"), common=COMMON)
    if parsed.has("help"):
        write_text(HELP)
        return 0
    given = parsed.value("size")
    level = _level(parsed.value("level"))
    said = _base(parsed)
    out, dry_run = parsed.value("output"), parsed.has("dry-run")
    if out is None and not dry_run and sys.stdout is not None and sys.stdout.isatty():
        raise UsageError(
            "send: the stream would be printed on this terminal: let it go to a file or a pipe, "
            "or give -o FILE; see 'thinmeta send --help'"
        )
    raise_on_termination()
    with open_generation(
        "send",
        *parsed.words,
        data=parsed.value("data"),
        size_bytes=None if given is None else size(given, "--size"),
        external_origin=parsed.value("external-origin"),
        flatten=parsed.has("flatten"),
        purpose=f"send {parsed.value('purpose')}" if parsed.has("purpose") else "send",
        wanted=_wanted(parsed),
        look=dry_run,
    ) as generation:
        _check_bookmark(parsed, generation, out)
        base = _kept(generation) if isinstance(said, str) else said
        if dry_run:
            from thinmeta.stream.planning import plan

            _print_plan(parsed, generation, plan(generation, base))
            return 0
        volume = generation.volume_name
        sink = _Stdout() if out is None else None
        try:
            report = _send(parsed, generation, base, level, sink)
        except BaseException:
            if sink is not None and sink.written_bytes:
                generation.leave_behind()  # for --resume; any other 'send' removes it
            raise
        # What was sent has been taken, whatever comes of the bookmark.
        generation.keep()
        bookmark = parsed.value("save-bookmark")
        if bookmark is not None:
            generation.save_bookmark(bookmark)
    _print_report(parsed, report, volume)
    return 0


def _level(word: str | None) -> int:
    if word is None:
        return 1
    try:
        return int(word)
    except ValueError as error:
        raise UsageError(f"--level must be a number, not {word!r}") from error


def _wanted(parsed: Parsed) -> str:
    """The state that a stream was cut of."""
    token = parsed.value("resume")
    if token is None:
        return ""
    from thinmeta.stream.token import Token

    return Token.parse(token).digest


def _kept(generation: Generation) -> Bookmark:
    kept = generation.kept_base
    if kept is None:
        raise WrongBaseError(
            "send: no earlier 'thinmeta send' of this volume has kept a snapshot that is still "
            "there: send the whole of it once, without --from"
        )
    return kept


def _base(parsed: Parsed) -> int | str | Bookmark | None:
    word, path = parsed.value("from"), parsed.value("from-bookmark")
    if word is not None and path is not None:
        raise UsageError("send: --from and --from-bookmark: there is one base")
    if (word or path) is not None and parsed.has("flatten"):
        raise UsageError("send: --flatten sends the whole volume: leave the base out")
    if path is not None:
        from thinmeta.bookmark import Bookmark

        return Bookmark.open(path)
    if word == KEPT:
        return KEPT
    return None if word is None else device_number(word, "--from")


def _check_bookmark(parsed: Parsed, generation: Generation, out: str | None) -> None:
    """Say before anything is sent that no bookmark could be saved."""
    path = parsed.value("save-bookmark")
    if path is None:
        return
    if out is not None and os.path.realpath(path) == os.path.realpath(out):
        raise UsageError("send: --output and --save-bookmark name one file")
    from thinmeta.bookmark import check_place

    check_place(path)
    if not generation.identity.is_snapshot:
        raise UsageError(
            f"send: device {generation.identity.device_id} was written since it was made, and "
            "its mappings prove nothing later: make a snapshot of it, and send that"
        )


class _Stdout:
    """Standard output as what a stream is written to."""

    def __init__(self) -> None:
        self._descriptor = stdout_descriptor()
        self.written_bytes = 0
        try:
            import fcntl

            fcntl.fcntl(self._descriptor, _SET_PIPE_SIZE, _PIPE_BYTES)
        except OSError:
            pass  # no pipe, or a limit: it is a matter of speed

    def write(self, data: Buffer, /) -> int:
        try:
            count = os.write(self._descriptor, data)
            self.written_bytes += count
            return count
        except OSError as error:
            error.filename = STDOUT
            raise


def _send(
    parsed: Parsed,
    generation: Generation,
    base: int | Bookmark | None,
    level: int,
    sink: _Stdout | None,
) -> SendReport:
    from thinmeta.stream.sender import send

    out, options = parsed.value("output"), {"flattened": parsed.has("flatten")}
    token = parsed.value("resume")
    with progress("sending", in_bytes=True) as report:
        if sink is not None:
            return send(
                generation,
                sink,
                base=base,
                token=token,
                level=level,
                progress=report,
                **options,
            )
        from thinmeta.files import OutputFile

        names = (parsed.words[0], parsed.value("data"), parsed.value("external-origin"))
        inputs = [name for name in names if name is not None]
        assert out is not None  # or it goes to stdout
        with (
            OutputFile(out, inputs=inputs) as descriptor,
            open(descriptor, "wb", closefd=False) as file,
        ):
            return send(
                generation, file, base=base, token=token, level=level, progress=report, **options
            )


def _facts(parsed: Parsed, generation_size_is_known: bool) -> dict[str, Any]:
    return {
        "pool": parsed.words[0],
        "data": parsed.value("data"),
        "size_source": "given" if generation_size_is_known else "guessed",
    }


def _print_plan(parsed: Parsed, generation: Generation, changes: Changes) -> None:
    identity, base = generation.identity, changes.base
    if parsed.has("json"):
        write_json(
            {
                **_facts(parsed, identity.size_is_known),
                "identity": identity.to_json(),
                "base": None if base is None else base.to_json(),
                "changed_bytes": changes.data_bytes,
                "changed_ranges": len(changes.data),
                "unmapped_bytes": changes.zero_bytes,
                "unmapped_ranges": len(changes.zero),
            }
        )
        return
    what = "the whole volume" if base is None else f"changes since {base.describe()}"
    unmapped = "not mapped" if base is None else "unmapped since"
    name = _named(generation.volume_name, identity)
    write_text(
        f"{name}, {human_bytes(identity.size_bytes)}: {what}\n"
        f"  {changes.data_bytes} bytes to read and send ({human_bytes(changes.data_bytes)}, "
        f"{count(len(changes.data), 'range')})\n"
        f"  {changes.zero_bytes} bytes {unmapped} ({human_bytes(changes.zero_bytes)}, "
        f"{count(len(changes.zero), 'range')})\n"
    )


def _named(volume: str, identity: Identity) -> str:
    """A state as people know it; images do not say what a volume is called."""
    return f"{volume}, {identity.describe()}" if volume else identity.describe()


def _print_report(parsed: Parsed, report: SendReport, volume: str) -> None:
    identity, base = report.identity, report.base
    # Where the stream goes to stdout, nothing else may.
    write = write_error if parsed.value("output") is None else write_text
    if parsed.has("json"):
        value = {
            **_facts(parsed, identity.size_is_known),
            "identity": identity.to_json(),
            "base": None if base is None else base.to_json(),
            "read_bytes": report.data_bytes,
            "unmapped_bytes": report.zero_bytes,
            "stream_bytes": report.stream_bytes,
            "records": report.records,
            "resumed_at_bytes": report.resumed_at_bytes,
        }
        write_json(value, write)
        return
    if not identity.size_is_known:
        write_error(
            f"thinmeta: the size, {human_bytes(identity.size_bytes)} ({identity.size_bytes} "
            "bytes), was guessed from the last block written; --size gives the real one\n"
        )
    since = "" if base is None else f" since {base.describe()}"
    write(
        f"sent {_named(volume, identity)}{since}: {human_bytes(report.data_bytes)} read, "
        f"{human_bytes(report.stream_bytes)} of stream\n"
    )
