"""What somebody else does while a stream comes, and other ways to lose what is there."""

import io
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import thinmeta
from streams import Source, monday_and_tuesday, receive
from thinmeta import stream


class Slow(io.BytesIO):
    """A stream during which something happens, at its middle."""

    def __init__(self, content: bytes, happens: Callable[[], None]) -> None:
        super().__init__(content)
        self._half, self._happens = len(content) // 2, happens

    def _look(self) -> None:
        if self.tell() >= self._half:
            happens, self._happens = self._happens, lambda: None
            happens()

    def read(self, size: int | None = -1, /) -> bytes:
        self._look()
        return super().read(size)

    def readinto(self, buffer: object, /) -> int:
        self._look()
        return super().readinto(buffer)  # type: ignore[arg-type]


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return monday_and_tuesday(tmp_path / "source")


def write(path: Path, content: bytes) -> None:
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(content)
        times = os.fstat(file.fileno())
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 1))


def test_a_copy_that_is_changed_while_changes_come_is_left_alone(
    source: Source, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.img"
    receive(source.send(2), copy)
    changes = Slow(source.send(3, 2), lambda: write(copy, b"mine"))
    with pytest.raises(thinmeta.WrongBaseError, match="somebody has changed it"):
        stream.receive(changes, copy)
    expected = b"mine" + source.content(2)[4:]
    assert copy.read_bytes() == expected
    # Nor does the next one apply what is kept, unless that is meant.
    with pytest.raises(thinmeta.WrongBaseError, match="somebody has changed it"):
        stream.receive(None, copy, resume=True)
    assert copy.read_bytes() == expected
    stream.receive(None, copy, resume=True, force_base=True)
    assert copy.read_bytes()[4:] == source.content(3)[4:]


def test_a_file_that_appears_while_a_volume_comes_is_not_overwritten(
    source: Source, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.img"
    whole = source.send(2)
    with pytest.raises(thinmeta.AlreadyFormattedError, match="while the stream came"):
        stream.receive(Slow(whole, lambda: write(copy, b"precious")), copy)
    assert copy.read_bytes() == b"precious"
    receive(whole, copy, overwrite=True)
    assert copy.read_bytes() == source.content(2)
    empty = tmp_path / "empty.img"
    empty.touch()
    with pytest.raises(thinmeta.AlreadyFormattedError, match="while the stream came"):
        stream.receive(Slow(whole, lambda: write(empty, b"precious")), empty)
    assert empty.read_bytes() == b"precious"


def test_a_size_that_was_guessed_does_not_cut_a_copy_off(source: Source, tmp_path: Path) -> None:
    copy = tmp_path / "copy.img"
    source.size += 10 << 20
    receive(source.send(2), copy)
    with pytest.raises(thinmeta.WrongBaseError, match="--size"):
        receive(source.send(3, 2, options={"size_bytes": None}), copy)
    assert copy.read_bytes() == source.content(2)
    receive(source.send(3, 2), copy)
    assert copy.read_bytes() == source.content(3)


def test_pools_that_look_alike_are_told_apart_by_their_uuids(source: Source) -> None:
    with source.generation(2, pool_uuid="LVM-one") as generation:
        here = generation.identity
    here.check_base(replace(here, pool_uuid=""))
    with pytest.raises(thinmeta.WrongBaseError, match="only looks alike"):
        here.check_base(replace(here, pool_uuid="LVM-two"))


def test_a_bookmark_replaces_nothing_but_a_bookmark(source: Source, tmp_path: Path) -> None:
    before = source.data.read_bytes()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with source.open() as pool:
        for path in (source.data, fifo):
            with pytest.raises(thinmeta.UsageError, match=r"no bookmark|is no file"):
                thinmeta.Bookmark.save(pool.devices[2], path)
        kept = tmp_path / "bookmark"
        thinmeta.Bookmark.save(pool.devices[2], kept)
        assert thinmeta.Bookmark.save(pool.devices[3], kept).device_id == 3
    with source.generation(2) as generation:
        with pytest.raises(thinmeta.UsageError):
            generation.save_bookmark(os.fspath(source.data))
    assert source.data.read_bytes() == before
    with pytest.raises(thinmeta.UnsupportedFormatError, match="no file"):
        thinmeta.Bookmark.open(fifo)
