"""A volume read from raw images holds what the kernel would have read."""

import hashlib
import io
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

import thinmeta
from corpus import Corpus, Image
from model import PoolModel
from oracles import ThinTools

PAIRS = ["pair-external", "pair-zeroing-1", "pair-zeroing-2"]
SECTOR = 512


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest, corpus: Corpus) -> Image:
    return corpus[request.param]


def size_of(image: Image, device_id: int | str) -> int:
    """The size that the kernel gave the device; the metadata do not know it."""
    return int(image.facts["kernel_reported"]["devices"][str(device_id)]["sectors"]) * SECTOR


def origin_of(image: Image, device_id: int | str) -> bytes | None:
    """The bytes of its external origin, if it has one."""
    origin = image.facts["kernel_reported"].get("external_origin")
    if origin is None or int(device_id) not in origin["devices"]:
        return None
    content = image.unpacked("ext").read_bytes()[: origin["sectors"] * SECTOR]
    assert hashlib.sha256(content).hexdigest() == origin["sha256"]
    return content


def sha256(stream: io.RawIOBase, chunk: int = 1 << 20) -> str:
    digest = hashlib.sha256()
    while piece := stream.read(chunk):
        digest.update(piece)
    return digest.hexdigest()


def test_every_volume_s_sha256_is_the_one_taken_through_the_kernel(pair: Image) -> None:
    recorded = pair.facts["kernel_reported"]["contents"]
    assert recorded
    with thinmeta.open_pool(pair.meta, data=pair.data) as pool:
        for device_id, wanted in recorded.items():
            content = origin_of(pair, device_id)
            origin = None if content is None else io.BytesIO(content)
            device = pool.devices[int(device_id)]
            with device.open(size_bytes=size_of(pair, device_id), external_origin=origin) as volume:
                assert volume.size_is_known
                assert sha256(volume) == wanted


def test_volumes_of_the_metadata_snapshot_hold_what_they_held_then(corpus: Corpus) -> None:
    image = corpus["pair-zeroing-2"]
    recorded = image.facts["kernel_reported"]["contents_at_metadata_snap"]
    assert recorded
    with thinmeta.open_pool(image.meta, data=image.data, metadata_snapshot="held") as pool:
        for device_id, wanted in recorded.items():
            size = size_of(image, device_id)
            with pool.devices[int(device_id)].open(size_bytes=size) as volume:
                assert sha256(volume) == wanted


@pytest.mark.parametrize("chunk", [511, 4096, 65536, 65537, 1 << 24])
def test_the_size_of_the_reads_makes_no_difference(corpus: Corpus, chunk: int) -> None:
    image = corpus["pair-zeroing-2"]
    with thinmeta.open_pool(image.meta, data=image.data) as pool:
        with pool.devices[1].open(size_bytes=size_of(image, 1)) as volume:
            assert sha256(volume, chunk) == image.facts["kernel_reported"]["contents"]["1"]


@pytest.fixture(scope="module")
def origin_file(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    content = origin_of(corpus["pair-external"], 0)
    assert content is not None
    path = tmp_path_factory.mktemp("origin") / "origin.img"
    path.write_bytes(content)
    return path


def reads_over(image: Image, origin: Any) -> str:
    with thinmeta.open_pool(image.meta, data=image.data) as pool:
        size = size_of(image, 0)
        with pool.devices[0].open(size_bytes=size, external_origin=origin) as volume:
            return sha256(volume)


def test_the_external_origin_is_a_path_or_a_binary_file(corpus: Corpus, origin_file: Path) -> None:
    image = corpus["pair-external"]
    wanted = image.facts["kernel_reported"]["contents"]["0"]

    assert reads_over(image, origin_file) == wanted
    assert reads_over(image, str(origin_file)) == wanted
    assert reads_over(image, io.BytesIO(origin_file.read_bytes())) == wanted
    with origin_file.open("rb") as buffered, origin_file.open("rb", buffering=0) as raw:
        assert reads_over(image, buffered) == wanted
        assert reads_over(image, raw) == wanted


def test_past_the_external_origin_s_end_there_are_zeros(corpus: Corpus, origin_file: Path) -> None:
    image = corpus["pair-external"]
    end = origin_file.stat().st_size
    block = image.model.block_bytes
    assert end % block, "the origin ends in the middle of a block"
    hole = end // block
    for cut in (end, end - 1, end - 700, hole * block, hole * block + 1):
        short = io.BytesIO(origin_file.read_bytes()[:cut])
        with thinmeta.open_pool(image.meta, data=image.data) as pool:
            device = pool.devices[1]
            assert device.find(hole) is None
            with device.open(size_bytes=size_of(image, 1), external_origin=short) as volume:
                volume.seek((hole - 1) * block)
                got = volume.read(2 * block)
        tail = got[cut - (hole - 1) * block :]
        assert tail == bytes(len(tail))
        if device_hole(image, 1, hole - 1):
            assert got[: cut - (hole - 1) * block] == short.getvalue()[(hole - 1) * block :]


def device_hole(image: Image, device_id: int, block: int) -> bool:
    return block not in image.model.devices[device_id].mappings


def test_a_read_with_a_hole_in_the_middle_is_neither_short_nor_zero(corpus: Corpus) -> None:
    image = corpus["pair-zeroing-2"]
    block = image.model.block_bytes
    data = image.data.read_bytes()
    mappings = image.model.devices[1].mappings
    hole = next(n for n in range(1, 80) if n not in mappings and {n - 1, n + 1} <= set(mappings))
    whole = image.model.content(1, data, size_of(image, 1))
    with thinmeta.open_pool(image.meta, data=image.data) as pool:
        with pool.devices[1].open(size_bytes=size_of(image, 1)) as volume:
            for before, after in [(100, 100), (block, block), (1, block - 1)]:
                begin = hole * block - before
                volume.seek(begin)
                got = volume.read(before + block + after)
                assert len(got) == before + block + after
                assert got == whole[begin : begin + len(got)]
                assert got[before : before + block] == bytes(block)
                assert got[:before].strip(b"\0") and got[-after:].strip(b"\0")


def test_reads_of_random_ranges_are_those_of_the_model(pair: Image) -> None:
    rng = random.Random(17)
    data = pair.data.read_bytes()
    with thinmeta.open_pool(pair.meta, data=pair.data) as pool:
        for device in pool.devices.values():
            size = size_of(pair, device.id)
            content = origin_of(pair, device.id)
            whole = pair.model.content(device.id, data, size, content or b"")
            origin = None if content is None else io.BytesIO(content)
            with device.open(size_bytes=size, external_origin=origin) as volume:
                for _ in range(200):
                    begin = rng.randrange(size + 1)
                    length = rng.choice((1, 511, 4096, 70000, 200000, 1000000))
                    volume.seek(begin)
                    assert volume.read(length) == whole[begin : begin + length]


class Unordered:
    """A pool whose blocks lie in the data in an order of their own."""

    BLOCKS = 64

    def __init__(self, folder: Path, tools: ThinTools) -> None:
        from model import DeviceModel

        rng = random.Random(5)
        order = rng.sample(range(self.BLOCKS), 40)
        virtual = sorted(rng.sample(range(90), 40))
        self.model = PoolModel(nr_data_blocks=self.BLOCKS)
        device = DeviceModel(
            id=1, mappings={v: (d, 0) for v, d in zip(virtual, order, strict=True)}
        )
        self.model.devices[1] = device
        self.meta, self.data = folder / "meta.img", folder / "data.img"
        tools.restore(self.model.to_xml(), self.meta)
        self.content = rng.randbytes(self.BLOCKS * self.model.block_bytes)
        self.data.write_bytes(self.content)


@pytest.fixture(scope="module")
def unordered(tmp_path_factory: pytest.TempPathFactory, thin_tools: ThinTools) -> Unordered:
    return Unordered(tmp_path_factory.mktemp("unordered"), thin_tools)


def test_reads_across_mapped_unmapped_and_unordered_blocks_are_right(unordered: Unordered) -> None:
    block, rng = unordered.model.block_bytes, random.Random(6)
    size = 91 * block - 1000
    whole = unordered.model.content(1, unordered.content, size)
    with thinmeta.open_pool(unordered.meta, data=unordered.data) as pool:
        with pool.devices[1].open(size_bytes=size) as volume:
            assert volume.readall() == whole
            for _ in range(300):
                begin = rng.randrange(size)
                length = rng.randrange(1, 12 * block)
                volume.seek(begin)
                assert volume.read(length) == whole[begin : begin + length]


@pytest.fixture
def volume(corpus: Corpus) -> Iterator[thinmeta.Volume]:
    image = corpus["pair-zeroing-2"]
    with thinmeta.open_pool(image.meta, data=image.data) as pool:
        with pool.devices[0].open(size_bytes=size_of(image, 0)) as stream:
            yield stream


def test_the_last_block_is_cut_where_the_volume_ends(volume: thinmeta.Volume) -> None:
    assert volume.size_bytes % 65536 == 24 * SECTOR
    volume.seek(-24 * SECTOR, io.SEEK_END)
    tail = volume.read(1 << 20)
    assert len(tail) == 24 * SECTOR
    assert tail[512:531] == b"tail of the device\n"
    assert volume.read(1) == b""


def test_seek_and_tell_count_bytes_from_all_three_ends(volume: thinmeta.Volume) -> None:
    size = volume.size_bytes
    assert volume.seek(10) == volume.tell() == 10
    assert volume.seek(5, io.SEEK_CUR) == 15
    assert volume.seek(-15, io.SEEK_CUR) == 0
    assert volume.seek(0, io.SEEK_END) == size
    assert volume.seek(-1, io.SEEK_END) == size - 1
    assert len(volume.read(100)) == 1
    assert volume.seek(size + 10) == size + 10
    assert volume.read(10) == b""
    assert volume.seek(2**63) == 2**63
    assert volume.read(10) == b""
    with pytest.raises((ValueError, OSError)):
        volume.seek(-1)
    with pytest.raises((ValueError, OSError)):
        volume.seek(0, 9)
    assert volume.seekable() and volume.readable() and not volume.writable()


def test_readinto_fills_any_writable_buffer(volume: thinmeta.Volume) -> None:
    volume.seek(0)
    wanted = volume.read(1000)
    for buffer in (
        bytearray(1000),
        memoryview(bytearray(1000)),
        memoryview(bytearray(1000)).cast("I"),
    ):
        volume.seek(0)
        assert volume.readinto(buffer) == 1000
        assert bytes(buffer) == wanted
    assert volume.readinto(bytearray()) == 0
    with pytest.raises((TypeError, BufferError)):
        volume.readinto(b"read-only")


def test_a_buffered_reader_over_a_volume_works(volume: thinmeta.Volume) -> None:
    volume.seek(0)
    wanted = volume.readall()
    with io.BufferedReader(volume) as stream:
        stream.seek(0)
        assert b"".join(iter(lambda: stream.read(777), b"")) == wanted


def test_a_closed_volume_refuses_reads_and_its_pool_lives_on(corpus: Corpus) -> None:
    image = corpus["pair-zeroing-2"]
    with thinmeta.open_pool(image.meta, data=image.data) as pool:
        volume = pool.devices[0].open()
        volume.close()
        volume.close()
        for use in (volume.readall, lambda: volume.read(1), volume.tell, lambda: volume.seek(0)):
            with pytest.raises(ValueError, match="closed"):
                use()
        assert pool.devices[0].mapped_blocks == 103


def test_without_a_size_a_volume_ends_at_its_highest_mapped_block(pair: Image) -> None:
    with thinmeta.open_pool(pair.meta, data=pair.data) as pool:
        for device in pool.devices.values():
            end_block = pair.model.devices[device.id].end_block
            with device.open() as stream:
                assert not stream.size_is_known
                assert stream.size_bytes == end_block * pair.model.block_bytes
                assert stream.seek(0, io.SEEK_END) == stream.size_bytes


def test_a_size_below_the_mapped_blocks_cuts_the_volume(corpus: Corpus) -> None:
    image = corpus["pair-zeroing-2"]
    whole = image.model.content(0, image.data.read_bytes(), size_of(image, 0))
    with thinmeta.open_pool(image.meta, data=image.data) as pool:
        for size in (0, 1, 65535, 65536, 65537, 1000001):
            with pool.devices[0].open(size_bytes=size) as stream:
                assert stream.readall() == whole[:size]


def test_a_vast_sparse_volume_is_readable_at_its_far_end(corpus: Corpus, tmp_path: Path) -> None:
    image = corpus["sparse-keys"]
    data = tmp_path / "data.img"
    with data.open("wb") as file:
        for block, _ in image.model.devices[5].mappings.values():
            file.seek(block * 65536)
            file.write(block.to_bytes(8, "little") * 4)
        file.truncate(image.model.nr_data_blocks * 65536)
    last = max(image.model.devices[5].mappings)
    with thinmeta.open_pool(image.meta, data=data) as pool:
        with pool.devices[5].open() as stream:
            assert stream.size_bytes == (last + 1) * 65536 == 2**59
            for virtual, (block, _) in sorted(image.model.devices[5].mappings.items())[::40]:
                stream.seek(virtual * 65536 - 3 if virtual else 0)
                got = stream.read(32)
                assert block.to_bytes(8, "little") in got
            stream.seek(last * 65536)
            assert stream.read(8) == image.model.devices[5].mappings[last][0].to_bytes(8, "little")


def test_a_data_image_that_ends_before_a_mapped_block_is_an_error_naming_it(
    corpus: Corpus, tmp_path: Path
) -> None:
    image = corpus["pair-zeroing-2"]
    mappings = image.model.devices[0].mappings
    highest = max(mappings, key=lambda virtual: mappings[virtual][0])
    data_block = mappings[highest][0]
    short = tmp_path / "short.img"
    short.write_bytes(image.data.read_bytes()[: data_block * 65536 + 100])
    with thinmeta.open_pool(image.meta, data=short) as pool:
        with pool.devices[0].open(size_bytes=size_of(image, 0)) as stream:
            stream.seek(highest * 65536 + 50)
            with pytest.raises((OSError, thinmeta.ThinmetaError), match=str(data_block)):
                stream.read(4096)
            fine = min(mappings, key=lambda virtual: mappings[virtual][0])
            stream.seek(fine * 65536)
            assert len(stream.read(65536)) == 65536


def test_opening_a_volume_without_data_is_a_usage_error(corpus: Corpus) -> None:
    image = corpus["pair-zeroing-2"]
    with thinmeta.open_pool(image.meta) as pool, pytest.raises(thinmeta.UsageError):
        pool.devices[0].open()


def test_an_origin_that_fails_to_read_raises_its_own_error(corpus: Corpus) -> None:
    class Broken(io.BytesIO):
        def readinto(self, buffer: Any, /) -> int:
            raise OSError(5, "the origin is broken")

        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(5, "the origin is broken")

    origin: BinaryIO = Broken(bytes(1 << 20))
    image = corpus["pair-external"]
    with thinmeta.open_pool(image.meta, data=image.data) as pool:
        with pool.devices[0].open(size_bytes=1 << 20, external_origin=origin) as stream:
            with pytest.raises(OSError, match="the origin is broken"):
                stream.readall()


def test_a_missing_data_image_is_the_plain_os_error(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        with thinmeta.open_pool(corpus["pair-zeroing-1"].meta, data=tmp_path / "none") as pool:
            pool.devices[0].open()
    assert caught.value.filename == os.fspath(tmp_path / "none")
