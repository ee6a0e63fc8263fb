"""thin_shrink, beside the peer: what it takes, when it fails, and what is left."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import small_pools
import thinmeta
from corpus import THIN, Corpus
from dropins import DropIns
from model import PoolModel
from oracles import NewerTools, missing, newer_tools
from small_pools import BLOCK_BYTES, block_of


@pytest.fixture
def tmp_path(memory_path: Path) -> Path:
    """Nothing here is about a disk, and each of many outputs is flushed."""
    return memory_path


@pytest.fixture(scope="module")
def newer() -> NewerTools:
    found = newer_tools()
    if found is None:
        missing("the newer tools are not there: make peers")
    return found


def contents(pool: PoolModel, data: Path) -> dict[int, dict[int, bytes]]:
    """What each volume reads."""
    blocks: dict[int, bytes] = {}
    return {
        device.id: {
            virtual: blocks.setdefault(block, block_of(data, block))
            for virtual, (block, _) in device.mappings.items()
        }
        for device in pool.devices.values()
    }


@pytest.mark.parametrize("binary", [False, True], ids=["xml", "binary"])
@pytest.mark.parametrize("seed", range(6))
def test_both_make_a_pool_that_reads_the_same(
    newer: NewerTools, drop_in: DropIns, tmp_path: Path, seed: int, binary: bool
) -> None:
    draw = random.Random(seed)
    pool = small_pools.random_pool(seed + 900)
    used = small_pools.used_blocks(pool)
    end = draw.randint(max(len(used), 1), pool.nr_data_blocks)
    source, data = tmp_path / "source", tmp_path / "data"
    if binary:
        small_pools.make(pool, source)
    else:
        source.write_bytes(pool.to_xml())
    before = source.read_bytes()
    found = []
    for name in ("ours", "theirs"):
        small_pools.make_data(pool, data)
        out = tmp_path / name
        if binary:
            out.write_bytes(bytes(4 << 20))
        kind = ["--binary"] if binary else []
        words = [*kind, "-i", source, "-o", out, "--data", data, "--nr-blocks", end]
        if name == "ours":
            ran = drop_in("thin_shrink", *words)
            assert (ran.status, ran.out, ran.err) == (0, b"", "")
        else:
            newer.run("thin_shrink", *map(str, words)).check_returncode()
        made = small_pools.read(out) if binary else PoolModel.from_xml(out.read_bytes())
        assert all(block < end for block in small_pools.used_blocks(made))
        assert contents(made, data) == {
            device.id: {
                virtual: small_pools.content(block)
                for virtual, (block, _) in device.mappings.items()
            }
            for device in pool.devices.values()
        }
        found.append(made)
    assert source.read_bytes() == before
    ours, theirs = found
    # 1.1.0 leaves the old number, which a kernel does not activate on fewer blocks.
    assert (ours.nr_data_blocks, theirs.nr_data_blocks) == (end, pool.nr_data_blocks)
    if binary:
        assert thinmeta.check(tmp_path / "ours").is_clean


@pytest.mark.parametrize("name", THIN)
def test_it_fails_where_the_peer_fails(
    newer: NewerTools, drop_in: DropIns, corpus: Corpus, tmp_path: Path, name: str
) -> None:
    meta, old = corpus[name].meta, corpus[name].model
    with thinmeta.open_pool(meta) as pool:
        there, used = pool.data_space.blocks, pool.data_space.allocated
    data = tmp_path / "data"
    data.touch()
    all_ends = {0, used - 1, used, (used + there) // 2, there, there + 1} - {-1}
    for blocks in all_ends if used < 1000 else {used - 1, used, there + 1}:
        statuses = []
        for run in ("ours", "theirs"):
            out = tmp_path / run
            out.write_bytes(b"")
            with out.open("r+b") as file:
                file.truncate(16 << 20)
            words = ["--binary", "--no-copy", "-i", meta, "-o", out, "--data", data]
            words += ["--nr-blocks", blocks]
            if run == "ours":
                statuses.append(drop_in("thin_shrink", *words, compat="1.x").status)
            else:
                statuses.append(newer.run("thin_shrink", *map(str, words)).returncode)
        assert statuses[0] == statuses[1], blocks
        if statuses[0] == 0:
            report = thinmeta.check(tmp_path / "ours")
            assert report.is_clean, report.findings
            made = small_pools.read(tmp_path / "ours")
            assert made.devices.keys() == old.devices.keys()
            assert all(
                made.devices[each].mappings.keys() == old.devices[each].mappings.keys()
                for each in old.devices
            )


def test_what_is_wrong_is_said_in_a_line(drop_in: DropIns, tmp_path: Path) -> None:
    pool = small_pools.random_pool(3)
    xml, data, out = tmp_path / "xml", tmp_path / "data", tmp_path / "out"
    xml.write_bytes(pool.to_xml())
    small_pools.make_data(pool, data)
    before = data.read_bytes()
    rest = ["--data", data, "--nr-blocks", pool.nr_data_blocks]
    for words, says in (
        (["-i", xml, "-o", out, "--nr-blocks", "9"], "--data is missing"),
        (["-i", xml, "-o", out, "--data", data], "--nr-blocks is missing"),
        (["-i", xml, *rest], "--output is missing"),
        (["--binary", "-i", xml, "-o", out, *rest], "has to be there"),
        (["-i", data, "-o", out, *rest], "1:1"),
        (["-i", xml, "-o", data, *rest], "is the input"),
        (["-i", tmp_path / "none", "-o", out, *rest], "No such file"),
    ):
        ran = drop_in("thin_shrink", *words)
        assert (ran.status, ran.out) == (1, b""), words
        assert says in ran.err and ran.err.count("\n") == 1
        assert not out.exists()
    assert data.read_bytes() == before
    assert BLOCK_BYTES * pool.nr_data_blocks == len(before)
    # From a file to itself, as the peer allows it.
    assert drop_in("thin_shrink", "-i", xml, "-o", xml, *rest).status == 0
    assert PoolModel.from_xml(xml.read_bytes()).devices == pool.devices
