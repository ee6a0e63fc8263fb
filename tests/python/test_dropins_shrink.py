"""thin_shrink, beside the peer: what it takes, when it fails, and what is left."""

from __future__ import annotations

import os
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

POOLS = int(os.environ.get("THINMETA_MOVES_POOLS", "6"))
SEED = int(os.environ.get("THINMETA_MOVES_SEED", "1"))


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
@pytest.mark.parametrize("seed", range(SEED, SEED + POOLS))
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
    for blocks in all_ends if used < 1000 else {used - 1, used}:
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
    # Nor from a file to itself, which the peer allows.
    assert drop_in("thin_shrink", "-i", xml, "-o", xml, *rest).status == 1
    assert xml.read_bytes() == pool.to_xml()


# ---- forms ----

#: A pool with room, and with blocks far up.
MOVING = next(
    seed
    for seed in range(1000)
    for pool in [small_pools.random_pool(seed)]
    for used in [small_pools.used_blocks(pool)]
    if 20 < len(used) < 60 and max(used) > 100
)
SAME = [
    "-i SOURCE -o OUT --data DATA --nr-blocks END",
    "-iSOURCE -oOUT --data=DATA --nr-blocks=END",
    "-i=SOURCE -o=OUT --data DATA --nr-blocks +END",
    "--input SOURCE --output OUT --nr-blocks END --data DATA",
    "--nr-blocks END --data DATA --output=OUT --input=SOURCE",
]


@pytest.mark.parametrize("kind", ["", "--binary ", "--no-copy ", "--no-copy --binary "])
def test_forms_that_mean_the_same(
    newer: NewerTools, drop_in: DropIns, tmp_path: Path, kind: str
) -> None:
    pool = small_pools.random_pool(MOVING)
    used = small_pools.used_blocks(pool)
    places = {name: tmp_path / name.lower() for name in ("SOURCE", "OUT", "DATA")}
    small_pools.make_data(pool, places["DATA"])
    noise = places["DATA"].read_bytes()
    if "binary" in kind:
        small_pools.make(pool, places["SOURCE"])
    else:
        places["SOURCE"].write_bytes(pool.to_xml())
    made, copied = set(), set()
    for form in SAME:
        line = kind + form
        for word, place in places.items():
            line = line.replace(word, str(place))
        line = line.replace("END", str(len(used) + 3))
        for run in ("theirs", "ours"):
            places["DATA"].write_bytes(noise)
            places["OUT"].write_bytes(bytes(4 << 20))
            if run == "theirs":
                status = newer.run("thin_shrink", *line.split()).returncode
                continue
            assert drop_in("thin_shrink", *line.split()).status == status == 0, line
        made.add(places["OUT"].read_bytes())
        copied.add(places["DATA"].read_bytes())
    assert len(made) == len(copied) == 1
    assert (copied == {noise}) == ("no-copy" in kind)


#: What 1.1.0 ends with where its own code did not expect something, XML that is none here.
PANIC = 101
REFUSED = [
    "",
    "-i XML -o OUT --data DATA",
    "-i XML -o OUT --nr-blocks 90",
    "-i XML --data DATA --nr-blocks 90",
    "-o OUT --data DATA --nr-blocks 90",
    "-i XML -o OUT --data DATA --nr-blocks",
    "-i XML -o OUT --data DATA --nr-blocks x",
    "-i XML -o OUT --data DATA --nr-blocks -1",
    "-i XML -o OUT --data DATA --nr-blocks 18446744073709551616",
    "-i XML -o OUT --data DATA --nr-blocks 90 more",
    "-i XML -i XML -o OUT --data DATA --nr-blocks 90",
    "-i XML -o OUT --data DATA --nr-blocks 90 --binary=1",
    "-i XML -o OUT --data DATA --nr-blocks 90 -q",
    "-i XML -o OUT --data DATA --nr-blocks 90 --bogus",
    "-i XML -o OUT --data DATA --nr-blocks 1",
    "-i XML -o OUT --data DATA --nr-blocks 0",
    "-i ABSENT -o OUT --data DATA --nr-blocks 90",
    "-i XML -o OUT --data ABSENT --nr-blocks 9",
    "-i XML -o FOLDER --data DATA --nr-blocks 90",
    "-i FOLDER -o OUT --data DATA --nr-blocks 90",
    "-i META -o OUT --data DATA --nr-blocks 90",
    "--binary -i XML -o OUT --data DATA --nr-blocks 90",
    "--binary -i META -o ABSENT --data DATA --nr-blocks 90",
    "--binary -i META -o SMALL --data DATA --nr-blocks 90",
    "--binary -i ABSENT -o OUT --data DATA --nr-blocks 90",
    "--binary -i META -o OUT --data ABSENT --nr-blocks 9",
    "--binary -i META -o OUT --data DATA --nr-blocks 1",
    "--binary -i META -o OUT --data DATA --nr-blocks 0",
]


@pytest.mark.parametrize("line", REFUSED)
def test_what_1_x_refuses_is_refused(
    newer: NewerTools, drop_in: DropIns, tmp_path: Path, line: str
) -> None:
    pool = small_pools.random_pool(MOVING)
    names = ("XML", "META", "OUT", "SMALL", "DATA")
    places = {name: tmp_path / name.lower() for name in names}
    places["XML"].write_bytes(pool.to_xml())
    small_pools.make(pool, places["META"])
    small_pools.make_data(pool, places["DATA"])
    places["OUT"].write_bytes(bytes(1 << 20))
    places["SMALL"].write_bytes(bytes(3 * 4096))
    before = {name: place.read_bytes() for name, place in places.items()}
    for word, place in (*places.items(), ("ABSENT", tmp_path / "absent"), ("FOLDER", tmp_path)):
        line = line.replace(word, str(place))
    ran = drop_in("thin_shrink", *line.split())
    assert (ran.status, ran.out) == (1, b""), ran.err
    assert ran.err.startswith("thinmeta: ") and ran.err.count("\n") == 1
    ours = drop_in("thin_shrink", *line.split(), compat="1.x").status
    # Of ours, everything is what it was.
    assert {name: place.read_bytes() for name, place in places.items()} == before
    theirs = newer.run("thin_shrink", *line.split()).returncode
    assert theirs in (ours, PANIC)
