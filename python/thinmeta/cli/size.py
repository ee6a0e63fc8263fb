"""``thinmeta size``: how large a pool's metadata have to be."""

from __future__ import annotations

from thinmeta.cli.dropins.thin_metadata_size import estimated_blocks
from thinmeta.cli.options import Option, parse, size, whole_number
from thinmeta.cli.output import write_json, write_text
from thinmeta.errors import UsageError
from thinmeta.report import count, human_bytes
from thinmeta.sizing import MOST_METADATA_BLOCKS, MetadataSize, metadata_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from thinmeta.cli.options import Parsed

HELP = """\
Usage: thinmeta size --data-size SIZE --block-size SIZE [--devices N]
                     [--mapped SIZE] [--shared SIZE] [--json]

Tells how large the metadata of a thin pool have to be: what thin_metadata_size says, and
beside it what is needed, counted from the trees:

  in order       each device begins with what is shared, and nodes are full: what was
                 written from front to end, or restored
  at random      what is shared lies all over the devices, so that they share data but no
                 nodes; and nodes are half full, the least that writing here and there
                 leaves (most are fuller)
  all their own  the same of devices that have mapped all data of the pool each: snapshots
                 of a full volume, after all of them were written to all over

A change needs free blocks besides, about as many as the nodes that it touches; and a
snapshot shares all nodes until one of the two is written to, so that the need grows with
what is changed.

Options
      --data-size SIZE   size of the data device, as 1T, 500GiB or 20971520s (sectors)
      --block-size SIZE  size of a data block, a multiple of 64K up to 1G
      --devices N        thin devices, snapshots included; 1 without this
      --mapped SIZE      how much each device has mapped; without this they have all data
                         among them
      --shared SIZE      how much of that is the same data in all devices; without this
                         nothing
      --json             print JSON, with blocks by what they are for
  -h, --help             print this

Example
  thinmeta size --data-size 10T --block-size 64K --devices 100
  thinmeta size --data-size 1T --block-size 64K --devices 30 --shared 800G
"""

OPTIONS = (
    Option("data-size", takes="a word"),
    Option("block-size", takes="a word"),
    Option("devices", takes="a word"),
    Option("mapped", takes="a word"),
    Option("shared", takes="a word"),
)
METADATA_BLOCK_BYTES = 4096
MIN_BLOCK, MAX_BLOCK = 1 << 16, 1 << 30
MOST_DEVICES = 1 << 24


def run(arguments: list[str]) -> int:
    """Run the command on its words and return its exit status."""
    parsed = parse("size", arguments, OPTIONS, ())
    if parsed.has("help"):
        write_text(HELP)
        return 0
    words = [parsed.value(name) for name in ("data-size", "block-size")]
    if words[0] is None or words[1] is None:
        raise UsageError("size: --data-size and --block-size are needed; see --help")
    data_bytes, block_bytes = size(words[0], "--data-size"), size(words[1], "--block-size")
    if block_bytes == 0 or block_bytes % MIN_BLOCK or block_bytes > MAX_BLOCK:
        raise UsageError("size: a data block has a multiple of 64 KiB, up to 1 GiB")
    if data_bytes < block_bytes:
        raise UsageError("size: the data device has to hold at least one block")
    devices = whole_number(parsed.value("devices") or "1", "--devices")
    if not 1 <= devices <= MOST_DEVICES:
        raise UsageError(f"size: a pool has 1 to {MOST_DEVICES} devices")
    blocks = data_bytes // block_bytes
    parts, shared = _mappings(parsed, blocks, block_bytes, devices)
    needs = {
        "in order": metadata_size(blocks, parts, shared_blocks=shared),
        "at random": metadata_size(blocks, parts, fill=0.5, shared_blocks=shared, scattered=True),
        "all their own": metadata_size(
            blocks, [blocks] * devices, fill=0.5, shared_blocks=blocks, scattered=True
        ),
    }
    estimate = estimated_blocks(block_bytes, data_bytes, devices)
    if parsed.has("json"):
        _print_json(data_bytes, block_bytes, devices, estimate, needs)
        return 0
    rows = [("thin_metadata_size", estimate, ""), *_rows(needs)]
    for name, total, remark in rows:
        size_text = human_bytes(total * METADATA_BLOCK_BYTES)
        write_text(f"{name + ':':<20}{size_text:>10}  ({count(total, 'block')}){remark}\n")
    return 0


def _mappings(parsed: Parsed, blocks: int, block_bytes: int, devices: int) -> tuple[list[int], int]:
    """Mappings of each device, and how many of them all have in common."""
    words = parsed.value("shared"), parsed.value("mapped")
    shared = 0 if words[0] is None else -(-size(words[0], "--shared") // block_bytes)
    if words[1] is None:
        if shared > blocks:
            raise UsageError("size: --shared is more than the data device holds")
        share, more = divmod(blocks - shared, devices)
        return [shared + share + 1] * more + [shared + share] * (devices - more), shared
    mapped = -(-size(words[1], "--mapped") // block_bytes)
    if shared > mapped:
        raise UsageError("size: --shared is more than --mapped, of which it is a part")
    if shared + devices * (mapped - shared) > blocks:
        raise UsageError(
            "size: the data device does not hold what all devices have mapped; --shared says "
            "what is the same in all of them"
        )
    return [mapped] * devices, shared


def _rows(needs: dict[str, MetadataSize]) -> Iterator[tuple[str, int, str]]:
    for name, need in needs.items():
        too_much = need.total > MOST_METADATA_BLOCKS
        yield name, need.total, ", more than there can be" if too_much else ""


def _print_json(
    data_bytes: int, block_bytes: int, devices: int, estimate: int, needs: dict[str, MetadataSize]
) -> None:
    import dataclasses

    write_json(
        {
            "data_size_bytes": data_bytes,
            "data_block_size_bytes": block_bytes,
            "devices": devices,
            "metadata_block_size_bytes": METADATA_BLOCK_BYTES,
            "most_metadata_blocks": MOST_METADATA_BLOCKS,
            "thin_metadata_size_blocks": estimate,
            **{
                name.replace(" ", "_"): {
                    **dataclasses.asdict(need),
                    "total_bytes": need.total * METADATA_BLOCK_BYTES,
                }
                for name, need in needs.items()
            },
        }
    )
