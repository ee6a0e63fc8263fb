"""Encrypted repositories: what is stored tells nothing, and nothing can be changed unnoticed."""

import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from backups import UNIT, World, restored
from thinmeta import _core
from thinmeta.backup import Repository
from thinmeta.backup.local import LocalStore
from thinmeta.backup.manifest import encode
from thinmeta.backup.objects import open_store
from thinmeta.backup.sealed import (
    CHUNK_BYTES,
    SealedStore,
    key_check,
    plain_bytes,
    sealed_bytes,
)
from thinmeta.errors import (
    DamagedRepositoryError,
    RepositoryError,
    RepositoryKeyError,
    StreamError,
)

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
ID = "00112233445566778899aabbccddeeff"
HEAD, TAG = 56, 16
LENGTHS = [0, 1, 15, 16, 17, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES]


def sealed_in(folder: Path, key: bytes = KEY) -> SealedStore:
    return SealedStore(LocalStore(str(folder)), key, ID)


@pytest.mark.parametrize("length", LENGTHS)
def test_what_comes_out_is_what_went_in(tmp_path: Path, length: int) -> None:
    store, content = sealed_in(tmp_path), random.Random(length).randbytes(length)
    store.put("packs/a", content)
    assert store.put_new("packs/b", content)
    assert not store.put_new("packs/b", b"other")
    (tmp_path / "file").write_bytes(content)
    store.put_file("packs/c", str(tmp_path / "file"))
    for name in ("packs/a", "packs/b", "packs/c"):
        assert bytes(store.get(name, length)) == content
        store.fetch(name, str(tmp_path / "copy"))
        assert (tmp_path / "copy").read_bytes() == content
        assert store.size(name) == length
        assert (tmp_path / name).stat().st_size == sealed_bytes(length)
    assert [size for _, size in store.list("packs/")] == [length] * 3
    if length:
        with pytest.raises(StreamError, match="which cannot be"):
            store.get("packs/a", length - 1)
    assert not [each for each in tmp_path.iterdir() if each.name.startswith(".")]


@given(length=st.sampled_from(LENGTHS), data=st.data())
@settings(max_examples=200, deadline=None)
def test_any_range_is_that_of_the_object(
    tmp_path_factory: pytest.TempPathFactory, length: int, data: st.DataObject
) -> None:
    store = sealed_in(tmp_path_factory.mktemp("store"))
    content = random.Random(length).randbytes(length)
    store.put("a", content)
    edges = st.one_of(
        st.integers(0, length + CHUNK_BYTES),
        st.sampled_from([0, CHUNK_BYTES, 2 * CHUNK_BYTES, length]),
    )
    for _ in range(5):
        begin, end = data.draw(edges), data.draw(edges)
        assert bytes(store.get_range("a", begin, end)) == content[begin:end]


@given(st.integers(0, 1 << 40))
def test_lengths_are_told_from_what_is_stored(length: int) -> None:
    assert plain_bytes(sealed_bytes(length)) == length


@pytest.mark.parametrize("stored", range(HEAD + TAG + 1))
def test_what_is_too_short_has_no_length(stored: int) -> None:
    assert plain_bytes(stored) == max(stored - HEAD - TAG, 0)


def test_an_object_is_what_the_page_says(tmp_path: Path) -> None:
    """By another way to it: the documented form, and nothing else."""
    content = random.Random(1).randbytes(2 * CHUNK_BYTES + 5)
    sealed_in(tmp_path).put("index/x", content)
    raw = (tmp_path / "index/x").read_bytes()
    assert raw[:8] == b"thmseal1" and raw[8:24] == bytes.fromhex(ID)
    salt = bytes.fromhex(ID) + raw[24:56]
    key = HKDF(hashes.SHA256(), 32, salt, b"thinmeta object").derive(KEY)
    plain = b""
    for number in range(3):
        begin = 56 + number * (CHUNK_BYTES + 16)
        nonce = number.to_bytes(8, "little") + int(number == 2).to_bytes(4, "little")
        chunk = raw[begin : begin + CHUNK_BYTES + 16]
        plain += AESGCM(key).decrypt(nonce, chunk, b"index/x")
    assert plain == content


def reads(store: SealedStore, name: str, folder: Path) -> list[Callable[[], object]]:
    return [
        lambda: store.get(name, 1 << 20),
        lambda: store.fetch(name, str(folder / "copy")),
    ]


def test_every_byte_counts(tmp_path: Path) -> None:
    store = sealed_in(tmp_path / "store")
    store.put("a", b"content of an object")
    path = tmp_path / "store/a"
    sound = path.read_bytes()
    for at in range(len(sound)):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
        for read in reads(store, "a", tmp_path):
            with pytest.raises(StreamError):
                read()
        with pytest.raises(StreamError):
            store.get_range("a", 3, 9)
    for length in range(len(sound)):
        path.write_bytes(sound[:length])
        for read in reads(store, "a", tmp_path):
            with pytest.raises(StreamError):
                read()


def test_chunks_cannot_be_cut_reordered_or_exchanged(tmp_path: Path) -> None:
    store = sealed_in(tmp_path / "store")
    rng = random.Random(2)
    for name in ("a", "b"):
        store.put(name, rng.randbytes(3 * CHUNK_BYTES))
    path, step = tmp_path / "store/a", CHUNK_BYTES + TAG
    sound, other = path.read_bytes(), (tmp_path / "store/b").read_bytes()
    head, chunks = sound[:HEAD], [sound[HEAD + at * step :][:step] for at in range(3)]
    altered = {
        "the last is gone": [head, *chunks[:2]],
        "one is gone": [head, chunks[0], chunks[2]],
        "two are exchanged": [head, chunks[1], chunks[0], chunks[2]],
        "one is there twice": [head, *chunks, chunks[2]],
        "one is another's": [head, *chunks[:2], other[HEAD + 2 * step :]],
        "it is another": [other],
        "it has another's head": [other[:HEAD], *chunks],
    }
    for what, parts in altered.items():
        path.write_bytes(b"".join(parts))
        for read in reads(store, "a", tmp_path):
            with pytest.raises(StreamError):
                read()
            assert what
    # Of one that was cut, what is read of the rest is what it was, and its end is missed.
    path.write_bytes(b"".join(altered["the last is gone"]))
    with pytest.raises(StreamError):
        store.get_range("a", CHUNK_BYTES, 3 * CHUNK_BYTES)


def test_an_object_that_is_put_anew_is_read_anew(tmp_path: Path) -> None:
    first, second = sealed_in(tmp_path), sealed_in(tmp_path)
    first.put("a", b"1" * 2 * CHUNK_BYTES)
    assert bytes(first.get_range("a", CHUNK_BYTES, CHUNK_BYTES + 1)) == b"1"
    second.put("a", b"2" * 2 * CHUNK_BYTES)
    assert bytes(first.get_range("a", CHUNK_BYTES, CHUNK_BYTES + 1)) == b"2"


def test_equal_content_is_stored_differently(tmp_path: Path) -> None:
    store = sealed_in(tmp_path)
    stored = []
    for _ in range(2):
        store.put("a", b"content")
        stored.append((tmp_path / "a").read_bytes())
    assert stored[0][HEAD:] != stored[1][HEAD:]


# ---- repositories ----


@pytest.fixture(params=["folder", "remote"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    if request.param == "folder":
        return tmp_path / "repo"
    pytest.importorskip("obstore")
    return f"memory://{tmp_path.name}"


def test_generations_are_made_restored_verified_and_pruned(
    where: Path | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    repository = Repository.init(where, key=KEY)
    with World(tmp_path, 7, mib=4) as world:
        content = {}
        world.write(0, world.random.randbytes(world.size))
        for number in range(5):
            world.step(resize=False)
            made = world.back_up(Repository.open(where, key=KEY))
            assert (made.base is not None) == (number > 0)
            content[made.name] = world.shown()
        repository = Repository.open(where, key=KEY)
        for name, expected in content.items():
            assert restored(repository, name, tmp_path) == expected
        report = repository.verify()
        assert report.is_clean, report.findings
        pruned = repository.prune(keep_last=2)
        assert len(pruned.deleted) == 3
        assert repository.verify().is_clean
        for name in pruned.kept:
            assert restored(repository, name, tmp_path) == content[name]
        # What is stored already is not stored again.
        again = world.back_up(repository, full=True)
        assert again.stored_bytes == 0 and again.read_bytes > 0


def test_no_content_no_name_and_no_hash_of_it_is_readable(tmp_path: Path) -> None:
    words = b"a sentence that nobody else may read "
    with World(tmp_path, 8, mib=4) as world:
        piece = (words * (UNIT // len(words) + 1))[:UNIT]
        world.write(0, piece)
        world.write(UNIT, world.random.randbytes(UNIT))
        secret = world.shown()[UNIT : 2 * UNIT]
        for name, key in (("open", None), ("sealed", KEY)):
            made = world.back_up(Repository.init(tmp_path / name, key=key), volume="ours")
            assert made.bookmark is not None
    hashes_of_pieces = [_core.Blake3(each).digest() for each in (piece, secret)]
    shows = [words, secret[:64], b"ours", made.pool.encode() or b"ours", *hashes_of_pieces]
    shows += [each.hex().encode() for each in hashes_of_pieces]

    def everything(folder: Path) -> bytes:
        files = [each for each in sorted(folder.rglob("*")) if each.is_file()]
        return b"".join([bytes(each.relative_to(folder)) + each.read_bytes() for each in files])

    clear, sealed = everything(tmp_path / "open"), everything(tmp_path / "sealed")
    assert secret[:64] in clear and hashes_of_pieces[1] in clear and b"ours" in clear
    assert not [each for each in shows if each in sealed]
    # Nor is an object of one named as the same of the other would be: names are hashes.
    names = [
        {each.name for each in (tmp_path / name).rglob("*") if len(each.name) == 64}
        for name in ("open", "sealed")
    ]
    assert names[0] and names[1] and not names[0] & names[1]


def test_without_the_key_nothing_is_done(tmp_path: Path) -> None:
    path = tmp_path / "repo"
    Repository.init(path, key=KEY)
    with pytest.raises(RepositoryKeyError, match="it is encrypted"):
        Repository.open(path)
    with pytest.raises(RepositoryKeyError, match="another repository"):
        Repository.open(path, key=OTHER)
    for wrong in (b"", KEY[:31], KEY + b"1"):
        with pytest.raises(RepositoryKeyError, match="32 bytes"):
            Repository.open(path, key=wrong)
        with pytest.raises(RepositoryKeyError, match="32 bytes"):
            Repository.init(tmp_path / "other", key=wrong)
    assert not (tmp_path / "other").exists()


def test_a_key_for_what_is_not_encrypted_is_refused(tmp_path: Path) -> None:
    """Or somebody could have the next backup written in clear, by altering one object."""
    path = tmp_path / "repo"
    sealed = Repository.init(path, key=KEY)
    clear = {"version": 1, "id": sealed.id, "created": ""}
    (path / "config.json").write_bytes(encode(clear))
    with pytest.raises(RepositoryKeyError, match="not encrypted"):
        Repository.open(path, key=KEY)
    other = {**clear, "encryption": {"cipher": "ROT13", "check": key_check(KEY, sealed.id)}}
    (path / "config.json").write_bytes(encode(other))
    with pytest.raises(RepositoryError, match="does not know"):
        Repository.open(path, key=KEY)


def test_an_object_of_another_repository_is_no_object(tmp_path: Path) -> None:
    with World(tmp_path, 9, mib=4) as world:
        world.write(0, world.random.randbytes(UNIT))
        snapshot = world.snapshot()
        made = []
        for name in ("a", "b"):
            repository = Repository.init(tmp_path / name, key=KEY)
            made.append(world.back_up(repository, snapshot))
    one, other = (tmp_path / "a/generations", tmp_path / "b/generations")
    shutil.copy(one / f"{made[0].name}.json", other)
    # And one under another's name.
    shutil.copy(other / f"{made[1].name}.json", other / "00000009-0123456789abcdef.json")
    report = Repository.open(tmp_path / "b", key=KEY).verify()
    assert [each.name for each in report.generations if each.is_restorable] == [made[1].name]
    problems = [each.problem for each in report.findings]
    assert len(problems) == 2 and "another repository" in problems[0]


def test_a_lost_config_is_made_anew(tmp_path: Path) -> None:
    with World(tmp_path, 10, mib=4) as world:
        world.write(0, world.random.randbytes(UNIT))
        for name, key in (("sealed", KEY), ("open", None)):
            path = tmp_path / name
            repository = Repository.init(path, key=key)
            with pytest.raises(RepositoryError, match="no generation"):
                Repository.repair(path, key=key)
            made = world.back_up(repository)
            with pytest.raises(RepositoryError, match="sound"):
                Repository.repair(path, key=key)
            config = path / "config.json"
            for spoil in (Path.unlink, empty):
                spoil(config)
                with pytest.raises(RepositoryError, match="--repair"):
                    Repository.open(path, key=key)
                for wrong in (OTHER, None if key else KEY):
                    with pytest.raises(RepositoryKeyError):
                        Repository.repair(path, key=wrong)
                repaired = Repository.repair(path, key=key)
                assert (repaired.id == repository.id) == (key is not None)
                for each in (repaired, Repository.open(path, key=key)):
                    assert restored(each, made.name, tmp_path) == world.shown()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("spoil", [flip, cut, empty, Path.unlink])
@pytest.mark.parametrize("kind", ["generations", "segments", "bookmarks", "index", "packs"])
def test_what_is_said_of_damage_is_so(
    tmp_path: Path, kind: str, spoil: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "repo"
    repository = Repository.init(path, key=KEY)
    content = {}
    with World(tmp_path, 11, mib=4) as world:
        for number in range(2):
            world.write(number * 8 * UNIT, world.random.randbytes(10 * UNIT))
            content[world.back_up(repository).name] = world.shown()
    victims = sorted(each for each in (path / kind).rglob("*") if each.is_file())
    spoil(victims[0])
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    repository = Repository.open(path, key=KEY)
    report = repository.verify()
    assert not report.is_clean or (kind, spoil) in (
        ("generations", Path.unlink),
        ("index", Path.unlink),
    )
    restorable = {each.name for each in report.generations if each.is_restorable}
    assert len(restorable) >= (1 if kind in ("generations", "segments") else 0)
    assert len(restorable) == 2 or kind not in ("index", "bookmarks")
    if (kind, spoil) == ("packs", flip):
        # A chunk is lost, with the pieces that reach into it, and not the pack.
        assert 0 < max(each.lost_bytes for each in report.generations) <= 2 * UNIT
    for each in report.generations:
        if each.is_restorable:
            assert restored(repository, each.name, tmp_path) == content[each.name]
        else:
            with pytest.raises(DamagedRepositoryError):
                restored(repository, each.name, tmp_path)


def test_a_store_that_somebody_made_is_encrypted_too(tmp_path: Path) -> None:
    store = open_store(tmp_path / "repo")
    repository = Repository.init(store, key=KEY)
    assert Repository.open(store, key=KEY).id == repository.id
    assert re.fullmatch(r"SealedStore\(LocalStore\('.*'\)\)", repr(sealed_in(tmp_path)).strip())
    assert KEY.hex() not in repr(vars(repository)) and repr(KEY) not in repr(repository)
