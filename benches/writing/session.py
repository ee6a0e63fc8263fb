"""What `group.py` asks about writing pools on stdin, answered in JSON on stdout.

    python -m writing.session NAME FOLDER       its files in FOLDER

README.md has the requests. Columns stand ready in arrays, and pools are open, before a clock is
started; what is written is durable before it stops.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from serve import Answer, only_answers, serve, tell, timed
from writing import columns
from writing.plain import BLOCK_BYTES, NODE_BYTES, SECTORS, Content, Files

DEVICE, SNAPSHOT = 1, 2
AT_A_TIME = 1_000_000


def metadata_blocks(mappings: int) -> int:
    """Room for so many in half-full leaves, for what a commit keeps, and then some."""
    return 4096 + mappings // 40


def parts(count: int, each: int) -> Iterator[slice]:
    """`count` rows, `each` at a time."""
    for start in range(0, count, each):
        yield slice(start, min(start + each, count))


class Store:
    """A store of ours: a tree of the same numbers, without a pool's counts and devices."""

    def __init__(self) -> None:
        self.version = ""
        self._store_type: Any = importlib.import_module("thinmeta.engine").Store

    def insert(self, virtual: str, data: str, count: str, per_call: str) -> Answer:
        keys, values = columns.read(virtual, int(count)), columns.read(data, int(count))
        Path("store").unlink(missing_ok=True)
        size = metadata_blocks(int(count)) * NODE_BYTES
        with self._store_type.create("store", size_bytes=size) as store:

            def whole() -> None:
                with store.transaction() as txn:
                    for part in parts(int(count), int(per_call)):
                        txn.tree("m").insert_many(keys[part], values[part])

            return timed(whole)[1]

    def mappings(self, start: str, stop: str) -> Answer:
        with self._store_type.open("store", mode="r") as store, store.view() as view:
            found = view.tree("m").entries(int(start), int(stop))
            return {"mapped": len(view.tree("m")), "data": columns.crc(found.values)}

    def close(self) -> None:
        Path("store").unlink(missing_ok=True)


class Pools:
    """thinmeta itself."""

    def __init__(self) -> None:
        self._thinmeta: Any = importlib.import_module("thinmeta")
        self.version = str(self._thinmeta.__version__)
        self._content = Content()
        self._pool: Any = None
        self._volume: Any = None
        self._blocks = self._turn = self._snapshots = 0
        self._pools: dict[str, Any] = {}

    def _create(self, path: str, data_blocks: int, nodes: int, data: str | None = None) -> Any:
        """A pool with one device in it."""
        pool = self._thinmeta.Pool.create(
            path,
            data_block_size_sectors=SECTORS,
            data_blocks=data_blocks,
            metadata_blocks=nodes,
            overwrite=True,
            data=data,
        )
        with pool.transaction() as txn:
            txn.create_thin(DEVICE)
        return pool

    def insert(self, virtual: str, data: str, count: str, per_call: str) -> Answer:
        """All mappings in one transaction, so many a call."""
        blocks, places = columns.read(virtual, int(count)), columns.read(data, int(count))
        Path("pool").unlink(missing_ok=True)
        with self._create("pool", 2 * int(count), metadata_blocks(int(count))) as pool:

            def whole() -> None:
                with pool.transaction() as txn:
                    for part in parts(int(count), int(per_call)):
                        txn.insert_many(DEVICE, blocks[part], places[part])

            return {**timed(whole)[1], "numpy": columns.numpy() is not None}

    def fill(self, name: str, count: str) -> Answer:
        """A pool of so many mappings in sequence; kept, and found again."""
        unfinished = f"{name}.new"
        if not Path(name).exists():
            nodes = metadata_blocks(int(count))
            with self._create(unfinished, 2 * int(count), nodes) as pool:
                with pool.transaction() as txn:
                    for part in parts(int(count), AT_A_TIME):
                        some = columns.counting(part.start, part.stop)
                        txn.insert_many(DEVICE, some, some)
            os.rename(unfinished, name)
        return {}

    def keep(self, name: str) -> Answer:
        """Puts the pool aside, to be restored before each run."""
        os.rename("pool", name)
        return {}

    def restore(self, name: str) -> Answer:
        """A durable copy of what was put aside, open in nobody's cache but the kernel's."""
        with open(name, "rb", buffering=0) as kept, open("pool", "wb", buffering=0) as file:
            os.truncate(file.fileno(), 0)
            size = os.fstat(kept.fileno()).st_size
            file.truncate(size)
            at = 0
            while at < size:
                try:
                    at = os.lseek(kept.fileno(), at, os.SEEK_DATA)
                except OSError:
                    break
                stop = os.lseek(kept.fileno(), at, os.SEEK_HOLE)
                while at < stop:
                    at += os.pwrite(file.fileno(), os.pread(kept.fileno(), 1 << 20, at), at)
            os.fsync(file.fileno())
        return {}

    def delete(self) -> Answer:
        with self._thinmeta.open_pool("pool", mode="r+") as pool:

            def whole() -> None:
                with pool.transaction() as txn:
                    txn.delete(DEVICE)

            return timed(whole)[1]

    def remove_range(self, begin: str, end: str) -> Answer:
        with self._thinmeta.open_pool("pool", mode="r+") as pool:

            def whole() -> int:
                with pool.transaction() as txn:
                    removed: int = txn.remove_range(DEVICE, int(begin), int(end))
                return removed

            removed, answer = timed(whole)
        return {**answer, "removed": removed}

    def mappings(self, start: str, stop: str) -> Answer:
        """What a pool that is opened anew has mapped, and a CRC of where in a range."""
        with self._thinmeta.open_pool("pool") as pool:
            answer = {"devices": len(pool.devices), "free": pool.free_data_blocks, "mapped": 0}
            if DEVICE in pool.devices:
                device = pool.devices[DEVICE]
                found = device.find_many(columns.counting(int(start), int(stop)))
                answer |= {"mapped": device.mapped_blocks, "data": columns.crc(found.data_block)}
        return {**answer, **self._sound("pool")}

    def _sound(self, path: str) -> Answer:
        return {"clean": self._thinmeta.check(path).is_clean}

    def snapshot(self, name: str, count: str, until: str) -> Answer:
        """Snapshots of a pool's device, each taken out again; the median call of many.

        `until` is `call` or `commit`.
        """
        pool, calls, commits = self._with_no_snapshot(name), [], []
        mapped, cpu = pool.devices[DEVICE].mapped_blocks, 0.0
        for _ in range(int(count)):
            with pool.transaction() as txn:
                began, start = time.process_time(), time.perf_counter()
                txn.create_snapshot(SNAPSHOT, origin_id=DEVICE)
                middle = time.perf_counter()
                txn.commit()
                commits.append(time.perf_counter() - start)
                calls.append(middle - start)
                cpu += time.process_time() - began
            alike = pool.devices[SNAPSHOT].mapped_blocks == mapped
            with pool.transaction() as txn:
                txn.delete(SNAPSHOT)
        seconds = median(calls if until == "call" else commits)
        return {"seconds": seconds, "cpu": cpu / int(count), "first": calls[0], "alike": alike}

    def _with_no_snapshot(self, name: str) -> Any:
        """A pool that is kept; whoever was stopped may have left one in it."""
        if name not in self._pools:
            pool = self._pools[name] = self._thinmeta.open_pool(name, mode="r+")
            if SNAPSHOT in pool.devices:
                with pool.transaction() as txn:
                    txn.delete(SNAPSHOT)
        return self._pools[name]

    def shut(self, name: str) -> Answer:
        """Lets go of a pool that snapshots were made of; whether it is as it was."""
        self._pools.pop(name).close()
        return self._sound(name)

    def fresh_volume(self, blocks: str) -> Answer:
        """A pool whose data image is a sparse file of that size, and a volume as large."""
        self.close()
        for name in ("pool", "data"):
            Path(name).unlink(missing_ok=True)
        with open("data", "wb") as data:
            data.truncate(int(blocks) * BLOCK_BYTES)
            os.fsync(data.fileno())
        self._blocks, self._turn = int(blocks), 0
        self._pool = self._create("pool", int(blocks), metadata_blocks(int(blocks)), "data")
        self._open_volume()
        return {}

    def _open_volume(self) -> None:
        size = self._blocks * BLOCK_BYTES
        self._volume = self._pool.devices[DEVICE].open(mode="r+", size_bytes=size)

    def write(self, count: str, per_flush: str) -> Answer:
        """The next blocks in sequence, a block a write."""
        return timed(lambda: self._write(int(count), int(per_flush)))[1]

    def _write(self, count: int, per_flush: int) -> None:
        volume, turn, content = self._volume, self._turn, self._content
        first = volume.tell() // BLOCK_BYTES
        for number in range(first, first + count):
            volume.write(content.block(number, turn))
            if (number + 1 - first) % per_flush == 0:
                volume.flush()

    def again(self) -> Answer:
        """Opens the pool anew, for what is there to be written over."""
        self.close()
        self._pool = self._thinmeta.open_pool("pool", mode="r+", data="data")
        self._open_volume()
        self._turn += 1
        return {}

    def content(self) -> Answer:
        """What a pool that is opened anew has in its volume."""
        self.close()
        digest, block = hashlib.sha256(), bytearray(BLOCK_BYTES)
        with self._thinmeta.open_pool("pool", data="data") as pool:
            with pool.devices[DEVICE].open(size_bytes=self._blocks * BLOCK_BYTES) as volume:
                while volume.readinto(block):
                    digest.update(block)
        return {"sha256": digest.hexdigest(), **self._sound("pool")}

    def fresh_snapshots(self) -> Answer:
        self.close()
        Path("pool").unlink(missing_ok=True)
        self._pool, self._snapshots = self._create("pool", 1 << 20, 1 << 14), 0
        return {}

    def snapshots(self, count: str) -> Answer:
        """Transactions of one snapshot each; all snapshots stay."""
        pool, first = self._pool, SNAPSHOT + self._snapshots

        def commits() -> None:
            for number in range(first, first + int(count)):
                with pool.transaction() as txn:
                    txn.create_snapshot(number, origin_id=DEVICE)

        answer = timed(commits)[1]
        self._snapshots += int(count)
        return answer

    def devices(self) -> Answer:
        self.close()
        with self._thinmeta.open_pool("pool") as pool:
            ids = list(pool.devices)
        alike = ids == list(range(DEVICE, SNAPSHOT + self._snapshots))
        return {"devices": len(ids), "alike": alike, **self._sound("pool")}

    def close(self) -> None:
        for open_one in (self._volume, self._pool, *self._pools.values()):
            if open_one is not None:
                open_one.close()
        self._volume = self._pool = None
        self._pools = {}


KNOWN = {"thinmeta": Pools, "thinmeta Store": Store, "plain file": Files}


def main() -> None:
    answers = only_answers()
    name, folder = sys.argv[1:]
    os.makedirs(folder, exist_ok=True)
    os.chdir(folder)
    try:
        session: Any = KNOWN[name]()
    except (ImportError, AttributeError) as error:
        tell(answers, {"error": str(error)})
        return
    tell(answers, {"version": session.version})
    requests = {word for word in dir(session) if not word.startswith("_")} - {"close", "version"}
    serve(answers, session, requests)
    session.close()


if __name__ == "__main__":
    main()
