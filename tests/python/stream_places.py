"""Targets whose state can be put back, so that thousands of streams are received there."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from streams import Source, receive
from thinmeta.stream.targets import FileTarget, PoolTarget, Target

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

MEMORY = Path("/dev/shm")
WORK = ("partial", "journal", "new")


@contextmanager
def in_memory(factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder where flushes cost nothing."""
    if not os.access(MEMORY, os.W_OK):
        yield factory.mktemp("streams")
        return
    folder = MEMORY / f"thinmeta-{os.getpid()}-streams"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


class Place:
    """A target whose state can be put back, and looked at."""

    def __init__(self, folder: Path, monday: bytes | None) -> None:
        self.folder = folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        self.make()
        if monday is not None:
            receive(monday, self.target())
        self.files = {path: (path.read_bytes(), os.stat(path)) for path in self._paths()}

    def _paths(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if path.is_file()]

    def reset(self) -> None:
        for path in self._paths():
            if path not in self.files:
                path.unlink()
        for path, (content, found) in self.files.items():
            if not path.exists() or path.read_bytes() != content:
                path.write_bytes(content)
            os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))

    def make(self) -> None: ...
    def target(self) -> Target:
        raise NotImplementedError

    def content(self) -> bytes | None:
        raise NotImplementedError

    def leftovers(self) -> list[str]:
        """What nobody needs any more."""
        return [path.name for path in self._paths() if path.name.split("-")[-1] in WORK]


class FilePlace(Place):
    def target(self) -> Target:
        return FileTarget(str(self.folder / "copy.img"))

    def content(self) -> bytes | None:
        path = self.folder / "copy.img"
        return path.read_bytes() if path.exists() else None


class PoolPlace(Place):
    """A pool of blocks of another size than the source's."""

    def make(self) -> None:
        self.pool = Source(self.folder, sectors=384, data_blocks=40)

    def target(self) -> Target:
        return PoolTarget(str(self.pool.meta), str(self.pool.data), 5)

    def content(self) -> bytes | None:
        with self.pool.open() as pool:
            if 5 not in pool.devices:
                return None
        return self.pool.content(5)

    def leftovers(self) -> list[str]:
        with self.pool.open() as pool:
            return [str(each) for each in pool.devices if each != 5]
