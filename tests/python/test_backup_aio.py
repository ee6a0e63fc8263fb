"""The repository for asyncio: the same calls, a loop that goes on, and cancelling."""

import asyncio
import inspect
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typing_extensions import Buffer

import thinmeta
from backups import UNIT, Counting, World, restored
from thinmeta.backup import AsyncRepository, Repository
from thinmeta.backup.markers import CONDEMNED, put_marker, take_back
from thinmeta.backup.objects import open_store
from thinmeta.backup.stopping import Stopped


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path, 1, mib=16) as made:
        made.write(0, made.random.randbytes(made.size))
        yield made


def threads() -> set[str]:
    return {each.name for each in threading.enumerate() if each.name.startswith("thinmeta")}


def test_the_methods_are_those_of_a_repository() -> None:
    def public(of: type) -> dict[str, Callable[..., object]]:
        members = inspect.getmembers(of, callable)
        return {name: each for name, each in members if not name.startswith("_")}

    ours, theirs = public(AsyncRepository), public(Repository)
    assert ours.keys() == theirs.keys()
    for name, method in theirs.items():
        assert inspect.signature(ours[name]) == inspect.signature(method)
        assert inspect.iscoroutinefunction(ours[name])


def test_from_the_first_backup_to_the_last(world: World, tmp_path: Path) -> None:
    async def run() -> None:
        repository = await AsyncRepository.init(tmp_path / "repo", key=bytes(32))
        assert repository.id == Repository.open(tmp_path / "repo", key=bytes(32)).id
        repository = await AsyncRepository.open(tmp_path / "repo", key=bytes(32))
        told: list[tuple[int, int, bool]] = []

        def progress(done: int, total: int) -> None:
            told.append((done, total, threading.current_thread() is threading.main_thread()))

        with world.open(world.snapshot()) as generation:
            outlook = await repository.outlook(generation, volume="v")
            first = await repository.create(generation, volume="v", progress=progress)
        assert outlook.read_bytes == first.read_bytes == world.size
        assert told[-1] == (world.size, world.size, True) and all(each[2] for each in told)
        world.write(0, b"changed")
        content = world.shown()
        with world.open(world.snapshot()) as generation:
            second = await repository.create(generation, volume="v")
        assert second.base == first.name
        assert await repository.find("latest") == second
        assert await repository.generations() == [first, second]
        await repository.restore("latest", tmp_path / "out", progress=progress)
        assert (tmp_path / "out").read_bytes() == content
        assert (await repository.verify(progress=progress)).is_clean
        pruned = await repository.prune(keep_last=1, progress=progress)
        assert pruned.deleted == [first.name]
        assert await repository.unlock() == []
        with pytest.raises(thinmeta.NoSuchGenerationError):
            await repository.find("latest", volume="w")

    asyncio.run(run())
    assert not threads()


class Slow(Counting):
    """A generation whose blocks take their time."""

    def read_into(self, offset_bytes: int, buffer: Buffer) -> None:
        time.sleep(0.1)
        super().read_into(offset_bytes, buffer)


def test_the_loop_goes_on_and_several_are_made_at_once(world: World, tmp_path: Path) -> None:
    async def run() -> None:
        repository = await AsyncRepository.init(tmp_path / "repo")
        beats = 0

        async def heart() -> None:
            nonlocal beats
            while True:
                beats += 1
                await asyncio.sleep(0.01)

        beating = asyncio.create_task(heart())
        with world.open(world.snapshot()) as one, world.open(world.snapshot()) as other:
            made = await asyncio.gather(
                repository.create(Slow(one), volume="a"), repository.create(Slow(other), volume="b")
            )
        beating.cancel()
        assert beats >= 5
        assert {each.volume for each in made} == {"a", "b"}
        assert (await repository.verify()).is_clean

    asyncio.run(run())


@pytest.mark.parametrize("times", [1, 3])
def test_a_backup_that_is_cancelled_is_stopped_and_the_next_goes_on(
    world: World, tmp_path: Path, times: int
) -> None:
    async def run() -> None:
        repository = await AsyncRepository.init(tmp_path / "repo")
        snapshot = world.snapshot()
        with world.open(snapshot) as generation:
            slow = Slow(generation)
            task = asyncio.create_task(repository.create(slow, volume="v", threads=1))
            while not slow.ranges:
                await asyncio.sleep(0.01)
            for _ in range(times):
                task.cancel()
                await asyncio.sleep(0)
            with pytest.raises(asyncio.CancelledError):
                await task
            read = slow.read_bytes
            assert not threads()
            await asyncio.sleep(0.3)
            assert slow.read_bytes == read < world.size  # and nobody reads on
        assert await repository.generations() == []
        assert not list((tmp_path / "repo" / "active").glob("*"))
        with world.open(snapshot) as generation:
            made = await repository.create(generation, volume="v")
        # What had been stored is not stored again, however little that was.
        assert made.read_bytes == world.size and made.stored_bytes <= world.size
        assert (await repository.verify()).is_clean

    asyncio.run(run())


def test_a_restore_that_is_cancelled_leaves_nothing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from thinmeta.backup.locate import Reader

    begun, read = threading.Event(), Reader.read

    def slowly(*arguments: object) -> None:
        begun.set()
        time.sleep(0.1)
        read(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Reader, "read", slowly)

    async def run() -> None:
        repository = await AsyncRepository.init(tmp_path / "repo")
        with world.open(world.snapshot()) as generation:
            await repository.create(generation)
        (tmp_path / "out").mkdir()
        work = repository.restore("latest", tmp_path / "out" / "v.img", threads=1)
        task = asyncio.create_task(work)
        while not begun.is_set():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not list((tmp_path / "out").iterdir()) and not threads()

    asyncio.run(run())


def test_whoever_waits_for_a_prune_can_be_cancelled(world: World, tmp_path: Path) -> None:
    async def run() -> None:
        repository = await AsyncRepository.init(tmp_path / "repo")
        store = open_store(tmp_path / "repo")
        gate = put_marker(store, CONDEMNED, "prune", "f" * 16)
        with world.open(world.snapshot()) as generation:
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await repository.create(generation, wait_seconds=600)
            assert time.monotonic() - began < 30
            take_back(store, gate)
            assert (await repository.create(generation)).read_bytes == world.size

    asyncio.run(run())


def test_an_error_in_progress_ends_the_work_as_it_does_elsewhere(
    world: World, tmp_path: Path
) -> None:
    def fails(done: int, total: int) -> None:
        raise LookupError("no such bar")

    async def run() -> None:
        repository = await AsyncRepository.init(tmp_path / "repo")
        with world.open(world.snapshot()) as generation:
            with pytest.raises(LookupError, match="no such bar"):
                await repository.create(Slow(generation), threads=1, progress=fails)
            assert not threads()

    asyncio.run(run())


def test_words_of_progress_do_not_pile_up(world: World, tmp_path: Path) -> None:
    """A loop that is busy hears the latest, once."""
    told = 0

    def progress(done: int, total: int) -> None:
        nonlocal told
        told += 1

    async def run() -> None:
        repository = await AsyncRepository.init(tmp_path / "repo")
        world.write(0, bytes(UNIT))
        with world.open(world.snapshot()) as generation:
            task = asyncio.create_task(
                repository.create(Slow(generation), threads=1, progress=progress)
            )
            await asyncio.sleep(0.1)
            time.sleep(0.5)
            before = told
            await asyncio.sleep(0)
            assert told <= before + 1
            await task

    asyncio.run(run())
    assert told


PLACES = ("markers", "listing", "index", "verify", "waste", "prune", "pipeline", "restore")


@pytest.mark.parametrize("what", ["create", "prune", "restore", "verify"])
def test_ended_at_any_place_everything_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    count = at = 0

    def end_here() -> None:
        nonlocal count
        count += 1
        if count == at:
            raise Stopped

    for name in PLACES:
        monkeypatch.setattr(f"thinmeta.backup.{name}.stop_point", end_here)
    template, path, out = tmp_path / "template", tmp_path / "repo", tmp_path / "out"
    content: dict[str, bytes] = {}
    with World(tmp_path, 5, mib=4) as world:
        repository = Repository.init(template)
        for number in range(6):
            length = world.size // 2 if number < 4 else UNIT
            world.write(0, world.random.randbytes(length))
            content[world.back_up(repository).name] = world.shown()
        world.write(3 * UNIT, b"more")
        snapshot, latest = world.snapshot(), list(content)[-1]
        calls: dict[str, Callable[[Repository], object]] = {
            "create": lambda repository: world.back_up(repository, snapshot),
            "prune": lambda repository: repository.prune(keep_last=2),
            "restore": lambda repository: repository.restore(latest, out, overwrite=True),
            "verify": lambda repository: repository.verify(mend=True),
        }
        place, ended = 0, True
        while ended:
            place += 1
            shutil.rmtree(path, ignore_errors=True)
            shutil.copytree(template, path)
            repository = Repository.open(path)
            count, at = 0, place
            try:
                calls[what](repository)
                ended = False
            except Stopped:
                pass
            at = 0
            marks = [each for name in ("active", "condemned") for each in (path / name).glob("*")]
            assert not marks and not list(path.rglob(".*"))
            assert not ended or not out.exists()
            assert repository.verify().is_clean
            there = [each.name for each in repository.generations()]
            assert len(there) in ((6, 2) if what == "prune" else (6, 7) if not ended else (6,))
            for name in there:
                assert name not in content or restored(repository, name, tmp_path) == content[name]
            if ended:  # and it can be done after all
                calls[what](repository)
                assert repository.verify().is_clean
                out.unlink(missing_ok=True)
    assert place > 8, "too few places"
