"""What a target is asked before it is changed, and what it looks like afterwards."""

import io
import json
import os
import stat
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import thinmeta
from loops import loop_device
from streams import BLOCK, SIZE, Source, monday_and_tuesday, pattern, receive
from thinmeta import stream
from thinmeta.stream.sidecar import Sidecar, Work, _checksum
from thinmeta.stream.targets import FileTarget, PoolTarget


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return monday_and_tuesday(tmp_path_factory.mktemp("source"))


@pytest.fixture
def copy(source: Source, tmp_path: Path) -> Path:
    """A file that holds monday, snapshot 2."""
    path = tmp_path / "copy.img"
    receive(source.send(2), path)
    return path


# ---- files ----


def test_what_is_not_mapped_is_a_hole_of_a_file(source: Source, tmp_path: Path) -> None:
    with Source(tmp_path / "big", data_blocks=20).open(mode="r+") as pool:
        with pool.transaction() as txn:
            txn.create_thin(1)
        size = 64 << 20
        with pool.devices[1].open(mode="r+", size_bytes=size) as volume:
            volume.seek(size - BLOCK)
            volume.write(pattern(1, BLOCK))
            volume.seek(5 * BLOCK)
            volume.write(bytes(BLOCK))  # zeros that are mapped are no content either
        with pool.transaction() as txn:
            txn.create_snapshot(2, origin_id=1)
        with pool.devices[1].open(mode="r+", size_bytes=size) as volume:
            volume.discard(size - BLOCK, BLOCK)
            volume.seek(0)
            volume.write(pattern(2, BLOCK))
        with pool.transaction() as txn:
            txn.create_snapshot(3, origin_id=1)
    big = Source.__new__(Source)
    big.meta, big.data, big.size = tmp_path / "big/meta.img", tmp_path / "big/data.img", size
    copy = tmp_path / "copy.img"
    assert len(big.send(2)) < 3000
    receive(big.send(2), copy)
    assert copy.stat().st_size == size
    assert copy.stat().st_blocks * 512 <= 2 * BLOCK
    receive(big.send(3, 2), copy)
    assert copy.read_bytes() == big.content(3)
    assert copy.stat().st_blocks * 512 <= 2 * BLOCK


def test_something_that_is_there_is_only_overwritten_when_that_was_asked_for(
    source: Source, copy: Path, tmp_path: Path
) -> None:
    with pytest.raises(thinmeta.AlreadyFormattedError, match="it holds device 2"):
        receive(source.send(3), copy)
    other = tmp_path / "other"
    other.write_bytes(b"mine")
    with pytest.raises(thinmeta.AlreadyFormattedError, match="there is a file"):
        receive(source.send(3), other)
    assert other.read_bytes() == b"mine"
    for path in (copy, other):
        receive(source.send(3), path, overwrite=True)
        assert path.read_bytes() == source.content(3)
    (tmp_path / "empty").touch()
    receive(source.send(3), tmp_path / "empty")


def test_a_new_file_keeps_the_permissions_of_the_old_one(source: Source, tmp_path: Path) -> None:
    path, link = tmp_path / "copy.img", tmp_path / "link"
    path.write_bytes(b"x")
    path.chmod(0o640)
    link.symlink_to(path)
    receive(source.send(2), link, overwrite=True)
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    receive(source.send(3, 2), path)
    assert path.read_bytes() == source.content(3)


def test_a_wrong_base_is_refused_with_what_to_do(
    source: Source, copy: Path, tmp_path: Path
) -> None:
    changes = source.send(3, 2)
    nothing = tmp_path / "nothing.img"
    with pytest.raises(thinmeta.WrongBaseError, match="nothing says what it holds"):
        receive(changes, nothing)
    assert not nothing.exists()
    receive(changes, copy)
    with pytest.raises(thinmeta.WrongBaseError, match=r"holds device 3 .* was made from device 2"):
        receive(changes, copy)
    assert copy.read_bytes() == source.content(3)


def test_a_file_that_was_changed_since_is_no_base_unless_that_is_meant(
    source: Source, copy: Path
) -> None:
    changes = source.send(3, 2)
    times = copy.stat()
    with copy.open("r+b") as file:
        file.seek(BLOCK)
        file.write(b"mine")
    os.utime(copy, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    with pytest.raises(thinmeta.WrongBaseError, match="was changed since"):
        receive(changes, copy)
    receive(changes, copy, force_base=True)
    expected = bytearray(source.content(3))
    expected[BLOCK : BLOCK + 4] = b"mine"
    assert copy.read_bytes() == expected


def test_a_base_may_be_believed_but_has_to_be_there_and_long_enough(
    source: Source, copy: Path, tmp_path: Path
) -> None:
    changes = source.send(3, 2)
    moved = tmp_path / "moved.img"
    copy.rename(moved)
    with pytest.raises(thinmeta.WrongBaseError, match="nothing says"):
        receive(changes, moved)
    with pytest.raises(thinmeta.WrongBaseError, match="there is nothing"):
        receive(changes, copy)
    with pytest.raises(thinmeta.WrongBaseError, match="there is nothing"):
        receive(changes, copy, force_base=True)
    receive(changes, moved, force_base=True)
    assert moved.read_bytes() == source.content(3)
    short = tmp_path / "short.img"
    short.write_bytes(source.content(2)[:-1])
    with pytest.raises(thinmeta.WrongBaseError, match="are needed"):
        receive(changes, short, force_base=True)


def test_a_file_that_somebody_uses_is_refused(source: Source, copy: Path) -> None:
    import fcntl

    with copy.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for data in (source.send(3, 2), source.send(3)):
            with pytest.raises(thinmeta.DeviceInUseError):
                receive(data, copy, overwrite=True)
    with copy.open("r+b") as file:
        file.truncate(9 * BLOCK)
    with loop_device(copy), pytest.raises(thinmeta.DeviceInUseError, match="stands on it"):
        receive(source.send(3), copy, overwrite=True)


def test_two_receivers_do_not_meet(source: Source, tmp_path: Path) -> None:
    target = tmp_path / "copy.img"
    data = source.send(2)

    class Meanwhile(io.BytesIO):
        refused = 0

        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > len(data) // 2:
                with pytest.raises(thinmeta.DeviceInUseError):
                    receive(data, target)
                self.refused += 1
            return super().read(size)

    source_of_bytes = Meanwhile(data)
    stream.receive(source_of_bytes, target)
    assert source_of_bytes.refused > 1
    assert target.read_bytes() == source.content(2)


@pytest.mark.parametrize("what", ["folder", "pipe", "nowhere"])
def test_what_is_no_file_is_refused(source: Source, tmp_path: Path, what: str) -> None:
    path = tmp_path / "it"
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    else:
        path = tmp_path / "no" / "folder" / "copy.img"
    with pytest.raises((thinmeta.UsageError, OSError)):
        receive(source.send(2), path)
    assert what == "nowhere" or not path.is_file()


def test_work_of_somebody_else_is_not_removed(source: Source, copy: Path, tmp_path: Path) -> None:
    for name, data in [
        ("copy.img.thinmeta-journal", source.send(3, 2)),
        ("copy.img.thinmeta-partial", source.send(3)),
    ]:
        other = tmp_path / name
        other.write_bytes(b"mine, and no journal")
        with pytest.raises(thinmeta.UsageError, match="in the way"):
            receive(data, copy, overwrite=True)
        assert other.read_bytes() == b"mine, and no journal"
        assert copy.read_bytes() == source.content(2)
        other.unlink()
        other.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(thinmeta.UsageError, match="in the way"):
            receive(data, copy, overwrite=True)
        assert not (tmp_path / "elsewhere").exists()
        other.unlink()


def test_any_damage_of_a_sidecar_is_noticed(source: Source, copy: Path) -> None:
    sidecar = copy.with_name("copy.img.thinmeta")
    text = sidecar.read_bytes()
    noticed = 0
    for at in range(0, len(text), 3):
        spoiled = bytearray(text)
        spoiled[at] ^= 1 << at % 7
        sidecar.write_bytes(bytes(spoiled))
        if json.loads(text) == _loaded(bytes(spoiled)):
            continue  # white space
        with pytest.raises(thinmeta.StreamError, match=r"cannot be believed|nothing came"):
            receive(b"", copy)
        noticed += 1
    assert noticed > 100
    for length in (0, 1, 50, len(text) - 3):
        sidecar.write_bytes(text[:length])
        with pytest.raises(thinmeta.StreamError, match=r"remove it, and send the whole volume"):
            receive(source.send(3, 2), copy)
    sidecar.unlink()
    receive(source.send(3), copy, overwrite=True)


def _loaded(text: bytes) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None


def test_a_sidecar_that_says_what_cannot_be_is_not_believed(source: Source, copy: Path) -> None:
    sidecar = Sidecar(f"{copy}.thinmeta", str(copy))
    good = sidecar.load().to_json()
    identity = stream.inspect(io.BytesIO(source.send(2))).header.identity
    work = asdict(Work("journal", identity, None, True, offset_bytes=5))
    for wrong in (
        {**good, "evidence": None},
        {**good, "evidence": {"a": 1.5}},
        {**good, "held": 5},
        {**good, "work": {}},
        {**good, "work": {**work, "kind": "other"}},
        {**good, "work": {**work, "offset_bytes": -1}},
        {**good, "work": {**work, "offset_bytes": SIZE + 1}},
        {**good, "work": {**work, "path": 5}},
        {**good, "work": {**work, "complete": 1}},
        {**good, "work": {**work, "base": {}}},
    ):
        value = {"thinmeta-target": 1, "crc32c": _checksum(wrong), "state": wrong}
        Path(sidecar.path).write_text(json.dumps(value))
        with pytest.raises(thinmeta.StreamError, match="cannot be believed"):
            sidecar.load()
    # What a sidecar names is removed in the end: it can only be what we have made.
    other = copy.with_name("empty")
    other.touch()
    for kind, path in [("journal", str(other)), ("partial", str(other)), ("journal", "x")]:
        state = {**good, "work": {**work, "kind": kind, "path": path}}
        value = {"thinmeta-target": 1, "crc32c": _checksum(state), "state": state}
        Path(sidecar.path).write_text(json.dumps(value))
        assert sidecar.load().work is not None
        with pytest.raises(thinmeta.StreamError, match="no place of ours"):
            receive(source.send(3), copy, overwrite=True)
        assert other.exists()


# ---- external origins ----


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    path = tmp_path / "origin.img"
    path.write_bytes(pattern(77, 5 * BLOCK + 777))
    return path


def test_an_external_origin_has_to_be_given_or_sent(
    source: Source, origin: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"external_origin": str(origin)}
    target, pool = tmp_path / "copy.img", Source(tmp_path / "pool", sectors=384)
    volume = PoolTarget(str(pool.meta), str(pool.data), 1)
    data = source.send(2, options=options)
    with pytest.raises(thinmeta.UsageError, match="--external-origin"):
        receive(data, target)
    with pytest.raises(thinmeta.UsageError, match="has no external origin"):
        receive(source.send(2), target, external_origin=str(origin))
    with pytest.raises(FileNotFoundError):
        receive(data, target, external_origin=str(tmp_path / "nothing"))
    assert not target.exists()
    receive(data, target, external_origin=str(origin))
    receive(data, volume, external_origin=str(origin))
    assert target.read_bytes() == source.content(2, **options) == pool.content(1)
    changes = source.send(3, 2, options=options)
    receive(changes, target, external_origin=str(origin))
    receive(changes, volume, external_origin=str(origin))
    # What was unmapped shows the origin again.
    assert target.read_bytes() == source.content(3, **options) == pool.content(1)
    flat = source.send(3, options={**options, "flatten": True}, flattened=True)
    assert not stream.inspect(io.BytesIO(flat)).header.resumable
    receive(flat, tmp_path / "flat.img")
    assert (tmp_path / "flat.img").read_bytes() == source.content(3, **options)


def test_zeros_that_hide_an_external_origin_are_sent(origin: Path, tmp_path: Path) -> None:
    source = Source(tmp_path / "source")
    options: dict[str, Any] = {"external_origin": str(origin)}
    source.create(1)
    source.write(1, (BLOCK, bytes(BLOCK)))
    source.snapshot(2)
    receive(source.send(2, options=options), tmp_path / "copy.img", external_origin=str(origin))
    content = (tmp_path / "copy.img").read_bytes()
    assert content == source.content(2, **options)
    assert content[BLOCK : 2 * BLOCK] == bytes(BLOCK) != content[:BLOCK]


# ---- bases ----


def test_a_base_that_is_gone_was_written_or_is_later_is_refused(tmp_path: Path) -> None:
    source = monday_and_tuesday(tmp_path / "source")
    source.snapshot(4, origin_id=3)
    source.write(4, (0, b"written"))
    source.delete(2)
    for base, says in [(2, "use a bookmark"), (4, "was written"), (1, "was written")]:
        with pytest.raises(thinmeta.WrongBaseError, match=says):
            source.send(3, base)
    with pytest.raises(thinmeta.NoSuchDeviceError):
        source.send(9, 3)


def test_a_pool_of_other_blocks_takes_the_content(source: Source, tmp_path: Path) -> None:
    for sectors in (128, 256, 2048):
        pool = Source(tmp_path / str(sectors), sectors=sectors, data_blocks=50)
        target = PoolTarget(str(pool.meta), str(pool.data), 9)
        receive(source.send(2), target)
        assert pool.content(9) == source.content(2)
        receive(source.send(3, 2), target)
        assert pool.content(9) == source.content(3)
        assert thinmeta.check(pool.meta).is_clean
        with pool.open() as opened:
            # Monday's first block is unmapped on tuesday.
            assert (opened.devices[9].find(0) is None) == (sectors == 128)


def test_a_volume_of_a_pool_is_not_changed_unnoticed(source: Source, tmp_path: Path) -> None:
    pool = Source(tmp_path / "pool")
    target = PoolTarget(str(pool.meta), str(pool.data), 9)
    receive(source.send(2), target)
    pool.snapshot(10, origin_id=9)  # of which it takes no harm
    receive(source.send(3, 2), target)
    assert pool.content(10) == source.content(2)
    receive(source.send(2), target, overwrite=True)
    pool.write(9, (2 * BLOCK, pattern(2, 5)))  # even what it was before
    with pytest.raises(thinmeta.WrongBaseError, match="was changed since"):
        receive(source.send(3, 2), target)
    pool.delete(9)
    with pytest.raises(thinmeta.WrongBaseError, match="there is nothing"):
        receive(source.send(3, 2), target)
    receive(source.send(3), target)
    with pytest.raises(thinmeta.AlreadyFormattedError):
        receive(source.send(3), target)
    with pool.open(), pytest.raises(thinmeta.DeviceInUseError):
        receive(source.send(2), target, overwrite=True)
    with pytest.raises(thinmeta.UsageError, match="a device id cannot be"):
        PoolTarget(str(pool.meta), str(pool.data), 1 << 24)


# ---- the rest ----


def test_progress_ends_with_all_of_the_content(source: Source, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    with source.generation(2) as generation:
        out = io.BytesIO()
        report = stream.send(generation, out, progress=lambda *each: seen.append(each))
    assert seen[-1] == (report.data_bytes, report.data_bytes)
    receive(out.getvalue(), tmp_path / "copy.img", progress=lambda *each: seen.append(each))
    assert seen[-1][0] <= seen[-1][1] == report.data_bytes


def test_an_interrupt_takes_back_what_was_begun(source: Source, tmp_path: Path) -> None:
    class Interrupted(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 2000:
                raise KeyboardInterrupt
            return super().read(size)

    pool = Source(tmp_path / "pool")
    for target in (FileTarget(str(tmp_path / "copy.img")), _volume(pool)):
        data = source.send(2, checkpoint_bytes=1 << 20)
        with pytest.raises(KeyboardInterrupt):
            stream.receive(Interrupted(data), target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pool"]
    with pool.open() as opened:
        assert list(opened.devices) == []


def _volume(pool: Source) -> PoolTarget:
    return PoolTarget(str(pool.meta), str(pool.data), 3)


def test_a_sink_that_breaks_stops_the_sender(source: Source) -> None:
    class Broken(io.RawIOBase):
        def write(self, data: Any, /) -> int:
            raise BrokenPipeError

    with source.generation(2) as generation, pytest.raises(BrokenPipeError):
        stream.send(generation, Broken())
    for wrong in ({"level": 23}, {"threads": 0}, {"checkpoint_bytes": 0}):
        with source.generation(2) as generation, pytest.raises(thinmeta.UsageError):
            stream.send(generation, io.BytesIO(), **wrong)  # type: ignore[arg-type]


def test_errors_survive_pickling(source: Source, tmp_path: Path) -> None:
    import pickle

    with pytest.raises(thinmeta.StreamError) as caught:
        receive(source.send(2)[:-5], tmp_path / "copy.img")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.token, again.resumable) == (
        str(caught.value),
        caught.value.token,
        True,
    )
    assert sys.getsizeof(again.token) < 300
