"""Volumes that grow and shrink, and places that are full."""

import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import thinmeta
from oracles import missing
from streams import BLOCK, SIZE, Source, monday_and_tuesday, pattern, receive
from thinmeta import stream
from thinmeta.bookmark import Bookmark
from thinmeta.stream.targets import PoolTarget


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return monday_and_tuesday(tmp_path_factory.mktemp("source"))


# ---- sizes ----


def test_a_volume_that_grew_or_shrank_is_followed(tmp_path: Path) -> None:
    source = Source(tmp_path / "source")
    source.create(1)
    target, other = tmp_path / "copy.img", Source(tmp_path / "pool", sectors=256)
    sizes = [5 * BLOCK, 9 * BLOCK + 512, 3 * BLOCK + 1, 3 * BLOCK - 7, 12 * BLOCK, BLOCK]
    bookmark: Bookmark | None = None
    for number, size in enumerate(sizes):
        source.size = size
        source.write(1, (size // 2, pattern(number, 3000)), (size - 100, pattern(9, 100)))
        source.snapshot(10 + number)
        data = source.send(10 + number, bookmark)
        receive(data, target)
        receive(data, PoolTarget(str(other.meta), str(other.data), 4))
        assert target.read_bytes() == source.content(10 + number)
        assert other.content(4, size_bytes=size) == source.content(10 + number)
        with source.open() as pool:
            device = pool.devices[10 + number]
            bookmark = Bookmark.save(device, tmp_path / "bookmark", size_bytes=size)
        with other.open() as pool:
            runs = [run.virtual_begin + run.length_blocks for run in pool.devices[4].runs()]
            assert max(runs) <= -(-size // (2 * BLOCK))


def test_a_base_that_was_cut_off_does_not_stand_for_more(tmp_path: Path) -> None:
    """The copy ends in the middle of a block that the base has, and the volume goes on."""
    source = Source(tmp_path / "source")
    source.create(1)
    source.size = 2 * BLOCK
    source.write(1, (0, pattern(1, 2 * BLOCK)))
    source.snapshot(2)
    target = tmp_path / "copy.img"
    receive(source.send(2, options={"size_bytes": BLOCK + 100}), target)
    source.snapshot(3)
    data = source.send(3, 2)
    with pytest.raises(thinmeta.WrongBaseError, match="are needed"):
        receive(data, target)
    receive(source.send(3, 2, options={"size_bytes": BLOCK + 100}), target)
    assert target.read_bytes() == source.content(3)[: BLOCK + 100]


# ---- full ----


def test_a_full_pool_keeps_the_volume_that_it_has(source: Source, tmp_path: Path) -> None:
    pool = Source(tmp_path / "pool", data_blocks=6)
    target = PoolTarget(str(pool.meta), str(pool.data), 9)
    receive(source.send(2), target)
    for data in (source.send(3, 2), source.send(3)):
        with pytest.raises(thinmeta.NoSpaceError, match="is complete at device 2"):
            receive(data, target, overwrite=True)
        assert pool.content(9) == source.content(2)
    with pool.open(mode="r+") as opened, opened.transaction() as txn:
        txn.grow_data(30)
    receive(source.send(3, 2), target)
    assert pool.content(9) == source.content(3)
    with pool.open() as opened:
        assert list(opened.devices) == [9]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 1 MiB."""
    if os.geteuid() != 0:
        missing("mounting needs root")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        missing(f"no tmpfs here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def random_source(folder: Path) -> Source:
    """Volume 1 of random bytes; snapshot 3 has 780 000 more than snapshot 2."""
    source = Source(folder)
    source.size = 30 * BLOCK
    source.create(1)
    source.write(1, (0, os.urandom(5 * BLOCK)))
    source.snapshot(2)
    source.write(1, (3 * BLOCK, os.urandom(780_000)))
    source.snapshot(3)
    return source


def test_a_full_filesystem_keeps_the_file_that_it_has(tmp_path: Path, small: Path) -> None:
    source = random_source(tmp_path / "source")
    target, spool = small / "copy.img", tmp_path / "spool"
    spool.mkdir()
    monday, tuesday = source.content(2), source.content(3)
    receive(source.send(2), target)
    # There is no room for the journal.
    with pytest.raises(OSError, match=r"No space left.*is complete at device 2") as caught:
        receive(source.send(3, 2), target)
    assert str(caught.value.filename).endswith("-journal")
    assert target.read_bytes() == monday
    # Nor for another file.
    with pytest.raises(OSError, match=r"No space left.*is complete at device 2"):
        receive(source.send(3), target, overwrite=True)
    assert target.read_bytes() == monday
    # There is for the journal, somewhere else, and not for what has changed.
    other = small / "other"
    other.write_bytes(bytes(500_000))
    with pytest.raises(OSError, match=r"no room for what has changed.*is complete at device 2"):
        receive(source.send(3, 2), target, journal=str(spool))
    assert target.read_bytes() == monday
    other.unlink()
    assert stream.receive(None, target).finished
    assert target.read_bytes() == tuesday
    assert list(spool.iterdir()) == []


def test_what_cannot_be_finished_does_not_stand_in_the_way_of_a_whole_volume(
    tmp_path: Path, small: Path
) -> None:
    source = random_source(tmp_path / "source")
    target, spool = small / "copy.img", tmp_path / "spool"
    spool.mkdir()
    receive(source.send(2), target)
    (small / "other").write_bytes(bytes(500_000))
    for _ in range(2):
        with pytest.raises(OSError, match="finish it with 'thinmeta receive"):
            receive(source.send(3, 2), target, journal=str(spool))
    source.write(1, (0, bytes(30 * BLOCK)))
    source.snapshot(4)
    receive(source.send(4), target, overwrite=True)
    assert not any(target.read_bytes())
    assert list(spool.iterdir()) == []


def test_a_limit_of_file_sizes_is_seen_before_anything_is_written(
    source: Source, tmp_path: Path
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    data = source.send(2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE - 1, limits[1]))
    try:
        with pytest.raises(OSError, match="nothing written"):
            receive(data, tmp_path / "copy.img")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []
