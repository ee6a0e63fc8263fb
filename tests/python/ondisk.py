"""Just enough of the on-disk format to damage an image on purpose.

Written from docs/format.md and nothing of ours: checksums, block kinds, the layout
of B-tree nodes, and small trees built from scratch.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

BLOCK = 4096

SALTS = {
    "thin superblock": 160774,
    "btree node": 121107,
    "bitmap": 240779,
    "index": 160478,
}
_KINDS = {salt: kind for kind, salt in SALTS.items()}

LEAF, INTERNAL = 2, 1


def _crc_tables() -> list[list[int]]:
    first = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        first.append(byte)
    tables = [first]
    for _ in range(7):
        tables.append([(v >> 8) ^ first[v & 255] for v in tables[-1]])
    return tables


_T = _crc_tables()


def crc_register(data: bytes | bytearray | memoryview) -> int:
    """CRC-32C's register, eight bytes a step, without the final inversion."""
    t0, t1, t2, t3, t4, t5, t6, t7 = _T
    crc = 0xFFFFFFFF
    whole = len(data) // 8 * 8
    for low, high in struct.iter_unpack("<II", data[:whole]):
        low ^= crc
        crc = (
            t7[low & 255] ^ t6[low >> 8 & 255] ^ t5[low >> 16 & 255] ^ t4[low >> 24]
            ^ t3[high & 255] ^ t2[high >> 8 & 255] ^ t1[high >> 16 & 255] ^ t0[high >> 24]
        )  # fmt: skip
    for byte in data[whole:]:
        crc = (crc >> 8) ^ t0[(crc ^ byte) & 255]
    return crc


def kind_of(block: bytes | memoryview) -> str | None:
    """Which kind of block the checksum says it is; None for no kind."""
    if not any(block[:32]):
        return None
    return _KINDS.get(int.from_bytes(block[:4], "little") ^ crc_register(block[4:]))


def seal(block: bytes, kind: str) -> bytes:
    """The block with the checksum that its kind wants."""
    return (crc_register(block[4:]) ^ SALTS[kind]).to_bytes(4, "little") + block[4:]


def capacity(value_size: int) -> int:
    return (BLOCK - 32) // (8 + value_size) // 3 * 3


@dataclass(frozen=True)
class Node:
    """The header of a B-tree node, and where its keys and values lie in the block."""

    flags: int
    blocknr: int
    nr_entries: int
    max_entries: int
    value_size: int

    @classmethod
    def of(cls, block: bytes) -> "Node":
        flags, blocknr, entries, maximum, size = struct.unpack_from("<IQIII", block, 4)
        return cls(flags, blocknr, entries, maximum, size)

    @property
    def is_internal(self) -> bool:
        return self.flags == INTERNAL

    def key_at(self, index: int) -> int:
        return 32 + 8 * index

    def value_at(self, index: int) -> int:
        return 32 + 8 * self.max_entries + self.value_size * index


def node(at: int, flags: int, keys: Sequence[int], values: Iterable[bytes], size: int) -> bytes:
    """A sealed node; keys and values fit."""
    maximum = capacity(size)
    assert len(keys) <= maximum
    header = struct.pack("<IIQIIII", 0, flags, at, len(keys), maximum, size, 0)
    body = b"".join(key.to_bytes(8, "little") for key in keys).ljust(8 * maximum, b"\0")
    return seal((header + body + b"".join(values)).ljust(BLOCK, b"\0"), "btree node")


def tree(at: int, items: Sequence[tuple[int, bytes]], size: int) -> tuple[int, list[bytes]]:
    """A tree of full nodes in blocks from ``at`` on: its root's number, and the blocks."""
    blocks: list[bytes] = []
    level: list[tuple[int, bytes]] = list(items)
    flags = LEAF
    while True:
        step = capacity(size)
        above: list[tuple[int, bytes]] = []
        for begin in range(0, max(len(level), 1), step):
            part = level[begin : begin + step]
            number = at + len(blocks)
            blocks.append(node(number, flags, [k for k, _ in part], [v for _, v in part], size))
            above.append((part[0][0] if part else 0, number.to_bytes(8, "little")))
        if len(above) == 1:
            return at + len(blocks) - 1, blocks
        level, size, flags = above, 8, INTERNAL


def u64(value: int) -> bytes:
    return (value & 0xFFFFFFFFFFFFFFFF).to_bytes(8, "little")


def read_u64(block: bytes, offset: int) -> int:
    return int.from_bytes(block[offset : offset + 8], "little")


def patched(block: bytes, offset: int, value: bytes) -> bytes:
    return block[:offset] + value + block[offset + len(value) :]
