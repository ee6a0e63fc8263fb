"""Times single calls of thinmeta's Python API, in a warmed process of its own.

Runs under the interpreter of thinmeta's environment. One JSON request a line on stdin, one JSON
answer a line on stdout: {"seconds": …, "cpu": …, …} or {"error": …}.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import random
import resource
import sys
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

thinmeta: Any = importlib.import_module("thinmeta")

Answer = dict[str, Any]


def timed(call: Callable[[], Any]) -> tuple[Any, Answer]:
    cpu, start = time.process_time(), time.perf_counter()
    result = call()
    return result, {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}


def peak_kib() -> int:
    """Highest resident size since the last `forget_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def has(module: str) -> Answer:
    return {"has": importlib.util.find_spec(module) is not None}


def check(path: str) -> Answer:
    report, answer = timed(lambda: thinmeta.check(path))
    return {**answer, "clean": report.is_clean}


def consumer(into: str) -> Callable[[Any], Any]:
    """How a Delta is taken out: as an Arrow table, as NumPy arrays, or as plain buffers."""
    if into == "arrow":
        arrow = importlib.import_module("pyarrow")
        return lambda delta: arrow.table(delta)
    if into == "numpy":
        importlib.import_module("numpy")
        return lambda delta: delta.to_numpy()
    return lambda delta: {name: memoryview(column) for name, column in buffers(delta).items()}


def buffers(delta: Any) -> dict[str, Any]:
    result: dict[str, Any] = getattr(delta, "_native", delta).columns()
    return result


def delta(path: str, left: int, right: int, into: str) -> Answer:
    """One delta of a pool just opened: nothing of its trees is cached by us yet."""
    take = consumer(into)
    with thinmeta.open_pool(path) as pool:
        forget_peak()
        before = peak_kib()
        table, answer = timed(lambda: take(pool.delta(left, right)))
        grown = peak_kib() - before
        rows = len(pool.delta(left, right))
    del table
    return {**answer, "peak_kib": grown, "rows": rows}


def delta_ranges(path: str, left: int, right: int) -> Answer:
    """The differences in blocks, neighbours of one kind joined, for comparison with a peer's."""
    joined: list[list[Any]] = []
    with thinmeta.open_pool(path) as pool:
        for row in pool.delta(left, right):
            if joined and joined[-1][0] == row.kind and joined[-1][2] == row.begin_blocks:
                joined[-1][2] += row.length_blocks
            else:
                joined.append([row.kind, row.begin_blocks, row.begin_blocks + row.length_blocks])
    return {"ranges": joined}


def find(path: str, rounds: int) -> Answer:
    """Nanoseconds of one `find` less the loop's own, keys in random order; and keys in batches."""
    with thinmeta.open_pool(path) as pool:
        device = next(iter(pool.devices.values()))
        chance = random.Random(1)
        keys = [chance.randrange(device.mapped_blocks) for _ in range(100_000)]
        look = device.find
        for key in keys:
            look(key)
        bare, full = [], []
        for _ in range(rounds):
            start = time.perf_counter_ns()
            for _key in keys:
                pass
            middle = time.perf_counter_ns()
            for key in keys:
                look(key)
            end = time.perf_counter_ns()
            bare.append((middle - start) / len(keys))
            full.append((end - middle) / len(keys))
        batch = array("Q", [chance.randrange(device.mapped_blocks) for _ in range(1_000_000)])
        many = []
        for _ in range(rounds):
            start = time.perf_counter_ns()
            device.find_many(batch)
            many.append((time.perf_counter_ns() - start) / len(batch))
    return {
        "net_ns": median(full) - median(bare),
        "loop_ns": median(bare),
        "spread": max(full) / min(full),
        "many_per_second": 1e9 / median(many),
        "many_spread": max(many) / min(many),
    }


def read_volume(path: str, data: str, size: int, buffer_bytes: int, digest: bool) -> Answer:
    """Reads a volume from end to end into one buffer."""
    buffer = bytearray(buffer_bytes)
    view = memoryview(buffer)
    sha = hashlib.sha256()

    def whole(volume: Any) -> int:
        total = 0
        while got := volume.readinto(buffer):
            total += got
            if digest:
                sha.update(view[:got])
        return total

    with thinmeta.open_pool(path, data=data) as pool:
        device = next(iter(pool.devices.values()))
        with device.open(size_bytes=size) as volume:
            total, answer = timed(lambda: whole(volume))
    return {**answer, "bytes": total, "sha256": sha.hexdigest() if digest else ""}


CALLS: dict[str, Callable[..., Answer]] = {
    call.__name__: call for call in (has, check, delta, delta_ranges, find, read_volume)
}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else is printed must not mix with the answers
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = CALLS[request.pop("call")](**request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
