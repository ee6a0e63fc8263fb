"""Deleted devices that may come back: what a repair says of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["DeletedDevice", "DeviceVersion", "FateRange", "Undeleted"]

#: Id and root of a device that is to come back, the root if one is to be taken.
Wanted = tuple[int, int | None]


@dataclass(frozen=True, slots=True)
class DeviceVersion:
    """A tree that a deleted device once had.

    Attributes:
        root: Metadata block of its root.
        mapped_blocks: Mappings that can be read.
        is_whole: Whether all of it can be read, and is as much as the latest details of the
            device that there are speak of.
        is_led: Whether a leaf of the pool's top level leads there; otherwise it is known by
            nothing but its size, and may be another device's.
        recorded_blocks: Mappings that the details which go with it speak of; ``None`` where
            there are none any more.
        transaction_id: From the same details.
        creation_time: The same.
        snapshotted_time: The same.
    """

    root: int
    mapped_blocks: int
    is_whole: bool
    is_led: bool
    recorded_blocks: int | None
    transaction_id: int | None
    creation_time: int | None
    snapshotted_time: int | None

    @classmethod
    def from_row(cls, row: tuple[int, int, bool, bool, tuple[int, ...] | None]) -> DeviceVersion:
        """From what the native module says."""
        root, mapped, is_whole, is_led, info = row
        details: tuple[int | None, ...] = (None,) * 4 if info is None else info[1:]
        return cls(root, mapped, is_whole, is_led, *details)


@dataclass(frozen=True, slots=True)
class DeletedDevice:
    """A device that the pool has no more, and of which something is left.

    Attributes:
        device_id: Its id.
        versions: Trees that it had, the most plausible one first; at most 16 are told.
        versions_total: How many there are in all.
    """

    device_id: int
    versions: tuple[DeviceVersion, ...]
    versions_total: int

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> DeletedDevice:
        """From what the native module says."""
        versions = tuple(map(DeviceVersion.from_row, fields["versions"]))
        return cls(fields["device_id"], versions, fields["versions_total"])


@dataclass(frozen=True, slots=True)
class FateRange:
    """Virtual blocks of a deleted device whose data have come to the same.

    Attributes:
        begin_block: First of them.
        end_block: One past the last.
        fate: ``"free"``: nobody has them, and nothing tells that anybody had;
            ``"doubtful"``: nobody has them, and by an old node somebody else may have had
            them since; ``"shared"``: another device has them, too, by a snapshot;
            ``"overwritten"``: somebody else has them now.
        owner_id: A device that has them now.
    """

    begin_block: int
    end_block: int
    fate: Literal["free", "doubtful", "shared", "overwritten"]
    owner_id: int | None


@dataclass(frozen=True, slots=True)
class Undeleted:
    """What comes back of a deleted device; all numbers of blocks are of data blocks.

    Attributes:
        version: The tree that is taken.
        free_blocks: Mappings whose data are there, as far as can be told.
        doubtful_blocks: Those whose data somebody else may have had since.
        shared_blocks: Those that another device shares.
        overwritten_blocks: Those whose data somebody else has now.
        keeps_overwritten: Whether the last come back all the same.
        ranges: All of them, ascending, the first 10 000.
        ranges_total: How many ranges there are in all.
    """

    version: DeviceVersion
    free_blocks: int
    doubtful_blocks: int
    shared_blocks: int
    overwritten_blocks: int
    keeps_overwritten: bool
    ranges: tuple[FateRange, ...]
    ranges_total: int

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> Undeleted:
        """From what the native module says."""
        ranges = tuple(FateRange(*each) for each in fields["ranges"])
        version = DeviceVersion.from_row(fields["version"])
        return cls(**{**fields, "version": version, "ranges": ranges})
