"""SIGTERM and SIGHUP as exceptions, so that unfinished output is removed."""

from __future__ import annotations

import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

__all__ = ["Terminated", "raise_on_termination"]


class Terminated(KeyboardInterrupt):
    """The process was asked to end.

    Attributes:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated(number)


def raise_on_termination() -> None:
    """From now on a signal that would kill the process unwinds it instead."""
    import threading

    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _terminate)
