"""What a device was sent, and what would be on it had the power gone at some point.

Recorded by the kernel's own target for that purpose (log-writes), so that it is what
arrived at the block layer, whatever we believe to have asked for. Until a flush any of the
writes before it may have arrived, in any order, each in whole sectors.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random

from kernel import blockdev
from kernel.dm import SECTOR, Device, Target

LOG = "/dev/ubdc"
MAGIC = 0x6A736677736872
PIECE_BYTES = 4096
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8

# As found in logs: the first sector, then for each request a sector and what it wrote.
_SUMMARY = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")


@dataclass(frozen=True)
class Write:
    begin: int
    data: bytes


@dataclass
class Recording:
    """A device's bytes before, then its writes, parted where a flush was complete."""

    path: str
    before: bytes
    epochs: list[list[Write]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._image = bytearray(len(self.before))

    def cut(self, epoch: int, rng: Random) -> bytearray:
        """What a power cut could have left: all before an epoch, and some of its writes.

        It is good until the next call, which puts the next image in its place.
        """
        image = self._image
        image[:] = self.before
        for done in self.epochs[:epoch]:
            for write in done:
                image[write.begin : write.begin + len(write.data)] = write.data
        writes = self.epochs[epoch]
        for write in rng.sample(writes, rng.randint(0, len(writes))):
            sectors = range(0, len(write.data), SECTOR)
            # Every fourth write is torn: some of its sectors are there, others are not.
            torn = rng.random() < 0.25
            for at in rng.sample(sectors, rng.randint(0, len(sectors))) if torn else sectors:
                image[write.begin + at : write.begin + at + SECTOR] = write.data[at : at + SECTOR]
        return image


@contextmanager
def recorded(device: str, *, length: int) -> Iterator[Recording]:
    """A device on top of another, whose writes are known when the block is left."""
    before = blockdev.read(device, 0, length)
    recording = Recording("", before)
    blockdev.write(LOG, 0, bytes(SECTOR))
    with Device("recorded", Target(length // SECTOR, "log-writes", f"{device} {LOG}")) as top:
        recording.path = top.path
        yield recording
    recording.epochs = list(_epochs())


def _epochs() -> Iterator[list[Write]]:
    # Nobody has it open now, so nothing of it is in the page cache but what is read here.
    with open(LOG, "rb", buffering=1 << 20) as log:
        magic, version, entries, sector_bytes = _SUMMARY.unpack_from(log.read(SECTOR))
        assert (magic, version, sector_bytes) == (MAGIC, 1, SECTOR)
        epoch: list[Write] = []
        for _ in range(entries):
            sector, sectors, flags, _ = _ENTRY.unpack_from(log.read(SECTOR))
            assert not flags & (FUA | DISCARD), "nobody asks for such a thing"
            if flags & FLUSH and epoch:
                yield epoch
                epoch = []
            if not flags & MARK and sectors:
                data = log.read(sectors * SECTOR)
                # No device promises to do more than this at a time.
                for at in range(0, len(data), PIECE_BYTES):
                    epoch.append(Write(sector * SECTOR + at, data[at : at + PIECE_BYTES]))
        assert not epoch, "a commit ends with a flush"
