"""Progress of long work, on a terminal only and only after a second."""

from __future__ import annotations

import sys
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from rich.console import Console

__all__ = ["Progress", "progress"]

PATIENCE_SECONDS = 1.0


class Progress:
    """A ``progress(done, total)`` callable that draws on stderr once work takes long.

    Leaving the ``with`` block removes what was drawn.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._started = monotonic()
        self._drawing: _Bar | _Line | None = None

    def __call__(self, done: int, total: int) -> None:
        """Take note of how far the work is."""
        if self._drawing is None:
            if monotonic() - self._started < PATIENCE_SECONDS:
                return
            self._drawing = _drawing(self._label)
        self._drawing.draw(done, total)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        raised: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._drawing is not None:
            self._drawing.remove()
            self._drawing = None


class _Silence:
    """Stands for progress where nobody looks; costs the work nothing."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exception: object) -> None:
        return None


def progress(label: str, *, quiet: bool = False) -> Progress | _Silence:
    """Progress under a label if stderr is a terminal, and ``None`` otherwise.

    The answer is a context manager, whose value is for the ``progress`` argument
    of a long call.
    """
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        return _Silence()
    return Progress(label)


class _Line:
    """A plain line that is written over and over."""

    def __init__(self, label: str) -> None:
        self._label, self._text = label, ""

    def draw(self, done: int, total: int) -> None:
        share = f"{min(done * 100 // total, 100):3d} %" if total > 0 else str(done)
        text = f"{self._label}: {share}"
        if text != self._text:
            self._write("\r" + text.ljust(len(self._text)))
            self._text = text

    def remove(self) -> None:
        self._write("\r" + " " * len(self._text) + "\r")

    def _write(self, text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except OSError:
            pass


def _drawing(label: str) -> _Bar | _Line:
    """The best that is there; on a dumb terminal rich would draw nothing."""
    try:
        from rich.console import Console
    except ImportError:
        return _Line(label)
    console = Console(stderr=True)
    return _Bar(label, console) if console.is_interactive else _Line(label)


class _Bar:
    """A bar, where rich is installed."""

    def __init__(self, label: str, console: Console) -> None:
        from rich.progress import Progress as RichProgress

        self._bars = RichProgress(console=console, transient=True, auto_refresh=False)
        self._task = self._bars.add_task(label, total=None)
        self._bars.start()

    def draw(self, done: int, total: int) -> None:
        self._bars.update(self._task, completed=done, total=total or None, refresh=True)

    def remove(self) -> None:
        self._bars.stop()
