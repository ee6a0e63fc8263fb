"""A store is used by many threads, interrupted, and left behind by forks."""

from __future__ import annotations

import array
import itertools
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import thinmeta
from thinmeta.engine import BTree, Store

#: "At once", with room for a machine that has other things to do.
SOON_SECONDS = 5
KEYS = 3000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.create(tmp_path / "s.img", size_bytes=64 << 20) as store:
        yield store


def set_all(store: Store, value: int, keys: int = KEYS) -> None:
    with store.transaction() as txn:
        column = array.array("Q", range(keys))
        txn.tree("t").insert_many(column, array.array("Q", [value]) * keys)


def look_up(tree: BTree[int]) -> set[int]:
    return {tree[key] for key in random.choices(range(KEYS), k=200)}


def get(tree: BTree[int]) -> set[int]:
    keys = random.choices(range(KEYS), k=100)
    assert KEYS not in tree and tree.get(KEYS, 7) == 7
    return {tree.get(key, -1) for key in keys}


def look_many_up(tree: BTree[int]) -> set[int]:
    answer = tree.lookup_many(array.array("Q", random.choices(range(KEYS), k=500)))
    assert all(memoryview(answer.found))
    return set(memoryview(answer.values))


def scan(tree: BTree[int]) -> set[int]:
    entries = tree.entries()
    assert len(entries) == KEYS
    return set(memoryview(entries.values))


def iterate(tree: BTree[int]) -> set[int]:
    rows = list(tree.items())
    assert [key for key, _ in rows] == list(range(KEYS))
    return {value for _, value in rows}


def neighbours(tree: BTree[int]) -> set[int]:
    rows = [tree.first(), tree.last(), tree.at_least(KEYS // 2)]
    return {row[1] for row in rows if row is not None}


READERS: list[Callable[[BTree[int]], set[int]]] = [
    look_up,
    get,
    look_many_up,
    scan,
    iterate,
    neighbours,
]


def test_eight_threads_read_whole_commits_while_one_writes(store: Store) -> None:
    """Each commit sets every key to its own number: a view that shows two is torn."""
    set_all(store, 0)
    begin = time.monotonic()
    newest, seen, steps = [0], [0] * len(READERS), [0]
    shared = store.view()
    shared_tree = shared.tree("t")

    def goes_on() -> bool:
        # Two seconds, or as long as it takes on a machine that has other work.
        enough = newest[0] >= 3 and min(seen) >= 1
        return time.monotonic() - begin < (2 if enough else 60)

    def write() -> None:
        while goes_on():
            set_all(store, newest[0] + 1)
            newest[0] += 1

    def read(number: int) -> None:
        last = 0
        while goes_on():
            before = newest[0]
            with store.view() as view:
                values = READERS[number](view.tree("t"))
            assert len(values) == 1, f"{READERS[number].__name__} saw two commits at once"
            (value,) = values
            assert last <= value and before <= value, "a view is of the last commit"
            last = value
            assert READERS[number](shared_tree) == {0}, "a view stays as it is"
            seen[number] += 1

    def count() -> None:
        while goes_on():
            steps[0] += 1

    with ThreadPoolExecutor(8) as threads:
        running = [threads.submit(read, number) for number in range(len(READERS))]
        running += [threads.submit(write), threads.submit(count)]
        for each in running:
            each.result()
    shared.close()
    assert newest[0] >= 3 and min(seen) >= 1 and steps[0] > 1000


def test_threads_take_turns_with_transactions(store: Store) -> None:
    with store.transaction() as txn:
        txn.tree("t")[0] = 0

    def add() -> None:
        for _ in range(10):
            with store.transaction() as txn:
                tree = txn.tree("t")
                tree[0] += 1

    with ThreadPoolExecutor(6) as threads:
        for each in [threads.submit(add) for _ in range(6)]:
            each.result()
    with store.view() as view:
        assert view.tree("t")[0] == 60


def test_threads_may_share_one_transaction(store: Store) -> None:
    with store.transaction() as txn:
        tree = txn.tree("t")

        def change(part: int) -> None:
            for key in range(part, 4000, 4):
                tree[key] = key
                assert tree[key] == key
                near = tree.at_least(key)
                assert near == (key, key)

        with ThreadPoolExecutor(4) as threads:
            for each in [threads.submit(change, part) for part in range(4)]:
                each.result()
        assert list(tree) == list(range(4000))


def test_threads_may_share_one_iterator(store: Store) -> None:
    set_all(store, 1)
    with store.view() as view:
        rows = iter(view.tree("t").keys())
        with ThreadPoolExecutor(4) as threads:
            parts = [threads.submit(lambda: list(rows)) for _ in range(4)]
            got = [key for part in parts for key in part.result()]
    assert sorted(got) == list(range(KEYS))


def test_closing_under_readers_is_an_error_and_nothing_worse(store: Store) -> None:
    set_all(store, 1)
    started = threading.Barrier(5)

    def read() -> str:
        view = store.view()
        tree = view.tree("t")
        started.wait()
        while True:
            try:
                for reader in READERS:
                    assert reader(tree) == {1}
            except thinmeta.UsageError as error:
                return str(error)

    with ThreadPoolExecutor(4) as threads:
        running = [threads.submit(read) for _ in range(4)]
        started.wait()
        store.close()
        assert {each.result() for each in running} == {"the view is closed"}
    with Store.open(store.path):
        pass


LONG = 1 << 20
LONG_CALLS: dict[str, Callable[[Store, array.array[int]], object]] = {
    "insert_many": lambda store, keys: insert_long(store, keys),
    "lookup_many": lambda store, keys: [store.view().tree("t").lookup_many(keys) for _ in "12"],
    "entries": lambda store, keys: [store.view().tree("t").entries() for _ in range(20)],
}


def insert_long(store: Store, keys: array.array[int]) -> None:
    with store.transaction() as txn:
        txn.tree("t").insert_many(keys, keys)


@pytest.mark.parametrize("call", LONG_CALLS)
def test_long_calls_let_other_threads_go_on(store: Store, call: str) -> None:
    keys = array.array("Q", random.Random(1).sample(range(LONG), LONG))
    if call != "insert_many":
        insert_long(store, keys)
    # A busy machine may stop a thread at any time; the interpreter's lock does each time.
    shares = [longest_pause(lambda: LONG_CALLS[call](store, keys)) for _ in range(3)]
    assert min(shares) < 0.5, "the interpreter was held"


def longest_pause(call: Callable[[], object]) -> float:
    """The longest time that a thread of Python had to wait, as a share of the call's."""
    stop, stamps = threading.Event(), [time.monotonic()]

    def tick() -> None:
        while not stop.is_set():
            stamps.append(time.monotonic())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    begun = time.monotonic()
    call()
    ended = time.monotonic()
    stop.set()
    thread.join()
    within = [begun, *(stamp for stamp in stamps if begun < stamp < ended), ended]
    return max(b - a for a, b in itertools.pairwise(within)) / (ended - begun)


@pytest.fixture
def held(store: Store) -> Iterator[threading.Event]:
    """Another thread has a transaction until the event is set."""
    begun, done = threading.Event(), threading.Event()

    def hold() -> None:
        txn = store.transaction()
        begun.set()
        done.wait()
        if not txn.ended:
            txn.abort()

    thread = threading.Thread(target=hold)
    thread.start()
    begun.wait()
    yield done
    done.set()
    thread.join()


def test_ctrl_c_ends_the_wait_for_a_transaction(store: Store, held: threading.Event) -> None:
    timer = threading.Timer(0.2, signal.raise_signal, [signal.SIGINT])
    timer.start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        store.transaction()
    assert 0.1 < time.monotonic() - started < SOON_SECONDS
    timer.join()
    held.set()
    with store.transaction() as txn:
        txn.tree("t")


def test_a_signal_s_handler_may_close_the_store_that_is_waited_for(
    store: Store, held: threading.Event
) -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: store.close())
    timer = threading.Timer(0.2, signal.raise_signal, [signal.SIGUSR1])
    timer.start()
    try:
        with pytest.raises(thinmeta.UsageError, match="the store is closed"):
            store.transaction()
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)


def test_a_signal_s_handler_may_close_what_is_being_read(store: Store) -> None:
    insert_long(store, array.array("Q", range(LONG)))
    view = store.view()
    tree = view.tree("t")
    before = signal.signal(signal.SIGUSR1, lambda *_: store.close())
    timer = threading.Timer(0.1, signal.raise_signal, [signal.SIGUSR1])
    timer.start()

    def read_on() -> None:
        while True:
            assert len(tree.lookup_many(array.array("Q", range(LONG)))) == LONG

    try:
        with pytest.raises(thinmeta.UsageError, match="the view is closed"):
            read_on()
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)


FORKING = """
import os, sys
from thinmeta import UsageError
from thinmeta.engine import Store

def refused(use):
    try:
        use()
    except UsageError:
        return
    os._exit(3)

store = Store.create(sys.argv[1], size_bytes=4 << 20)
with store.transaction() as txn:
    txn.tree("t").update({key: key for key in range(1000)})
view, txn = store.view(), store.transaction()
tree, reading = txn.tree("t"), view.tree("t")
rows = iter(reading)
next(rows)
tree[5] = 50
child = os.fork()
if child == 0:
    for use in (store.view, store.transaction, lambda: store.space, view.names, txn.commit,
                lambda: tree[1], lambda: tree.__setitem__(5, 6), lambda: reading[1],
                lambda: list(rows), lambda: list(reading.items()), lambda: reading.entries()):
        refused(use)
    store.close()
    view.close()
    sys.exit(0)  # the interpreter ends as it always does, and must not hang
assert os.waitpid(child, 0)[1] == 0
assert len(list(rows)) == 999
txn.commit()
with store.view() as view:
    assert view.tree("t")[5] == 50
store.close()
print("well")
"""


def test_a_forked_child_can_neither_use_nor_harm_its_parent_s_store(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FORKING, str(tmp_path / "s.img")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("well\n", "", 0)


LEAVING = """
import sys
from thinmeta.engine import Store
store = Store.create(sys.argv[1], size_bytes=4 << 20)
txn = store.transaction()
txn.tree("t").update({key: key for key in range(1000)})
view = store.view()
rows = iter(txn.tree("t").items())
next(rows)
"""


def test_an_interpreter_that_ends_with_everything_open_rolls_back(tmp_path: Path) -> None:
    path = str(tmp_path / "s.img")
    done = subprocess.run(
        [sys.executable, "-c", LEAVING, path],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    with Store.open(path) as store, store.view() as view:
        assert view.names() == []
