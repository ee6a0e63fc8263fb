"""``thinmeta delta``: where two volumes differ."""

from __future__ import annotations

from thinmeta.cli.options import Option, parse
from thinmeta.cli.output import write_text
from thinmeta.cli.pools import find_source
from thinmeta.cli.progress import progress
from thinmeta.report import count, human_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

HELP = """\
Usage: thinmeta delta [--same] [--json] [-m] META LEFT RIGHT

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

Options
      --same             list the ranges that are the same, too
      --json             print JSON
  -m, --metadata-snapshot[=BLOCK]
                         read the metadata snapshot that the pool holds, or the one
                         at BLOCK; works while the pool is in use
  -h, --help             print this

Examples
  thinmeta delta pool_tmeta.img 1 2
  thinmeta delta vg/pool home home-monday --json
"""

OPTIONS = (Option("same"),)
KINDS = ("changed", "left_only", "right_only", "same")
HEADS = ("KIND", "BEGIN_BYTES", "LENGTH_BYTES", "BEGIN_BLOCK", "BLOCKS")
#: Ranges formatted at once: few calls, and a bounded amount of text in memory.
CHUNK = 4096

Range = tuple[str, int, int]


def run(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    parsed = parse("delta", arguments, OPTIONS, ("META", "LEFT", "RIGHT"))
    if parsed.has("help"):
        write_text(HELP)
        return 0
    source = find_source(parsed.words[0], parsed.metadata_snapshot())
    left = source.device_number(parsed.words[1], "LEFT")
    right = source.device_number(parsed.words[2], "RIGHT")
    same = parsed.has("same")
    with (
        source.reading() as pool,
        progress("comparing") as report,
    ):
        delta = pool.delta(left, right, same=same, progress=report)
        ranges, block_bytes = delta.merged(), delta.data_block_size_bytes
    totals = dict.fromkeys(KINDS if same else KINDS[:-1], 0)
    if parsed.has("json"):
        import json

        head = {
            "metadata": source.word,
            "metadata_snapshot": source.snapshot,
            "left": left,
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
