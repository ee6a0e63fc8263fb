"""Run tests in the kernel, and report them as if they had run here.

Outside, :class:`Outside` takes the place of running a test: the first one boots the
kernel, with all tests of this folder that were collected; then the reports of each are
waited for in turn. Inside, :class:`Inside` sends them. It is how pytest-xdist does it.
"""

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import pytest

from kernel.guest import say
from kernel.uml import Guest, KernelError

#: A test that takes longer without a word hangs.
SILENCE_SECONDS = float(os.environ.get("THINMETA_KERNEL_SECONDS", "120"))


class Inside:
    """The half in the kernel: each report goes out as it is made."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
        say({"report": data})

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            print(report.longreprtext, flush=True)


class Outside:
    """The half outside: one kernel for all tests, booted for the first."""

    def __init__(self, kernel: str, config: pytest.Config, folder: Path) -> None:
        self.kernel, self.config, self.folder = kernel, config, folder
        self.guest: Guest | None = None
        self.messages: Iterator[dict[str, Any]] = iter(())
        self.reports: dict[str, list[pytest.TestReport]] = defaultdict(list)
        self.failure: str | None = None
        self.told = False  # what the console has, once

    def is_ours(self, item: pytest.Item) -> bool:
        return self.folder in item.path.parents

    def run(self, item: pytest.Item) -> None:
        """Report one test."""
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._reports_of(item):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)

    def close(self) -> None:
        if self.guest is not None:
            self.guest.close()

    def _start(self, session: pytest.Session) -> None:
        ours = [item.nodeid for item in session.items if self.is_ours(item)]
        # Its own report goes to the console, where it is looked for when all else fails.
        options = ["-p", "no:cacheprovider", f"--rootdir={self.config.rootpath}"]
        self.guest = Guest(
            self.kernel,
            {
                "folder": str(self.config.rootpath),
                "environment": dict(os.environ),
                "call": ["pytest", "main", [*options, *ours]],
            },
        )
        self.messages = self.guest.messages(silence_seconds=SILENCE_SECONDS)

    def _reports_of(self, item: pytest.Item) -> list[pytest.TestReport]:
        try:
            if self.guest is None and self.failure is None:
                self._start(item.session)
            while self.failure is None and not self._complete(item):
                self._hear(next(self.messages))
        except (KernelError, OSError, CalledProcessError) as error:
            self.failure = f"{self.kernel}: {error}"
        except StopIteration:
            self.failure = "the kernel ended before this test"
        if self._complete(item):
            return self.reports.pop(item.nodeid)
        text = str(self.failure)
        if self.guest is not None and not self.told:
            text, self.told = f"{text}\n\n{self.guest.console_text()}", True
        return [
            pytest.TestReport(item.nodeid, item.location, {}, "failed", text, "call"),
            *self.reports.pop(item.nodeid, []),
        ]

    def _hear(self, message: dict[str, Any]) -> None:
        if "report" in message:
            report = self.config.hook.pytest_report_from_serializable(
                config=self.config, data=message["report"]
            )
            self.reports[report.nodeid].append(report)
        elif message.get("ended", 0) > 1 or message.get("ended", 0) < 0:
            # 0 and 1 mean that tests ran, however they went.
            self.failure = f"pytest in the kernel ended with {message['ended']}"

    def _complete(self, item: pytest.Item) -> bool:
        return any(report.when == "teardown" for report in self.reports[item.nodeid])


def in_kernel() -> bool:
    return "THINMETA_IN_KERNEL" in os.environ
