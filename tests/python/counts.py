"""Space maps of an image, to be edited: counts without an overflow entry, and sums."""

from __future__ import annotations

from pathlib import Path

from ondisk import BLOCK, Node, patched, read_u64, seal, u64

PER_BITMAP = 16320
#: Where block 0 has the roots of both maps, by what they count.
ROOTS = {"data": 64, "metadata": 192}
#: How two bits stand for a count, and back.
FIELDS = (0, 2, 1, 3)


class Counts:
    """The space maps of an image of which small counts are to be made wrong."""

    def __init__(self, path: Path) -> None:
        self.content = bytearray(path.read_bytes())

    def save(self, path: Path) -> None:
        path.write_bytes(self.content)

    def block(self, at: int) -> bytes:
        return bytes(self.content[at * BLOCK : (at + 1) * BLOCK])

    def put(self, at: int, block: bytes, kind: str) -> None:
        self.content[at * BLOCK : (at + 1) * BLOCK] = seal(block, kind)

    def set_superblock(self, offset: int, value: bytes) -> None:
        self.put(0, patched(self.block(0), offset, value), "thin superblock")

    def nr_blocks(self, space: str) -> int:
        return read_u64(self.block(0), ROOTS[space])

    def _index(self, space: str, number: int) -> tuple[int, int, str]:
        """Where an index entry is: block, offset, kind. Index trees are one leaf here."""
        at = read_u64(self.block(0), ROOTS[space] + 16)
        if space == "metadata":
            return at, 16 + 16 * number, "index"
        node = Node.of(self.block(at))
        assert not node.is_internal
        return at, node.value_at(number), "btree node"

    def _bitmap(self, space: str, block: int) -> int:
        at, offset, _ = self._index(space, block // PER_BITMAP)
        return read_u64(self.block(at), offset)

    def get(self, space: str, block: int) -> int:
        """A count; 3 stands for three and more."""
        word = read_u64(self.block(self._bitmap(space, block)), 16 + block % PER_BITMAP // 32 * 8)
        return FIELDS[word >> 2 * (block % PER_BITMAP % 32) & 3]

    def set(self, space: str, block: int, count: int) -> None:
        """Set a count in the bitmap alone."""
        at, entry = self._bitmap(space, block), block % PER_BITMAP
        bitmap, offset, shift = self.block(at), 16 + entry // 32 * 8, 2 * (entry % 32)
        word = read_u64(bitmap, offset) & ~(3 << shift) | FIELDS[count] << shift
        self.put(at, patched(bitmap, offset, u64(word)), "bitmap")

    def set_sums(self, space: str, number: int, nr_free: int, none_free_before: int) -> None:
        """Replace what the index says of a bitmap."""
        at, offset, kind = self._index(space, number)
        sums = nr_free.to_bytes(4, "little") + none_free_before.to_bytes(4, "little")
        self.put(at, patched(self.block(at), offset + 8, sums), kind)

    def find(self, space: str, count: int, *, begin: int = 0) -> int | None:
        """The first block with a count."""
        for block in range(begin, self.nr_blocks(space)):
            if self.get(space, block) == count:
                return block
        return None

    def set_mapped(self, blocks: int) -> None:
        """Replace what the first device's details say of its mappings."""
        at = read_u64(self.block(0), 328)
        while (node := Node.of(self.block(at))).is_internal:
            at = read_u64(self.block(at), node.value_at(0))
        self.put(at, patched(self.block(at), node.value_at(0), u64(blocks)), "btree node")
