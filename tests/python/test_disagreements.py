"""Trees that disagree: every reader says so, and names the same block."""

import shutil
from array import array
from pathlib import Path

import pytest

import thinmeta
from command import ThinmetaCommand
from corpus import Corpus
from ondisk import Node, patched, read_u64, seal, u64

BLOCK = 4096


@pytest.fixture
def meta(corpus: Corpus, tmp_path: Path) -> Path:
    path = tmp_path / "meta.img"
    shutil.copyfile(corpus["random-60k"].meta, path)
    return path


def change_node(meta: Path, at: int, offset: int, value: bytes) -> None:
    """Change a node and make its checksum right again."""
    with meta.open("r+b") as file:
        file.seek(at * BLOCK)
        block = file.read(BLOCK)
        file.seek(at * BLOCK)
        file.write(seal(patched(block, offset, value), "btree node"))


def node_at(meta: Path, at: int) -> tuple[bytes, Node]:
    with meta.open("rb") as file:
        file.seek(at * BLOCK)
        block = file.read(BLOCK)
    return block, Node.of(block)


def first_leaf(meta: Path) -> tuple[int, int, int]:
    """The first leaf of device 0: its block, its first key, and where that key's value is."""
    with thinmeta.open_pool(meta) as pool:
        at = pool.superblock.data_mapping_root
        levels = 2
    for _ in range(16):
        block, node = node_at(meta, at)
        if not node.is_internal:
            levels -= 1
            if levels == 0:
                return at, read_u64(block, node.key_at(0)), node.value_at(0)
        at = read_u64(block, node.value_at(0))
    raise AssertionError("no leaf in sixteen levels")


def test_a_mapping_past_the_data_names_its_leaf_whoever_reads_it(meta: Path) -> None:
    leaf, key, value_at = first_leaf(meta)
    change_node(meta, leaf, value_at, u64((1 << 39) << 24))
    with thinmeta.open_pool(meta) as pool:
        device = pool.devices[0]
        for read in (
            lambda: device.find(key),
            lambda: device.find(key),
            lambda: list(device.runs()),
            lambda: device.find_many(array("Q", [key])),
            pool.exclusive_blocks,
            pool.statistics,
        ):
            with pytest.raises(thinmeta.DamagedBlockError) as caught:
                read()
            assert (caught.value.block, caught.value.check) == (leaf, "data block")


def test_a_device_in_one_tree_only_is_damage_to_every_listing(
    meta: Path, command: ThinmetaCommand
) -> None:
    with thinmeta.open_pool(meta) as pool:
        details = pool.superblock.device_details_root
    _, node = node_at(meta, details)
    change_node(meta, details, node.key_at(0), u64(77))
    with thinmeta.open_pool(meta) as pool, pytest.raises(thinmeta.DamagedBlockError):
        pool.exclusive_blocks()
    with thinmeta.open_pool(meta) as pool, pytest.raises(thinmeta.DamagedBlockError):
        pool.statistics()
    done = command("ls", "-o", "all", meta)
    assert done.returncode == 1
    assert "is damaged" in done.stderr
    codes = {finding.code for finding in thinmeta.check(meta).findings}
    assert {"device-without-mappings", "mappings-without-device"} <= codes
