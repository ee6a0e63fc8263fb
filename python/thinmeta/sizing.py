"""How large a pool's metadata have to be: counted block by block, from the shapes of trees."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from thinmeta.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["MOST_METADATA_BLOCKS", "MetadataSize", "metadata_size"]

#: Entries of a bitmap, and of leaves with values of 8, 24, 16 and 4 bytes (docs/format.md).
PER_BITMAP = 16320
PER_NODE, PER_DETAILS, PER_INDEX, PER_COUNTS = 252, 126, 168, 336
#: From so many on a count does not fit into a bitmap, and lies in a tree of its own.
LARGE_COUNT = 3
#: The largest metadata device: an index block has room for 255 bitmaps.
MOST_METADATA_BLOCKS = 255 * PER_BITMAP
#: Fewer entries has no node that has neighbours.
LEAST_FILL = 1 / 3


@dataclass(frozen=True, slots=True)
class MetadataSize:
    """Metadata blocks of 4096 bytes, by what they are for.

    Attributes:
        leaves: Leaves of the devices' mappings.
        inner_nodes: Nodes above them, and roots of devices without mappings: one for each,
            as they are created; :func:`thinmeta.restore` makes one for all.
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
    data_blocks: int,
    mapped_blocks: Iterable[int],
    *,
    fill: float = 1.0,
    shared_blocks: int = 0,
    scattered: bool = False,
) -> MetadataSize:
    """Count the metadata blocks of a pool.

    A snapshot that nobody has written to takes no blocks of its own but for its place in two
    trees. One that has been written to since takes the nodes above what was written; and where
    that lies all over it, every node, and the data that are still shared need large counts,
    too. A change needs free blocks besides: as many as the nodes that it touches.

    Args:
        data_blocks: Blocks of the data device.
        mapped_blocks: Mappings of each device.
        fill: How full nodes of mappings and of large counts are, from a third to 1: what was
            written in order, or made by :func:`thinmeta.restore`, fills them; what was
            written at random leaves them half full, or more.
        shared_blocks: Mappings that all devices have in common, block by block.
        scattered: These lie all over the devices, among what is not shared, so that no leaf
            is the same. Otherwise each device begins with them.

    Raises:
        UsageError: Numbers that cannot be.
    """
    if not LEAST_FILL <= fill <= 1:
        raise UsageError(f"nodes are filled by a third to 1, not {fill}")
    devices = Counter(mapped_blocks)
    number = devices.total()
    if data_blocks < 0 or shared_blocks < 0 or any(blocks < 0 for blocks in devices):
        raise UsageError("no number of blocks is negative")
    if shared_blocks > min(devices, default=0):
        raise UsageError("devices cannot share more blocks than each of them has mapped")
    per_node = max(1, int(PER_NODE * fill))
    if scattered:
        forest = _Forest(devices, 0, per_node)
        large = shared_blocks if number >= LARGE_COUNT else 0
    else:
        forest = _Forest(devices, shared_blocks, per_node)
        # Where the devices part there is a leaf with some of both, one in each tree.
        large = shared_blocks % per_node if forest.trees >= LARGE_COUNT else 0
    top = _tree(number, PER_NODE)
    details = _tree(number, PER_DETAILS)
    bitmaps = -(-data_blocks // PER_BITMAP)
    per_counts = max(1, int(PER_COUNTS * fill))
    data_map = bitmaps + _tree(bitmaps, PER_INDEX) + _tree(large, per_counts, per_node)
    others = 1 + forest.leaves + forest.inner + top + details + data_map
    counts = _tree(forest.large_counts, per_counts, per_node)
    before, own = 0, 1
    while own != before:  # bitmaps have bits for themselves, too
        before, own = own, 1 + counts + -(-(others + own) // PER_BITMAP)
    return MetadataSize(
        leaves=forest.leaves,
        inner_nodes=forest.inner,
        top_level=top,
        details=details,
        data_map=data_map,
        metadata_map=own,
        total=others + own,
    )


class _Forest:
    """The nodes of all devices' trees, which have in common what they begin with.

    Made from how many devices have so many mappings, each.

    Attributes:
        leaves: Leaves, each counted once.
        inner: Nodes above them, and roots of devices without mappings.
        trees: Trees that are not the same as another.
        large_counts: Nodes to which three or more refer.
    """

    __slots__ = ("inner", "large_counts", "leaves", "trees")

    def __init__(self, devices: Mapping[int, int], shared: int, per_node: int) -> None:
        alike = dict(devices)
        # Devices that have nothing else are copies of each other: one tree.
        copies = alike.pop(shared, 0) if shared else 0
        others = sum(alike.values())
        self.trees = others + (copies > 0)
        self.leaves = self.inner = 0
        for blocks, times in (*alike.items(), *([(shared, 1)] if copies else ())):
            nodes = _levels(blocks, per_node)
            self.leaves += times * nodes[0]
            self.inner += times * (sum(nodes[1:]) if blocks else 1)
        common = _whole_levels(shared, per_node)
        # Of a full tree the root, too, is what longer ones have.
        root_is_common = bool(copies) and bool(common) and shared == per_node ** len(common)
        self.large_counts = 0
        if copies and not root_is_common:
            self.large_counts += copies >= LARGE_COUNT
        for level, whole in enumerate(common):
            again = (self.trees - 1) * whole
            if level == 0:
                self.leaves -= again
            else:
                self.inner -= again
            # Those that are below a common node are referred to by that alone.
            above = common[level + 1] * per_node if level + 1 < len(common) else 0
            # A root that all copies have is referred to by each device.
            is_root = root_is_common and level == len(common) - 1
            refers = others + (copies if is_root else copies > 0)
            if refers >= LARGE_COUNT:
                self.large_counts += whole - above


def _levels(entries: int, per_node: int) -> list[int]:
    """Nodes of each level, from the leaves up to the root; one without entries has no leaf."""
    nodes = [-(-entries // per_node)]
    while nodes[-1] > 1:
        nodes.append(-(-nodes[-1] // per_node))
    return nodes


def _whole_levels(entries: int, per_node: int) -> list[int]:
    """Nodes of each level that have nothing but these entries, up to the last that has any."""
    nodes = []
    entries //= per_node
    while entries:
        nodes.append(entries)
        entries //= per_node
    return nodes


def _tree(entries: int, per_leaf: int, per_node: int = PER_NODE) -> int:
    """Nodes of a tree; one without entries is a leaf."""
    leaves = max(1, -(-entries // per_leaf))
    return leaves + sum(_levels(leaves, per_node)) if leaves > 1 else 1
