"""What a live volume would have to send, without a snapshot of it.

Nothing in the pool is changed: mappings are looked at through the metadata snapshot, which is
reserved for a moment, and the books of what is kept are only read.
"""

from __future__ import annotations

from dataclasses import replace

from thinmeta.errors import NoSuchDeviceError, UsageError
from thinmeta.live.fresh import FreshMetadata
from thinmeta.live.making import is_own, volume_words
from thinmeta.live.mapped import VolumeMappings, with_origin
from thinmeta.live.own import page_of
from thinmeta.source import device_changes, identity_of_device
from thinmeta.types import SECTOR_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from typing_extensions import Buffer

    from thinmeta.bookmark import Bookmark
    from thinmeta.identity import Identity
    from thinmeta.live.own import OwnSnapshot
    from thinmeta.live.pool import LivePool
    from thinmeta.source import Changes

__all__ = ["LiveLook"]


class LiveLook:
    """A volume of a live pool as the pool's metadata have it, to find out what has changed.

    A :class:`thinmeta.source.Generation` that cannot be read: for those who say what they
    would do. Each call looks anew, so that what it says is exact for the moment of the call:
    the kernel commits when the metadata snapshot is reserved. What is still in a cache above
    the volume is not in it; a snapshot, for which the volume is suspended, has that, too.
    Where somebody reads the metadata already it is as of when they began.

    Args:
        live: The pool.
        volume: The volume, by number or name.
        purpose: What it would be read for; for each purpose another snapshot is kept.
        size_bytes: Size of the volume; needed where it is not active, and LVM does not know.
        flatten: Take what an external origin shows for content of the volume.
        wanted: The state that a stream was cut of, a digest in hexadecimal: a snapshot with
            it that was left behind is looked at, and not the volume.

    Attributes:
        identity: Who a snapshot would be that is made now; with the number of the volume.
        volume_name: What LVM or device-mapper calls the volume; empty where it is not active.
    """

    def __init__(
        self,
        live: LivePool,
        volume: int | str,
        *,
        purpose: str = "send",
        size_bytes: int | None = None,
        flatten: bool = False,
        wanted: str = "",
    ) -> None:
        self._live, self._flatten, self._size_bytes = live, flatten, size_bytes
        self._wanted = wanted
        self._origin_id = live.device_id_of(volume) if isinstance(volume, str) else volume
        self._words = volume_words(self._origin_id, volume if isinstance(volume, str) else "")
        self._page = page_of(live.name, live.identity, self._origin_id, purpose)
        self._folder = ""
        #: What is looked at.
        self._shown_id = self._origin_id
        self.identity: Identity
        self.volume_name = ""

    def __enter__(self) -> Self:
        import tempfile

        self._folder = tempfile.mkdtemp(prefix="thinmeta-")
        try:
            self._mappings = VolumeMappings(self._live, self._origin_id, self._folder)
            self.volume_name = self._mappings.name()
            self.identity = self._identity()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        raised: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        import shutil

        shutil.rmtree(self._folder, ignore_errors=True)

    def _identity(self) -> Identity:
        live = self._live
        active = live.find_volume(self._origin_id)
        has_origin = active is not None and active.external_origin is not None
        if self._flatten and not has_origin:
            raise UsageError("there is no external origin whose content could be taken over")
        left = self._left()
        if left is not None:
            self._shown_id, size = left.device_id, left.size_bytes
        else:
            size = self._size(None if active is None else active.size_sectors)
        with FreshMetadata(live, self._shown_id) as pool:
            found = identity_of_device(
                pool,
                self._shown_id,
                size_bytes=size,
                external_origin=has_origin and not self._flatten,
                pool_uuid=live.uuid,
            )
        if left is not None:
            return replace(found, device_id=self._origin_id)
        # Making a snapshot lets the clock tick.
        time = found.pool_time + 1
        return replace(found, is_snapshot=True, creation_time=time, pool_time=time)

    def _size(self, active_sectors: int | None) -> int:
        """Size of the volume, in bytes; LVM knows best."""
        if self._live.lvm is not None:
            for volume in self._live.lvm.volumes():
                if volume.device_id == self._origin_id:
                    return volume.size_bytes
            raise NoSuchDeviceError(self._origin_id)
        if self._size_bytes is not None:
            return self._size_bytes
        if active_sectors is None:
            raise UsageError(
                f"{self._words} of {self._live.name} is not active, and a pool does not know how "
                "large its volumes are: the size is needed, in bytes"
            )
        return active_sectors * SECTOR_BYTES

    def _left(self) -> OwnSnapshot | None:
        """A snapshot of the state that a stream was cut of, if it is still there."""
        for own in (self._page.making, self._page.base):
            if own is None or not self._wanted or own.digest != self._wanted:
                continue
            try:
                with FreshMetadata(self._live, own.device_id) as pool:
                    if is_own(pool.devices[own.device_id], own):
                        return own
            except NoSuchDeviceError:
                continue
        return None

    @property
    def kept_base(self) -> Bookmark | None:
        """The snapshot that was kept, if it is still what it was; as a bookmark."""
        return self._mappings.kept(self._page)

    def changes(self, base: int | Bookmark | None) -> Changes:
        """What would have to be read, and what is zero, to get here from a base.

        Args:
            base: As for :meth:`LiveGeneration.changes`.

        Raises:
            WrongBaseError: The base cannot be one: a volume that was written, other data
                blocks, a later state, another pool.
            NoSuchDeviceError: The base, or the volume, is not in the pool (any more).
        """
        if self._flatten:
            return with_origin(base, self.identity.size_bytes)
        if base is not None:
            base = self._mappings.base(base, self._page)
        with FreshMetadata(self._live, self._shown_id) as pool:
            found = device_changes(pool, self._shown_id, self.identity, base)
        if base is not None:
            found.base = self._mappings.identity(base, self._page)
        return found

    def read_into(self, offset_bytes: int, buffer: Buffer) -> None:
        """Refuse: the volume may change at any moment.

        Raises:
            UsageError: Always.
        """
        raise UsageError(f"{self._words} is only looked at: a LiveGeneration can be read")

    def save_bookmark(self, path: str) -> Bookmark | None:
        """None: the volume is no snapshot, and its mappings prove nothing later."""

    def keep(self) -> None:
        """Nothing to be done: nothing was made."""

    def leave_behind(self) -> None:
        """Nothing to be done."""
