"""What the calls take and refuse, and how they say so."""

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import thinmeta
from corpus import Corpus


@pytest.fixture
def pool(corpus: Corpus) -> Iterator[thinmeta.Pool]:
    image = corpus["pair-zeroing-2"]
    with thinmeta.open_pool(image.meta, data=image.data) as opened:
        yield opened


class Raw(io.RawIOBase):
    """Takes some bytes of each write, and at some point none."""

    def __init__(self, takes: list[int | None]) -> None:
        self.takes, self.got = takes, b""

    def write(self, data: Any, /) -> int | None:
        count = self.takes.pop(0) if self.takes else len(data)
        self.got += bytes(data[:count]) if count is not None else b""
        return count


class Silent:
    """Takes everything and says nothing."""

    def __init__(self) -> None:
        self.got = b""

    def write(self, data: bytes) -> None:
        self.got += data


def dumped(pool: thinmeta.Pool) -> bytes:
    out = io.BytesIO()
    thinmeta.dump(pool, out)
    return out.getvalue()


def test_a_raw_file_that_would_block_ends_a_dump(pool: thinmeta.Pool) -> None:
    out = Raw([10, None])
    with pytest.raises(BlockingIOError, match="takes nothing now"):
        thinmeta.dump(pool, out)
    assert out.got == dumped(pool)[:10]


def test_a_dump_goes_to_whatever_writes(pool: thinmeta.Pool) -> None:
    wanted = dumped(pool)
    raw, silent = Raw([1, 2, 3]), Silent()
    thinmeta.dump(pool, raw)
    thinmeta.dump(pool, silent)
    assert raw.got == silent.got == wanted


@pytest.mark.parametrize("kind", [str, os.fsencode, Path])
def test_a_dump_to_a_path_appears_whole(
    pool: thinmeta.Pool, tmp_path: Path, kind: Callable[[Path], Any]
) -> None:
    thinmeta.dump(pool, kind(tmp_path / "out.xml"))
    assert (tmp_path / "out.xml").read_bytes() == dumped(pool)
    assert [path.name for path in tmp_path.iterdir()] == ["out.xml"]


def test_a_dump_to_a_path_that_fails_names_it(pool: thinmeta.Pool, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as full:
        thinmeta.dump(pool, "/dev/full")
    assert full.value.filename == "/dev/full"
    with pytest.raises(FileNotFoundError) as absent:
        thinmeta.dump(pool, tmp_path / "absent" / "out.xml")
    assert absent.value.filename == str(tmp_path / "absent" / "out.xml")
    before = Path(pool.path).read_bytes()
    with pytest.raises(thinmeta.UsageError, match="is the input"):
        thinmeta.dump(pool, pool.path)
    assert Path(pool.path).read_bytes() == before


@pytest.mark.parametrize("out", [None, True, 1.5, object(), io.StringIO()])
def test_what_cannot_be_written_to_is_a_type_error(pool: thinmeta.Pool, out: Any) -> None:
    with pytest.raises(TypeError, match="out must be"):
        thinmeta.dump(pool, out)


def test_a_dump_of_an_absent_device_writes_nothing(pool: thinmeta.Pool, tmp_path: Path) -> None:
    with pytest.raises(thinmeta.NoSuchDeviceError, match="99"):
        thinmeta.dump(pool, tmp_path / "out.xml", device_ids=[0, 99])
    assert not any(tmp_path.iterdir())


def test_a_path_may_be_bytes(corpus: Corpus, tmp_path: Path) -> None:
    image = corpus["pair-zeroing-2"]
    meta, data = os.fsencode(image.meta), os.fsencode(image.data)
    (tmp_path / "origin").write_bytes(b"o" * 65536)
    assert thinmeta.check(meta).is_clean
    out = io.BytesIO()
    thinmeta.dump(meta, out)
    with thinmeta.open_pool(meta, data=data) as pool:
        assert out.getvalue() == dumped(pool)
        device = pool.devices[0]
        hole = next(block for block in range(1000) if device.find(block) is None)
        size = (hole + 1) * 65536
        origins: list[Any] = [
            os.fsencode(tmp_path / "origin"),
            str(tmp_path / "origin"),
            tmp_path / "origin",
        ]
        contents = set()
        for origin in origins:
            with device.open(size_bytes=size, external_origin=origin) as volume:
                contents.add(volume.read(size))
        assert len(contents) == 1


@pytest.mark.parametrize("threads", [0, -1, 2**64])
def test_a_number_of_threads_that_makes_no_sense(pool: thinmeta.Pool, threads: int) -> None:
    uses: list[Callable[..., Any]] = [
        lambda **more: pool.delta(0, 2, **more),
        pool.exclusive_blocks,
        pool.statistics,
        lambda **more: thinmeta.check(pool, **more),
        lambda **more: thinmeta.dump(pool, io.BytesIO(), **more),
    ]
    for use in uses:
        with pytest.raises(thinmeta.UsageError, match=f"threads is {threads}"):
            use(threads=threads)
        for wrong in (True, 1.5, "2"):
            with pytest.raises(TypeError, match="threads must be"):
                use(threads=wrong)


def test_a_cache_that_makes_no_sense(corpus: Corpus) -> None:
    meta = corpus["empty"].meta
    for cache_bytes in (-1, 2**64):
        with pytest.raises(thinmeta.UsageError, match="no cache can have"):
            thinmeta.open_pool(meta, cache_bytes=cache_bytes)
    with pytest.raises(TypeError, match="cache_bytes must be"):
        thinmeta.open_pool(meta, cache_bytes=1.5)  # type: ignore[arg-type]
    with thinmeta.open_pool(meta, cache_bytes=0) as pool:
        assert not pool.devices


def test_what_is_open_for_reading_is_not_written(pool: thinmeta.Pool) -> None:
    with pytest.raises(thinmeta.UsageError, match="mode is 'w'"):
        thinmeta.open_pool(pool.path, mode="w")  # type: ignore[arg-type]
    with pytest.raises(thinmeta.UsageError, match="mode is 'a'"):
        pool.devices[0].open(mode="a")  # type: ignore[call-overload]
    assert (pool.mode, pool.state) == ("r", "read_only")
    with pytest.raises(thinmeta.ReadOnlyError):
        pool.transaction()
    with pytest.raises(thinmeta.ReadOnlyError):
        pool.devices[0].open(mode="r+")
    with pool.devices[0].open() as volume:
        assert not volume.writable()
        with pytest.raises(io.UnsupportedOperation):
            volume.write(b"x")


def test_a_volume_is_moved_in_by_whole_numbers_however_large(pool: thinmeta.Pool) -> None:
    with pool.devices[0].open() as volume:
        for wrong in (1.5, "1", None):
            with pytest.raises(TypeError):
                volume.seek(wrong)  # type: ignore[arg-type]
        for far in (volume.size_bytes, 2**63, 2**64, 2**80):
            assert volume.seek(far) == volume.tell() == far
            assert volume.read(10) == volume.read() == b""
            assert volume.readinto(bytearray(10)) == 0
        assert volume.seek(0) == 0
        assert len(volume.read(10)) == 10


def test_a_bool_is_no_block(pool: thinmeta.Pool) -> None:
    device = pool.devices[0]
    for use in (device.find, device.runs):
        with pytest.raises(TypeError, match="not bool"):
            use(True)


def test_a_closed_pool_is_not_entered(pool: thinmeta.Pool) -> None:
    pool.close()
    with pytest.raises(thinmeta.UsageError, match="the pool is closed"):
        pool.__enter__()


def test_rows_of_a_delta_are_had_one_by_one_and_in_slices(pool: thinmeta.Pool) -> None:
    delta = pool.delta(0, 2)
    rows = list(delta)
    assert len(rows) > 3
    assert delta[1:3] == rows[1:3]
    assert delta[::-1] == rows[::-1]
    assert delta[-1] == rows[-1]
    wrong: Any
    for wrong in (1.0, "1", None, True):
        with pytest.raises(TypeError):
            delta[wrong]
    with pytest.raises(IndexError):
        delta[len(rows)]


def test_devices_are_equal_in_one_pool_only(pool: thinmeta.Pool) -> None:
    one, same, other = pool.devices[0], pool.devices[0], pool.devices[1]
    assert one == same and hash(one) == hash(same)
    assert one != other and one != 0
    with thinmeta.open_pool(pool.path) as second:
        assert second.devices[0] != one
    assert len({one, same, other}) == 2
