"""What a store is read and changed through: views and transactions."""

from __future__ import annotations

from thinmeta.arguments import MAX_U64, number
from thinmeta.ending import Ending
from thinmeta.engine.tree import BTree
from thinmeta.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Literal, Self, TypeGuard, overload

    from thinmeta import _core
    from thinmeta.engine.store import Store

__all__ = ["StoreTransaction", "StoreView"]

#: Bytes of UTF-8 in the longest name of a tree.
MAX_NAME_BYTES = 232


def is_name(name: object) -> TypeGuard[str]:
    """Whether a tree can have this name."""
    if not isinstance(name, str):
        return False
    try:
        return 1 <= len(name.encode()) <= MAX_NAME_BYTES
    except UnicodeEncodeError:
        return False


def size(size_bytes: int) -> int:
    """Check a number of bytes.

    Raises:
        TypeError: It is no int, or a bool.
        UsageError: No store can have so many bytes.
    """
    size_bytes = number(size_bytes, "size_bytes")
    if not 0 <= size_bytes <= MAX_U64:
        raise UsageError(f"no store can have {size_bytes} bytes")
    return size_bytes


class StoreTransaction(Ending):
    """A change of a store, all of it or nothing; made by :meth:`Store.transaction`.

    As a context manager it commits when the block is left quietly, and rolls back when
    it is left by an exception, which goes on. One that is never ended is rolled back
    when it is collected, with a :class:`ResourceWarning`.

    A change that fails half-way (no space, a damaged block) leaves a transaction that
    answers everything with :class:`AbortedError` until it is rolled back; what could be
    told beforehand, such as a value of the wrong size, leaves no trace.
    """

    __slots__ = ("_store",)

    _native: _core.StoreTransaction

    def __init__(self, store: Store, native: _core.StoreTransaction) -> None:
        self._store = store
        self._native = native

    def __repr__(self) -> str:
        ended = " ended" if self.ended else ""
        return f"<thinmeta.engine.StoreTransaction of {self._store.path!r}{ended}>"

    if TYPE_CHECKING:

        @overload
        def tree(self, name: str, *, value_bytes: Literal[8] = 8) -> BTree[int]: ...

        @overload
        def tree(self, name: str, *, value_bytes: int) -> BTree[Any]: ...

    def tree(self, name: str, *, value_bytes: int = 8) -> BTree[Any]:
        """A tree to read and to change, made when there is none of this name.

        Args:
            name: 1 to 232 bytes of UTF-8.
            value_bytes: Bytes of each value, 1 to 1346. Values of 8 bytes are numbers,
                0 to 2**64 - 1; others are ``bytes`` of exactly that many.

        Raises:
            UsageError: There is a tree with values of another size; a name or a size
                that cannot be; the transaction has ended.
            NoSpaceError: There is no block left for a new tree.
        """
        value_bytes = value_bytes_argument(value_bytes)
        return BTree(self, self._native, name, value_bytes)

    def snapshot(self, source: str, target: str) -> None:
        """Make ``target`` a tree that is what ``source`` is now, whatever its size.

        They share all of it until one of them changes.

        Raises:
            KeyError: There is no ``source``.
            UsageError: There is a ``target`` already.
        """
        self._native.snapshot(source, target)

    def delete(self, name: str) -> None:
        """Take a tree out, with all it has for itself.

        Raises:
            KeyError: There is none of this name.
        """
        self._native.delete(name)

    def grow(self, size_bytes: int) -> None:
        """Make room: a file is made ``size_bytes`` long, a device has to be already.

        Rolling back leaves the store as it was, though the file stays longer.

        Args:
            size_bytes: In all; only whole blocks of 4096 bytes count.

        Raises:
            UsageError: Less than there is, more than the device has, or more
                than 4 161 600 blocks.
            NoSpaceError: The new blocks cannot even hold their own counts.
        """
        self._native.grow(size(size_bytes))

    def names(self) -> list[str]:
        """Names of all trees, sorted."""
        return self._native.names()

    def __contains__(self, name: object) -> bool:
        return is_name(name) and self._native.has_tree(name)

    def commit(self) -> None:
        """Make all changes durable, at once, and end the transaction.

        Raises:
            PoisonedError: A write or the flush failed; the store has to be opened again.
            NoSpaceError: There is no room; everything is as before the transaction.
            UsageError: The transaction has ended.
        """
        super().commit()


class StoreView:
    """A store as one commit left it, while others are made; made by :meth:`Store.view`.

    A context manager that closes it. Blocks that it reads are not used again before; it
    leaves nothing on the disk, and is closed when it is collected.
    """

    __slots__ = ("__weakref__", "_native", "_store")

    def __init__(self, store: Store, native: _core.StoreView) -> None:
        self._store = store
        self._native = native

    def __enter__(self) -> Self:
        if self.closed:
            raise UsageError("the view is closed")
        return self

    def __exit__(
        self,
        raised: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        closed = " closed" if self.closed else ""
        return f"<thinmeta.engine.StoreView of {self._store.path!r}{closed}>"

    @property
    def closed(self) -> bool:
        """Whether it was closed, or its store was."""
        return self._native.closed

    if TYPE_CHECKING:

        @overload
        def tree(self, name: str, *, value_bytes: Literal[8]) -> BTree[int]: ...

        @overload
        def tree(self, name: str, *, value_bytes: int | None = None) -> BTree[Any]: ...

    def tree(self, name: str, *, value_bytes: int | None = None) -> BTree[Any]:
        """A tree to read.

        Args:
            name: Its name.
            value_bytes: The size that its values must have, if that matters.

        Raises:
            KeyError: There is none of this name.
            UsageError: Its values have another size; the view is closed.
            DamagedBlockError: A node on the way to it failed its check.
        """
        if value_bytes is not None:
            value_bytes = value_bytes_argument(value_bytes)
        return BTree(self, self._native, name, value_bytes)

    def names(self) -> list[str]:
        """Names of all trees, sorted."""
        return self._native.names()

    def __contains__(self, name: object) -> bool:
        if not is_name(name):
            return False
        try:
            self.tree(name)
        except KeyError:
            return False
        return True

    def close(self) -> None:
        """Let go of the blocks that only this view reads; closing twice does nothing."""
        self._native.close()


def value_bytes_argument(value: object) -> int:
    """Check a ``value_bytes`` argument; what does not fit a node is for the core to say."""
    value_bytes = number(value, "value_bytes")
    if not 0 <= value_bytes <= MAX_U64:
        raise UsageError(f"no value has {value_bytes} bytes")
    return value_bytes
