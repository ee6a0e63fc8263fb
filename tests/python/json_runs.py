"""Every command that prints JSON, run on small pools, and the keys of what it prints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import small_pools
import thinmeta
from command import ThinmetaCommand
from corpus import Corpus
from model import DeviceModel, PoolModel

#: Objects whose keys are data: codes of findings, say.
FREE = {"findings", "findings_omitted", "operations", "reasons"}


def keys(value: Any) -> Iterator[str]:
    """All keys of a document, wherever they are."""
    if isinstance(value, list):
        for each in value:
            yield from keys(each)
    elif isinstance(value, dict):
        for name, each in value.items():
            yield name
            if not (name in FREE and isinstance(each, dict)):
                yield from keys(each)


class Runs:
    """The runs; each yields a command and what it printed.

    Args:
        command: The program.
        corpus: Images.
        folder: Where to work.
    """

    def __init__(self, command: ThinmetaCommand, corpus: Corpus, folder: Path) -> None:
        self._command, self._corpus, self._folder = command, corpus, folder

    def _run(self, *words: object, err: bool = False) -> tuple[str, list[Any]]:
        ran = self._command(*words, "--json")
        text = ran.stderr if err else ran.stdout
        assert text, (words, ran.stderr)
        try:
            documents = [json.loads(text)]
        except ValueError:
            documents = [json.loads(line) for line in text.splitlines()]
        return str(words[0]), documents

    def all(self) -> Iterator[tuple[str, list[Any]]]:
        """Run them."""
        yield from self._reading()
        yield from self._changing()
        yield from self._making()
        yield from self._moving()
        yield from self._backups()

    def _reading(self) -> Iterator[tuple[str, list[Any]]]:
        run, meta = self._run, self._corpus["metadata-full"].meta
        leaking = self._copy("needs-check")
        yield run("ls", meta)
        yield run("ls", "-o", "all", meta)
        yield run("ls", "--if-deleted", "0", meta)
        yield run("check", meta)
        yield run("check", "--skip-mappings", meta)
        yield run("check", "--auto-repair", leaking)
        yield run("check", "--clear-needs-check-flag", self._copy("needs-check"))
        damaged = self._copy("snaps-300")
        raw = bytearray(damaged.read_bytes())
        for block in range(4, len(raw) // 4096, 7):
            raw[block * 4096 + 100] ^= 1
        damaged.write_bytes(raw)
        yield run("check", damaged)
        yield run("dump", self._corpus["metadata-snap"].meta)
        yield run("delta", self._corpus["snap-chain"].meta, 0, 1)
        yield run("rmap", meta)
        yield run("stat", meta)
        for place in ("superblock", "devices"):
            yield run("explore", meta) if place == "superblock" else run("explore", damaged)
        pair = self._corpus["pair-zeroing-2"]
        yield run("extract", pair.meta, pair.data, 0, "-o", self._folder / "volume")
        yield run("size", "--data-size", "1T", "--block-size", "64K", "--devices", 10)

    def _copy(self, name: str) -> Path:
        path = self._folder / f"{name}.copy"
        path.write_bytes(self._corpus[name].meta.read_bytes())
        return path

    def _changing(self) -> Iterator[tuple[str, list[Any]]]:
        run, meta = self._run, self._folder / "pool"
        sizes = ("--data-block-size", "64K", "--data-blocks", 1000, "--metadata-blocks", 100)
        yield run("create", "--pool", meta, *sizes)
        yield run("create", meta, 1)
        yield run("snapshot", meta, 1, 2)
        yield run("bookmark", "save", meta, 2, self._folder / "bookmark")
        yield run("discard", meta, 1, 0, 1)
        yield run("grow", "--data-blocks", 2000, meta)
        yield run("set-transaction-id", meta, 0, 7)
        yield run("reserve-snapshot", meta)
        yield run("release-snapshot", meta)
        yield run("delete", meta, 2)
        script = self._folder / "script"
        script.write_text('{"op": "create_thin", "device_id": 5}\n')
        yield run("edit", meta, script)

    def _small(self) -> tuple[Path, Path]:
        pool = PoolModel(nr_data_blocks=100, time=3)
        for device_id, data in ((1, (10, 90)), (2, (20, 90))):
            mappings = {block: (place, 0) for block, place in enumerate(data)}
            pool.devices[device_id] = DeviceModel(device_id, mappings=mappings)
        meta, data_path = self._folder / "small", self._folder / "small.data"
        small_pools.make(pool, meta)
        small_pools.make_data(pool, data_path)
        return meta, data_path

    def _making(self) -> Iterator[tuple[str, list[Any]]]:
        run, out = self._run, self._folder / "new"
        meta, data = self._small()
        xml = self._folder / "xml"
        thinmeta.dump(meta, xml)
        yield run("restore", xml, "-o", out)
        image = self._corpus["deleted"].meta
        yield run("repair", "--plan", image)
        listed = run("repair", "--list-deleted", image)
        yield listed
        gone = listed[1][0]["deleted_devices"][0]["device_id"]
        yield run("repair", "--plan", "--undelete", gone, image)
        damaged = self._folder / "damaged"
        raw = bytearray(self._corpus["snaps-300"].meta.read_bytes())
        raw[:4096] = bytes([255]) * 4096
        for block in range(4, len(raw) // 4096, 7):
            raw[block * 4096 + 100] ^= 1
        damaged.write_bytes(raw)
        yield run("repair", damaged, "--data-block-size", 128, "-o", out)
        yield run("shrink", "--plan", meta)
        yield run("shrink", meta, "--data", data, "--data-blocks", 50, "-o", out)
        yield run("merge", meta, "--origin", 1, "--snapshot", 2, "--plan")
        yield run("merge", meta, "--origin", 1, "--snapshot", 2, "-o", out)
        base = self._folder / "base"
        base.write_bytes(bytes(2 * small_pools.BLOCK_BYTES))
        yield run("merge", meta, 1, "--data", data, "--into-external-origin", base)
        yield run("pack", meta, "-o", self._folder / "packed")
        yield run("unpack", self._folder / "packed", "-o", self._folder / "unpacked")
        yield run("trim", "-n", meta, "--data", data)

    def _moving(self) -> Iterator[tuple[str, list[Any]]]:
        run, folder = self._run, self._folder
        pair = self._corpus["pair-zeroing-2"]
        source = (pair.meta, 0, "--data", pair.data)
        yield run("send", *source, "--dry-run")
        yield run("send", *source, "-o", folder / "stream")
        yield run("stream", "inspect", folder / "stream")
        yield run("stream", "inspect", "--records", folder / "stream")
        yield run("migrate", *source, folder / "copy")
        yield run("migrate", "--dry-run", *source, folder / "other")
        yield run("receive", folder / "copy", "--print-state")

    def _backups(self) -> Iterator[tuple[str, list[Any]]]:
        run, repo = self._run, self._folder / "repo"
        pair = self._corpus["pair-zeroing-2"]
        yield run("backup", "init", repo)
        source = (pair.meta, 0, "--data", pair.data)
        yield run("backup", "create", repo, *source)
        yield run("backup", "list", repo)
        yield run("backup", "verify", repo)
        yield run("backup", "prune", "--keep-last", 1, repo)
        yield run("backup", "unlock", repo)
