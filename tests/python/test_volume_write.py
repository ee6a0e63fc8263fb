"""Writing volumes without a kernel: what is read back, and what is refused."""

import io
import os
import random
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import thinmeta
from oracles import ThinTools, missing

BLOCK = 64 << 10
DATA_BLOCKS = 40
SIZE = 8 * BLOCK + 5000


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, Path]:
    """Metadata and data of a pool with the one device 1."""
    return make(tmp_path)


def make(folder: Path, *, sectors: int = 128) -> tuple[Path, Path]:
    meta, data = folder / "meta.img", folder / "data.img"
    for path in (meta, data):
        path.unlink(missing_ok=True)
    with data.open("wb") as file:
        file.truncate(DATA_BLOCKS * sectors * 512)
    with (
        thinmeta.Pool.create(
            meta, data_block_size_sectors=sectors, data_blocks=DATA_BLOCKS, metadata_blocks=300
        ) as pool,
        pool.transaction() as txn,
    ):
        txn.create_thin(1)
    return meta, data


@pytest.fixture
def pool(images: tuple[Path, Path]) -> Iterator[thinmeta.Pool]:
    meta, data = images
    with thinmeta.open_pool(meta, mode="r+", data=data) as pool:
        yield pool


class Volumes:
    """A pool written at random, and what each volume should hold."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.block = self.random.choice((1, 3)) * BLOCK
        self.size = 8 * self.block + 5000
        self.meta, self.data = make(folder, sectors=self.block // 512)
        self.origin: Any = {}
        self.under = bytearray(self.size)
        if self.random.random() < 0.4:
            origin = self.random.randbytes(5 * self.block + 777)
            self.origin = {"external_origin": io.BytesIO(origin)}
            self.under[: len(origin)] = origin
        self.model = {1: bytearray(self.under)}
        self.open()

    def open(self) -> None:
        self.pool = thinmeta.open_pool(self.meta, mode="r+", data=self.data)

    def step(self) -> None:
        ids, kind = list(self.model), self.random.random()
        if kind < 0.15 and len(ids) < 5:
            made, origin = max(ids) + 1, self.random.choice(ids)
            with self.pool.transaction() as txn:
                txn.create_snapshot(made, origin_id=origin)
            self.model[made] = bytearray(self.model[origin])
        elif kind < 0.2 and len(ids) > 1:
            gone = self.random.choice(ids)
            with self.pool.transaction() as txn:
                txn.delete(gone)
            del self.model[gone]
        elif kind < 0.3:
            self.pool.close()
            assert thinmeta.check(self.meta).is_clean
            self.open()
        else:
            self._write(self.random.choice(ids))

    def _write(self, device_id: int) -> None:
        draw, content = self.random, self.model[device_id]
        device = self.pool.devices[device_id]
        with device.open(mode="r+", size_bytes=self.size, **self.origin) as volume:
            for _ in range(draw.randint(1, 5)):
                at = draw.randrange(self.size)
                wanted = draw.choice((1, 100, 4096, self.block, 2 * self.block + 1, self.size))
                if draw.random() < 0.2:
                    self._discard(volume, content, at, min(wanted, self.size - at))
                    continue
                written = draw.randbytes(wanted)
                volume.seek(at)
                try:
                    count = volume.write(written)
                except thinmeta.NoSpaceError:
                    volume.flush()  # which frees what was freed
                    continue
                assert count == min(wanted, self.size - at)
                assert volume.tell() == at + count
                content[at : at + count] = written[:count]
                if draw.random() < 0.3:
                    volume.flush()
                volume.seek(0)
                assert volume.readall() == content

    def _discard(
        self, volume: thinmeta.WritableVolume, content: bytearray, at: int, length: int
    ) -> None:
        volume.discard(at, length)
        first, end = -(-at // self.block), (at + length) // self.block
        if at + length == self.size:
            end = -(-self.size // self.block)
        if first < end:
            part = slice(first * self.block, min(end * self.block, self.size))
            content[part] = self.under[part]

    def judge(self) -> None:
        for device_id, content in self.model.items():
            device = self.pool.devices[device_id]
            with device.open(size_bytes=self.size, **self.origin) as volume:
                assert volume.readall() == content, device_id
        assert thinmeta.check(self.pool).is_clean


@pytest.mark.parametrize("seed", range(8))
def test_volumes_hold_what_was_written_to_them(
    tmp_path: Path, thin_tools: ThinTools, seed: int
) -> None:
    volumes = Volumes(tmp_path, seed)
    for _ in range(40):
        volumes.step()
        volumes.judge()
    volumes.pool.close()
    assert thin_tools.check(volumes.meta) == 0


def test_nothing_is_committed_before_a_flush(
    pool: thinmeta.Pool, images: tuple[Path, Path]
) -> None:
    meta = images[0]
    before = meta.read_bytes()
    with pool.devices[1].open(mode="r+", size_bytes=SIZE) as volume:
        assert volume.writable() and volume.readable() and volume.seekable()
        assert (volume.size_bytes, volume.size_is_known) == (SIZE, True)
        assert volume.write(b"x" * 100) == 100
        assert meta.read_bytes() == before
        assert pool.devices[1].mapped_blocks == 0
        volume.flush()
        assert pool.devices[1].mapped_blocks == 1
        after = meta.read_bytes()
        volume.seek(50)
        volume.write(b"y")  # in its place: the metadata has nothing to say
        volume.flush()
        assert meta.read_bytes() == after
    assert (
        volume.closed and pool.devices[1].open().read(102) == b"x" * 50 + b"y" + b"x" * 49 + b"\0\0"
    )


def test_a_write_ends_where_the_volume_ends(pool: thinmeta.Pool) -> None:
    with pool.devices[1].open(mode="r+", size_bytes=SIZE) as volume:
        volume.seek(SIZE - 10)
        assert volume.write(b"z" * 50) == 10
        with pytest.raises(OSError, match="the volume ends at") as caught:
            volume.write(b"z")
        assert caught.value.errno == 28
        assert volume.write(b"") == 0
        volume.seek(SIZE - 10)
        assert volume.readall() == b"z" * 10
        with pytest.raises(io.UnsupportedOperation):
            volume.truncate(5)
        with pytest.raises(thinmeta.UsageError, match="not in a volume"):
            volume.discard(0, SIZE + 1)
        with pytest.raises(TypeError):
            volume.write("text")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="closed"):
        volume.write(b"z")


def test_a_device_without_mappings_has_no_size_of_its_own(pool: thinmeta.Pool) -> None:
    with pool.devices[1].open(mode="r+") as volume:
        assert (volume.size_bytes, volume.size_is_known) == (0, False)
        with pytest.raises(OSError, match="ends at 0 bytes"):
            volume.write(b"x")


def test_it_goes_below_pythons_own_buffers(pool: thinmeta.Pool) -> None:
    raw = pool.devices[1].open(mode="r+", size_bytes=SIZE)
    with io.BufferedRandom(raw) as file:
        file.write(b"hello ")
        file.write(b"world")
        file.seek(0)
        assert file.read(11) == b"hello world"
        file.seek(70_000)
        file.write(b"!")
    with pool.devices[1].open() as volume:
        content = volume.readall()
    assert content[:11] == b"hello world" and content[70_000:70_001] == b"!"


def test_a_snapshot_keeps_what_it_had(pool: thinmeta.Pool) -> None:
    with pool.devices[1].open(mode="r+", size_bytes=SIZE) as volume:
        volume.write(b"a" * SIZE)
    with pool.transaction() as txn:
        txn.create_snapshot(2, origin_id=1)
    with pool.devices[1].open(mode="r+") as volume:
        volume.seek(10)
        volume.write(b"b")
    assert pool.devices[2].open().read(20) == b"a" * 20
    assert pool.devices[1].open().read(20) == b"a" * 10 + b"b" + b"a" * 9
    delta = pool.delta(2, 1)
    assert [(row.kind, row.begin_blocks, row.length_blocks) for row in delta] == [("changed", 0, 1)]


def test_sharing_is_told_by_the_time_and_not_by_the_count(pool: thinmeta.Pool) -> None:
    """What is written after a snapshot moves, for change tracking compares data blocks."""
    with pool.devices[1].open(mode="r+", size_bytes=SIZE) as volume:
        volume.write(b"a" * BLOCK)
    first = pool.devices[1].find(0)
    with pool.transaction() as txn:
        txn.create_snapshot(2, origin_id=1)
        txn.delete(2)
    with pool.devices[1].open(mode="r+") as volume:
        volume.write(b"b")
    second = pool.devices[1].find(0)
    assert first is not None and second is not None
    assert first.data_block != second.data_block
    with pool.devices[1].open(mode="r+") as volume:
        volume.write(b"c")
    assert pool.devices[1].find(0) == second


def test_a_transaction_and_volumes_with_changes_exclude_each_other(pool: thinmeta.Pool) -> None:
    volume = pool.devices[1].open(mode="r+", size_bytes=SIZE)
    with pool.transaction():  # open, but without changes
        with pytest.raises(thinmeta.UsageError, match="transaction open"):
            volume.write(b"x")
        with pytest.raises(thinmeta.UsageError, match="transaction open"):
            volume.discard(0, BLOCK)
        assert volume.read(1) == b"\0"
    volume.seek(0)
    volume.write(b"x")
    with pytest.raises(thinmeta.UsageError, match="not committed"):
        pool.transaction()
    other = pool.devices[1].open(mode="r+", size_bytes=SIZE)
    assert other.read(1) == b"x", "one transaction for all volumes"
    other.flush()
    pool.transaction().commit()
    volume.close()
    other.close()


def test_closing_the_pool_commits_what_volumes_wrote(images: tuple[Path, Path]) -> None:
    meta, data = images
    with thinmeta.open_pool(meta, mode="r+", data=data) as pool:
        volume = pool.devices[1].open(mode="r+", size_bytes=SIZE)
        volume.write(b"kept")
    with pytest.raises(thinmeta.UsageError, match="closed"):
        volume.write(b"x")
    volume.close()
    with thinmeta.open_pool(meta, data=data) as pool:
        assert pool.devices[1].open().read(4) == b"kept"


def test_space_runs_out_before_anything_is_written(pool: thinmeta.Pool) -> None:
    size = (DATA_BLOCKS + 5) * BLOCK
    with pool.devices[1].open(mode="r+", size_bytes=size) as volume:
        with pytest.raises(thinmeta.NoSpaceError) as caught:
            volume.write(b"x" * size)
        assert caught.value.space == "data"
        assert volume.write(b"y" * BLOCK * DATA_BLOCKS) == BLOCK * DATA_BLOCKS
        with pytest.raises(thinmeta.NoSpaceError):
            volume.write(b"z")
        states = [pool.state]
        volume.flush()
        assert volume.discard(0, BLOCK * 3) == BLOCK * 3
        # What was freed is still the last commit's.
        volume.seek(0)
        with pytest.raises(thinmeta.NoSpaceError):
            volume.write(b"z")
        volume.flush()
        assert volume.write(b"z") == 1
        assert [*states, pool.state] == ["out_of_data_space", "write"]
    assert pool.devices[1].mapped_blocks == DATA_BLOCKS - 2
    assert thinmeta.check(pool).is_clean


def test_the_data_device_has_to_fit(images: tuple[Path, Path], tmp_path: Path) -> None:
    meta, data = images
    before = meta.read_bytes()
    short = tmp_path / "short.img"
    with short.open("wb") as file:
        file.truncate(DATA_BLOCKS * BLOCK - 1)
    with pytest.raises(thinmeta.UsageError, match="do not fit"):
        thinmeta.open_pool(meta, mode="r+", data=short)
    with pytest.raises(thinmeta.UsageError, match="do not fit"):
        thinmeta.Pool.create(
            tmp_path / "new", data_block_size_sectors=128, data_blocks=DATA_BLOCKS,
            metadata_blocks=100, data=short,
        )  # fmt: skip
    assert not (tmp_path / "new").exists()
    with pytest.raises(FileNotFoundError):
        thinmeta.open_pool(meta, mode="r+", data=tmp_path / "none")
    with thinmeta.open_pool(meta, mode="r+") as pool, pytest.raises(thinmeta.UsageError):
        pool.devices[1].open(mode="r+")
    with thinmeta.open_pool(meta, mode="r+", data=data) as pool:
        with pytest.raises(thinmeta.DeviceInUseError):
            thinmeta.open_pool(meta, mode="r+", data=data)
        with pool.transaction() as txn:
            txn.grow_data(DATA_BLOCKS + 10)
    assert data.stat().st_size == (DATA_BLOCKS + 10) * BLOCK
    assert meta.read_bytes() != before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of a megabyte."""
    place = tmp_path / "small"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if os.geteuid() != 0:
        missing("mounting a small disk needs root")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        missing(f"no small disk here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_under_the_data_image_loses_nothing(
    images: tuple[Path, Path], small_disk: Path
) -> None:
    meta = images[0]
    image = small_disk / "data.img"
    with image.open("wb") as file:
        file.truncate(DATA_BLOCKS * BLOCK)
    with thinmeta.open_pool(meta, mode="r+", data=image) as pool:
        with pool.devices[1].open(mode="r+", size_bytes=SIZE) as volume:
            volume.write(b"a" * BLOCK)
        with pool.transaction() as txn:
            txn.create_snapshot(2, origin_id=1)
        used = pool.data_space.allocated
        (small_disk / "rest").write_bytes(bytes(1 << 19))
        with pool.devices[1].open(mode="r+", size_bytes=20 * BLOCK) as volume:
            with pytest.raises(OSError, match="No space left on device") as caught:
                volume.write(b"b" * 18 * BLOCK)
            assert not isinstance(caught.value, thinmeta.ThinmetaError)
            volume.seek(0)
            assert volume.read(2) == b"aa"
        assert pool.data_space.allocated == used, "what was not written is not mapped"
        assert pool.state == "write"
        assert pool.devices[2].open().read(2) == b"aa"
        assert thinmeta.check(pool).is_clean


def test_a_deleted_device_is_written_no_more(pool: thinmeta.Pool) -> None:
    volume = pool.devices[1].open(mode="r+", size_bytes=SIZE)
    with pool.transaction() as txn:
        txn.delete(1)
    with pytest.raises(thinmeta.NoSuchDeviceError):
        volume.write(b"x")
    volume.close()


def test_an_external_origin_cannot_use_the_pool_that_reads_it(pool: thinmeta.Pool) -> None:
    """It may be anybody's code, and runs in the middle of a call: no deadlock."""
    asked: list[object] = []

    class Origin(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            for use in (pool.transaction, other.flush, lambda: other.write(b"x"), pool.close):
                with pytest.raises(thinmeta.UsageError, match="in the middle of a call"):
                    use()
                asked.append(use)
            assert pool.devices[1].mapped_blocks == 0, "the last commit can be read"
            return super().read(size)

    other = pool.devices[1].open(mode="r+", size_bytes=SIZE)
    origin = Origin(b"o" * SIZE)
    with pool.devices[1].open(mode="r+", size_bytes=SIZE, external_origin=origin) as volume:
        volume.write(b"x")
        volume.seek(0)
        assert volume.read(3) == b"xoo"
    assert asked and not pool.closed
    assert pool.devices[1].mapped_blocks == 1
    other.close()


def test_threads_write_their_own_volumes(pool: thinmeta.Pool) -> None:
    with pool.transaction() as txn:
        for device_id in (2, 3, 4):
            txn.create_thin(device_id)
    failures: list[BaseException] = []

    def write(device_id: int) -> None:
        try:
            with pool.devices[device_id].open(mode="r+", size_bytes=SIZE) as volume:
                for at in range(0, SIZE, 9000):
                    volume.seek(at)
                    volume.write(bytes([device_id]) * 9000)
                    if at % 4 == 0:
                        volume.flush()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(each,)) for each in (1, 2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]
    for device_id in (1, 2, 3, 4):
        assert set(pool.devices[device_id].open(size_bytes=SIZE).readall()) == {device_id}
    assert thinmeta.check(pool).is_clean
