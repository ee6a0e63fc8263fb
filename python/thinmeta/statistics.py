"""What a pool is like: runs, sharing, how data are strewn, the shapes of trees, what is free.

Metadata blocks have 4096 bytes, data blocks :attr:`PoolStatistics.data_block_size_bytes`.
"""

from __future__ import annotations

from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeAlias

    Bins: TypeAlias = list[tuple[int, int, int]]
    Tree: TypeAlias = tuple[int, int, int, int, int, int, int, list[int]]
    Device: TypeAlias = tuple[int, int, int, int, Bins, Tree]
    Free: TypeAlias = tuple[int, int, Bins]
    Numbers: TypeAlias = tuple[
        list[Device], list[int], Tree, list[tuple[str, Tree]], tuple[Free, Free] | None
    ]

__all__ = [
    "DeviceStatistics",
    "FreeStatistics",
    "OwnerCount",
    "PoolStatistics",
    "RunCount",
    "TreeStatistics",
]


class RunCount(NamedTuple):
    """Runs of about one length.

    Attributes:
        min_blocks: A power of two, the shortest length.
        max_blocks: The longest: the next power of two, less one.
        runs: How many there are.
        blocks: How many blocks they have together.
    """

    min_blocks: int
    max_blocks: int
    runs: int
    blocks: int


class OwnerCount(NamedTuple):
    """Data blocks that about so many mappings have: 1, 2, 3 to 4, 5 to 8 and so on.

    A device that maps a data block more than once counts as often.

    Attributes:
        min_owners: The fewest.
        max_owners: The most.
        data_blocks: How many blocks there are of the kind.
    """

    min_owners: int
    max_owners: int
    data_blocks: int


class TreeStatistics(NamedTuple):
    """The shape of a tree.

    Attributes:
        levels: Levels of nodes; one, if the root is a leaf.
        nodes: Metadata blocks that it takes.
        leaves: Those of them that are leaves.
        entries: Entries in the leaves.
        leaf_capacity: As many would fit in a leaf.
        least_entries: Entries of the emptiest leaf.
        most_entries: Entries of the fullest.
        leaves_by_fill: Leaves by how full they are: up to a tenth, up to two tenths and so on;
            not known (all zero) of the tree of one device.
    """

    levels: int
    nodes: int
    leaves: int
    entries: int
    leaf_capacity: int
    least_entries: int
    most_entries: int
    leaves_by_fill: tuple[int, ...]

    @property
    def fill(self) -> float:
        """How full the leaves are, from 0 to 1."""
        return self.entries / (self.leaves * self.leaf_capacity) if self.leaves else 0.0


class DeviceStatistics(NamedTuple):
    """A device.

    Attributes:
        id: Its number.
        mapped_blocks: Blocks that it maps.
        exclusive_blocks: Those whose data block no other mapping has.
        shared_blocks: The others.
        seeks: How often the data do not go on where they ended, when it is read in order. A
            hole in between is none.
        runs: Runs of blocks that lie side by side in the volume and in the data.
        tree: The tree of its mappings, with the nodes that it shares with others.
    """

    id: int
    mapped_blocks: int
    exclusive_blocks: int
    shared_blocks: int
    seeks: int
    runs: tuple[RunCount, ...]
    tree: TreeStatistics


class FreeStatistics(NamedTuple):
    """What is free in the data or in the metadata.

    Attributes:
        blocks: All blocks.
        free: Free ones, by the space map.
        runs: Runs of them.
    """

    blocks: int
    free: int
    runs: tuple[RunCount, ...]


class PoolStatistics(NamedTuple):
    """A pool.

    Attributes:
        data_block_size_bytes: Size of a data block.
        devices: The devices, by id. What only a metadata snapshot has is not in any number.
        owners: Data blocks by how many mappings have them; with those that have none left out.
        runs: Runs of all devices; those of several devices counted for each.
        mappings: All devices' trees as one; nodes that they share are counted once.
        trees: The others: ``"devices"``, where each device's tree is; ``"details"`` of the
            devices; and of the space maps ``"data-index"``, ``"data-counts"`` and
            ``"metadata-counts"``, of which a metadata snapshot says nothing.
        free_data: What is free of the data; None of a metadata snapshot.
        free_metadata: The same of the metadata.
    """

    data_block_size_bytes: int
    devices: tuple[DeviceStatistics, ...]
    owners: tuple[OwnerCount, ...]
    runs: tuple[RunCount, ...]
    mappings: TreeStatistics
    trees: dict[str, TreeStatistics]
    free_data: FreeStatistics | None
    free_metadata: FreeStatistics | None

    @property
    def mapped_blocks(self) -> int:
        """Blocks that all devices map."""
        return sum(device.mapped_blocks for device in self.devices)

    @property
    def data_blocks(self) -> int:
        """Data blocks that they have for it."""
        return sum(owners.data_blocks for owners in self.owners)

    @classmethod
    def of(cls, numbers: Numbers, data_block_size_bytes: int) -> PoolStatistics:
        """Make one of the native module's numbers."""
        devices, owners, mappings, trees, free = numbers
        return cls(
            data_block_size_bytes,
            tuple(map(_device, devices)),
            tuple(
                OwnerCount(1 + (1 << power >> 1), 1 << power, blocks)
                for power, blocks in enumerate(owners)
                if blocks
            ),
            _sum(runs for *_, runs, _ in devices),
            _tree(mappings),
            {name: _tree(tree) for name, tree in trees},
            None if free is None else _free(free[0]),
            None if free is None else _free(free[1]),
        )


def _device(device: Device) -> DeviceStatistics:
    number, mapped, exclusive, seeks, runs, tree = device
    return DeviceStatistics(
        number, mapped, exclusive, mapped - exclusive, seeks, _runs(runs), _tree(tree)
    )


def _tree(tree: Tree) -> TreeStatistics:
    return TreeStatistics(*tree[:7], tuple(tree[7]))


def _free(free: Free) -> FreeStatistics:
    blocks, number, runs = free
    return FreeStatistics(blocks, number, _runs(runs))


def _runs(bins: Iterable[tuple[int, int, int]]) -> tuple[RunCount, ...]:
    return tuple(RunCount(least, 2 * least - 1, runs, blocks) for least, runs, blocks in bins)


def _sum(each: Iterable[Bins]) -> tuple[RunCount, ...]:
    total: dict[int, tuple[int, int]] = {}
    for bins in each:
        for least, runs, blocks in bins:
            before = total.get(least, (0, 0))
            total[least] = before[0] + runs, before[1] + blocks
    return _runs((least, *total[least]) for least in sorted(total))
