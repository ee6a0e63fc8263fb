"""What ``make demo-live`` shows is so."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kernel import blockdev
from kernel.blockdev import KernelLog
from kernel.disks import METADATA
from kernel.guest import say
from oracles import missing, require

PROGRAM = Path(__file__).resolve().parents[2] / "examples" / "demo_live.py"


@pytest.fixture
def programs() -> None:
    for program in ("dmsetup", "mkfs.ext4"):
        require(program)
    if "ext4" not in Path("/proc/filesystems").read_text().split():
        missing("this kernel has no ext4")


@pytest.mark.usefixtures("programs")
def test_the_demo_proves_what_it_says(kernel_log: KernelLog) -> None:
    """It notices in here that the kernel has been started already."""
    blockdev.write(METADATA.path, 0, bytes(4096))
    lines: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-u", PROGRAM],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            lines.append(line.rstrip("\n"))
            say({"demo": len(lines)})  # it takes long enough to be taken for hanging
    out = "\n".join(lines)
    assert demo.returncode == 0, out

    assert out.count("    The same: ") == 4
    assert out.strip().endswith("All 4 comparisons held.")
    assert max(map(len, lines)) <= 160
    digests = re.findall(r"^    ([0-9a-f]{64})  (\S+)$", out, re.MULTILINE)
    by_name: dict[str, list[str]] = {}
    for digest, name in digests:
        by_name.setdefault(Path(name).name, []).append(digest)
    assert by_name["moment"] == [*by_name["restored.img"], *by_name["restored"]]
    assert by_name["home"] == by_name["replica.img"] == by_name["copy.img"]
    read = re.findall(r"^    0000000[12]-\w+: ([\d.]+) MiB read", out, re.MULTILINE)
    assert len(read) == 2 and float(read[1]) < float(read[0]) / 2
    assert not [line for line in Path("/proc/mounts").read_text().splitlines() if "demo-" in line]


def test_a_missing_kernel_is_named_with_its_package(tmp_path: Path) -> None:
    environment = {**os.environ, "THINMETA_KERNEL": str(tmp_path / "no-kernel")}
    del environment["THINMETA_IN_KERNEL"]
    done = subprocess.run(
        [sys.executable, PROGRAM], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "no-kernel is not installed: it is in Debian's package user-mode-linux" in done.stderr
