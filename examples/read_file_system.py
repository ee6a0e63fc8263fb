#!/usr/bin/env python3
"""Read a file out of an ext4 volume inside a pool: no kernel, no root, nothing mounted.

    read_file_system.py METADATA DATA DEVICE [FILE]

Without FILE, lists the root folder. A volume is a seekable file object, so whatever
reads file systems from one will do; these lines know just enough of ext4 (files in
the root folder, extents in the inode) to show it.
"""

import io
import struct
import sys
from collections.abc import Iterator
from typing import BinaryIO

import thinmeta

ROOT_INODE = 2


class Ext4:
    def __init__(self, volume: BinaryIO) -> None:
        self.volume = volume
        superblock = self.at(1024, 1024)
        if superblock[56:58] != b"\x53\xef":
            raise ValueError("no ext4 file system in this volume")
        self.label = superblock[120:136].rstrip(b"\0").decode()
        self.block_bytes = 1024 << struct.unpack_from("<I", superblock, 24)[0]
        self.inode_bytes = struct.unpack_from("<H", superblock, 88)[0]
        group_table = self.block_bytes * (2 if self.block_bytes == 1024 else 1)
        self.inode_table = struct.unpack_from("<I", self.at(group_table, 32), 8)[0]

    def at(self, offset: int, length: int) -> bytes:
        self.volume.seek(offset)
        return self.volume.read(length)

    def read(self, inode: int) -> bytes:
        """A file's content, by the extents in its inode."""
        place = self.inode_table * self.block_bytes + (inode - 1) * self.inode_bytes
        raw = self.at(place, 160)
        size = struct.unpack_from("<I", raw, 4)[0]
        content = bytearray(size)
        for i in range(struct.unpack_from("<H", raw, 42)[0]):
            first, count, high, low = struct.unpack_from("<IHHI", raw, 52 + 12 * i)
            piece = self.at((high << 32 | low) * self.block_bytes, count * self.block_bytes)
            begin = first * self.block_bytes
            content[begin : begin + len(piece)] = piece
        return bytes(content[:size])

    def root_folder(self) -> Iterator[tuple[str, int]]:
        """Names and inodes of what lies in the root folder."""
        folder, offset = self.read(ROOT_INODE), 0
        while offset < len(folder):
            inode, length, name_length = struct.unpack_from("<IHB", folder, offset)
            if inode and length:
                yield folder[offset + 8 : offset + 8 + name_length].decode(), inode
            offset += max(length, 8)


def main() -> None:
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    metadata, data, device_id = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with thinmeta.open_pool(metadata, data=data) as pool:
        with io.BufferedReader(pool.devices[device_id].open()) as volume:
            ext4 = Ext4(volume)
            files = dict(ext4.root_folder())
            if len(sys.argv) == 5:
                sys.stdout.buffer.write(ext4.read(files[sys.argv[4]]))
            else:
                print(f"{ext4.label}: {', '.join(files)}")


if __name__ == "__main__":
    main()
