"""Histories of a pool, of which each snapshot is sent to copies that have the one before."""

from __future__ import annotations

import io
import os
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import thinmeta
from streams import BLOCK, Source, receive
from thinmeta import stream
from thinmeta.bookmark import Bookmark
from thinmeta.stream.targets import PoolTarget

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class Copy:
    """A target, and the state that it holds: a snapshot, or the bookmark of one."""

    def __init__(self, target: Any, content: Any) -> None:
        self.target, self.content = target, content
        self.base: int | Bookmark | None = None

    def receive(self, source: Source, snapshot: int, **options: Any) -> None:
        data = source.send(snapshot, self.base, options=options)
        expected = source.content(snapshot, **options)
        report = receive(data, self.target(), overwrite=self.base is None)
        assert report.identity.device_id == snapshot
        assert self.content() == expected


class History:
    """A volume, changed in every way, and three copies that follow it.

    One is made from snapshots that are kept, one from bookmarks of snapshots that are gone,
    one is a volume of another pool.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.draw = random.Random(seed)
        sectors, other = self.draw.choice((128, 384)), self.draw.choice((128, 256, 384))
        self.block = sectors * 512
        self.folder = folder
        self.source = Source(folder / "source", sectors=sectors, data_blocks=60)
        self.source.size = self.size()
        self.source.create(1)
        self.snapshots = 0
        pool = Source(folder / "pool", sectors=other, data_blocks=150)
        paths = [folder / "kept.img", folder / "marked.img"]
        self.copies = [
            Copy(lambda path=path: path, lambda path=path: path.read_bytes()) for path in paths
        ]
        self.copies.append(
            Copy(
                lambda: PoolTarget(str(pool.meta), str(pool.data), 7),
                lambda: pool.content(7, size_bytes=self.source.size),
            )
        )
        self.pool = pool

    def size(self) -> int:
        whole = self.draw.random() < 0.5
        return self.draw.randint(1, 12) * self.block if whole else self.draw.randrange(1, 10**6)

    def change(self) -> None:
        draw, source = self.draw, self.source
        for _ in range(draw.randint(0, 4)):
            at = draw.randrange(source.size)
            length = draw.choice((1, 700, self.block, 3 * self.block))
            kind = draw.random()
            if kind < 0.25:
                source.discard(1, at, min(length, source.size - at))
            elif kind < 0.35:
                source.write(1, (at, bytes(min(length, source.size - at))))
            elif kind < 0.45:
                source.size = self.size()
            else:
                source.write(1, (at, draw.randbytes(min(length, source.size - at))))

    def step(self) -> None:
        draw, source = self.draw, self.source
        self.change()
        snapshot = 2 + self.snapshots % 2  # numbers are used again
        self.snapshots += 1
        with source.open() as pool:
            taken = snapshot in pool.devices
        if taken:
            source.delete(snapshot)
        source.snapshot(snapshot)
        # What is written now is no part of the snapshot, in whatever blocks it is.
        self.change_without_resizing()
        size = self.source.size
        for copy in self.copies:
            if draw.random() < 0.8:
                copy.receive(source, snapshot, size_bytes=size)
            else:
                copy.base = None
                copy.receive(source, snapshot, size_bytes=size)
        kept, marked, volume = self.copies
        kept.base = volume.base = snapshot
        path = self.folder / "bookmark"
        with source.open() as pool:
            marked.base = Bookmark.save(pool.devices[snapshot], path, size_bytes=size)
        # The other base is only known by its number, and its size is a guess, which is no use
        # where more is mapped than the volume has.
        if marked.base.end_blocks * self.block > size:
            kept.base = volume.base = marked.base
        if draw.random() < 0.3 and kept.base is marked.base:
            source.delete(snapshot)

    def change_without_resizing(self) -> None:
        size = self.source.size
        self.change()
        self.source.size = size


@pytest.mark.parametrize("seed", range(12))
def test_copies_that_follow_a_volume_hold_what_it_held(seed: int) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        history = History(Path(name), seed)
        for _ in range(12):
            history.step()
        assert thinmeta.check(history.source.meta).is_clean
        assert thinmeta.check(history.pool.meta).is_clean
        with history.pool.open() as pool:
            assert list(pool.devices) == [7]


#: What may happen to a volume: a write, a discard, a snapshot that is sent.
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 5), st.binary(min_size=1, max_size=9)),
        st.tuples(st.just("overwrite all"), st.integers(0, 5), st.just(b"")),
        st.tuples(st.just("discard"), st.integers(0, 5), st.just(b"")),
        st.tuples(st.just("snapshot"), st.integers(0, 1), st.just(b"")),
        st.tuples(st.just("delete"), st.integers(0, 1), st.just(b"")),
    ),
    min_size=3,
    max_size=25,
)


@given(ACTIONS)
@settings(max_examples=60, deadline=None)
def test_a_copy_made_from_bookmarks_is_what_was_sent(
    actions: list[tuple[str, int, bytes]],
) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        folder = Path(name)
        source = Source(folder, data_blocks=30)
        source.size = 6 * BLOCK
        source.create(1)
        model, copy = bytearray(source.size), folder / "copy.img"
        bookmark: Bookmark | None = None
        there: set[int] = set()
        for action, number, content in [*actions, ("snapshot", 0, b"")]:
            if action == "write":
                source.write(1, (number * BLOCK + 5, content))
                model[number * BLOCK + 5 :][: len(content)] = content
                model[number * BLOCK + 5 : number * BLOCK + 5 + len(content)] = content
            elif action == "overwrite all":
                source.write(1, (number * BLOCK, bytes([number + 1]) * BLOCK))
                model[number * BLOCK : (number + 1) * BLOCK] = bytes([number + 1]) * BLOCK
            elif action == "discard":
                source.discard(1, number * BLOCK, BLOCK)
                model[number * BLOCK : (number + 1) * BLOCK] = bytes(BLOCK)
            elif action == "delete":
                if number + 2 in there:
                    source.delete(number + 2)
                    there.remove(number + 2)
            else:
                if number + 2 in there:
                    source.delete(number + 2)
                source.snapshot(number + 2)
                there.add(number + 2)
                receive(source.send(number + 2, bookmark), copy, overwrite=True)
                assert copy.read_bytes() == model
                with source.open() as pool:
                    bookmark = Bookmark.save(
                        pool.devices[number + 2], folder / "bookmark", size_bytes=source.size
                    )
        assert stream.verify(io.BytesIO(source.send(2))).stream_bytes > 0
