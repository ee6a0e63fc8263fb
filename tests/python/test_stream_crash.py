"""Receivers that are killed, at every step and at any moment, and what is done afterwards."""

import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import thinmeta
from command import ThinmetaCommand
from killing import killed_before
from stream_places import FilePlace, Place, PoolPlace, in_memory
from streams import BLOCK, Source, monday_and_tuesday, receive
from thinmeta import stream
from thinmeta.stream.sidecar import State
from thinmeta.stream.targets import Target


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with in_memory(tmp_path_factory) as folder:
        yield folder


@pytest.fixture(scope="module")
def source(folder: Path) -> Source:
    return monday_and_tuesday(folder / "source")


def mend(place: Place, source: Source, base: int | None, state: State) -> None:
    """What a person would do who reads the messages."""
    work = state.work
    if work is not None and work.complete:
        report = stream.receive(None, place.target(), resume=True)
        assert report.finished
    elif work is not None and work.token is not None:
        rest = source.send(3, base, token=work.token)
        receive(rest, place.target(), resume=True, overwrite=True)
    else:
        receive(source.send(3, base), place.target(), overwrite=True)


@pytest.mark.parametrize("base", [None, 2], ids=["a whole volume", "changes"])
@pytest.mark.parametrize("kind", [FilePlace, PoolPlace])
def test_a_receiver_that_is_killed_before_any_step_leaves_old_or_new(
    source: Source, folder: Path, kind: Callable[..., Place], base: int | None
) -> None:
    place = kind(folder / "target", source.send(2))
    data = source.send(3, base)
    before, after = source.content(2), source.content(3)
    seen = {"old": 0, "new": 0, "being applied": 0, "continued": 0, "finished": 0}
    step = 0
    while True:
        place.reset()
        if not killed_before(step, lambda: receive(data, place.target(), overwrite=True)):
            break
        step += 1
        state = place.target().peek()
        content = place.content()
        if content == before:
            seen["old"] += 1
        elif content == after:
            seen["new"] += 1
        else:
            assert state.work is not None and state.work.begun
            seen["being applied"] += 1
        if state.work is not None:
            seen["continued"] += state.work.token is not None
            seen["finished"] += state.work.complete
        if state.work is None and state.held is not None and state.held.device_id == 3:
            # At most the journal is left, which nobody needs and the next one replaces.
            assert content == after
        else:
            mend(place, source, base, state)
            assert place.content() == after
            assert place.leftovers() == []
        # It is a base again, whatever happened.
        held = place.target().peek().held
        assert held is not None and held.device_id == 3
    assert place.content() == after
    assert step > 15
    assert seen["old"] > 5 and seen["new"] > 0 and seen["continued"] > 2 and seen["finished"] > 1
    if kind is FilePlace and base is not None:
        assert seen["being applied"] > 0


def finish(target: Target) -> None:
    try:
        stream.receive(None, target)
    except thinmeta.StreamError as error:
        if "is complete at device 3" not in str(error):
            raise


def test_finishing_may_be_killed_as_well(source: Source, folder: Path) -> None:
    for kind in (FilePlace, PoolPlace):
        for base in (None, 2):
            place = kind(folder / "target", source.send(2))
            data, step = source.send(3, base), 0
            while True:
                place.reset()
                killed = killed_before(step, lambda: receive(data, place.target(), overwrite=True))  # noqa: B023
                assert killed, "nothing was ever complete and not finished"
                work = place.target().peek().work
                if work is not None and work.complete:
                    break
                step += 1
            again = 0
            while killed_before(again, lambda: finish(place.target())):  # noqa: B023
                again += 1
            assert place.content() == source.content(3)
            assert again > 2


def test_what_was_finished_is_not_taken_twice(source: Source, folder: Path) -> None:
    """Who sends once more what was all there meanwhile is told that it is there."""
    place = FilePlace(folder / "target", source.send(2))
    data, step = source.send(3, 2), 0
    while True:
        place.reset()
        killed_before(step, lambda: receive(data, place.target()))
        step += 1
        work = place.target().peek().work
        if work is not None and work.begun:
            break
    report = receive(data, place.target())
    assert report.finished and report.stream_bytes == len(data)
    assert place.content() == source.content(3)
    with pytest.raises(thinmeta.WrongBaseError):
        receive(data, place.target())


def test_a_damaged_journal_is_noticed_and_a_whole_volume_mends_it(
    source: Source, folder: Path
) -> None:
    place = FilePlace(folder / "target", source.send(2))
    data, step = source.send(3, 2), 0
    while True:
        place.reset()
        killed_before(step, lambda: receive(data, place.target()))
        step += 1
        work = place.target().peek().work
        if work is not None and work.begun:
            break
    journal = Path(work.path)
    content = bytearray(journal.read_bytes())
    content[-1] ^= 1
    journal.write_bytes(content)
    for stream_data in (b"", data):
        with pytest.raises(thinmeta.StreamError, match=r"damaged journal.*--overwrite"):
            receive(stream_data, place.target())
    receive(source.send(3), place.target(), overwrite=True)
    assert place.content() == source.content(3)
    assert place.leftovers() == []


@pytest.mark.parametrize("base", [None, 2])
def test_a_command_that_is_killed_at_any_moment_is_mended(
    tmp_path: Path, command: ThinmetaCommand, base: int | None
) -> None:
    """With kill -9, and a source that is as slow as a network."""
    draw = random.Random(5)
    source = Source(tmp_path / "source", data_blocks=300)
    source.size = 100 * BLOCK
    source.create(1)
    source.write(1, *((block * BLOCK, draw.randbytes(BLOCK)) for block in range(0, 100, 2)))
    source.snapshot(2)
    source.write(1, *((block * BLOCK, draw.randbytes(BLOCK)) for block in range(0, 100, 3)))
    source.snapshot(3)
    after = source.content(3)
    target = tmp_path / "copy.img"
    receive(source.send(2), target)
    data = source.send(3, base)
    tokens = 0
    for round_ in range(8):
        words = command.argv("receive", target, "--overwrite", "--resume")
        with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
            assert process.stdin is not None
            process.stdin.write(data[: draw.randrange(2000, len(data) * 3 // 4)])
            process.stdin.flush()
            if round_ % 2:
                arrived(target)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert target.read_bytes() == source.content(2)
        try:
            data = source.send(3, base, token=stream.print_token(target))
            tokens += 1
        except thinmeta.StreamError:
            data = source.send(3, base)
    assert tokens > 2
    receive(data, target, resume=True, overwrite=True)
    assert target.read_bytes() == after


def arrived(target: Path) -> None:
    """Wait until something has come that a stream can go on from."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        work = stream.open_target(target).peek().work
        if work is not None and work.token is not None:
            return
        time.sleep(0.002)
    raise AssertionError("nothing came")
