"""``thin_dump``: all of a pool's mappings, as the peer writes them down."""

from __future__ import annotations

from contextlib import contextmanager

from thinmeta.cli.dropins.options import MAX_U32, QUIET, SNAPSHOT, Option
from thinmeta.cli.output import STDOUT, stdout_descriptor
from thinmeta.cli.progress import progress
from thinmeta.errors import ThinmetaError
from thinmeta.files import OutputFile, name_output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from thinmeta.cli.dropins.options import Parsed
    from thinmeta.pool import Pool

HELP = """\
Usage: thin_dump [-m] [-f FORMAT] [-o FILE] [--dev-id DEV]... [OPTION]... META
       thin_dump -m BLOCK META

Writes down the devices and mappings of the pool whose metadata is META, a device or an
image of it, for thin_restore. This is thinmeta's stand-in for thin_dump of
thin-provisioning-tools; 'thinmeta dump' writes JSON, and every device in full.

Options
  -f, --format FORMAT    xml (the default) or human_readable; plug-ins of 0.9
                         (custom=LIBRARY) cannot be used
  -o, --output FILE      write to FILE, which appears when it is whole
      --dev-id DEV       only this device; may be repeated. As in the peer, it does not
                         matter beside --skip-mappings
      --skip-mappings    list the devices, and not their mappings
      --transaction-id N, --nr-data-blocks N
                         write at least these numbers, as the peer does
      --data-block-size SECTORS
                         write this in the place of the pool's own; as in the peer, these
                         three do not matter beside -m
  -m, --metadata-snap, --metadata-snapshot[=BLOCK]
                         read the metadata snapshot that the pool holds, or the one at
                         BLOCK (also -mBLOCK); works while the pool is in use
  -q, --quiet            say nothing, also of errors
  -r, --repair           dump what can be read of damaged metadata
  -h, --help             print this
  -V, --version          print the version of the peer whose output this is
"""

OPTIONS = (
    SNAPSHOT,
    QUIET,
    Option("--format", "-f", takes="a word"),
    Option("--output", "-o", takes="a word"),
    Option("--dev-id", takes="a word", repeats=True),
    Option("--skip-mappings"),
    Option("--repair", "-r"),
    Option("--transaction-id", takes="a word"),
    Option("--data-block-size", takes="a word"),
    Option("--nr-data-blocks", takes="a word"),
)
WORDS = ("META",)

FORMATS = {"xml": "xml-1.x", "human_readable": "human-1.x"}


def run(parsed: Parsed) -> int:
    """Run the program on its command line and return its exit status."""
    form = parsed.value("format") or "xml"
    if form.partition("=")[0] == "custom":
        raise ThinmetaError(
            f"thin_dump: --format {form}: plug-ins of the peer cannot be used; "
            f"formats are {' and '.join(FORMATS)}"
        )
    if form not in FORMATS:
        raise parsed.wrong(f"--format is {' or '.join(FORMATS)}, not {form!r}")
    parsed.refuse_together("repair", "metadata-snap")
    devices = parsed.numbers("dev-id")
    transaction_id = parsed.number("transaction-id")
    block_sectors = parsed.number("data-block-size", MAX_U32)
    data_blocks = parsed.number("nr-data-blocks")
    if parsed.has("metadata-snap"):  # the peer says what the snapshot does
        transaction_id = block_sectors = data_blocks = None
    skip_mappings = parsed.has("skip-mappings")

    def write(pool: Pool, target: int) -> None:
        with progress("dumping", quiet=parsed.has("quiet")) as report:
            pool._dump(
                target,
                format=FORMATS[form],
                shared=True,
                # The peer lists all devices then.
                device_ids=None if skip_mappings or not devices else devices,
                skip_mappings=skip_mappings,
                # These two only grow in the peer.
                transaction_id=max(transaction_id or 0, pool._superblock_fields()["trans_id"]),
                data_block_size_sectors=block_sectors,
                nr_data_blocks=(
                    None if data_blocks is None else max(data_blocks, pool._space_numbers()[1])
                ),
                progress=report,
            )

    out = parsed.value("output")
    with _pool(parsed) as pool:
        if out is None:
            try:
                write(pool, stdout_descriptor())
            except OSError as error:
                name_output(error, STDOUT)
                raise
            return 0

        from thinmeta.cli.signals import raise_on_termination

        raise_on_termination()
        with OutputFile(out, inputs=(parsed.words[0],)) as target:
            write(pool, target)
    return 0


@contextmanager
def _pool(parsed: Parsed) -> Iterator[Pool]:
    """The pool that is dumped, as it is or as it would be repaired."""
    if not parsed.has("repair"):
        with parsed.open_pool() as pool:
            yield pool
        return
    from thinmeta.repairing import repaired_pool

    repaired = repaired_pool(parsed.words[0], **parsed.overrides())
    with repaired as (pool, _):
        yield pool
