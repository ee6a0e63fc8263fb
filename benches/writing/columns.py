"""Columns of 64-bit numbers, in NumPy where it is there: what is inserted, and what is found."""

from __future__ import annotations

import importlib
import random
import zlib
from array import array
from typing import Any


def numpy() -> Any:
    """The module, or None."""
    try:
        return importlib.import_module("numpy")
    except ImportError:
        return None


def read(path: str, count: int) -> Any:
    """The first numbers of a file, read into place: nothing but them is in memory."""
    np = numpy()
    words = array("Q", bytes(8)) * count if np is None else np.empty(count, dtype=np.uint64)
    with open(path, "rb", buffering=0) as file, memoryview(words).cast("B") as view:
        at = 0
        while at < len(view):
            got = file.readinto(view[at:])
            if not got:
                raise ValueError(f"{path} has fewer numbers")
            at += got
    return words


def counting(start: int, stop: int) -> Any:
    """The numbers of a range, as a buffer."""
    np = numpy()
    if np is None:
        return array("Q", range(start, stop))
    return np.arange(start, stop, dtype=np.uint64)


def chosen(among: int, count: int, *, seed: int) -> bytes:
    """So many different numbers below `among`, in random order."""
    np = numpy()
    if np is None:
        return array("Q", random.Random(seed).sample(range(among), count)).tobytes()
    words: bytes = (
        np.random.default_rng(seed).permutation(among)[:count].astype(np.uint64).tobytes()
    )
    return words


def in_order(virtual: Any, data: Any) -> Any:
    """Data blocks by virtual block, where those are a permutation of 0 and up."""
    np = numpy()
    if np is None:
        placed = array("Q", bytes(8)) * len(virtual)
        for at, block in zip(virtual, data, strict=True):
            placed[at] = block
        return placed
    placed = np.empty(len(virtual), dtype=np.uint64)
    placed[virtual] = data
    return placed


def crc(words: Any) -> str:
    return f"{zlib.crc32(memoryview(words).cast('B')):08x}"
