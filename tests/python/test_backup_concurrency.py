"""A backup and a prune at the same time: at every operation of one, all of the other.

Whatever comes of it, every generation that is listed can be restored, and is what was backed
up. The content that is backed up again is what the prune is about to delete.
"""

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backups import UNIT, Distant, Stop, Watched, World, hashes_in_packs, restored
from thinmeta.backup import Repository, markers
from thinmeta.errors import RepositoryBusyError

#: Every so many operations one is stopped at.
STRIDE = int(os.environ.get("THINMETA_BACKUP_STRIDE", "3"))


class Scene:
    """A repository of three generations, again and again as it was."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._count = folder, 0
        self.world = World(folder, 1, mib=4)
        self.content: dict[int, bytes] = {}
        template = Repository.init(folder / "template")
        for number in range(3):
            # The last shares a little with the first: one pack goes, and one is written anew.
            for at in range(number, 8 if number else 10):
                self.world.write(at * UNIT, os.urandom(UNIT))
            snapshot = self.world.snapshot()
            self.content[snapshot] = self.world.shown()
            self.world.back_up(template, snapshot)
            assert number == len(template.generations()) - 1
        self.first, _, self.last = self.content

    def repository(self) -> Path:
        """A fresh copy of it."""
        self._count += 1
        path = self.folder / f"repo-{self._count}"
        shutil.copytree(self.folder / "template", path)
        return path

    def back_up(self, store: Watched, snapshot: int, *, full: bool = True) -> None:
        with self.world.open(snapshot) as generation:
            Repository(store, "0" * 32).create(
                generation, volume="again", full=full, wait_seconds=0, threads=1
            )

    def judge(self, path: Path, again: int | None = None) -> None:
        """Every generation that is listed is what was backed up, and so is another one."""
        again = self.first if again is None else again
        repository = Repository.open(path)
        for each in repository.generations():
            found = restored(repository, each.name, self.folder)
            assert found == self.content[each.identity.device_id], each.name
        report = repository.verify()
        assert not report.findings, report.findings
        # What is new relies on what is there, and on nothing else.
        with self.world.open(again) as generation:
            distant = Repository.open(Distant(str(path)))
            made = distant.create(generation, volume="after", full=True)
        assert restored(repository, made.name, self.folder) == self.content[again]
        shutil.rmtree(path)


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own; and nobody waits for the disk, as no power is cut here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    made = Scene(tmp_path_factory.mktemp("scene"))
    yield made
    made.world.pool.close()


def prune(store: Watched | Path) -> None:
    repository = Repository.open(store) if isinstance(store, Path) else Repository(store, "0" * 32)
    repository.prune(keep_last=1)


def operations_of(scene: Scene, work: Callable[[Watched], object]) -> int:
    path = scene.repository()
    store = Watched(str(path))
    work(store)
    if work is prune:
        deleted = [each for each in store.operations if each.startswith("delete ")]
        for kind, least in (("generations", 2), ("packs", 2), ("index", 2), ("segments", 2)):
            assert sum(each.startswith(f"delete {kind}/") for each in deleted) >= least
        assert any(each.startswith("put packs/") for each in store.operations)
    shutil.rmtree(path)
    assert len(store.operations) > 12
    return len(store.operations)


def every(count: int) -> Iterator[int]:
    yield from range(0, count, STRIDE)
    yield count - 1


def test_a_prune_at_every_operation_of_a_backup(scene: Scene) -> None:
    def work(store: Watched) -> None:
        scene.back_up(store, scene.first)

    refused: list[str] = []
    for at in every(operations_of(scene, work)):
        path = scene.repository()

        def meanwhile(path: Path = path) -> None:
            try:
                prune(path)
            except RepositoryBusyError as error:
                refused.append(str(error))

        work(Watched(str(path), at, meanwhile))
        assert len(Repository.open(path).generations()) in (2, 4)
        scene.judge(path)
    assert len(refused) > 2 and all("a backup is being made" in each for each in refused)


def test_a_backup_at_every_operation_of_a_prune(scene: Scene) -> None:
    refused: list[str] = []
    both = 0
    for at in every(operations_of(scene, prune)):
        path = scene.repository()
        made = False

        def meanwhile(path: Path = path) -> None:
            nonlocal made
            try:
                scene.back_up(Watched(str(path)), scene.first)
                made = True
            except RepositoryBusyError as error:
                refused.append(str(error))

        prune(Watched(str(path), at, meanwhile))
        both += made
        # It has begun anew if it had to: what was made stays.
        assert len(Repository.open(path).generations()) == 1 + made
        scene.judge(path)
    assert len(refused) > 0 and all("deletes objects" in each for each in refused)
    assert both > 2


def test_a_backup_that_is_still_being_made_stops_a_prune_at_the_gate(scene: Scene) -> None:
    """It begins after the prune has looked, and ends after the prune has ended."""
    stopped: list[str] = []
    for at in every(operations_of(scene, prune)):
        path = scene.repository()
        placed: list[str] = []

        def meanwhile(path: Path = path, placed: list[str] = placed) -> None:
            store = Watched(str(path))
            placed.append(markers.put_marker(store, markers.ACTIVE, "create", "ab"))

        try:
            prune(Watched(str(path), at, meanwhile))
        except RepositoryBusyError as error:
            stopped.append(str(error))
            # Nothing that it may use is gone, and no gate is closed.
            assert not list((path / "condemned").glob("*"))
            assert len(hashes_in_packs(path)) >= len(hashes_in_packs(scene.folder / "template"))
        for name in placed:
            markers.take_back(Watched(str(path)), name)
        scene.judge(path)
    assert len(stopped) > 2 and all("a backup is being made" in each for each in stopped)


def test_a_backup_that_was_wrongly_declared_dead_does_not_end_well(scene: Scene) -> None:
    """Somebody has used unlock while it was at work, and then pruned."""

    def work(store: Watched) -> None:
        scene.back_up(store, scene.first)

    failed: list[str] = []
    for at in every(operations_of(scene, work)):
        path = scene.repository()

        def meanwhile(path: Path = path) -> None:
            for each in markers.markers(Watched(str(path)), markers.ACTIVE):
                (path / each.name).unlink()
            prune(path)

        try:
            work(Watched(str(path), at, meanwhile))
        except RepositoryBusyError as error:
            failed.append(str(error))
        scene.judge(path)
    assert len(failed) > 1 and all("run it again" in each for each in failed)


@pytest.mark.parametrize("what", ["backup", "prune"])
def test_killed_at_every_operation(scene: Scene, what: str) -> None:
    def work(store: Watched) -> None:
        if what == "backup":
            scene.back_up(store, scene.first)
        else:
            prune(store)

    for at in every(operations_of(scene, work)):
        path = scene.repository()
        store = Watched(str(path), at)
        store.what = store.die
        with pytest.raises(Stop):
            work(store)
        scene.judge(shutil.copytree(path, str(path) + "-copy"))  # type: ignore[arg-type]
        # And when both go on: a backup, then a prune.
        scene.back_up(Watched(str(path)), scene.last)
        prune(path)
        assert not list((path / "active").glob("*")) and not list((path / "condemned").glob("*"))
        assert not list(path.rglob(".tmp*"))
        scene.judge(path)


def test_what_a_killed_backup_had_stored_is_not_stored_again(scene: Scene) -> None:
    """Also what no index object names, as it was killed before it could put one."""
    path = scene.repository()
    scene.world.write(0, os.urandom(5 * UNIT))
    fresh = scene.world.snapshot()
    scene.content[fresh] = scene.world.shown()
    before = len(hashes_in_packs(path))
    store = Watched(str(path))
    store.die_after("packs/")
    with pytest.raises(Stop):
        scene.back_up(store, fresh)
    assert len(hashes_in_packs(path)) == before + 5
    with scene.world.open(fresh) as generation:
        made = Repository.open(path).create(generation, volume="again", full=True)
    assert made.stored_bytes == 0 and made.read_bytes > 5 * UNIT
    found = Counter(hashes_in_packs(path))
    assert len(found) == before + 5 and max(found.values()) == 1
    assert not list((path / "active").glob("*"))
    scene.judge(path)


def test_a_prune_that_is_killed_after_a_backup_that_was(scene: Scene) -> None:
    """What the killed backup had stored counts for nothing, and is not missed."""
    late = operations_of(scene, lambda store: scene.back_up(store, scene.first)) - 4
    for at in every(operations_of(scene, prune)):
        path = scene.repository()
        first = Watched(str(path), late)
        first.what = first.die
        with pytest.raises(Stop):
            scene.back_up(first, scene.first)
        store = Watched(str(path), at)
        store.what = store.die
        with pytest.raises(Stop):
            prune(store)
        scene.back_up(Watched(str(path)), scene.first, full=False)
        scene.judge(path)


def test_packs_that_a_killed_backup_has_taken_over_meanwhile(scene: Scene) -> None:
    """Their index object has come after the prune has looked, and names what is waste to it."""

    def work(store: Watched) -> None:
        scene.back_up(store, fresh)

    scene.world.write(0, os.urandom(3 * UNIT))
    fresh = scene.world.snapshot()
    scene.content[fresh] = scene.world.shown()
    for at in every(operations_of(scene, prune)):
        path = scene.repository()
        first = Watched(str(path))
        first.die_after("packs/")
        with pytest.raises(Stop):
            work(first)

        def meanwhile(path: Path = path) -> None:
            second = Watched(str(path))
            # It adopts what the first has stored, and is killed when it has put its index.
            second.die_after("index/")
            with pytest.raises((Stop, RepositoryBusyError)):
                work(second)

        prune(Watched(str(path), at, meanwhile))
        scene.judge(path, fresh)


def test_two_prunes_do_not_work_side_by_side(scene: Scene) -> None:
    refused: list[str] = []
    for at in every(operations_of(scene, prune)):
        path = scene.repository()

        def meanwhile(path: Path = path) -> None:
            try:
                prune(path)
            except RepositoryBusyError as error:
                refused.append(str(error))

        prune(Watched(str(path), at, meanwhile))
        assert len(Repository.open(path).generations()) == 1
        scene.judge(path)
    assert len(refused) > 2 and all("another prune is at work" in each for each in refused)


def test_two_backups_work_side_by_side(scene: Scene) -> None:
    def work(store: Watched) -> None:
        scene.back_up(store, scene.first)

    for at in every(operations_of(scene, work)):
        path = scene.repository()

        def meanwhile(path: Path = path) -> None:
            scene.back_up(Watched(str(path)), scene.last)

        work(Watched(str(path), at, meanwhile))
        assert len(Repository.open(path).generations()) == 5
        scene.judge(path)


def test_markers_of_another_machine_stop_a_prune_until_they_are_unlocked(scene: Scene) -> None:
    from thinmeta.backup.manifest import encode

    path = scene.repository()
    (path / "active").mkdir(exist_ok=True)
    facts = {"version": 1, "kind": "create", "host": "elsewhere", "machine": "m", "pid": 1}
    (path / "active" / "create-ff").write_bytes(encode({**facts, "boot": "b", "since": "then"}))
    repository = Repository.open(path)
    with pytest.raises(RepositoryBusyError, match=r"process 1 on elsewhere.*unlock"):
        repository.prune(keep_last=1)
    assert len(repository.generations()) == 3
    assert [each.state for each in repository.unlock(dry_run=True)] == ["unknown"]
    assert [each.name for each in repository.unlock()] == ["active/create-ff"]
    repository.prune(keep_last=1)

    (path / "condemned" / "prune-ff").write_bytes(b"rubbish")
    with scene.world.open(scene.last) as generation:
        with pytest.raises(RepositoryBusyError, match="unlock"):
            repository.create(generation, wait_seconds=0)
    assert not list((path / "active").glob("*"))
    repository.unlock()
    scene.judge(path)


def test_a_process_that_is_hidden_is_not_dead(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with /proc mounted with hidepid: only that it is there can be told."""
    repository = Repository.open(scene.repository())
    store = repository._store
    name = markers.put_marker(store, markers.CONDEMNED, "prune", "ff")
    try:
        monkeypatch.setattr(markers, "_started", lambda pid: 1 if pid != os.getpid() else None)
        (seen,) = markers.markers(store, markers.CONDEMNED)
        assert seen.state == "unknown"
    finally:
        markers.take_back(store, name)


PROGRAM = """
import sys
import thinmeta
from thinmeta.backup import Repository
from thinmeta.source import ImageGeneration

metadata, data, where, number, size, *snapshots = sys.argv[1:]
done = 0
with thinmeta.open_pool(metadata, data=data) as pool:
    for turn in range(8):
        snapshot = int(snapshots[(int(number) + turn) % len(snapshots)])
        try:
            if number == "0":
                Repository.open(where).prune(keep_last=1)
            else:
                with ImageGeneration(pool, snapshot, size_bytes=int(size)) as generation:
                    Repository.open(where).create(generation, volume=f"v{number}")
            done += 1
        except thinmeta.RepositoryBusyError:
            pass
print(done)
"""


def test_processes_that_back_up_and_prune_at_once(scene: Scene) -> None:
    path = scene.repository()
    images = []
    for each in scene.world.paths:
        # This process has the pool open; nothing of it is changed meanwhile.
        images.append(str(shutil.copy(each, scene.folder / f"copy-{each.name}")))
    words = [*images, str(path)]
    ends = [str(scene.world.size), *map(str, scene.content)]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *words, str(number), *ends],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    done = []
    for child in children:
        out, _ = child.communicate(timeout=120)
        assert child.returncode == 0
        done.append(int(out))
    assert done[1:] == [8, 8, 8]
    assert not list((path / "active").glob("*")) and not list((path / "condemned").glob("*"))
    scene.judge(path)
