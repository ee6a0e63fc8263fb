"""Making pools, and pools that may not or cannot be changed."""

import pickle
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import thinmeta
from corpus import Corpus
from ondisk import BLOCK, patched, seal

CREATE: Any = {"data_block_size_sectors": 128, "data_blocks": 10}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A pool without devices."""
    path = tmp_path / "meta.img"
    thinmeta.Pool.create(path, **CREATE, metadata_blocks=100).close()
    return path


def test_a_pool_that_needs_a_check_is_only_read(corpus: Corpus, tmp_path: Path) -> None:
    image = Path(shutil.copy(corpus["needs-check"].meta, tmp_path / "meta.img"))
    before = image.read_bytes()
    with thinmeta.open_pool(image, mode="r+") as pool:
        assert pool.state == "read_only"
        assert list(pool.devices)
        with pytest.raises(thinmeta.ReadOnlyError, match="needs_check"):
            pool.transaction()
    assert image.read_bytes() == before


def test_features_that_only_readers_may_ignore(image: Path) -> None:
    block = seal(patched(image.read_bytes()[:BLOCK], 356, b"\1"), "thin superblock")
    with image.open("r+b") as file:
        file.write(block)
    with thinmeta.open_pool(image) as pool:
        assert pool.mode == "r"
    with pytest.raises(thinmeta.UnsupportedFormatError, match="features 0x1"):
        thinmeta.open_pool(image, mode="r+")


def test_making_a_pool_over_something_wants_to_be_told(image: Path, tmp_path: Path) -> None:
    before = image.read_bytes()
    with pytest.raises(thinmeta.AlreadyFormattedError, match="thin superblock"):
        thinmeta.Pool.create(image, **CREATE)
    other = tmp_path / "other"
    other.write_bytes(b"precious" * 2000)
    with pytest.raises(thinmeta.AlreadyFormattedError):
        thinmeta.Pool.create(other, **CREATE, metadata_blocks=100)
    assert other.read_bytes() == b"precious" * 2000
    # What cannot be made replaces nothing.
    with pytest.raises(thinmeta.NoSpaceError):
        thinmeta.Pool.create(image, data_block_size_sectors=128, data_blocks=2**30, overwrite=True)
    assert image.read_bytes() == before
    short = tmp_path / "short"
    short.write_bytes(bytes(BLOCK))
    with pytest.raises(thinmeta.UsageError, match="do not fit"):
        thinmeta.Pool.create(image, **CREATE, metadata_blocks=500, overwrite=True, data=short)
    assert image.read_bytes() == before
    with thinmeta.Pool.create(image, **CREATE, overwrite=True) as pool:
        assert not pool.devices
        assert thinmeta.check(pool).is_clean
    free = tmp_path / "zeros"
    free.write_bytes(bytes(100 * BLOCK))
    thinmeta.Pool.create(free, **CREATE).close()


@pytest.mark.parametrize(
    ("sizes", "error"),
    [
        ({"data_block_size_sectors": 64}, thinmeta.UsageError),
        ({"data_block_size_sectors": 129}, thinmeta.UsageError),
        ({"data_block_size_sectors": 2_097_280}, thinmeta.UsageError),
        ({"data_block_size_sectors": -128}, thinmeta.UsageError),
        ({"data_blocks": -1}, thinmeta.UsageError),
        ({"data_blocks": 2**40 + 1}, thinmeta.UsageError),
        ({"metadata_blocks": 4_161_601}, thinmeta.UsageError),
        ({"metadata_blocks": 8}, thinmeta.NoSpaceError),
        ({"metadata_blocks": None}, thinmeta.UsageError),
        ({"data_blocks": 1.0}, TypeError),
    ],
)
def test_sizes_that_cannot_be_leave_no_file(
    tmp_path: Path, sizes: dict[str, int], error: type[Exception]
) -> None:
    path = tmp_path / "new.img"
    arguments: Any = {**CREATE, "metadata_blocks": 100, **sizes}
    with pytest.raises(error):
        thinmeta.Pool.create(path, **arguments)
    assert not path.exists()


@contextmanager
def no_file_longer_than(size_bytes: int) -> Iterator[None]:
    """What is written past it fails, as on a disk that is broken there."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_commit_that_cannot_be_written_asks_for_a_check(image: Path) -> None:
    with thinmeta.open_pool(image, mode="r+") as pool:
        with pool.transaction() as txn:
            txn.create_thin(1)
        device, txn = pool.devices[1], pool.transaction()
        txn.create_thin(2)
        # Block 0 can be written, and none of the transaction's.
        with no_file_longer_than(BLOCK), pytest.raises(thinmeta.PoisonedError) as caught:
            txn.commit()
        assert caught.value.needs_check_set
        copied = pickle.loads(pickle.dumps(caught.value))
        assert copied.needs_check_set and str(copied) == str(caught.value)
        assert txn.ended and pool.state == "read_only"
        assert (list(pool.devices), device.mapped_blocks) == ([1], 0)
        assert pool.superblock.needs_check
        with pytest.raises(thinmeta.ReadOnlyError, match="has to be reopened"):
            pool.transaction()
    with thinmeta.open_pool(image, mode="r+") as pool:
        assert pool.superblock.needs_check and pool.state == "read_only"
        assert list(pool.devices) == [1]
        assert not [each for each in thinmeta.check(pool).findings if each.severity == "fatal"]


def test_a_commit_of_which_nothing_can_be_written_asks_for_nothing(image: Path) -> None:
    before = image.read_bytes()
    with thinmeta.open_pool(image, mode="r+") as pool:
        txn = pool.transaction()
        txn.create_thin(2)
        with no_file_longer_than(0), pytest.raises(thinmeta.PoisonedError) as caught:
            txn.commit()
        assert not caught.value.needs_check_set
        assert not pool.superblock.needs_check
    assert image.read_bytes() == before
