"""Repositories in every kind of store; S3 with a server on this machine and the real client."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import thinmeta
from backups import UNIT, World, restored
from command import ThinmetaCommand, fails
from oracles import require_module
from thinmeta.backup import Repository, open_store

if TYPE_CHECKING:
    from thinmeta.backup.objects import ObjectStore
from thinmeta.backup.sealed import SealedStore

BUCKET = "backups"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Server:
    """An S3 server, which can be told to fail.

    Attributes:
        requests: Method and path of every request.
        fail: Answers instead of the server if it returns a status.
    """

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import (
            DomainDispatcherApplication,
            create_backend_app,
        )
        from werkzeug.serving import make_server

        self.requests: list[tuple[str, str]] = []
        self.fail: Callable[[str, str], int | None] = lambda method, path: None
        application = DomainDispatcherApplication(create_backend_app)

        def watched(environ: Any, start_response: Any) -> Any:
            method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
            self.requests.append((method, path))
            status = self.fail(method, path)
            if status is not None:
                # What the client sends has to be read, or it takes the answer for a failure.
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                start_response(f"{status} told so", [("Content-Length", "0")])
                return [b""]
            return application(environ, start_response)

        self._server = make_server("127.0.0.1", 0, watched, threaded=True)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    require_module("obstore")
    require_module("moto")
    import logging

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    made = Server()
    yield made
    made.close()


@pytest.fixture
def s3(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server, with an empty bucket and an environment that leads to it."""
    facts = {
        "AWS_ENDPOINT": server.endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "who",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name, value in facts.items():
        monkeypatch.setenv(name, value)
    import urllib.request

    server.fail = lambda method, path: None
    reset = urllib.request.Request(f"{server.endpoint}/moto-api/reset", method="POST")
    urllib.request.urlopen(reset).close()
    make = urllib.request.Request(f"{server.endpoint}/{BUCKET}", method="PUT")
    urllib.request.urlopen(make).close()
    server.requests.clear()
    return server


@pytest.fixture(params=["folder", "file://", "memory://", "obstore file", "s3://"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str | ObjectStore:
    if request.param == "folder":
        return str(tmp_path / "a folder")
    if request.param == "file://":
        return f"file://{tmp_path}/with%20space"
    require_module("obstore")
    if request.param == "memory://":
        return f"memory://{tmp_path.name}"
    if request.param == "obstore file":
        from obstore.store import LocalStore

        from thinmeta.backup.remote import RemoteStore

        return RemoteStore("obstore", LocalStore(tmp_path / "obstore", mkdir=True))
    request.getfixturevalue("s3")
    return f"s3://{BUCKET}/some/where"


@pytest.fixture(params=["in clear", "encrypted"])
def key(request: pytest.FixtureRequest) -> bytes | None:
    return bytes(range(32)) if request.param == "encrypted" else None


def test_what_every_store_promises(
    address: str | ObjectStore, key: bytes | None, tmp_path: Path
) -> None:
    store = open_store(address)
    if key is not None:
        store = SealedStore(store, key, "00" * 16)
    store.put("a/b", b"one")
    store.put("a/b", memoryview(b"two"))
    store.put("a/c/d", b"", later=True)
    store.put("ab/c", bytes(100_000))
    store.flush()
    assert store.put_new("a/new", b"first") and not store.put_new("a/new", b"second")
    assert bytes(store.get("a/new", 100)) == b"first"
    assert sorted(store.list("a/")) == [("a/b", 3), ("a/c/d", 0), ("a/new", 5)]
    assert list(store.list("nothing/")) == []
    assert bytes(store.get_range("a/b", 1, 3)) == b"wo"
    assert bytes(store.get_range("a/b", 1, 1000)) == b"wo"
    assert bytes(store.get_range("a/b", 3, 10)) == b"" == bytes(store.get_range("a/b", 2, 2))
    assert store.size("a/b") == 3 and store.size("a") is None and store.size("x/y") is None
    with pytest.raises(thinmeta.StreamError, match=r"it has 100\d{3} bytes"):
        store.get("ab/c", 99_999)
    (tmp_path / "source").write_bytes(b"x" * 1_000_000)
    store.put_file("files/x", str(tmp_path / "source"))
    store.fetch("files/x", str(tmp_path / "copy"))
    assert (tmp_path / "copy").read_bytes() == b"x" * 1_000_000
    store.delete(["a/b", "not/there", "a/c/d"])
    store.delete([])
    assert [name for name, _ in store.list("a/")] == ["a/new"]
    for ask in (
        lambda: store.get("a/b", 10),
        lambda: store.get_range("a/b", 0, 1),
        lambda: store.fetch("a/b", str(tmp_path / "none")),
    ):
        with pytest.raises(FileNotFoundError):
            ask()
    many = [f"many/{number:05}" for number in range(1100)]
    for name in many[::100]:
        store.put(name, b"x")
    store.delete(many)
    assert list(store.list("many/")) == []


def test_a_repository_in_every_store(
    address: str | ObjectStore, key: bytes | None, tmp_path: Path
) -> None:
    repository = Repository.init(address, key=key)
    with pytest.raises(thinmeta.RepositoryError, match="already"):
        Repository.init(address, key=key)
    wanted = {}
    with World(tmp_path, 1, mib=2) as world:
        for turn in range(5):
            world.step()
            made = world.back_up(Repository.open(address, key=key))
            assert (made.base is None) == (turn == 0)
            wanted[made.name] = world.shown()
    assert Repository.open(address, key=key).id == repository.id
    for name, content in wanted.items():
        assert restored(repository, name, tmp_path) == content
    assert repository.verify().is_clean and repository.verify(quick=True).is_clean
    kept = repository.prune(keep_last=2).kept
    assert kept == sorted(wanted)[-2:] == [each.name for each in repository.generations()]
    assert repository.verify().is_clean
    for name in kept:
        assert restored(repository, name, tmp_path) == wanted[name]


def test_on_s3_little_is_asked_for_a_small_change(s3: Server, tmp_path: Path) -> None:
    repository = Repository.init(f"s3://{BUCKET}/r")
    with World(tmp_path, 2, mib=4) as world:
        world.write(0, world.random.randbytes(world.size))
        world.back_up(repository)
        s3.requests.clear()
        world.write(UNIT, b"x")
        made = world.back_up(repository)
        assert made.read_bytes == UNIT
        puts = [path for method, path in s3.requests if method == "PUT"]
        kinds = sorted(path.removeprefix(f"/{BUCKET}/r/").partition("/")[0] for path in puts)
        assert kinds == ["active", "bookmarks", "generations", "index", "packs", "segments"]
        # Index objects are not fetched twice.
        assert not any("/index/" in path for method, path in s3.requests if method == "GET")
        assert len(s3.requests) < 30
        assert restored(repository, "latest", tmp_path) == world.shown()


def test_on_s3_what_fails_now_and_then_is_tried_again(s3: Server, tmp_path: Path) -> None:
    rng = random.Random(1)
    s3.fail = lambda method, path: 503 if rng.random() < 0.1 else None
    repository = Repository.init(f"s3://{BUCKET}/r")
    with World(tmp_path, 3, mib=2) as world:
        world.step()
        world.back_up(repository)
        world.step()
        world.back_up(repository)
        assert restored(repository, "latest", tmp_path) == world.shown()
    assert repository.verify().is_clean
    repository.prune(keep_last=1)
    assert repository.verify().is_clean


def test_on_s3_a_backup_that_cannot_go_on_says_so_and_is_taken_up(
    s3: Server, tmp_path: Path
) -> None:
    repository = Repository.init(f"s3://{BUCKET}/r")
    with World(tmp_path, 4, mib=4) as world:
        world.write(0, world.random.randbytes(world.size))
        snapshot = world.snapshot()
        s3.fail = lambda method, path: 403 if method == "PUT" and "/segments/" in path else None
        with pytest.raises(thinmeta.ObjectStoreError, match="segments") as caught:
            world.back_up(repository, snapshot)
        assert isinstance(caught.value, OSError)
        assert repository.generations() == []
        s3.fail = lambda method, path: None
        made = world.back_up(repository, snapshot)
        assert made.stored_bytes == 0 and made.read_bytes == world.size
        assert restored(repository, 1, tmp_path) == world.shown()
        repository.prune(keep_last=1)


@pytest.mark.parametrize("status", [401, 403])
def test_credentials_that_are_not_enough(s3: Server, status: int, command: ThinmetaCommand) -> None:
    s3.fail = lambda method, path: status
    fails(command("backup", "list", f"s3://{BUCKET}/r"), 3, "credentials do not allow this")


def test_no_credentials_and_no_bucket(
    s3: Server, command: ThinmetaCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails(command("backup", "init", "s3://another/r"), 3, "bucket")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    fails(command("backup", "list", f"s3://{BUCKET}/r"), 3, "no credentials: set AWS_ACCESS_KEY_ID")
    fails(command("backup", "list", "az://container/r"), 3, "ccount")
    fails(command("backup", "list", "ftp://host/r"), 2, "s3://")
    fails(command("backup", "list", "file://host/r"), 2, "three slashes")


def test_without_obstore_a_folder_works_and_s3_says_what_is_missing(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['obstore'] = None\n"
        "from thinmeta.backup import Repository\n"
        f"Repository.init({str(tmp_path / 'r')!r}).verify()\n"
        "try:\n    Repository.open('s3://b/r')\n"
        "except Exception as error:\n    print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith("UsageError object stores need obstore: pip install")


def test_killed_on_s3(s3: Server, tmp_path: Path, cache: Path) -> None:
    """The process is gone; its packs are found by the next one."""
    where = f"s3://{BUCKET}/r"
    repository = Repository.init(where)
    with World(tmp_path, 5, mib=24) as world:
        world.write(0, world.random.randbytes(world.size))
        snapshot = world.snapshot()
        content = world.shown()
    program = (
        "import sys, thinmeta\n"
        "from thinmeta.backup import Repository\n"
        "from thinmeta.source import ImageGeneration\n"
        "with thinmeta.open_pool(sys.argv[1], data=sys.argv[2]) as pool:\n"
        f"    with ImageGeneration(pool, {snapshot}, size_bytes={len(content)}) as state:\n"
        f"        Repository.open({where!r}).create(state, volume='v', threads=1)\n"
    )
    words = [sys.executable, "-c", program, *map(str, world.paths)]
    s3.requests.clear()
    child = subprocess.Popen(words)

    def kill(method: str, path: str) -> int | None:
        if method == "PUT" and "/index/" in path:
            child.kill()
        return None

    s3.fail = kill
    assert child.wait(60) != 0
    s3.fail = lambda method, path: None
    assert any("/packs/" in path for method, path in s3.requests if method == "PUT")
    assert repository.generations() == []
    done = subprocess.run(words, check=True, timeout=60)
    assert done.returncode == 0
    made = repository.find("latest")
    assert made.stored_bytes == 0 and made.read_bytes == len(content)
    assert restored(repository, "latest", tmp_path) == content
    repository.prune(keep_last=1)
    assert repository.verify().is_clean
