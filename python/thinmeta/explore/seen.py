"""What was seen in a block, and what is wrong with it: values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thinmeta.types import Severity, Superblock

    Details = tuple[int, int, int, int]
    IndexEntry = tuple[int, int, int]

__all__ = ["BITMAP_ENTRIES", "MANY", "Found", "Node", "Seen", "Trouble"]

#: Blocks that one bitmap counts.
BITMAP_ENTRIES = 16320
#: The entry of a bitmap that sends to the overflow tree.
MANY = 3


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that is wrong, as ``check`` would list it.

    Attributes:
        code: One of those in docs/findings.md.
        severity: How bad it is.
        message: One sentence.
        block: The metadata block concerned.
    """

    code: str
    severity: Severity
    message: str
    block: int | None = None

    def __str__(self) -> str:
        place = "" if self.block is None else f"block {self.block}: "
        return f"{self.code} ({self.severity}): {place}{self.message}"


@dataclass(frozen=True, slots=True)
class Node:
    """A B-tree node; of its values the list that fits what it is.

    ``keys`` is ``None`` where the header lies about the entries.
    """

    flags: int
    nr_entries: int
    max_entries: int
    value_size: int
    keys: list[int] | None = None
    children: list[int] | None = None
    numbers: list[int] | None = None
    mappings: list[tuple[int, int]] | None = None
    details: list[Details] | None = None
    index: list[IndexEntry] | None = None
    counts: list[int] | None = None

    @property
    def is_leaf(self) -> bool:
        """Whether it has a tree's values, and not children."""
        return self.flags == 2


@dataclass(frozen=True, slots=True)
class Seen:
    """What stands in a block, and what is wrong with it.

    Attributes:
        block: Its number.
        raw: Its 4096 bytes; ``None`` if it cannot be read.
        kind: What its checksum says it is; ``None``: the checksum is no known kind's.
        zeros: Whether it is all zero.
        troubles: What is wrong.
    """

    block: int
    raw: bytes | None = None
    kind: str | None = None
    zeros: bool = False
    troubles: tuple[Trouble, ...] = ()
    superblock: Superblock | None = None
    node: Node | None = None
    bitmap: bytes | None = None
    index: list[IndexEntry] | None = None

    @property
    def fatal(self) -> Trouble | None:
        """What forbids to rely on it."""
        return next((each for each in self.troubles if each.severity == "fatal"), None)


@dataclass(slots=True)
class Found:
    """The end of a way down a tree.

    Attributes:
        path: The blocks that were read, from the root on.
        leaf: The last of them, if it is the leaf that the key belongs to.
        at: The place of the key in it; ``None``: it is not there.
        trouble: Why the way ends before.
    """

    path: list[int] = field(default_factory=list)
    leaf: Node | None = None
    at: int | None = None
    trouble: Trouble | None = None
