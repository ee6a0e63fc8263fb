"""What a pool should be: a model in plain Python that knows nothing of either side.

A volume is a dictionary from virtual blocks to :class:`Block` objects, and a snapshot a
copy of the dictionary. So what two volumes share is what they have the same object of,
and that can be compared with the pool's data blocks.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256

from kernel.live import BLOCK_BYTES

MAX_DEVICE_ID = 2**24 - 1


def pattern(tag: str, length: int) -> bytes:
    """Content that tells where it came from; different tags give different bytes."""
    unit = sha256(tag.encode()).digest()
    return (unit * (length // len(unit) + 1))[:length]


@dataclass(frozen=True, eq=False)
class Block:
    """What one data block of the pool holds; two are the same only by identity."""

    content: bytes


@dataclass
class VolumeModel:
    """A volume of a fixed size; what it does not map reads as zeros."""

    blocks: int
    mapped: dict[int, Block] = field(default_factory=dict)

    def copy(self) -> "VolumeModel":
        return VolumeModel(self.blocks, dict(self.mapped))

    def content(self) -> bytes:
        zeros = bytes(BLOCK_BYTES)
        return b"".join(
            self.mapped[block].content if block in self.mapped else zeros
            for block in range(self.blocks)
        )


@dataclass
class World:
    """A pool and everything in it."""

    metadata_blocks: int
    data_blocks: int
    transaction_id: int = 0
    volumes: dict[int, VolumeModel] = field(default_factory=dict)
    #: The volumes as they were when the metadata snapshot was taken, if one is held.
    #: It keeps mappings, not content: what is overwritten in place changes under it.
    held: dict[int, VolumeModel] | None = None

    def copy(self) -> "World":
        held = None if self.held is None else _copies(self.held)
        return replace(self, volumes=_copies(self.volumes), held=held)

    def create_thin(self, device_id: int, *, blocks: int) -> None:
        assert device_id not in self.volumes
        self.volumes[device_id] = VolumeModel(blocks)

    def create_snapshot(self, device_id: int, *, origin_id: int) -> None:
        assert device_id not in self.volumes
        self.volumes[device_id] = self.volumes[origin_id].copy()

    def delete(self, device_id: int) -> None:
        del self.volumes[device_id]

    def write(self, device_id: int, offset: int, data: bytes) -> None:
        """Write; what is mapped anew is zero where nothing was written."""
        mapped = self.volumes[device_id].mapped
        for block, begin, piece in pieces(offset, data):
            old = mapped[block].content if block in mapped else bytes(BLOCK_BYTES)
            mapped[block] = Block(old[:begin] + piece + old[begin + len(piece) :])

    def discard(self, device_id: int, begin: int, end: int) -> None:
        for block in range(begin, end):
            self.volumes[device_id].mapped.pop(block, None)

    def reserve_metadata_snapshot(self) -> None:
        assert self.held is None
        self.held = _copies(self.volumes)

    def release_metadata_snapshot(self) -> None:
        assert self.held is not None
        self.held = None

    def used_data_blocks(self) -> int:
        """No more blocks than these are in use.

        With a metadata snapshot it may be fewer: whether a block is overwritten in place,
        or somewhere else, is not for the model to say.
        """
        volumes = [*self.volumes.values(), *(self.held or {}).values()]
        return len({block for volume in volumes for block in volume.mapped.values()})


def _copies(volumes: dict[int, VolumeModel]) -> dict[int, VolumeModel]:
    return {device_id: volume.copy() for device_id, volume in volumes.items()}


def pieces(offset: int, data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """A request cut where blocks begin: block, offset in it, bytes."""
    done = 0
    while done < len(data):
        block, begin = divmod(offset + done, BLOCK_BYTES)
        piece = data[done : done + BLOCK_BYTES - begin]
        yield block, begin, piece
        done += len(piece)
