"""``thinmeta delta``: where two volumes differ."""

from __future__ import annotations

from thinmeta.cli.delta_hints import HINTS, write_hints
from thinmeta.cli.options import Option, did_you_mean, parse
from thinmeta.cli.output import write_text
from thinmeta.cli.pools import find_source
from thinmeta.cli.progress import progress
from thinmeta.errors import UsageError
from thinmeta.report import count, human_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from thinmeta.bookmark import Bookmark
    from thinmeta.cli.options import Parsed
    from thinmeta.cli.pools import Source

HELP = """\
Usage: thinmeta delta [--same] [--json] [-m] META LEFT RIGHT
       thinmeta delta [OPTION]... META --from-bookmark FILE RIGHT
       thinmeta delta --format FORMAT [OPTION]... META [LEFT | --full] RIGHT

Shows where two thin devices of a pool differ, for example a volume and its snapshot:
what a backup has to copy. LEFT and RIGHT are device ids ('thinmeta ls' lists them). Only
the metadata in META is read, which takes seconds however large the volumes are. META is
a device or an image, or a live pool, whose volumes can be called by their names, too.

Each line is a range, with its place and length in bytes and in blocks, and its kind:
  changed      both have data there, and not the same blocks
  left_only    only LEFT has data there; in RIGHT it is a hole
  right_only   only RIGHT has data there; in LEFT it is a hole
  same         both share the data (only with --same)
A block that was overwritten with the same content counts as changed.

Two formats are hints for other backup programs, about what they need not read of RIGHT
when they have a backup of LEFT. LEFT has to be a snapshot that nobody has written to, or
its bookmark: nothing else proves that what is the same now was so when it was read. And
RIGHT must not be written while it is read: make a snapshot.
  borg-map  for 'borg create --map FILE --reuse-from ARCHIVE' (borg 2): lines of begin,
            length and state, data, zero or same, which cover all of the volume
  rbd-diff  what 'rbd diff --format json' prints, for benji (--rbd-hints), backy2 (-r)
            and others

Options
      --same             list the ranges that are the same, too
      --from-bookmark FILE
                         in the place of LEFT: what it was when 'thinmeta bookmark'
                         saved this
      --format FORMAT    text, json, borg-map or rbd-diff
      --full             of the hints: in the place of LEFT, nothing: what a first
                         backup reads
      --size BYTES       of the hints: the size of RIGHT, also as 512M, 10GiB or
                         20971520s; borg's map needs it, where the kernel or LVM does
                         not know it
      --left-size BYTES  of the hints: the size that LEFT had, where it was smaller
                         than RIGHT is, and the kernel, LVM and the bookmark do not
                         know it
      --external-origin  of the hints: RIGHT is a snapshot of something outside the
                         pool, which shows where nothing is mapped, and has to be
                         read; of live volumes this is known
      --json             print JSON
  -m, --metadata-snapshot[=BLOCK]
                         read the metadata snapshot that the pool holds, or the one
                         at BLOCK; works while the pool is in use
  -h, --help             print this

Examples
  thinmeta delta pool_tmeta.img 1 2
  thinmeta delta vg/pool home home-monday --json
  thinmeta delta vg/pool home-monday home-tuesday --format borg-map > map
"""

OPTIONS = (
    Option("same"),
    Option("from-bookmark", takes="a word"),
    Option("format", takes="a word"),
    Option("full"),
    Option("size", takes="a word"),
    Option("left-size", takes="a word"),
    Option("external-origin"),
)
FORMATS = ("text", "json", *HINTS)
KINDS = ("changed", "left_only", "right_only", "same")
HEADS = ("KIND", "BEGIN_BYTES", "LENGTH_BYTES", "BEGIN_BLOCK", "BLOCKS")
#: Ranges formatted at once: few calls, and a bounded amount of text in memory.
CHUNK = 4096

Range = tuple[str, int, int]


def run(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    parsed = parse("delta", arguments, OPTIONS, ("META", "LEFT", "RIGHT"), optional=1)
    if parsed.has("help"):
        write_text(HELP)
        return 0
    form = _form(parsed)
    source = find_source(parsed.words[0], parsed.metadata_snapshot())
    left: int | Bookmark | None = None
    saved = parsed.value("from-bookmark")
    if saved is not None:
        left = _bookmark(saved, source)
    elif not parsed.has("full"):
        left = source.device_number(parsed.words[1], "LEFT")
    right = source.device_number(parsed.words[-1], "RIGHT")
    if form in HINTS or left is None:
        write_hints(parsed, source, left, right)
        return 0
    same = parsed.has("same")
    with (
        source.reading() as pool,
        progress("comparing") as report,
    ):
        delta = pool.delta(left, right, same=same, progress=report)
        ranges, block_bytes = delta.merged(), delta.data_block_size_bytes
    totals = dict.fromkeys(KINDS if same else KINDS[:-1], 0)
    if form == "json":
        import json

        head = {
            "metadata": source.word,
            "metadata_snapshot": source.snapshot,
            "left": left if isinstance(left, int) else saved,
            "right": right,
            "data_block_size_bytes": block_bytes,
        }
        write_text(json.dumps(head, indent=2)[:-2] + ',\n  "ranges": [')
        _write_json_ranges(ranges, block_bytes, totals)
        write_text('  ],\n  "totals": ' + _totals_json(totals, block_bytes) + "\n}\n")
    else:
        _write_text_ranges(ranges, block_bytes, totals)
        write_text(_totals_text(totals, block_bytes))
    return 0


def _bookmark(path: str, source: Source) -> Bookmark:
    """Open it; one of another pool may have the same numbers for other content."""
    from thinmeta.bookmark import Bookmark

    bookmark = Bookmark.open(path)
    uuid = "" if source.live is None else source.live.uuid
    if uuid and bookmark.pool_uuid and uuid != bookmark.pool_uuid:
        from thinmeta.errors import WrongBaseError

        raise WrongBaseError(
            f"{path}: the bookmark is of pool {bookmark.pool_uuid}, and this is {uuid}"
        )
    return bookmark


def _form(parsed: Parsed) -> str:
    """What is to be printed; the words and options have to fit it."""
    form = parsed.value("format") or ("json" if parsed.has("json") else "text")
    if form not in FORMATS:
        near = did_you_mean(form, FORMATS)
        raise UsageError(f"delta: --format is one of {', '.join(FORMATS)}, not {form!r}{near}")
    if parsed.has("json") and form != "json":
        raise UsageError(f"delta: --json and --format {form} exclude each other")
    other = [name for name in ("full", "from-bookmark") if parsed.has(name)]
    if len(other) == 2:
        raise UsageError("delta: --full and --from-bookmark exclude each other")
    if other and len(parsed.words) > 2:
        raise UsageError(f"delta: one word too many: --{other[0]} is in the place of LEFT")
    if not other and len(parsed.words) < 3:
        raise UsageError("delta: RIGHT is missing; see 'thinmeta delta --help'")
    if form in HINTS:
        if parsed.has("same"):
            raise UsageError(f"delta: --same is for ranges, and not for --format {form}")
        return form
    for name in ("full", "size", "left-size", "external-origin"):
        if parsed.has(name):
            raise UsageError(f"delta: --{name} is for --format {' and '.join(HINTS)}")
    return form


def _chunks(ranges: list[Range], totals: dict[str, int]) -> Iterator[list[Range]]:
    for start in range(0, len(ranges), CHUNK):
        chunk = ranges[start : start + CHUNK]
        for kind, _, length in chunk:
            totals[kind] += length
        yield chunk


def _write_text_ranges(ranges: list[Range], size: int, totals: dict[str, int]) -> None:
    if not ranges:
        return
    last = ranges[-1][1] + ranges[-1][2]
    widths = [
        max(len(head), len(str(last * unit)))
        for head, unit in zip(HEADS[1:], (size, size, 1, 1), strict=True)
    ]
    line = "%-10s" + "".join(f"  %{width}s" for width in widths) + "\n"
    write_text(line % HEADS)
    line = line.replace("s", "d").replace("%-10d", "%-10s")
    for chunk in _chunks(ranges, totals):
        write_text(
            (line * len(chunk))
            % tuple(
                [
                    cell
                    for kind, begin, length in chunk
                    for cell in (kind, begin * size, length * size, begin, length)
                ]
            )
        )


def _write_json_ranges(ranges: list[Range], size: int, totals: dict[str, int]) -> None:
    line = (
        '    {"kind": "%s", "begin_bytes": %d, "length_bytes": %d, '
        '"begin_blocks": %d, "length_blocks": %d}'
    )
    comma = "\n"
    for chunk in _chunks(ranges, totals):
        write_text(
            (comma + ",\n".join([line] * len(chunk)))
            % tuple(
                [
                    cell
                    for kind, begin, length in chunk
                    for cell in (kind, begin * size, length * size, begin, length)
                ]
            )
        )
        comma = ",\n"
    write_text("\n")


def _totals_json(totals: dict[str, int], size: int) -> str:
    changed = sum(blocks for kind, blocks in totals.items() if kind != "same")
    values = {"all_differences": changed, **totals}
    return (
        "{\n"
        + ",\n".join(
            f'    "{kind}_{unit}": {blocks * factor}'
            for kind, blocks in values.items()
            for unit, factor in (("bytes", size), ("blocks", 1))
        )
        + "\n  }"
    )


def _totals_text(totals: dict[str, int], size: int) -> str:
    changed = sum(blocks for kind, blocks in totals.items() if kind != "same")
    parts = [f"{human_bytes(blocks * size)} {kind}" for kind, blocks in totals.items() if blocks]
    text = ", ".join(parts) + "\n" if len(parts) > 1 else ""
    if not changed:
        return text + "total: no difference\n"
    blocks = f"{count(changed, 'block')} of {human_bytes(size)}"
    return (
        text + f"total: {human_bytes(changed * size)} differ ({changed * size} bytes, {blocks})\n"
    )
