"""``thinmeta pack``: metadata into a small file."""

from __future__ import annotations

import os

from thinmeta.cli.options import Option, parse
from thinmeta.cli.output import write_error, write_text
from thinmeta.cli.progress import progress
from thinmeta.cli.signals import raise_on_termination
from thinmeta.errors import AlreadyFormattedError, ThinmetaError, UsageError
from thinmeta.files import is_same_file
from thinmeta.packing import BLOCK_BYTES, pack_fields
from thinmeta.report import count, human_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from thinmeta.cli.options import Parsed

HELP = """\
Usage: thinmeta pack [-i] META -o PACK [-f] [--json]

Packs a pool's metadata into a small file, to keep them or to send them to somebody who
is to look at them; 'thinmeta unpack' and thin_metadata_unpack 1.x make metadata of it
again. META is a device or an image that nobody uses. No content of volumes is in there.

All blocks are packed that have the checksum of metadata, whether anything leads to them
or not. What has none is not: a damaged block is zeros after unpacking, and counted here.

Options
  -i, --input META       the same as the first word
  -o, --output PACK      where to write: a file, which is replaced whole or not at all, a
                         pipe, or a block device
  -f, --force            PACK may be metadata, which are lost then
      --json             print JSON
  -h, --help             print this

Examples
  thinmeta pack /dev/mapper/vg-pool_tmeta -o pool.pack
  thinmeta pack pool_tmeta.img -o /dev/stdout | ssh host 'cat > pool.pack'
"""

OPTIONS = (
    Option("input", "i", takes="a word"),
    Option("output", "o", takes="a word"),
    Option("force", "f"),
)
COMMON = (Option("help", "h"), Option("json"))


def run(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    parsed = parse("pack", arguments, OPTIONS, ("META",), common=COMMON, optional=1)
    if parsed.has("help"):
        write_text(HELP)
        return 0
    meta, out = places(parsed, "META", "PACK")
    raise_on_termination()
    with progress("packing") as report:
        try:
            done = pack_fields(
                meta,
                out,
                overwrite=parsed.has("force"),
                progress=report,
                allow_nothing=False,
            )
        except AlreadyFormattedError as error:
            raise say_force(error) from None
    fields = {"metadata": meta, "output": out}
    if parsed.has("json"):
        show(fields, done, out)
        return 0
    left = ""
    if done["left_out_blocks"]:
        left = f"; {count(done['left_out_blocks'], 'damaged or unknown block')} left out"
    _say(
        f"{out}: {human_bytes(done['packed_bytes'])}, with "
        f"{human_bytes(done['packed_blocks'] * BLOCK_BYTES)} of metadata, of a device of "
        f"{human_bytes(done['metadata_blocks'] * BLOCK_BYTES)}{left}\n",
        out,
    )
    return 0


def places(parsed: Parsed, input_name: str, output_name: str) -> tuple[str, str]:
    """Where to read and where to write."""
    name, given = parsed.command, parsed.value("input")
    source = given if given is not None else parsed.words[0] if parsed.words else None
    if source is None or (given is not None and parsed.words):
        raise UsageError(f"{name}: one {input_name} is needed; see 'thinmeta {name} --help'")
    out = parsed.value("output")
    if out is None:
        raise UsageError(f"{name}: -o {output_name} is missing; see 'thinmeta {name} --help'")
    return source, out


def say_force(error: AlreadyFormattedError) -> ThinmetaError:
    """The same error in words of the command line."""
    return ThinmetaError(f"{error.path}: {error.reason}; --force replaces them")


def show(fields: dict[str, Any], done: dict[str, int], out: str) -> None:
    """Print what was done as JSON, sizes in blocks and in bytes."""
    import json

    fields |= done
    for name in [name for name in fields if name.endswith("_blocks")]:
        # The size of a pack is one of its own.
        other = {"packed_blocks": "packed_blocks_bytes"}.get(
            name, name.replace("_blocks", "_bytes")
        )
        fields[other] = fields[name] * BLOCK_BYTES
    _say(json.dumps(fields, indent=2) + "\n", out)


def _say(text: str, out: str) -> None:
    """Print to stdout, or beside it if that is where the result went."""
    try:
        is_stdout = is_same_file(os.fstat(1), out)
    except OSError:
        is_stdout = False
    if is_stdout:
        write_error(text)
    else:
        write_text(text)
