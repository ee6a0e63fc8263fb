"""A store keeps what was committed, whole, and nothing else."""

import array
import doctest
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import thinmeta
import thinmeta.engine
import thinmeta.engine.store
import thinmeta.engine.tree
from thinmeta.engine import Store, StoreTransaction, StoreView
from thinmeta.types import SpaceUsage

#: How many histories the model goes through; THINMETA_STORE_HISTORIES=2000 for a long run.
HISTORIES = int(os.environ.get("THINMETA_STORE_HISTORIES", "50"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.img"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.create(path, size_bytes=4 << 20, checked=True) as store:
        yield store


def fill(store: Store, name: str, rows: dict[int, int]) -> None:
    with store.transaction() as txn:
        txn.tree(name).update(rows)


# ---- five lines ----


def test_the_five_lines_work(path: Path) -> None:
    with Store.create(path, size_bytes=64 << 20) as store:
        with store.transaction() as txn:
            txn.tree("inodes")[7] = 42
            txn.snapshot("inodes", "inodes@monday")
        with store.view() as view:
            assert view.tree("inodes")[7] == 42
    with Store.open(path) as store, store.view() as view:
        assert view.names() == ["inodes", "inodes@monday"]
        assert view.tree("inodes@monday")[7] == 42


@pytest.mark.parametrize("module", [thinmeta.engine.store, thinmeta.engine.tree, thinmeta.engine])
def test_the_examples_in_the_documentation_run(module: ModuleType) -> None:
    failed, tried = doctest.testmod(module)
    assert failed == 0
    assert tried > 0 or module is thinmeta.engine


def test_the_package_imports_names_when_they_are_used() -> None:
    assert set(thinmeta.engine.__all__) <= set(dir(thinmeta.engine))
    for name in thinmeta.engine.__all__:
        assert getattr(thinmeta.engine, name).__name__ == name
        assert getattr(thinmeta.engine, name).__doc__
    with pytest.raises(AttributeError):
        thinmeta.engine.Nothing  # type: ignore[attr-defined] # noqa: B018 # raises when asked for


# ---- transactions ----


def test_a_quiet_exit_commits_and_an_exception_rolls_back(path: Path, store: Store) -> None:
    fill(store, "t", {1: 1})
    before = path.read_bytes()

    def change_and_fail() -> None:
        with store.transaction() as txn:
            txn.tree("t")[1] = 2
            txn.tree("new")[1] = 1
            txn.delete("t")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        change_and_fail()
    assert path.read_bytes() == before
    with store.view() as view:
        assert view.names() == ["t"] and dict(view.tree("t")) == {1: 1}
    fill(store, "t", {2: 2})
    with store.view() as view:
        assert dict(view.tree("t")) == {1: 1, 2: 2}


def test_commit_and_abort_end_a_transaction_early(store: Store) -> None:
    with store.transaction() as txn:
        txn.tree("t")[1] = 1
        txn.commit()
        with pytest.raises(thinmeta.UsageError, match="has ended"):
            txn.tree("t")
    with store.transaction() as txn:
        txn.tree("t")[2] = 2
        txn.abort()
        for again in (txn.commit, txn.abort, txn.names):
            with pytest.raises(thinmeta.UsageError, match="has ended"):
                again()
    with pytest.raises(thinmeta.UsageError), txn:
        pass
    with store.view() as view:
        assert dict(view.tree("t")) == {1: 1}


def test_a_tree_ends_with_its_transaction(store: Store) -> None:
    with store.transaction() as txn:
        tree = txn.tree("t")
        tree[1] = 1
        rows = iter(tree)
    for use in (lambda: tree[1], lambda: tree.first(), lambda: len(tree), lambda: next(rows)):
        with pytest.raises(thinmeta.UsageError, match="has ended"):
            use()
    with pytest.raises(thinmeta.UsageError, match="has ended"):
        tree[1] = 2


def test_a_transaction_sees_its_own_changes_and_views_do_not(store: Store) -> None:
    fill(store, "t", {1: 1})
    with store.transaction() as txn, store.view() as view:
        tree = txn.tree("t")
        tree[1], tree[2] = 10, 20
        txn.tree("other")
        assert dict(tree) == {1: 10, 2: 20} and "other" in txn
        assert dict(view.tree("t")) == {1: 1} and "other" not in view


def test_a_thread_has_one_transaction(store: Store) -> None:
    with store.transaction() as txn:
        with pytest.raises(thinmeta.UsageError, match="open already"):
            store.transaction()
        txn.tree("t")[1] = 1
    fill(store, "t", {2: 2})


def test_a_forgotten_transaction_is_rolled_back_and_complained_of(store: Store) -> None:
    kept = [store.transaction()]
    kept[0].tree("t")[1] = 1
    with pytest.warns(ResourceWarning, match="neither committed nor rolled back"):
        kept.clear()
    with store.view() as view:
        assert view.names() == []
    fill(store, "t", {2: 2})


def test_snapshots_share_until_one_changes(store: Store) -> None:
    fill(store, "t", {key: key for key in range(5000)})
    free = store.nr_free
    with store.transaction() as txn:
        txn.snapshot("t", "s")
    assert free - store.nr_free <= 8, "a snapshot costs a few blocks of bookkeeping"
    fill(store, "t", {0: 99})
    with store.view() as view:
        assert view.tree("s")[0] == 0 and view.tree("t")[0] == 99
        assert dict(view.tree("s").items(1)) == dict(view.tree("t").items(1))
    with store.transaction() as txn:
        with pytest.raises(thinmeta.UsageError, match="already"):
            txn.snapshot("t", "s")
        with pytest.raises(KeyError):
            txn.snapshot("nothing", "x")
        with pytest.raises(KeyError):
            txn.delete("nothing")
        txn.delete("s")
        txn.snapshot("t", "s")
        assert txn.tree("s")[0] == 99


@pytest.mark.parametrize("name", ["", "x" * 233, "ä" * 117])
def test_names_that_do_not_fit_are_refused(store: Store, name: str) -> None:
    with store.transaction() as txn:
        txn.tree("t")
        for wrong in (txn.tree, txn.delete, lambda name: txn.snapshot("t", name)):
            with pytest.raises(thinmeta.UsageError, match="1 to 232 bytes"):
                wrong(name)
        assert txn.names() == ["t"]


def test_names_are_any_text_and_come_sorted(store: Store) -> None:
    names = ["x" * 232, "b", "a", "ä/ö\n", "名前", " "]
    with store.transaction() as txn:
        for number, name in enumerate(names):
            txn.tree(name)[0] = number
        assert txn.names() == sorted(names, key=str.encode)
    with store.view() as view:
        assert view.names() == sorted(names, key=str.encode)
        assert [view.tree(name)[0] for name in names] == list(range(len(names)))


# ---- views ----


def test_a_view_stays_as_it_is_while_others_are_made(store: Store) -> None:
    views: list[StoreView] = []
    for commit in range(6):
        fill(store, "t", dict.fromkeys(range(commit, 2000), commit))
        views.append(store.view())
    with store.transaction() as txn:
        txn.delete("t")
    for commit, view in enumerate(views):
        tree = view.tree("t")
        assert [tree[key] for key in (0, commit, 1999)] == [0, commit, commit]
        assert len(tree) == 2000
        view.close()


def test_blocks_that_only_a_view_reads_are_free_when_it_is_closed(store: Store) -> None:
    fill(store, "t", {key: key for key in range(20_000)})
    with store.view() as view:
        with store.transaction() as txn:
            txn.delete("t")
        withheld = store.nr_free
        assert view.tree("t")[19_999] == 19_999
    assert store.nr_free > withheld + 50


def test_a_closed_view_and_its_trees_refuse(store: Store) -> None:
    fill(store, "t", {key: key for key in range(1000)})
    with store.view() as view:
        tree = view.tree("t")
        rows = iter(tree)
        assert next(rows) == 0
    assert view.closed
    for use in (lambda: tree[1], lambda: len(tree), lambda: list(rows), view.names, tree.entries):
        with pytest.raises(thinmeta.UsageError, match="the view is closed"):
            use()
    view.close()


def test_an_absent_name_is_a_key_error(store: Store) -> None:
    with store.view() as view:
        with pytest.raises(KeyError) as caught:
            view.tree("nothing")
        assert isinstance(caught.value, thinmeta.NoSuchTreeError)
        assert caught.value.name == "nothing"
        assert "nothing" not in view and 7 not in view


# ---- opening and closing ----


def test_a_store_says_what_it_is(path: Path, store: Store) -> None:
    assert store.path == str(path) and store.mode == "r+"
    assert store.nr_blocks == 1024
    free = store.nr_free
    assert 1000 < free < 1024
    assert store.space == SpaceUsage(blocks=1024, free=free, allocated=1024 - free)
    assert str(path) in repr(store) and "closed" not in repr(store)
    with store.transaction() as txn:
        assert str(path) in repr(txn) and "ended" not in repr(txn)
        assert "value_bytes=8" in repr(txn.tree("t"))
        assert "rows=0" in repr(txn.tree("t").entries())
    assert "ended" in repr(txn)
    with store.view() as view:
        assert "closed" not in repr(view)
    assert "closed" in repr(view)
    store.close()
    assert "closed" in repr(store)


@pytest.mark.parametrize("kind", [str, os.fsencode, Path])
def test_paths_of_every_kind(path: Path, kind: type) -> None:
    with Store.create(kind(path), size_bytes=1 << 20) as store:
        assert store.path == str(path)
    with Store.open(kind(path)) as store:
        assert store.path == str(path)


def test_closing_ends_everything_at_once(store: Store) -> None:
    fill(store, "t", {key: key for key in range(1000)})
    view, txn = store.view(), store.transaction()
    trees = [view.tree("t"), txn.tree("t")]
    rows = [iter(tree) for tree in trees]
    assert [next(each) for each in rows] == [0, 0]
    txn.tree("other")[0] = 5
    store.close()
    assert store.closed and view.closed and txn.ended
    for use in (store.view, store.transaction, lambda: store.space, view.names, txn.commit):
        with pytest.raises(thinmeta.UsageError, match=r"closed|ended"):
            use()
    for tree, each in zip(trees, rows, strict=True):
        with pytest.raises(thinmeta.UsageError):
            tree[1]
        with pytest.raises(thinmeta.UsageError):
            list(each)
    with pytest.raises(thinmeta.UsageError), store:
        pass
    store.close()
    with Store.open(store.path) as again, again.view() as view:
        assert view.names() == ["t"]


def test_a_forgotten_store_is_closed_and_complained_of(path: Path) -> None:
    kept = [Store.create(path, size_bytes=1 << 20)]
    fill(kept[0], "t", {1: 1})
    with pytest.warns(ResourceWarning, match=r"unclosed <thinmeta\.engine\.Store"):
        kept.clear()
    with Store.open(path) as store, store.view() as view:
        assert dict(view.tree("t")) == {1: 1}


def test_readers_share_and_a_writer_is_alone(path: Path) -> None:
    Store.create(path, size_bytes=1 << 20).close()
    with Store.open(path, mode="r") as one, Store.open(path, mode="r") as other:
        assert one.mode == "r"
        with one.view() as view, other.view() as another:
            assert view.names() == another.names() == []
        with pytest.raises(thinmeta.ReadOnlyError, match="open for reading"):
            one.transaction()
        with pytest.raises(thinmeta.DeviceInUseError):
            Store.open(path)
    with Store.open(path):
        for mode in ("r", "r+"):
            with pytest.raises(thinmeta.DeviceInUseError):
                Store.open(path, mode=mode)
        with pytest.raises(thinmeta.DeviceInUseError):
            Store.create(path, size_bytes=1 << 20, overwrite=True)


# ---- against a model ----


class StoreModel(RuleBasedStateMachine):
    """A store beside dictionaries: what is committed, what is being done, what views see."""

    names = st.sampled_from(["a", "b", "c"])
    keys = st.integers(0, 400) | st.integers(0, 2**64 - 1)
    folder: Path

    @initialize()
    def start(self) -> None:
        self.path = self.folder / "s.img"
        self.path.unlink(missing_ok=True)
        # Small caches write early; the checking space map holds every count to a plain one.
        self.store = Store.create(
            self.path, size_bytes=8 << 20, cache_bytes=256 << 10, checked=True
        )
        self.committed: dict[str, dict[int, int]] = {}
        self.working: dict[str, dict[int, int]] = {}
        self.txn: StoreTransaction | None = None
        self.views: list[tuple[StoreView, dict[str, dict[int, int]]]] = []

    def copied(self, trees: dict[str, dict[int, int]]) -> dict[str, dict[int, int]]:
        return {name: dict(tree) for name, tree in trees.items()}

    @precondition(lambda self: self.txn is None)
    @rule()
    def begin(self) -> None:
        self.txn = self.store.transaction()
        self.working = self.copied(self.committed)

    def in_transaction(self) -> StoreTransaction:
        if self.txn is None:
            self.begin()
        assert self.txn is not None
        return self.txn

    @rule(name=names, key=keys, value=st.integers(0, 2**64 - 1))
    def insert(self, name: str, key: int, value: int) -> None:
        self.in_transaction().tree(name)[key] = value
        self.working.setdefault(name, {})[key] = value

    @rule(
        name=names, start=st.integers(0, 3000), count=st.integers(0, 3000), step=st.integers(1, 7)
    )
    def insert_many(self, name: str, start: int, count: int, step: int) -> None:
        keys = range(start, start + count * step, step)
        tree = self.in_transaction().tree(name)
        model = self.working.setdefault(name, {})
        added = tree.insert_many(array.array("Q", keys), array.array("Q", keys[::-1]))
        assert added == len(set(keys) - set(model))
        model.update(zip(keys, keys[::-1], strict=True))

    @rule(name=names, data=st.data())
    def remove(self, name: str, data: st.DataObject) -> None:
        tree, model = self.in_transaction().tree(name), self.working.setdefault(name, {})
        key = data.draw(st.sampled_from(sorted(model)) if model else self.keys)
        assert tree.pop(key, None) == model.pop(key, None)

    @rule(name=names, begin=st.integers(0, 9000), length=st.integers(0, 9000))
    def remove_range(self, name: str, begin: int, length: int) -> None:
        tree, model = self.in_transaction().tree(name), self.working.setdefault(name, {})
        gone = [key for key in model if begin <= key < begin + length]
        assert tree.remove_range(begin, begin + length) == len(gone)
        for key in gone:
            del model[key]

    @rule(old=names, new=names)
    def snapshot(self, old: str, new: str) -> None:
        txn = self.in_transaction()
        if old not in self.working:
            with pytest.raises(KeyError):
                txn.snapshot(old, new)
        elif new in self.working:
            with pytest.raises(thinmeta.UsageError):
                txn.snapshot(old, new)
        else:
            txn.snapshot(old, new)
            self.working[new] = dict(self.working[old])

    @rule(name=names)
    def delete(self, name: str) -> None:
        txn = self.in_transaction()
        if name in self.working:
            txn.delete(name)
            del self.working[name]
        else:
            with pytest.raises(KeyError):
                txn.delete(name)

    @precondition(lambda self: self.txn is not None)
    @rule()
    def commit(self) -> None:
        self.in_transaction().commit()
        self.committed, self.txn = self.working, None

    @precondition(lambda self: self.txn is not None)
    @rule()
    def abort(self) -> None:
        self.in_transaction().abort()
        self.txn = None

    @precondition(lambda self: len(self.views) < 3)
    @rule()
    def look(self) -> None:
        self.views.append((self.store.view(), self.copied(self.committed)))

    @precondition(lambda self: self.views)
    @rule(data=st.data())
    def look_away(self, data: st.DataObject) -> None:
        view, _ = self.views.pop(data.draw(st.integers(0, len(self.views) - 1)))
        view.close()

    @rule(crash=st.booleans())
    def reopen(self, crash: bool) -> None:
        if crash:  # what is in the file now is what a crash would leave
            self.path = self.path.rename(self.folder / "old.img")
            shutil.copyfile(self.path, self.folder / "s.img")
            self.path = self.folder / "s.img"
        self.store.close()
        self.store = Store.open(self.path, cache_bytes=256 << 10, checked=True)
        self.txn, self.views = None, []

    @invariant()
    def everything_is_as_the_model_says(self) -> None:
        if not hasattr(self, "store"):
            return
        for view, model in self.views:
            assert view.names() == sorted(model)
            for name, rows in model.items():
                assert list(view.tree(name).items()) == sorted(rows.items())
        if self.txn is not None:
            assert self.txn.names() == sorted(self.working)
            for name, rows in self.working.items():
                tree = self.txn.tree(name)
                assert list(tree.items()) == sorted(rows.items()) and len(tree) == len(rows)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            with self.store.view() as view:
                assert {name: dict(view.tree(name)) for name in view.names()} == self.committed
            self.store.close()


def test_a_store_is_what_dictionaries_are(tmp_path: Path) -> None:
    class Machine(StoreModel):
        folder = tmp_path

    run_state_machine_as_test(
        Machine,
        settings=hypothesis.settings(
            max_examples=HISTORIES, stateful_step_count=25, deadline=None, print_blob=True
        ),
    )


def test_a_full_store_is_made_larger_in_a_transaction(tmp_path: Path) -> None:
    path = tmp_path / "s.img"
    with Store.create(path, size_bytes=64 << 10, checked=True) as store:
        keys = array.array("Q", range(20_000))
        with pytest.raises(thinmeta.NoSpaceError), store.transaction() as txn:
            txn.tree("a").insert_many(keys, keys)
        with store.transaction() as txn:
            with pytest.raises(thinmeta.UsageError):
                txn.grow(4096)
            txn.grow(1 << 20)
            txn.tree("a").insert_many(keys, keys)
        assert (store.nr_blocks, path.stat().st_size) == (256, 1 << 20)
    with Store.open(path, checked=True) as store, store.view() as view:
        assert view.tree("a")[19_999] == 19_999


def test_a_create_that_fails_leaves_no_file(tmp_path: Path) -> None:
    for size, error in [
        (None, thinmeta.UsageError),
        (4096, thinmeta.NoSpaceError),
        (2**64 - 1, thinmeta.UsageError),
    ]:
        with pytest.raises(error):
            Store.create(tmp_path / "s.img", size_bytes=size)
        assert list(tmp_path.iterdir()) == []


def test_a_store_is_free_at_once_when_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "s.img"
    with Store.create(path, size_bytes=4 << 20) as store, store.transaction() as txn:
        keys = array.array("Q", range(50_000))
        txn.tree("a").insert_many(keys, keys)
    for _ in range(100):
        store = Store.open(path)
        txn = store.transaction()
        txn.delete("a")  # reads ahead in the background
        txn.abort()
        store.close()


def test_a_child_that_lives_on_does_not_keep_the_store(path: Path) -> None:
    store = Store.create(path, size_bytes=1 << 20)
    child = os.fork()
    if child == 0:
        time.sleep(30)
        os._exit(0)
    try:
        store.close()
        Store.open(path).close()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_sizes_and_names_are_held_to_their_types(store: Store) -> None:
    with store.transaction() as txn:
        for size in (-1, 2**64):
            with pytest.raises(thinmeta.UsageError):
                txn.grow(size)
        with pytest.raises(TypeError):
            txn.grow(True)
        for name in ("", "x" * 300, "\ud800", 5):
            assert name not in txn
