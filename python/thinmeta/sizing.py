"""How large a pool's metadata have to be: counted block by block, from the shapes of trees."""

from __future__ import annotations

from dataclasses import dataclass

from thinmeta.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["MOST_METADATA_BLOCKS", "MetadataSize", "metadata_size"]

#: Entries of a bitmap, and of leaves with values of 8, 24, 16 and 4 bytes (docs/format.md).
PER_BITMAP = 16320
PER_NODE, PER_DETAILS, PER_INDEX = 252, 126, 168
#: The largest metadata device: an index block has room for 255 bitmaps.
MOST_METADATA_BLOCKS = 255 * PER_BITMAP
#: Fewer entries has no node that has neighbours.
LEAST_FILL = 1 / 3


@dataclass(frozen=True, slots=True)
class MetadataSize:
    """Metadata blocks of 4096 bytes, by what they are for.

    Attributes:
        leaves: Leaves of the devices' mappings.
        inner_nodes: Nodes above them, and roots of devices without mappings.
        top_level: The tree that has each device's root.
        details: The tree that has each device's counters.
        data_map: Bitmaps of the data blocks, their index, and the tree of large counts.
        metadata_map: The same of the metadata blocks.
        total: All of these, and the superblock.
    """

    leaves: int
    inner_nodes: int
    top_level: int
    details: int
    data_map: int
    metadata_map: int
    total: int


def metadata_size(
    data_blocks: int, mapped_blocks: Iterable[int], *, fill: float = 1.0
) -> MetadataSize:
    """Count the metadata blocks of a pool whose devices share nothing.

    A snapshot that nobody has written to takes no blocks of its own but for its place in two
    trees; one of which all has been written since takes what another device takes. A change
    needs free blocks besides: as many as the nodes that it touches.

    Args:
        data_blocks: Blocks of the data device.
        mapped_blocks: Mappings of each device.
        fill: How full nodes of mappings are, from a third to 1: what was written in order,
            or made by :func:`thinmeta.restore`, fills them; what was written at random
            leaves them half full, or two thirds.

    Raises:
        UsageError: Numbers that cannot be.
    """
    if not LEAST_FILL <= fill <= 1:
        raise UsageError(f"nodes are filled by a third to 1, not {fill}")
    each = list(mapped_blocks)
    if data_blocks < 0 or any(blocks < 0 for blocks in each):
        raise UsageError("no number of blocks is negative")
    per_node = max(1, int(PER_NODE * fill))
    leaves = inner = 0
    for blocks in each:
        nodes = -(-blocks // per_node)
        leaves += nodes
        inner += 1 if nodes == 0 else _above(nodes, per_node)
    top = _tree(len(each), PER_NODE)
    details = _tree(len(each), PER_DETAILS)
    bitmaps = -(-data_blocks // PER_BITMAP)
    # Nothing is shared, so that the tree of counts of three and more is an empty leaf.
    data_map = bitmaps + _tree(bitmaps, PER_INDEX) + 1
    others = 1 + leaves + inner + top + details + data_map
    own = 2
    while own < 2 + -(-(others + own) // PER_BITMAP):
        own += 1
    return MetadataSize(
        leaves=leaves,
        inner_nodes=inner,
        top_level=top,
        details=details,
        data_map=data_map,
        metadata_map=own,
        total=others + own,
    )


def _tree(entries: int, per_leaf: int) -> int:
    """Nodes of a tree whose nodes are full; one without entries is a leaf."""
    leaves = max(1, -(-entries // per_leaf))
    return leaves + _above(leaves, PER_NODE)


def _above(nodes: int, per_node: int) -> int:
    """Nodes above so many, up to a root."""
    total = 0
    while nodes > 1:
        nodes = -(-nodes // per_node)
        total += nodes
    return total
