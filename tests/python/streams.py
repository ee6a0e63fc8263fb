"""Pools whose volumes are sent, and what is received."""

from __future__ import annotations

import io
import random
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import thinmeta
from thinmeta import stream
from thinmeta.source import ImageGeneration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from thinmeta.bookmark import Bookmark

BLOCK = 64 << 10
#: Enough for small volumes; checkpoints after each record.
SIZE = 8 * BLOCK + 5000


class Source:
    """A pool with volumes that are written, snapshotted and sent."""

    def __init__(self, folder: Path, *, sectors: int = 128, data_blocks: int = 200) -> None:
        folder.mkdir(exist_ok=True)
        self.meta, self.data = folder / "meta.img", folder / "data.img"
        self.data.write_bytes(b"")
        with self.data.open("r+b") as file:
            file.truncate(data_blocks * sectors * 512)
        thinmeta.Pool.create(
            self.meta, data_block_size_sectors=sectors, data_blocks=data_blocks, metadata_blocks=300
        ).close()
        self.size = SIZE

    @contextmanager
    def open(self, *, mode: Any = "r") -> Iterator[thinmeta.Pool]:
        with thinmeta.open_pool(self.meta, mode=mode, data=self.data) as pool:
            yield pool

    def create(self, device_id: int) -> None:
        with self.open(mode="r+") as pool, pool.transaction() as txn:
            txn.create_thin(device_id)

    def snapshot(self, device_id: int, origin_id: int = 1) -> None:
        with self.open(mode="r+") as pool, pool.transaction() as txn:
            txn.create_snapshot(device_id, origin_id=origin_id)

    def delete(self, device_id: int) -> None:
        with self.open(mode="r+") as pool, pool.transaction() as txn:
            txn.delete(device_id)

    def write(self, device_id: int, *parts: tuple[int, bytes]) -> None:
        with (
            self.open(mode="r+") as pool,
            pool.devices[device_id].open(mode="r+", size_bytes=self.size) as volume,
        ):
            for offset, content in parts:
                volume.seek(offset)
                volume.write(content)

    def discard(self, device_id: int, offset: int, length: int) -> None:
        with (
            self.open(mode="r+") as pool,
            pool.devices[device_id].open(mode="r+", size_bytes=self.size) as volume,
        ):
            volume.discard(offset, length)

    def content(self, device_id: int, **options: Any) -> bytes:
        options.setdefault("size_bytes", self.size)
        with self.open() as pool, pool.devices[device_id].open(**options) as volume:
            content: bytes = volume.readall()
            return content

    @contextmanager
    def generation(self, device_id: int, **options: Any) -> Iterator[ImageGeneration]:
        options.setdefault("size_bytes", self.size)
        with self.open() as pool, ImageGeneration(pool, device_id, **options) as generation:
            yield generation

    def send(
        self,
        device_id: int,
        base: int | Bookmark | None = None,
        *,
        options: dict[str, Any] | None = None,
        **sending: Any,
    ) -> bytes:
        """A stream with checkpoints wherever there can be one."""
        sending.setdefault("checkpoint_bytes", 1)
        sending.setdefault("threads", 2)
        with self.generation(device_id, **(options or {})) as generation:
            out = io.BytesIO()
            report = stream.send(generation, out, base=base, **sending)
        assert report.stream_bytes == len(out.getvalue())
        return out.getvalue()


def pattern(seed: int, length: int) -> bytes:
    """Bytes that zstd makes shorter, and that no other seed has."""
    draw = random.Random(seed)
    return (draw.randbytes(64) * (length // 64 + 1))[:length]


def monday_and_tuesday(folder: Path) -> Source:
    """Volume 1, with snapshots 2 and 3: written, unmapped, left alone in between."""
    source = Source(folder)
    source.create(1)
    draw = random.Random(7)
    source.write(
        1,
        (0, pattern(1, BLOCK)),
        (2 * BLOCK, pattern(2, 2 * BLOCK)),
        (5 * BLOCK + 100, b"a few bytes"),
        (SIZE - 3000, draw.randbytes(3000)),
    )
    source.snapshot(2)
    source.write(1, (2 * BLOCK + 7, b"tuesday"), (6 * BLOCK, draw.randbytes(500)))
    source.discard(1, 0, BLOCK)
    source.snapshot(3)
    return source


def receive(data: bytes, target: Any, **options: Any) -> stream.ReceiveReport:
    return stream.receive(io.BytesIO(data), target, **options)
