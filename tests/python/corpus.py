"""The images of ``tests/fixtures``, unpacked once per session."""

import hashlib
import json
import lzma
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from model import PoolModel

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
THIN = sorted(folder.name for folder in (FIXTURES / "thin").iterdir())
OTHER_TARGETS = sorted(
    f"{kind}/{folder.name}" for kind in ("cache", "era") for folder in (FIXTURES / kind).iterdir()
)
#: Images with parts that devices share, which 1.1.0 printed once.
SHARED_DUMPS = [
    name for name in THIN if (FIXTURES / "thin" / name / "thin_dump-1.1.0.xml.xz").exists()
]


def _facts(name: str) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((FIXTURES / "thin" / name / "facts.json").read_text())
    return facts


#: Images of which the kernel's last status speaks: it was not killed afterwards.
STATUS_IS_FINAL = [
    name
    for name in THIN
    if "pool" in (reported := _facts(name)["kernel_reported"])
    and not reported.get("image_may_be_later")
]


class Image:
    """One fixture: its bytes, and what is known of it."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.name = folder.name
        self._folder = folder
        self._scratch = scratch
        self.facts: dict[str, Any] = json.loads((folder / "facts.json").read_text())

    def unpacked(self, part: str) -> Path:
        """The path of ``meta``, ``data`` or ``ext``; never written by a test."""
        path = self._scratch / f"{self.name}.{part}.img"
        if not path.exists():
            content = lzma.decompress((self._folder / f"{part}.img.xz").read_bytes())
            assert hashlib.sha256(content).hexdigest() == self.facts["images"][part]["sha256"]
            write_sparse(path, content)
        return path

    @property
    def meta(self) -> Path:
        return self.unpacked("meta")

    @property
    def data(self) -> Path:
        return self.unpacked("data")

    @property
    def has_held_root(self) -> bool:
        return self.facts["superblock"]["held_root"] is not None

    def dump_of(self, version: str, root: str = "live") -> bytes | None:
        """What thin_dump printed, if the fixture keeps it."""
        file = self.facts["dumps"][root].get(version, {}).get("file")
        return lzma.decompress((self._folder / file).read_bytes()) if file else None

    def peers(self) -> Iterable[dict[str, Any]]:
        """The recorded answers of each version of the tools."""
        for path in sorted(self._folder.glob("peers-*.json.xz")):
            yield json.loads(lzma.decompress(path.read_bytes()))

    @cached_property
    def model(self) -> PoolModel:
        return self._model("live")

    @cached_property
    def held_model(self) -> PoolModel:
        return self._model("held")

    def _model(self, root: str) -> PoolModel:
        listing = self.dump_of("0.9.0", root)
        assert listing is not None
        return PoolModel.from_xml(listing)


class Corpus:
    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._images: dict[str, Image] = {}

    def __getitem__(self, name: str) -> Image:
        """A thin image by its name, or another one by its path, ``era/era-basic``."""
        if name not in self._images:
            path = name if "/" in name else f"thin/{name}"
            self._images[name] = Image(FIXTURES / path, self._scratch)
        return self._images[name]


def write_sparse(path: Path, content: bytes) -> None:
    """Write a file with holes where the content is zero."""
    chunk = 1 << 16
    with path.open("wb") as out:
        for at in range(0, len(content), chunk):
            piece = content[at : at + chunk]
            if piece.strip(b"\0"):
                out.seek(at)
                out.write(piece)
        out.truncate(len(content))
