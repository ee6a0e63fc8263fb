"""Loop devices: block devices that stand on files."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from oracles import find, missing


@contextmanager
def loop_device(path: Path, *, read_only: bool = False) -> Iterator[Path]:
    """A loop device over a file; a skip where the system has none at all.

    A device keeps its read-only flag when it is detached, so it is always told which way.
    """
    if not os.path.exists("/dev/loop-control"):
        pytest.skip("there is no /dev/loop-control")
    if os.geteuid() != 0:
        missing("loop devices need root")
    losetup, blockdev = find("losetup"), find("blockdev")
    if losetup is None or blockdev is None:
        missing("losetup or blockdev is not installed")
    made = subprocess.run(
        [losetup, "--find", "--show", str(path)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        missing(f"no loop device here: {made.stderr.strip()}")
    device = made.stdout.strip()
    try:
        subprocess.run([blockdev, "--setro" if read_only else "--setrw", device], check=True)
        yield Path(device)
    finally:
        subprocess.run([blockdev, "--setrw", device], check=True)
        subprocess.run([losetup, "--detach", device], check=True)
