"""What a pool is like, beside a model that counts one block after the other."""

import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import thinmeta
from command import ThinmetaCommand, as_json
from corpus import THIN, Corpus
from counts import PER_BITMAP, Counts
from guides import run_console, unpack_example
from histories import History
from model import PoolModel
from ondisk import BLOCK, Node, read_u64
from thinmeta.statistics import PoolStatistics, RunCount, TreeStatistics

#: `THINMETA_STAT_POOLS=200` for more.
POOLS = int(os.environ.get("THINMETA_STAT_POOLS", "5"))


def in_bins(lengths: Iterable[int]) -> tuple[RunCount, ...]:
    runs: Counter[int] = Counter()
    blocks: Counter[int] = Counter()
    for length in lengths:
        power = length.bit_length() - 1
        runs[power] += 1
        blocks[power] += length
    return tuple(
        RunCount(1 << power, (2 << power) - 1, runs[power], blocks[power]) for power in sorted(runs)
    )


def runs_of(mappings: dict[int, int]) -> tuple[list[int], int]:
    """Lengths of runs, and seeks."""
    lengths: list[int] = []
    seeks = 0
    before = (-2, -2)
    for virtual, data in sorted(mappings.items()):
        goes_on = data == before[1] + 1
        seeks += not goes_on and bool(lengths)
        if lengths and goes_on and virtual == before[0] + 1:
            lengths[-1] += 1
        else:
            lengths.append(1)
        before = virtual, data
    return lengths, seeks


def free_blocks(counts: Counts, space: str) -> Iterator[bool]:
    """Whether each block is free, by the bitmaps."""
    blocks = counts.nr_blocks(space)
    for first in range(0, blocks, PER_BITMAP):
        bitmap = counts.block(counts._bitmap(space, first))
        for entry in range(min(PER_BITMAP, blocks - first)):
            yield not bitmap[16 + entry // 4] >> 2 * (entry % 4) & 3


def stretches(each: Iterable[bool]) -> list[int]:
    lengths: list[int] = []
    inside = False
    for free in each:
        if free and inside:
            lengths[-1] += 1
        elif free:
            lengths.append(1)
        inside = free
    return lengths


class Tree:
    """A tree, or several as one, as its bytes say: what is met again is not counted again."""

    def __init__(self, content: bytes, roots: Iterable[int]) -> None:
        self.levels, self.nodes, self.leaves = 0, set[int](), dict[int, int]()
        self.capacity = 0
        for root in roots:
            self.levels = max(self.levels, self._walk(content, root))

    def _walk(self, content: bytes, at: int) -> int:
        block = content[at * BLOCK : (at + 1) * BLOCK]
        node = Node.of(block)
        self.nodes.add(at)
        if not node.is_internal:
            self.leaves[at] = node.nr_entries
            self.capacity = node.max_entries
            return 1
        children = [read_u64(block, node.value_at(each)) for each in range(node.nr_entries)]
        return 1 + max(self._walk(content, child) for child in children)

    def is_as(self, found: TreeStatistics, *, by_fill: bool = True) -> bool:
        entries = [*self.leaves.values()]
        filled: Counter[int] = Counter()
        for each in entries:
            filled[next(n for n in range(1, 11) if each * 10 <= n * self.capacity)] += 1
        expected = (
            self.levels,
            len(self.nodes),
            len(entries),
            sum(entries),
            self.capacity or found.leaf_capacity,
            min(entries, default=0),
            max(entries, default=0),
            tuple(filled[each] * by_fill for each in range(1, 11)),
        )
        assert tuple(found) == expected
        return True


def assert_as_the_model(
    found: PoolStatistics, model: PoolModel, meta: Path, pool: thinmeta.Pool
) -> None:
    assert found.data_block_size_bytes == model.block_bytes
    owners: Counter[int] = Counter()
    for each in model.devices.values():
        owners.update(data for data, _ in each.mappings.values())
    content, superblock = meta.read_bytes(), pool.superblock
    roots = dict(_leaf_entries(content, superblock.data_mapping_root))
    every: list[int] = []
    assert [device.id for device in found.devices] == [*model.devices]
    for device in found.devices:
        mappings = {at: data for at, (data, _) in model.devices[device.id].mappings.items()}
        lengths, seeks = runs_of(mappings)
        every += lengths
        alone = sum(owners[data] == 1 for data in mappings.values())
        assert device[1:5] == (len(mappings), alone, len(mappings) - alone, seeks)
        assert device.runs == in_bins(lengths)
        assert Tree(content, [roots[device.id]]).is_as(device.tree, by_fill=False)
    assert found.runs == in_bins(every)
    powers = Counter((count - 1).bit_length() for count in owners.values())
    assert [(each.max_owners, each.data_blocks) for each in found.owners] == [
        (1 << power, powers[power]) for power in sorted(powers)
    ]
    assert all(each.min_owners == each.max_owners // 2 + 1 for each in found.owners)
    assert found.data_blocks == len(owners)
    assert Tree(content, roots.values()).is_as(found.mappings)
    assert Tree(content, [superblock.data_mapping_root]).is_as(found.trees["devices"])
    assert Tree(content, [superblock.device_details_root]).is_as(found.trees["details"])
    if found.free_data is None or found.free_metadata is None:
        assert found.free_data is found.free_metadata and len(found.trees) == 2
        return
    data, metadata = superblock.data_space_map_root, superblock.metadata_space_map_root
    assert Tree(content, [data.bitmap_root]).is_as(found.trees["data-index"])
    assert Tree(content, [data.ref_count_root]).is_as(found.trees["data-counts"])
    assert Tree(content, [metadata.ref_count_root]).is_as(found.trees["metadata-counts"])
    counts = Counts(meta)
    for space, free in (("data", found.free_data), ("metadata", found.free_metadata)):
        blocks = counts.nr_blocks(space)
        lengths = stretches(free_blocks(counts, space))
        assert (free.blocks, free.free, free.runs) == (blocks, sum(lengths), in_bins(lengths))


def _leaf_entries(content: bytes, at: int) -> list[tuple[int, int]]:
    block = content[at * BLOCK : (at + 1) * BLOCK]
    node = Node.of(block)
    pairs = [
        (read_u64(block, node.key_at(each)), read_u64(block, node.value_at(each)))
        for each in range(node.nr_entries)
    ]
    if node.is_internal:
        return [pair for _, child in pairs for pair in _leaf_entries(content, child)]
    return pairs


@pytest.mark.parametrize("threads", [1, 4])
def test_random_pools_are_as_a_model_says(tmp_path: Path, threads: int) -> None:
    seen: Counter[str] = Counter()
    for seed in range(threads, 2 * POOLS, 2):
        history = History(tmp_path / "meta.img", seed)
        for _ in range(25):
            history.step()
        found = history.pool.statistics(threads=threads)
        # A reader of the same pool, whose free blocks are those of the last commit.
        history.close()
        with thinmeta.open_pool(history.image) as pool:
            again = pool.statistics()
            assert again == found
            assert_as_the_model(found, history.model, history.image, pool)
            exclusive = pool.exclusive_blocks()
        assert exclusive == {each.id: each[2:4] for each in found.devices}
        seen["several levels"] += found.mappings.levels > 1
        seen["shared"] += len(found.owners) > 1
        seen["nodes shared"] += (
            sum(each.tree.nodes for each in found.devices) > found.mappings.nodes
        )
    assert all(seen[what] for what in ("several levels", "shared", "nodes shared"))


@pytest.mark.parametrize("name", THIN)
def test_pools_of_the_kernel_are_as_a_model_says(corpus: Corpus, name: str) -> None:
    image = corpus[name]
    if image.dump_of("0.9.0") is None:
        pytest.skip("the peer could not dump it, so that there is no model")
    with thinmeta.open_pool(image.meta) as pool:
        assert_as_the_model(pool.statistics(), image.model, image.meta, pool)
    if image.has_held_root:
        with thinmeta.open_pool(image.meta, metadata_snapshot="held") as pool:
            assert_as_the_model(pool.statistics(), image.held_model, image.meta, pool)


def test_a_block_that_many_devices_have_is_counted_for_each(tmp_path: Path) -> None:
    """More than a byte holds, and more than two, through one leaf and through many."""
    with thinmeta.Pool.create(
        tmp_path / "meta.img", data_block_size_sectors=128, data_blocks=1000, metadata_blocks=4000
    ) as pool:
        with pool.transaction() as txn:
            txn.create_thin(0)
            for block in range(500):
                txn.insert(0, virtual_block=block, data_block=block)
            for device_id in range(1, 301):
                txn.create_snapshot(device_id, origin_id=0)
            # All of one device's leaves become its own.
            for block in range(0, 500, 50):
                txn.insert(7, virtual_block=block, data_block=500 + block)
        found = pool.statistics()
    assert [tuple(each) for each in found.owners] == [(1, 1, 10), (257, 512, 500)]
    assert found.devices[7].exclusive_blocks == 10
    assert found.devices[8].shared_blocks == 500
    assert found.mapped_blocks == 301 * 500


def test_a_data_block_that_a_device_has_twice_is_shared(tmp_path: Path) -> None:
    with thinmeta.Pool.create(
        tmp_path / "meta.img", data_block_size_sectors=128, data_blocks=10, metadata_blocks=64
    ) as pool:
        with pool.transaction() as txn:
            txn.create_thin(0)
            txn.insert(0, virtual_block=0, data_block=3)
            txn.insert(0, virtual_block=1, data_block=4)
            txn.insert(0, virtual_block=2, data_block=3)
        found = pool.statistics()
        exclusive = pool.exclusive_blocks()
    assert [tuple(each) for each in found.owners] == [(1, 1, 1), (2, 2, 1)]
    assert found.devices[0][1:5] == (3, 1, 2, 1)
    assert exclusive == {0: (1, 2)}
    assert found.data_blocks == 2


def test_pools_without_anything_have_statistics(tmp_path: Path) -> None:
    with thinmeta.Pool.create(
        tmp_path / "meta.img", data_block_size_sectors=128, data_blocks=20_000, metadata_blocks=64
    ) as pool:
        found = pool.statistics()
        assert (found.devices, found.owners, found.runs) == ((), (), ())
        assert found.mappings.fill == 0.0
        assert found.free_data is not None
        assert found.free_data.runs == (RunCount(16384, 32767, 1, 20_000),)
        with pool.transaction() as txn:
            txn.create_thin(3)
        (device,) = pool.statistics().devices
        assert device[:5] == (3, 0, 0, 0, 0) and device.runs == ()


def test_of_damaged_pools_nothing_is_said(corpus: Corpus, tmp_path: Path) -> None:
    """One bit, anywhere in what is in use; or nonsense that its checksum fits."""
    whole = corpus["snap-chain"].meta.read_bytes()
    draw = random.Random(5)
    path = tmp_path / "meta.img"
    refused = 0
    for _ in range(120):
        content = bytearray(whole)
        for _ in range(draw.choice((1, 1, 5, 50))):
            at = draw.randrange(BLOCK, 80 * BLOCK)
            content[at] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        try:
            with thinmeta.open_pool(path) as pool:
                pool.statistics()
        except thinmeta.DamagedBlockError:
            refused += 1
    assert refused > 20


# ---- the command ----


def test_the_command_prints_tables_and_json(command: ThinmetaCommand, tmp_path: Path) -> None:
    meta = tmp_path / "meta.img"
    with thinmeta.Pool.create(
        meta, data_block_size_sectors=128, data_blocks=100, metadata_blocks=64
    ) as pool:
        with pool.transaction() as txn:
            txn.create_thin(1)
            for block in (0, 1, 2, 3, 10, 11, 20):
                txn.insert(1, virtual_block=block, data_block=90 - block)
            for block in range(30, 36):
                txn.insert(1, virtual_block=block, data_block=block)
        with pool.transaction() as txn:
            txn.create_snapshot(2, origin_id=1)
        with pool.transaction() as txn:
            txn.insert(1, virtual_block=0, data_block=5)
    lines = command("stat", meta).stdout.splitlines()
    assert lines[:5] == [
        "2 devices, 26 blocks (1.6 MiB) mapped in 14 blocks (896 KiB) of data",
        "",
        "DEV   MAPPED  EXCLUSIVE   SHARED  RUNS  SEEKS  LEVELS  NODES  FILL",
        "  1  832 KiB     64 KiB  768 KiB     8      7       1      1  5.2%",
        "  2  832 KiB     64 KiB  768 KiB     8      7       1      1  5.2%",
    ]
    for line in (
        "         1    64 KiB+    14  896 KiB  53.8%",
        "       4-7   256 KiB+     2  768 KiB  46.2%",
        "     1            2  128 KiB  14.3%",
        "     2           12  768 KiB  85.7%",
        "       mappings       1      2       2       26  5.2%     13    13",
        "free data: 86 blocks (5.4 MiB) of 100 blocks (6.2 MiB)",
    ):
        assert line.split() in [each.split() for each in lines], "\n".join(lines)
    found = as_json(command("stat", "--json", meta))
    assert found["mapped_blocks"] == 26 and found["data_bytes"] == 14 * 65536
    assert found["devices"][0]["runs"] == [
        _run(1, 1, 7, 7),
        _run(4, 7, 1, 6),
    ]
    assert found["trees"]["mappings"]["nodes"] == 2
    assert found["free_data"]["free_blocks"] == 86
    assert sum(each["blocks"] for each in found["free_data"]["runs"]) == 86
    assert command("stat", meta, "--what").returncode == 2
    assert command("stat", meta.with_name("none")).returncode == 3


def test_the_guide_shows_what_is_printed(command: ThinmetaCommand, tmp_path: Path) -> None:
    unpack_example(tmp_path)
    page = Path(__file__).parents[2] / "docs" / "stat.md"
    assert run_console(page, command, tmp_path) == 1


def _run(least: int, most: int, runs: int, blocks: int) -> dict[str, Any]:
    return {
        "min_blocks": least,
        "max_blocks": most,
        "runs": runs,
        "blocks": blocks,
        "min_bytes": least * 65536,
        "bytes": blocks * 65536,
    }


def test_of_a_metadata_snapshot_nothing_free_is_told(
    command: ThinmetaCommand, corpus: Corpus
) -> None:
    name = next(name for name in THIN if corpus[name].has_held_root)
    meta = corpus[name].meta
    found = as_json(command("stat", "--json", "-m", meta))
    assert found["free_data"] is None and found["metadata_snapshot"] == "held"
    text = command("stat", "-m", meta).stdout
    assert "free" not in text and "TREE" in text
