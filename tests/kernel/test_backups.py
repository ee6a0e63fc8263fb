"""Ten generations of a volume in the kernel, each restored and compared."""

import os
import random
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

import thinmeta
from kernel import quick_dmsetup
from kernel.disks import Disks
from kernel.live import BLOCK_BYTES, LivePool
from thinmeta.backup import Repository
from thinmeta.live.generation import LiveGeneration
from thinmeta.live.look import LiveLook

BLOCKS = 48
SIZE = BLOCKS * BLOCK_BYTES
GENERATIONS = 10


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("THINMETA_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("THINMETA_STATE_DIR", str(tmp_path / "state"))
    quick_dmsetup.use(monkeypatch)
    return tmp_path


@pytest.fixture
def pool(disks: Disks) -> Iterator[LivePool]:
    with disks.live_pool() as live:
        yield live


class User:
    """Somebody who works on the volume, and makes snapshots that are no business of ours."""

    def __init__(self, pool: LivePool, chance: random.Random) -> None:
        self.pool, self.chance = pool, chance
        pool.create_thin(1)
        self.volume = pool.activate(1, blocks=BLOCKS)
        self.snapshots: list[int] = []
        self.next = 2

    def content(self) -> bytes:
        return self.volume.read(0, SIZE)

    def work(self) -> None:
        for _ in range(self.chance.randrange(2, 9)):
            begin = self.chance.randrange(BLOCKS)
            length = self.chance.randrange(1, min(7, BLOCKS - begin + 1))
            what = self.chance.random()
            if what < 0.55:
                data = self.chance.randbytes(length * BLOCK_BYTES)
                self.volume.write(begin * BLOCK_BYTES, data)
            elif what < 0.75:
                self.volume.discard(begin, begin + length)
            elif what < 0.9 or not self.snapshots:
                self.pool.create_snapshot(self.next, origin_id=1)
                self.snapshots.append(self.next)
                self.next += 1
            else:
                gone = self.snapshots.pop(self.chance.randrange(len(self.snapshots)))
                self.pool.delete(gone)
                if self.chance.random() < 0.5:
                    self.next = gone  # the number is used again


def test_each_of_ten_generations_is_restored_as_the_kernel_read_it(
    pool: LivePool, folders: Path
) -> None:
    chance = random.Random(int(os.environ.get("THINMETA_KERNEL_SEED", "7")))
    user = User(pool, chance)
    live = thinmeta.live_pool(pool.device.name)
    repository = Repository.init(folders / "repository")
    expected: dict[str, str] = {}
    for number in range(GENERATIONS):
        user.work()
        with LiveGeneration(live, 1, purpose=repository.id) as generation:
            made = repository.create(generation, volume="the volume", pool="this pool")
            generation.keep()
        expected[made.name] = sha256(user.content()).hexdigest()
        assert (made.base is None) == (number == 0), made
        if number == 5:
            # The snapshot is lost, and the bookmark in the repository goes on.
            with live.metadata_snapshot(data=False) as metadata:
                kept = max(metadata.devices)
            pool.delete(kept)
    assert len(expected) == GENERATIONS
    for name, digest in expected.items():
        copy = folders / "copy"
        repository.restore(name, copy)
        assert sha256(copy.read_bytes()).hexdigest() == digest
        copy.unlink()
    assert repository.verify().is_clean
    assert live.status().held_root is None
    assert [each.device_id for each in live.volumes()] == [1]
    names = list(expected)
    repository.prune(keep_last=3)
    assert [each.name for each in repository.generations()] == names[-3:]
    assert repository.verify().is_clean
    for name in names[-3:]:
        repository.restore(name, folders / name)
        assert sha256((folders / name).read_bytes()).hexdigest() == expected[name]


def test_what_would_be_read_is_told_without_a_change_to_the_pool(
    pool: LivePool, folders: Path
) -> None:
    chance = random.Random(3)
    user = User(pool, chance)
    live = thinmeta.live_pool(pool.device.name)
    repository = Repository.init(folders / "repository")

    def devices() -> set[int]:
        with live.metadata_snapshot(data=False) as metadata:
            return set(metadata.devices)

    def back_up() -> tuple[int, str | None]:
        with LiveGeneration(live, 1, purpose=repository.id) as generation:
            made = repository.create(generation, volume="v")
            generation.keep()
        return made.read_bytes, made.base

    for number in range(3):
        user.work()
        user.volume.write(0, chance.randbytes(BLOCK_BYTES))
        before, kept = devices(), live.kept()
        with LiveLook(live, 1, purpose=repository.id) as look:
            looked = repository.outlook(look, volume="v")
        assert devices() == before and live.kept() == kept
        assert [each.device_id for each in live.volumes()] == [1]
        assert looked.size_bytes == SIZE
        assert (looked.read_bytes, looked.base) == back_up()
        assert (looked.base is None) == (number == 0)


def test_the_kept_snapshot_proves_it_where_the_bookmark_is_lost(
    pool: LivePool, folders: Path
) -> None:
    user = User(pool, random.Random(4))
    user.volume.write(0, os.urandom(10 * BLOCK_BYTES))
    live = thinmeta.live_pool(pool.device.name)
    repository = Repository.init(folders / "repository")
    for lost in (False, True, True):
        user.volume.write(BLOCK_BYTES, os.urandom(BLOCK_BYTES))
        with LiveGeneration(live, 1, purpose=repository.id) as generation:
            made = repository.create(generation, volume="v", pool="p")
            generation.keep()
        assert made.identity.device_id == 1
        if lost:
            assert made.base is not None and made.read_bytes == BLOCK_BYTES
        for each in (folders / "repository" / "bookmarks").iterdir():
            each.unlink()
        repository.restore(made, folders / "copy", overwrite=True)
        assert (folders / "copy").read_bytes() == user.content()
