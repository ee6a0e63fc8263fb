"""A backup that is killed costs what was not stored yet, and nothing else."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

import thinmeta
from backups import UNIT, World, hashes_in_packs, restored
from thinmeta.backup import Repository
from thinmeta.source import ImageGeneration

ROUNDS = int(os.environ.get("THINMETA_BACKUP_KILLS", "4"))
SEED = int(os.environ.get("THINMETA_BACKUP_SEED", "1"))
SIZE = 96 << 20

PROGRAM = """
import sys
import thinmeta
import thinmeta.backup.index, thinmeta.backup.pipeline
from thinmeta.backup import Repository
from thinmeta.source import ImageGeneration

# Small packs and many index objects, so that there are many points to be killed at.
thinmeta.backup.pipeline.PACK_BYTES = 1 << 20
thinmeta.backup.pipeline.READ_BYTES = 1 << 18
thinmeta.backup.pipeline.SPILL_PIECES = 200

metadata, data, where, size = sys.argv[1:]
with thinmeta.open_pool(metadata, data=data) as pool:
    with ImageGeneration(pool, 10, size_bytes=int(size)) as generation:
        print("begun", flush=True)
        Repository.open(where).create(generation, volume="v")
print("done", flush=True)
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("images")
    with World(folder, 1, mib=SIZE >> 20) as world:
        for at in range(0, SIZE, 4 << 20):
            world.write(at, os.urandom(4 << 20))
        world.write(5 << 20, bytes(3 << 20))
        world.write(50 << 20, b"again" * 100_000)
        assert world.snapshot() == 10
        return world.paths


def content(images: tuple[Path, Path]) -> bytes:
    with thinmeta.open_pool(images[0], data=images[1]) as pool:
        with pool.devices[10].open(size_bytes=SIZE) as volume:
            return volume.readall()


def test_killed_at_random_points_and_run_again(images: tuple[Path, Path], tmp_path: Path) -> None:
    rng = random.Random(SEED)
    wanted = content(images)
    stored_before_end = 0
    for turn in range(ROUNDS):
        where = tmp_path / f"repo-{turn}"
        repository = Repository.init(where)
        words = [sys.executable, "-c", PROGRAM, *map(str, images), str(where), str(SIZE)]
        for _ in range(rng.randrange(1, 4)):
            child = subprocess.Popen(words, stdout=subprocess.PIPE)
            assert child.stdout is not None
            assert child.stdout.readline() == b"begun\n"
            time.sleep(rng.random() * 0.5)
            child.send_signal(signal.SIGKILL)
            child.stdout.close()
            child.wait()
        stored = len(hashes_in_packs(where))
        stored_before_end += stored
        with thinmeta.open_pool(images[0], data=images[1]) as pool:
            with ImageGeneration(pool, 10, size_bytes=SIZE) as generation:
                made = repository.create(generation, volume="v", full=True)
        found = Counter(hashes_in_packs(where))
        assert max(found.values()) == 1, f"seed {SEED}, turn {turn}: stored twice"
        pieces = len(found) * UNIT
        assert made.stored_bytes <= pieces - stored * UNIT
        assert restored(repository, made.name, tmp_path) == wanted
        assert repository.verify().is_clean
        repository.prune(keep_last=1)
        assert not list(where.rglob(".tmp*")) and not list((where / "active").glob("*"))
        assert restored(repository, made.name, tmp_path) == wanted
        assert max(Counter(hashes_in_packs(where)).values()) == 1
    assert stored_before_end > 0


def test_an_interrupted_backup_ends_soon_and_leaves_no_mark(
    images: tuple[Path, Path], tmp_path: Path
) -> None:
    where = tmp_path / "repo"
    repository = Repository.init(where)
    with thinmeta.open_pool(images[0], data=images[1]) as pool:
        with ImageGeneration(pool, 10, size_bytes=SIZE) as generation:
            seen: list[int] = []

            def stop(done: int, total: int) -> None:
                seen.append(done)
                assert 0 <= done <= total
                if done > SIZE // 2:
                    raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                repository.create(generation, volume="v", progress=stop)
            assert not list((where / "active").glob("*"))
            stored = len(hashes_in_packs(where))
            assert stored > 0 and list((where / "index").iterdir())
            made = repository.create(generation, volume="v")
    assert seen == sorted(seen)
    assert max(Counter(hashes_in_packs(where)).values()) == 1
    assert made.stored_bytes == len(hashes_in_packs(where)) * UNIT - stored * UNIT
