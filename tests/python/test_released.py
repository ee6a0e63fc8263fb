"""What was read through a metadata snapshot counts only while that is held."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import thinmeta
from corpus import Corpus
from ondisk import patched, seal, u64

BLOCK = 4096
HELD_ROOT_AT = 56


@pytest.fixture
def meta(corpus: Corpus, tmp_path: Path) -> Path:
    path = tmp_path / "meta.img"
    shutil.copyfile(corpus["metadata-snap"].meta, path)
    return path


def release(meta: Path) -> None:
    """As the kernel does: the superblock forgets the snapshot."""
    with meta.open("r+b") as file:
        superblock = file.read(BLOCK)
        file.seek(0)
        file.write(seal(patched(superblock, HELD_ROOT_AT, u64(0)), "thin superblock"))


def take_anew(meta: Path) -> None:
    """Another snapshot, taken later, in the same block."""
    with thinmeta.open_pool(meta) as pool:
        held = pool.superblock.held_root
    with meta.open("r+b") as file:
        file.seek(held * BLOCK)
        snapshot = file.read(BLOCK)
        file.seek(held * BLOCK)
        file.write(seal(patched(snapshot, 48, u64(77)), "thin superblock"))


READS: dict[str, Callable[[thinmeta.Pool], object]] = {
    "runs": lambda pool: list(pool.devices[0].runs()),
    "mappings": lambda pool: pool.devices[0].mappings().to_numpy(),
    "delta": lambda pool: pool.delta(0, 2),
    "exclusive": lambda pool: pool.exclusive_blocks(),
    "statistics": lambda pool: pool.statistics(),
    "check": lambda pool: thinmeta.check(pool),
}


@pytest.mark.parametrize("change", [release, take_anew])
@pytest.mark.parametrize("read", READS)
def test_a_snapshot_released_under_a_reader_is_an_error_and_no_answer(
    meta: Path, read: str, change: Callable[[Path], None]
) -> None:
    with thinmeta.open_pool(meta, metadata_snapshot="held") as pool:
        assert READS[read](pool) is not None
        change(meta)
        with pytest.raises(thinmeta.NoMetadataSnapshotError, match="released while it was read"):
            READS[read](pool)


def test_what_was_cached_while_it_was_held_stays_right(meta: Path) -> None:
    with thinmeta.open_pool(meta, metadata_snapshot="held") as pool:
        device = pool.devices[0]
        first = next(device.runs()).virtual_begin
        found = device.find(first)
        release(meta)
        assert device.find(first) == found is not None
