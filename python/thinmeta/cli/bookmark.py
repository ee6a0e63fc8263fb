"""``thinmeta bookmark``: mappings of a snapshot, saved to be compared with later."""

from __future__ import annotations

from thinmeta.cli.options import Option, did_you_mean, parse, size
from thinmeta.cli.output import write_json, write_text
from thinmeta.cli.progress import progress
from thinmeta.errors import UsageError
from thinmeta.report import count, human_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from thinmeta.bookmark import Bookmark
    from thinmeta.cli.options import Parsed

HELP = """\
Usage: thinmeta bookmark save [--size BYTES] [--json] [-m] META ID FILE
       thinmeta bookmark show [--json] FILE

A bookmark is a small file with the mappings of a snapshot. With it, what has changed since
can be told when the snapshot is gone: 'thinmeta send --from-bookmark FILE' needs no more.

  save  save those of thin device ID into FILE. ID has to be a snapshot that nobody has
        written to: what is written to a volume itself may go to the same place as before,
        and then the mappings do not tell. META is a device or an image, or a live pool.
  show  say what is in FILE, and compare all of it with its checksums

Options
      --size BYTES       the size of the volume, also as 512M, 10GiB or 20971520s (sectors)
      --json             print JSON
  -m, --metadata-snapshot[=BLOCK]
                         read the metadata snapshot that the pool holds, or the one at
                         BLOCK
  -h, --help             print this

Examples
  thinmeta bookmark save pool_tmeta.img 2 monday.bookmark --size 10GiB
  thinmeta bookmark show monday.bookmark
"""

OPTIONS = (Option("size", takes="a word"),)
SHOWING = (Option("help", "h"), Option("json"))


def run(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    command = arguments[0] if arguments else ""
    if command == "save":
        parsed = parse("bookmark save", arguments[1:], OPTIONS, ("META", "ID", "FILE"))
    elif command == "show":
        parsed = parse("bookmark show", arguments[1:], (), ("FILE",), common=SHOWING)
    elif command in ("--help", "-h"):
        write_text(HELP)
        return 0
    else:
        known = ("save", "show")
        what = f"there is no {command!r}{did_you_mean(command, known)}" if command else ""
        raise UsageError(
            f"bookmark: {what or 'a word is missing'}: save, show; see 'thinmeta bookmark --help'"
        )
    if parsed.has("help"):
        write_text(HELP)
        return 0
    from thinmeta.bookmark import Bookmark

    if command == "save":
        bookmark = _save(parsed)
    else:
        with progress("reading") as report:
            bookmark = Bookmark.open(parsed.words[0], progress=report)
    if parsed.has("json"):
        write_json(_json(bookmark))
    else:
        write_text(_text(bookmark))
    return 0


def _save(parsed: Parsed) -> Bookmark:
    from thinmeta.bookmark import Bookmark
    from thinmeta.cli.pools import find_source

    given = parsed.value("size")
    size_bytes = None if given is None else size(given, "--size")
    source = find_source(parsed.words[0], parsed.metadata_snapshot())
    device_id = source.device_number(parsed.words[1], "ID")
    uuid = "" if source.live is None else source.live.uuid
    with source.reading() as pool, progress("saving") as report:
        return Bookmark.save(
            pool.devices[device_id],
            parsed.words[2],
            size_bytes=size_bytes,
            pool_uuid=uuid,
            progress=report,
        )


def _json(bookmark: Bookmark) -> dict[str, Any]:
    names = (
        *("path", "device_id", "creation_time", "pool_time", "transaction_id"),
        *("size_bytes", "mapped_blocks", "end_blocks", "pool_uuid"),
    )
    return {
        **{name: getattr(bookmark, name) for name in names},
        "data_block_size_bytes": bookmark.data_block_size_sectors * 512,
        "digest": bookmark.digest.hex(),
    }


def _text(bookmark: Bookmark) -> str:
    block_bytes = bookmark.data_block_size_sectors * 512
    size_bytes = bookmark.size_bytes
    if size_bytes is None:
        words = f"not known; the last block ends at {bookmark.end_blocks * block_bytes} bytes"
    else:
        words = f"{human_bytes(size_bytes)} ({size_bytes} bytes)"
    mapped = human_bytes(bookmark.mapped_blocks * block_bytes)
    blocks = f"{count(bookmark.mapped_blocks, 'block')} of {human_bytes(block_bytes)}"
    lines = [
        f"snapshot: device {bookmark.device_id}, made at time {bookmark.creation_time}",
        f"saved:    at time {bookmark.pool_time}, transaction {bookmark.transaction_id}",
        f"size:     {words}",
        f"mapped:   {mapped} ({blocks})",
        f"digest:   {bookmark.digest.hex()}",
    ]
    if bookmark.pool_uuid:
        lines.append(f"pool:     {bookmark.pool_uuid}")
    return "\n".join(lines) + "\n"
