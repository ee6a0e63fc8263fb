"""``thinmeta rmap``: what lies where in a pool's data."""

from __future__ import annotations

from thinmeta.cli.options import Option, parse, whole_number
from thinmeta.cli.output import STDOUT, stdout_descriptor, write_text
from thinmeta.cli.pools import find_source
from thinmeta.cli.progress import progress
from thinmeta.errors import UsageError
from thinmeta.files import name_output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.cli.pools import Source
    from thinmeta.rmap import ReverseMap

HELP = """\
Usage: thinmeta rmap [--region BEGIN..END]... [--json] [-m] META

Shows whose blocks lie where in the pool's data: the mappings of META, a device or an
image of it, or a live pool, the other way round. Say, to find out which volumes a bad
sector of the data device belongs to.

Each line is a run of data blocks, the thin device whose they are, and its own blocks
there; ends are one past the last block. What devices share is there for each of them.
(thin_rmap prints it for one of them.)

Options
      --region BEGIN..END
                         only these data blocks, of which END is not one any more; may be
                         repeated. A sector of the data device is in block
                         sector / data_block_size ('thinmeta ls --json').
      --json             print JSON
  -m, --metadata-snapshot[=BLOCK]
                         read the metadata snapshot that the pool holds, or the one
                         at BLOCK; works while the pool is in use
  -h, --help             print this

Examples
  thinmeta rmap pool_tmeta.img
  thinmeta rmap vg/pool --region 4711..4712 --json
"""

OPTIONS = (Option("region", takes="a word"),)
#: Rows formatted at once: few calls, and a bounded amount of text in memory.
CHUNK = 4096


def run(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    parsed = parse("rmap", arguments, OPTIONS, ("META",))
    if parsed.has("help"):
        write_text(HELP)
        return 0
    regions = [_region(word) for word in parsed.values("region")]
    source = find_source(parsed.words[0], parsed.metadata_snapshot())
    with source.reading() as pool, progress("looking") as report:
        found = pool.rmap(regions or None, progress=report)
    if parsed.has("json"):
        _print_json(found, source, regions)
        return 0
    try:
        found.write(stdout_descriptor())
    except OSError as error:
        name_output(error, STDOUT)
        raise
    return 0


def _region(word: str) -> tuple[int, int]:
    begin, dots, end = word.partition("..")
    if not dots:
        raise UsageError(f"rmap: --region takes BEGIN..END, in data blocks, not {word!r}")
    return whole_number(begin, "--region"), whole_number(end, "--region")


def _print_json(found: ReverseMap, source: Source, regions: list[tuple[int, int]]) -> None:
    import json

    size = found.data_block_size_bytes
    head = {
        "metadata": source.word,
        "metadata_snapshot": source.snapshot,
        "regions": regions or None,
        "data_block_size_bytes": size,
    }
    write_text(json.dumps(head, indent=2)[:-2] + ',\n  "runs": [')
    before = "\n"
    lines: list[str] = []
    for row in found:
        fields = row._asdict()
        fields["data_begin_bytes"] = row.data_begin * size
        fields["length_bytes"] = row.length_blocks * size
        fields["virtual_begin_bytes"] = row.virtual_begin * size
        lines.append("    " + json.dumps(fields))
        if len(lines) == CHUNK:
            write_text(before + ",\n".join(lines))
            before = ",\n"
            lines.clear()
    write_text((before + ",\n".join(lines) if lines else "") + "\n  ]\n}\n")
