"""How the commands of ``thinmeta backup`` say what goes on: in words, or as events.

With ``--json`` each event is one line of JSON on stdout: ``progress`` at most twice a
second, ``log`` for what the library has to say, and in the end ``done``, or ``error``.
"""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager
from time import monotonic

from thinmeta.cli.backup_key import KEY_OPTIONS
from thinmeta.cli.failures import judge
from thinmeta.cli.options import Option
from thinmeta.cli.output import flush_stdout, write_error, write_text
from thinmeta.cli.progress import Rate, progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from typing import Any

    from thinmeta.cli.options import Parsed

__all__ = ["COMMON", "Reporter"]

COMMON = (Option("help", "h"), Option("json"), Option("verbose", "v"), *KEY_OPTIONS)
EVERY_SECONDS = 0.5


class Reporter:
    """What a command says.

    Args:
        parsed: Its command line.
        command: Its name, for events.
    """

    def __init__(self, parsed: Parsed, command: str) -> None:
        self._json, self._command = parsed.has("json"), command
        self._verbose = parsed.has("verbose")

    def warnings(self) -> AbstractContextManager[None]:
        """As :meth:`logging`, for a command that prints one document and no events."""
        self._json = False
        return self.logging()

    @contextmanager
    def logging(self) -> Iterator[None]:
        """Say what the library logs: warnings, and more with ``--verbose``.

        A failure is an event, too, if events are printed.
        """
        log = logging.getLogger("thinmeta")
        handler = _Handler(self)
        handler.setLevel(logging.INFO if self._verbose or self._json else logging.WARNING)
        before = log.level
        log.setLevel(handler.level)
        log.addHandler(handler)
        try:
            yield
        except BaseException as error:
            status, message = judge(error)
            message = "; ".join([message, *getattr(error, "__notes__", ())]) if message else ""
            self.event("error", type=type(error).__name__, message=message, exit_status=status)
            raise
        finally:
            log.removeHandler(handler)
            log.setLevel(before)

    @contextmanager
    def progress(self, label: str) -> Iterator[Callable[[int, int], object] | None]:
        """What a long call is given as ``progress``."""
        if self._json:
            yield _Events(self)
            return
        with progress(label, in_bytes=True) as shown:
            yield shown

    def event(self, event: str, **facts: Any) -> None:
        """Print an event, if events are printed."""
        if self._json:
            import json

            write_text(json.dumps({"event": event, "command": self._command, **facts}) + "\n")
            flush_stdout()

    def done(self, text: str, **facts: Any) -> None:
        """Print what came of it, in words or as the last event."""
        if self._json:
            self.event("done", **facts)
        else:
            write_text(text)

    def say(self, level: str, message: str) -> None:
        """Pass on what the library logs."""
        if self._json:
            self.event("log", level=level, message=message)
        else:
            clear = "\r\x1b[K" if sys.stderr is not None and sys.stderr.isatty() else ""
            write_error(f"{clear}thinmeta: {message}\n")


class _Handler(logging.Handler):
    def __init__(self, reporter: Reporter) -> None:
        super().__init__()
        self._reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        message = " ".join(record.getMessage().split())
        self._reporter.say(record.levelname.lower(), message)


class _Events:
    """``progress(done, total)`` as events."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter, self._rate = reporter, Rate()
        self._next = 0.0

    def __call__(self, done: int, total: int) -> None:
        self._rate.update(done)
        now = monotonic()
        if now < self._next:
            return
        self._next = now + EVERY_SECONDS
        left = self._rate.remaining_seconds(done, total)
        self._reporter.event(
            "progress",
            done_bytes=done,
            total_bytes=total,
            bytes_per_second=round(self._rate.bytes_per_second),
            remaining_seconds=None if left is None else round(left, 1),
        )
