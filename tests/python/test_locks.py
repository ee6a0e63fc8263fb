"""A device in use is refused; readers do not shut each other out."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import thinmeta
from command import ThinmetaCommand
from corpus import Corpus
from loops import loop_device

HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
fcntl.flock(file, fcntl.LOCK_EX if sys.argv[2] == "exclusive" else fcntl.LOCK_SH)
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def meta(corpus: Corpus, tmp_path: Path) -> Path:
    path = tmp_path / "meta.img"
    shutil.copyfile(corpus["metadata-snap"].meta, path)
    return path


@pytest.fixture(params=["exclusive", "shared"])
def holder(request: pytest.FixtureRequest, meta: Path) -> Iterator[str]:
    """Another process that holds a lock on the file."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(meta), request.param],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "locked\n"
        yield request.param
        process.stdin.close()


def test_a_file_locked_by_a_writer_is_refused_and_by_a_reader_is_not(
    holder: str, meta: Path, command: ThinmetaCommand
) -> None:
    if holder == "shared":
        with thinmeta.open_pool(meta) as pool:
            assert len(pool.devices) == 4
        return
    for use in (thinmeta.open_pool, thinmeta.check):
        with pytest.raises(thinmeta.DeviceInUseError) as caught:
            use(meta)
        assert caught.value.errno == errno.EBUSY
        assert caught.value.path == caught.value.filename == str(meta)
        assert caught.value.reason
    done = command("ls", meta)
    assert done.returncode == 3
    assert done.stderr.startswith("thinmeta: ")
    assert "in use" in done.stderr


def test_a_metadata_snapshot_is_read_beside_a_writer(holder: str, meta: Path) -> None:
    with thinmeta.open_pool(meta, metadata_snapshot="held") as pool:
        assert list(pool.devices) == [0, 1, 2]
    assert thinmeta.check(meta, metadata_snapshot="held").is_clean


def test_while_a_pool_is_open_no_writer_gets_in(meta: Path) -> None:
    with thinmeta.open_pool(meta), meta.open("r+b") as writer:
        with pytest.raises(BlockingIOError):
            fcntl.flock(writer, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with meta.open("r+b") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_any_number_of_readers_may_look_at_a_file(meta: Path) -> None:
    with thinmeta.open_pool(meta) as one, thinmeta.open_pool(meta) as other:
        assert list(one.devices) == list(other.devices)
        assert thinmeta.check(meta).is_clean


@pytest.fixture
def loop(meta: Path) -> Iterator[Path]:
    """A loop device that stands on the file."""
    with loop_device(meta) as device:
        yield device


def test_a_file_under_a_loop_device_is_in_use(loop: Path, meta: Path) -> None:
    with pytest.raises(thinmeta.DeviceInUseError, match=loop.name):
        thinmeta.open_pool(meta)
    with thinmeta.open_pool(meta, metadata_snapshot="held") as pool:
        assert list(pool.devices) == [0, 1, 2]


def test_a_block_device_is_read_like_the_file_beneath_it(loop: Path, corpus: Corpus) -> None:
    image = corpus["metadata-snap"]
    with thinmeta.open_pool(loop) as pool:
        assert list(pool.devices) == sorted(image.model.devices)
        assert pool.metadata_space.blocks == 1024
    assert thinmeta.check(loop).is_clean
    with thinmeta.open_pool(loop, metadata_snapshot="held") as pool:
        assert list(pool.devices) == sorted(image.held_model.devices)


def test_a_block_device_held_by_another_is_in_use_but_its_snapshot_readable(loop: Path) -> None:
    holder = os.open(loop, os.O_RDWR | os.O_EXCL)
    try:
        with pytest.raises(thinmeta.DeviceInUseError) as caught:
            thinmeta.open_pool(loop)
        assert caught.value.errno == errno.EBUSY
        with thinmeta.open_pool(loop, metadata_snapshot="held") as pool:
            assert list(pool.devices) == [0, 1, 2]
    finally:
        os.close(holder)


def test_a_snapshot_reader_sees_what_was_written_past_the_page_cache(
    loop: Path, corpus: Corpus
) -> None:
    """The kernel writes metadata by direct I/O; a buffered reader sees stale pages."""
    import mmap

    other = corpus["pair-zeroing-2"]
    with open(loop, "rb", buffering=0) as stale:
        stale.read(4 << 20)  # the page cache holds the old pool now
        buffer = mmap.mmap(-1, 4 << 20)
        buffer.write(other.meta.read_bytes())
        direct = os.open(loop, os.O_WRONLY | os.O_DIRECT)
        os.pwrite(direct, buffer, 0)
        os.close(direct)
        with thinmeta.open_pool(loop, metadata_snapshot="held") as pool:
            listed = {d.id: d.mapped_blocks for d in pool.devices.values()}
    assert listed == {d.id: d.mapped_blocks for d in other.held_model.devices.values()}
