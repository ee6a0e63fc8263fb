"""``thinmeta stream``: what is in a stream, and whether it is sound."""

from __future__ import annotations

import sys

from thinmeta.cli.options import Option, did_you_mean, parse
from thinmeta.cli.output import write_json, write_text
from thinmeta.cli.progress import progress
from thinmeta.errors import UsageError
from thinmeta.report import count, human_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

    from thinmeta.identity import Identity
    from thinmeta.stream.examine import StreamSummary

HELP = """\
Usage: thinmeta stream inspect [--records] [--json] [FILE]
       thinmeta stream verify [--json] [FILE]

Looks into a stream of 'thinmeta send'. FILE, or standard input, is read to its end.

  inspect  say what it carries; every checksum is compared on the way
  verify   the same, and decompress all of it: 'thinmeta receive' would take it

Options
      --records          list the records, each with its place and length in the volume and
                         the bytes that it takes up
      --json             print JSON
  -h, --help             print this

Examples
  thinmeta stream inspect monday.stream
  thinmeta stream verify < monday.stream
"""

OPTIONS = (Option("records"),)
COMMON = (Option("help", "h"), Option("json"))
_COMMANDS: dict[str, tuple[Option, ...]] = {"inspect": OPTIONS, "verify": ()}
_BUFFER_BYTES = 1 << 20


def run(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    command = arguments[0] if arguments else ""
    if command in ("--help", "-h"):
        write_text(HELP)
        return 0
    if command not in _COMMANDS:
        what = f"there is no {command!r}{did_you_mean(command, _COMMANDS)}" if command else ""
        raise UsageError(
            f"stream: {what or 'a word is missing'}: {', '.join(_COMMANDS)}; see 'thinmeta "
            "stream --help'"
        )
    parsed = parse(
        f"stream {command}",
        arguments[1:],
        _COMMANDS[command],
        ("FILE",),
        common=COMMON,
        optional=1,
    )
    if parsed.has("help"):
        write_text(HELP)
        return 0
    from thinmeta.stream.examine import inspect, verify

    word = parsed.words[0] if parsed.words else "-"
    as_json, rows = parsed.has("json"), parsed.has("records")
    records: list[dict[str, Any]] = []

    def show(kind: str, offset: int, length: int, stored: int) -> None:
        if as_json:
            row = {"kind": kind, "begin_bytes": offset, "length_bytes": length}
            records.append({**row, "stored_bytes": stored})
        else:
            write_text(f"{kind:<10}  {offset:>16}  {length:>16}  {stored:>10}\n")

    with _open(word) as stream, progress("reading") as report:
        if command == "verify":
            summary = verify(stream, progress=report)
        else:
            if rows and not as_json:
                head = ("KIND", "BEGIN_BYTES", "LENGTH_BYTES", "STORED")
                write_text("{:<10}  {:>16}  {:>16}  {:>10}\n".format(*head))
            summary = inspect(stream, record=show if rows else None, progress=report)
    if as_json:
        value = _json(word, summary)
        write_json({**value, "records": records} if rows else value)
    else:
        write_text(_text(summary, command))
    return 0


def _open(word: str) -> BinaryIO:
    if word != "-":
        return open(word, "rb", buffering=_BUFFER_BYTES)
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("stream: there is no stream: give a FILE, or let it come from a pipe")
    return open(sys.stdin.fileno(), "rb", buffering=_BUFFER_BYTES, closefd=False)


def _json(word: str, summary: StreamSummary) -> dict[str, Any]:
    return {
        "stream": word,
        "header": summary.header.to_json(),
        "stream_bytes": summary.stream_bytes,
        "data_records": summary.data_records,
        "unmap_records": summary.unmap_records,
        "checkpoints": summary.checkpoints,
        "data_bytes": summary.data_bytes,
        "stored_bytes": summary.stored_bytes,
        "unmapped_bytes": summary.unmap_bytes,
    }


def _text(summary: StreamSummary, command: str) -> str:
    header = summary.header
    base = "nothing: it is a whole volume" if header.base is None else _identity(header.base)
    resumed = header.resume_offset_bytes
    content = f"{summary.data_bytes} bytes in {count(summary.data_records, 'record')}"
    lines = [
        f"makes:    {_identity(header.identity)}",
        f"of:       {base}",
        f"content:  {content}, stored in {summary.stored_bytes}",
        f"unmapped: {summary.unmap_bytes} bytes in {count(summary.unmap_records, 'record')}",
        f"length:   {summary.stream_bytes} bytes, {count(summary.checkpoints, 'checkpoint')}",
        f"made by:  {header.program}",
    ]
    if resumed is not None:
        lines.insert(2, f"begins:   at byte {resumed}, where another one was cut")
    if command == "verify":
        lines.append("SOUND: everything in it is as it was sent.")
    return "\n".join(lines) + "\n"


def _identity(identity: Identity) -> str:
    size = f"{human_bytes(identity.size_bytes)} ({identity.size_bytes} bytes"
    size += ")" if identity.size_is_known else ", guessed)"
    words = f"{identity.describe()}, {size}"
    if not identity.is_snapshot:
        words += ", written in place"
    if identity.external_origin:
        words += ", with an external origin"
    if identity.pool_uuid:
        words += f", of pool {identity.pool_uuid}"
    return words
