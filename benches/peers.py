"""Finds what is to be measured: thinmeta itself, and every peer on this machine."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSION = re.compile(r"\d+\.\d+\.\d+")


@dataclass(frozen=True)
class Peer:
    """One version of thin-provisioning-tools, started as `pdata_tools thin_…`."""

    version: str
    program: Path
    environment: dict[str, str] = field(default_factory=dict)
    name: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.version)

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.version.split("."))

    @property
    def is_1x(self) -> bool:
        """Whether this is a Rust one: it sleeps, and it reads and prints <def> and <ref>."""
        return self.numbers >= (1, 0, 0)

    def command(self, tool: str, *arguments: object) -> list[str]:
        return [str(self.program), tool, *map(str, arguments)]

    def without_sleep(self, shim: Path | None) -> Peer:
        """The same, its sleeps cut short, for reading its work and not its waiting."""
        if not self.is_1x or shim is None:
            return self
        return replace(self, name=f"{self.version} work", environment={"LD_PRELOAD": str(shim)})


@dataclass(frozen=True)
class Thinmeta:
    """Our own command as its environment's console script, and that environment's interpreter."""

    program: Path
    python: Path
    version: str

    def command(self, *arguments: object) -> list[str]:
        return [str(self.program), *map(str, arguments)]


def version_of(command: Sequence[str]) -> str | None:
    """What `COMMAND --version` says, or None when it cannot be run."""
    try:
        done = subprocess.run(
            [*command, "--version"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = VERSION.search(done.stdout + done.stderr)
    return found.group() if found and done.returncode == 0 else None


def find_peers(extra: Sequence[Path] = ()) -> list[Peer]:
    """Peers in .peers/, on the PATH and named by hand; one of each version, oldest first."""
    places = [*extra, ROOT / ".peers" / "bin" / "pdata_tools"]
    places += [Path(found) for found in [shutil.which("pdata_tools")] if found]
    places += [Path("/usr/sbin/pdata_tools")]
    peers: dict[str, Peer] = {}
    for place in places:
        version = version_of([str(place), "thin_check"])
        if version and version not in peers:
            peers[version] = Peer(version, place)
    return sorted(peers.values(), key=lambda peer: peer.numbers)


def find_thinmeta(given: Path | None) -> Thinmeta | None:
    """The command given, or the project's environment's, or the one on the PATH."""
    on_path = shutil.which("thinmeta")
    places = [given] if given else [ROOT / ".venv" / "bin" / "thinmeta"]
    places += [Path(on_path)] if on_path and not given else []
    for place in places:
        version = version_of([str(place)]) if place.exists() else None
        if version:
            python = place.parent / "python"
            # pip does so when it installs the wheel. An editable install leaves it to the first
            # start, and every one would do it again where PYTHONDONTWRITEBYTECODE is set.
            code = "import compileall as it, thinmeta; it.compile_dir(*thinmeta.__path__, quiet=2)"
            subprocess.run([python, "-c", code], check=False)
            return Thinmeta(place, python, version)
    return None
