"""``thinmeta unpack``: metadata from what was packed."""

from __future__ import annotations

from thinmeta.cli.options import parse
from thinmeta.cli.output import write_text
from thinmeta.cli.pack import COMMON, OPTIONS, places, say_force, show
from thinmeta.cli.progress import progress
from thinmeta.cli.signals import raise_on_termination
from thinmeta.errors import AlreadyFormattedError
from thinmeta.packing import BLOCK_BYTES, unpack_fields
from thinmeta.report import human_bytes

HELP = """\
Usage: thinmeta unpack [-i] PACK -o META [-f] [--json]

Makes metadata of what 'thinmeta pack', or thin_metadata_pack 1.x, has packed. Every block
comes back as it was; the others are zeros. A pack that is damaged anywhere is refused,
and then META is as it was.

Options
  -i, --input PACK       the same as the first word
  -o, --output META      where to write: a file, which is replaced by one as large as the
                         metadata were, or a block device of that size at least, which
                         nobody uses
  -f, --force            there may be metadata at META, which are lost then
      --json             print JSON
  -h, --help             print this

Examples
  thinmeta unpack pool.pack -o pool_tmeta.img
  thinmeta unpack pool.pack -o /dev/vg/spare --force
"""


def run(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    parsed = parse("unpack", arguments, OPTIONS, ("PACK",), common=COMMON, optional=1)
    if parsed.has("help"):
        write_text(HELP)
        return 0
    packed, out = places(parsed, "PACK", "META")
    raise_on_termination()
    with progress("unpacking", in_bytes=True) as report:
        try:
            done = unpack_fields(packed, out, overwrite=parsed.has("force"), progress=report)
        except AlreadyFormattedError as error:
            raise say_force(error) from None
    if parsed.has("json"):
        show({"packed": packed, "output": out}, done, out)
        return 0
    write_text(
        f"{out}: {human_bytes(done['unpacked_blocks'] * BLOCK_BYTES)} of metadata, in "
        f"{human_bytes(done['metadata_blocks'] * BLOCK_BYTES)}\n"
    )
    return 0
