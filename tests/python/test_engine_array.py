"""Arrays and bitsets over a transaction manager."""

from array import array
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

import thinmeta
from leaving import Leave, left
from test_engine_transaction import HEAD, created, new, opened, root_of
from thinmeta.engine import Array, Bitset, BlockManager, SpaceMap, TransactionManager


@pytest.fixture
def bm() -> Iterator[BlockManager]:
    with BlockManager.in_memory(1024) as manager:
        yield manager


@pytest.fixture
def managed(bm: BlockManager) -> Iterator[tuple[TransactionManager, SpaceMap]]:
    with created(bm) as pair:
        yield pair


def roots_of(*things: Array | Bitset) -> Callable[[], bytes]:
    return lambda: b"".join(thing.root.to_bytes(8, "little") for thing in things)


def numbers(values: Array, begin: int | None = None, end: int | None = None) -> list[int]:
    return memoryview(values[begin:end]).tolist()


def test_both_are_found_again_by_their_roots(bm: BlockManager) -> None:
    with created(bm) as (tm, space):
        values, bits = Array.create(tm, 2000, default=5), Bitset.create(tm, 2000)
        with tm.transaction(root_of(space, roots_of(values, bits))):
            values[1999], values[-2] = 7, 8
            bits[1999] = bits[64] = True
    with opened(bm) as (tm, space, extra):
        roots = memoryview(extra)[:16].cast("Q").tolist()
        values, bits = Array.open(tm, roots[0], 2000), Bitset.open(tm, roots[1], 2000)
        assert (len(values), values.value_bytes, len(bits)) == (2000, 8, 2000)
        assert numbers(values) == [5] * 1998 + [8, 7]
        assert memoryview(bits.ones()).tolist() == [64, 1999]
        assert (bits[64], bits[65], bits.count(), bits.count(65), bits.count(64, 65)) == (
            True,
            False,
            2,
            1,
            1,
        )
        values.delete()
        bits.delete()
        with tm.transaction(root_of(space)):
            pass
        assert space.nr_free == 1020
        for gone in (lambda: values[0], lambda: bits[0], values.delete, bits.delete):
            with pytest.raises(thinmeta.UsageError, match="it is gone"):
                gone()


def test_slices_go_in_and_out_of_buffers(managed: tuple[TransactionManager, SpaceMap]) -> None:
    values = Array.create(managed[0], 3000)
    values[500:2500] = array("Q", range(2000))
    assert numbers(values, 498, 503) == [0, 0, 0, 1, 2]
    assert numbers(values, 2498) == [1998, 1999] + [0] * 500
    assert numbers(values, -2) == [0, 0] and numbers(values, 5, 3) == []
    values.fill(0, 10, 2**64 - 1)
    assert numbers(values, 9, 11) == [2**64 - 1, 0]
    short = Array.create(managed[0], 10, 3, default=b"xyz")
    short[2:4] = b"abcdef"
    assert bytes(short[1:5]) == b"xyzabcdefxyz" and short[3] == b"def"
    wrong: Any
    for wrong in (b"", b"abc", b"abcdefg"):
        with pytest.raises(thinmeta.UsageError):
            short[2:4] = wrong
    with pytest.raises(thinmeta.UsageError, match="no step"):
        values[::2]
    with pytest.raises(thinmeta.UsageError):
        values[0:2] = array("Q", [1])


def test_resizing_keeps_what_stays(managed: tuple[TransactionManager, SpaceMap]) -> None:
    values = Array.create(managed[0], 100)
    values[:] = array("Q", range(100))
    for size in (50, 700, 3, 0, 1000):
        before = numbers(values)
        values.resize(size, 9)
        assert len(values) == size
        assert numbers(values) == before[:size] + [9] * (size - len(before))


def test_elements_that_are_blocks_hold_references(
    managed: tuple[TransactionManager, SpaceMap],
) -> None:
    tm, space = managed
    with tm.transaction(root_of(space)):
        block = new(tm, b"x")
        values = Array.create(tm, 5, default=block, values="blocks")
        assert tm.ref(block) == 6, "the array takes its own"
        values[0] = other = new(tm, b"y")
        assert (tm.ref(block), tm.ref(other)) == (5, 2)
        values.resize(2)
        assert (tm.ref(block), tm.ref(other)) == (2, 2)
        values.delete()
        assert (tm.ref(block), tm.ref(other)) == (1, 1)


def test_an_abort_takes_both_back(managed: tuple[TransactionManager, SpaceMap]) -> None:
    tm, space = managed
    values, bits = Array.create(tm, 10), Bitset.create(tm, 10)
    with tm.transaction(root_of(space)):
        values[1], bits[1] = 1, True
    roots = values.root, bits.root
    with left(), tm.transaction(root_of(space)):
        values[1], bits[1] = 2, False
        values.resize(1000)
        bits.fill(0, 10, True)
        bits.resize(1000)
        lost, lost_bits = Array.create(tm, 1), Bitset.create(tm, 1)
        raise Leave
    assert (values.root, bits.root) == roots
    assert numbers(values) == [0, 1, *[0] * 8] and len(bits) == 10
    assert memoryview(bits.ones()).tolist() == [1]
    for gone in (lost, lost_bits):
        with pytest.raises(thinmeta.UsageError, match="it is gone"):
            len(gone)


def test_forms_sizes_and_places_that_cannot_be(
    managed: tuple[TransactionManager, SpaceMap],
) -> None:
    tm, space = managed
    free = space.nr_free
    refused: list[Callable[[], object]] = [
        lambda: Array.create(tm, 2**32),
        lambda: Array.create(tm, -1),
        lambda: Array.create(tm, 1, 0),
        lambda: Array.create(tm, 1, 4096),
        lambda: Array.create(tm, 1, 4, values="blocks"),
        lambda: Array.create(tm, 1, default=-1),
        lambda: Array.open(tm, 2**40, 1),
        lambda: Array.open(tm, 1, 2**32),
        lambda: Bitset.create(tm, 2**32),
        lambda: Bitset.open(tm, 2**40, 1),
        lambda: Bitset.open(tm, 1, 2**32),
    ]
    for use in refused:
        with pytest.raises(thinmeta.UsageError):
            use()
    wrong: Any
    for wrong in ("trees", "x"):
        with pytest.raises(thinmeta.UsageError, match="values is"):
            Array.create(tm, 1, values=wrong)
    assert space.nr_free == free
    with pytest.raises(thinmeta.NoSpaceError):
        Array.create(tm, 2**32 - 1)
    assert space.nr_free == free, "a failure that can be foreseen leaves no trace"

    values, bits = Array.create(tm, 10), Bitset.create(tm, 10)
    for place in (10, -11, 2**70):
        with pytest.raises(IndexError):
            values[place]
        with pytest.raises(IndexError):
            values[place] = 1
    with pytest.raises(IndexError):
        bits[10]
    with pytest.raises(IndexError):
        bits[10] = True
    for wrong in (True, 1.0, "1", None):
        with pytest.raises(TypeError):
            values[wrong]
        with pytest.raises(TypeError):
            bits[wrong]
    for use in (
        lambda: values.fill(5, 11, 0),
        lambda: bits.fill(5, 11, True),
        lambda: bits.count(5, 11),
        lambda: bits.ones(11),
        lambda: bits[-1],
    ):
        with pytest.raises(thinmeta.UsageError):
            use()
    with pytest.raises(thinmeta.DamagedBlockError):
        Array.open(tm, values.root, 10, value_bytes=4)[0]
    with pytest.raises(thinmeta.DamagedBlockError):
        Array.open(tm, values.root, 100_000)[99_999]


class ArrayLaws(RuleBasedStateMachine):
    """An array and a bitset against lists, with commits, aborts and reopening."""

    @initialize()
    def start(self) -> None:
        self.bm = BlockManager.in_memory(512)
        self.tm, self.space, _ = TransactionManager.create(self.bm, 0, HEAD, checked=True)
        self.values, self.bits = Array.create(self.tm, 0), Bitset.create(self.tm, 0)
        self.list: list[int] = []
        self.flags: list[bool] = []
        self.commit()

    @rule(data=st.data(), value=st.integers(0, 2**64 - 1))
    def change(self, data: st.DataObject, value: int) -> None:
        if self.list:
            place = data.draw(st.integers(0, len(self.list) - 1))
            self.values[place] = self.list[place] = value
        if self.flags:
            place = data.draw(st.integers(0, len(self.flags) - 1))
            self.bits[place] = self.flags[place] = value % 2 == 0

    @rule(size=st.integers(0, 2000), value=st.integers(0, 2**64 - 1))
    def resize(self, size: int, value: int) -> None:
        self.values.resize(size, value)
        self.list = self.list[:size] + [value] * (size - len(self.list))
        # In whole words: the rest of the last one stays what it was.
        size -= size % 64
        self.bits.resize(size, value % 2 == 1)
        self.flags = self.flags[:size] + [value % 2 == 1] * (size - len(self.flags))

    @rule(begin=st.integers(0, 2000), length=st.integers(0, 900), value=st.integers(0, 9))
    def fill(self, begin: int, length: int, value: int) -> None:
        begin, end = min(begin, len(self.list)), min(begin + length, len(self.list))
        self.values.fill(begin, end, value)
        self.list[begin:end] = [value] * (end - begin)
        begin, end = min(begin, len(self.flags)), min(begin + length, len(self.flags))
        self.bits.fill(begin, end, value > 4)
        self.flags[begin:end] = [value > 4] * (end - begin)

    @rule()
    def commit(self) -> None:
        with self.tm.transaction(root_of(self.space, roots_of(self.values, self.bits))):
            pass
        self.committed = list(self.list), list(self.flags)

    @rule(reopen=st.booleans())
    def go_back(self, reopen: bool) -> None:
        self.list, self.flags = list(self.committed[0]), list(self.committed[1])
        if reopen:
            self.tm.close()
            self.tm, self.space, superblock = TransactionManager.open(
                self.bm, 0, HEAD, root_offset=64, root_max_len=32, checked=True
            )
            with superblock, memoryview(superblock) as view:
                roots = memoryview(bytes(view[128:144])).cast("Q").tolist()
            self.values = Array.open(self.tm, roots[0], len(self.list))
            self.bits = Bitset.open(self.tm, roots[1], len(self.flags))
        else:
            self.tm.abort()
        self.all_is_there()

    @rule()
    def all_is_there(self) -> None:
        assert numbers(self.values) == self.list
        ones = [place for place, flag in enumerate(self.flags) if flag]
        assert memoryview(self.bits.ones()).tolist() == ones
        assert self.bits.count() == len(ones)

    def teardown(self) -> None:
        if hasattr(self, "tm"):
            self.tm.close()
            self.bm.close()


TestArrayLaws = ArrayLaws.TestCase
TestArrayLaws.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
