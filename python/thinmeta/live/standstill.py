"""Suspending a volume for a moment."""

from __future__ import annotations

from thinmeta.errors import LivePoolError
from thinmeta.live import dmsetup
from thinmeta.live.programs import Guard, finish

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = ["Standstill"]


class Standstill:
    """A context manager in which an active device stands still.

    Leaving it lets the device go on, whatever has happened, and so does the end of the
    process, even if it is killed; one that was suspended before stays so. Entering raises
    :class:`LivePoolError` where it is not active or cannot be suspended; leaving, where it
    cannot be resumed.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._guard: Guard | None = None

    @property
    def keep(self) -> tuple[int, ...]:
        """What a program has to inherit that wants the device to stand still to its end."""
        return () if self._guard is None else (self._guard.descriptor,)

    def __enter__(self) -> Self:
        try:
            finish(self._begin)
        except BaseException as failure:
            self._end(failure)
            raise
        return self

    def __exit__(
        self,
        raised: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end(value)

    def _begin(self) -> None:
        if dmsetup.info(self.name).suspended:
            return
        # From here on it may be suspended, even if what follows fails half-way.
        self._guard = Guard(self.name, "dmsetup", ("resume", "--", self.name))
        dmsetup.suspend(self.name)

    def _resume(self) -> None:
        guard, self._guard = self._guard, None
        if guard is None:
            return
        try:
            dmsetup.resume(self.name)
        except LivePoolError as error:
            reason = f"{error.reason}: the volume is still suspended: 'dmsetup resume {self.name}'"
            raise LivePoolError(self.name, reason, error.errno or 0) from error
        finally:
            guard.dismiss()

    def _end(self, failure: BaseException | None) -> None:
        try:
            finish(self._resume)
        except LivePoolError as error:
            if failure is None:
                raise
            failure.add_note(str(error))
