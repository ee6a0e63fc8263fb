"""Loop devices: block devices that stand on files."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from oracles import find, missing


@contextmanager
def loop_device(path: Path) -> Iterator[Path]:
    """A loop device over a file; a skip where the system has none at all."""
    if not os.path.exists("/dev/loop-control"):
        pytest.skip("there is no /dev/loop-control")
    if os.geteuid() != 0:
        missing("loop devices need root")
    losetup = find("losetup")
    if losetup is None:
        missing("losetup is not installed")
    made = subprocess.run(
        [losetup, "--find", "--show", str(path)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        missing(f"no loop device here: {made.stderr.strip()}")
    device = made.stdout.strip()
    try:
        yield Path(device)
    finally:
        subprocess.run([losetup, "--detach", device], check=True)
