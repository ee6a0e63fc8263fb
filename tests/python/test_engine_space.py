"""Space maps keep the contract: exact counts, and nothing handed out that a commit needs."""

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

import thinmeta
from test_engine_transaction import HEAD, LEAF, created, new, opened, root_of
from thinmeta.engine import (
    BlockManager,
    CheckingSpaceMap,
    SpaceMap,
    TransactionManager,
)

MOST = 2**32 - 1


@pytest.fixture
def bm() -> Iterator[BlockManager]:
    with BlockManager.in_memory(256) as manager:
        yield manager


class InMemory:
    """A map in memory."""

    def __init__(self, blocks: int) -> None:
        self.space = SpaceMap.in_memory(blocks)

    def commit(self) -> None:
        self.space.commit()

    def close(self) -> None:
        pass


class OfData:
    """A map of data blocks, in a transaction manager's metadata."""

    def __init__(self, blocks: int) -> None:
        self.bm = BlockManager.in_memory(256)
        self.tm, self.metadata, _ = TransactionManager.create(self.bm, 0, HEAD, checked=True)
        self.space = SpaceMap.create_data(self.tm, blocks)

    def commit(self) -> None:
        self.space.commit()
        with self.tm.transaction(root_of(self.metadata, self.space.copy_root)):
            pass

    def abort(self) -> None:
        self.tm.abort()

    def reopen(self) -> None:
        self.tm.close()
        self.tm, self.metadata, superblock = TransactionManager.open(
            self.bm, 0, HEAD, root_offset=64, root_max_len=32, checked=True
        )
        with superblock, memoryview(superblock) as view:
            root = bytes(view[128:160])
        self.space = SpaceMap.open_data(self.tm, root)

    def close(self) -> None:
        self.tm.close()
        self.bm.close()


@pytest.fixture(params=[InMemory, OfData])
def home(request: pytest.FixtureRequest) -> Iterator[InMemory | OfData]:
    home = request.param(32)
    home.commit()
    yield home
    home.close()


# ---- the contract, of every kind ----


def test_counts_go_up_and_down_and_free_what_reaches_zero(home: InMemory | OfData) -> None:
    space = home.space
    block = space.new_block()
    assert (space.get_count(block), space.count_is_more_than_one(block)) == (1, False)
    space.inc(block)
    space.inc(block)
    assert (space.get_count(block), space.count_is_more_than_one(block)) == (3, True)
    assert space.nr_free == 31
    for count in (2, 1, 0):
        space.dec(block)
        assert space.get_count(block) == count
    assert space.nr_free == 32, "it was free at the last commit, too"


def test_ranges_are_half_open(home: InMemory | OfData) -> None:
    space = home.space
    space.inc(3, 6)
    assert [space.get_count(block) for block in range(2, 7)] == [0, 1, 1, 1, 0]
    space.inc(5, 5)
    space.dec(4, 6)
    assert [space.get_count(block) for block in range(2, 7)] == [0, 1, 0, 0, 0]
    space.inc(0, space.nr_blocks)
    assert space.nr_free == 0


def test_a_freed_block_comes_back_after_the_commit_only(home: InMemory | OfData) -> None:
    space = home.space
    space.inc(0, 32)
    home.commit()
    space.dec(7)
    assert (space.get_count(7), space.nr_free) == (0, 0)
    with pytest.raises(thinmeta.NoSpaceError):
        space.new_block()
    if isinstance(home, OfData):
        home.abort()  # the search itself takes note
        space.dec(7)
    home.commit()
    assert space.nr_free == 1
    assert space.new_block() == 7


def test_a_full_map_says_which_space_is_full(home: InMemory | OfData) -> None:
    assert {home.space.new_block() for _ in range(32)} == set(range(32))
    with pytest.raises(thinmeta.NoSpaceError) as caught:
        home.space.new_block()
    assert caught.value.space == ("data" if isinstance(home, OfData) else "in-memory")
    assert caught.value.reason and caught.value.reason in str(caught.value)


def test_new_blocks_can_be_had_in_the_same_transaction(home: InMemory | OfData) -> None:
    space = home.space
    space.inc(0, 32)
    space.extend(8)
    space.extend(0)
    assert (space.nr_blocks, space.nr_free) == (40, 8)
    assert 32 <= space.new_block() < 40
    assert space.get_count(39) == 0


def test_counts_stop_at_the_largest(home: InMemory | OfData) -> None:
    space = home.space
    space.set_count(5, MOST)
    assert space.get_count(5) == MOST and space.count_is_more_than_one(5)
    with pytest.raises(thinmeta.UsageError, match="the most there can be"):
        space.inc(5)
    with pytest.raises(thinmeta.UsageError, match="the most there can be"):
        space.inc(4, 7)
    assert [space.get_count(block) for block in (4, 5, 6)] == [0, MOST, 0]
    space.dec(5)
    assert space.get_count(5) == MOST - 1
    space.set_count(5, 0)
    assert space.nr_free == 32


def test_what_cannot_be_changes_nothing(home: InMemory | OfData) -> None:
    space = home.space
    space.inc(0, 4)
    home.commit()
    refused: list[Callable[[], object]] = [
        lambda: space.dec(4),
        lambda: space.dec(2, 5),
        lambda: space.inc(32),
        lambda: space.inc(30, 33),
        lambda: space.dec(32),
        lambda: space.inc(3, 2),
        lambda: space.inc(2**64 - 1),
        lambda: space.get_count(32),
        lambda: space.set_count(32, 1),
        lambda: space.set_count(0, 2**32),
        lambda: space.set_count(0, -1),
        lambda: space.count_is_more_than_one(2**63),
        lambda: space.inc(-1),
        lambda: space.get_count(2**64),
        lambda: space.extend(2**64 - 1),
        lambda: space.extend(2**41),
        lambda: space.extend(-1),
    ]
    for use in refused:
        with pytest.raises(thinmeta.UsageError):
            use()
    wrong: Any
    for wrong in (True, 1.0, "1", None):
        with pytest.raises(TypeError):
            space.get_count(wrong)
    assert [space.get_count(block) for block in range(6)] == [1, 1, 1, 1, 0, 0]
    assert (space.nr_blocks, space.nr_free) == (32, 28)
    home.commit()


# ---- in memory ----


def test_a_map_in_memory_has_neither_root_nor_threshold() -> None:
    space = SpaceMap.in_memory(4)
    with pytest.raises(thinmeta.UsageError, match="no root"):
        space.copy_root()
    with pytest.raises(thinmeta.UsageError, match="threshold"):
        space.on_low_space(1, print)
    assert SpaceMap.in_memory(0).nr_free == 0
    for blocks in (2**32 + 1, 2**64 - 1, 2**64, -1):
        with pytest.raises(thinmeta.UsageError):
            SpaceMap.in_memory(blocks)


# ---- the metadata's map ----


def test_the_metadatas_map_counts_what_the_transaction_does(bm: BlockManager) -> None:
    with created(bm) as (tm, space):
        where = new(tm, b"x")
        assert space.get_count(where) == tm.ref(where) == 1
        space.inc(where)
        assert tm.ref(where) == 2
        tm.dec(where)
        assert not space.count_is_more_than_one(where)
        taken = space.new_block()
        assert space.get_count(taken) == 1 and not tm.is_shadow(taken)
        with pytest.raises(thinmeta.UsageError, match=r"committed by TransactionManager\.pre_com"):
            space.commit()
        assert len(space.copy_root()) == 32
        assert int.from_bytes(space.copy_root()[:8], "little") == space.nr_blocks == 256


def test_the_metadatas_map_grows_with_its_device(tmp_path: Any) -> None:
    path = tmp_path / "grows.img"
    path.write_bytes(bytes(16 * 4096))
    with BlockManager(path) as bm, created(bm) as (tm, space):
        with pytest.raises(thinmeta.UsageError, match="the device has 16 blocks"):
            space.extend(1)
        with path.open("r+b") as file:
            file.truncate(64 * 4096)
        with tm.transaction(root_of(space)):
            space.extend(48)
        assert (bm.nr_blocks, space.nr_blocks) == (64, 64)
        with tm.transaction(root_of(space)):
            while space.nr_free > 20:
                new(tm, b"x")
    with BlockManager(path) as bm, opened(bm) as (_, space, _):
        assert space.nr_blocks == 64


def test_low_space_is_told_once_a_crossing_after_the_call_and_with_nothing_locked(
    bm: BlockManager,
) -> None:
    with created(bm) as (tm, space):
        told: list[tuple[int, int]] = []
        taken: list[int] = []

        def low(free: int) -> None:
            told.append((free, space.nr_free))  # whoever is told may look
            with tm.read_lock(taken[0], LEAF):
                pass

        space.on_low_space(100, low)
        with tm.transaction(root_of(space)):
            while space.nr_free > 90:
                taken.append(new(tm, b"x"))
            assert len(told) == 1
            free, free_then = told[0]
            assert free <= 100 and abs(free - free_then) <= 1
            for where in taken[1:40]:
                tm.dec(where)
            assert space.nr_free > 100
            new(tm, b"x")
            assert len(told) == 1, "armed again"
            while space.nr_free > 95:
                new(tm, b"x")
            assert len(told) == 2


def test_what_the_callback_raises_does_not_lose_the_block(
    bm: BlockManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    seen: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: seen.append(args.exc_value))
    with created(bm) as (tm, space):
        space.on_low_space(255, lambda free: 1 // 0)
        with tm.new_block(LEAF) as lock:
            assert lock.held
        assert [type(error) for error in seen] == [ZeroDivisionError]
    wrong: Any = 7
    with opened(bm) as (_, space, _), pytest.raises(TypeError, match="cannot be called"):
        space.on_low_space(1, wrong)


# ---- data maps ----


def test_a_data_map_is_found_again(bm: BlockManager) -> None:
    with created(bm) as (tm, metadata):
        data = SpaceMap.create_data(tm, 20_000, checked=True)
        data.inc(16_000, 17_000)
        data.set_count(16_319, 70_000)
        data.commit()
        with tm.transaction(root_of(metadata, data.copy_root)):
            pass
        root = data.copy_root()
    with opened(bm) as (tm, _, extra):
        assert extra[:32] == root
        data = SpaceMap.open_data(tm, memoryview(extra), checked=True)
        assert (data.nr_blocks, data.nr_free) == (20_000, 19_000)
        assert [data.get_count(at) for at in (15_999, 16_000, 16_319, 16_320)] == [0, 1, 70_000, 1]


def test_a_data_map_that_nobody_committed_is_committed_with_its_transaction(
    bm: BlockManager,
) -> None:
    with created(bm) as (tm, metadata):
        data = SpaceMap.create_data(tm, 100)
        with tm.transaction(root_of(metadata, data.copy_root)):
            data.inc(5)
    with opened(bm) as (tm, _, extra):
        assert SpaceMap.open_data(tm, extra).get_count(5) == 1


def test_an_abort_takes_data_maps_back_and_unmakes_new_ones(bm: BlockManager) -> None:
    with created(bm) as (tm, metadata):
        data = SpaceMap.create_data(tm, 100, checked=True)
        with tm.transaction(root_of(metadata, data.copy_root)):
            data.inc(5)
        data.inc(0, 50)
        data.extend(1000)
        lost = SpaceMap.create_data(tm, 7)
        tm.abort()
        assert (data.nr_blocks, data.nr_free) == (100, 99)
        assert [data.get_count(at) for at in (0, 5)] == [0, 1]
        with pytest.raises(thinmeta.UsageError, match="was aborted"):
            lost.get_count(0)
        with tm.transaction(root_of(metadata, data.copy_root)):
            assert data.get_count(data.new_block()) == 1


def test_metadata_that_cannot_hold_the_counts_is_no_space_and_no_trace(bm: BlockManager) -> None:
    with created(bm) as (tm, metadata):
        data = SpaceMap.create_data(tm, 100)
        with tm.transaction(root_of(metadata, data.copy_root)):
            free = metadata.nr_free
            for blocks in (2**30, 2**40 - 100):
                with pytest.raises(thinmeta.NoSpaceError) as caught:
                    data.extend(blocks)
                assert caught.value.space == "metadata"
            assert (data.nr_blocks, metadata.nr_free) == (100, free)
        assert data.nr_blocks == 100


def test_roots_that_cannot_be(bm: BlockManager) -> None:
    with created(bm) as (tm, _):
        for root in (b"", bytes(31)):
            with pytest.raises(thinmeta.UsageError, match="32 bytes"):
                SpaceMap.open_data(tm, root)
        with pytest.raises(thinmeta.UsageError, match="cannot be"):
            SpaceMap.open_data(tm, b"\xff" * 32)
        wrong: Any = 5
        with pytest.raises(TypeError):
            SpaceMap.open_data(tm, wrong)


# ---- the checker ----


def test_every_call_goes_through_the_checker_whoever_makes_it(home: InMemory | OfData) -> None:
    plain = home.space
    plain.inc(0, 5)
    home.commit()
    checked = CheckingSpaceMap(plain)
    assert isinstance(checked, SpaceMap)
    plain.inc(2)
    checked.dec(3)
    assert (checked.get_count(2), plain.get_count(3)) == (2, 0)
    for _ in range(10):
        assert plain.new_block() != 3
        checked.new_block()
    checked.check_all()


def test_checking_begins_at_a_commit() -> None:
    space = SpaceMap.in_memory(4)
    space.inc(0)
    space.commit()
    space.dec(0)
    with pytest.raises(thinmeta.UsageError, match="begins at a commit"):
        CheckingSpaceMap(space)
    space.commit()
    CheckingSpaceMap(space).check_all()


def test_the_metadatas_map_is_checked_through_the_transaction(bm: BlockManager) -> None:
    tm, space, _ = TransactionManager.create(bm, 0, HEAD)
    with tm:
        with pytest.raises(thinmeta.UsageError, match="begins at a commit"):
            CheckingSpaceMap(space)
        with tm.transaction(root_of(space)):
            pass
        checked = CheckingSpaceMap(space)
        with tm.transaction(root_of(space)):
            where = new(tm, b"x")
            tm.inc(where)
            checked.check_all()
        checked.check_all()
        assert checked.get_count(where) == 2
    wrong: Any = tm
    with pytest.raises(TypeError):
        CheckingSpaceMap(wrong)


# ---- the laws, over random histories ----


class SpaceMapLaws(RuleBasedStateMachine):
    """The map against plain counts, checked by the checker, too."""

    blocks = Bundle("blocks")  # one entry per reference we hold
    home: InMemory | OfData

    def make(self) -> InMemory | OfData:
        return InMemory(48)

    @initialize()
    def start(self) -> None:
        self.home = self.make()
        self.home.commit()
        CheckingSpaceMap(self.home.space)
        self.live, self.committed = Counter[int](), Counter[int]()
        self.size = self.committed_size = 48

    @property
    def space(self) -> SpaceMap:
        return self.home.space

    @rule(target=blocks)
    def allocate(self) -> Any:
        if not self.space.nr_free:
            return multiple()
        block = self.space.new_block()
        assert self.live[block] == 0
        assert self.committed[block] == 0, "a rollback would have lost this block"
        self.live[block] += 1
        return block

    @rule(target=blocks, block=blocks)
    def share(self, block: int) -> int:
        if not self.live[block]:
            with pytest.raises(thinmeta.UsageError):
                self.space.dec(block)
        self.space.inc(block)
        self.live[block] += 1
        return block

    @rule(block=consumes(blocks))
    def release(self, block: int) -> None:
        if self.live[block]:
            self.space.dec(block)
            self.live[block] -= 1

    @rule(begin=st.integers(0, 50), length=st.integers(0, 20), more=st.booleans())
    def change_a_range(self, begin: int, length: int, more: bool) -> None:
        blocks = range(begin, begin + length)
        fits = blocks.stop <= self.size and (more or all(self.live[block] for block in blocks))
        change = self.space.inc if more else self.space.dec
        if not fits:
            with pytest.raises(thinmeta.UsageError):
                change(blocks.start, blocks.stop)
            return
        change(blocks.start, blocks.stop)
        for block in blocks:
            self.live[block] += 1 if more else -1

    @rule(blocks=st.integers(0, 8))
    def extend(self, blocks: int) -> None:
        if self.size < 100:
            self.space.extend(blocks)
            self.size += blocks

    @rule()
    def commit(self) -> None:
        self.home.commit()
        self.committed, self.committed_size = copy.copy(self.live), self.size

    @precondition(lambda self: isinstance(self.home, OfData))
    @rule(reopen=st.booleans())
    def go_back(self, reopen: bool) -> None:
        assert isinstance(self.home, OfData)
        if reopen:
            self.home.reopen()
            CheckingSpaceMap(self.home.space)
        else:
            self.home.abort()
        self.live, self.size = copy.copy(self.committed), self.committed_size

    @invariant()
    def counts_are_exact(self) -> None:
        if not hasattr(self, "live"):
            return
        assert self.space.nr_blocks == self.size
        counts = [self.space.get_count(block) for block in range(self.size)]
        assert counts == [self.live[block] for block in range(self.size)]
        shared = [self.space.count_is_more_than_one(block) for block in range(self.size)]
        assert all(answer for answer, count in zip(shared, counts, strict=True) if count > 1)
        free = [not self.live[block] and not self.committed[block] for block in range(self.size)]
        assert self.space.nr_free == sum(free)

    def teardown(self) -> None:
        if hasattr(self, "home"):
            self.home.close()


class DataMapLaws(SpaceMapLaws):
    """The same, of a map on disk, with aborts and reopening."""

    def make(self) -> InMemory | OfData:
        return OfData(48)


TestSpaceMapLaws = SpaceMapLaws.TestCase
TestSpaceMapLaws.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestDataMapLaws = DataMapLaws.TestCase
TestDataMapLaws.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
