"""Peers to compare with: Debian's thin-provisioning-tools, readers of our tables.

With ``THINMETA_ORACLES=require`` a peer that is missing fails the test; without
it, the test is skipped and says which one it wanted.
"""

import importlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, NoReturn
from xml.etree import ElementTree

import pytest

SEARCH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
REQUIRED = os.environ.get("THINMETA_ORACLES") == "require"


def missing(what: str) -> NoReturn:
    """Skip, or fail where oracles are required."""
    if REQUIRED:
        pytest.fail(f"{what}, and THINMETA_ORACLES=require")
    pytest.skip(what)


def find(tool: str) -> str | None:
    return shutil.which(tool, path=SEARCH)


def require(tool: str) -> str:
    """The path of a tool that a test cannot do without."""
    path = find(tool)
    if path is None:
        missing(f"{tool} is not installed")
    return path


def require_module(name: str) -> Any:
    """A module that a test cannot do without."""
    try:
        return importlib.import_module(name)
    except ImportError:
        missing(f"{name} is not installed")


class ThinTools:
    """The installed thin-provisioning-tools, one method for each program."""

    def __init__(self) -> None:
        for tool in ("thin_check", "thin_delta", "thin_dump", "thin_ls", "thin_restore"):
            require(tool)

    def run(self, tool: str, *args: str | Path) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([require(tool), *map(str, args)], capture_output=True, check=False)

    def restore(self, xml: bytes, image: Path, *, metadata_bytes: int = 4 << 20) -> None:
        """Make an image from a listing."""
        listing = image.with_suffix(".xml")
        listing.write_bytes(xml)
        with image.open("wb") as file:
            file.truncate(metadata_bytes)
        self.run("thin_restore", "-i", listing, "-o", image).check_returncode()

    def check(self, image: Path) -> int:
        return self.run("thin_check", "-q", image).returncode

    def dump(self, image: Path, *options: str) -> bytes:
        done = self.run("thin_dump", *options, image)
        done.check_returncode()
        return done.stdout

    def delta(self, image: Path, left: int, right: int) -> list[tuple[str, int, int]]:
        """Differences only, with thin_delta's own words for the kinds."""
        done = self.run("thin_delta", "--snap1", str(left), "--snap2", str(right), image)
        done.check_returncode()
        return [
            (element.tag, int(element.attrib["begin"]), int(element.attrib["length"]))
            for element in ElementTree.fromstring(done.stdout).iter()
            if "begin" in element.attrib and element.tag != "same"
        ]

    def exclusive_blocks(self, image: Path) -> dict[int, tuple[int, int]]:
        done = self.run(
            "thin_ls", "--no-headers", "-o", "DEV,EXCLUSIVE_BLOCKS,SHARED_BLOCKS", image
        )
        done.check_returncode()
        rows = (map(int, line.split()) for line in done.stdout.splitlines() if line.strip())
        return {device: (exclusive, shared) for device, exclusive, shared in rows}


class NewerTools:
    """The newer generation of the tools, where `make peers` or ``.ci/run`` has put it."""

    def __init__(self, program: Path) -> None:
        self.program = program

    def run(self, tool: str, *args: str | Path) -> subprocess.CompletedProcess[bytes]:
        words: list[str | Path] = [self.program, tool, *args]
        return subprocess.run(words, capture_output=True, check=False)

    def dump(self, image: Path, *options: str) -> bytes:
        done = self.run("thin_dump", *options, image)
        done.check_returncode()
        return done.stdout


def newer_tools() -> NewerTools | None:
    """``None`` where they are not at hand; where oracles are required they have to be."""
    root = Path(__file__).resolve().parents[2]
    program = Path(os.environ.get("THINMETA_PEERS", root / ".peers")) / "bin" / "pdata_tools"
    if program.exists():
        return NewerTools(program)
    if REQUIRED:
        pytest.fail(f"{program} is not there: `make peers`; and THINMETA_ORACLES=require")
    return None
