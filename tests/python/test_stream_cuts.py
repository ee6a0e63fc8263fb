"""Streams that are cut or damaged at any byte: the target is old, or becomes new."""

import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import thinmeta
from loops import loop_device
from stream_places import FilePlace, Place, PoolPlace, in_memory
from streams import BLOCK, SIZE, Source, monday_and_tuesday, receive
from thinmeta import stream
from thinmeta.stream.format import HEAD_BYTES
from thinmeta.stream.targets import DeviceTarget

END_BYTES = HEAD_BYTES + 72


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with in_memory(tmp_path_factory) as folder:
        yield folder


@pytest.fixture(scope="module")
def source(folder: Path) -> Source:
    return monday_and_tuesday(folder / "source")


def every(data: bytes, step: int = 1) -> range:
    return range(1, len(data), step)


def resumed(source: Source, error: thinmeta.StreamError, device_id: int, base: int | None) -> bytes:
    assert error.resumable and error.token is not None
    assert error.token in str(error)
    return source.send(device_id, base, token=error.token)


@pytest.mark.parametrize(
    ("kind", "base", "step"),
    [(FilePlace, None, 1), (FilePlace, 2, 1), (PoolPlace, None, 4), (PoolPlace, 2, 1)],
    ids=["a file", "changes of a file", "a volume", "changes of a volume"],
)
def test_a_stream_cut_at_any_byte_leaves_the_old_state_and_can_be_continued(
    source: Source, folder: Path, kind: Callable[..., Place], base: int | None, step: int
) -> None:
    place = kind(folder / "target", None if base is None else source.send(base))
    data = source.send(3, base)
    before, after = place.content(), source.content(3)
    continued = begun = 0
    for length in every(data, step):
        place.reset()
        with pytest.raises(thinmeta.StreamError, match="was cut") as caught:
            receive(data[:length], place.target())
        assert place.content() == before
        if length % 5:
            continue  # the rest takes longer
        if caught.value.token is None:
            assert place.leftovers() == []
            begun += 1
            rest = data
        else:
            rest = resumed(source, caught.value, 3, base)
            assert len(rest) < len(data)
            assert str(stream.print_token(place.target())) == caught.value.token
            continued += 1
        report = receive(rest, place.target(), resume=True)
        assert (report.resumed_at_bytes is None) == (caught.value.token is None)
        assert place.content() == after
        assert place.leftovers() == []
    assert begun > 10 and continued > 50


@pytest.mark.parametrize("kind", [FilePlace, PoolPlace])
def test_any_bit_that_is_not_as_it_was_leaves_the_target_as_it_was(
    source: Source, folder: Path, kind: Callable[..., Place]
) -> None:
    place = kind(folder / "target", source.send(2))
    data = source.send(3, 2)
    before = place.content()
    for at in every(data):
        spoiled = bytearray(data)
        spoiled[at] ^= 1 << at % 8
        with pytest.raises(thinmeta.StreamError):
            receive(bytes(spoiled), place.target())
        assert place.content() == before
    receive(data, place.target())
    assert place.content() == source.content(3)


def first_checkpoint(data: bytes) -> int:
    """One past the first checkpoint of a stream."""
    kinds: list[tuple[str, int]] = []
    stream.inspect(
        io.BytesIO(data), record=lambda kind, _, __, stored: kinds.append((kind, stored))
    )
    sizes = [HEAD_BYTES + stored for _, stored in kinds]
    first = [kind for kind, _ in kinds].index("checkpoint") + 1
    return len(data) - END_BYTES - sum(sizes[first:])


def test_a_stream_may_be_cut_again_and_again(source: Source, folder: Path) -> None:
    for kind in (FilePlace, PoolPlace):
        place = kind(folder / "target", source.send(2))
        data, tokens = source.send(3, 2), set[str]()
        while stream.inspect(io.BytesIO(data)).checkpoints:
            with pytest.raises(thinmeta.StreamError) as caught:
                receive(data[: first_checkpoint(data)], place.target(), resume=True)
            assert place.content() == source.content(2)
            data = resumed(source, caught.value, 3, 2)
            tokens.add(str(caught.value.token))
        assert len(tokens) > 1
        receive(data, place.target(), resume=True)
        assert place.content() == source.content(3)


def test_what_was_cut_is_forgotten_when_another_stream_comes(source: Source, folder: Path) -> None:
    for kind in (FilePlace, PoolPlace):
        place = kind(folder / "target", source.send(2))
        data = source.send(3, 2)
        for other in (data, source.send(3)):
            place.reset()
            with pytest.raises(thinmeta.StreamError) as caught:
                receive(data[:-20], place.target())
            rest = resumed(source, caught.value, 3, 2)
            receive(other, place.target(), overwrite=True)
            assert place.content() == source.content(3)
            assert place.leftovers() == []
            with pytest.raises(thinmeta.WrongBaseError, match="nothing is kept"):
                receive(rest, place.target(), resume=True)


def test_a_continuation_is_only_taken_where_it_fits(source: Source, folder: Path) -> None:
    for kind in (FilePlace, PoolPlace):
        place = kind(folder / "target", source.send(2))
        data = source.send(3, 2)
        tokens: list[str] = []
        for length in every(data, 50):
            place.reset()
            with pytest.raises(thinmeta.StreamError) as caught:
                receive(data[:length], place.target())
            if caught.value.token not in (None, *tokens):
                tokens.append(str(caught.value.token))
        assert len(tokens) > 1
        early = source.send(3, 2, token=tokens[0])
        late = source.send(3, 2, token=tokens[-1])
        before = place.content()
        with pytest.raises(thinmeta.UsageError, match="--resume"):
            receive(late, place.target())
        with pytest.raises(thinmeta.WrongBaseError, match="another place"):
            receive(early, place.target(), resume=True)
        assert place.content() == before
        receive(late, place.target(), resume=True)
        assert place.content() == source.content(3)


def test_what_is_kept_may_be_lost_and_then_all_of_it_is_needed(
    source: Source, folder: Path
) -> None:
    place: Place
    for base in (None, 2):
        place = FilePlace(folder / "target", None if base is None else source.send(2))
        data = source.send(3, base)
        with pytest.raises(thinmeta.StreamError) as caught:
            receive(data[:-20], place.target())
        rest = resumed(source, caught.value, 3, base)
        for path in place.folder.glob("*.thinmeta-*"):
            path.unlink()
        with pytest.raises(thinmeta.StreamError, match="the whole volume"):
            receive(rest, place.target(), resume=True)
        receive(data, place.target())
        assert place.content() == source.content(3)
    place = PoolPlace(folder / "target", source.send(2))
    with pytest.raises(thinmeta.StreamError) as caught:
        receive(source.send(3, 2)[:-20], place.target())
    place.pool.delete((1 << 24) - 1)
    with pytest.raises(thinmeta.StreamError, match="is gone"):
        receive(resumed(source, caught.value, 3, 2), place.target(), resume=True)
    receive(source.send(3, 2), place.target())
    assert place.content() == source.content(3)


def test_a_volume_that_can_change_is_not_continued(source: Source, tmp_path: Path) -> None:
    data = source.send(1)
    for length in range(len(data) - 200, len(data), 20):
        with pytest.raises(thinmeta.StreamError) as caught:
            receive(data[:length], tmp_path / "copy.img")
        assert caught.value.token is None
        assert not caught.value.resumable
    assert list(tmp_path.iterdir()) == []


# ---- block devices ----


@pytest.fixture
def device(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, Path]]:
    """A loop device, a little larger than the volume; and the file that it stands on."""
    monkeypatch.setenv("THINMETA_STATE_DIR", str(folder / "states"))
    shutil.rmtree(folder / "states", ignore_errors=True)
    backing = folder / "device.img"
    backing.write_bytes(bytes(16 * BLOCK))
    with loop_device(backing) as path:
        yield path, backing
    backing.unlink()


def held(path: Path, size: int = SIZE) -> bytes:
    with path.open("rb") as file:
        return file.read(size)


def test_a_device_becomes_a_copy_and_its_end_stays_as_it_was(
    source: Source, device: tuple[Path, Path]
) -> None:
    path, _ = device
    receive(source.send(2), path)
    assert held(path) == source.content(2)
    with path.open("r+b") as file:
        file.seek(SIZE)
        file.write(b"its end" * 10)
    receive(source.send(3, 2), path)
    assert held(path) == source.content(3)
    assert held(path, SIZE + 70)[SIZE:] == b"its end" * 10
    with pytest.raises(thinmeta.AlreadyFormattedError, match="it holds device 3"):
        receive(source.send(2), path)
    receive(source.send(2), path, overwrite=True)
    assert held(path) == source.content(2)


def test_changes_that_are_cut_at_any_byte_leave_a_device_as_it_was(
    source: Source, device: tuple[Path, Path]
) -> None:
    path, _ = device
    receive(source.send(2), path)
    before = source.content(2)
    data = source.send(3, 2)
    for length in every(data, 7):
        with pytest.raises(thinmeta.StreamError, match="is complete at device 2"):
            receive(data[:length], path)
        assert held(path) == before
    with pytest.raises(thinmeta.StreamError) as caught:
        receive(data[:-1], DeviceTarget(str(path)))
    receive(resumed(source, caught.value, 3, 2), path, resume=True)
    assert held(path) == source.content(3)


def test_a_whole_volume_that_is_cut_at_any_byte_can_be_continued_on_a_device(
    source: Source, device: tuple[Path, Path]
) -> None:
    path, _ = device
    data = source.send(3)
    rubbish = os.urandom(SIZE)
    continued = 0
    for length in every(data, 13):
        with path.open("r+b") as file:
            file.write(rubbish)
        with pytest.raises(thinmeta.StreamError) as caught:
            receive(data[:length], path, overwrite=True)
        begun = "is incomplete" in str(caught.value)
        assert begun or held(path) == rubbish
        if caught.value.token is None:
            rest: Any = data
        else:
            rest = resumed(source, caught.value, 3, None)
            continued += 1
        receive(rest, path, resume=True, overwrite=not begun)
        assert held(path) == source.content(3)
        with path.open("r+b") as file:  # so that the next one finds something unknown
            file.write(b"x" * 512)
        for state in Path(os.environ["THINMETA_STATE_DIR"]).iterdir():
            state.unlink()
    assert continued > 10


def test_an_incomplete_device_is_no_base(source: Source, device: tuple[Path, Path]) -> None:
    path, _ = device
    receive(source.send(2), path)
    with pytest.raises(thinmeta.StreamError, match="incomplete"):
        receive(source.send(2)[:-30], path, overwrite=True)
    with pytest.raises(thinmeta.WrongBaseError, match="nothing says what it holds"):
        receive(source.send(3, 2), path)
    receive(source.send(2), path)  # it was to be overwritten anyway
    receive(source.send(3, 2), path)
    assert held(path) == source.content(3)


def test_a_device_that_was_written_since_is_no_base(
    source: Source, device: tuple[Path, Path]
) -> None:
    path, _ = device
    receive(source.send(2), path)
    for place in (0, 100_000, SIZE - 1):
        with path.open("r+b") as file:
            file.seek(place)
            file.write(b"!")
        with pytest.raises(thinmeta.WrongBaseError, match="was changed since"):
            receive(source.send(3, 2), path)
        receive(source.send(2), path, overwrite=True)


def test_a_device_in_use_or_too_small_is_refused_before_anything_is_written(
    source: Source, device: tuple[Path, Path]
) -> None:
    path, _ = device
    before = held(path, 16 * BLOCK)
    with path.open("rb"):
        descriptor = os.open(path, os.O_RDONLY | os.O_EXCL)
        try:
            with pytest.raises(thinmeta.DeviceInUseError):
                receive(source.send(2), path)
        finally:
            os.close(descriptor)
    data = source.send(2, options={"size_bytes": 17 * BLOCK})
    with pytest.raises(OSError, match="a larger device is needed; nothing written"):
        receive(data, path)
    assert held(path, 16 * BLOCK) == before
    assert not any(Path(os.environ["THINMETA_STATE_DIR"]).iterdir())


def test_a_journal_may_be_kept_somewhere_else(
    source: Source, device: tuple[Path, Path], tmp_path: Path
) -> None:
    for target in (device[0], tmp_path / "copy.img"):
        receive(source.send(2), target)
        spool = tmp_path / "spool"
        spool.mkdir(exist_ok=True)
        data = source.send(3, 2)
        with pytest.raises(thinmeta.StreamError) as caught:
            receive(data[:-10], target, journal=str(spool))
        assert len(list(spool.iterdir())) == 1
        # It is found again without being named.
        receive(resumed(source, caught.value, 3, 2), target, resume=True)
        assert held(target) == source.content(3)
        assert list(spool.iterdir()) == []


def test_a_dry_run_reads_everything_and_changes_nothing(
    source: Source, device: tuple[Path, Path], folder: Path
) -> None:
    path, _ = device
    receive(source.send(2), path)
    targets: list[Any] = [path]
    for kind in (FilePlace, PoolPlace):
        place = kind(folder / f"target-{kind.__name__}", source.send(2))
        targets.append(place.target)
    for target in targets:
        where = target if isinstance(target, Path) else target()
        data = source.send(3, 2)
        report = receive(data, where, dry_run=True)
        assert report.dry_run and report.identity.device_id == 3
        where = target if isinstance(target, Path) else target()
        with pytest.raises(thinmeta.StreamError, match="was cut"):
            receive(data[:-1], where, dry_run=True)
        where = target if isinstance(target, Path) else target()
        with pytest.raises(thinmeta.AlreadyFormattedError):
            receive(source.send(3), where, dry_run=True)
        where = target if isinstance(target, Path) else target()
        with suppress(thinmeta.StreamError):
            receive(b"", where, dry_run=True)
        where = target if isinstance(target, Path) else target()
        receive(data, where)


def test_without_a_stream_there_has_to_be_something_to_finish(
    source: Source, tmp_path: Path
) -> None:
    receive(source.send(2), tmp_path / "copy.img")
    with pytest.raises(thinmeta.StreamError, match=r"nothing came.*is complete at device 2"):
        stream.receive(None, tmp_path / "copy.img", resume=True)
    with pytest.raises(thinmeta.StreamError, match="nothing is kept"):
        stream.print_token(tmp_path / "copy.img")
    assert io.BytesIO(source.send(2)).read(16) == b"thinmeta-stream\n"
