"""Images that are damaged at random, and what of them no repair may lose."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from model import PoolModel
from ondisk import BLOCK, Node, kind_of, read_u64, seal

#: Where block 0 has the roots of the mappings and of the details.
MAPPING_ROOT, DETAILS_ROOT = 320, 328

#: Device, virtual block, data block.
Mapped = tuple[int, int, int]


def mapped(model: PoolModel) -> set[Mapped]:
    """All mappings of a pool, without their times."""
    return {
        (device.id, block, data)
        for device in model.devices.values()
        for block, (data, _) in device.mappings.items()
    }


@dataclass
class Tree:
    """An image whose trees are walked by plain code."""

    content: bytes

    def block(self, at: int) -> bytes:
        return self.content[at * BLOCK : (at + 1) * BLOCK]

    @property
    def mapping_root(self) -> int:
        return read_u64(self.content, MAPPING_ROOT)

    @property
    def details_root(self) -> int:
        return read_u64(self.content, DETAILS_ROOT)

    def entries(self, at: int) -> tuple[bool, list[tuple[int, bytes]]]:
        """Whether a node is internal, and its keys and values."""
        block = self.block(at)
        node = Node.of(block)
        keys = struct.unpack_from(f"<{node.nr_entries}Q", block, 32)
        size = node.value_size
        values = (block[node.value_at(index) :][:size] for index in range(node.nr_entries))
        return node.is_internal, list(zip(keys, values, strict=True))

    def leaves(
        self, root: int, path: tuple[int, ...] = ()
    ) -> Iterator[tuple[tuple[int, ...], int]]:
        """The leaves under a root, each with the blocks of the way there, itself included."""
        internal, entries = self.entries(root)
        way = (*path, root)
        if not internal:
            yield way, root
            return
        for _, value in entries:
            yield from self.leaves(int.from_bytes(value, "little"), way)

    def inner(self, root: int) -> set[int]:
        """The nodes under a root that lead to others."""
        return {at for path, _ in self.leaves(root) for at in path[:-1]}

    def device_roots(self) -> dict[int, tuple[tuple[int, ...], int]]:
        """Root of each device, with the way to the leaf that has it."""
        return {
            key: (way, int.from_bytes(value, "little"))
            for way, leaf in self.leaves(self.mapping_root)
            for key, value in self.entries(leaf)[1]
        }

    def details_ways(self) -> dict[int, tuple[int, ...]]:
        return {
            key: way
            for way, leaf in self.leaves(self.details_root)
            for key, _ in self.entries(leaf)[1]
        }

    def provable(self, damaged: bytes) -> set[Mapped]:
        """Mappings to which sound nodes lead all the way from the superblock."""
        other = Tree(damaged)

        def same(way: tuple[int, ...]) -> bool:
            return all(self.block(at) == other.block(at) for at in way)

        found: set[Mapped] = set()
        if not same((0,)):
            return found
        details = self.details_ways()
        for device, (way, root) in self.device_roots().items():
            if not same(way) or not same(details[device]):
                continue
            for path, leaf in self.leaves(root):
                if same(path):
                    for key, value in self.entries(leaf)[1]:
                        found.add((device, key, int.from_bytes(value, "little") >> 24))
        return found

    def untold(self, damaged: bytes) -> set[Mapped]:
        """Mappings that have another key than they had, between the same neighbours.

        The block's checksum is right, and nothing in it is odd: nobody can tell.
        """
        other = Tree(damaged)
        found: set[Mapped] = set()
        for device, (_, root) in self.device_roots().items():
            for _, leaf in self.leaves(root):
                block = other.block(leaf)
                if block == self.block(leaf) or block[4:32] != self.block(leaf)[4:32]:
                    continue
                if block != seal(block, "btree node"):
                    continue
                was, now = self.entries(leaf)[1], other.entries(leaf)[1]
                keys = [key for key, _ in now]
                if keys[0] == was[0][0] and keys == sorted(set(keys)):
                    found |= {
                        (device, key, int.from_bytes(value, "little") >> 24)
                        for (key, value), new in zip(was, now, strict=True)
                        if new != (key, value)
                    }
        return found


def damage(draw: random.Random, content: bytes, older: list[bytes]) -> tuple[bytes, str]:
    """One to fifty blocks are spoiled in one of several ways.

    Args:
        draw: Where chance comes from.
        content: An image.
        older: The same pool's images of earlier times.
    """
    blocks = [
        at
        for at in range(1, len(content) // BLOCK)
        if kind_of(content[at * BLOCK : (at + 1) * BLOCK]) is not None
    ]
    if draw.random() < 0.06:
        blocks.insert(0, 0)
    count = min(len(blocks), draw.choice((1, 1, 1, 2, 3, 8, 50)))
    chosen = draw.sample(blocks, count)
    spoiled = bytearray(content)
    kind = draw.choice(("flip", "zero", "swap", "noise", "older", "range"))
    if kind == "older" and not older:
        kind = "flip"
    for at in chosen:
        begin = at * BLOCK
        if kind == "flip":
            spoiled[begin + draw.randrange(BLOCK)] ^= 1 << draw.randrange(8)
        elif kind == "zero":
            spoiled[begin : begin + BLOCK] = bytes(BLOCK)
        elif kind == "noise":
            spoiled[begin : begin + BLOCK] = draw.randbytes(BLOCK)
        elif kind == "swap":
            other = draw.choice(blocks) * BLOCK
            one, two = bytes(spoiled[begin:][:BLOCK]), bytes(spoiled[other:][:BLOCK])
            spoiled[begin : begin + BLOCK], spoiled[other : other + BLOCK] = two, one
        elif kind == "older":
            before = draw.choice(older)
            spoiled[begin : begin + BLOCK] = before[begin : begin + BLOCK].ljust(BLOCK, b"\0")
        else:
            end = min(len(spoiled), begin + draw.randrange(1, 4 * BLOCK))
            spoiled[begin:end] = bytes(end - begin)
    return bytes(spoiled), f"{kind} of {chosen}"


#: Fields of a node's header: where, and their bytes.
NODE_FIELDS = {"flags": (4, 4), "location": (8, 8), "capacity": (20, 4), "value size": (24, 4)}
#: Fields of block 0 that can be only one thing.
FIXED_FIELDS = {"location": (8, 8), "magic": (32, 8)}


def resealed(draw: random.Random, content: bytes) -> tuple[bytes, str]:
    """One to eight blocks have one field that is wrong, under a checksum that is right."""
    nodes = [
        at
        for at in range(1, len(content) // BLOCK)
        if kind_of(content[at * BLOCK : (at + 1) * BLOCK]) == "btree node"
    ]
    chosen = draw.sample(nodes, min(len(nodes), draw.choice((1, 1, 2, 3, 8))))
    tree = Tree(content)
    # What leads to others is rare, and matters most.
    inner = sorted({at for _, root in tree.device_roots().values() for at in tree.inner(root)})
    if inner and draw.random() < 0.5:
        chosen[0] = draw.choice(inner)
    if draw.random() < 0.15:
        chosen[0] = 0
    spoiled = bytearray(content)
    told = []
    for at in dict.fromkeys(chosen):
        block = bytearray(spoiled[at * BLOCK : (at + 1) * BLOCK])
        if at == 0:
            kind, (name, (offset, size)) = (
                "thin superblock",
                draw.choice(list(FIXED_FIELDS.items())),
            )
        else:
            kind, node = "btree node", Node.of(bytes(block))
            name = draw.choice((*NODE_FIELDS, "key", "key", "key"))
            if name == "key" and node.nr_entries:
                offset, size = 32 + 8 * draw.randrange(node.nr_entries), 8
            else:
                offset, size = NODE_FIELDS.get(name, NODE_FIELDS["location"])
        if draw.random() < 0.5:
            block[offset + draw.randrange(size)] ^= 1 << draw.randrange(8)
        else:
            value = int.from_bytes(block[offset : offset + size], "little")
            value = (value + draw.choice((-8, -1, 1, 8))) % (1 << 8 * size)
            block[offset : offset + size] = value.to_bytes(size, "little")
        spoiled[at * BLOCK : (at + 1) * BLOCK] = seal(bytes(block), kind)
        told.append(f"{name} of {at}")
    return bytes(spoiled), "resealed: " + ", ".join(told)
