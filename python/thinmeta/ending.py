"""How a transaction ends: what those of pools and of stores have in common."""

from __future__ import annotations

import warnings

from thinmeta.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Self

    from thinmeta import _core

__all__ = ["Ending"]


class Ending:
    """A transaction that commits when its block is left quietly, and else rolls back.

    One that is never ended is rolled back when it is collected, with a
    :class:`ResourceWarning`.
    """

    __slots__ = ("__weakref__", "_native", "_settled")

    _native: _core.StoreTransaction | _core.PoolTransaction

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
        if self.ended:
            if raised is None and not getattr(self, "_settled", False):
                raise UsageError(
                    "nothing was committed: what the transaction changes was closed before it ended"
                )
            return
        if raised is None:
            self.commit()
            return
        try:
            self.abort()
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

    @property
    def ended(self) -> bool:
        """Whether it was committed or rolled back, or what it changes was closed."""
        return self._native.ended

    def commit(self) -> None:
        """Make all changes durable, at once, and end the transaction."""
        self._settled = True
        self._native.commit()

    def abort(self) -> None:
        """Take all changes back and end the transaction.

        Raises:
            UsageError: The transaction has ended.
        """
        self._settled = True
        self._native.abort()
