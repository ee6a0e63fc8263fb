"""Ending a call from outside, at places where an exception does no harm."""

from __future__ import annotations

from contextvars import ContextVar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from threading import Event

__all__ = ["STOP", "Stopped", "stop_point"]

#: Set in the context of a call that may be ended; the call ends when the event is set.
STOP: ContextVar[Event | None] = ContextVar("STOP", default=None)


class Stopped(BaseException):
    """What ends a call that nobody waits for any more."""


def stop_point() -> None:
    """End here, if that was asked for; called now and then by whatever takes long.

    Raises:
        Stopped: It was.
    """
    event = STOP.get()
    if event is not None and event.is_set():
        raise Stopped
