"""What tests of backups have in common: a volume with a history, stores that watch."""

from __future__ import annotations

import os
import random
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from typing_extensions import Buffer

import thinmeta
from thinmeta.backup import Repository, StoredGeneration
from thinmeta.backup.local import LocalStore
from thinmeta.source import ImageGeneration

if TYPE_CHECKING:
    from types import TracebackType

    from thinmeta.bookmark import Bookmark
    from thinmeta.source import Changes, Generation

VOLUME = 1
UNIT = 65536


class Counting:
    """A generation that counts what is read of it."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self.identity, self.volume_name = generation.identity, generation.volume_name
        self.ranges: list[tuple[int, int]] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        raised: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        self._generation.__exit__(raised, value, traceback)

    @property
    def kept_base(self) -> Bookmark | None:
        return self._generation.kept_base

    def keep(self) -> None:
        self._generation.keep()

    def leave_behind(self) -> None:
        self._generation.leave_behind()

    @property
    def read_bytes(self) -> int:
        return sum(length for _, length in self.ranges)

    def changes(self, base: int | Bookmark | None) -> Changes:
        return self._generation.changes(base)

    def read_into(self, offset_bytes: int, buffer: Buffer) -> None:
        with self._lock:
            self.ranges.append((offset_bytes, memoryview(buffer).nbytes))
        self._generation.read_into(offset_bytes, buffer)

    def save_bookmark(self, path: str) -> Bookmark | None:
        return self._generation.save_bookmark(path)


class World:
    """A pool with one volume that is written, and a copy of its content in memory."""

    def __init__(self, folder: Path, seed: int, *, sectors: int = 128, mib: int = 8) -> None:
        self.random = random.Random(seed)
        self.block = sectors * 512
        self.size = mib << 20
        #: Beyond the size, too: what a volume that is grown again shows.
        self.content = bytearray(2 * self.size // self.block * self.block)
        self.snapshots: dict[int, int] = {}
        self._next = 10
        data = folder / "data.img"
        blocks = 40 * self.size // self.block
        with data.open("wb") as file:
            file.truncate(blocks * self.block)
        self.paths = folder / "meta.img", data
        self.pool = thinmeta.Pool.create(
            folder / "meta.img",
            data_block_size_sectors=sectors,
            data_blocks=blocks,
            metadata_blocks=256,
            data=data,
        )
        with self.pool.transaction() as txn:
            txn.create_thin(VOLUME)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.pool.close()

    def write(self, offset: int, data: bytes) -> None:
        with self.pool.devices[VOLUME].open(mode="r+", size_bytes=self.size) as volume:
            volume.seek(offset)
            assert volume.write(data) == len(data)
        self.content[offset : offset + len(data)] = data

    def discard(self, offset: int, length: int) -> None:
        with self.pool.devices[VOLUME].open(mode="r+", size_bytes=self.size) as volume:
            volume.discard(offset, length)
        first, end = -(-offset // self.block), offset + length
        last = -(-end // self.block) if end == self.size else end // self.block
        if first < last:
            begin, end = first * self.block, last * self.block
            self.content[begin:end] = bytes(end - begin)

    def resize(self, size: int) -> None:
        """What LVM would do: a thin pool does not know."""
        self.size = size

    def step(self, changes: int = 8, *, resize: bool = True) -> None:
        """Change something at random."""
        rng = self.random
        if resize and rng.random() < 0.5:
            step = rng.choice((self.block, 3 * self.block, 4096, 1000, 1))
            size = self.size + rng.choice((-1, 1)) * step
            self.resize(min(max(size, 1 << 20), len(self.content)))
        for _ in range(rng.randrange(1, changes)):
            offset = rng.randrange(self.size)
            length = min(rng.randrange(1, 5 * self.block), self.size - offset)
            kind = rng.random()
            if kind < 0.25:
                self.discard(offset, length)
            elif kind < 0.35:
                self.write(offset, bytes(length))
            elif kind < 0.5:
                self.write(offset, b"all the same " * (length // 13) or b".")
            else:
                self.write(offset, rng.randbytes(length))

    def snapshot(self) -> int:
        """Take one, and return its id."""
        new, self._next = self._next, self._next + 1
        with self.pool.transaction() as txn:
            txn.create_snapshot(new, origin_id=VOLUME)
        self.snapshots[new] = self.size
        return new

    def delete(self, device_id: int) -> None:
        with self.pool.transaction() as txn:
            txn.delete(device_id)
        self.snapshots.pop(device_id, None)

    def shown(self) -> bytes:
        """The volume's content."""
        return bytes(self.content[: self.size])

    @contextmanager
    def open(self, device_id: int, *, pool_uuid: str = "") -> Iterator[Counting]:
        size = self.snapshots.get(device_id, self.size)
        source = ImageGeneration(self.pool, device_id, size_bytes=size, pool_uuid=pool_uuid)
        with source, Counting(source) as counting:
            yield counting

    def back_up(
        self, repository: Repository, device_id: int | None = None, **options: object
    ) -> StoredGeneration:
        """Back up a snapshot, or a new one."""
        with self.open(self.snapshot() if device_id is None else device_id) as generation:
            options.setdefault("volume", "v")
            return repository.create(generation, **options)  # type: ignore[arg-type]


def restored(repository: Repository, name: str | int, folder: Path) -> bytes:
    """A generation's content."""
    path = folder / f"restored-{os.urandom(4).hex()}"
    try:
        repository.restore(name, path)
        return path.read_bytes()
    finally:
        path.unlink(missing_ok=True)


def hashes_in_packs(folder: Path) -> list[bytes]:
    """The hashes that the tables of all packs have, by the documented format."""
    found = []
    for path in sorted((folder / "packs").glob("*/[!.]*")):
        data = path.read_bytes()
        entries, _, magic = struct.unpack("<II8s", data[-16:])
        assert magic == b"thmpack1"
        table = data[-16 - 44 * entries : -16]
        found += [table[at : at + 32] for at in range(0, len(table), 44)]
    return found


class Stop(BaseException):
    """What ends a process, in its own words."""


class Distant(LocalStore):
    """A folder that is treated as an object store is: nobody lists all packs at each backup."""

    def path(self, name: str) -> str | None:
        return None


class Watched(LocalStore):
    """A folder whose every operation is counted, and may be stopped at.

    Attributes:
        operations: What was done, in words.
        at: The number of the operation before which ``what`` is called, once.
        dead: Nothing can be done any more.
    """

    def __init__(
        self, folder: str, at: int | None = None, what: Callable[[], object] | None = None
    ) -> None:
        super().__init__(folder)
        self.operations: list[str] = []
        self.at, self.what = at, what
        self.dead = False
        self._last = ""
        self._watching = threading.RLock()

    def die(self) -> None:
        """As if the process had been killed here."""
        self.dead = True
        raise Stop

    def _watch(self, operation: str) -> None:
        with self._watching:
            if self.dead:
                raise Stop
            number = len(self.operations)
            self.operations.append(operation)
            if number == self.at and self.what is not None:
                self.what()

    def die_after(self, prefix: str) -> None:
        """As if the process had been killed when it had put such an object."""
        self._last = prefix

    def put(self, name: str, data: Buffer, *, later: bool = False) -> None:
        self._watch(f"put {name}")
        super().put(name, data)  # at once: what comes later comes in no order
        if self._last and name.startswith(self._last):
            self.die()

    def put_new(self, name: str, data: Buffer) -> bool:
        self._watch(f"put new {name}")
        return super().put_new(name, data)

    def put_file(self, name: str, path: str) -> None:
        self._watch(f"put file {name}")
        super().put_file(name, path)

    def get(self, name: str, limit_bytes: int) -> bytes:
        self._watch(f"get {name}")
        return super().get(name, limit_bytes)

    def get_range(self, name: str, begin: int, end: int) -> Buffer:
        self._watch(f"get range {name}")
        return super().get_range(name, begin, end)

    def size(self, name: str) -> int | None:
        self._watch(f"size {name}")
        return super().size(name)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        self._watch(f"list {prefix}")
        return super().list(prefix)

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            self._watch(f"delete {name}")
            super().delete([name])
