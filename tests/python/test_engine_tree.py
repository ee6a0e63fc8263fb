"""A tree is a sorted mapping, and takes and gives whole columns."""

import array
import copy
import operator
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import thinmeta
from thinmeta.engine import BTree, Entries, Store, StoreTransaction

LAST = 2**64 - 1
MIXED = [7, 0, LAST, 2**63, 1000, 2, 251, 252, 253, 10**15]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.create(tmp_path / "s.img", size_bytes=16 << 20, checked=True) as store:
        yield store


@pytest.fixture
def txn(store: Store) -> Iterator[StoreTransaction]:
    with store.transaction() as txn:
        yield txn


@pytest.fixture
def tree(txn: StoreTransaction) -> BTree[int]:
    return txn.tree("t")


# ---- a mapping ----


def test_a_tree_is_a_mutable_mapping(tree: BTree[int]) -> None:
    assert isinstance(tree, MutableMapping)
    model = {key: key // 3 for key in MIXED}
    tree.update(model)
    assert tree == model
    assert dict(tree) == model
    assert list(tree) == sorted(model)
    assert list(tree.keys()) == sorted(model)
    assert list(tree.values()) == [model[key] for key in sorted(model)]
    assert list(tree.items()) == sorted(model.items())
    assert len(tree) == len(model)
    assert tree.pop(1000) == 333 and 1000 not in tree
    assert tree.pop(1000, None) is None
    assert tree.setdefault(1000, 5) == tree.setdefault(1000, 6) == 5
    assert tree.popitem() == (0, 0)
    tree.clear()
    assert not tree and len(tree) == 0 and dict(tree) == {}


def test_the_last_of_all_keys_can_be_had_and_removed(tree: BTree[int]) -> None:
    tree[LAST] = LAST
    assert tree[LAST] == LAST == tree.last()[0]  # type: ignore[index]
    assert list(tree.items(LAST)) == list(tree.items(0, 2**64)) == [(LAST, LAST)]
    assert tree.remove_range(0, LAST) == 0
    assert tree.remove_range(0, 2**64) == 1
    assert not tree


def test_an_absent_key_is_a_key_error_or_the_default(tree: BTree[int]) -> None:
    tree[1] = 2
    with pytest.raises(KeyError) as caught:
        tree[5]
    assert caught.value.args == (5,)
    with pytest.raises(KeyError):
        del tree[5]
    assert tree.get(5) is None
    assert tree.get(5, "nothing") == "nothing"
    assert tree.get(1, "nothing") == 2
    assert 5 not in tree and 1 in tree


@pytest.mark.parametrize("key", [-1, 2**64, 10**30, -(10**30)])
def test_a_number_that_no_key_can_be_is_refused_everywhere(tree: BTree[int], key: int) -> None:
    tree[1] = 1
    wrongs: list[Callable[[], object]] = [
        lambda: tree[key],
        lambda: tree.get(key),
        lambda: tree.__setitem__(key, 1),
        lambda: tree.__delitem__(key),
        lambda: tree.at_least(key),
        lambda: tree.items(key).__iter__(),
        lambda: tree.entries(key),
        lambda: tree.remove_range(key, None),
    ]
    for wrong in wrongs:
        with pytest.raises(thinmeta.UsageError, match="64 bits"):
            wrong()
    assert key not in tree
    assert dict(tree) == {1: 1}


@pytest.mark.parametrize("key", [True, False, None, "1", 1.0, b"1"])
def test_what_is_no_number_is_no_key(tree: BTree[int], key: Any) -> None:
    tree[1] = 1
    for use in (tree.__getitem__, tree.get, tree.__delitem__, tree.at_least):
        with pytest.raises(TypeError):
            use(key)
    with pytest.raises(TypeError):
        tree[key] = 1
    assert key not in tree
    assert key not in tree.keys()  # noqa: SIM118 - a range of them, not the tree


def test_numbers_of_other_libraries_are_keys_and_values(tree: BTree[int]) -> None:
    tree[np.uint64(LAST)] = np.int32(7)  # type: ignore[assignment,index]
    assert tree[LAST] == 7 and np.uint64(LAST) in tree
    with pytest.raises(TypeError):
        tree[np.bool_(True)] = 1  # type: ignore[index]


@pytest.mark.parametrize("value", [-1, 2**64, True, "1", None, 1.5, b"12345678"])
def test_a_value_of_8_bytes_is_a_number_of_64_bits(tree: BTree[int], value: Any) -> None:
    with pytest.raises((TypeError, thinmeta.UsageError)):
        tree[1] = value
    assert dict(tree) == {}


@pytest.mark.parametrize("size", [1, 4, 7, 9, 16, 1346])
def test_values_of_other_sizes_are_bytes(txn: StoreTransaction, size: int) -> None:
    tree = txn.tree("bytes", value_bytes=size)
    values = {key: bytes([key % 256]) * size for key in range(600)}
    for key, value in values.items():
        tree[key] = value
    assert dict(tree) == values
    assert tree.first() == (0, values[0]) and tree.last() == (599, values[599])
    assert tree.value_bytes == size
    tree[1] = bytearray(b"x" * size)
    tree[2] = memoryview(b"y" * size)
    tree[3] = np.full(size, ord("z"), np.uint8)
    assert [tree[key] for key in (1, 2, 3)] == [b"x" * size, b"y" * size, b"z" * size]
    for wrong in (b"", b"x" * (size - 1), b"x" * (size + 1)):
        with pytest.raises(thinmeta.UsageError, match=f"{size} bytes"):
            tree[1] = wrong
    for no_bytes in (1, "x" * size, None):
        with pytest.raises(TypeError):
            tree[1] = no_bytes
    assert tree[1] == b"x" * size


@pytest.mark.parametrize("size", [0, 1347, 4096, 2**64])
def test_values_that_fit_no_node_are_refused(txn: StoreTransaction, size: int) -> None:
    with pytest.raises(thinmeta.UsageError):
        txn.tree("t", value_bytes=size)
    assert txn.names() == []


def test_a_tree_has_values_of_one_size(store: Store) -> None:
    with store.transaction() as txn:
        txn.tree("bytes", value_bytes=16)
        with pytest.raises(thinmeta.UsageError, match="16 bytes, not 8"):
            txn.tree("bytes")
    with store.view() as view:
        assert view.tree("bytes").value_bytes == view.tree("bytes", value_bytes=16).value_bytes
        with pytest.raises(thinmeta.UsageError, match="16 bytes, not 8"):
            view.tree("bytes", value_bytes=8)


# ---- ranges ----


RANGES = [(0, None), (2, 252), (251, 253), (252, None), (3, 3), (9, 2), (LAST, None), (0, LAST)]


@pytest.mark.parametrize(("start", "stop"), RANGES)
def test_a_range_has_the_keys_from_start_to_below_stop(
    tree: BTree[int], start: int, stop: int | None
) -> None:
    model = {key: key ^ 1 for key in MIXED}
    tree.update(model)
    keys = [key for key in sorted(model) if start <= key and (stop is None or key < stop)]
    rows = [(key, model[key]) for key in keys]
    assert list(tree.keys(start, stop)) == keys
    assert list(tree.values(start, stop)) == [value for _, value in rows]
    assert list(tree.items(start, stop)) == list(tree.entries(start, stop)) == rows
    assert len(tree.items(start, stop)) == len(tree.entries(start, stop)) == len(rows)
    for key in MIXED:
        assert (key in tree.keys(start, stop)) == (key in keys)
        assert ((key, model[key]) in tree.items(start, stop)) == (key in keys)
        assert (key, model[key] + 1) not in tree.items(start, stop)
    assert tree.keys(start, stop) & set(MIXED) == set(keys)
    assert tree.remove_range(start, stop) == len(keys)
    assert set(tree) == set(MIXED) - set(keys)


def test_neighbours_are_found(tree: BTree[int]) -> None:
    assert tree.first() is tree.last() is tree.at_least(0) is None
    for key in range(0, 3000, 3):
        tree[key] = key
    assert tree.first() == (0, 0) and tree.last() == (2997, 2997)
    assert tree.at_least(1) == (3, 3) and tree.at_least(3) == (3, 3)
    assert tree.at_least(2998) is None


def test_changing_a_tree_while_it_is_iterated_is_noticed_at_the_next_step(
    txn: StoreTransaction,
) -> None:
    tree, other = txn.tree("t"), txn.tree("other")
    for key in range(1000):
        tree[key] = key
    changes: list[Callable[[], object]] = [
        lambda: tree.__setitem__(5, 5),
        lambda: tree.__delitem__(500),
        lambda: tree.insert_many(array.array("Q", [1]), array.array("Q", [1])),
        lambda: tree.remove_range(700, 710),
        lambda: txn.tree("t").__setitem__(5, 6),
    ]
    for change in changes:
        rows = iter(tree.items())
        next(rows)
        other[1] = 1
        assert next(rows) == (1, 1), "another tree's changes do not matter"
        change()
        with pytest.raises(RuntimeError, match="changed while it was iterated"):
            next(rows)


def test_deleting_a_tree_ends_its_iterators_and_its_use(txn: StoreTransaction) -> None:
    tree = txn.tree("t")
    tree[1] = 1
    rows = iter(tree)
    txn.delete("t")
    with pytest.raises(RuntimeError):
        next(rows)
    with pytest.raises(KeyError):
        tree.first()
    assert txn.tree("t") == {}


def test_len_follows_every_change(store: Store) -> None:
    with store.transaction() as txn:
        tree = txn.tree("t")
        assert len(tree) == 0
        tree.insert_many(array.array("Q", range(1000)), array.array("Q", range(1000)))
        tree.insert_many(array.array("Q", range(500, 1500)), array.array("Q", range(1000)))
        assert len(tree) == 1500 == len(list(tree))
        tree[3], tree[5000] = 1, 1
        del tree[4]
        with pytest.raises(KeyError):
            del tree[4]
        tree.remove_range(100, 200)
        assert len(tree) == 1400 == len(list(tree)) == len(txn.tree("t"))
    with store.view() as view:
        assert len(view.tree("t")) == 1400


def test_iterating_keeps_alive_what_it_needs(store: Store) -> None:
    with store.transaction() as txn:
        txn.tree("t").update({key: key for key in range(2000)})
    rows = iter(store.view().tree("t").items())
    with store.transaction() as txn:
        txn.tree("t").clear()
    assert list(rows) == [(key, key) for key in range(2000)]


def test_trees_are_not_copied_or_pickled(tree: BTree[int]) -> None:
    for copied in (copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            copied(tree)


# ---- columns ----


def columns(numbers: list[int]) -> dict[str, Any]:
    """The same numbers in all the forms that are taken."""
    forms: dict[str, Any] = {
        "array": array.array("Q", numbers),
        "memoryview": memoryview(array.array("Q", numbers)),
        "numpy": np.array(numbers, np.uint64),
        "strided": np.repeat(np.array(numbers, np.uint64), 2)[::2],
        "read-only": np.array(numbers, np.uint64).data.toreadonly(),
        "arrow": pa.array(numbers, pa.uint64()),
        "arrow slice": pa.array([9, *numbers, 9], pa.uint64())[1:-1],
        "arrow chunks": pa.chunked_array(
            [pa.array(numbers[:1], pa.uint64()), pa.array(numbers[1:], pa.uint64())]
        ),
        "polars": pl.Series(numbers, dtype=pl.UInt64),
    }
    if all(number < 2**63 for number in numbers):
        forms["signed"] = np.array(numbers, np.int64)
        forms["signed strided"] = np.repeat(np.array(numbers, np.int64), 3)[::3]
        forms["signed arrow"] = pa.array(numbers, pa.int64())
    return forms


@pytest.mark.parametrize("numbers", [[], [5], [7, 3, 2**40, 0], [LAST, 2**63, 1]])
def test_columns_of_every_kind_are_taken(txn: StoreTransaction, numbers: list[int]) -> None:
    for name, column in columns(numbers).items():
        tree = txn.tree(name)
        assert tree.insert_many(column, column) == len(numbers)
        assert list(tree.items()) == [(key, key) for key in sorted(numbers)], name
        assert list(tree.lookup_many(column)) == [(key, key) for key in numbers], name


@pytest.mark.parametrize(
    "wrong",
    [
        [1, 2],
        7,
        None,
        "12",
        b"12345678",
        np.array([1.5]),
        np.array([1], np.uint32),
        np.array([1], ">u8"),
        np.array([[1]], np.uint64),
        np.array([True]),
        array.array("d", [1.0]),
        pa.array([1], pa.uint32()),
        pa.array(["1"]),
        pa.table({"a": pa.array([1], pa.uint64())}),
    ],
    ids=lambda value: f"{type(value).__module__}-{str(value)[:12]!r}",
)
def test_columns_of_other_things_are_refused(tree: BTree[int], wrong: Any) -> None:
    good = array.array("Q", [1])
    for call in (
        lambda: tree.insert_many(wrong, good),
        lambda: tree.insert_many(good, wrong),
        lambda: tree.lookup_many(wrong),
    ):
        with pytest.raises(TypeError, match=r"64-bit|uint64"):
            call()
    assert not tree


@pytest.mark.parametrize(
    ("keys", "values", "complaint"),
    [
        (np.array([1, -5]), array.array("Q", [1, 2]), "-5"),
        (pa.array([1, -5]), array.array("Q", [1, 2]), "-5"),
        (array.array("Q", [1, 2]), np.array([1, -5]), "-5"),
        (pa.array([1, None], pa.uint64()), array.array("Q", [1, 2]), "null"),
        (array.array("Q", [1, 2]), array.array("Q", [1]), "2 keys and 1 values"),
        (array.array("Q", [1]), array.array("Q", [1, 2]), "1 keys and 2 values"),
    ],
)
def test_columns_that_do_not_fit_leave_no_trace(
    tree: BTree[int], keys: Any, values: Any, complaint: str
) -> None:
    with pytest.raises(thinmeta.UsageError, match=complaint):
        tree.insert_many(keys, values)
    assert not tree


def test_packed_values_of_other_sizes(txn: StoreTransaction) -> None:
    tree = txn.tree("t", value_bytes=3)
    keys = array.array("Q", [4, 2, 9])
    rows = np.arange(9, dtype=np.uint8).reshape(3, 3)
    wanted = [(2, b"\3\4\5"), (4, b"\0\1\2"), (9, b"\6\7\10")]
    forms: list[Any] = [
        bytes(range(9)),
        bytearray(range(9)),
        rows,
        np.repeat(rows, 2, axis=1)[:, ::2],
        rows.reshape(9).view("V3"),
        pa.array([bytes(row) for row in rows], pa.binary(3)),
    ]
    for values in forms:
        tree.clear()
        assert tree.insert_many(keys, values) == 3
        assert list(tree.items()) == wanted
    for wrong in (b"", bytes(8), bytes(10)):
        with pytest.raises(thinmeta.UsageError, match="3 bytes each"):
            tree.insert_many(keys, wrong)
    with pytest.raises(TypeError):
        tree.insert_many(keys, pa.array([b"12", b"34", b"56"], pa.binary(2)))
    assert list(tree.items()) == wanted
    columns = tree.lookup_many(array.array("Q", [9, 1])).to_numpy()
    assert columns["values"].tolist() == [[6, 7, 8], [None] * 3]
    assert tree.entries().to_numpy()["values"].tolist() == [[3, 4, 5], [0, 1, 2], [6, 7, 8]]
    table = pa.table(tree.lookup_many(array.array("Q", [9, 1])))
    assert table["value"].to_pylist() == [b"\6\7\10", None]


def test_of_equal_keys_the_last_counts(tree: BTree[int]) -> None:
    assert tree.insert_many(array.array("Q", [5, 1, 5]), array.array("Q", [1, 2, 3])) == 2
    assert dict(tree) == {1: 2, 5: 3}
    answer = tree.lookup_many(array.array("Q", [5, 5, 2, 1, 5]))
    assert list(answer) == [(5, 3), (5, 3), (2, None), (1, 2), (5, 3)]


def sample(tree: BTree[int]) -> Entries:
    for key in range(0, 2000, 2):
        tree[key] = key * 10
    return tree.lookup_many(array.array("Q", [1998, 3, 0, 2000, 4]))


def test_a_look_up_s_answer_is_columns(tree: BTree[int]) -> None:
    answer = sample(tree)
    assert len(answer) == 5
    assert memoryview(answer.keys).tolist() == [1998, 3, 0, 2000, 4]
    assert memoryview(answer.found).tolist() == [1, 0, 1, 0, 1]
    assert memoryview(answer.values).tolist() == [19980, 0, 0, 0, 40]
    assert memoryview(answer.values).readonly


def test_a_look_up_s_answer_in_numpy_is_masked(tree: BTree[int]) -> None:
    arrays = sample(tree).to_numpy()
    assert arrays["keys"].dtype == arrays["values"].dtype == np.uint64
    assert arrays["values"].tolist() == [19980, None, 0, None, 40]
    assert arrays["found"].tolist() == [True, False, True, False, True]


def test_a_scan_in_numpy_is_plain(tree: BTree[int]) -> None:
    sample(tree)
    arrays = tree.entries(100, 110).to_numpy()
    assert type(arrays["values"]) is np.ndarray
    assert arrays["keys"].tolist() == [100, 102, 104, 106, 108]
    assert arrays["found"].all()


def test_arrow_has_nulls_where_a_key_is_absent(tree: BTree[int]) -> None:
    answer = sample(tree)
    schema = pa.schema([pa.field("key", pa.uint64(), nullable=False), ("value", pa.uint64())])
    assert pa.schema(answer) == schema
    table = pa.table(answer)
    assert table.schema == schema
    assert table["value"].to_pylist() == [19980, None, 0, None, 40]
    assert pl.DataFrame(answer)["value"].to_list() == [19980, None, 0, None, 40]
    assert pa.table(tree.entries()).num_rows == 1000


def test_what_came_out_goes_in_again(txn: StoreTransaction) -> None:
    tree = txn.tree("t")
    sample(tree)
    entries = tree.entries()
    arrays, table = entries.to_numpy(), pa.table(entries)
    for number, (keys, values) in enumerate(
        [
            (entries.keys, entries.values),
            (arrays["keys"], arrays["values"]),
            (table["key"], table["value"]),
        ]
    ):
        again = txn.tree(f"again {number}")
        assert again.insert_many(keys, values) == 1000
        assert again == tree


def test_entries_outlive_their_store(tmp_path: Path) -> None:
    with Store.create(tmp_path / "x.img", size_bytes=1 << 20) as store:
        with store.transaction() as txn:
            txn.tree("t").update({key: key for key in range(500)})
        with store.view() as view:
            entries = view.tree("t").entries()
            values, table = memoryview(entries.values), pa.table(entries)
    del store, view, entries
    assert values.tolist() == table["key"].to_pylist() == list(range(500))


def test_a_view_s_tree_reads_and_does_not_change(store: Store) -> None:
    with store.transaction() as txn:
        txn.tree("t")[1] = 1
    with store.view() as view:
        tree = view.tree("t")
        assert isinstance(tree, Mapping)
        changes: list[Callable[[], object]] = [
            lambda: operator.setitem(tree, 1, 2),
            lambda: operator.delitem(tree, 1),
            lambda: tree.insert_many(array.array("Q", [1]), array.array("Q", [2])),
            lambda: tree.remove_range(0, None),
            tree.clear,
        ]
        for change in changes:
            with pytest.raises(thinmeta.ReadOnlyError, match="in a transaction"):
                change()
        assert dict(tree) == {1: 1}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.lists(
            st.tuples(st.integers(0, 3000) | st.sampled_from(MIXED), st.integers(0, LAST)),
            max_size=400,
        ),
        max_size=4,
    )
)
def test_batches_in_any_order_are_a_dict_s_updates(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[int, int]]]
) -> None:
    path = tmp_path_factory.mktemp("batches") / "s.img"
    model: dict[int, int] = {}
    with Store.create(path, size_bytes=4 << 20, checked=True) as store:
        for batch in batches:
            before = len(model)
            model.update(batch)
            with store.transaction() as txn:
                keys = array.array("Q", [key for key, _ in batch])
                values = array.array("Q", [value for _, value in batch])
                assert txn.tree("t").insert_many(keys, values) == len(model) - before
            with store.view() as view:
                tree = view.tree("t")
                assert tree == model
                assert dict(iter(tree.lookup_many(keys))) == {key: model[key] for key in keys}
