"""Damaged pools, repaired: beside both generations of thin_repair, and what is provable."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import thinmeta
from corpus import Corpus, write_sparse
from damages import Mapped, Tree, damage, mapped, resealed
from dropins import DropIns
from histories import History
from model import PoolModel
from ondisk import BLOCK, Node, kind_of, patched, read_u64, seal, u64
from oracles import NewerTools, ThinTools, newer_tools
from thinmeta.cli import main

#: Random damages; `make repair` has 2000.
DAMAGES = int(os.environ.get("THINMETA_REPAIR_DAMAGES", "10"))
SEED = int(os.environ.get("THINMETA_REPAIR_SEED", "1"))

#: Small enough to be walked by plain code again and again.
IMAGES = (
    "block-192k",
    "crashed",
    "deleted",
    "discards",
    "kernel-6.12",
    "metadata-snap",
    "restored-0.9.0",
    "snaps-300",
    "sparse-keys",
)

#: Where block 0 has the metadata map's index, and the data map's.
DATA_INDEX, METADATA_INDEX = 64 + 16, 192 + 16


def model_of(image: Path) -> PoolModel:
    out = image.with_suffix(".model.xml")
    thinmeta.dump(image, out)
    return PoolModel.from_xml(out.read_bytes())


def repaired(damaged: bytes, folder: Path, **options: Any) -> tuple[thinmeta.RepairPlan, PoolModel]:
    """Repair it; the plan has to be what came of it, and the input stay as it was."""
    meta, out = folder / "damaged.img", folder / "repaired.img"
    write_sparse(meta, damaged)
    out.unlink(missing_ok=True)
    foretold = thinmeta.plan_repair(meta, **options)
    plan, made = thinmeta.repair(meta, out, **options)
    assert plan == foretold
    assert meta.read_bytes() == damaged
    assert thinmeta.check(out).findings == ()
    model = model_of(out)
    assert made.devices == len(plan.devices) == len(model.devices)
    for device in plan.devices:
        after = model.devices[device.device_id]
        assert len(after.mappings) == device.kept_blocks == after.mapped_blocks
        assert (after.transaction_id, after.creation_time, after.snapshotted_time) == (
            device.transaction_id,
            device.creation_time,
            device.snapshotted_time,
        )
        assert not set(plan.lost_devices) & {device.device_id}
    assert made.mapped_blocks == sum(device.kept_blocks for device in plan.devices)
    return plan, model


def spoil(content: bytes, *blocks: int) -> bytes:
    spoiled = bytearray(content)
    for block in blocks:
        spoiled[block * BLOCK + 100] ^= 0x55
    return bytes(spoiled)


# ---- one structure at a time ----


@pytest.mark.parametrize("name", IMAGES)
def test_a_sound_pool_is_kept_whole(corpus: Corpus, tmp_path: Path, name: str) -> None:
    image = corpus[name]
    plan, model = repaired(image.meta.read_bytes(), tmp_path)
    assert model.devices == image.model.devices
    assert plan.is_whole
    assert not plan.scanned
    assert (model.time, model.transaction_id) == (image.model.time, image.model.transaction_id)


@pytest.mark.parametrize("index", [DATA_INDEX, METADATA_INDEX, DATA_INDEX + 8, METADATA_INDEX + 8])
def test_space_maps_can_be_lost(corpus: Corpus, tmp_path: Path, index: int) -> None:
    """Index block, index tree and both trees of large counts."""
    image = corpus["kernel-6.12"]
    content = image.meta.read_bytes()
    plan, model = repaired(spoil(content, read_u64(content, index)), tmp_path)
    assert model.devices == image.model.devices
    assert plan.is_whole


@pytest.mark.parametrize("name", ["kernel-6.12", "restored-0.9.0", "snaps-300", "random-60k"])
def test_the_root_of_the_mappings_can_be_lost(corpus: Corpus, tmp_path: Path, name: str) -> None:
    image = corpus[name]
    content = image.meta.read_bytes()
    plan, model = repaired(spoil(content, Tree(content).mapping_root), tmp_path)
    assert mapped(model) == mapped(image.model)
    assert plan.scanned
    assert not plan.lost_devices
    # Where several devices have as many mappings, older nodes tell them apart.
    assert plan.is_whole == (name != "kernel-6.12")


@pytest.mark.parametrize("name", ["kernel-6.12", "restored-0.9.0", "snaps-300"])
def test_the_root_of_the_details_can_be_lost(corpus: Corpus, tmp_path: Path, name: str) -> None:
    image = corpus[name]
    content = image.meta.read_bytes()
    plan, model = repaired(spoil(content, Tree(content).details_root), tmp_path)
    assert mapped(model) == mapped(image.model)
    assert {device.recorded_blocks for device in plan.devices} == {None}
    # What is mapped looks shared: the kernel copies that before it writes.
    assert {device.snapshotted_time for device in plan.devices} == {image.model.time}


def test_a_leaf_of_the_details_can_be_lost(corpus: Corpus, tmp_path: Path) -> None:
    image = corpus["snaps-300"]
    content = image.meta.read_bytes()
    leaves = [leaf for _, leaf in Tree(content).leaves(Tree(content).details_root)]
    assert len(leaves) > 1
    plan, model = repaired(spoil(content, leaves[1]), tmp_path)
    assert mapped(model) == mapped(image.model)
    rebuilt = [device for device in plan.devices if device.recorded_blocks is None]
    assert 0 < len(rebuilt) < len(plan.devices)


def test_a_leaf_of_the_top_level_can_be_lost(corpus: Corpus, tmp_path: Path) -> None:
    image = corpus["snaps-300"]
    content = image.meta.read_bytes()
    tree = Tree(content)
    leaves = [leaf for _, leaf in tree.leaves(tree.mapping_root)]
    assert len(leaves) > 1
    with_it = {key for key, _ in tree.entries(leaves[1])[1]}
    plan, model = repaired(spoil(content, leaves[1]), tmp_path)
    # All of them have 300 mappings, so that only older leaves tell, and the plan says so.
    older = {device.device_id for device in plan.devices if device.source == "older"}
    assert older <= with_it
    assert {each for each in mapped(model) if each[0] not in older} <= mapped(image.model)
    # Most of what that leaf led to comes back, and as it was.
    assert len(with_it - set(plan.lost_devices)) > len(with_it) // 2
    back = {each for each in mapped(image.model) if each[0] in with_it} & mapped(model)
    assert back
    assert set(plan.lost_devices) <= with_it
    kept = {device.device_id for device in plan.devices}
    assert kept | set(plan.lost_devices) == set(image.model.devices)


def test_a_leaf_of_a_device_is_lost_with_what_it_held_and_nothing_else(
    corpus: Corpus, tmp_path: Path
) -> None:
    image = corpus["random-60k"]
    content = image.meta.read_bytes()
    tree = Tree(content)
    (_, root) = tree.device_roots()[0]
    leaf = [leaf for _, leaf in tree.leaves(root)][20]
    gone = {key for key, _ in tree.entries(leaf)[1]}
    # Without what is left of earlier times, which some of the leaf may be filled from.
    used = {at for path, _ in tree.leaves(root) for at in path} | {0, tree.mapping_root}
    used |= {at for path, _ in tree.leaves(tree.details_root) for at in path}
    used |= {read_u64(content, index) for index in (DATA_INDEX, METADATA_INDEX)}
    bare = bytearray(spoil(content, leaf))
    for at in range(len(bare) // BLOCK):
        if at not in used and kind_of(tree.block(at)) == "btree node":
            bare[at * BLOCK : (at + 1) * BLOCK] = bytes(BLOCK)
    plan, model = repaired(bytes(bare), tmp_path)
    everything = image.model.devices[0].mappings
    assert model.devices[0].mappings == {
        key: value for key, value in everything.items() if key not in gone
    }
    (device,) = plan.devices
    assert (device.lost_blocks, device.lost_ranges_total) == (len(gone), 1)
    (lost,) = device.lost_ranges
    assert lost.metadata_block == leaf
    assert lost.begin_block == min(gone)
    assert lost.end_block is not None
    assert lost.end_block > max(gone)

    plan, model = repaired(spoil(content, leaf), tmp_path)
    (device,) = plan.devices
    # Some of it was as it is now; nothing is made up.
    assert device.older_blocks > 100
    assert device.lost_blocks == len(gone) - device.older_blocks
    assert model.devices[0].mappings.items() <= everything.items()
    assert not plan.is_whole


@pytest.mark.parametrize("name", ["random-60k", "snaps-300"])
def test_a_root_or_inner_node_of_a_device_is_made_up_for(
    corpus: Corpus, tmp_path: Path, name: str
) -> None:
    """Its children are those that nobody else accounts for."""
    image = corpus[name]
    content = image.meta.read_bytes()
    tree = Tree(content)
    (_, root) = tree.device_roots()[0]
    inner = {at for path, _ in tree.leaves(root) for at in path[:-1]}
    for block in inner:
        plan, model = repaired(spoil(content, block), tmp_path)
        assert mapped(model) == mapped(image.model)
        assert plan.is_whole
        assert sum(device.found_blocks for device in plan.devices) > 0


def test_the_superblock_can_be_lost(corpus: Corpus, tmp_path: Path) -> None:
    image = corpus["random-60k"]
    content = spoil(image.meta.read_bytes(), 0)
    meta = tmp_path / "damaged.img"
    meta.write_bytes(content)
    with pytest.raises(thinmeta.UnsoundPoolError, match="--data-block-size"):
        thinmeta.plan_repair(meta)
    plan, model = repaired(content, tmp_path, data_block_size_sectors=128)
    assert mapped(model) == mapped(image.model)
    assert plan.superblock_source == "options"
    best = plan.candidates[0]
    tree = Tree(content)
    assert (best.mapping_root, best.details_root) == (tree.mapping_root, tree.details_root)
    assert model.nr_data_blocks == 1 + max(data for _, _, data in mapped(model))
    _, model = repaired(
        content, tmp_path, data_block_size_sectors=128, data_blocks=99_999, transaction_id=77
    )
    assert (model.nr_data_blocks, model.transaction_id) == (99_999, 77)


def test_a_copy_of_the_superblock_is_taken(corpus: Corpus, tmp_path: Path) -> None:
    image = corpus["metadata-snap"]
    content = image.meta.read_bytes()
    plan, model = repaired(spoil(content, 0), tmp_path)
    assert plan.superblock_source == "copy"
    assert plan.superblock_copy == read_u64(content, 56)
    assert plan.data_block_size_sectors == image.model.data_block_size_sectors
    # The last state, not the one that the snapshot shows.
    assert mapped(model) == mapped(image.model)
    assert model.devices.keys() == image.model.devices.keys()


def test_mappings_that_cannot_be_are_left_out(corpus: Corpus, tmp_path: Path) -> None:
    image = corpus["random-60k"]
    content = bytearray(image.meta.read_bytes())
    # Fewer data blocks than there are: what lies past them.
    meta = tmp_path / "whole.img"
    meta.write_bytes(content)
    everything = mapped(image.model)
    middle = sorted(data for _, _, data in everything)[len(everything) // 2]
    plan, model = repaired(bytes(content), tmp_path, data_blocks=middle)
    assert mapped(model) == {each for each in everything if each[2] < middle}
    assert plan.devices[0].impossible_blocks == len(everything) - len(mapped(model))
    assert not plan.is_whole


# ---- fields that are wrong under a right checksum ----


@pytest.mark.parametrize(("offset", "field"), [(36, "magic"), (8, "location")])
def test_a_superblock_with_a_wrong_magic_or_location_is_taken_as_it_has_to_be(
    corpus: Corpus, tmp_path: Path, offset: int, field: str
) -> None:
    image = corpus["kernel-6.12"]
    content = image.meta.read_bytes()
    block = bytearray(content[:BLOCK])
    block[offset] ^= 4
    damaged = seal(bytes(block), "thin superblock") + content[BLOCK:]
    plan, model = repaired(damaged, tmp_path)
    assert model.devices == image.model.devices
    assert plan.superblock_source == "superblock"
    assert [(each.metadata_block, each.field) for each in plan.mended] == [(0, field)]


def test_a_metadata_snapshots_block_in_the_place_of_block_0_is_not_taken_for_it(
    corpus: Corpus, tmp_path: Path
) -> None:
    image = corpus["metadata-snap"]
    content = image.meta.read_bytes()
    held = Tree(content).block(read_u64(content, 56))
    plan, model = repaired(held + content[BLOCK:], tmp_path)
    assert plan.superblock_source == "copy"
    assert mapped(model) == mapped(image.model)


def in_place(content: bytes, at: int, block: bytes) -> bytes:
    """The image with this block, sealed as a node."""
    return content[: at * BLOCK] + seal(block, "btree node") + content[(at + 1) * BLOCK :]


@pytest.mark.parametrize("by", [-8, 8])
def test_a_key_that_its_child_tells_otherwise_costs_nothing(
    corpus: Corpus, tmp_path: Path, by: int
) -> None:
    image = corpus["random-60k"]
    content = image.meta.read_bytes()
    tree = Tree(content)
    path, _ = next(iter(tree.leaves(tree.device_roots()[0][1])))
    at = path[-2]
    block = tree.block(at)
    key = read_u64(block, 32 + 8 * 5)
    plan, model = repaired(in_place(content, at, patched(block, 72, u64(key + by))), tmp_path)
    assert mapped(model) == mapped(image.model)
    assert plan.is_whole
    (mended,) = plan.mended
    assert (mended.metadata_block, mended.field, mended.right) == (at, "key", str(key))


@pytest.mark.parametrize(
    ("field", "offset", "value"),
    [("location", 8, 1 << 40), ("location", 8, 5), ("flags", 4, 3), ("value size", 24, 9)],
)
def test_a_field_of_a_leaf_that_can_be_only_one_thing_costs_nothing(
    corpus: Corpus, tmp_path: Path, field: str, offset: int, value: int
) -> None:
    image = corpus["random-60k"]
    content = image.meta.read_bytes()
    tree = Tree(content)
    leaf = [leaf for _, leaf in tree.leaves(tree.device_roots()[0][1])][20]
    size = 8 if field == "location" else 4
    block = patched(tree.block(leaf), offset, value.to_bytes(size, "little"))
    plan, model = repaired(in_place(content, leaf, block), tmp_path)
    assert mapped(model) == mapped(image.model)
    assert [(each.metadata_block, each.field) for each in plan.mended] == [(leaf, field)]


def test_leaves_that_changed_places_are_not_taken_for_each_other(
    corpus: Corpus, tmp_path: Path
) -> None:
    """The location is right there: whoever wrote them wrote them elsewhere."""
    image = corpus["random-60k"]
    content = image.meta.read_bytes()
    tree = Tree(content)
    one, other = [leaf for _, leaf in tree.leaves(tree.device_roots()[0][1])][3:5]
    spoiled = bytearray(content)
    spoiled[one * BLOCK : (one + 1) * BLOCK] = tree.block(other)
    spoiled[other * BLOCK : (other + 1) * BLOCK] = tree.block(one)
    plan, model = repaired(bytes(spoiled), tmp_path)
    assert mapped(model) <= mapped(image.model)
    assert not plan.mended


def test_a_leaf_in_the_place_of_a_root_is_not_taken_for_it(corpus: Corpus, tmp_path: Path) -> None:
    """Three blocks changed places in turn, so that no two have each other's."""
    image = corpus["random-60k"]
    content = image.meta.read_bytes()
    tree = Tree(content)
    root = tree.device_roots()[0][1]
    one, other = [leaf for _, leaf in tree.leaves(root)][3:5]
    moved = {key for leaf in (one, other) for key, _ in tree.entries(leaf)[1]}
    spoiled = bytearray(content)
    for at, was in ((root, one), (one, other), (other, root)):
        spoiled[at * BLOCK : (at + 1) * BLOCK] = tree.block(was)
    plan, model = repaired(bytes(spoiled), tmp_path)
    assert not plan.mended
    kept = {place for place in mapped(image.model) if place[1] not in moved}
    assert kept <= mapped(model) <= mapped(image.model)


def test_a_data_block_that_two_places_of_a_device_claim_stays_with_one(
    corpus: Corpus, thin_tools: ThinTools, tmp_path: Path
) -> None:
    """The one of the later time, or the first."""
    image = corpus["random-60k"]
    content = image.meta.read_bytes()
    tree = Tree(content)
    leaves = [leaf for _, leaf in tree.leaves(tree.device_roots()[0][1])]
    first, then = leaves[2], leaves[9]
    times = image.model.devices[0].mappings
    keys = [tree.entries(first)[1][7], tree.entries(then)[1][11]]
    block = tree.block(then)
    spoiled = in_place(content, then, patched(block, Node.of(block).value_at(11), keys[0][1]))
    plan, model = repaired(spoiled, tmp_path)
    (device,) = plan.devices
    assert (device.doubled_blocks, device.kept_blocks) == (1, len(times) - 1)
    assert not plan.is_whole
    assert keys[0][0] in model.devices[0].mappings
    assert keys[1][0] not in model.devices[0].mappings
    newer = newer_tools()
    if newer is not None:
        assert newer.run("thin_check", "-q", tmp_path / "repaired.img").returncode == 0


def test_a_plan_fails_where_the_repair_does(
    corpus: Corpus, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Block 0 is lost, and so is every tree, but a node of a space map."""
    content = bytearray(corpus["random-60k"].meta.read_bytes())
    content[100] ^= 1
    for at in range(1, len(content) // BLOCK):
        block = bytes(content[at * BLOCK : (at + 1) * BLOCK])
        if kind_of(block) == "btree node" and Node.of(block).value_size != 16:
            content[at * BLOCK : (at + 1) * BLOCK] = bytes(BLOCK)
    meta, out = tmp_path / "meta.img", tmp_path / "out.img"
    meta.write_bytes(content)
    words = [str(meta), "--data-block-size", "128"]
    assert main(["repair", "--plan", *words]) == 1
    planned = capfd.readouterr().err
    assert "no device was found" in planned
    assert main(["repair", "-o", str(out), *words]) == 1
    assert capfd.readouterr().err == planned
    assert not out.exists()


# ---- random damage ----


class Judge:
    """Repairs by us and by both peers, held against each other and against the truth."""

    def __init__(self, folder: Path, older: ThinTools, newer: NewerTools | None) -> None:
        self.folder, self.older, self.newer = folder, older, newer
        self.meta, self.theirs = folder / "damaged.img", folder / "theirs.img"

    def peers(self, options: list[str]) -> dict[str, set[Mapped]]:
        """What each peer that succeeds has recovered."""
        found = {}
        size = self.meta.stat().st_size
        for name, tools in (("0.9.0", self.older), ("1.x", self.newer)):
            if tools is None:
                continue
            self.theirs.unlink(missing_ok=True)
            with self.theirs.open("wb") as file:
                file.truncate(size)
            words = ["-i", str(self.meta), "-o", str(self.theirs), *options]
            if tools.run("thin_repair", *words).returncode != 0:
                continue
            try:
                found[name] = mapped(model_of(self.theirs))
            except (thinmeta.ThinmetaError, OSError):
                continue  # it says that it succeeded, and left nothing that can be read
        return found

    def __call__(self, content: bytes, truth: PoolModel, damaged: bytes, what: str) -> None:
        write_sparse(self.meta, damaged)
        words = ["--data-block-size", str(truth.data_block_size_sectors)]
        theirs = self.peers([])
        with_size = self.peers(words) if not theirs else {}
        options: dict[str, Any] = {}
        if not theirs:
            options = {"data_block_size_sectors": truth.data_block_size_sectors}
        failed: Exception | None = None
        try:
            _, model = repaired(damaged, self.folder, **options)
        except (thinmeta.ThinmetaError, OSError) as error:
            failed = error
        if failed is not None:
            assert not theirs, (what, failed)
            assert not with_size, (what, failed)
            return
        ours, everything = mapped(model), mapped(truth)
        assert Tree(content).provable(damaged) <= ours, what
        # Who goes back to an earlier time for another reason may be lucky.
        everything -= Tree(content).untold(damaged)
        for name, found in (theirs | with_size).items():
            # Mappings that never were, or were long ago, are no merit.
            assert len(found & everything) <= len(ours & everything), (what, name)
        assert self.older.check(self.folder / "repaired.img") == 0, what
        if self.newer is not None:
            checked = self.newer.run("thin_check", "-q", self.folder / "repaired.img")
            assert checked.returncode == 0, what


def a_case(
    corpus: Corpus, folder: Path, seed: int, *, seals: bool = False
) -> tuple[bytes, PoolModel, bytes, str]:
    """What was there, all of it that counts, what is left of it, and how that came."""
    draw = random.Random(f"reseal {seed}" if seals else f"repair {seed}")
    older: list[bytes] = []
    if seed % 2:
        image = corpus[draw.choice(IMAGES)]
        content, truth = image.meta.read_bytes(), image.model
    else:
        path = folder / "history.img"
        history = History(path, seed, metadata_blocks=600)
        for _ in range(10):
            history.step()
            older.append(path.read_bytes())
        history.close()
        content, truth = path.read_bytes(), model_of(path)
    damaged, what = resealed(draw, content) if seals else damage(draw, content, older)
    return content, truth, damaged, f"seed {seed}: {what}"


@pytest.mark.parametrize("seed", range(SEED * 1_000_000, SEED * 1_000_000 + DAMAGES))
def test_random_damage(corpus: Corpus, thin_tools: ThinTools, tmp_path: Path, seed: int) -> None:
    judge = Judge(tmp_path, thin_tools, newer_tools())
    judge(*a_case(corpus, tmp_path, seed))


@pytest.mark.parametrize("seed", range(SEED * 1_000_000, SEED * 1_000_000 + DAMAGES))
def test_random_damage_under_right_checksums(
    corpus: Corpus, thin_tools: ThinTools, tmp_path: Path, seed: int
) -> None:
    judge = Judge(tmp_path, thin_tools, newer_tools())
    judge(*a_case(corpus, tmp_path, seed, seals=True))


@pytest.mark.parametrize(
    "seed",
    [
        # A key out of order in a leaf, which only one number fits.
        4_000_001_000_043,
        # The id of a device's details, and that of its root, which cannot be.
        4_000_001_000_222,
        4_000_501_000_045,
        # A root under another id, in the wrong place.
        4_000_001_000_405,
        # A leaf of another capacity, whose values are not where they seem to be.
        4_001_501_000_064,
        # An id out of order, and a leaf that says that it is its parent.
        4_001_501_000_327,
        # The leaf with the devices' roots, which says that it leads to others.
        5_001_001_000_001,
        # One device with two ids: that which other blocks know as well.
        1_001_537,
        1_001_103,
        # A root that cannot be read as its id is out of order, and a key below it.
        4_001_501_000_239,
        # A root that says that it is where another one is, which is right.
        1_001_430,
    ],
)
def test_what_one_wrong_field_hides_is_not_lost(corpus: Corpus, tmp_path: Path, seed: int) -> None:
    _, truth, damaged, _ = a_case(corpus, tmp_path, seed, seals=True)
    plan, model = repaired(damaged, tmp_path)
    assert plan.mended
    assert mapped(model) == mapped(truth)


def test_a_root_that_says_that_it_is_a_leaf_is_none(corpus: Corpus, tmp_path: Path) -> None:
    content = corpus["random-60k"].meta.read_bytes()
    root = Tree(content).device_roots()[0][1]
    block = bytearray(Tree(content).block(root))
    assert block[4] == 1
    block[4] = 2
    plan, model = repaired(in_place(content, root, bytes(block)), tmp_path)
    assert [(each.field, each.metadata_block) for each in plan.mended] == [("flags", root)]
    assert plan.is_whole and model.devices == corpus["random-60k"].model.devices


def test_a_mapping_whose_key_cannot_be_told_is_lost_and_no_other(
    corpus: Corpus, tmp_path: Path
) -> None:
    image = corpus["random-60k"]
    content = image.meta.read_bytes()
    tree = Tree(content)
    _, leaf = list(tree.leaves(tree.device_roots()[0][1]))[4]
    keys = [key for key, _ in tree.entries(leaf)[1]]
    # The last one: what comes after it is another leaf's.
    block = patched(tree.block(leaf), 32 + 8 * (len(keys) - 1), bytes(8))
    plan, model = repaired(in_place(content, leaf, block), tmp_path)
    (mended,) = plan.mended
    assert (mended.metadata_block, mended.field) == (leaf, "key")
    assert (mended.found, mended.right) == ("0", "no mapping")
    assert mapped(image.model) - mapped(model) == {
        place for place in mapped(image.model) if place[1] == keys[-1]
    }
    (device,) = plan.devices
    assert device.lost_blocks == 1 and not plan.is_whole


def test_noise_is_no_pool(tmp_path: Path) -> None:
    meta, out = tmp_path / "noise", tmp_path / "out"
    for content, error in (
        (random.Random(1).randbytes(64 * BLOCK), thinmeta.ThinmetaError),
        (bytes(64 * BLOCK), thinmeta.NotFormattedError),
        (b"", thinmeta.UnsupportedFormatError),
        (b"<superblock" * 4096, thinmeta.UnsupportedFormatError),
    ):
        meta.write_bytes(content)
        with pytest.raises(error):
            thinmeta.repair(meta, out)
        assert not out.exists()


# ---- commands, outputs ----


def test_the_input_is_no_output_and_what_is_in_use_is_refused(
    corpus: Corpus, tmp_path: Path
) -> None:
    meta, out = tmp_path / "meta.img", tmp_path / "out.img"
    meta.write_bytes(corpus["deleted"].meta.read_bytes())
    with pytest.raises(thinmeta.UsageError, match="is the input"):
        thinmeta.repair(meta, meta)
    out.write_bytes(b"x" * 4 * BLOCK)
    with pytest.raises(thinmeta.NoSpaceError):
        thinmeta.repair(meta, out)
    assert out.read_bytes() == b"x" * 4 * BLOCK
    with thinmeta.open_pool(meta, mode="r+"), pytest.raises(thinmeta.DeviceInUseError):
        thinmeta.plan_repair(meta)


def test_the_command_says_what_is_lost_before_and_after(
    corpus: Corpus, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    image = corpus["random-60k"]
    content = image.meta.read_bytes()
    tree = Tree(content)
    leaf = [leaf for _, leaf in tree.leaves(tree.device_roots()[0][1])][3]
    lost = len(tree.entries(leaf)[1])
    meta, out = tmp_path / "meta.img", tmp_path / "out.img"
    meta.write_bytes(spoil(content, leaf))
    assert main(["repair", "--plan", str(meta)]) == 0
    text = capfd.readouterr().out
    assert f"(metadata block {leaf})" in text
    assert "1 device" in text
    assert "something is lost" in text
    assert "a check finds: node-damaged (1)" in text
    assert main(["repair", "--plan", "--json", str(meta)]) == 0
    plan = json.loads(capfd.readouterr().out)
    assert (plan["is_whole"], plan["made"]) == (False, None)
    (device,) = plan["devices"]
    older = device["older_bytes"] // 65536
    assert device["lost_bytes"] == (lost - older) * 65536
    assert plan["findings"]["node-damaged"] == 1
    assert main(["repair", str(meta), "-o", str(out), "--json"]) == 0
    done = json.loads(capfd.readouterr().out)
    assert done["devices"] == plan["devices"]
    assert done["made"]["mapped_blocks"] == 60000 - lost + older
    for words in ([str(meta)], ["--plan", "-o", "x", str(meta)], ["-o", "x"], ["--plan"]):
        assert main(["repair", *words]) == 2


def test_the_drop_in_fails_where_the_newer_peer_does(
    corpus: Corpus, drop_in: DropIns, tmp_path: Path
) -> None:
    meta, out = tmp_path / "meta.img", tmp_path / "out.img"
    meta.write_bytes(corpus["deleted"].meta.read_bytes())
    assert drop_in("thin_repair -i", meta, "-o", out).status == 1  # no such output
    out.write_bytes(bytes(4 << 20))
    assert drop_in("thin_repair -i", meta).status == 1
    assert drop_in("thin_repair --input", meta, "--output", out) == (0, b"", "")
    assert model_of(out) == corpus["deleted"].model
    assert drop_in("thin_repair --transaction-id 9 -i", meta, "-o", out).status == 0
    assert model_of(out).transaction_id == 9
    assert drop_in("thin_repair -V").out == b"1.1.0\n"


def test_dumps_repair_on_the_way(
    corpus: Corpus, drop_in: DropIns, tmp_path: Path, thin_tools: ThinTools
) -> None:
    image = corpus["random-60k"]
    content = image.meta.read_bytes()
    tree = Tree(content)
    leaf = [leaf for _, leaf in tree.leaves(tree.device_roots()[0][1])][3]
    meta, out = tmp_path / "meta.img", tmp_path / "out.xml"
    meta.write_bytes(spoil(content, leaf, tree.mapping_root))
    assert drop_in("dump", meta).status == 1
    assert drop_in("thin_dump", meta).status == 1
    ran = drop_in("dump --repair", meta)
    assert ran.status == 0
    assert "something is lost" in ran.err
    expected = mapped(image.model) - {
        (0, key, int.from_bytes(value, "little") >> 24) for key, value in tree.entries(leaf)[1]
    }
    found = mapped(PoolModel.from_xml(ran.out))
    assert expected <= found <= mapped(image.model)
    ran = drop_in("thin_dump --repair -o", out, meta)
    assert (ran.status, ran.out) == (0, b"")
    assert mapped(PoolModel.from_xml(out.read_bytes())) == found
    # Sound ones are told as without the option, to the byte.
    for name in ("deleted", "kernel-6.12"):
        sound = corpus[name].meta
        assert drop_in("thin_dump -r", sound).out == drop_in("thin_dump", sound).out
        assert drop_in("dump --repair", sound).out == drop_in("dump", sound).out
        assert drop_in("thin_dump -r -m", sound).status == 1
        assert drop_in("dump --repair -m", sound).status == 2


def test_whoever_is_killed_leaves_input_and_output_as_they_were(
    corpus: Corpus, tmp_path: Path
) -> None:
    meta, out = tmp_path / "meta.img", tmp_path / "out.img"
    content = spoil(corpus["random-60k"].meta.read_bytes(), 0)
    meta.write_bytes(content)
    before = b"old" * 100_000
    out.write_bytes(before)
    words = [sys.executable, "-m", "thinmeta", "repair", str(meta), "-o", str(out)]
    words += ["--data-block-size", "128"]
    draw = random.Random(3)
    killed = 0
    for _ in range(12):
        with subprocess.Popen(
            words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            time.sleep(draw.uniform(0.01, 0.15))
            process.send_signal(draw.choice((signal.SIGKILL, signal.SIGTERM)))
            killed += process.wait() != 0
        assert meta.read_bytes() == content
        if out.read_bytes() != before:
            assert thinmeta.check(out).is_clean
            out.write_bytes(before)
    assert killed > 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["meta.img", "out.img"]


def test_a_pointer_out_of_range_costs_its_child(corpus: Corpus, tmp_path: Path) -> None:
    image = corpus["random-60k"]
    content = bytearray(image.meta.read_bytes())
    tree = Tree(bytes(content))
    path, _ = next(iter(tree.leaves(tree.device_roots()[0][1])))
    at = path[-2]
    block = tree.block(at)
    wrong = seal(patched(block, Node.of(block).value_at(1), u64(1 << 60)), "btree node")
    content[at * BLOCK : (at + 1) * BLOCK] = wrong
    plan, model = repaired(bytes(content), tmp_path)
    assert 59_000 < len(mapped(model)) < 60_000
    assert plan.devices[0].lost_ranges[0].metadata_block == 0
