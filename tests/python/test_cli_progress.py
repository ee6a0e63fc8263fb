"""Progress shows on a terminal, after a second, and goes away again."""

import io
import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest

from command import ThinmetaCommand
from corpus import Corpus
from oracles import require_module
from thinmeta.cli import progress as module
from thinmeta.cli.progress import Progress, progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def watch(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Put a terminal in place of stderr; pytest would take it away from a fixture."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


def test_a_dumb_terminal_has_a_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watch(monkeypatch)
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setenv("TERM", "dumb")
    with Progress("checking") as report:
        report(1, 4)
    assert terminal.getvalue().startswith("\rchecking:  25 %")


@pytest.fixture
def without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)


def test_nothing_is_called_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress("checking") as report:
        assert report is None
    monkeypatch.setattr(sys, "stderr", None)
    with progress("checking") as report:
        assert report is None


def test_quiet_is_quiet_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    watch(monkeypatch)
    with progress("checking", quiet=True) as report:
        assert report is None


def test_short_work_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watch(monkeypatch)
    with progress("checking") as report:
        assert isinstance(report, Progress)
        report(1, 2)
    assert terminal.getvalue() == ""


def test_long_work_shows_a_line_without_rich(
    without_rich: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = watch(monkeypatch)
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.0)
    with Progress("checking") as report:
        report(1, 4)
        report(1, 4)
        report(4, 4)
    assert terminal.getvalue() == (
        "\rchecking:  25 %\rchecking: 100 %\r" + " " * len("checking: 100 %") + "\r"
    )


def test_long_work_shows_a_bar_with_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    require_module("rich")
    terminal = watch(monkeypatch)
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    with Progress("checking") as report:
        report(1, 4)
    assert "checking" in terminal.getvalue()
    assert "25%" in terminal.getvalue()


def test_the_command_shows_progress_on_a_terminal(command: ThinmetaCommand, corpus: Corpus) -> None:
    image = corpus["pair-zeroing-1"]
    words = command.argv("extract", image.meta, image.data, 0, "-o", "/dev/null", "--size=4T")
    ours, theirs = pty.openpty()
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=theirs) as run:
        try:
            os.close(theirs)
            begun, shown = time.monotonic(), b""
            while b"extracting" not in shown:
                assert select.select([ours], [], [], 30)[0]
                shown += os.read(ours, 4096)
                assert time.monotonic() - begun > 0.9
            run.send_signal(signal.SIGINT)
            while b"thinmeta: interrupted" not in shown:
                assert select.select([ours], [], [], 30)[0]
                shown += os.read(ours, 4096)
            assert run.wait(30) == 130
        finally:
            run.kill()
            os.close(ours)


def test_work_in_bytes_shows_amount_rate_and_remaining_time(
    without_rich: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = watch(monkeypatch)
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.0)
    now = 100.0
    monkeypatch.setattr(module, "monotonic", lambda: now)
    with Progress("backing up", in_bytes=True) as report:
        report(0, 100 << 20)
        for done in range(1, 31):
            now += 1.0
            report(done << 20, 100 << 20)
        report(30 << 20, 100 << 20)
    lines = [line for line in terminal.getvalue().split("\r") if line.strip()]
    assert lines[0] == "backing up:   0 %, 0 B of 100 MiB"
    assert lines[-1] == "backing up:  30 %, 30 MiB of 100 MiB, 1 MiB/s, 1:10 left"
    assert terminal.getvalue().endswith("\r" + " " * len(lines[-1]) + "\r")


def test_figures_do_not_flicker(without_rich: None, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watch(monkeypatch)
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.0)
    now = 100.0
    monkeypatch.setattr(module, "monotonic", lambda: now)
    with Progress("backing up", in_bytes=True) as report:
        for done in range(1000):
            now += 0.001
            report(done, 2000)
    assert terminal.getvalue().count("backing up") <= 7


def test_a_bar_shows_the_same_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    require_module("rich")
    terminal = watch(monkeypatch)
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    now = 100.0
    monkeypatch.setattr(module, "monotonic", lambda: now)
    with Progress("restoring", in_bytes=True) as report:
        for done in range(4):
            now += 1.0
            report(done << 30, 4 << 30)
    assert "3 GiB of 4 GiB, 1 GiB/s, 0:01 left" in terminal.getvalue()


def test_a_rate_follows_what_happens_and_an_hour_has_minutes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(module, "monotonic", lambda: now)
    rate = module.Rate()
    assert rate.remaining_seconds(0, 100) is None
    rate.update(50)  # was there already
    for _ in range(50):
        now += 1.0
        rate.update(int(50 + 10 * now))
    assert 9.9 < rate.bytes_per_second < 10.1
    for _ in range(50):
        now += 1.0
        rate.update(550)
    assert rate.bytes_per_second < 0.1
    assert module._remaining(rate, 550, 550) in ("", "0:00")
    rate.bytes_per_second = 1.0
    assert module._remaining(rate, 0, 3 * 3600 + 62) == "3:01:02"
    assert module._remaining(rate, 0, 10**9) == ""
