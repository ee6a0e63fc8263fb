"""The Python side of a session: what `sessions.py` asks on stdin, answered in JSON on stdout.

    python -m engine.session ENGINE FOLDER       an ENGINE of engines.py, its files in FOLDER

README.md has the requests. A value is its key times three. Keys and values stand ready in arrays
of 64-bit integers before a clock is started: what an engine has to make of them is its own time.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
import zlib
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from engine.engines import KNOWN, Engine
from serve import Answer, only_answers, serve, tell, timed

MASK = (1 << 64) - 1
COUNTING_SECONDS = 0.5  # of a window in which a thread's speed is taken


class Session:
    """Answers requests about one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._files: dict[str, array[int]] = {}

    def keys(self, name: str, count: str) -> array[int]:
        if name not in self._files:
            words = array("Q")
            words.frombytes(Path(name).read_bytes())
            self._files = {name: words}
        words = self._files[name][: int(count)]
        if len(words) < int(count):
            raise ValueError(f"{name} has fewer keys")
        return words

    def fresh(self) -> Answer:
        self._engine.fresh()
        return {}

    def insert(self, name: str, count: str, per_commit: str, order: str) -> Answer:
        keys = self.keys(name, count)
        values = array("Q", [3 * key & MASK for key in keys])
        return timed(lambda: self._engine.insert(keys, values, int(per_commit), order))[1]

    def lookup(self, name: str, count: str) -> Answer:
        """Key by key; the bare loop's own time is taken off."""
        looking = self._engine.lookup(self.keys(name, count))
        _, bare = timed(lambda: none_of(looking.keys))
        _, full = timed(looking.loop)
        net = {word: max(full[word] - bare[word], 0.0) for word in full}
        return {**net, "sum": sum(looking.values()) & MASK}

    def lookup_many(self, name: str, count: str) -> Answer:
        keys = self.keys(name, count)
        take, answer = timed(lambda: self._engine.lookup_many(keys))
        return {**answer, "sum": sum(take()) & MASK}

    def scan(self) -> Answer:
        take, answer = timed(self._engine.scan)
        keys, values = take()
        sums = {"keys": sum(keys) & MASK, "values": sum(values) & MASK}
        return {**answer, "count": len(keys), **sums}

    def digest(self) -> Answer:
        """What the files hold once they are closed and opened again."""
        self._engine.reopen()
        keys, values = self._engine.scan()()
        sums = " ".join(f"{zlib.crc32(array('Q', words)):08x}" for words in (keys, values))
        return {"digest": f"{len(keys)} {sums}"}

    def beside(self, name: str, count: str, per_commit: str) -> Answer:
        """A pure-Python thread's speed while another commits in a loop, and alone, in turn."""
        keys = self.keys(name, count)
        values = array("Q", [3 * key & MASK for key in keys])
        alone = counted()
        committer = Committer(self._engine, keys, values, int(per_commit))
        committer.start()
        try:
            committer.begun.wait()
            together = counted()
        finally:
            committer.stop.set()
            committer.join()
        if committer.failed:
            raise committer.failed
        alone = (alone + counted()) / 2
        return {
            "seconds": COUNTING_SECONDS,
            "cpu": 0.0,
            "share": together / alone,
            "commits_per_second": committer.commits / committer.seconds,
        }

    def call(self, rounds: str) -> Answer:
        """Nanoseconds of a call that costs next to nothing, and of a builtin, net of the loop."""
        keys = list(range(100_000))
        ways: dict[str, Callable[[], None]] = {
            "loop": lambda: none_of(keys),
            "builtin": lambda: each_of(keys, abs),
            "method": lambda: self._engine.call_each(keys),
        }
        took: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(int(rounds)):
            for way, run in ways.items():
                took[way].append(timed(run)[1]["seconds"] / len(keys) * 1e9)
        loop = median(took["loop"])
        return {
            "loop_ns": loop,
            "builtin_ns": median(took["builtin"]) - loop,
            "method_ns": median(took["method"]) - loop,
            "spread": max(took["method"]) / min(took["method"]),
        }


class Committer(threading.Thread):
    """Commits batch after batch until it is told to stop."""

    def __init__(
        self, engine: Engine, keys: array[int], values: array[int], per_commit: int
    ) -> None:
        super().__init__()
        self._work = engine, keys, values, per_commit
        self.begun, self.stop = threading.Event(), threading.Event()
        self.commits, self.seconds = 0, 0.0
        self.failed: Exception | None = None

    def run(self) -> None:
        engine, keys, values, per_commit = self._work
        chance = random.Random(4)
        start = time.perf_counter()
        try:
            while not self.stop.is_set():
                at = chance.randrange(len(keys) - per_commit + 1)
                batch = slice(at, at + per_commit)
                engine.insert(keys[batch], values[batch], per_commit, "random")
                self.commits += 1
                self.begun.set()
        except Exception as error:
            self.failed = error
        finally:
            self.seconds = time.perf_counter() - start
            self.begun.set()


def none_of(keys: Sequence[Any]) -> None:
    for _key in keys:
        pass


def each_of(keys: Sequence[Any], get: Callable[[Any], Any]) -> None:
    for key in keys:
        get(key)


def counted() -> float:
    """Steps a second of a loop in pure Python."""
    steps, start = 0, time.perf_counter()
    end = start + COUNTING_SECONDS
    while (now := time.perf_counter()) < end:
        for _ in range(1000):
            steps += 1
    return steps / (now - start)


REQUESTS = ("fresh", "insert", "lookup", "lookup_many", "scan", "digest", "beside", "call")


def main() -> None:
    answers = only_answers()
    name, folder = sys.argv[1:]
    os.makedirs(folder, exist_ok=True)
    os.chdir(folder)
    try:
        engine = KNOWN[name]()
    except (ImportError, AttributeError) as error:
        tell(answers, {"error": str(error)})
        return
    tell(answers, {"version": engine.version})
    serve(answers, Session(engine), REQUESTS)
    engine.close()


if __name__ == "__main__":
    main()
