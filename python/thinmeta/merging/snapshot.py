"""A snapshot's content for the origin in the same pool."""

from __future__ import annotations

import os
from dataclasses import dataclass

from thinmeta import _core
from thinmeta.arguments import number
from thinmeta.errors import UsageError
from thinmeta.new_metadata import NewMetadata
from thinmeta.types import NewPool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from thinmeta.pool import Path

__all__ = ["MergePlan", "merge", "plan_merge"]


@dataclass(frozen=True, slots=True)
class MergePlan:
    """What a merge changes; all numbers of blocks are of data blocks.

    Attributes:
        block_bytes: Size of a data block.
        origin_blocks: Mappings of the origin as it is.
        snapshot_blocks: Mappings of the snapshot.
        merged_blocks: Mappings of the origin afterwards.
        common_blocks: Blocks of the volume that have the same data block in both.
        replaced_blocks: Blocks that have another data block in the snapshot.
        added_blocks: Blocks that only the snapshot maps.
        origin_only_blocks: Blocks that only the origin maps: they become holes, or stay as
            they are where the snapshot is laid over the origin.
        freed_blocks: Data blocks that no device has afterwards.
    """

    block_bytes: int
    origin_blocks: int
    snapshot_blocks: int
    merged_blocks: int
    common_blocks: int
    replaced_blocks: int
    added_blocks: int
    origin_only_blocks: int
    freed_blocks: int

    @property
    def freed_bytes(self) -> int:
        """The same as :attr:`freed_blocks`, in bytes."""
        return self.freed_blocks * self.block_bytes


def plan_merge(
    path: Path,
    *,
    origin_id: int,
    snapshot_id: int,
    keep_snapshot: bool = False,
    overlay: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> MergePlan:
    """Find out what :func:`merge` would change; nothing is written.

    The arguments are those of :func:`merge`, and so are the errors of reading.
    """
    planned = _core.Merge(
        os.fsdecode(path),
        origin_id=_device(origin_id, "origin_id"),
        snapshot_id=_device(snapshot_id, "snapshot_id"),
        keep_snapshot=keep_snapshot,
        overlay=overlay,
        progress=progress,
    )
    return MergePlan(**planned.outlook())


def merge(
    path: Path,
    out: Path,
    *,
    origin_id: int,
    snapshot_id: int,
    keep_snapshot: bool = False,
    overlay: bool = False,
    size_bytes: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> tuple[MergePlan, NewPool]:
    """Make metadata in which an origin has what a snapshot of it has.

    Whoever reads the origin then reads what the snapshot read, what was discarded in it
    included. The origin keeps its id and its transaction id, all other devices are as they
    were, and what they share with it is never written in its place. ``path`` is not
    written, and no data are copied.

    Args:
        path: The pool's metadata, a device or an image, which nobody may be using.
        out: Where the new metadata go: a file, which is made if it is absent, or a block
            device; whole, or not at all.
        origin_id: The thin device that is changed.
        snapshot_id: The thin device whose content it takes over.
        keep_snapshot: Leave the snapshot as it is. Without that it is not there any more.
        overlay: Keep what only the origin maps. That is for a thin device that has the
            other one as its *external* origin: what it does not map reads as that one.
        size_bytes: How large a file is to be. ``None``: as large as the one that is there,
            or twice what is in use in a new one.
        progress: Called now and then as ``progress(done, total)``.

    Returns:
        What was changed, and what was made.

    Raises:
        NoSuchDeviceError: The pool has not both devices.
        MetadataSnapshotHeldError: The pool holds a metadata snapshot: release it first.
        ReadOnlyError: The pool has to be checked first.
        DamagedBlockError: It is damaged, in whichever of its devices.
        NoSpaceError: The output is too small.
        UsageError: The output is the input, or both devices are one.
        DeviceInUseError: Somebody uses the input or the output.
        OSError: The one cannot be read or the other not written.
    """
    source, target = os.fsdecode(path), os.fsdecode(out)
    planned = _core.Merge(
        source,
        origin_id=_device(origin_id, "origin_id"),
        snapshot_id=_device(snapshot_id, "snapshot_id"),
        keep_snapshot=keep_snapshot,
        overlay=overlay,
        progress=progress,
    )
    with NewMetadata(target, inputs=(source,), size_bytes=size_bytes) as new:
        fields = planned.build(new.descriptor, new.name, grows=new.grows, progress=progress)
        new.built(fields["metadata_blocks_used"])
    return MergePlan(**planned.outlook()), NewPool(**fields)


def _device(value: object, name: str) -> int:
    device_id = number(value, name)
    if not 0 <= device_id < 1 << 24:
        raise UsageError(f"{name} is {device_id}; a device id is 0 to {(1 << 24) - 1}")
    return device_id
