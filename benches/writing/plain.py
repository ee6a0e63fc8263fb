"""Plain files: what the disk gives to somebody who keeps no metadata."""

from __future__ import annotations

import hashlib
import os
import struct

from serve import Answer, timed

SECTORS = 128
BLOCK_BYTES = SECTORS * 512
NODE_BYTES = 4096
FLOOR_BLOCKS = 8
FLOOR_PLACES = 64


class Content:
    """Blocks of 64 KiB, each with its number and its turn in front."""

    def __init__(self) -> None:
        self._block = bytearray(b"0123456789abcdef" * (BLOCK_BYTES // 16))

    def block(self, number: int, turn: int) -> bytearray:
        struct.pack_into("<QQ", self._block, 0, number, turn)
        return self._block


class Files:
    """The column `plain file`."""

    def __init__(self) -> None:
        self.version = ""
        self._content = Content()
        self._file = -1
        self._blocks = self._position = self._turn = self._commits = 0

    def fresh_volume(self, blocks: str) -> Answer:
        """A sparse file of that size."""
        self._open()
        os.ftruncate(self._file, int(blocks) * BLOCK_BYTES)
        os.fsync(self._file)
        self._blocks, self._position, self._turn = int(blocks), 0, 0
        return {}

    def write(self, count: str, per_flush: str) -> Answer:
        """The next blocks in sequence, a block a write."""
        return timed(lambda: self._write(int(count), int(per_flush)))[1]

    def _write(self, count: int, per_flush: int) -> None:
        file, turn, content = self._file, self._turn, self._content
        first = self._position
        for number in range(first, first + count):
            os.pwrite(file, content.block(number, turn), number * BLOCK_BYTES)
            if (number + 1 - first) % per_flush == 0:
                os.fdatasync(file)
        self._position += count

    def again(self) -> Answer:
        """Back to the start, for what is there to be written over."""
        self._position, self._turn = 0, self._turn + 1
        return {}

    def content(self) -> Answer:
        digest = hashlib.sha256()
        with open("plain", "rb", buffering=0) as file:
            for _ in range(self._blocks):
                digest.update(file.read(BLOCK_BYTES))
        return {"sha256": digest.hexdigest()}

    def fresh_snapshots(self) -> Answer:
        """A file to overwrite: its blocks are there and need no room from the file system."""
        self._open()
        os.pwrite(self._file, bytes(NODE_BYTES * (1 + FLOOR_BLOCKS * FLOOR_PLACES)), 0)
        os.fsync(self._file)
        self._commits = 0
        return {}

    def snapshots(self, count: str) -> Answer:
        """The least that a commit can be: a few blocks in a row, and then block 0."""
        node, nodes = bytes(NODE_BYTES), bytes(NODE_BYTES * FLOOR_BLOCKS)

        def commits() -> None:
            for number in range(self._commits, self._commits + int(count)):
                place = 1 + FLOOR_BLOCKS * (number % FLOOR_PLACES)
                os.pwrite(self._file, nodes, NODE_BYTES * place)
                os.fdatasync(self._file)
                os.pwrite(self._file, node, 0)
                os.fdatasync(self._file)

        answer = timed(commits)[1]
        self._commits += int(count)
        return answer

    def _open(self) -> None:
        self.close()
        self._file = os.open("plain", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1
