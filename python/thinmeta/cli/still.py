"""Volumes of a live pool that stand still, and how large they are."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.live import LivePool, LiveVolume

__all__ = ["live_size", "still_volume"]


def still_volume(live: LivePool, device_id: int) -> LiveVolume | None:
    """The volume, if it is active; one that can be written to is no content to copy.

    Raises:
        DeviceInUseError: It can be written to.
    """
    active = live.find_volume(device_id)
    if active is not None and not active.read_only:
        from thinmeta.errors import DeviceInUseError

        if live.lvm is not None:
            from thinmeta.live.lvm import split_name

            parts = split_name(active.name)
            way = f"thinmeta live snapshot {live.lvm.full_name} NEW {parts[1] if parts else ''}"
        else:
            way = f"thinmeta live snapshot {live.name} NEW {device_id} --suspend {active.name}"
        raise DeviceInUseError(
            active.path,
            f"thin device {device_id} can be written to while it is copied; make a snapshot "
            f"and take that: {way}",
        )
    return active


def live_size(live: LivePool, device_id: int, active: LiveVolume | None) -> int | None:
    """The size of a volume in bytes, where the kernel or LVM knows it."""
    if active is not None:
        return active.size_bytes
    if live.lvm is not None:
        for volume in live.lvm.volumes():
            if volume.device_id == device_id:
                return volume.size_bytes
    return None
