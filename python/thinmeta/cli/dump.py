"""``thinmeta dump``: everything that a pool's metadata says."""

from __future__ import annotations

from contextlib import contextmanager

from thinmeta.cli.options import REPAIR_NUMBERS, Option, parse, repair_numbers
from thinmeta.cli.output import STDOUT, stdout_descriptor, write_error, write_text
from thinmeta.cli.pools import find_source
from thinmeta.cli.progress import progress
from thinmeta.errors import UsageError
from thinmeta.files import OutputFile, name_output
from thinmeta.tools import FORMATS, dump

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from thinmeta.cli.pools import Source
    from thinmeta.pool import Pool

HELP = """\
Usage: thinmeta dump [-o OUT] [--format FORMAT] [--shared] [--dev-id ID]... [-m] META

Writes down the pool's devices and all their mappings, as the metadata in META says: a
device or an image of it, or a live pool.

Options
  -o, --output OUT       write to OUT, which appears when it is whole; a device or a
                         pipe is written directly. Without -o, or with -o -: stdout.
      --format FORMAT    xml     the XML of thin_dump, which thin_restore takes
                                 (the default)
                         human   the same for reading
                         jsonl   one JSON object a line
      --json             the same as --format jsonl
      --shared           print what devices share once, as <def>, and then <ref> to
                         it; otherwise every device is printed in full
      --repair           dump what can be read of damaged metadata, which 'thinmeta
                         repair --plan' tells of; nobody may be using them
      --transaction-id NUMBER
      --data-block-size SECTORS
      --nr-data-blocks NUMBER
                         with --repair: take this, whatever the metadata say; the size
                         of data blocks has to be said where the superblock is lost
                         and there is no copy of it
      --dev-id ID        only this device, of a live pool also by its name; may be
                         repeated
  -m, --metadata-snapshot[=BLOCK]
                         read the metadata snapshot that the pool holds, or the one
                         at BLOCK; works while the pool is in use
  -h, --help             print this

Examples
  thinmeta dump pool_tmeta.img -o pool.xml
  thinmeta dump --dev-id 1 --json pool_tmeta.img | head
"""

OPTIONS = (
    Option("output", "o", takes="a word"),
    Option("format", takes="a word"),
    Option("shared"),
    Option("repair"),
    Option("dev-id", takes="a word"),
    *REPAIR_NUMBERS,
)


def run(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    parsed = parse("dump", arguments, OPTIONS, ("META",))
    if parsed.has("help"):
        write_text(HELP)
        return 0
    form = parsed.value("format") or ("jsonl" if parsed.has("json") else "xml")
    if form not in FORMATS:
        raise UsageError(f"dump: --format is one of {', '.join(FORMATS)}, not {form!r}")
    if parsed.has("json") and form != "jsonl":
        raise UsageError(f"dump: --json and --format {form} exclude each other")
    shared = parsed.has("shared")
    snapshot = parsed.metadata_snapshot()
    if parsed.has("repair") and snapshot is not None:
        raise UsageError("dump: --repair and --metadata-snapshot exclude each other")
    source = find_source(parsed.words[0], snapshot)
    if parsed.has("repair") and source.live is not None:
        raise UsageError(f"dump: {source.word} is in use: --repair is for what nobody uses")
    numbers = repair_numbers(parsed)
    if not parsed.has("repair") and any(each is not None for each in numbers.values()):
        options = ", ".join(f"--{option.long}" for option in REPAIR_NUMBERS)
        raise UsageError(f"dump: {options} are for --repair; see 'thinmeta dump --help'")
    ids = [source.device_number(word, "--dev-id") for word in parsed.values("dev-id")]
    out = parsed.value("output")

    def write(pool: Pool, target: int) -> None:
        with progress("dumping") as report:
            dump(pool, target, format=form, shared=shared, device_ids=ids or None, progress=report)

    with _repaired(source, numbers) if parsed.has("repair") else source.reading() as pool:
        if out is None or out == "-":
            try:
                write(pool, stdout_descriptor())
            except OSError as error:
                name_output(error, STDOUT)
                raise
            return 0

        from thinmeta.cli.signals import raise_on_termination

        raise_on_termination()
        with OutputFile(out, inputs=(source.metadata,)) as target:
            write(pool, target)
    return 0


@contextmanager
def _repaired(source: Source, numbers: dict[str, Any]) -> Iterator[Pool]:
    """The pool as it would be repaired; says if that is not all of it."""
    from thinmeta.repairing import repaired_pool

    with repaired_pool(source.metadata, **numbers) as (pool, plan):
        if not plan.is_whole:
            write_error("thinmeta: something is lost: 'thinmeta repair --plan' tells what\n")
        yield pool
