"""Blocks that are sound and say something wrong: what is made of them must not be invented."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

import thinmeta
from corpus import Corpus
from damages import Tree, mapped
from ondisk import BLOCK, patched, read_u64, seal, u64
from test_repair import in_place, repaired


def root_of(tree: Tree, device_id: int) -> int:
    return tree.device_roots()[device_id][1]


@pytest.mark.parametrize("left", ["older", "zeroed", "another's"])
@pytest.mark.parametrize(
    ("name", "hit", "meant"), [("external-origin", 1, 2), ("deleted", 6, 7), ("deleted", 3, 9)]
)
def test_a_write_to_the_wrong_place_gives_no_device_what_is_anothers(
    corpus: Corpus, tmp_path: Path, name: str, hit: int, meant: int, left: str
) -> None:
    """One root was written over another. In its own place is what was there before."""
    image = corpus[name]
    content = image.meta.read_bytes()
    tree = Tree(content)
    here, there = root_of(tree, hit), root_of(tree, meant)
    block = tree.block(there)
    spoiled = bytearray(content)
    spoiled[here * BLOCK : (here + 1) * BLOCK] = block
    stays = {place for place in mapped(image.model) if place[0] not in (hit, meant)}
    if left == "zeroed":
        before = bytes(BLOCK)
    elif left == "older":
        entries = int.from_bytes(block[16:20], "little")
        before = seal(patched(block, 16, (entries - 1).to_bytes(4, "little")), "btree node")
    else:
        other = next(
            root
            for device_id, (_, root) in tree.device_roots().items()
            if device_id not in (hit, meant) and tree.block(root)[4] == block[4]
        )
        before = seal(patched(tree.block(other), 8, u64(there)), "btree node")
    spoiled[there * BLOCK : (there + 1) * BLOCK] = before
    plan, model = repaired(bytes(spoiled), tmp_path)
    assert not plan.is_whole and not plan.mended
    found = mapped(model)
    assert stays <= found
    invented = {place for place in found - mapped(image.model) if place[0] == hit}
    assert not invented


def test_a_first_key_that_cannot_be_told_is_not_taken_from_the_parent(
    corpus: Corpus, tmp_path: Path
) -> None:
    """A parent's key stays behind when a leaf loses its first ones."""
    image = corpus["discards"]
    content = image.meta.read_bytes()
    tree = Tree(content)
    # A leaf that begins past its parent's key.
    leaf, first = next(
        (leaf, tree.entries(leaf)[1][0][0])
        for _, root in tree.device_roots().values()
        for way, leaf in tree.leaves(root)
        if len(way) > 1
        and all(key != tree.entries(leaf)[1][0][0] for key, _ in tree.entries(way[-2])[1])
    )
    block = patched(tree.block(leaf), 32, u64(first | 1 << 30))
    plan, model = repaired(in_place(content, leaf, block), tmp_path)
    (mended,) = plan.mended
    assert (mended.metadata_block, mended.right) == (leaf, "no mapping")
    assert mapped(model) < mapped(image.model)
    assert len(mapped(model)) == len(mapped(image.model)) - 1
    assert not plan.is_whole


@pytest.mark.parametrize("of_details", [False, True])
def test_an_id_that_a_deleted_device_had_is_not_taken_for_that_of_another(
    corpus: Corpus, tmp_path: Path, of_details: bool
) -> None:
    """More blocks know the deleted one than the one that is there."""
    image = corpus["deleted"]
    assert 12 in image.model.devices and 11 not in image.model.devices
    content = image.meta.read_bytes()
    tree = Tree(content)
    at = tree.details_root if of_details else tree.mapping_root
    block = tree.block(at)
    keys = [key for key, _ in tree.entries(at)[1]]
    block = patched(block, 32 + 8 * keys.index(12), u64(11))
    plan, model = repaired(in_place(content, at, block), tmp_path)
    assert sorted(model.devices) == sorted(image.model.devices)
    assert mapped(model) == mapped(image.model)
    (mended,) = plan.mended
    assert (mended.metadata_block, mended.found, mended.right) == (at, "11", "12")


def test_an_id_that_nothing_else_tells_is_a_guess_and_told(corpus: Corpus, tmp_path: Path) -> None:
    """One of the two trees is wrong; the device is there under one of its ids."""
    image = corpus["crashed"]
    content = image.meta.read_bytes()
    tree = Tree(content)
    block = tree.block(tree.details_root)
    keys = [key for key, _ in tree.entries(tree.details_root)[1]]
    plan, model = repaired(
        in_place(content, tree.details_root, patched(block, 32 + 8 * (len(keys) - 1), u64(13))),
        tmp_path,
    )
    device_ids = {device.device_id for device in plan.devices}
    assert len(device_ids) == len(image.model.devices)
    assert [mended.field for mended in plan.mended] == ["key"]
    told = f"{plan.mended[0].found} {plan.mended[0].right}".replace(",", "")
    assert {str(keys[-1]), "13"} <= set(told.split())
    assert len(mapped(model)) == len(mapped(image.model))


@pytest.mark.parametrize("blocks", [16384 | 1 << 38, 0xB296CB37BE0D4AD8])
def test_data_blocks_that_no_metadata_has_room_for_are_those_in_use(
    corpus: Corpus, tmp_path: Path, blocks: int
) -> None:
    image = corpus["snap-chain"]
    content = image.meta.read_bytes()
    assert read_u64(content, 64) == image.model.nr_data_blocks
    head = seal(patched(content[:BLOCK], 64, u64(blocks)), "thin superblock")
    plan, model = repaired(head + content[BLOCK:], tmp_path)
    assert [(each.field, each.found) for each in plan.mended] == [("data blocks", str(blocks))]
    assert mapped(model) == mapped(image.model)
    last = max(data for _, _, data in mapped(model))
    assert last < model.nr_data_blocks <= image.model.nr_data_blocks


def test_many_devices_that_have_blocks_twice_take_no_more_memory(tmp_path: Path) -> None:
    """What is left out of each is kept once where it is the same."""
    xml, meta = tmp_path / "listing.xml", tmp_path / "meta.img"
    devices, mappings = 1500, 50_000
    with xml.open("w") as out:
        out.write(
            '<superblock uuid="" time="0" transaction="1" flags="0" version="2" '
            'data_block_size="128" nr_data_blocks="100000"><def name="all">'
        )
        for key in range(mappings):
            out.write(f'<single_mapping origin_block="{key}" data_block="{key // 2}" time="0"/>')
        out.write("</def>")
        for device in range(devices):
            out.write(
                f'<device dev_id="{device}" mapped_blocks="{mappings}" transaction="0" '
                'creation_time="0" snap_time="0"><ref name="all"/></device>'
            )
        out.write("</superblock>")
    thinmeta.restore(xml, meta)
    words = [sys.executable, "-m", "thinmeta", "repair", "--plan", str(meta)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert f"{devices} devices" in done.stdout
    assert after <= max(before, 150 * 1024)
