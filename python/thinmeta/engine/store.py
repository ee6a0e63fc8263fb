"""A store: named trees in a file or on a block device."""

from __future__ import annotations

import os
import warnings

import thinmeta.forks  # noqa: F401 # children are told
from thinmeta import _core
from thinmeta.arguments import cache_argument
from thinmeta.engine.session import StoreTransaction, StoreView, size
from thinmeta.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Literal, Self, TypeAlias

    from thinmeta.types import SpaceUsage

    Path: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]

__all__ = ["DEFAULT_CACHE_BYTES", "Store"]

DEFAULT_CACHE_BYTES = 64 << 20


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
            size_bytes = size(size_bytes)
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
