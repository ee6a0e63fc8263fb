"""Drop-ins beside the peers themselves: random pools, random sizes, and damaged pools."""

import os
import random
from pathlib import Path
from xml.etree import ElementTree

import pytest

from corpus import Corpus
from dropins import DropIns
from histories import History
from model import PoolModel
from ondisk import BLOCK, kind_of, seal
from oracles import NewerTools, ThinTools, newer_tools

#: Random pools and, of each image, damages; a long run has 500 pools.
POOLS = int(os.environ.get("THINMETA_DROPIN_POOLS", "4"))
SEED = int(os.environ.get("THINMETA_DROPIN_SEED", "0"))
DAMAGES = max(POOLS // 8, 3)
IMAGES = ["deleted", "discards", "metadata-snap", "pair-zeroing-2", "restored-0.9.0", "snap-chain"]


@pytest.fixture(scope="module")
def newer() -> NewerTools:
    tools = newer_tools()
    if tools is None:
        pytest.skip("1.x is not at hand: make peers")
    return tools


def same_output(name: str, ours: bytes, theirs: bytes) -> bool:
    """The same bytes; of a dump in which devices share nodes, the same pool."""
    if ours == theirs or name != "thin_dump" or b"<ref" not in theirs:
        return ours == theirs
    return PoolModel.from_xml(ours) == PoolModel.from_xml(theirs)


@pytest.mark.parametrize("seed", range(SEED, SEED + POOLS))
def test_random_pools_are_told_alike(
    drop_in: DropIns, newer: NewerTools, thin_tools: ThinTools, tmp_path: Path, seed: int
) -> None:
    image = tmp_path / "meta.img"
    history = History(image, seed)
    for _ in range(12):
        history.step()
    history.close()
    ids = [str(device) for device in PoolModel.from_xml(newer.dump(image)).devices]
    lines = ["thin_ls", "thin_ls --no-headers -o DEV,EXCLUSIVE,SHARED_BYTES,HIGHEST_MAPPED"]
    lines += ["thin_check", "thin_check -q", "thin_dump", "thin_dump --skip-mappings"]
    chosen = random.Random(seed)
    for left, right in [(chosen.choice(ids), chosen.choice(ids)) for _ in range(6) if ids]:
        lines += [f"thin_delta --thin1 {left} --thin2 {right}"]
        lines += [f"thin_delta --verbose --thin1 {left} --thin2 {right}"]
        lines += [f"thin_dump --dev-id {left}"]
    for line in lines:
        name, *words = line.split()
        ours, theirs = drop_in(line, image), newer.run(name, *words, image)
        assert (ours.status, theirs.returncode) == (0, 0), (line, ours.err)
        assert same_output(name, ours.out, theirs.stdout), line
    told_alike_by_0_9(drop_in, thin_tools, image, ids, chosen)


def told_alike_by_0_9(
    drop_in: DropIns, older: ThinTools, image: Path, ids: list[str], chosen: random.Random
) -> None:
    """The same in meaning: its forms are others."""
    assert older.check(image) == 0
    ours = drop_in("thin_dump", image).out
    assert PoolModel.from_xml(ours) == PoolModel.from_xml(older.dump(image))
    line = "thin_ls --no-headers -o DEV,EXCLUSIVE_BLOCKS,SHARED_BLOCKS"
    rows = (map(int, row.split()) for row in drop_in(line, image).out.splitlines() if row.strip())
    found = {device: (exclusive, shared) for device, exclusive, shared in rows}
    assert found == older.exclusive_blocks(image)
    for left, right in [(chosen.choice(ids), chosen.choice(ids)) for _ in range(3) if ids]:
        told = drop_in(f"thin_delta --thin1 {left} --thin2 {right}", image).out
        ranges = [
            (element.tag, int(element.attrib["begin"]), int(element.attrib["length"]))
            for element in ElementTree.fromstring(told).iter()
            if "begin" in element.attrib and element.tag != "same"
        ]
        assert each_block(ranges) == each_block(older.delta(image, int(left), int(right)))


def each_block(ranges: list[tuple[str, int, int]]) -> list[tuple[str, int]]:
    return sorted((tag, begin + at) for tag, begin, length in ranges for at in range(length))


def test_random_sizes_are_those_of_1_x(drop_in: DropIns, newer: NewerTools) -> None:
    draw = random.Random(SEED)
    for _ in range(5 * POOLS):
        block = 65536 * draw.choice([1, 2, 3, 16, 100, draw.randrange(1, 16385)])
        # Such that the number of data blocks is not out of this world.
        size = block * draw.choice([1, 7, 16320, 16321, draw.randrange(1, 1 << 26)])
        words = [f"-b{block}b", f"-s{size}b", f"-m{draw.choice([1, 2, 1000, 1 << 20])}"]
        words += [f"-u{draw.choice('bskKmMgG')}"]
        words += draw.choice([[], ["-n"], ["-n=long"], ["-n=short"]])
        theirs, ours = (
            newer.run("thin_metadata_size", *words),
            drop_in("thin_metadata_size", *words),
        )
        assert (ours.status, ours.out) == (0, theirs.stdout), words


def damaged(image: bytes, chance: random.Random) -> bytes:
    """One to three bytes changed, mostly under a checksum that is right again."""
    blocks = bytearray(image)
    used = [at for at in range(len(image) // BLOCK) if any(image[at * BLOCK :][:64])]
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        begin = chance.choice(used) * BLOCK
        block = bytearray(blocks[begin : begin + BLOCK])
        kind = kind_of(bytes(block))
        block[chance.choice([chance.randrange(BLOCK), chance.randrange(200)])] ^= chance.choice(
            [1 << chance.randrange(8), chance.randrange(1, 256)]
        )
        sealed = seal(bytes(block), kind) if kind and chance.random() < 0.7 else bytes(block)
        blocks[begin : begin + BLOCK] = sealed
    return bytes(blocks)


@pytest.mark.parametrize("name", IMAGES)
def test_what_1_x_finds_wrong_we_find_wrong(
    drop_in: DropIns, corpus: Corpus, newer: NewerTools, tmp_path: Path, name: str
) -> None:
    """And where both of us read what was damaged, we read the same."""
    path, whole = tmp_path / "meta.img", corpus[name].meta.read_bytes()
    for seed in range(DAMAGES):
        path.write_bytes(damaged(whole, random.Random(f"{name} {SEED + seed}")))
        if newer.run("thin_check", "-q", path).returncode:
            assert drop_in("thin_check -q", path).status == 1, seed
        for line in ("thin_ls", "thin_dump", "thin_delta --thin1 0 --thin2 2"):
            tool, *words = line.split()
            theirs, ours = newer.run(tool, *words, path), drop_in(line, path)
            if theirs.returncode == ours.status == 0:
                assert same_output(tool, ours.out, theirs.stdout), (seed, line)
