"""The installed ``thinmeta`` program, run as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


class ThinmetaCommand:
    def __init__(self) -> None:
        self.program = Path(sys.executable).with_name("thinmeta")
        assert self.program.exists(), "install the wheel into this environment first"

    def argv(self, *args: object) -> list[str]:
        return [str(self.program), *map(str, args)]

    def __call__(self, *args: object) -> subprocess.CompletedProcess[str]:
        """Run to the end; the time limit is a guard against a hang, nothing more."""
        return subprocess.run(
            self.argv(*args), capture_output=True, text=True, timeout=120, check=False
        )


def as_json(run: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert run.returncode == 0, run.stderr
    value: dict[str, Any] = json.loads(run.stdout)
    return value


def fails(run: subprocess.CompletedProcess[str], status: int, says: str) -> None:
    """A failure is one line on stderr, nothing on stdout, no traceback."""
    assert run.returncode == status, run.stderr
    assert run.stderr.startswith("thinmeta: ")
    assert run.stderr.count("\n") == 1 and run.stderr.endswith("\n")
    assert says in run.stderr
    assert run.stdout == ""
