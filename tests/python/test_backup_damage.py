"""Damage in any object is noticed, and what is still there is said, and right."""

import errno
import os
import random
import shutil
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import thinmeta
import thinmeta.backup
import thinmeta.identity
from backups import UNIT, World, restored
from thinmeta.backup import Repository
from thinmeta.backup.manifest import SegmentRows, StoredGeneration, decode, encode
from thinmeta.backup.segments import Segment
from thinmeta.errors import DamagedRepositoryError, StreamError


class Scene:
    """A repository of three generations of which parts can be spoiled."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._count = folder, 0
        self.world = World(folder, 1, mib=4)
        self.content: dict[str, bytes] = {}
        repository = Repository.init(folder / "template")
        for number in range(3):
            for at in range(10 * number, 10 * number + 12):
                self.world.write(at * UNIT, self.world.random.randbytes(UNIT))
            made = self.world.back_up(repository)
            self.content[made.name] = self.world.shown()

    def copy(self) -> Path:
        self._count += 1
        path = self.folder / f"repo-{self._count}"
        shutil.copytree(self.folder / "template", path)
        return path


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    made = Scene(tmp_path_factory.mktemp("scene"))
    yield made
    made.world.pool.close()


def remove(path: Path) -> None:
    path.unlink()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0x20
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def loop(path: Path) -> None:
    """What cannot be read at all, though it is there."""
    path.unlink()
    path.symlink_to(path.name)


SPOILS: list[Callable[[Path], None]] = [remove, flip, cut, lengthen, empty, loop]


@pytest.mark.parametrize("spoil", SPOILS)
@pytest.mark.parametrize("kind", ["generations", "segments", "bookmarks", "index", "packs"])
def test_what_is_said_of_a_damaged_object_is_so(
    scene: Scene, kind: str, spoil: Callable[[Path], None]
) -> None:
    path = scene.copy()
    repository = Repository.open(path)
    victims = sorted(each for each in (path / kind).rglob("*") if each.is_file())
    victim = random.Random(f"{kind} {spoil.__name__}").choice(victims)
    name = str(victim.relative_to(path))
    spoil(victim)
    report = repository.verify()

    if (kind, spoil) == ("generations", remove):
        # As if it had been pruned: the others are whole.
        assert report.is_clean and len(report.generations) == 2
    elif (kind, spoil) == ("index", remove):
        # The packs say themselves what they have; nobody knows that there was an index.
        assert report.is_clean
    else:
        assert name in {finding.object for finding in report.findings}
    if kind in ("bookmarks", "index"):
        assert all(state.is_restorable for state in report.generations)
    if kind == "segments" or (kind == "packs" and spoil not in (cut, lengthen)):
        # At a pack's end there is its table, which the index makes up for.
        assert not all(state.is_restorable for state in report.generations)
    _judge(scene, repository, report)

    # Whatever it was: another backup is whole, and what it can it mends.
    repository.verify(mend=True)
    made = scene.world.back_up(repository, max(scene.world.snapshots), full=True)
    assert restored(repository, made.name, scene.folder) == scene.world.shown()
    shutil.rmtree(path)


def _judge(scene: Scene, repository: Repository, report: thinmeta.backup.VerifyReport) -> None:
    """What can be restored is right, and what cannot is as it is said to be."""
    for state in report.generations:
        wanted = scene.content[state.name]
        if state.is_restorable:
            assert restored(repository, state.name, scene.folder) == wanted
            assert not state.lost
            continue
        target = scene.folder / "target"
        target.write_bytes(b"as it was")
        with pytest.raises(DamagedRepositoryError) as caught:
            repository.restore(state.name, target, overwrite=True)
        assert target.read_bytes() == b"as it was"
        assert not list(scene.folder.glob(".target*"))
        assert caught.value.restorable is not None
        assert state.name not in caught.value.restorable or caught.value.objects
        if state.readable:
            assert 0 < state.lost_bytes == sum(length for _, length in state.lost)
            assert all(begin + length <= len(wanted) for begin, length in state.lost)


def test_only_the_lost_pieces_are_said_to_be_lost(scene: Scene) -> None:
    path = scene.copy()
    repository = Repository.open(path)
    packs = sorted((path / "packs").rglob("*"), key=lambda each: each.stat().st_size)
    victim = packs[-1]
    data = bytearray(victim.read_bytes())
    data[3 * UNIT + 100] ^= 1  # in the fourth piece
    victim.write_bytes(data)
    report = repository.verify()
    assert [each.problem for each in report.findings] == ["1 of 12 pieces are damaged"]
    first, second, third = report.generations
    assert {state.lost_bytes for state in report.generations} <= {0, UNIT}
    lost = [state for state in report.generations if state.lost]
    assert lost and all(state.lost == lost[0].lost for state in lost)
    # Quickly it is not seen; the restore sees it.
    assert repository.verify(quick=True).is_clean
    with pytest.raises(DamagedRepositoryError, match=r"packs/.*lost"):
        repository.restore(lost[0].name, scene.folder / "x")
    assert first.name < second.name < third.name
    shutil.rmtree(path)


def test_a_lost_pack_is_stored_again_and_mends_older_generations(scene: Scene) -> None:
    path = scene.copy()
    repository = Repository.open(path)
    for each in (path / "packs").rglob("*"):
        if each.is_file():
            each.unlink()
    assert not any(state.is_restorable for state in repository.verify().generations)
    assert not any(state.is_restorable for state in repository.verify(quick=True).generations)
    for snapshot in scene.world.snapshots:
        scene.world.back_up(repository, snapshot, full=True)
    for name, content in scene.content.items():
        assert restored(repository, name, scene.folder) == content
    shutil.rmtree(path)


@pytest.mark.parametrize("marked", [False, True])
def test_a_backup_is_not_built_upon_lost_pieces(scene: Scene, marked: bool) -> None:
    """Nothing has changed since: the base would prove that nothing need be read."""
    path = scene.copy()
    repository = Repository.open(path)
    for each in (path / "packs").rglob("*"):
        if each.is_file() and not marked:
            each.unlink()
        elif each.is_file():
            each.write_bytes(b"rubbish" * 100)
    if marked:
        repository.verify(mend=True)
    newest = list(scene.content.values())[-1]
    made = scene.world.back_up(repository, list(scene.world.snapshots)[-1])
    assert restored(repository, made.name, scene.folder) == newest
    shutil.rmtree(path)


def test_the_latest_generation_is_the_latest_though_it_is_damaged(scene: Scene) -> None:
    path = scene.copy()
    repository = Repository.open(path)
    newest = max(each.name for each in repository.generations())
    (path / "generations" / f"{newest}.json").write_bytes(b"{}")
    with pytest.raises(thinmeta.DamagedRepositoryError, match=newest) as caught:
        repository.find("latest")
    assert caught.value.restorable == tuple(each.name for each in repository.generations())
    shutil.rmtree(path)


def test_without_any_index_the_packs_say_what_they_have(scene: Scene) -> None:
    path = scene.copy()
    shutil.rmtree(path / "index")
    repository = Repository.open(path)
    for name, content in scene.content.items():
        assert restored(repository, name, scene.folder) == content
    assert repository.verify().is_clean
    made = scene.world.back_up(repository, max(scene.world.snapshots), full=True)
    assert restored(repository, made.name, scene.folder) == scene.world.shown()
    shutil.rmtree(path)


def test_a_second_copy_of_a_piece_is_found(scene: Scene) -> None:
    """As two backups that were made at once may leave behind."""
    path, other = scene.copy(), scene.folder / "other"
    last = scene.world.back_up(Repository.init(other), max(scene.world.snapshots))
    for kind in ("packs", "index"):
        shutil.copytree(other / kind, path / kind, dirs_exist_ok=True)
    repository = Repository.open(path)
    assert repository.verify().is_clean
    new = {each.name for each in (other / "packs").rglob("*")}
    spoiled = [e for e in (path / "packs").rglob("*") if e.is_file() and e.name not in new]
    for number, each in enumerate(spoiled):
        (remove, empty)[number % 2](each)
    report = repository.verify()
    assert {finding.object for finding in report.findings} == {
        str(each.relative_to(path)) for each in spoiled
    }
    assert [state.is_restorable for state in report.generations] == [False, False, True]
    name = report.generations[-1].name
    assert last.identity.digest == repository.find(name).identity.digest
    for _ in range(2):
        assert restored(repository, name, scene.folder) == scene.content[name]
        repository.verify(mend=True)  # the damaged ones are not even looked at now
    report_of_prune = repository.prune(keep_last=1)
    assert report_of_prune.kept == [name]
    assert {each.name for each in (path / "packs").rglob("*") if each.is_file()} <= new
    assert repository.verify().is_clean and not list((path / "damaged").glob("*"))
    assert restored(repository, name, scene.folder) == scene.content[name]
    shutil.rmtree(path)
    shutil.rmtree(other)


def test_a_damaged_base_is_not_built_upon(scene: Scene) -> None:
    path = scene.copy()
    repository = Repository.open(path)
    last = repository.generations()[-1]
    flip(path / "segments" / last.segments[0][1])
    scene.world.write(1, b"something")
    made = scene.world.back_up(repository)
    assert made.base != last.name
    assert restored(repository, made.name, scene.folder) == scene.world.shown()
    with pytest.raises(thinmeta.WrongBaseError, match="damaged"):
        scene.world.back_up(repository, base=last)
    (path / "segments" / last.segments[0][1]).unlink()
    made = scene.world.back_up(repository)
    assert restored(repository, made.name, scene.folder) == scene.world.shown()
    shutil.rmtree(path)


def test_a_prune_deletes_nothing_while_what_stays_is_damaged(scene: Scene) -> None:
    path = scene.copy()
    repository = Repository.open(path)
    last = repository.generations()[-1]
    flip(path / "segments" / last.segments[0][1])
    before = sorted(str(each) for each in path.rglob("*"))
    with pytest.raises(DamagedRepositoryError, match="nothing was deleted"):
        repository.prune(keep_last=1)
    assert sorted(str(each) for each in path.rglob("*")) == before
    flip(path / "generations" / f"{last.name}.json")
    with pytest.raises(DamagedRepositoryError, match="nobody knows what they need"):
        repository.prune(keep_last=1)
    assert sorted(str(each) for each in path.rglob("*")) == before
    report = repository.prune(keep_last=1, drop_damaged=True)
    assert last.name in report.deleted and len(report.kept) == 1
    assert repository.verify().is_clean
    name = report.kept[0]
    assert restored(repository, name, scene.folder) == scene.content[name]
    shutil.rmtree(path)


@pytest.mark.parametrize("lost", ["newest", "all"])
def test_a_prune_does_without_lost_index_objects(scene: Scene, lost: str) -> None:
    path = scene.copy()
    repository = Repository.open(path)
    indexes = sorted((path / "index").iterdir(), key=lambda each: each.stat().st_mtime_ns)
    for each in indexes if lost == "all" else indexes[-1:]:
        each.unlink()
    names = [each.name for each in repository.generations()]
    report = repository.prune(keep_last=2)
    assert report.kept == names[1:] and repository.verify().is_clean
    assert list((path / "index").iterdir())
    for name in report.kept:
        assert restored(repository, name, scene.folder) == scene.content[name]
    # The packs are named again: nothing is stored twice.
    third = list(scene.world.snapshots)[2]
    assert scene.world.back_up(repository, third, full=True).stored_bytes == 0
    shutil.rmtree(path)


def test_a_disk_that_cannot_read_is_a_finding_and_not_the_end(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = scene.copy()
    bad = max(each for each in (path / "packs").rglob("*") if each.is_file())
    number = bad.stat().st_ino

    class Failing(FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if os.fstat(self.fileno()).st_ino == number:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().read(size) or b""

    monkeypatch.setattr("thinmeta.backup.local.FileIO", Failing)
    report = Repository.open(path).verify()
    assert [each.object for each in report.findings] == [str(bad.relative_to(path))]
    assert "Input/output error" in report.findings[0].problem
    shutil.rmtree(path)


def test_a_prune_of_a_repository_with_lost_packs(scene: Scene) -> None:
    path = scene.copy()
    repository = Repository.open(path)
    smallest = min(
        (each for each in (path / "packs").rglob("*") if each.is_file()),
        key=lambda each: each.stat().st_size,
    )
    smallest.unlink()
    whole = [state.name for state in repository.verify().generations if state.is_restorable]
    with pytest.raises(DamagedRepositoryError, match="nothing was deleted"):
        repository.prune(keep_last=3)
    assert len(repository.generations()) == 3
    if not whole:
        # Nothing would be left: the volume may be lost by now, and a part of it is here.
        with pytest.raises(DamagedRepositoryError, match="nothing would be left of volume 'v'"):
            repository.prune(keep_last=3, drop_damaged=True)
        assert len(repository.generations()) == 3
        made = scene.world.back_up(repository, full=True)
        scene.content[made.name] = scene.world.shown()
        whole = [state.name for state in repository.verify().generations if state.is_restorable]
        assert made.name in whole
    report = repository.prune(keep_last=4, drop_damaged=True)
    assert report.kept == whole
    for name in whole:
        assert restored(repository, name, scene.folder) == scene.content[name]
    assert repository.verify().is_clean
    shutil.rmtree(path)


@pytest.mark.parametrize("content", [b"", b"{}", b"rubbish", encode({"version": 99})])
def test_what_is_no_repository_is_not_opened(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(thinmeta.RepositoryError, match="no repository is there"):
        Repository.open(tmp_path / "nowhere")
    (tmp_path / "config.json").write_bytes(content)
    if b"99" in content:
        with pytest.raises(thinmeta.RepositoryError, match=r"config\.json.*use a newer one"):
            Repository.open(tmp_path)
    else:
        with pytest.raises(DamagedRepositoryError, match=r"config\.json"):
            Repository.open(tmp_path)
    with pytest.raises(thinmeta.RepositoryError, match="there is a repository already"):
        Repository.init(tmp_path)
    with pytest.raises(thinmeta.RepositoryError, match="not empty"):
        Repository.init(tmp_path.parent)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_an_error_and_nothing_else(data: bytes) -> None:
    with pytest.raises(StreamError):
        StoredGeneration.from_bytes("00000001-0123456789abcdef", data)
    with pytest.raises(StreamError):
        Segment.decode("0" * 64, data, 0, 1 << 28)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_manifest_with_anything_in_it_is_right_or_an_error(data: st.DataObject) -> None:
    value = GOOD.to_json()
    assert StoredGeneration.from_bytes(GOOD.name, encode(value)) == GOOD
    for _ in range(data.draw(st.integers(1, 3))):
        key = data.draw(st.sampled_from(sorted(value)))
        where = value
        if key == "identity" and isinstance(value[key], dict) and value[key]:
            where = value[key] = dict(value[key])
            key = data.draw(st.sampled_from(sorted(where)))
        where[key] = data.draw(JSON)
    try:
        found = StoredGeneration.from_bytes(GOOD.name, encode(value))
    except StreamError:
        return
    assert found.size_bytes >= 0 and all(number >= 0 for number, _, _ in found.segments)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_segment_that_is_named_by_its_bytes_and_still_cannot_be(data: st.DataObject) -> None:
    """Its BLAKE3 is right, as an attacker would see to it."""
    from thinmeta._core import Blake3

    _, good = Segment.of([(0, UNIT, b"a" * 32), (UNIT, 5, b"b" * 32)]).encode()
    raw = bytearray(good)
    for _ in range(data.draw(st.integers(0, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    del raw[data.draw(st.integers(0, len(raw))) :]
    name = Blake3(raw).digest().hex()
    try:
        found = Segment.decode(name, raw, 0, 1 << 28)
    except StreamError:
        return
    at = 0
    for offset, length, _ in found.rows():
        assert offset >= at and length > 0
        at = offset + length
    assert at <= 1 << 28


GOOD = StoredGeneration(
    name="00000001-0123456789abcdef",
    sequence=1,
    created="2025-11-27T10:00:00Z",
    volume="v",
    pool="p",
    identity=thinmeta.identity.Identity("0" * 64, 1, 2, 3, 4, 128, 1 << 30, True, True, False, ""),
    piece_bytes=UNIT,
    segment_bytes=256 << 20,
    segments=SegmentRows([(0, "a" * 64, UNIT), (3, "b" * 64, 5)]),
    bookmark="c" * 64,
    base=None,
    lineage="00000001-0123456789abcdef",
    read_bytes=1,
    stored_bytes=2,
    packed_bytes=3,
)


def test_documents_are_read_back_as_they_were() -> None:
    assert decode(encode({"version": 1, "text": "ä\u2028\ud800"})) == {
        "version": 1,
        "text": "ä\u2028\ud800",
    }
    nested = b"[" * 100_000
    with pytest.raises(StreamError):
        decode(b'{"blake3":"' + b"0" * 64 + b'","value":' + nested + b"}\n")
