"""The mappings of a live volume and its snapshots, saved so that the pool is let go of."""

from __future__ import annotations

import os
from dataclasses import replace

from thinmeta.bookmark import Bookmark
from thinmeta.errors import NoSuchDeviceError, UsageError, WrongBaseError
from thinmeta.live.fresh import FreshMetadata
from thinmeta.source import Changes, Ranges, identity_of_bookmark

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.identity import Identity
    from thinmeta.live.own import Page
    from thinmeta.live.pool import LivePool

__all__ = ["VolumeMappings", "names_of", "with_origin"]


class VolumeMappings:
    """What is known of a volume and of what was kept of it.

    Args:
        live: The pool.
        volume_id: The volume.
        folder: A folder for what is saved.
    """

    def __init__(self, live: LivePool, volume_id: int, folder: str) -> None:
        self._live, self._volume_id, self._folder = live, volume_id, folder

    def name(self) -> str:
        """What LVM or device-mapper calls the volume; empty where it is not active."""
        return names_of(self._live).get(self._volume_id, "")

    def save(self, device_id: int, *, size_bytes: int | None = None) -> Bookmark:
        """Save those of a snapshot.

        Raises:
            NoSuchDeviceError: It is not in the pool.
            UsageError: It was written to.
        """
        path = os.path.join(self._folder, f"{device_id}-{os.urandom(4).hex()}")
        with FreshMetadata(self._live, device_id) as pool:
            device = pool.devices[device_id]
            return Bookmark.save(device, path, size_bytes=size_bytes, pool_uuid=self._live.uuid)

    def kept(self, page: Page) -> Bookmark | None:
        """Those of the snapshot that was kept, if it is still what it was."""
        base = page.base
        if base is None:
            return None
        try:
            found = self.save(base.device_id, size_bytes=base.size_bytes or None)
        except (NoSuchDeviceError, UsageError):  # deleted, or written to
            return None
        return found if found.digest.hex() == base.digest else None

    def base(self, base: int | Bookmark, page: Page) -> Bookmark:
        """What is meant by a base: a snapshot by its number, or the volume by its own.

        Raises:
            WrongBaseError: It proves nothing: it was written to, or is of another pool.
            NoSuchDeviceError: It is not in the pool.
        """
        if isinstance(base, Bookmark):
            if base.pool_uuid and self._live.uuid and base.pool_uuid != self._live.uuid:
                raise WrongBaseError(
                    f"the bookmark is of pool {base.pool_uuid}, and this is {self._live.uuid}"
                )
            return base
        # An earlier state of the volume has its number; what was kept is one.
        kept = self.kept(page) if base == self._volume_id else None
        sizes = {each.device_id: each.size_bytes for each in page.snapshots}
        try:
            return kept or self.save(base, size_bytes=sizes.get(base) or None)
        except UsageError as error:
            raise WrongBaseError(str(error)) from error

    def is_ours(self, bookmark: Bookmark) -> bool:
        """Whether it was saved here, just now."""
        return os.path.dirname(bookmark.path) == self._folder

    def identity(self, bookmark: Bookmark, page: Page) -> Identity:
        """Who a state is; one that was kept of the volume has the number of the volume."""
        found = identity_of_bookmark(bookmark)
        ours = {each.device_id for each in page.snapshots if each.digest == found.digest}
        return replace(found, device_id=self._volume_id) if found.device_id in ours else found


def names_of(live: LivePool) -> dict[int, str]:
    """What volumes are called, by number: by LVM, or by device-mapper where they are active."""
    if live.lvm is not None:
        return {volume.device_id: volume.name for volume in live.lvm.volumes()}
    # One that can be written goes before others.
    active = sorted(live.volumes(), key=lambda volume: not volume.read_only)
    return {volume.device_id: volume.name for volume in active}


def with_origin(base: object, size_bytes: int) -> Changes:
    """All of a volume, with what its external origin shows.

    Raises:
        UsageError: There is a base, too.
    """
    if base is not None:
        raise UsageError("a volume with its external origin's content is sent whole")
    return Changes(None, Ranges.of([(0, size_bytes)])._numbers, b"")
