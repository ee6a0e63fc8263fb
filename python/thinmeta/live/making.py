"""Making snapshots of live volumes, and removing them, whoever was killed in between."""

from __future__ import annotations

import errno
import os
import time
from dataclasses import replace
from random import SystemRandom

from thinmeta.errors import (
    DeviceExistsError,
    DeviceInUseError,
    LivePoolError,
    NoSuchDeviceError,
    UsageError,
)
from thinmeta.live import messages
from thinmeta.live.fresh import FreshMetadata
from thinmeta.live.own import Books, OwnSnapshot
from thinmeta.types import SECTOR_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.devices import ThinDevice
    from thinmeta.live.pool import LivePool
    from thinmeta.live.status import LiveVolume

__all__ = ["SnapshotMaker", "device_name", "is_own", "volume_words"]

#: People and LVM count device ids from below; ours come from the upper half, by chance: no
#: two of us think of one number, whoever is killed between thinking of it and using it.
_IDS = range(1 << 23, 1 << 24)


def volume_words(device_id: int, name: str = "") -> str:
    """What messages call a volume: as the user does, who may not know its number."""
    return f"{name} (thin device {device_id})" if name else f"thin device {device_id}"


def device_name(pool: str, device_id: int) -> str:
    """What device-mapper calls a snapshot of ours in a pool that is not LVM's."""
    return f"thinmeta-{pool}-{device_id}"[:120]


def is_own(device: ThinDevice, own: OwnSnapshot) -> bool:
    """Whether a device is the one that was written down, and not somebody else's since.

    It was written down before it was made, so that it may not be there. Ours was made when
    the clock had passed what it was then, and nobody has written to it.
    """
    if device.creation_time <= own.pool_time:
        return False
    digest, is_snapshot, _ = device._summary()
    return is_snapshot and own.digest in ("", digest.hex())


class SnapshotMaker:
    """Has a snapshot of a volume, active and read-only, and writes down what is done to it.

    Args:
        live: The pool.
        origin_id: The volume.
        books: What was written down, open.
        size_bytes: Size of the volume, where it is not active and LVM does not know it.
        words: What messages call the volume.
    """

    def __init__(
        self,
        live: LivePool,
        origin_id: int,
        books: Books,
        *,
        size_bytes: int | None = None,
        words: str = "",
    ) -> None:
        self._live, self._origin_id = live, origin_id
        self._words = words or volume_words(origin_id)
        self._books, self._size_bytes = books, size_bytes
        self._volume: LiveVolume | None = None
        #: The snapshot that was activated, and deactivated, by this object.
        self._made: OwnSnapshot | None = None

    @property
    def volume(self) -> LiveVolume:
        """The active snapshot."""
        if self._volume is None:
            reason = f"the snapshot of {self._words} is not active here any more"
            raise LivePoolError(self._live.name, reason)
        return self._volume

    def begin(self, *, held: str, wanted: str) -> None:
        """Put in order what an earlier process has left, and have a snapshot.

        Args:
            held: What the copy is known to hold: one with this digest is the base.
            wanted: The state that a stream was cut of: one with this digest is gone on with.

        Raises:
            ThinmetaError: It cannot be made.
        """
        books = self._books
        left = books.making
        if left is not None and left.digest and left.digest == held:
            # It was sent, and we were killed before that was written down.
            before = () if books.base is None else (books.base,)
            books.write(making=None, base=left, removing=(*books.removing, *before))
            left = None
        if books.base is not None and wanted and books.base.digest == wanted:
            left = books.base  # all of it was sent, and not all of it has arrived
        goes_on = left is not None and bool(left.digest) and left.digest == wanted
        if goes_on and left is not None and not (self._stands_still(left) and self._is_there(left)):
            goes_on = False
        self._clear_up(stays=left if goes_on else None)
        if goes_on and left is not None:
            if books.making != left:
                books.write(making=left, base=books.base, removing=books.removing)
            self._take_up(left)
        else:
            self._make()

    def end(self, *, stays: bool) -> None:
        """Deactivate the snapshot, and remove it unless it stays or was kept.

        Raises:
            LivePoolError: Something cannot be removed; the next one will.
        """
        self._deactivate()
        self._clear_up(stays=self._books.making if stays else None)

    def forget(self, own: OwnSnapshot) -> bool:
        """Remove a snapshot from the pool, and from the books.

        Returns:
            Whether it was there, and still what it had been.

        Raises:
            DeviceInUseError: Somebody has it active; nothing was changed.
            LivePoolError: It cannot be removed; the next one will.
        """
        books, before = self._books, replace(self._books.page)
        making = None if before.making == own else before.making
        base = None if before.base == own else before.base
        others = tuple(each for each in before.removing if each != own)
        # That first: what may be gone is no base any more.
        books.write(making=making, base=base, removing=(*others, own))
        try:
            removed = self._remove(own)
        except DeviceInUseError:
            removing = tuple(before.removing)
            books.write(making=before.making, base=before.base, removing=removing)
            raise
        books.write(making=making, base=base, removing=others)
        return removed

    def _deactivate(self) -> None:
        volume, self._volume = self._volume, None
        lvm = self._live.lvm
        if volume is None:
            return
        self._made = self._books.making
        if lvm is None:
            self._live.deactivate(volume.name)
        else:
            lvm.deactivate(_lvm_name(volume))

    def _clear_up(self, *, stays: OwnSnapshot | None) -> None:
        """Remove what is under way and what is to go; after a crash, too."""
        books = self._books
        going = [*books.removing]
        if books.making is not None and books.making not in (stays, books.base):
            going.append(books.making)
        in_use = []
        for own in going:
            try:
                self._remove(own)
            except DeviceInUseError as error:
                # Somebody looks at an old base of ours: what was done is done all the same.
                from logging import getLogger

                log = getLogger("thinmeta.live")
                log.warning("an old snapshot of %s is removed later: %s", self._words, error)
                in_use.append(own)
        if going or books.making != stays:
            books.write(making=stays, base=books.base, removing=tuple(in_use))

    def _stands_still(self, own: OwnSnapshot) -> bool:
        """Whether nobody can write to it now."""
        active = [each for each in self._live.volumes() if each.device_id == own.device_id]
        return all(each.read_only for each in active)

    def _is_there(self, own: OwnSnapshot) -> bool:
        try:
            return self._is_ours(own)
        except NoSuchDeviceError:
            return False

    def _take_up(self, own: OwnSnapshot) -> None:
        """Activate a snapshot that was left behind."""
        live, lvm = self._live, self._live.lvm
        found = [volume for volume in live.volumes() if volume.device_id == own.device_id]
        if found:
            self._volume = found[0]
        elif lvm is not None:
            lvm.activate(own.lvm_name)
            self._volume = live.find_volume(own.device_id)
        else:
            origin = live.find_volume(self._origin_id)
            self._activate(own.device_id, own.size_bytes, origin)

    def _activate(self, device_id: int, size_bytes: int, origin: LiveVolume | None) -> None:
        live = self._live
        try:
            self._volume = live.activate(
                device_id,
                name=device_name(live.name, device_id),
                size_sectors=size_bytes // SECTOR_BYTES,
                external_origin=None if origin is None else origin.external_origin,
            )
        except (LivePoolError, NoSuchDeviceError) as error:
            reason = f"the snapshot of {self._words} cannot be activated: {error}"
            number = error.errno if isinstance(error, LivePoolError) else None
            raise LivePoolError(live.name, reason, number or errno.EIO) from error

    def _remove(self, own: OwnSnapshot) -> bool:
        """Remove one if it is there and ours, and say whether it was."""
        live, lvm = self._live, self._live.lvm
        if lvm is not None:
            is_there = any(volume.name == own.lvm_name for volume in lvm.volumes())
            if is_there:
                lvm.remove(own.lvm_name)
            return is_there
        is_ours = own == self._made  # this very object has made it, and nobody was let in
        if not is_ours:
            for volume in live.volumes():
                name = device_name(live.name, own.device_id)
                if (volume.device_id, volume.name) == (own.device_id, name):
                    live.deactivate(volume.name)
        try:
            if is_ours or self._is_ours(own):
                live.delete(own.device_id)
                return True
        except NoSuchDeviceError:
            pass
        return False

    def _is_ours(self, own: OwnSnapshot) -> bool:
        # One that somebody reserved before may be older than it: that proves no absence.
        with FreshMetadata(self._live, own.device_id) as pool:
            return is_own(pool.devices[own.device_id], own)

    def _make(self) -> None:
        live, lvm = self._live, self._live.lvm
        active = live.find_volume(self._origin_id)
        size = self._size_bytes
        if size is None and active is not None:
            size = active.size_sectors * SECTOR_BYTES
        if lvm is not None:
            self._make_in_lvm()
            return
        if size is None or size % SECTOR_BYTES or not size:
            raise UsageError(
                f"{self._words} of {live.name} is not active, and a pool does not know how large "
                "its volumes are: the size is needed, in bytes"
            )
        with FreshMetadata(self._live) as pool:
            taken, now = set(pool.devices), pool.superblock.time
            if self._origin_id not in taken:
                raise NoSuchDeviceError(self._origin_id)
        if self._books.base is not None:  # which somebody may have deleted
            taken.add(self._books.base.device_id)
        chance = SystemRandom()
        device_id = chance.choice(_IDS)
        while device_id in taken:  # a pool has room for far fewer
            device_id = chance.choice(_IDS)
        own = OwnSnapshot(device_id, pool_time=now, made_at=int(time.time()))
        self._books.write(making=own, base=self._books.base)
        try:
            messages.snapshot_of_active(live, device_id, self._origin_id)
        except DeviceExistsError as error:
            # Somebody was faster, and it is theirs.
            self._books.write(making=None, base=self._books.base)
            reason = f"the number that a snapshot of {self._words} was to have ({device_id}) was "
            reason += "taken by somebody else just now: try again"
            raise LivePoolError(live.name, reason) from error
        self._activate(device_id, size, active)

    def _make_in_lvm(self) -> None:
        lvm = self._live.lvm
        assert lvm is not None
        origin = next((v for v in lvm.volumes() if v.device_id == self._origin_id), None)
        if origin is None:
            raise NoSuchDeviceError(self._origin_id)
        name = f"thinmeta-{self._origin_id}-{os.urandom(6).hex()}"
        own = OwnSnapshot(0, lvm_name=name, made_at=int(time.time()))
        self._books.write(making=own, base=self._books.base)
        made = lvm.create_snapshot(name, origin=origin.name)
        own = replace(own, device_id=made.device_id)
        self._books.write(making=own, base=self._books.base)
        lvm.activate(name)
        self._volume = self._live.find_volume(made.device_id)
        if self._volume is None:
            reason = f"LVM says that it activated {name}, and it is not active here"
            raise LivePoolError(lvm.full_name, reason)


def _lvm_name(volume: LiveVolume) -> str:
    from thinmeta.live.lvm import split_name

    parts = split_name(volume.name)
    return volume.name if parts is None else parts[1]
