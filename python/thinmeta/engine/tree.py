"""Trees of a store as sorted mappings, and many of their entries as columns."""

from __future__ import annotations

from collections.abc import ItemsView, KeysView, MutableMapping, ValuesView
from typing import TypeVar

from thinmeta import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, overload

    D = TypeVar("D")

#: What a tree's values are in Python: ``int`` where they have 8 bytes, else ``bytes``.
V = TypeVar("V")

__all__ = ["BTree", "Entries"]


class BTree(_core.BTree, MutableMapping[int, V]):
    """A sorted mapping from 64-bit keys to values of one size.

    Made by ``tree(name)`` of a view or a transaction, which stays open while the tree
    or an iterator of it is in use. In a view it can be read, by any number of threads,
    and every change is :class:`ReadOnlyError`; in a transaction it can be changed.

    Keys are 0 to 2**64 - 1. A number beyond is :class:`UsageError` and a bool is
    :class:`TypeError`, but ``in`` answers False for whatever cannot be a key. Values
    are numbers of the same range in a tree with values of 8 bytes, and in others
    ``bytes`` of exactly that many (whatever speaks the buffer protocol will do).

    Besides what :class:`collections.abc.MutableMapping` has:

    ==================================== =======================================
    ``first()``, ``last()``              the outermost entry, or None
    ``at_least(key)``                    the first entry not below ``key``
    ``items(start, stop)``, and so on    a range of keys, ``stop`` left out
    ``remove_range(begin, end)``         returns how many there were
    ``insert_many(keys, values)``        whole columns, from buffers or Arrow
    ``lookup_many(keys)``                :class:`Entries`, in the order given
    ``entries(start, stop)``             :class:`Entries`, a range at once
    ==================================== =======================================

    Iterating gives keys in ascending order. In a transaction, to change the tree while
    it is iterated is :class:`RuntimeError` at the next step, as with a dict; changing
    another tree is not. ``len`` visits every leaf the first time and is kept up to date
    from then on; whether there is anything at all, ``bool`` tells cheaply.

    Example:
        >>> import os, tempfile
        >>> from thinmeta.engine import Store
        >>> path = os.path.join(tempfile.mkdtemp(), "s.img")
        >>> with Store.create(path, size_bytes=1 << 20) as store:
        ...     with store.transaction() as txn:
        ...         tree = txn.tree("squares")
        ...         for key in range(10):
        ...             tree[key] = key * key
        ...         del tree[4]
        ...         list(tree.items(3, 6)), tree.at_least(4), len(tree)
        ([(3, 9), (5, 25)], (5, 25), 9)
    """

    __slots__ = ()

    if TYPE_CHECKING:

        def __getitem__(self, key: int, /) -> V: ...
        def __setitem__(self, key: int, value: V, /) -> None: ...
        def __delitem__(self, key: int, /) -> None: ...
        def __iter__(self) -> _core.TreeIterator[int]: ...
        def __len__(self) -> int: ...
        def __contains__(self, key: object, /) -> bool: ...

        @overload
        def get(self, key: int, default: None = None, /) -> V | None: ...

        @overload
        def get(self, key: int, default: V, /) -> V: ...

        @overload
        def get(self, key: int, default: D, /) -> V | D: ...

        def get(self, key: int, default: Any = None, /) -> Any:
            """The value of a key, or ``default`` where there is none."""

        def first(self) -> tuple[int, V] | None:
            """The entry with the smallest key, None in an empty tree."""

        def last(self) -> tuple[int, V] | None:
            """The entry with the largest key, None in an empty tree."""

        def at_least(self, key: int, /) -> tuple[int, V] | None:
            """The entry with the smallest key that is not below ``key``, or None."""

    def items(self, start: int = 0, stop: int | None = None) -> RangeItems[V]:
        """The entries with ``start <= key < stop`` (None: to the end), as (key, value)."""
        return RangeItems(self, start, stop)

    def keys(self, start: int = 0, stop: int | None = None) -> RangeKeys:
        """The keys from ``start`` to below ``stop`` (None: to the end)."""
        return RangeKeys(self, start, stop)

    def values(self, start: int = 0, stop: int | None = None) -> RangeValues[V]:
        """The values of the keys from ``start`` to below ``stop`` (None: to the end)."""
        return RangeValues(self, start, stop)

    def lookup_many(self, keys: _core._Column) -> Entries:
        """Look many keys up in one call, each leaf once.

        Args:
            keys: 64-bit integers, none negative, in a buffer (``array.array("Q", …)``,
                a memoryview, a NumPy array) or as an Arrow array. Any order; equal ones
                may follow.

        Returns:
            A row for each key, in the order given; a look-up in a view can be
            interrupted.

        Raises:
            UsageError: A key is negative or null.
            TypeError: They are something else.
            DamagedBlockError: A node on the way failed its check.
        """
        return Entries(self._lookup_many(keys))

    def entries(self, start: int = 0, stop: int | None = None) -> Entries:
        """Read a range of keys into columns, ascending.

        Args:
            start: The first key.
            stop: One past the last; None means the end.

        Raises:
            DamagedBlockError: A node failed its check.
        """
        return Entries(self._entries(start, stop))

    def clear(self) -> None:
        """Take all entries out."""
        self.remove_range(0, None)

    def __repr__(self) -> str:
        return f"<thinmeta.engine.BTree value_bytes={self.value_bytes}>"


class _Range:
    """What the three kinds of ranges share."""

    __slots__ = ()
    _mapping: BTree[Any]
    _start: int
    _stop: int | None

    def _holds(self, key: object) -> bool:
        if isinstance(key, bool) or not hasattr(key, "__index__"):
            return False
        number = int(key)
        return self._start <= number and (self._stop is None or number < self._stop)

    def __len__(self) -> int:
        if self._start == 0 and self._stop is None:
            return len(self._mapping)
        return self._mapping._count(self._start, self._stop)


class RangeKeys(_Range, KeysView[int]):
    """Keys of a range of a tree; a set, read anew by each use."""

    __slots__ = ("_start", "_stop")

    def __init__(self, tree: BTree[Any], start: int, stop: int | None) -> None:
        super().__init__(tree)
        self._start, self._stop = start, stop

    def __iter__(self) -> Iterator[int]:
        return self._mapping._iterate("keys", self._start, self._stop)

    def __contains__(self, key: object) -> bool:
        return self._holds(key) and key in self._mapping


class RangeValues(_Range, ValuesView[V]):
    """Values of a range of a tree, read anew by each use."""

    __slots__ = ("_start", "_stop")

    def __init__(self, tree: BTree[V], start: int, stop: int | None) -> None:
        super().__init__(tree)
        self._start, self._stop = start, stop

    def __iter__(self) -> Iterator[V]:
        return self._mapping._iterate("values", self._start, self._stop)

    def __contains__(self, value: object) -> bool:
        return any(value == each for each in self)


class RangeItems(_Range, ItemsView[int, V]):
    """Entries of a range of a tree, as pairs of key and value; read anew by each use."""

    __slots__ = ("_start", "_stop")

    def __init__(self, tree: BTree[V], start: int, stop: int | None) -> None:
        super().__init__(tree)
        self._start, self._stop = start, stop

    def __iter__(self) -> Iterator[tuple[int, V]]:
        return self._mapping._iterate("items", self._start, self._stop)

    def __contains__(self, item: object) -> bool:
        if not isinstance(item, tuple) or len(item) != 2:
            return False
        key, value = item
        return self._holds(key) and key in self._mapping and bool(self._mapping[key] == value)


class Entries:
    """Entries as columns, held in memory: a scan's, or the answer to many look-ups.

    They speak the buffer protocol (``memoryview(entries.values)``) without a copy:

    ========== ====================================================================
    ``keys``   uint64
    ``values`` uint64 where values have 8 bytes; otherwise bytes, one value after
               the other. Zeros where a key was not found.
    ``found``  uint8, 1 for each key that was found; all of a scan's are.
    ========== ====================================================================

    ``pyarrow.table(entries)``, ``polars.DataFrame(entries)`` and the like take it too,
    as ``key`` and ``value`` (null where absent). Iterating gives pairs of key and
    value, ``None`` for an absent one.
    """

    __slots__ = ("_native",)

    def __init__(self, native: _core.Entries) -> None:
        self._native = native

    @property
    def keys(self) -> _core.Column:
        """The keys, uint64."""
        return self._native.keys

    @property
    def values(self) -> _core.Column:
        """The values, uint64 where they have 8 bytes, otherwise bytes."""
        return self._native.values

    @property
    def found(self) -> _core.Column:
        """1 for each key that was found, 0 for the others; uint8."""
        return self._native.found

    @property
    def value_bytes(self) -> int:
        """Bytes of each value."""
        return self._native.value_bytes

    def __len__(self) -> int:
        return len(self._native)

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        size, values = self.value_bytes, memoryview(self.values)
        rows = zip(memoryview(self.keys), memoryview(self.found), strict=True)
        for row, (key, found) in enumerate(rows):
            if not found:
                yield key, None
            elif size == 8:
                yield key, values[row]
            else:
                yield key, bytes(values[row * size : (row + 1) * size])

    def to_numpy(self) -> dict[str, Any]:
        """The columns as arrays by name: ``keys``, ``values`` and ``found``.

        Values of 8 bytes are uint64, others rows of a two-dimensional array of uint8.
        A look-up's values are masked where a key is absent. Nothing but a mask is copied.

        Raises:
            ImportError: NumPy is not installed.
        """
        import numpy as np

        from thinmeta.mappings import as_array

        found = as_array(self.found).view(np.bool_)
        values = as_array(self.values)
        if self.value_bytes != 8:
            values = values.reshape(len(self), self.value_bytes)
        if self._native.has_gaps:
            absent = ~found if self.value_bytes == 8 else np.repeat(~found, self.value_bytes)
            values = np.ma.MaskedArray(values, mask=absent.reshape(values.shape))
        return {"keys": as_array(self.keys), "values": values, "found": found}

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Export as a stream of one record batch (Arrow PyCapsule interface)."""
        return self._native.__arrow_c_stream__(requested_schema)

    def __arrow_c_schema__(self) -> object:
        """Export the columns' types (Arrow PyCapsule interface)."""
        return self._native.__arrow_c_schema__()

    def __repr__(self) -> str:
        return f"<thinmeta.engine.Entries rows={len(self)} value_bytes={self.value_bytes}>"
