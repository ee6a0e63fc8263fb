"""Parts of backups by themselves: what is to be read, which generations go, many indexes."""

import os
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import thinmeta
from backups import UNIT, Distant, World, hashes_in_packs, restored
from test_backup_damage import GOOD
from thinmeta.backup import Repository, StoredGeneration
from thinmeta.backup import index as index_module
from thinmeta.backup.keeping import groups_of
from thinmeta.backup.plan import Work, parts
from thinmeta.backup.targets import DeviceTarget

PIECE, PART = 10, 50
RANGES = st.lists(st.tuples(st.integers(0, 399), st.integers(1, 60)), max_size=6)


def ascending(ranges: Iterable[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    """As they come of a pool: in order, none touching the next, none past the end."""
    found: list[tuple[int, int]] = []
    for begin, length in sorted(ranges):
        begin = max(begin, found[-1][0] + found[-1][1] + 1 if found else 0)
        length = min(length, size - begin)
        if length > 0:
            found.append((begin, length))
    return found


@settings(max_examples=300, deadline=None)
@given(RANGES, RANGES, st.integers(1, 400))
def test_parts_cover_what_changed_in_whole_pieces(
    read: list[tuple[int, int]], drop: list[tuple[int, int]], size: int
) -> None:
    read, drop = ascending(read, size), ascending(drop, size)
    found = list(parts(Work(read, drop, 0), size, PIECE, PART))
    numbers = [part.number for part in found]
    assert numbers == sorted(set(numbers))
    seen: Counter[int] = Counter()
    gone: set[int] = set()
    for part in found:
        for begin, end in part.read:
            assert begin % PIECE == 0 and (end % PIECE == 0 or end == size)
            assert part.number * PART <= begin < end <= (part.number + 1) * PART
            seen.update(range(begin, end))
        for begin, end in part.drop:
            assert begin % PIECE == 0 and (end % PIECE == 0 or end >= size)
            assert part.number * PART <= begin < end <= (part.number + 1) * PART
            gone.update(range(begin, end))
    changed = {at for begin, length in read for at in range(begin, begin + length)}
    zeros = {at for begin, length in drop for at in range(begin, begin + length)}
    assert changed <= set(seen) and all(count == 1 for count in seen.values())
    assert zeros <= set(seen) | gone
    # Nothing else is touched but the rest of pieces that have changed in part.
    touched = {at // PIECE for at in changed | zeros}
    assert {at // PIECE for at in set(seen) | gone} == touched


def generation(sequence: int, **facts: object) -> StoredGeneration:
    identity = replace(GOOD.identity, device_id=facts.pop("device_id", 1))  # type: ignore[arg-type]
    name = f"{sequence:08d}-{sequence:016x}"
    return replace(
        GOOD,
        name=name,
        sequence=sequence,
        identity=identity,
        **{"volume": "", "lineage": name, **facts},  # type: ignore[arg-type]
    )


def test_generations_are_of_one_volume_by_name_device_or_base() -> None:
    stored = [
        generation(1, volume="web"),
        generation(2, volume="web", device_id=9, pool="another"),
        generation(3, device_id=10),
        generation(4, device_id=11, lineage=f"{3:08d}-{3:016x}"),
        generation(5, device_id=20),
        generation(6, device_id=20),
        generation(7, device_id=20, pool="q"),
        generation(8, device_id=21, base=f"{3:08d}-{3:016x}"),
    ]
    groups = [[each.sequence for each in group] for group in groups_of(reversed(stored))]
    assert sorted(groups) == [[1, 2], [3, 4], [5, 6], [7], [8]]


def test_a_prune_counts_each_volume_by_itself(tmp_path: Path) -> None:
    repository = Repository.init(tmp_path / "repo")
    with World(tmp_path, 1, mib=2) as world:
        names = {}
        for number in range(6):
            world.step(resize=False)
            made = world.back_up(repository, volume="ab"[number % 2])
            names[number] = made.name
        looked = repository.prune(keep_last=2, dry_run=True)
        assert looked.dry_run and looked.deleted == [names[0], names[1]]
        assert len(repository.generations()) == 6
        assert repository.prune(keep_last=1, volume="a", keep=[names[0]]).deleted == [names[2]]
        assert repository.prune(keep_last=9).deleted == []
        assert repository.prune(keep_last=1).deleted == [names[0], names[1], names[3]]
        assert [each.name for each in repository.generations()] == [names[4], names[5]]
        assert restored(repository, names[5], tmp_path) == world.shown()
    with pytest.raises(thinmeta.UsageError, match="at least one"):
        repository.prune(keep_last=0)
    with pytest.raises(thinmeta.NoSuchGenerationError):
        repository.prune(keep_last=1, keep=["77"])
    with pytest.raises(thinmeta.NoSuchGenerationError, match="no generation"):
        repository.find("")


def test_latest_is_of_one_volume(tmp_path: Path) -> None:
    repository = Repository.init(tmp_path / "repo")
    with pytest.raises(thinmeta.NoSuchGenerationError, match="no generation yet"):
        repository.find("latest")
    with World(tmp_path, 1, mib=2) as world:
        a = [world.back_up(repository, volume="a") for _ in range(2)]
        assert repository.find("latest") == a[1]
        b = world.back_up(repository, volume="b")
    for call in (repository.find, lambda name: repository.restore(name, tmp_path / "out")):
        with pytest.raises(
            thinmeta.NoSuchGenerationError,
            match=r"the latest of which volume.* of b, .* of a: name one",
        ):
            call("latest")
    assert not (tmp_path / "out").exists()
    assert repository.find("latest", volume="a") == a[1]
    assert repository.find("latest", volume="b") == b == repository.find(3, volume="b")
    with pytest.raises(thinmeta.NoSuchGenerationError, match="of volume 'c'"):
        repository.find("latest", volume="c")
    with pytest.raises(thinmeta.NoSuchGenerationError, match="and not of 'b'"):
        repository.find(a[0].name, volume="b")
    # Nobody knows of which volume a damaged one is: no older one is taken unasked.
    (tmp_path / "repo/generations" / f"{b.name}.json").write_bytes(b"")
    for volume in ("a", None):
        with pytest.raises(thinmeta.DamagedRepositoryError):
            repository.find("latest", volume=volume)
    assert repository.find(2, volume="a") == a[1]


def test_nothing_is_restored_into_the_repository(tmp_path: Path) -> None:
    path = tmp_path / "repo"
    repository = Repository.init(path, key=bytes(32))
    with World(tmp_path, 1, mib=2) as world:
        made = world.back_up(repository)
    (tmp_path / "link").symlink_to(path / "packs")
    for target in (path / "out", path / "config.json", tmp_path / "link" / "out", path):
        with pytest.raises(thinmeta.UsageError, match="in the repository"):
            repository.restore(made, target, overwrite=True)
    assert repository.restore(made, tmp_path / "repository.img").data_bytes == made.data_bytes
    assert Repository.open(path, key=bytes(32)).verify().is_clean


def test_a_filesystem_of_its_own_can_be_a_repository(tmp_path: Path) -> None:
    (tmp_path / "disk/lost+found").mkdir(parents=True)
    Repository.init(tmp_path / "disk")
    (tmp_path / "other/files").mkdir(parents=True)
    with pytest.raises(thinmeta.RepositoryError, match="not empty"):
        Repository.init(tmp_path / "other")


def test_small_packs_and_many_indexes_are_put_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    repository = Repository.init(tmp_path / "repo")
    with World(tmp_path, 2, mib=2) as world:
        for number in range(20):
            world.write(number * UNIT, world.random.randbytes(UNIT))
            world.back_up(repository)
        assert len(list((tmp_path / "repo" / "index").iterdir())) == 20
        assert len(list((tmp_path / "repo" / "packs").glob("*/*"))) == 20
        wanted = [restored(repository, number, tmp_path) for number in (1, 20)]
        repository.prune(keep_last=100)
        assert len(list((tmp_path / "repo" / "index").iterdir())) == 1
        assert len(list((tmp_path / "repo" / "packs").glob("*/*"))) == 1
        assert [restored(repository, number, tmp_path) for number in (1, 20)] == wanted
        assert repository.verify().is_clean
        assert world.back_up(repository, full=True).stored_bytes == 0


def test_a_thousand_indexes_are_not_opened_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(index_module, "MANY", 3)
    monkeypatch.setattr(index_module, "MERGED_BYTES", 600)
    repository = Repository.init(tmp_path / "repo")
    with World(tmp_path, 3, mib=2) as world:
        for _ in range(12):
            world.step(resize=False)
            world.back_up(repository)
        before = len(os.listdir("/proc/self/fd"))
        loaded = index_module.IndexSet.load(Distant(str(tmp_path / "repo")), str(tmp_path))
        there = len(list((tmp_path / "repo" / "index").iterdir()))
        assert len(loaded.objects) == there > 6
        assert len(os.listdir("/proc/self/fd")) - before < there
        assert world.back_up(repository, full=True).stored_bytes == 0
        assert restored(repository, "latest", tmp_path) == world.shown()
        victim = sorted((tmp_path / "repo" / "index").iterdir())[5]
        data = bytearray(victim.read_bytes())
        data[60] ^= 1
        victim.write_bytes(data)
        assert victim.name in str(repository.verify().findings)
        assert restored(repository, "latest", tmp_path) == world.shown()
    assert max(Counter(hashes_in_packs(tmp_path / "repo")).values()) == 1


def test_a_device_is_written_in_place_and_zeroed_between(tmp_path: Path) -> None:
    """A file stands for the device: it is opened and zeroed in the same way, by writing."""
    repository = Repository.init(tmp_path / "repo")
    device = tmp_path / "device"
    with World(tmp_path, 4, mib=3) as world:
        world.step()
        world.back_up(repository)
        content = world.shown()
    stored = repository.find("latest")
    device.write_bytes(b"\xff" * (4 << 20))
    with pytest.raises(thinmeta.AlreadyFormattedError, match="something is on it"):
        DeviceTarget(str(device), stored.size_bytes, overwrite=False).__enter__()
    from thinmeta.backup.restore import restore

    target = DeviceTarget(str(device), stored.size_bytes, overwrite=True)
    report = restore(repository._store, str(tmp_path), stored, target, threads=2, progress=None)
    found = device.read_bytes()
    assert found[: len(content)] == content and report.size_bytes == len(content)
    assert found[len(content) :] == b"\xff" * ((4 << 20) - len(content))
    device.write_bytes(b"\xff" * 1000)
    with pytest.raises(OSError, match="nothing written"):
        DeviceTarget(str(device), stored.size_bytes, overwrite=True).__enter__()
    assert device.read_bytes() == b"\xff" * 1000


def test_a_device_is_not_touched_while_something_is_missing(tmp_path: Path) -> None:
    from thinmeta.backup.locate import Lost
    from thinmeta.backup.restore import restore

    repository = Repository.init(tmp_path / "repo")
    device = tmp_path / "device"
    with World(tmp_path, 5, mib=3) as world:
        for _ in range(3):
            world.write(world.random.randrange(40) * UNIT, world.random.randbytes(5 * UNIT))
            world.back_up(repository)
    packs = sorted((tmp_path / "repo" / "packs").glob("*/*"))
    random.Random(1).choice(packs).write_bytes(b"")
    device.write_bytes(b"\xff" * (4 << 20))
    lost = [state for state in repository.verify().generations if not state.is_restorable]
    assert lost
    for state in lost:
        stored = repository.find(state.name)
        target = DeviceTarget(str(device), stored.size_bytes, overwrite=True)
        with pytest.raises(Lost):
            restore(repository._store, str(tmp_path), stored, target, threads=1, progress=None)
        assert device.read_bytes() == b"\xff" * (4 << 20)


def test_without_a_place_for_copies_of_indexes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_bytes(b"a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Repository.init(tmp_path / "repo")
    repository = Repository.open(Distant(str(tmp_path / "repo")))
    with World(tmp_path, 6, mib=2) as world:
        world.step()
        world.back_up(repository)
        assert restored(repository, 1, tmp_path) == world.shown()


def test_a_verify_while_a_prune_deletes_finds_nothing_wrong(tmp_path: Path) -> None:
    from backups import Watched

    with World(tmp_path, 7, mib=2) as world:
        for at in range(60):
            path = tmp_path / f"repo-{at}"
            if at == 0:
                repository = Repository.init(path)
                for _ in range(3):
                    world.step(resize=False)
                    world.back_up(repository)
                continue
            import shutil

            shutil.copytree(tmp_path / "repo-0", path)

            def prune(path: Path = path) -> None:
                Repository.open(path).prune(keep_last=1)

            store = Watched(str(path), at, prune)
            report = Repository(store, "0" * 32).verify()
            assert report.is_clean, report.findings
            if len(store.operations) <= at:
                break
            assert restored(Repository.open(path), "latest", tmp_path) == world.shown()


def test_a_restore_while_a_prune_deletes_goes_on(tmp_path: Path) -> None:
    import shutil

    from backups import Watched

    with World(tmp_path, 8, mib=2) as world:
        repository = Repository.init(tmp_path / "template")
        for _ in range(3):
            world.step(resize=False)
            world.back_up(repository)
        for at in range(40):
            path = tmp_path / f"repo-{at}"
            shutil.copytree(tmp_path / "template", path)

            def prune(path: Path = path) -> None:
                Repository.open(path).prune(keep_last=1)

            store = Watched(str(path), at, prune)
            found = restored(Repository(store, "0" * 32), "latest", tmp_path)
            assert found == world.shown()
            if len(store.operations) <= at:
                break
