"""What 1.x lets pass or refuses, where our own commands judge otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

import thinmeta
from corpus import Corpus
from counts import Counts
from dropins import DropIns
from model import PoolModel
from oracles import ThinTools, newer_tools

#: In block 0: flags, of which the first bit is needs_check, and the clock.
FLAGS, TIME = 4, 44
LATER = """\
<superblock uuid="" time="1" transaction="5" version="2" data_block_size="128" nr_data_blocks="100">
<device dev_id="1" mapped_blocks="10" transaction="0" creation_time="0" snap_time="1">
<range_mapping origin_begin="0" data_begin="10" length="10" time="9"/>
</device></superblock>
"""


@pytest.fixture
def tmp_path(memory_path: Path) -> Path:
    """Nothing here is about a disk."""
    return memory_path


def newer(*words: str | Path) -> int | None:
    """How 1.x ends, where it is at hand."""
    tools = newer_tools()
    return None if tools is None else tools.run(str(words[0]), *words[1:]).returncode


def behind(corpus: Corpus, path: Path) -> Counts:
    """A pool whose clock has stopped before its mappings were made."""
    counts = Counts(corpus["snap-chain"].meta)
    counts.set_superblock(TIME, bytes(4))
    counts.save(path)
    return counts


def leaking(corpus: Corpus, path: Path, count: int) -> Counts:
    """A pool in which a block that nothing refers to is counted so often."""
    counts = Counts(corpus["deleted"].meta)
    block = counts.find("data", 0)
    assert block is not None
    counts.set("data", block, count)
    counts.save(path)
    return counts


def test_mappings_later_than_the_clock_are_no_reason_not_to_activate(
    corpus: Corpus, drop_in: DropIns, thin_tools: ThinTools, tmp_path: Path
) -> None:
    image = tmp_path / "meta.img"
    counts = behind(corpus, image)
    assert {finding.code for finding in thinmeta.check(image).findings} == {"mapping-time"}
    assert thin_tools.check(image) == 0
    assert newer("thin_check", "-q", image) in (0, None)
    assert drop_in("thin_check -q", image).status == 0
    assert "later than the pool's clock" in drop_in("thin_check", image).err
    # Nor is what else is wrong hidden by it.
    block = counts.find("data", 0)
    assert block is not None
    counts.set("data", block, 1)
    counts.save(image)
    assert drop_in("thin_check -q", image).status == 1
    assert newer("thin_check", "-q", image) in (64, None)
    assert drop_in("thin_check -q --ignore-non-fatal-errors", image).status == 0
    assert newer("thin_check", "-q", "--ignore-non-fatal-errors", image) in (0, None)


def test_a_mapping_that_no_volume_can_have_is_no_failure(
    drop_in: DropIns, thin_tools: ThinTools, tmp_path: Path
) -> None:
    """Of 2^64 bytes and more; both generations of the peers let it pass."""
    xml, image = tmp_path / "pool.xml", tmp_path / "meta.img"
    xml.write_text(
        '<superblock uuid="" time="0" transaction="1" version="2" data_block_size="128" '
        'nr_data_blocks="50"><device dev_id="1" mapped_blocks="1" transaction="0" '
        'creation_time="0" snap_time="0"><single_mapping origin_block="281474976710656" '
        'data_block="0" time="0"/></device></superblock>'
    )
    thinmeta.restore(xml, image)
    assert thinmeta.check(image).findings[0].code == "mapping-beyond-volume"
    assert drop_in("thin_check -q", image).status == 0
    assert thin_tools.check(image) == 0
    assert newer("thin_check", "-q", image) in (0, None)


def test_such_a_pool_is_shrunk_and_its_clock_put_forward(
    corpus: Corpus, drop_in: DropIns, tmp_path: Path
) -> None:
    image, data, out = tmp_path / "meta.img", tmp_path / "data", tmp_path / "out"
    behind(corpus, image)
    model = corpus["snap-chain"].model
    data.touch()
    words: list[str | Path] = ["--binary", "--no-copy", "-i", image, "-o", out, "--data", data]
    words += ["--nr-blocks", str(model.nr_data_blocks - 1)]
    with data.open("r+b") as file:
        file.truncate(model.nr_data_blocks * 65536)
    out.write_bytes(bytes(4 << 20))
    assert newer("thin_shrink", *words) in (0, None)
    out.write_bytes(bytes(4 << 20))
    assert drop_in("thin_shrink", *words).status == 0
    assert thinmeta.check(out).is_clean
    assert PoolModel.from_xml(drop_in("thin_dump", out).out).devices == model.devices
    # By our own rule, such a pool has to be repaired first.
    with pytest.raises(thinmeta.DamagedBlockError, match="time"):
        thinmeta.plan_shrink(image, data_blocks=model.nr_data_blocks - 1)


@pytest.mark.parametrize("option", ["--clear-needs-check-flag", "--auto-repair"])
def test_nor_is_needs_check_kept_for_it(
    corpus: Corpus, drop_in: DropIns, tmp_path: Path, option: str
) -> None:
    image = tmp_path / "meta.img"
    counts = behind(corpus, image)
    counts.set_superblock(FLAGS, b"\1")
    counts.save(image)
    assert drop_in("check --clear-needs-check-flag -q", image).status == 1
    assert image.read_bytes() == counts.content
    assert drop_in(f"thin_check -q {option}", image).status == 0
    with thinmeta.open_pool(image) as pool:
        assert not pool.superblock.flags & 1
    counts.save(image)
    assert newer("thin_check", "-q", option, image) in (0, None)


@pytest.mark.parametrize("count", [1, 2])
def test_only_leaks_of_one_are_ignored(
    corpus: Corpus, drop_in: DropIns, tmp_path: Path, count: int
) -> None:
    image = tmp_path / "meta.img"
    counts = leaking(corpus, image, count)
    ran = drop_in("thin_check -q --ignore-non-fatal-errors", image)
    assert ran.status == (0 if count == 1 else 1)
    peer = newer("thin_check", "-q", "--ignore-non-fatal-errors", image)
    assert peer in ((0, None) if count == 1 else (64, None))
    # So it is no reason to clear the flag.
    counts.set_superblock(FLAGS, b"\1")
    counts.save(image)
    ran = drop_in("thin_check -q --ignore-non-fatal-errors --clear-needs-check-flag", image)
    assert ran.status == (0 if count == 1 else 1)
    assert (image.read_bytes() == counts.content) == (count == 2)


def test_a_wrong_number_of_mappings_is_not_ignored(
    corpus: Corpus, drop_in: DropIns, tmp_path: Path
) -> None:
    image = tmp_path / "meta.img"
    counts = Counts(corpus["deleted"].meta)
    counts.set_mapped(3)
    counts.save(image)
    assert drop_in("thin_check -q --ignore-non-fatal-errors", image).status == 1
    assert newer("thin_check", "-q", "--ignore-non-fatal-errors", image) in (64, None)


@pytest.mark.parametrize("tool", ["restore", "thin_restore"])
def test_a_clock_behind_the_mappings_is_put_forward(
    drop_in: DropIns, tmp_path: Path, tool: str
) -> None:
    xml, out = tmp_path / "pool.xml", tmp_path / "meta.img"
    xml.write_text(LATER)
    out.write_bytes(bytes(1 << 20))
    assert drop_in(f"{tool} -i", xml, "-o", out).status == 0
    assert thinmeta.check(out).findings == ()
    dumped = drop_in("thin_dump", out).out
    assert b' time="9" transaction="5"' in dumped.partition(b">")[0]
    assert PoolModel.from_xml(dumped).devices == PoolModel.from_xml(LATER.encode()).devices


def test_an_output_has_room_for_metadata(corpus: Corpus, drop_in: DropIns, tmp_path: Path) -> None:
    meta, xml, out = corpus["deleted"].meta, tmp_path / "pool.xml", tmp_path / "out"
    xml.write_text(LATER)
    small = tmp_path / "small.img"
    small.write_bytes(bytes(1 << 20))
    assert drop_in("thin_restore -i", xml, "-o", small).status == 0
    for given, words in (
        (small, ["thin_repair"]),
        (xml, ["thin_restore"]),
        (small, ["thin_shrink", "--binary", "--no-copy", "--nr-blocks", "50", "--data", meta]),
    ):
        for size in (0, 4096, 9 * 4096, 10 * 4096):
            out.write_bytes(bytes(size))
            line = [*map(str, words), "-i", str(given), "-o", str(out)]
            ran = drop_in(" ".join(line))
            fits = size == 10 * 4096
            assert ran.status == (0 if fits else 1), (line, size, ran.err)
            assert out.stat().st_size == size
            if not fits:
                assert "as large as the metadata" in ran.err
                assert out.read_bytes() == bytes(size)
            out.write_bytes(bytes(size))
            assert newer(*line) in (0 if fits else 64, None), (line, size)


def test_a_listing_is_not_shrunk_into_itself(drop_in: DropIns, tmp_path: Path) -> None:
    xml, data = tmp_path / "pool.xml", tmp_path / "data"
    xml.write_text(LATER)
    data.write_bytes(b"")
    ran = drop_in(f"thin_shrink -i {xml} -o {xml} --data {data} --nr-blocks 50 --no-copy")
    assert ran.status == 1
    assert "is the input" in ran.err
    assert xml.read_text() == LATER


NUMBERS = ["--nr-data-blocks 0", "--nr-data-blocks 7", "--nr-data-blocks 99999"]
MORE_NUMBERS = ["--transaction-id 9", "--data-block-size 256 --nr-data-blocks 3"]


@pytest.mark.parametrize("root", ["", "-r ", "-m ", "--skip-mappings "])
def test_numbers_of_a_dump_are_those_of_1_x(corpus: Corpus, drop_in: DropIns, root: str) -> None:
    meta = corpus["metadata-snap"].meta
    peer = newer_tools()
    if peer is None:
        pytest.skip("1.x is not at hand: make peers")
    for numbers in [*NUMBERS, *MORE_NUMBERS]:
        words = f"{root}{numbers}".split()
        ran = drop_in("thin_dump", *words, meta)
        assert (ran.status, ran.out) == (0, peer.run("thin_dump", *words, meta).stdout), numbers
