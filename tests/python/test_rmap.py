"""What lies where in a pool's data: the corpus and random pools, and what peers print."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from pathlib import Path

import pytest

import thinmeta
from command import ThinmetaCommand, fails
from corpus import THIN, Corpus
from damages import Tree
from dropins import DropIns
from histories import History
from model import PoolModel
from ondisk import BLOCK, patched
from oracles import NewerTools, ThinTools, newer_tools, require_module
from thinmeta.cli import main

Row = tuple[int, int, int, int]
#: Random pools; a long run has 500.
POOLS = int(os.environ.get("THINMETA_DROPIN_POOLS", "20"))
SEED = int(os.environ.get("THINMETA_DROPIN_SEED", "0"))


def rows_of(model: PoolModel, regions: list[tuple[int, int]] | None = None) -> list[Row]:
    """Data block, length, device, virtual block, by plain counting."""
    rows: list[Row] = []
    for device in model.devices.values():
        run: list[int] | None = None
        for block, (data, _) in sorted(device.mappings.items()):
            if regions is not None and not any(begin <= data < end for begin, end in regions):
                continue
            if run is not None and (data, block) == (run[0] + run[1], run[3] + run[1]):
                run[1] += 1
                continue
            if run is not None:
                rows.append((run[0], run[1], run[2], run[3]))
            run = [data, 1, device.id, block]
        if run is not None:
            rows.append((run[0], run[1], run[2], run[3]))
    return sorted(rows)


@pytest.mark.parametrize("name", THIN)
def test_the_corpus_is_told_as_it_is(corpus: Corpus, name: str) -> None:
    image = corpus[name]
    with thinmeta.open_pool(image.meta) as pool:
        found = pool.rmap()
        assert [tuple(row) for row in found] == rows_of(image.model)
        assert found.data_block_size_bytes == image.model.data_block_size_sectors * 512
        regions = [(3, 90), (90, 120), (200, 201), (10, 50)]
        assert [tuple(row) for row in pool.rmap(regions)] == rows_of(image.model, regions)
    if image.has_held_root:
        with thinmeta.open_pool(image.meta, metadata_snapshot="held") as pool:
            assert [tuple(row) for row in pool.rmap()] == rows_of(image.held_model)


@pytest.mark.parametrize("seed", range(SEED, SEED + POOLS))
def test_random_pools_are_told_as_peers_do(
    thin_tools: ThinTools, drop_in: DropIns, tmp_path: Path, seed: int
) -> None:
    newer = newer_tools()
    image = tmp_path / "meta.img"
    history = History(image, seed)
    for _ in range(12):
        history.step()
    history.close()
    draw = random.Random(seed)
    for _ in range(4):
        begin = draw.randrange(1000)
        regions = f"--region {begin}..{begin + draw.randrange(1, 900)} --region 0..{begin + 1}"
        ours = drop_in(f"thin_rmap {regions}", image)
        assert ours.status == 0, ours.err
        if newer is not None:
            assert newer.run("thin_rmap", *regions.split(), image).stdout == ours.out
        # The older one sorts those that begin at one block in another way.
        older = thin_tools.run("thin_rmap", *regions.split(), image).stdout
        assert sorted(older.splitlines()) == sorted(ours.out.splitlines())


def test_the_tables_agree(corpus: Corpus) -> None:
    pyarrow, numpy = require_module("pyarrow"), require_module("numpy")
    image = corpus["kernel-6.12"]
    with thinmeta.open_pool(image.meta) as pool:
        found = pool.rmap()
    rows = rows_of(image.model)
    table = pyarrow.table(found)
    assert table.column_names == ["data_begin", "length_blocks", "device_id", "virtual_begin"]
    assert [tuple(row.values()) for row in table.to_pylist()] == rows
    assert pyarrow.schema(found) == table.schema
    columns = found.to_numpy()
    assert all(column.dtype == numpy.uint64 for column in columns.values())
    assert list(zip(*(column.tolist() for column in columns.values()), strict=True)) == rows
    assert len(found) == len(rows)
    assert tuple(found[0]) == rows[0]
    assert tuple(found[-1]) == rows[-1]
    assert [tuple(row) for row in found[2:5]] == rows[2:5]
    with pytest.raises(IndexError):
        found[len(rows)]
    assert isinstance(found[0], thinmeta.ReverseRun)


def test_the_command_prints_all_who_share(
    corpus: Corpus, capfd: pytest.CaptureFixture[str]
) -> None:
    image = corpus["snaps-300"]
    assert main(["rmap", str(image.meta), "--region", "0..3", "--region", "300..302"]) == 0
    rows = rows_of(image.model, [(0, 3), (300, 302)])
    text = "".join(
        f"data {data}..{data + length} -> thin({device}) {block}..{block + length}\n"
        for data, length, device, block in rows
    )
    assert capfd.readouterr().out == text
    assert main(["rmap", str(image.meta), "--json", "--region", "0..3"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["regions"] == [[0, 3]]
    first = document["runs"][0]
    assert [first[name] for name in thinmeta.ReverseRun._fields] == list(rows[0])
    assert len(document["runs"]) == len(rows_of(image.model, [(0, 3)]))
    assert first["length_bytes"] == first["length_blocks"] * 65536
    assert main(["rmap", str(image.meta), "--json", "--region", "9000..9001"]) == 0
    assert json.loads(capfd.readouterr().out)["runs"] == []


def test_what_makes_no_sense_is_refused(corpus: Corpus, drop_in: DropIns) -> None:
    image = corpus["deleted"].meta
    for words in (
        "--region 3",
        "--region 5..5",
        "--region 9..3",
        "--region a..b",
        "--region -1..4",
    ):
        for command in ("rmap", "thin_rmap"):
            ran = drop_in(f"{command} {words}", image)
            assert ran.status == (2 if command == "rmap" else 1), (command, words)
            assert "region" in ran.err
    assert drop_in("thin_rmap", image).status == 1
    assert drop_in("thin_rmap --region 0..1", image, compat="1.x").status == 0
    assert drop_in("thin_rmap --region 1..0", image, compat="1.x").status == 2
    with thinmeta.open_pool(image) as pool:
        for regions in ([], [(3, 3)], [(4, 2)]):
            with pytest.raises(thinmeta.UsageError):
                pool.rmap(regions)


def test_a_newer_peer_fails_where_we_fail(corpus: Corpus, drop_in: DropIns, tmp_path: Path) -> None:
    newer: NewerTools | None = newer_tools()
    if newer is None:
        pytest.skip("1.x is not at hand: make peers")
    damaged = tmp_path / "damaged.img"
    content = bytearray(corpus["deleted"].meta.read_bytes())
    for block in range(len(content) // 4096):
        content[block * 4096 + 100] ^= 1 if block else 0
    damaged.write_bytes(content)
    assert drop_in("thin_rmap --region 0..9", damaged).status == 1
    assert newer.run("thin_rmap", "--region", "0..9", damaged).returncode != 0


def test_damage_among_many_leaves_ends_it(
    command: ThinmetaCommand, corpus: Corpus, tmp_path: Path
) -> None:
    """Threads waited for ever for somebody to take what they had found after an error."""
    content = corpus["snaps-300"].meta.read_bytes()
    tree = Tree(content)
    leaves = [leaf for _, root in tree.device_roots().values() for _, leaf in tree.leaves(root)]
    assert len(tree.device_roots()) > 100, "more parts of work than may wait to be taken"
    # One that a single device has: the others go on.
    at = next(leaf for leaf, count in Counter(leaves).items() if count == 1)
    meta = tmp_path / "meta.img"
    meta.write_bytes(patched(content, at * BLOCK, bytes(BLOCK)))
    fails(command("rmap", meta), 1, f"block {at} is damaged")
