"""The installed ``thinmeta`` program, run as a user runs it."""

import json
import os
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


def is_writing(pid: int, folder: Path) -> bool:
    """Whether a process has a file of that folder open for writing, with a name or without."""
    try:
        for each in Path(f"/proc/{pid}/fd").iterdir():
            place, info = os.readlink(each), (each.parent.parent / "fdinfo" / each.name).read_text()
            flags = int(info.partition("flags:")[2].split()[0], 8)
            if place.startswith(f"{folder}/") and flags & (os.O_WRONLY | os.O_RDWR):
                return True
    except (FileNotFoundError, ProcessLookupError):
        return False  # closed meanwhile
    return False


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
