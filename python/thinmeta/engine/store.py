"""A store: named trees in a file or on a block device, changed by transactions."""

from __future__ import annotations

import os
import warnings

from thinmeta import _core
from thinmeta.arguments import MAX_U64, cache_argument, number
from thinmeta.engine.tree import BTree
from thinmeta.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Literal, Self, TypeAlias, overload

    from thinmeta.types import SpaceUsage

    Path: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]

__all__ = ["DEFAULT_CACHE_BYTES", "Store", "StoreTransaction", "StoreView"]

DEFAULT_CACHE_BYTES = 64 << 20

# Whatever was opened before a fork refuses to work in the child.
os.register_at_fork(after_in_child=_core._forked)


class Store:
    """Named trees in a file or on a block device; a context manager that closes it.

    Made by :meth:`create` or :meth:`open`. A store that is never closed is closed when
    it is collected, with a :class:`ResourceWarning`.

    Its objects may be used from several threads. Of threads that ask for a transaction
    one gets it and the others wait; views and their trees are read by any number at
    once, also while a transaction goes on. After a fork the child has to open a store
    for itself: with one of its parent's every call raises :class:`UsageError`.

    Example:
        >>> import os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "s.img")
        >>> with Store.create(path, size_bytes=1 << 20) as store:
        ...     with store.transaction() as txn:
        ...         txn.tree("inodes")[7] = 42
        ...     with store.view() as view:
        ...         view.tree("inodes")[7]
        42
    """

    __slots__ = ("__weakref__", "_native")

    def __init__(self, native: _core.Store) -> None:
        self._native = native

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        size_bytes: int | None = None,
        overwrite: bool = False,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        checked: bool = False,
    ) -> Self:
        """Make an empty store.

        Args:
            path: A file or a block device. A file that is not there is made.
            size_bytes: Makes the file at least so long, with a hole at its end, or asks
                a block device to be; ``None`` takes it as it is. 12 blocks of 4096
                bytes are the least.
            overwrite: Make the store though there is something already.
            cache_bytes: The most memory for blocks of the store.
            checked: Hold every reference count against a plain list of counts: slow,
                for tests.

        Raises:
            AlreadyFormattedError: Block 0 is not all zero, and ``overwrite`` is not set.
            DeviceInUseError: Somebody uses the file or device.
            NoSpaceError: It is too small.
            UsageError: A size or a cache that makes no sense.
            OSError: The path cannot be opened or written.
        """
        if size_bytes is not None:
            size_bytes = number(size_bytes, "size_bytes")
            if not 0 <= size_bytes <= MAX_U64:
                raise UsageError(f"no store can have {size_bytes} bytes")
        native = _core.Store.create(
            os.fsdecode(path),
            size_bytes=size_bytes,
            overwrite=overwrite,
            cache_bytes=cache_argument(cache_bytes),
            checked=checked,
        )
        return cls(native)

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        mode: Literal["r", "r+"] = "r+",
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        checked: bool = False,
    ) -> Self:
        """Open a store that is there.

        Args:
            path: The file or block device.
            mode: ``"r+"`` reads and writes, and keeps every other process out;
                ``"r"`` reads, beside other readers.
            cache_bytes: The most memory for blocks of the store.
            checked: As for :meth:`create`.

        Raises:
            DeviceInUseError: Another process writes it, or, to write, has it open.
            NotFormattedError: Block 0 is all zero.
            UnsupportedFormatError: It is something else; the message says what.
            DamagedBlockError: The superblock or the space map failed a check.
            PoisonedError: This process failed to write it before, and the kernel still
                shows something else than the disk has.
            UsageError: A mode or a cache that makes no sense.
            OSError: The path cannot be opened or read.
        """
        if mode not in ("r", "r+"):
            raise UsageError(f"mode is {mode!r}, not 'r' or 'r+'")
        native = _core.Store.open(
            os.fsdecode(path),
            writable=mode == "r+",
            cache_bytes=cache_argument(cache_bytes),
            checked=checked,
        )
        return cls(native)

    def __enter__(self) -> Self:
        if self.closed:
            raise UsageError("the store is closed")
        return self

    def __exit__(
        self,
        raised: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self, _warn: Any = warnings.warn) -> None:
        native = getattr(self, "_native", None)
        if native is not None and not native.closed:
            _warn(f"unclosed {self!r}", ResourceWarning, source=self)
            native.close()

    def __repr__(self) -> str:
        closed = " closed" if self.closed else ""
        return f"<thinmeta.engine.Store {self.path!r}{closed}>"

    @property
    def path(self) -> str:
        """The file or device."""
        return self._native.path

    @property
    def mode(self) -> Literal["r", "r+"]:
        """How it was opened."""
        return "r+" if self._native.writable else "r"

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` has been called."""
        return self._native.closed

    @property
    def space(self) -> SpaceUsage:
        """How full it is, in blocks of 4096 bytes.

        ``free`` are those that a change may still take: not those that the last commit
        or an open view reads.

        Raises:
            AbortedError: A change of the open transaction failed half-way.
            PoisonedError: A write failed.
        """
        from thinmeta.types import SpaceUsage

        blocks, free = self._native.space()
        return SpaceUsage(blocks=blocks, free=free, allocated=blocks - free)

    @property
    def nr_blocks(self) -> int:
        """Blocks of 4096 bytes that it has."""
        return self._native.space()[0]

    @property
    def nr_free(self) -> int:
        """Blocks of 4096 bytes that a change may still take; see :attr:`space`."""
        return self._native.space()[1]

    def transaction(self) -> StoreTransaction:
        """Begin to change the store; waits while another thread does.

        Ctrl-C ends the waiting.

        Raises:
            ReadOnlyError: The store was opened with ``mode="r"``.
            UsageError: This thread has a transaction open, or the store is closed.
            PoisonedError: A write failed before; open the store again.
        """
        return StoreTransaction(self, self._native.transaction())

    def view(self) -> StoreView:
        """Read the last commit, which stays as it is while others are made.

        Raises:
            UsageError: The store is closed.
        """
        return StoreView(self, self._native.view())

    def close(self) -> None:
        """Roll an open transaction back, end all views, and let go of the device.

        Closing twice does nothing. A change that another thread is in the middle of is
        waited for; a long look-up in a view ends by itself, and keeps the device until
        then.
        """
        self._native.close()


class StoreTransaction:
    """A change of a store, all of it or nothing; made by :meth:`Store.transaction`.

    As a context manager it commits when the block is left quietly, and rolls back when
    it is left by an exception, which goes on. One that is never ended is rolled back
    when it is collected, with a :class:`ResourceWarning`.

    A change that fails half-way (no space, a damaged block) leaves a transaction that
    answers everything with :class:`AbortedError` until it is rolled back; what could be
    told beforehand, such as a value of the wrong size, leaves no trace.
    """

    __slots__ = ("__weakref__", "_native", "_store")

    def __init__(self, store: Store, native: _core.StoreTransaction) -> None:
        self._store = store
        self._native = native

    def __enter__(self) -> Self:
        if self.ended:
            raise UsageError("the transaction has ended")
        return self

    def __exit__(
        self,
        raised: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._native.ended:
            return
        if raised is None:
            self._native.commit()
            return
        try:
            self._native.abort()
        except Exception as failure:
            # What the block raised is what went wrong first.
            if value is not None:
                value.add_note(f"rolling the transaction back failed too: {failure}")

    def __del__(self, _warn: Any = warnings.warn) -> None:
        native = getattr(self, "_native", None)
        if native is not None and not native.ended:
            _warn(
                f"a transaction was neither committed nor rolled back: {self!r}",
                ResourceWarning,
                source=self,
            )
            native.abort()

    def __repr__(self) -> str:
        ended = " ended" if self.ended else ""
        return f"<thinmeta.engine.StoreTransaction of {self._store.path!r}{ended}>"

    @property
    def ended(self) -> bool:
        """Whether it was committed or rolled back."""
        return self._native.ended

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

    def names(self) -> list[str]:
        """Names of all trees, sorted."""
        return self._native.names()

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._native.has_tree(name)

    def commit(self) -> None:
        """Make all changes durable, at once, and end the transaction.

        Raises:
            PoisonedError: A write or the flush failed; the store has to be opened again.
            NoSpaceError: There is no room; everything is as before the transaction.
            UsageError: The transaction has ended.
        """
        self._native.commit()

    def abort(self) -> None:
        """Take all changes back and end the transaction.

        Raises:
            UsageError: The transaction has ended.
        """
        self._native.abort()


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
        if not isinstance(name, str):
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
