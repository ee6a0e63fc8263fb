"""The engines that are measured through Python: thinmeta, py-lmdb in two ways, sqlite3.

Each imports its library when it is made, so that one that is not there is missed alone.
"""

from __future__ import annotations

import importlib
import shutil
import sqlite3
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from struct import Struct, iter_unpack
from typing import Any, TypeAlias

Pairs: TypeAlias = tuple[Sequence[int], Sequence[int]]
WORD = Struct("=Q")


@dataclass(frozen=True)
class Looking:
    """Looking up key by key, from ints to ints: `loop` does it once for each of `keys`."""

    keys: Sequence[Any]
    loop: Callable[[], None]
    values: Callable[[], Iterable[int]]


class Engine(ABC):
    """One engine under measurement, its files in the current folder.

    What a call returns as a function is not timed: it turns an answer into ints to compare.
    """

    version: str

    @abstractmethod
    def fresh(self) -> None:
        """Removes what is there and opens an empty tree."""

    @abstractmethod
    def reopen(self) -> None:
        """Closes what is open and opens it again."""

    @abstractmethod
    def insert(self, keys: array[int], values: array[int], per_commit: int, order: str) -> None:
        """Inserts under durable commits of so many keys each."""

    @abstractmethod
    def lookup(self, keys: array[int]) -> Looking:
        """Gets ready to look up key by key."""

    @abstractmethod
    def lookup_many(self, keys: array[int]) -> Callable[[], Iterable[int]]:
        """Looks up all keys in one call."""

    @abstractmethod
    def scan(self) -> Callable[[], Pairs]:
        """Reads every pair."""

    @abstractmethod
    def close(self) -> None:
        """Closes what is open, if anything is."""

    def call_each(self, keys: Sequence[int]) -> None:
        """As often as there are keys, asks the binding for what costs next to nothing."""
        raise NotImplementedError("no such call here")


def batches(length: int, each: int) -> Iterable[slice]:
    return (slice(at, min(at + each, length)) for at in range(0, length, each))


class Thinmeta(Engine):
    """A `Store` with one tree, its default cache."""

    FILE = "store.img"
    # Room for ten million pairs in half-full leaves, twice; the file is sparse.
    SIZE_BYTES = 1 << 30

    def __init__(self) -> None:
        # Not there in builds before the engine: the session says so and is left out.
        self._store_type: Any = importlib.import_module("thinmeta.engine").Store
        self.version: str = importlib.import_module("thinmeta").__version__
        self._store: Any = None
        self._view: Any = None

    def fresh(self) -> None:
        self.close()
        Path(self.FILE).unlink(missing_ok=True)
        self._store = self._store_type.create(self.FILE, size_bytes=self.SIZE_BYTES)
        with self._store.transaction() as txn:
            txn.tree("m")

    def reopen(self) -> None:
        self.close()
        self._store = self._store_type.open(self.FILE)

    def insert(self, keys: array[int], values: array[int], per_commit: int, order: str) -> None:
        self._leave_view()
        store = self._store
        if per_commit == 1:
            for key, value in zip(keys, values, strict=True):
                with store.transaction() as txn:
                    txn.tree("m")[key] = value
            return
        all_keys, all_values = memoryview(keys), memoryview(values)
        for part in batches(len(keys), per_commit):
            with store.transaction() as txn:
                txn.tree("m").insert_many(all_keys[part], all_values[part])

    def lookup(self, keys: array[int]) -> Looking:
        tree, listed = self._tree(), list(keys)

        def loop() -> None:
            for key in listed:
                tree[key]

        return Looking(listed, loop, lambda: (tree[key] for key in listed))

    def lookup_many(self, keys: array[int]) -> Callable[[], Iterable[int]]:
        found = self._tree().lookup_many(keys)
        return lambda: memoryview(found.values).cast("B").cast("Q")

    def scan(self) -> Callable[[], Pairs]:
        entries = self._tree().entries()
        return lambda: (
            memoryview(entries.keys).cast("B").cast("Q"),
            memoryview(entries.values).cast("B").cast("Q"),
        )

    def call_each(self, keys: Sequence[int]) -> None:
        nothing = self._tree()._nothing
        for key in keys:
            nothing(key)

    def close(self) -> None:
        self._leave_view()
        if self._store is not None:
            self._store.close()
        self._store = None

    def _tree(self) -> Any:
        """The tree of the last commit, its view kept open until the next insert."""
        if self._view is None:
            self._view = self._store.view()
        return self._view.tree("m")

    def _leave_view(self) -> None:
        if self._view is not None:
            self._view.close()
        self._view = None


class PyLmdb(Engine):
    """py-lmdb as it is mostly used: each pair packed, `putmulti`."""

    FOLDER = "lmdb"
    MAP_BYTES = 8 << 30

    def __init__(self) -> None:
        self._lmdb: Any = importlib.import_module("lmdb")
        self.version: str = self._lmdb.__version__
        self._env: Any = None
        self._tree: Any = None

    def fresh(self) -> None:
        self.close()
        shutil.rmtree(self.FOLDER, ignore_errors=True)
        self.reopen()

    def reopen(self) -> None:
        self.close()
        self._env = self._lmdb.open(self.FOLDER, map_size=self.MAP_BYTES, max_dbs=1)
        self._tree = self._env.open_db(b"m", integerkey=True)

    def insert(self, keys: array[int], values: array[int], per_commit: int, order: str) -> None:
        pack = WORD.pack
        for part in batches(len(keys), per_commit):
            with self._env.begin(write=True, db=self._tree) as txn:
                if per_commit == 1:
                    txn.put(pack(keys[part.start]), pack(values[part.start]))
                    continue
                pairs = zip(keys[part], values[part], strict=True)
                with txn.cursor() as cursor:
                    cursor.putmulti([(pack(key), pack(value)) for key, value in pairs])

    def lookup(self, keys: array[int]) -> Looking:
        listed, pack, unpack = list(keys), WORD.pack, WORD.unpack

        def loop() -> None:
            with self._env.begin(db=self._tree) as txn:
                get = txn.get
                for key in listed:
                    unpack(get(pack(key)))[0]

        def values() -> Iterable[int]:
            with self._env.begin(db=self._tree) as txn:
                return [unpack(txn.get(pack(key)))[0] for key in listed]

        return Looking(listed, loop, values)

    def lookup_many(self, keys: array[int]) -> Callable[[], Iterable[int]]:
        with self._env.begin(db=self._tree) as txn, txn.cursor() as cursor:
            pairs = cursor.getmulti([key for (key,) in iter_unpack("8s", keys)])
            values = array("Q", b"".join([value for _, value in pairs]))
        return lambda: values

    def scan(self) -> Callable[[], Pairs]:
        with self._env.begin(db=self._tree) as txn, txn.cursor() as cursor:
            keys = array("Q", b"".join(cursor.iternext(keys=True, values=False)))
            values = array("Q", b"".join(cursor.iternext(keys=False, values=True)))
        return lambda: (keys, values)

    def close(self) -> None:
        if self._env is not None:
            self._env.close()
        self._env = None


class PyLmdbCut(PyLmdb):
    """py-lmdb at its fastest: pairs cut out of one buffer, sorted ones appended."""

    def insert(self, keys: array[int], values: array[int], per_commit: int, order: str) -> None:
        for part in batches(len(keys), per_commit):
            both = array("Q", bytes(2 * 8 * (part.stop - part.start)))
            both[0::2], both[1::2] = keys[part], values[part]
            with self._env.begin(write=True, db=self._tree) as txn, txn.cursor() as cursor:
                cursor.putmulti(iter_unpack("8s8s", both), append=order == "sorted")


class Sqlite(Engine):
    """sqlite3 with a write-ahead log that is flushed at every commit."""

    FILE = "sqlite"

    def __init__(self) -> None:
        self.version = sqlite3.sqlite_version
        self._open: sqlite3.Connection | None = None

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._open is None:
            raise RuntimeError("nothing is open")
        return self._open

    def fresh(self) -> None:
        self.close()
        for end in ("", "-wal", "-shm"):
            Path(self.FILE + end).unlink(missing_ok=True)
        self.reopen()
        self._connection.execute("create table m(k integer primary key, v integer not null)")

    def reopen(self) -> None:
        self.close()
        # A thread of `beside` uses it too, and nobody else meanwhile.
        self._open = sqlite3.connect(self.FILE, isolation_level=None, check_same_thread=False)
        self._open.execute("pragma journal_mode=wal")
        self._open.execute("pragma synchronous=full")
        self._open.execute("pragma cache_size=-65536")

    def insert(self, keys: array[int], values: array[int], per_commit: int, order: str) -> None:
        connection = self._connection
        for part in batches(len(keys), per_commit):
            pairs = zip(keys[part], values[part], strict=True)
            connection.execute("begin")
            connection.executemany("insert or replace into m values(?,?)", pairs)
            connection.execute("commit")

    def lookup(self, keys: array[int]) -> Looking:
        listed, execute = list(keys), self._connection.execute
        select = "select v from m where k=?"

        def loop() -> None:
            for key in listed:
                execute(select, (key,)).fetchone()[0]

        return Looking(
            listed, loop, lambda: (execute(select, (key,)).fetchone()[0] for key in listed)
        )

    def lookup_many(self, keys: array[int]) -> Callable[[], Iterable[int]]:
        raise NotImplementedError("no such call")

    def scan(self) -> Callable[[], Pairs]:
        rows = self._connection.execute("select k, v from m order by k").fetchall()
        return lambda: ([key for key, _ in rows], [value for _, value in rows])

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
        self._open = None


KNOWN: dict[str, Callable[[], Engine]] = {
    "thinmeta": Thinmeta,
    "py-lmdb": PyLmdb,
    "py-lmdb cut": PyLmdbCut,
    "sqlite3": Sqlite,
}
