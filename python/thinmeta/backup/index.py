"""The index objects of a repository: in which pack each piece is.

Many are opened at once, as files: those of a folder as they are, others from a cache of
this machine. What none of them names, because a backup was killed or an index is lost,
is found in the packs themselves, each of which ends with a table of what it has.
"""

from __future__ import annotations

import logging
import os
import struct
import tempfile
from contextlib import nullcontext, suppress

from thinmeta import _core
from thinmeta.backup.local import reading_object
from thinmeta.backup.sealed import piece_key
from thinmeta.backup.stopping import stop_point
from thinmeta.errors import StreamError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from typing_extensions import Buffer

    from thinmeta.backup.objects import ObjectStore
    from thinmeta.backup.segments import Segment

    #: Given the packs that are named, those that are not there.
    Absent = Callable[[set[bytes]], set[bytes]]

__all__ = [
    "DAMAGED",
    "INDEX",
    "MAX_PACK_BYTES",
    "PACKS",
    "IndexSet",
    "damaged_packs",
    "pack_name",
    "pack_object",
    "packs_of_index",
    "read_table",
]

INDEX, PACKS = "index/", "packs/"
#: An object for each pack that was found damaged: what it has is to be stored again.
DAMAGED = "damaged/"
#: No pack of ours has so many bytes.
MAX_PACK_BYTES = 64 << 20
#: So many new pieces go into one index object, about 12 MB.
SPILL_PIECES = 250_000
#: More index objects than this are not opened one by one.
MANY = 100
#: Smaller ones are put together in memory then, so many bytes at a time.
SMALL_BYTES, MERGED_BYTES = 1 << 20, 8 << 20
#: Read at a pack's end at first: the table of a usual pack.
TAIL_BYTES = 64 << 10

_HEAD = struct.Struct("<8sIIQ")
_MAGIC = b"thmindx1"
_HASH, _ITEM = 32, 48

log = logging.getLogger("thinmeta.backup")


def pack_object(name: bytes) -> str:
    """The object of a pack."""
    text = name.hex()
    return f"{PACKS}{text[:2]}/{text}"


def pack_name(name: str) -> bytes | None:
    """The pack that an object is; ``None`` if it is none."""
    text = name.rpartition("/")[2]
    with suppress(ValueError):
        if len(text) == 2 * _HASH and pack_object(bytes.fromhex(text)) == name:
            return bytes.fromhex(text)
    return None


def damaged_packs(store: ObjectStore) -> set[bytes]:
    """The packs that were found damaged by a ``verify`` that was to say so."""
    names = (name.removeprefix(DAMAGED) for name, _ in store.list(DAMAGED))
    packs = (pack_name(f"{PACKS}{name[:2]}/{name}") for name in names)
    return {pack for pack in packs if pack is not None}


class IndexSet:
    """What the index objects say, as a :class:`thinmeta._core.BlockIndex`.

    Args:
        store: Where they are.
        cache: A folder for copies of those that are not files.

    Attributes:
        blocks: Where each piece is.
        objects: Names of the index objects that were read.
        damaged: Those that could not be, with what is wrong.
        packs: Packs that they name.
    """

    def __init__(self, store: ObjectStore, cache: str) -> None:
        self._store, self._cache = store, cache
        self.blocks = _core.BlockIndex(key=piece_key(store))
        self.objects: list[str] = []
        self.damaged: dict[str, object] = {}
        self.packs: set[bytes] = set()

    @classmethod
    def load(cls, store: ObjectStore, cache: str, *, without: Absent | None = None) -> IndexSet:
        """Read all of them; once more if a prune takes one away meanwhile.

        Args:
            store: Where they are.
            cache: A folder for copies.
            without: Of the packs that are named, those that are not there: their pieces
                count as not stored.
        """
        for _ in range(10):
            found = cls(store, cache)
            with suppress(FileNotFoundError):
                found._load(without)
                return found
        raise StreamError("index objects vanish faster than they can be read")

    def _load(self, without: Absent | None) -> None:
        sizes = dict(self._store.list(INDEX))
        paths: dict[str, str] = {}
        packs: dict[str, set[bytes]] = {}
        for name in sizes:
            stop_point()
            try:
                with reading_object():
                    path = self._fetch(name)
                    packs[name] = set(packs_of_index(path))
                paths[name] = path
            except StreamError as error:
                self._is_damaged(name, error)
        absent = sorted(without(set().union(*packs.values()))) if without is not None else []
        merge = []
        for name, path in paths.items():
            if len(paths) > MANY and sizes[name] <= SMALL_BYTES:
                merge.append(name)
            else:
                self._add(name, path, absent)
        self._add_merged(merge, paths, absent)
        self.objects = [name for name in paths if name not in self.damaged]
        # Of a damaged one nothing is believed: its packs are to be looked into.
        self.packs = set().union(*[packs[name] for name in self.objects])
        if not self._store.path(INDEX):
            self._forget_others(sizes)

    def _add(self, name: str, path: str, absent: list[bytes]) -> None:
        try:
            try:
                with reading_object():
                    self.blocks.add_file(path, without=absent)
            except StreamError:
                if self._store.path(name) is not None:
                    raise
                # The copy, perhaps.
                self.blocks.add_file(self._fetch(name, anew=True), without=absent)
        except StreamError as error:
            self._is_damaged(name, error)

    def _add_merged(self, names: list[str], paths: dict[str, str], absent: list[bytes]) -> None:
        part: list[bytes] = []
        for name in names:
            try:
                with reading_object(), open(paths[name], "rb") as file:
                    data = file.read()
                _check(data)
            except StreamError as error:
                self._is_damaged(name, error)
                continue
            part.append(data)
            if sum(map(len, part)) >= MERGED_BYTES:
                self._add_bytes(_merged(part), absent)
                part = []
        if part:
            self._add_bytes(_merged(part), absent)

    def _add_bytes(self, data: Buffer, absent: list[bytes]) -> None:
        with tempfile.NamedTemporaryFile(prefix="thinmeta-index-") as file:
            file.write(data)
            file.flush()
            self.blocks.add_file(file.name, without=absent)

    def _is_damaged(self, name: str, error: StreamError) -> None:
        log.warning("%s: %s: %s", self._store.name, name, error)
        self.damaged[name] = error

    def put(self, alone: AbstractContextManager[object] | None = None) -> str | None:
        """Store what was recorded and is in no index object yet; the object's name.

        Args:
            alone: Keeps others from adding pieces: what moves from memory to a file is for a
                moment in neither.
        """
        data = self.blocks.export()
        if data is None:
            return None
        with memoryview(data) as view:
            name = f"{INDEX}{bytes(view[-_HASH:]).hex()}"
        self._store.flush()  # the packs that it names
        self._store.put(name, data)
        path = self._store.path(name)
        if path is None:
            path = self._cached(name)
            _write_whole(path, data)
        with nullcontext() if alone is None else alone:
            self.blocks.settle(path)
        self.objects.append(name)
        return name

    def adopt(self, spill: Callable[[], object] | None = None) -> int:
        """Record the packs that no index object names; how many.

        Args:
            spill: Called when much has been recorded, to :meth:`put` it; without it, it goes
                to files of this process.
        """
        count = 0
        for name, size in self._store.list(PACKS):
            stop_point()
            pack = pack_name(name)
            if pack is None or pack in self.packs:
                continue
            try:
                table = read_table(self._store, name, size)
            except FileNotFoundError:
                continue  # a prune took it away
            except StreamError as error:
                log.warning("%s: %s: %s", self._store.name, name, error)
                continue
            self.blocks.record(table)
            self.packs.add(pack)
            count += 1
            if self.blocks.fresh_pieces >= SPILL_PIECES:
                self.spill() if spill is None else spill()
        return count

    def spill(self) -> None:
        """Keep what was recorded in a file of this process, where it can be marked."""
        data = self.blocks.export()
        if data is not None:
            with tempfile.NamedTemporaryFile(prefix="thinmeta-index-") as file:
                file.write(data)
                file.flush()
                self.blocks.settle(file.name)

    def locate(self, segment: Segment) -> _core.Wanted:
        """Where the pieces of a segment are."""
        return self.blocks.locate(list(segment.offsets), list(segment.lengths), segment.hashes)

    def path(self, name: str) -> str:
        """The file of an index object that was read."""
        return self._store.path(name) or self._cached(name)

    def _fetch(self, name: str, *, anew: bool = False) -> str:
        """The file of an index object, whose name is that of its content."""
        path = self._store.path(name)
        if path is None:
            path = self._cached(name)
            if anew or not (os.path.exists(path) and _ends_with_name(path, name)):
                self._download(name, path)
        if not _ends_with_name(path, name):
            raise StreamError("it is not the one of that name")
        return path

    def _download(self, name: str, path: str) -> None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        temporary = f"{path}.{os.getpid()}-{os.urandom(4).hex()}.tmp"
        try:
            self._store.fetch(name, temporary)
            os.replace(temporary, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)

    def _cached(self, name: str) -> str:
        return os.path.join(self._cache, name)

    def _forget_others(self, sizes: Iterable[str]) -> None:
        """Remove copies of index objects that are not there any more."""
        keep = {name.rpartition("/")[2] for name in sizes}
        with suppress(OSError):
            for entry in os.listdir(os.path.join(self._cache, INDEX)):
                if len(entry) == 2 * _HASH and entry not in keep:
                    os.unlink(os.path.join(self._cache, INDEX, entry))


def packs_of_index(path: str) -> Iterator[bytes]:
    """The packs that an index file names.

    Raises:
        StreamError: It is damaged.
        OSError: It cannot be read.
    """
    with open(path, "rb") as file:
        head = file.read(_HEAD.size)
        if len(head) < _HEAD.size:
            raise StreamError("it is too short")
        magic, packs, _, _ = _HEAD.unpack(head)
        length = os.fstat(file.fileno()).st_size
        if magic != _MAGIC or packs * _HASH > length:
            raise StreamError("it is no index")
        for _ in range(packs):
            yield file.read(_HASH)


def read_table(store: ObjectStore, name: str, size: int) -> _core.PackTable:
    """What is in a pack, from its last bytes.

    Raises:
        StreamError: It is damaged.
        FileNotFoundError: It is not there.
    """
    tail = TAIL_BYTES
    while True:
        table = _core.PackTable.read(store.get_range(name, max(size - tail, 0), size), size)
        if not isinstance(table, int):
            break
        if table <= tail:
            raise StreamError("it is shorter than it was")
        tail = table
    if pack_object(table.name) != name:
        raise StreamError("its table is that of another pack")
    return table


def _check(data: bytes) -> None:
    if _core.Blake3(memoryview(data)[:-_HASH]).digest() != data[-_HASH:]:
        raise StreamError("damaged index: its BLAKE3 is another one")
    _, packs, _, items = _HEAD.unpack_from(data)
    if len(data) != _HEAD.size + packs * _HASH + items * _ITEM + _HASH:
        raise StreamError("damaged index: its length is not what it says")


def _merged(parts: list[bytes]) -> bytes:
    """One index file of several, each found sound."""
    packs: dict[bytes, int] = {}
    rows: dict[bytes, bytes] = {}
    number = struct.Struct("<I")
    for data in parts:
        _, count, _, items = _HEAD.unpack_from(data)
        begin = _HEAD.size
        names = [data[at : at + _HASH] for at in range(begin, begin + count * _HASH, _HASH)]
        here = [number.pack(packs.setdefault(name, len(packs))) for name in names]
        begin += count * _HASH
        for at in range(begin, begin + items * _ITEM, _ITEM):
            (pack,) = number.unpack_from(data, at + _HASH)
            if pack >= count:
                raise StreamError("damaged index: it has an impossible entry")
            rows[data[at : at + _HASH]] = here[pack] + data[at + _HASH + 4 : at + _ITEM]
    body = b"".join(
        [
            _HEAD.pack(_MAGIC, len(packs), 0, len(rows)),
            *packs,
            *[hash_ + rest for hash_, rest in sorted(rows.items())],
        ]
    )
    return body + _core.Blake3(body).digest()


def _ends_with_name(path: str, name: str) -> bool:
    """Whether a file ends with the digest that an index object is named by."""
    with open(path, "rb") as file:
        length = file.seek(0, os.SEEK_END)
        file.seek(max(length - _HASH, 0))
        return file.read().hex() == name.rpartition("/")[2]


def _write_whole(path: str, data: Buffer) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=".", dir=os.path.dirname(path))
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
