"""``thinmeta restore``: metadata from XML."""

from __future__ import annotations

from thinmeta.cli.options import Option, parse, size, whole_number
from thinmeta.cli.output import write_json, write_text
from thinmeta.cli.progress import progress
from thinmeta.cli.signals import raise_on_termination
from thinmeta.errors import UsageError
from thinmeta.report import count, human_bytes
from thinmeta.restoring import restore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from thinmeta.types import NewPool

HELP = """\
Usage: thinmeta restore [-i] XML -o META [--size BYTES] [--override NAME=NUMBER]...

Makes a pool's metadata from XML, as 'thinmeta dump' and thin_dump write it: of a copy
that was edited, say, or that is to go to a larger device. '-' is stdin. What devices have
in common is shared, as <def> and <ref> say or as their mappings show.

META is a file, or a block device that no pool uses now: what is there is replaced, whole
or not at all. A device's new metadata are built in a temporary file (in $TMPDIR), and its
first block is written last.

Options
  -i, --input XML        the XML; the same as the first word
  -o, --output META      where to write
      --size BYTES       how large a file is to be, also as 64M; without it as large as
                         the one that is there, or twice what is in use in a new one
      --override transaction=NUMBER
      --override data_block_size=SECTORS
      --override nr_data_blocks=NUMBER
      --override flags=NUMBER
                         take this instead of what the XML says; with flags=0 the pool
                         needs no check, whatever the one that was dumped did
      --json             print JSON
  -h, --help             print this

Examples
  thinmeta dump pool_tmeta.img -o pool.xml
  thinmeta restore pool.xml -o new_tmeta.img --size 64M
  xzcat pool.xml.xz | thinmeta restore - -o /dev/vg/spare
"""

METADATA_BLOCK_BYTES = 4096

OPTIONS = (
    Option("input", "i", takes="a word"),
    Option("output", "o", takes="a word"),
    Option("size", takes="a word"),
    Option("override", takes="a word"),
)

OVERRIDES = {
    "transaction": "transaction_id",
    "data_block_size": "data_block_size_sectors",
    "nr_data_blocks": "data_blocks",
    "flags": "flags",
}


def run(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    parsed = parse("restore", arguments, OPTIONS, ("XML",), optional=1)
    if parsed.has("help"):
        write_text(HELP)
        return 0
    given = parsed.value("input")
    xml = given if given is not None else parsed.words[0] if parsed.words else None
    if xml is None or (given is not None and parsed.words):
        raise UsageError("restore: one XML is needed; see 'thinmeta restore --help'")
    out = parsed.value("output")
    if out is None:
        raise UsageError("restore: -o META is missing; see 'thinmeta restore --help'")
    overrides: dict[str, Any] = {}  # for arguments of several types
    for word in parsed.values("override"):
        name, _, value = word.partition("=")
        if name not in OVERRIDES:
            known = ", ".join(OVERRIDES)
            raise UsageError(f"restore: --override takes NAME=NUMBER, NAME one of {known}")
        overrides[OVERRIDES[name]] = whole_number(value, f"--override {name}")
    room = parsed.value("size")
    size_bytes = None if room is None else size(room, "--size")
    raise_on_termination()
    with progress("restoring", in_bytes=True) as report:
        made = restore(
            0 if xml == "-" else xml, out, size_bytes=size_bytes, progress=report, **overrides
        )
    print_new_pool(made, out, {"xml": xml, "output": out} if parsed.has("json") else None)
    return 0


def print_new_pool(made: NewPool, out: str, head: dict[str, Any] | None) -> None:
    """Say what was made, as JSON that begins with ``head``, if there is one."""
    if head is not None:
        write_json({**head, "made": made_fields(made)})
        return
    used, there = (
        human_bytes(blocks * METADATA_BLOCK_BYTES)
        for blocks in (made.metadata_blocks_used, made.metadata_blocks)
    )
    write_text(
        f"{out}: {count(made.devices, 'device')}, {count(made.mapped_blocks, 'mapped block')}; "
        f"{used} of {there} of metadata in use\n"
    )


def made_fields(made: NewPool) -> dict[str, Any]:
    """What was made, for JSON."""
    import dataclasses

    fields = dataclasses.asdict(made)
    for name in ("metadata_blocks", "metadata_blocks_used"):
        fields[name.replace("blocks", "bytes")] = fields[name] * METADATA_BLOCK_BYTES
    return fields
