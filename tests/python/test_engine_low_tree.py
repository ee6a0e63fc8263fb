"""Trees over a transaction manager: nested, with values that refer to blocks."""

import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

import thinmeta
from leaving import Leave, left
from test_engine_transaction import HEAD, created, new, opened, root_of, text_at
from thinmeta.engine import BlockManager, SpaceMap, TransactionManager, Tree

BLOCK = 4096


@pytest.fixture
def bm() -> Iterator[BlockManager]:
    with BlockManager.in_memory(1024) as manager:
        yield manager


@pytest.fixture
def managed(bm: BlockManager) -> Iterator[tuple[TransactionManager, SpaceMap]]:
    with created(bm) as pair:
        yield pair


def root_bytes(tree: Tree) -> Callable[[], bytes]:
    return lambda: tree.root.to_bytes(8, "little")


def test_a_tree_is_found_again_by_its_root(bm: BlockManager) -> None:
    with created(bm) as (tm, space):
        tree = Tree.create(tm)
        with tm.transaction(root_of(space, root_bytes(tree))):
            for key in range(1000):
                assert tree.insert(key * 7 % 1000, key)
            assert not tree.insert(5, 55)
        assert (tree[5], tree.levels, tree.value_bytes) == (55, 1, 8)
    with opened(bm) as (tm, _, extra):
        tree = Tree.open(tm, int.from_bytes(extra[:8], "little"))
        assert len(list(tree.items())) == 1000
        assert (tree.get(999), tree.get(1000), tree.get(1000, -1)) == (tree[999], None, -1)
        assert 5 in tree and 1000 not in tree
        with pytest.raises(KeyError):
            tree[1000]
        with pytest.raises(KeyError):
            del tree[1000]
        assert tree.first() == (0, tree[0]) and tree.last() == (999, tree[999])
        assert tree.lookup_next(998) == (998, tree[998])
        assert tree.lookup_next(1000) is None
        assert [key for key, _ in tree.items(10, 13)] == [10, 11, 12]


def test_keys_and_values_reach_the_ends_of_64_bits(
    managed: tuple[TransactionManager, SpaceMap],
) -> None:
    most = 2**64 - 1
    tree = Tree.create(managed[0])
    tree[0], tree[most] = most, 0
    assert list(tree.items()) == [(0, most), (most, 0)]
    assert tree.lookup_next(1) == (most, 0)
    del tree[most]
    assert list(tree.items()) == [(0, most)]


def test_trees_nest(managed: tuple[TransactionManager, SpaceMap]) -> None:
    tm, space = managed
    tree = Tree.create(tm, levels=3, value_bytes=3)
    model = {(a, b, c): bytes([a, b, c]) for a in range(3) for b in range(3) for c in range(200)}
    for keys, value in model.items():
        tree[keys] = value
    for keys, value in model.items():
        assert tree[keys] == value
    assert [key for key, _ in tree.items(prefix=(1, 2))] == list(range(200))
    assert list(tree.items(prefix=(9, 9))) == []
    assert tree.first(prefix=(2, 2)) == (0, bytes([2, 2, 0]))
    assert tree.last(prefix=(2, 2)) == (199, bytes([2, 2, 199]))
    assert tree.lookup_next((0, 0, 150)) == (150, bytes([0, 0, 150]))
    assert (tree.first(prefix=(5, 5)), tree.lookup_next((5, 5, 5))) == (None, None)
    assert tree.remove_range(50, 150, prefix=(0, 0)) == 100
    assert [key for key, _ in tree.items(prefix=(0, 0))] == [*range(50), *range(150, 200)]
    del tree[1, 1, 1]
    assert (1, 1, 1) not in tree and (1, 1, 2) in tree
    wrong: Any
    for wrong in (1, (1,), (1, 2), (1, 2, 3, 4), ()):
        with pytest.raises(thinmeta.UsageError, match="keys"):
            tree[wrong]
        with pytest.raises(thinmeta.UsageError, match="keys"):
            tree[wrong] = b"abc"
    tree.delete()
    with tm.transaction(root_of(space)):
        pass
    assert space.nr_free == 1020, "nothing is left of it"


def test_values_that_are_blocks_hold_references(
    managed: tuple[TransactionManager, SpaceMap],
) -> None:
    tm, space = managed
    with tm.transaction(root_of(space)):
        tree = Tree.create(tm, values="blocks")
        blocks = [new(tm, b"%d" % number) for number in range(5)]
        for key, block in enumerate(blocks):
            tree[key] = block
    with tm.transaction(root_of(space)):
        other = tree.snapshot()
        tree[0] = blocks[1]  # takes over a reference that has to be there
        tm.inc(blocks[1])
        assert [tm.ref(block) for block in blocks] == [1, 3, 2, 2, 2]
        del tree[2]
        assert tm.ref(blocks[2]) == 1
        assert text_at(tm, other[2], 1) == b"2"
        other.delete()
        assert [tm.ref(block) for block in blocks] == [0, 2, 0, 1, 1]
        with pytest.raises(thinmeta.UsageError, match="it is gone"):
            other.get(1)
    assert [key for key, _ in tree.items()] == [0, 1, 3, 4]


def test_values_that_are_trees_go_with_their_entry(
    managed: tuple[TransactionManager, SpaceMap],
) -> None:
    tm, space = managed
    free = space.nr_free
    with tm.transaction(root_of(space)):
        outer = Tree.create(tm, values="trees", subtree_value_bytes=100)
        for key in range(3):
            inner = Tree.create(tm, value_bytes=100)
            for entry in range(200):
                inner[entry] = bytes(100)
            outer[key] = inner.root
    used = free - space.nr_free
    assert used > 15
    with tm.transaction(root_of(space)):
        del outer[1]
    assert 0 < free - space.nr_free < used - 3
    with tm.transaction(root_of(space)):
        outer.delete()
    assert space.nr_free == free


def test_an_abort_takes_trees_back_and_unmakes_new_ones(
    managed: tuple[TransactionManager, SpaceMap],
) -> None:
    tm, space = managed
    tree = Tree.create(tm)
    with tm.transaction(root_of(space)):
        tree[1] = 1
    root = tree.root
    with left(), tm.transaction(root_of(space)):
        tree[1] = 2
        tree[2] = 2
        made = Tree.create(tm)
        again = Tree.open(tm, tree.root)
        assert again[2] == 2
        tree.delete()
        raise Leave
    assert (tree.root, list(tree.items())) == (root, [(1, 1)])
    for gone in (made, again):
        with pytest.raises(thinmeta.UsageError, match="it is gone"):
            gone.get(1)


def test_a_snapshot_stays_as_it_was(managed: tuple[TransactionManager, SpaceMap]) -> None:
    tm, space = managed
    tree = Tree.create(tm)
    with tm.transaction(root_of(space)):
        tree.insert_many(array("Q", range(2000)), array("Q", range(2000)))
    free = space.nr_free
    with tm.transaction(root_of(space)):
        before = tree.snapshot()
    assert free - space.nr_free < 5
    with tm.transaction(root_of(space)):
        assert tree.remove_range(0, 1500) == 1500
    assert [key for key, _ in before.items()] == list(range(2000))
    assert [key for key, _ in tree.items()] == list(range(1500, 2000))


def test_many_entries_go_in_at_once(managed: tuple[TransactionManager, SpaceMap]) -> None:
    tm, _ = managed
    tree = Tree.create(tm, value_bytes=2)
    assert tree.insert_many(array("Q", [5, 3, 5]), b"aabbcc") == 2
    assert list(tree.items()) == [(3, b"bb"), (5, b"cc")]
    for keys, values in [([1], b"a"), ([1], b"aaa"), ([], b"aa")]:
        with pytest.raises(thinmeta.UsageError):
            tree.insert_many(array("Q", keys), values)
    with pytest.raises(thinmeta.UsageError):
        Tree.create(tm, levels=2).insert_many(array("Q", [1]), array("Q", [1]))
    wrong: Any = [1]
    with pytest.raises(TypeError):
        tree.insert_many(wrong, b"aa")


def test_forms_keys_and_values_that_no_tree_has(
    managed: tuple[TransactionManager, SpaceMap],
) -> None:
    tm, space = managed
    free = space.nr_free
    for value_bytes in (0, 1347, 2**32):
        with pytest.raises(thinmeta.UsageError, match="a B-tree holds 1 to 1346"):
            Tree.create(tm, value_bytes=value_bytes)
    for levels in (0, 9):
        with pytest.raises(thinmeta.UsageError, match="1 to 8 levels"):
            Tree.create(tm, levels=levels)
    values: Any
    for values in ("", "block", "Plain"):
        with pytest.raises(thinmeta.UsageError, match="values is"):
            Tree.create(tm, values=values)
    with pytest.raises(thinmeta.UsageError, match="have 8 bytes"):
        Tree.create(tm, values="blocks", value_bytes=4)
    with pytest.raises(thinmeta.UsageError, match="past the"):
        Tree.open(tm, 2**40)
    assert space.nr_free == free

    tree, short = Tree.create(tm), Tree.create(tm, value_bytes=3)
    wrong: Any
    for wrong in (-1, 2**64, (2**64,)):
        with pytest.raises(thinmeta.UsageError):
            tree[wrong]
    for wrong in (True, 1.0, "1", None, (True,)):
        with pytest.raises(TypeError):
            tree[wrong]
    for wrong in (-1, 2**64):
        with pytest.raises(thinmeta.UsageError):
            tree[0] = wrong
    for wrong in (b"", b"ab", b"abcd"):
        with pytest.raises(thinmeta.UsageError):
            short[0] = wrong
    for wrong in (5, "abc", None):
        with pytest.raises(TypeError):
            short[0] = wrong
    assert list(tree.items()) == list(short.items()) == []


def test_a_block_that_is_no_tree_is_damage_not_an_answer(
    managed: tuple[TransactionManager, SpaceMap],
) -> None:
    tm, _ = managed
    with pytest.raises(thinmeta.DamagedBlockError):
        Tree.open(tm, 1).get(0)
    with pytest.raises(thinmeta.DamagedBlockError):
        list(Tree.open(tm, 3).items())
    tree = Tree.create(tm)
    tree[0] = 0
    with pytest.raises(thinmeta.DamagedBlockError):
        Tree.open(tm, tree.root, value_bytes=4).get(0)


def test_on_a_clone_look_ups_wait_for_nothing_and_changes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tree.img"
    path.write_bytes(bytes(256 * BLOCK))
    with BlockManager(path) as bm, created(bm) as (tm, space):
        tree = Tree.create(tm, levels=2)
        with tm.transaction(root_of(space, root_bytes(tree))):
            for key in range(1000):
                tree[key % 3, key] = key
    with BlockManager(path) as bm, opened(bm) as (tm, _, extra):
        clone = tm.nonblocking_clone()
        cold = Tree.open(clone, int.from_bytes(extra[:8], "little"), levels=2)
        with pytest.raises(thinmeta.WouldBlockError):
            cold.get((1, 400))
        deadline = time.monotonic() + 20
        while True:
            tm.issue_prefetches()
            try:
                assert cold[1, 400] == 400
            except thinmeta.WouldBlockError:
                assert time.monotonic() < deadline
            else:
                break
        assert (1, 401) not in cold and cold.root == int.from_bytes(extra[:8], "little")
        refused: list[Callable[[], object]] = [
            lambda: cold.insert((1, 1), 1),
            lambda: cold.remove_range(0, 9, prefix=1),
            lambda: cold.first(prefix=1),
            lambda: next(cold.items(prefix=1)),
            lambda: Tree.create(clone),
            cold.delete,
            cold.snapshot,
        ]
        for use in refused:
            with pytest.raises(thinmeta.WouldBlockError):
                use()
        with pytest.raises(thinmeta.WouldBlockError):
            del cold[1, 400]


class TreeLaws(RuleBasedStateMachine):
    """Nested trees against dictionaries, with commits, aborts and reopening."""

    #: Few enough that histories meet each other.
    KEYS = st.tuples(st.integers(0, 3), st.integers(0, 2**64 - 1) | st.integers(0, 30))

    @initialize()
    def start(self) -> None:
        self.bm = BlockManager.in_memory(512)
        self.tm, self.space, _ = TransactionManager.create(self.bm, 0, HEAD, checked=True)
        self.tree = Tree.create(self.tm, levels=2)
        self.now: dict[tuple[int, int], int] = {}
        self.commit()

    @rule(keys=KEYS, value=st.integers(0, 2**64 - 1))
    def put(self, keys: tuple[int, int], value: int) -> None:
        assert self.tree.insert(keys, value) == (keys not in self.now)
        self.now[keys] = value

    @rule(first=KEYS, count=st.integers(1, 400))
    def put_many(self, first: tuple[int, int], count: int) -> None:
        for key in range(min(first[1], 1000), min(first[1], 1000) + count):
            self.tree[first[0], key] = self.now[first[0], key] = key

    @rule(keys=KEYS)
    def take(self, keys: tuple[int, int]) -> None:
        if keys in self.now:
            del self.tree[keys], self.now[keys]
        else:
            with pytest.raises(KeyError):
                del self.tree[keys]

    @rule(keys=KEYS, count=st.integers(0, 500))
    def take_range(self, keys: tuple[int, int], count: int) -> None:
        begin, stop = keys[1], min(keys[1] + count, 2**64 - 1)
        gone = [k for k in self.now if k[0] == keys[0] and begin <= k[1] < stop]
        assert self.tree.remove_range(begin, stop, prefix=keys[0]) == len(gone)
        for key in gone:
            del self.now[key]

    @rule()
    def commit(self) -> None:
        with self.tm.transaction(root_of(self.space, root_bytes(self.tree))):
            pass
        self.committed = dict(self.now)

    @rule(reopen=st.booleans())
    def go_back(self, reopen: bool) -> None:
        if reopen:
            self.tm.close()
            self.tm, self.space, superblock = TransactionManager.open(
                self.bm, 0, HEAD, root_offset=64, root_max_len=32, checked=True
            )
            with superblock, memoryview(superblock) as view:
                root = int.from_bytes(view[128:136], "little")
            self.tree = Tree.open(self.tm, root, levels=2)
        else:
            self.tm.abort()
        self.now = dict(self.committed)
        self.all_is_there()

    @rule()
    def all_is_there(self) -> None:
        for top in range(4):
            found = [((top, key), value) for key, value in self.tree.items(prefix=top)]
            assert found == sorted(item for item in self.now.items() if item[0][0] == top)

    @rule(keys=KEYS)
    def look(self, keys: tuple[int, int]) -> None:
        assert self.tree.get(keys) == self.now.get(keys)
        later = sorted(k[1] for k in self.now if k[0] == keys[0] and k[1] >= keys[1])
        found = self.tree.lookup_next(keys)
        assert (found and found[0]) == (later[0] if later else None)

    @rule()
    def delete_all(self) -> None:
        self.tree.delete()
        self.tree = Tree.create(self.tm, levels=2)
        self.now.clear()
        self.commit()
        assert self.space.nr_free == self.space.nr_blocks - 5

    def teardown(self) -> None:
        if hasattr(self, "tm"):
            self.tm.close()
            self.bm.close()


TestTreeLaws = TreeLaws.TestCase
TestTreeLaws.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
