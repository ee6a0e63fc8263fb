"""Where an explorer can be: places are values, so that a history of them is a list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from thinmeta.arguments import MAX_U64
from thinmeta.errors import UsageError

__all__ = [
    "MAX_DEVICE_ID",
    "PLACES",
    "BlockPlace",
    "DevicesPlace",
    "HomePlace",
    "MappingPlace",
    "OwnersPlace",
    "Place",
    "Role",
    "parse_place",
]

#: What a metadata block is for, by the way that led to it.
Role = Literal[
    "superblock",
    "snapshot",
    "top_level",
    "mappings",
    "details",
    "index",
    "index_tree",
    "bitmap",
    "counts",
]
Map = Literal["data", "metadata"]

#: Ids of devices have 24 bits.
MAX_DEVICE_ID = (1 << 24) - 1


@dataclass(frozen=True, slots=True)
class HomePlace:
    """The superblock whose roots are read."""


@dataclass(frozen=True, slots=True)
class DevicesPlace:
    """The thin devices with their details.

    Attributes:
        first: The smallest id that is shown.
    """

    first: int = 0


@dataclass(frozen=True, slots=True)
class BlockPlace:
    """A metadata block.

    Attributes:
        block: Its number.
        role: What it is for; ``None``: nobody knows.
        device: Whose mappings it has.
        map: Which space map it belongs to.
        number: Of a bitmap, which one.
        path: The blocks from the tree's root to this one, without it.
        low: Its keys are not below this one, where a parent says so.
        high: Its keys are below this one.
        skip: Rows that are left out at the beginning.
    """

    block: int
    role: Role | None = None
    device: int | None = None
    map: Map | None = None
    number: int | None = None
    path: tuple[int, ...] = ()
    low: int | None = None
    high: int | None = None
    skip: int = 0


@dataclass(frozen=True, slots=True)
class MappingPlace:
    """A block of a thin device, and the way to its mapping.

    Attributes:
        device: The device's id.
        block: The virtual block.
    """

    device: int
    block: int


@dataclass(frozen=True, slots=True)
class OwnersPlace:
    """What maps a data block: all mappings of the pool are read for that.

    Attributes:
        block: The data block.
        skip: Rows that are left out at the beginning.
    """

    block: int
    skip: int = 0


Place = HomePlace | DevicesPlace | BlockPlace | MappingPlace | OwnersPlace

#: What :func:`parse_place` takes, for people.
PLACES = "N (a metadata block), DEVICE:BLOCK, dev ID, data N (who maps data block N), home"


def parse_place(words: str) -> Place:
    """The place that somebody typed.

    Args:
        words: ``361`` or ``block 361``: a metadata block. ``5:100``: block 100 of device 5.
            ``dev 5``: the devices from 5 on. ``data 77``: what maps data block 77.
            ``home``, ``devices``.

    Raises:
        UsageError: It is none of these.
    """
    name, _, rest = words.strip().partition(" ")
    rest = rest.strip()
    if not rest:
        if name == "home":
            return HomePlace()
        if name in ("dev", "devices"):
            return DevicesPlace()
        device, colon, block = name.partition(":")
        if colon:
            return MappingPlace(_number(device, words), _number(block, words))
        return BlockPlace(_number(name, words))
    if name == "block":
        return BlockPlace(_number(rest, words))
    if name in ("dev", "device", "devices"):
        return DevicesPlace(_number(rest, words))
    if name == "data":
        return OwnersPlace(_number(rest, words))
    raise _wrong(words)


def _number(word: str, words: str) -> int:
    if not (word.isascii() and word.isdigit()) or len(word) > 20 or int(word) > MAX_U64:
        raise _wrong(words)
    return int(word)


def _wrong(words: str) -> UsageError:
    return UsageError(f"there is no place {words.strip()!r}; use {PLACES}")
