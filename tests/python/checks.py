"""Whether metadata are sound, as we and both generations of the tools see it."""

from __future__ import annotations

from pathlib import Path

import thinmeta
from oracles import NewerTools, ThinTools, newer_tools


class AllChecks:
    """Our check and both thin_checks; the newer one sleeps for half a second."""

    def __init__(self, tools: ThinTools) -> None:
        self._tools = tools
        self._newer: NewerTools | None = newer_tools()

    def __call__(self, meta: Path, *, newer: bool = True) -> None:
        report = thinmeta.check(meta)
        assert report.is_clean, report.findings
        done = self._tools.run("thin_check", "-q", meta)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        if newer and self._newer is not None:
            done = self._newer.run("thin_check", "-q", meta)
            assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
