"""Generations of a volume come back as they were, and only what changed is read and stored."""

import os
import random
from collections import Counter
from pathlib import Path

import pytest

import thinmeta
from backups import UNIT, VOLUME, World, hashes_in_packs, restored
from thinmeta.backup import Repository
from thinmeta.source import ImageGeneration

#: Random histories; more by the environment.
HISTORIES = int(os.environ.get("THINMETA_BACKUP_HISTORIES", "4"))
SEED = int(os.environ.get("THINMETA_BACKUP_SEED", "1"))


@pytest.mark.parametrize("seed", range(SEED, SEED + HISTORIES))
def test_ten_random_generations_come_back(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    sectors = (128, 384, 256, 2176)[seed % 4]
    repository = Repository.init(tmp_path / "repo")
    wanted = {}
    with World(tmp_path, seed, sectors=sectors) as world:
        for _ in range(10):
            world.step()
            snapshot = world.snapshot()
            with world.open(snapshot) as generation:
                made = repository.create(generation, volume="v")
            assert made.read_bytes == generation.read_bytes
            wanted[made.name] = world.shown()
            kind = rng.random()
            if kind < 0.5:
                world.delete(snapshot)  # a bookmark is the base of the next one
            if kind < 0.2 and len(wanted) > 3:
                report = repository.prune(keep_last=3)
                wanted = {name: wanted[name] for name in report.kept}
    assert [each.name for each in repository.generations()] == sorted(wanted)
    assert sum(each.base is not None for each in repository.generations()) >= len(wanted) - 1
    for name, content in wanted.items():
        assert restored(repository, name, tmp_path) == content, f"seed {seed}, {name}"
    assert repository.verify().is_clean


def test_only_what_changed_is_read(tmp_path: Path) -> None:
    repository = Repository.init(tmp_path / "repo")
    with World(tmp_path, 1) as world:
        for at in range(0, 100 * UNIT, UNIT):
            world.write(at, world.random.randbytes(UNIT))
        world.back_up(repository)
        world.write(7 * UNIT + 5, b"x")
        world.write(50 * UNIT - 1, b"yz")
        world.discard(90 * UNIT, 3 * UNIT)
        snapshot = world.snapshot()
        with world.open(snapshot) as generation:
            made = repository.create(generation, volume="v")
        assert sorted(generation.ranges) == [(7 * UNIT, UNIT), (49 * UNIT, 2 * UNIT)]
        assert made.read_bytes == made.stored_bytes == 3 * UNIT
        assert made.data_bytes == 97 * UNIT
        assert restored(repository, "latest", tmp_path) == world.shown()

        with world.open(snapshot) as generation:
            again = repository.create(generation, volume="v")
        assert not generation.ranges and again.stored_bytes == 0
        assert again.segments == made.segments


def test_equal_content_is_stored_once(tmp_path: Path) -> None:
    repository = Repository.init(tmp_path / "repo")
    with World(tmp_path, 2) as world:
        block = world.random.randbytes(UNIT)
        for at in (3, 17, 18, 60):
            world.write(at * UNIT, block)
        first = world.back_up(repository)
        assert first.stored_bytes == UNIT and first.read_bytes == 4 * UNIT
        world.write(100 * UNIT, block)
        # Nothing is known of another name, so that everything is read; nothing is new.
        second = world.back_up(repository, volume="other")
        assert second.base is None
        assert (second.read_bytes, second.stored_bytes) == (5 * UNIT, 0)
        assert restored(repository, 2, tmp_path) == world.shown()
    assert max(Counter(hashes_in_packs(tmp_path / "repo")).values()) == 1


def test_what_compresses_takes_less(tmp_path: Path) -> None:
    repository = Repository.init(tmp_path / "repo")
    with World(tmp_path, 2) as world:
        for at in range(16):
            world.write(at * UNIT, (b"line %d of a log\n" % at) * (UNIT // 18))
        made = world.back_up(repository)
    assert made.packed_bytes < made.stored_bytes / 20


def test_a_volume_that_is_written_is_read_whole_and_never_assumed(tmp_path: Path) -> None:
    repository = Repository.init(tmp_path / "repo")
    with World(tmp_path, 3) as world:
        world.write(0, world.random.randbytes(10 * UNIT))
        first = world.back_up(repository, VOLUME)
        assert first.bookmark is None
        world.write(4 * UNIT, b"in its place")
        with world.open(VOLUME) as generation:
            second = repository.create(generation, volume="v")
        assert second.base is None and generation.read_bytes == 10 * UNIT
        assert second.stored_bytes == UNIT
        assert restored(repository, 2, tmp_path) == world.shown()


def test_what_was_written_since_a_snapshot_is_found_behind_a_newer_generation(
    tmp_path: Path,
) -> None:
    repository = Repository.init(tmp_path / "repo")
    with World(tmp_path, 4) as world:
        world.write(0, world.random.randbytes(20 * UNIT))
        first = world.back_up(repository)
        world.write(3 * UNIT, b"one")
        second = world.back_up(repository, VOLUME)
        world.write(3 * UNIT, b"two")
        third = world.back_up(repository, VOLUME)
        # The second proves nothing; the first does.
        assert second.base == third.base == first.name
        assert third.read_bytes == UNIT
        assert restored(repository, 3, tmp_path) == world.shown()


def test_a_kept_snapshot_is_a_base_when_the_bookmark_is_lost(tmp_path: Path) -> None:
    repository = Repository.init(tmp_path / "repo")
    with World(tmp_path, 5) as world:
        world.write(0, world.random.randbytes(20 * UNIT))
        first = world.back_up(repository)
        (tmp_path / "repo" / "bookmarks" / str(first.bookmark)).unlink()
        world.write(3 * UNIT, b"one")
        second = world.back_up(repository)
        assert second.base == first.name and second.read_bytes == UNIT
        world.delete(min(world.snapshots))
        (tmp_path / "repo" / "bookmarks" / str(second.bookmark)).unlink()
        world.delete(min(world.snapshots))
        # Neither is there any more.
        third = world.back_up(repository)
        assert third.base is None and third.read_bytes == 20 * UNIT
        assert restored(repository, 3, tmp_path) == world.shown()


def test_of_a_pool_without_a_name_nothing_is_assumed(tmp_path: Path) -> None:
    repository = Repository.init(tmp_path / "repo")
    with World(tmp_path, 6) as world:
        world.write(0, world.random.randbytes(4 * UNIT))
        world.back_up(repository, volume="")
        again = world.back_up(repository, volume="")
        assert again.base is None and again.read_bytes == 4 * UNIT
        named = world.back_up(repository, volume="", pool="this one")
        assert named.base is None
        another = world.back_up(repository, volume="", pool="this one")
        assert another.base == named.name and another.read_bytes == 0
        wanted = world.back_up(repository, volume="", base=1)
        assert wanted.base is not None and wanted.base.startswith("00000001")


def test_another_pool_with_the_same_history_is_not_taken_for_the_same(tmp_path: Path) -> None:
    repository = Repository.init(tmp_path / "repo")
    for number, folder in enumerate((tmp_path / "a", tmp_path / "b")):
        folder.mkdir()
        with World(folder, 7) as world:
            # Equal mappings and times; nothing but the pool's name tells them apart.
            world.write(0, random.Random(number).randbytes(6 * UNIT))
            snapshot = world.snapshot()
            with world.open(snapshot, pool_uuid=f"uuid-{number}") as generation:
                made = repository.create(generation)
            assert made.base is None
            assert restored(repository, made.name, tmp_path) == world.shown()
            with world.open(snapshot, pool_uuid=f"uuid-{number}") as generation:
                if number:
                    with pytest.raises(thinmeta.WrongBaseError, match="uuid-0"):
                        repository.create(generation, base=1)
                assert repository.create(generation).base == made.name


def test_of_several_volumes_of_a_pool_the_one_with_the_least_to_read_is_the_base(
    tmp_path: Path,
) -> None:
    repository = Repository.init(tmp_path / "repo")
    with World(tmp_path, 8) as world:
        world.write(0, world.random.randbytes(20 * UNIT))
        first = world.back_up(repository, volume="", pool="p")
        with world.pool.transaction() as txn:
            txn.create_thin(2)
        with world.pool.devices[2].open(mode="r+", size_bytes=world.size) as other:
            other.write(world.random.randbytes(10 * UNIT))
        with world.pool.transaction() as txn:
            txn.create_snapshot(3, origin_id=2)
        second = world.back_up(repository, 3, volume="", pool="p")
        world.write(0, b"x")
        third = world.back_up(repository, volume="", pool="p")
        assert second.read_bytes == 10 * UNIT
        assert third.base == first.name and third.read_bytes == UNIT


def test_the_size_may_change_at_any_byte(tmp_path: Path) -> None:
    repository = Repository.init(tmp_path / "repo")
    with World(tmp_path, 9) as world:
        world.write(0, world.random.randbytes(world.size))
        whole = world.size
        sizes = (whole, whole - 1, whole - UNIT - 1, 5 * UNIT, 5 * UNIT + 1, 1 << 20, whole)
        for size in (*sizes, whole + 3 * UNIT + 7):
            world.resize(size)
            made = world.back_up(repository)
            assert made.size_bytes == size
            # What was beyond the end has changed on no account: it is what it was.
            assert restored(repository, made.name, tmp_path) == world.shown()
        assert all(each.base for each in repository.generations()[1:])


def test_an_external_origin_is_left_out_or_flattened(tmp_path: Path) -> None:
    repository = Repository.init(tmp_path / "repo")
    origin = tmp_path / "origin"
    with World(tmp_path, 10) as world:
        origin.write_bytes(world.random.randbytes(10 * UNIT))
        world.write(2 * UNIT, b"x" * UNIT)
        for flatten in (False, True):
            size = 12 * UNIT
            with ImageGeneration(
                world.pool, VOLUME, size_bytes=size, external_origin=origin, flatten=flatten
            ) as generation:
                repository.create(generation, volume="v")
        plain, flat = (restored(repository, number, tmp_path) for number in (1, 2))
        content = origin.read_bytes()
        content = content[: 2 * UNIT] + b"x" * UNIT + content[3 * UNIT :] + bytes(2 * UNIT)
        assert flat == content
        assert plain == bytes(2 * UNIT) + b"x" * UNIT + bytes(9 * UNIT)
        assert repository.restore(1, tmp_path / "plain").external_origin


def test_an_empty_volume_and_one_of_zeros(tmp_path: Path) -> None:
    repository = Repository.init(tmp_path / "repo")
    with World(tmp_path, 11) as world:
        assert not world.back_up(repository).segments
        world.write(0, bytes(3 * UNIT))
        made = world.back_up(repository)
        assert not made.segments and made.read_bytes == 3 * UNIT
        with ImageGeneration(world.pool, world.snapshot(), size_bytes=0) as generation:
            repository.create(generation, volume="none")
    assert [len(restored(repository, n, tmp_path)) for n in (1, 2, 3)] == [8 << 20, 8 << 20, 0]
    assert repository.verify().is_clean


def test_restored_files_are_sparse(tmp_path: Path) -> None:
    repository = Repository.init(tmp_path / "repo")
    with World(tmp_path, 12) as world:
        world.write(100 * UNIT, b"x" * UNIT)
        world.back_up(repository)
    repository.restore("latest", tmp_path / "out")
    found = (tmp_path / "out").stat()
    assert found.st_size == 8 << 20 and found.st_blocks * 512 <= 4 * UNIT


def test_a_generation_is_restored_into_a_volume_of_a_pool(tmp_path: Path) -> None:
    repository = Repository.init(tmp_path / "repo")
    with World(tmp_path, 13) as world:
        world.step()
        world.write(0, b"begin")
        world.back_up(repository)
        content, size = world.shown(), world.size
        world.step(resize=False)
        world.back_up(repository)
        last = world.shown()
    metadata, data = map(str, world.paths)
    repository.restore(1, metadata, data=data, device_id=77)
    with pytest.raises(thinmeta.AlreadyFormattedError, match="there is a volume already"):
        repository.restore(1, metadata, data=data, device_id=77)
    repository.restore(2, metadata, data=data, device_id=VOLUME, overwrite=True)
    with thinmeta.open_pool(metadata, data=data) as pool:
        assert set(pool.devices) == {1, 10, 11, 77}
        for device_id, expected in ((77, content), (VOLUME, last)):
            with pool.devices[device_id].open(size_bytes=size) as volume:
                assert volume.readall() == expected
    assert thinmeta.check(metadata).is_clean


def test_blocks_past_the_size_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with World(tmp_path, 12, mib=4) as world:
        world.write(world.size - 10, b"at the end")
        world.resize(world.size - world.block + 1)  # its last block has a part in it
        with world.open(world.snapshot()):
            assert not caplog.records
        world.resize(2 << 20)
        with world.open(world.snapshot()):
            assert f"blocks up to {2 << 20} bytes past its size of {2 << 20}" in caplog.text
