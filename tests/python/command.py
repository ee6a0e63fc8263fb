"""The installed ``thinmeta`` program, run as a user runs it."""

import subprocess
import sys
from pathlib import Path


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
