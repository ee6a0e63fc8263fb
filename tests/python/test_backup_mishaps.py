"""What went wrong once: calls at the same time, disks that stutter, names out of place."""

import asyncio
import errno
import json
import os
import threading
import time
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import pytest

import thinmeta
from backups import UNIT, World, restored
from command import ThinmetaCommand
from test_backup_parts import generation
from thinmeta.backup import AsyncRepository, Repository, StoredGeneration, local, prune
from thinmeta.backup.keeping import groups_of
from thinmeta.backup.manifest import decode
from thinmeta.backup.stopping import Stopped
from thinmeta.errors import DamagedRepositoryError, RepositoryError, RepositoryKeyError

KEY = bytes(range(32))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path, 1, mib=4) as made:
        made.write(0, made.random.randbytes(made.size))
        yield made


def threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("thinmeta")]


# ---- at the same time ----


def test_each_call_hears_of_its_own_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that fails is heard by the backup that needs it, and by no other."""
    settle, failed = local._settle, threading.Event()

    def slowly(temporary: str, descriptor: int, final: str) -> str:
        if "/packs/" in final:
            time.sleep(0.05)
            if not failed.is_set():
                failed.set()
                os.close(descriptor)
                os.unlink(temporary)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), final)
        return settle(temporary, descriptor, final)

    async def back_up_all(worlds: list[World]) -> list[object]:
        repository = await AsyncRepository.init(tmp_path / "repo")
        opened = [world.open(world.snapshot()) for world in worlds]
        calls = [
            repository.create(each.__enter__(), volume=str(number))
            for number, each in enumerate(opened)
        ]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for each in opened:
            each.__exit__(None, None, None)
        return list(answers)

    worlds = []
    for number in range(4):
        (tmp_path / str(number)).mkdir()
        worlds.append(World(tmp_path / str(number), number, mib=4))
        worlds[-1].write(0, worlds[-1].random.randbytes(worlds[-1].size))
    monkeypatch.setattr(local, "_settle", slowly)
    answers = asyncio.run(back_up_all(worlds))
    monkeypatch.undo()
    assert sum(isinstance(each, OSError) for each in answers) == 1
    repository = Repository.open(tmp_path / "repo")
    assert repository.verify().is_clean and len(repository.generations()) == 3
    for each in repository.generations():
        assert restored(repository, each.name, tmp_path) == worlds[int(each.volume)].shown()
    for world in worlds:
        world.pool.close()


def test_an_index_object_comes_after_its_packs_whoever_flushes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle, order, lock = local._settle, [], threading.Lock()

    def slowly(temporary: str, descriptor: int, final: str) -> str:
        if "/packs/" in final:
            time.sleep(0.1)
        place = settle(temporary, descriptor, final)
        with lock:
            order.append(final)
        return place

    monkeypatch.setattr(local, "_settle", slowly)

    def back_up(number: int) -> None:
        with World(tmp_path / str(number), number, mib=4) as world:
            world.write(0, world.random.randbytes(world.size))
            world.back_up(repository, volume=str(number))

    repository = Repository.init(tmp_path / "repo")
    for number in range(3):
        (tmp_path / str(number)).mkdir()
    workers = [threading.Thread(target=back_up, args=(number,)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    from thinmeta.backup.index import packs_of_index

    seen: set[str] = set()
    indexes = 0
    for path in order:
        if "/index/" in path:
            indexes += 1
            assert {pack.hex() for pack in packs_of_index(path)} <= seen
        seen.add(os.path.basename(path))
    assert indexes >= 3


def test_a_prune_that_is_ended_leaves_no_thread_and_no_file(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune, "PACK_BYTES", 3 * UNIT)
    monkeypatch.setattr("thinmeta.backup.waste.PACK_BYTES", 1 << 30)
    settle = local._settle

    def slowly(temporary: str, descriptor: int, final: str) -> str:
        time.sleep(0.05)
        return settle(temporary, descriptor, final)

    repository = Repository.init(tmp_path / "repo")
    for number in range(10):
        world.write(number * 4 * UNIT, world.random.randbytes(4 * UNIT))
        made = world.back_up(repository)
    count = 0

    def end_late() -> None:
        nonlocal count
        count += any(name.startswith("thinmeta-settle") for name in threads())
        if count == 3:
            raise Stopped

    monkeypatch.setattr(local, "_settle", slowly)
    monkeypatch.setattr(prune, "stop_point", end_late)
    with pytest.raises(Stopped):
        repository.prune(keep_last=8)
    assert not threads() and not list((tmp_path / "repo").rglob(".tmp*"))
    monkeypatch.undo()
    assert repository.verify().is_clean
    assert restored(repository, made.name, tmp_path) == world.shown()


def test_a_coroutine_that_is_closed_ends_its_work(tmp_path: Path) -> None:
    from test_backup_aio import Slow

    world = World(tmp_path, 2, mib=24)
    world.write(0, world.random.randbytes(world.size))

    async def run() -> int:
        repository = await AsyncRepository.init(tmp_path / "repo")
        with world.open(world.snapshot()) as generation_:
            slow = Slow(generation_)
            work = repository.create(slow, threads=1)
            loop = asyncio.get_running_loop()
            task = loop.create_task(work)
            while not slow.ranges:
                await asyncio.sleep(0.01)
            work.close()
            read = slow.read_bytes
            await asyncio.gather(task, return_exceptions=True)
            return read

    assert asyncio.run(run()) < world.size
    world.pool.close()
    assert Repository.open(tmp_path / "repo").generations() == []


# ---- what may be deleted ----


def test_a_disk_that_stutters_is_no_reason_to_delete(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = Repository.init(tmp_path / "repo")
    for _ in range(2):
        world.write(0, world.random.randbytes(UNIT))
        world.back_up(repository)
    before = sorted(map(str, (tmp_path / "repo").rglob("*")))

    what = ""

    class Failing(FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            name = os.readlink(f"/proc/self/fd/{self.fileno()}")
            if what in name:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().read(size) or b""

    for each in ("/generations/", "/segments/"):
        what = each
        with monkeypatch.context() as patch:
            patch.setattr(local, "FileIO", Failing)
            with pytest.raises(DamagedRepositoryError, match="cannot read some objects now"):
                repository.prune(keep_last=1, drop_damaged=True)
        assert sorted(map(str, (tmp_path / "repo").rglob("*"))) == before


@pytest.mark.parametrize("number", range(0, 24, 3))
def test_a_prune_does_without_the_table_of_a_pack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The index objects say what is in it, and have to go on saying so."""
    for name in ("PACK_BYTES", "READ_BYTES"):
        monkeypatch.setattr(f"thinmeta.backup.pipeline.{name}", 4 * UNIT)
    monkeypatch.setattr("thinmeta.backup.waste.PACK_BYTES", 0)
    path = tmp_path / "repo"
    repository = Repository.init(path)
    with World(tmp_path, 4, mib=4) as world:
        for turn in range(4):
            world.write(turn * 10 * UNIT, world.random.randbytes(24 * UNIT))
            made = world.back_up(repository, threads=1)
        content = world.shown()
    packs = sorted(
        (each for each in (path / "packs").rglob("*") if each.is_file()),
        key=lambda each: each.stat().st_mtime_ns,
    )
    assert len(packs) == 24
    victim = packs[number]
    data = bytearray(victim.read_bytes())
    data[-20] ^= 1
    victim.write_bytes(data)
    assert [each.object for each in repository.verify().findings] == [str(victim.relative_to(path))]
    for keep in (3, 1, 1):
        repository.prune(keep_last=keep)
        assert restored(repository, made.name, tmp_path) == content
        named = {pack.hex() for each in (path / "index").iterdir() for pack in packs_of(each)}
        assert named <= {each.name for each in (path / "packs").rglob("*")}
    assert [each.name for each in repository.generations()] == [made.name]


def packs_of(index: Path) -> list[bytes]:
    from thinmeta.backup.index import packs_of_index

    return list(packs_of_index(str(index)))


def test_what_is_to_be_kept_is_not_dropped_as_damaged(world: World, tmp_path: Path) -> None:
    repository = Repository.init(tmp_path / "repo")
    made = []
    for _ in range(3):
        world.write(0, world.random.randbytes(UNIT))
        made.append(world.back_up(repository))
    (tmp_path / "repo/segments" / made[0].segments[0][1]).unlink()
    with pytest.raises(DamagedRepositoryError, match=f"{made[0].name}, which --keep names"):
        repository.prune(keep_last=1, keep=[made[0].name], drop_damaged=True)
    assert len(repository.generations()) == 3
    assert repository.prune(keep_last=1, drop_damaged=True).kept == [made[2].name]


def test_a_nameless_backup_is_of_no_named_volume() -> None:
    def named(sequence: int) -> str:
        return f"{sequence:08d}-{sequence:016x}"

    def grouped(*stored: thinmeta.backup.StoredGeneration) -> list[list[int]]:
        return sorted([each.sequence for each in group] for group in groups_of(stored))

    home = [generation(1, volume="home"), generation(2, volume="home", base=named(1))]
    # Whatever it was made from, and however little was read.
    assert grouped(*home, generation(3, base=named(2), lineage=named(1))) == [[1, 2], [3]]
    # Another device that took nothing from its base is another volume.
    one = generation(1, device_id=1)
    assert grouped(one, generation(2, device_id=50, base=named(1))) == [[1], [2]]
    assert grouped(one, generation(2, device_id=50, lineage=named(1))) == [[1, 2]]
    # Those in between may have been pruned.
    assert grouped(generation(2, device_id=50, lineage=named(1)), one) == [[1, 2]]
    chain = [generation(number, device_id=number, lineage=named(1)) for number in (3, 7, 9)]
    assert grouped(*chain) == [[3, 7, 9]]


def test_unrelated_volumes_without_names_are_kept_apart(tmp_path: Path) -> None:
    repository = Repository.init(tmp_path / "repo")
    with World(tmp_path, 3, mib=4) as world:
        with world.pool.transaction() as txn:
            txn.create_thin(2)
        for device, seed in ((1, b"1"), (2, b"2")):
            with world.pool.devices[device].open(mode="r+", size_bytes=world.size) as volume:
                volume.write(seed * (1 << 20))
        with world.pool.transaction() as txn:
            txn.create_snapshot(11, origin_id=1)
            txn.create_snapshot(12, origin_id=2)
        world.snapshots |= {11: world.size, 12: world.size}
        made = [world.back_up(repository, device, volume="", pool="p") for device in (11, 12)]
    report = repository.prune(keep_last=1)
    assert report.kept == [each.name for each in made]
    with pytest.raises(thinmeta.NoSuchGenerationError, match=r"device 12 of pool p, .* device 11"):
        repository.find("latest")


def test_a_chain_without_a_name_is_thinned_out_night_after_night(
    world: World, tmp_path: Path
) -> None:
    repository = Repository.init(tmp_path / "repo")
    for _ in range(12):
        world.write(0, world.random.randbytes(UNIT))
        newest = world.back_up(repository, volume="", pool="p")
        repository.prune(keep_last=3)
        assert repository.find("latest") == newest
    assert len(repository.generations()) == 3


def test_the_rules_leave_named_volumes_alone(world: World, tmp_path: Path) -> None:
    repository = Repository.init(tmp_path / "repo")
    home = [world.back_up(repository, volume="home", pool="p") for _ in range(2)]
    nameless = world.back_up(repository, volume="", pool="p")
    report = repository.prune(keep_last=1)
    assert report.deleted == [home[0].name] and report.kept == [home[1].name, nameless.name]
    for _ in range(2):
        world.back_up(repository, volume="home", pool="p")
    report = repository.prune(keep_last=1, volume="home")
    assert nameless.name in report.kept and len(report.deleted) == 2
    assert report.reasons[nameless.name] == ["another volume"]


# ---- names and words that are out of place ----


@pytest.mark.parametrize("key", [None, KEY])
def test_a_number_that_cannot_be_hides_no_backup(
    world: World, tmp_path: Path, key: bytes | None
) -> None:
    repository = Repository.init(tmp_path / "repo", key=key)
    first = world.back_up(repository)
    junk = tmp_path / "repo/generations/99999999-0123456789abcdef.json"
    junk.write_bytes(b"x")
    second = world.back_up(repository)
    assert (first.sequence, second.sequence) == (1, 2)
    assert [each.name for each in repository.generations()] == [first.name, second.name]
    assert restored(repository, second.name, tmp_path) == world.shown()
    # And a gap that prunes may leave is none of this.
    path = tmp_path / "repo/generations" / f"{second.name}.json"
    path.rename(path.with_name(f"00000900-{second.name[9:]}.json"))
    assert world.back_up(repository).sequence == 901


def encrypted(config: Path) -> bool:
    return "encryption" in decode(config.read_bytes())


def test_a_repair_does_not_make_an_encrypted_repository_a_clear_one(
    world: World, tmp_path: Path
) -> None:
    path = tmp_path / "repo"
    identifier = Repository.init(path, key=KEY).id
    made = [world.back_up(Repository.open(path, key=KEY)) for _ in range(2)]
    newest = path / "generations" / f"{made[1].name}.json"
    data = bytearray(newest.read_bytes())
    data[2] ^= 1
    newest.write_bytes(data)
    (path / "generations/00000099-0123456789abcdef.json").write_bytes(b"junk")
    (path / "config.json").unlink()
    with pytest.raises(RepositoryKeyError, match="its key is needed"):
        Repository.repair(path)
    assert not (path / "config.json").exists()
    assert Repository.repair(path, key=KEY).id == identifier and encrypted(path / "config.json")
    repository = Repository.open(path, key=KEY)
    assert restored(repository, made[0].name, tmp_path) == world.shown()
    # With no manifest at all in order, the other objects tell.
    (path / "config.json").unlink()
    for each in (path / "generations").iterdir():
        each.write_bytes(b"junk")
    for key in (None, KEY):
        with pytest.raises(RepositoryKeyError):
            Repository.repair(path, key=key)
    assert not (path / "config.json").exists()


def test_a_clear_repository_is_not_repaired_from_junk(tmp_path: Path) -> None:
    (tmp_path / "generations").mkdir()
    (tmp_path / "generations/00000001-0123456789abcdef.json").write_bytes(b"junk")
    with pytest.raises(RepositoryError, match="no manifest can be read"):
        Repository.repair(tmp_path)


def test_what_is_newer_is_neither_repaired_nor_dropped(world: World, tmp_path: Path) -> None:
    from thinmeta._core import Blake3

    def with_version(path: Path, version: int) -> None:
        value = {**json.loads(path.read_bytes())["value"], "version": version}
        body = json.dumps(value, separators=(",", ":")).encode()
        digest = Blake3(body).digest().hex().encode()
        path.write_bytes(b'{"blake3":"' + digest + b'","value":' + body + b"}\n")

    path = tmp_path / "repo"
    repository = Repository.init(path)
    made = [world.back_up(repository) for _ in range(2)]
    with_version(path / "config.json", 2)
    for call in (Repository.open, Repository.repair):
        with pytest.raises(RepositoryError, match="use a newer one"):
            call(path)
    with_version(path / "config.json", 1)
    with_version(path / "generations" / f"{made[0].name}.json", 2)
    with pytest.raises(DamagedRepositoryError, match="of a newer version"):
        repository.prune(keep_last=1, drop_damaged=True)
    assert len(list((path / "generations").iterdir())) == 2


def test_a_config_without_an_id_is_made_anew(world: World, tmp_path: Path) -> None:
    from thinmeta.backup.manifest import encode

    world.back_up(Repository.init(tmp_path / "repo"))
    (tmp_path / "repo/config.json").write_bytes(encode({"version": 1}))
    with pytest.raises(DamagedRepositoryError, match="--repair"):
        Repository.open(tmp_path / "repo")
    assert len(Repository.repair(tmp_path / "repo").generations()) == 1


def test_a_lost_config_is_not_replaced_by_a_new_one(world: World, tmp_path: Path) -> None:
    pytest.importorskip("obstore")
    for where in (tmp_path / "repo", f"memory://{tmp_path.name}"):
        repository = Repository.init(where, key=KEY)
        world.back_up(repository)
        inner = repository._store.inner  # type: ignore[attr-defined]
        inner.delete(["config.json"])
        with pytest.raises(RepositoryError, match=r"repair|not empty"):
            Repository.init(where, key=KEY)
        assert Repository.repair(where, key=KEY).id == repository.id


def test_damage_is_dropped_of_one_volume_only(world: World, tmp_path: Path) -> None:
    repository = Repository.init(tmp_path / "repo")
    made: dict[str, list[StoredGeneration]] = {}
    for volume in ("db", "home", "db", "home"):
        world.write(0, world.random.randbytes(UNIT))
        made.setdefault(volume, []).append(world.back_up(repository, volume=volume))
    for volume in ("db", "home"):
        (tmp_path / "repo/segments" / made[volume][0].segments[0][1]).unlink()
    with pytest.raises(DamagedRepositoryError, match="nothing was deleted"):
        repository.prune(keep_last=1, volume="home", drop_damaged=True)
    assert len(repository.generations()) == 4
    (tmp_path / "repo/generations" / f"{made['db'][0].name}.json").write_bytes(b"")
    with pytest.raises(DamagedRepositoryError, match="of which volume"):
        repository.prune(keep_last=1, volume="home", drop_damaged=True)
    assert repository.find("latest", volume="home") == made["home"][1]
    report = repository.prune(keep_last=1, drop_damaged=True)
    assert report.kept == sorted([made["db"][1].name, made["home"][1].name])


def test_latest_is_of_one_pool_too(world: World, tmp_path: Path) -> None:
    repository = Repository.init(tmp_path / "repo")
    for uuid in ("LVM-a", "LVM-b"):
        with world.open(world.snapshot(), pool_uuid=uuid) as generation_:
            repository.create(generation_, volume="root")
    with pytest.raises(thinmeta.NoSuchGenerationError, match=r"root of pool LVM-b, .* LVM-a"):
        repository.find("latest", volume="root")
    world.back_up(repository, volume="other")
    kept = repository.prune(keep_last=1, keep=["latest"], volume="other")
    assert kept.deleted == []


def test_a_look_at_everything_believes_no_copy(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    repository = Repository.init(tmp_path / "repo", key=KEY)
    world.back_up(repository)
    assert repository.verify().is_clean and list((tmp_path / "cache").rglob("index/*"))
    for each in (tmp_path / "repo/index").iterdir():
        each.write_bytes(b"")
    assert not Repository.open(tmp_path / "repo", key=KEY).verify().is_clean


def test_a_key_in_the_place_of_its_file_is_not_repeated(
    command: ThinmetaCommand, tmp_path: Path
) -> None:
    Repository.init(tmp_path / "repo", key=KEY)
    for option in ("--key-file", "--key-command"):
        run = command("backup", "list", tmp_path / "repo", option, KEY.hex())
        assert run.returncode == 1 and "a key itself" in run.stderr
        assert KEY.hex() not in run.stdout + run.stderr


@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize("left", [0, 1000])
def test_a_quick_look_notices_packs_that_were_cut(
    world: World, tmp_path: Path, key: bytes | None, left: int
) -> None:
    repository = Repository.init(tmp_path / "repo", key=key)
    world.back_up(repository)
    pack = next(each for each in (tmp_path / "repo/packs").rglob("*") if each.is_file())
    pack.write_bytes(pack.read_bytes()[:left])
    report = repository.verify(quick=True)
    assert [each.object for each in report.findings] == [str(pack.relative_to(tmp_path / "repo"))]
    assert not report.generations[0].is_restorable


def test_a_failure_event_has_what_the_message_has(
    command: ThinmetaCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Repository.init(tmp_path / "repo", key=KEY)
    monkeypatch.setenv("THINMETA_KEY_COMMAND", f"echo {'ab' * 32}")
    run = command("backup", "verify", "--json", tmp_path / "repo")
    assert run.returncode == 1 and "that of THINMETA_KEY_COMMAND" in run.stderr
    event = json.loads(run.stdout)
    assert run.stderr == f"thinmeta: {event['message']}\n"
