"""``thin_shrink``: metadata for a pool on fewer data blocks, and the data moved."""

from __future__ import annotations

from thinmeta.cli.dropins.options import Option
from thinmeta.cli.progress import progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.cli.dropins.options import Parsed

HELP = """\
Usage: thin_shrink -i XML -o NEW_XML --data DATA --nr-blocks N [--no-copy]
       thin_shrink --binary -i META -o NEW_META --data DATA --nr-blocks N [--no-copy]

Moves the blocks of an inactive pool that lie at N or past it to free places below, and
writes metadata that say where they are. This is thinmeta's stand-in for thin_shrink of
thin-provisioning-tools; 'thinmeta shrink' says beforehand what would be moved, and goes
on after a crash. Other than 1.1.0, it says N as the number of data blocks afterwards.

The exit status is 0 when all is well, and 1 otherwise; then the output is as it was.

Options
  -i, --input FILE       the metadata, as XML
  -o, --output FILE      where to write them, as XML
      --binary           both are metadata; the output has to be there
      --data DATA        the pool's data
      --nr-blocks N      how many data blocks there are to be
      --no-copy          do not copy the data
  -h, --help             print this
  -V, --version          print the version of the peer that this stands for
"""

OPTIONS = (
    Option("--input", "-i", takes="a word"),
    Option("--output", "-o", takes="a word"),
    Option("--data", takes="a word"),
    Option("--nr-blocks", takes="a word"),
    Option("--no-copy"),
    Option("--binary"),
)
WORDS: tuple[str, ...] = ()


def run(parsed: Parsed) -> int:
    """Run the program on its command line and return its exit status."""
    source, data = parsed.needed("input"), parsed.needed("data")
    parsed.needed("nr-blocks")
    out = parsed.output() if parsed.has("binary") else parsed.needed("output")
    blocks, copy = parsed.number("nr-blocks") or 0, not parsed.has("no-copy")
    if parsed.has("binary"):
        _shrink(source, data, out, blocks, copy=copy)
    else:
        _through_xml(source, data, out, blocks, copy=copy)
    return 0


def _shrink(source: str, data: str, out: str, blocks: int, *, copy: bool) -> None:
    from thinmeta.pool import open_pool
    from thinmeta.shrinking import shrink_marked

    with open_pool(source) as pool:
        space = pool.data_space
    # As the peer has it, a pool that is small enough is written anew as it is.
    blocks = min(blocks, space.blocks)
    if blocks == 0 and not space.allocated:
        blocks = min(space.blocks, 1)
    with progress("copying", in_bytes=True) as report:
        shrink_marked(source, data, out, data_blocks=blocks, copy=copy, progress=report)


def _through_xml(source: str, data: str, out: str, blocks: int, *, copy: bool) -> None:
    """The same from XML to XML, by way of metadata in a temporary folder."""
    import os
    from tempfile import TemporaryDirectory

    from thinmeta.files import OutputFile
    from thinmeta.restoring import restore
    from thinmeta.tools import dump

    with (
        OutputFile(out, inputs=(source, data)) as descriptor,
        TemporaryDirectory(prefix="thinmeta-") as folder,
    ):
        before, after = (os.path.join(folder, name) for name in ("before", "after"))
        restore(source, before, flags=0)
        _shrink(before, data, after, blocks, copy=copy)
        dump(after, descriptor)
