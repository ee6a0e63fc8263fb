"""What the calls take and refuse, and how they say so."""

import io
from collections.abc import Iterator
from typing import Any

import pytest

import thinmeta
from corpus import Corpus


@pytest.fixture
def pool(corpus: Corpus) -> Iterator[thinmeta.Pool]:
    image = corpus["pair-zeroing-2"]
    with thinmeta.open_pool(image.meta, data=image.data) as opened:
        yield opened


class Raw(io.RawIOBase):
    """Takes some bytes of each write, and at some point none."""

    def __init__(self, takes: list[int | None]) -> None:
        self.takes, self.got = takes, b""

    def write(self, data: Any, /) -> int | None:
        count = self.takes.pop(0) if self.takes else len(data)
        self.got += bytes(data[:count]) if count is not None else b""
        return count


class Silent:
    """Takes everything and says nothing."""

    def __init__(self) -> None:
        self.got = b""

    def write(self, data: bytes) -> None:
        self.got += data


def dumped(pool: thinmeta.Pool) -> bytes:
    out = io.BytesIO()
    thinmeta.dump(pool, out)
    return out.getvalue()


def test_a_raw_file_that_would_block_ends_a_dump(pool: thinmeta.Pool) -> None:
    out = Raw([10, None])
    with pytest.raises(BlockingIOError, match="takes nothing now"):
        thinmeta.dump(pool, out)
    assert out.got == dumped(pool)[:10]


def test_a_dump_goes_to_whatever_writes(pool: thinmeta.Pool) -> None:
    wanted = dumped(pool)
    raw, silent = Raw([1, 2, 3]), Silent()
    thinmeta.dump(pool, raw)
    thinmeta.dump(pool, silent)
    assert raw.got == silent.got == wanted
