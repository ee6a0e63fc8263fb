"""A new pool from what can be read of a damaged one."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from thinmeta import _core
from thinmeta.arguments import MAX_U32, MAX_U64, optional_number
from thinmeta.errors import NoSuchDeviceError
from thinmeta.new_metadata import NewMetadata
from thinmeta.temporary import work_file
from thinmeta.types import NewPool
from thinmeta.undeleting import DeletedDevice, Undeleted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from thinmeta.pool import Path, Pool
    from thinmeta.undeleting import Wanted

__all__ = [
    "DeviceRepair",
    "LostRange",
    "MendedField",
    "RepairPlan",
    "RootCandidate",
    "plan_repair",
    "repair",
    "repaired_pool",
]

#: The largest of each number that may be given.
MOST = {
    "transaction_id": MAX_U64,
    "data_block_size_sectors": MAX_U32,
    "nr_data_blocks": MAX_U64,
}


@dataclass(frozen=True, slots=True)
class LostRange:
    """Virtual blocks that a node led to which is lost.

    Attributes:
        begin_block: First block that may be lost.
        end_block: One past the last; ``None``: to the device's end.
        metadata_block: The node; 0 where a pointer led nowhere.
    """

    begin_block: int
    end_block: int | None
    metadata_block: int


@dataclass(frozen=True, slots=True)
class DeviceRepair:
    """What becomes of a thin device; all numbers of blocks are of data blocks.

    Attributes:
        device_id: The device.
        transaction_id: As it will have it.
        creation_time: The same.
        snapshotted_time: The same.
        source: Where its mappings come from: ``"current"``, where the superblock leads;
            ``"found"``, a root that was lost and found as what nobody else refers to;
            ``"older"``, from the pool as it was: something may have changed since;
            ``"deleted"``, it was deleted, and comes back.
        kept_blocks: Mappings that it will have.
        found_blocks: Of these, how many hung under lost nodes.
        older_blocks: Of these, how many of lost nodes are from an earlier time: what was
            met does not account for their data, or for the leaf that they are in.
        impossible_blocks: Mappings that are left out: past the end of the data, say.
        doubled_blocks: Mappings that are left out because another place of the device has the
            same data block: the one that was written later, or the first.
        recorded_blocks: Mappings that its details speak of; ``None`` where these are lost,
            and are put together from what is known.
        lost_ranges: Where lost nodes led, the first 64.
        lost_ranges_total: How many there are in all.
        undeleted: Of a device that was deleted, what became of its data.
    """

    device_id: int
    transaction_id: int
    creation_time: int
    snapshotted_time: int
    source: Literal["current", "found", "older", "deleted"]
    kept_blocks: int
    found_blocks: int
    older_blocks: int
    impossible_blocks: int
    doubled_blocks: int
    recorded_blocks: int | None
    lost_ranges: tuple[LostRange, ...]
    lost_ranges_total: int
    undeleted: Undeleted | None = None

    @property
    def lost_blocks(self) -> int | None:
        """Mappings that are lost, by the details; ``None`` where these are lost, too."""
        if self.recorded_blocks is None:
            return None
        return max(0, self.recorded_blocks - self.kept_blocks)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is lost, as far as can be told."""
        left_out = self.impossible_blocks or self.doubled_blocks
        lost = self.lost_ranges_total or left_out or self.lost_blocks
        return not lost and self.source != "older"


@dataclass(frozen=True, slots=True)
class MendedField:
    """A field that was wrong under a right checksum, and was taken as it has to be.

    Attributes:
        metadata_block: The block.
        field: Which one: ``"magic"``, ``"location"``, ``"key"``, ``"flags"``,
            ``"value size"`` or ``"capacity"``.
        found: What was there.
        right: What was taken. ``"no mapping"`` for a key that cannot be told: what it belongs
            to is lost.
    """

    metadata_block: int
    field: str
    found: str
    right: str


@dataclass(frozen=True, slots=True)
class RootCandidate:
    """Two roots that know the same devices, or most of them, found by looking at every block.

    Attributes:
        mapping_root: Metadata block of the mappings' root.
        details_root: Metadata block of the details' root, if any know some of the devices.
        devices: Devices that the mappings are of.
        whole_devices: Of these, how many have all the mappings that the details speak of.
        live_devices: Of these, how many have a root that the metadata's space map has in
            use, where it can be read: the pool has changed the others since.
        mapped_blocks: Mappings that can be read, of devices that have no more than the
            details say.
        transaction_id: The highest one that a device was made in.
        time: The latest time that the details speak of, or that a mapping was made at.
    """

    mapping_root: int
    details_root: int | None
    devices: int
    whole_devices: int
    live_devices: int
    mapped_blocks: int
    transaction_id: int
    time: int


@dataclass(frozen=True, slots=True)
class RepairPlan:
    """What a repair keeps, rebuilds and loses.

    The space maps, all sums, and the nodes of all trees are made anew in any case; a
    metadata snapshot is not kept.

    Attributes:
        superblock_source: ``"superblock"``; ``"copy"``, of what is or was a metadata
            snapshot, in metadata block ``superblock_copy``; or ``"options"``.
        superblock_copy: See there.
        transaction_id: The pool's.
        time: The pool's clock.
        data_block_size_sectors: Size of a data block.
        data_blocks: Of the pool; ``None``: as many as the mappings need.
        devices: What becomes of each device that will be there.
        lost_devices: Ids of devices of whose mappings nothing is left.
        maybe_more_devices: Whether there may have been others, of which not even the id is
            left.
        scanned: Whether every metadata block was looked at.
        candidates: Roots that were found so, the most plausible ones first.
        loose_trees: Trees that hang nowhere and that nothing proves to be of a device.
        deleted_devices: Devices that were deleted and of which something is left, if it was
            asked for these or for one to come back.
        mended: Fields that were wrong under a right checksum: of block 0, or of nodes.
    """

    superblock_source: Literal["superblock", "copy", "options"]
    superblock_copy: int | None
    transaction_id: int
    time: int
    data_block_size_sectors: int
    data_blocks: int | None
    devices: tuple[DeviceRepair, ...]
    lost_devices: tuple[int, ...]
    maybe_more_devices: bool
    scanned: bool
    candidates: tuple[RootCandidate, ...]
    loose_trees: int
    deleted_devices: tuple[DeletedDevice, ...] = ()
    mended: tuple[MendedField, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether nothing is lost, as far as can be told."""
        known = self.superblock_source == "superblock"
        gone = self.lost_devices or self.maybe_more_devices
        return known and not gone and all(device.is_whole for device in self.devices)

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> RepairPlan:
        """From what the native module says."""
        devices = tuple(
            DeviceRepair(
                **{
                    **device,
                    "lost_ranges": tuple(LostRange(*lost) for lost in device["lost_ranges"]),
                    "undeleted": device["undeleted"] and Undeleted.from_fields(device["undeleted"]),
                }
            )
            for device in fields["devices"]
        )
        return cls(
            **{
                **fields,
                "devices": devices,
                "lost_devices": tuple(device[0] for device in fields["lost_devices"]),
                "candidates": tuple(RootCandidate(**each) for each in fields["candidates"]),
                "mended": tuple(MendedField(*each) for each in fields["mended"]),
                "deleted_devices": tuple(map(DeletedDevice.from_fields, fields["deleted_devices"])),
            }
        )


def plan_repair(
    path: Path,
    *,
    transaction_id: int | None = None,
    data_block_size_sectors: int | None = None,
    data_blocks: int | None = None,
    only_raise: bool = False,
    undelete: Sequence[int | Wanted] = (),
    keep_overwritten: bool = False,
    list_deleted: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> RepairPlan:
    """Find out what :func:`repair` would keep, rebuild and lose; nothing is written.

    The arguments are those of :func:`repair`, and so are the errors of reading. With
    ``list_deleted`` every block is looked at for devices that were deleted, and the plan
    tells in ``deleted_devices`` which could be brought back.
    """
    planned = _planned(
        os.fsdecode(path),
        undelete,
        transaction_id=transaction_id,
        data_block_size_sectors=data_block_size_sectors,
        nr_data_blocks=data_blocks,
        only_raise=only_raise,
        keep_overwritten=keep_overwritten,
        list_deleted=list_deleted,
        progress=progress,
    )
    return RepairPlan.from_fields(planned.outlook())


def repair(
    path: Path,
    out: Path,
    *,
    transaction_id: int | None = None,
    data_block_size_sectors: int | None = None,
    data_blocks: int | None = None,
    only_raise: bool = False,
    undelete: Sequence[int | Wanted] = (),
    keep_overwritten: bool = False,
    size_bytes: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> tuple[RepairPlan, NewPool]:
    """Make a new pool's metadata of what can be read of a damaged one's.

    ``path`` is never written. Where nodes are damaged, all blocks are looked at for what
    hung under them: it is taken if the reference counts prove where it belongs. Where the
    superblock or roots are lost, the most plausible roots are taken.

    Args:
        path: The damaged metadata, a device or an image, which nobody may be using.
        out: Where the new metadata go: a file, which is made if it is absent, or a block
            device; whole, or not at all.
        transaction_id: To take in the place of the one that is found.
        data_block_size_sectors: The same, in sectors of 512 bytes; needed where the
            superblock is lost and there is no copy of it.
        data_blocks: The same, the number of the pool's data blocks; without it, and without
            the superblock, as many as the mappings need.
        only_raise: Take the transaction id and the number of data blocks only where they are
            more than what is found, as thin_repair 1.x does. Otherwise mappings past the
            data blocks that are given are lost.
        undelete: Ids of devices to bring back that were deleted, or pairs of an id and the
            metadata block of the root to take. Every block is looked at for the latest tree
            of each. Data that somebody else has now are left to them: there the device is a
            hole. All that it has looks shared, so that nobody writes there in its place.
        keep_overwritten: Give it also those: what it reads there is somebody else's.
        size_bytes: How large a file is to be. ``None``: as large as the one that is there,
            or twice what is in use in a new one.
        progress: Called now and then as ``progress(done, total)``.

    Returns:
        What was kept, rebuilt and lost, and what was made.

    Raises:
        UnsoundPoolError: The superblock is lost, and the size of data blocks has to be said.
        UsageError: A number is out of range, or the output is the input.
        NoSuchDeviceError: Nothing is left of a device that was to come back.
        DeviceExistsError: A device that was to come back is there.
        UnsoundPoolError: Block 0 is lost, and no device was found.
        NotFormattedError: There never was anything.
        UnsupportedFormatError: It is something else.
        NoSpaceError: The output is too small.
        DeviceInUseError: Somebody uses the input or the output.
        OSError: The one cannot be read or the other not written.
    """
    source, target = os.fsdecode(path), os.fsdecode(out)
    planned = _planned(
        source,
        undelete,
        transaction_id=transaction_id,
        data_block_size_sectors=data_block_size_sectors,
        nr_data_blocks=data_blocks,
        only_raise=only_raise,
        keep_overwritten=keep_overwritten,
        progress=progress,
    )
    with NewMetadata(target, inputs=(source,), size_bytes=size_bytes) as new:
        fields = planned.build(new.descriptor, new.name, grows=new.grows, progress=progress)
        new.built(fields["metadata_blocks_used"])
    return RepairPlan.from_fields(planned.outlook()), NewPool(**fields)


def _planned(path: str, undelete: Sequence[int | Wanted], **options: Any) -> _core.Repair:
    wanted = [(each, None) if isinstance(each, int) else each for each in undelete]
    for name, most in MOST.items():
        options[name] = optional_number(options[name], name, most)
    try:
        return _core.Repair(path, undelete=wanted, **options)
    except NoSuchDeviceError as error:
        error.add_note(
            "no tree is left that could be its own: --list-deleted tells what there is of others"
        )
        raise


@contextmanager
def repaired_pool(
    path: Path,
    *,
    transaction_id: int | None = None,
    data_block_size_sectors: int | None = None,
    data_blocks: int | None = None,
    only_raise: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Iterator[tuple[Pool, RepairPlan]]:
    """Open a damaged pool as it would be repaired: to dump it, say.

    Where nothing is damaged that is the pool itself; otherwise it is built in a temporary
    file (in ``$TMPDIR``), which is gone afterwards. Arguments and errors are those of
    :func:`repair`.
    """
    from thinmeta.pool import open_pool

    source = os.fsdecode(path)
    planned = _planned(
        source,
        (),
        transaction_id=transaction_id,
        data_block_size_sectors=data_block_size_sectors,
        nr_data_blocks=data_blocks,
        only_raise=only_raise,
        progress=progress,
    )
    plan = RepairPlan.from_fields(planned.outlook())
    if plan.is_whole and not plan.scanned and not plan.mended:
        with open_pool(source) as pool:
            yield pool, plan
        return
    with work_file() as (work, name):
        planned.build(work.fileno(), name, grows=True, progress=progress)
        with open_pool(f"/proc/self/fd/{work.fileno()}") as pool:
            yield pool, plan
