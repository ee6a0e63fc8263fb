"""Progress of long work, on a terminal only and only after a second."""

from __future__ import annotations

import sys
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from rich.console import Console

__all__ = ["Progress", "Rate", "progress"]

PATIENCE_SECONDS = 1.0
#: Work in bytes changes its figures all the time; nobody reads them faster.
FIGURES_SECONDS = 0.2
#: The rate is that of so many seconds, about.
RATE_SECONDS = 5.0


class Rate:
    """How fast work in bytes goes, and how long it may still take.

    Attributes:
        bytes_per_second: Of late; 0 before anything was done.
    """

    def __init__(self) -> None:
        self._at = monotonic()
        self._done: int | None = None
        self.bytes_per_second = 0.0

    def update(self, done: int) -> None:
        """Take note of how far the work is."""
        now = monotonic()
        if self._done is None:
            # What was there before somebody looked was not done just now.
            self._at, self._done = now, done
            return
        seconds = now - self._at
        if seconds < FIGURES_SECONDS / 2:
            return
        here = max(done - self._done, 0) / seconds
        # What is longer ago weighs less; the first rate stands for itself.
        weight = 1.0 if not self.bytes_per_second else min(seconds / RATE_SECONDS, 1.0)
        self.bytes_per_second += (here - self.bytes_per_second) * weight
        self._at, self._done = now, done

    def remaining_seconds(self, done: int, total: int) -> float | None:
        """How long the rest may take; ``None`` while nothing is known."""
        if not self.bytes_per_second or total <= 0:
            return None
        return max(total - done, 0) / self.bytes_per_second


class Progress:
    """A ``progress(done, total)`` callable that draws on stderr once work takes long.

    Leaving the ``with`` block removes what was drawn.

    Args:
        label: What the work is called.
        in_bytes: Whether it is counted in bytes: amount, rate and remaining time are
            shown then.
    """

    def __init__(self, label: str, *, in_bytes: bool = False) -> None:
        self._label = label
        self._started = monotonic()
        self._drawing: _Bar | _Line | None = None
        self._rate = Rate() if in_bytes else None
        self._drawn = 0.0

    def __call__(self, done: int, total: int) -> None:
        """Take note of how far the work is."""
        if self._rate is not None:
            self._rate.update(done)
        now = monotonic()
        if self._drawing is None:
            if now - self._started < PATIENCE_SECONDS:
                return
            self._drawing = _drawing(self._label)
        if self._rate is None:
            self._drawing.draw(done, total)
        elif now - self._drawn >= FIGURES_SECONDS or done >= total:
            self._drawn = now
            self._drawing.draw(done, total, _figures(self._rate, done, total))

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


def progress(label: str, *, quiet: bool = False, in_bytes: bool = False) -> Progress | _Silence:
    """Progress under a label if stderr is a terminal, and ``None`` otherwise.

    The answer is a context manager, whose value is for the ``progress`` argument
    of a long call.
    """
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        return _Silence()
    return Progress(label, in_bytes=in_bytes)


def _figures(rate: Rate, done: int, total: int) -> str:
    """Amount, rate and remaining time: ``1.2 GiB of 4 GiB, 310.5 MiB/s, 0:12 left``."""
    from thinmeta.report import human_bytes

    words = [f"{human_bytes(done)} of {human_bytes(total)}"]
    if rate.bytes_per_second:
        words.append(f"{human_bytes(int(rate.bytes_per_second))}/s")
    left = _remaining(rate, done, total)
    return ", ".join([*words, f"{left} left"] if left else words)


def _remaining(rate: Rate, done: int, total: int) -> str:
    """How long it may still take, as ``0:12``; empty while nothing is known."""
    seconds = rate.remaining_seconds(done, total)
    if seconds is None or seconds >= 100 * 3600:
        return ""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class _Line:
    """A plain line that is written over and over."""

    def __init__(self, label: str) -> None:
        self._label, self._text = label, ""

    def draw(self, done: int, total: int, figures: str = "") -> None:
        share = f"{min(done * 100 // total, 100):3d} %" if total > 0 else str(done)
        text = f"{self._label}: {share}" + (f", {figures}" if figures else "")
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
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._bars = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
            transient=True,
            auto_refresh=False,
        )
        self._rate = Rate()
        self._task = self._bars.add_task(label, total=None, figures="")
        self._bars.start()

    def draw(self, done: int, total: int, figures: str = "") -> None:
        if not figures:
            self._rate.update(done)
            figures = _remaining(self._rate, done, total)
        self._bars.update(
            self._task, completed=done, total=total or None, figures=figures, refresh=True
        )

    def remove(self) -> None:
        self._bars.stop()
