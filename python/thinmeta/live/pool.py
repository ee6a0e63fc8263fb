"""A thin pool that the kernel has active: what it says, and what it is told."""

from __future__ import annotations

import errno
import os

from thinmeta.arguments import MAX_U64, cache_argument, number
from thinmeta.errors import LivePoolError, ManagedByLvmError, UsageError
from thinmeta.live import dmsetup, messages, resolve
from thinmeta.live.device import PoolDevice
from thinmeta.live.kept import release_kept, reserve_kept
from thinmeta.live.nodes import wait_for_node
from thinmeta.live.programs import finish
from thinmeta.live.snapshots import MetadataSnapshot
from thinmeta.live.standstill import Standstill
from thinmeta.live.status import LiveVolume, parse_pool_table
from thinmeta.live.temporary import TemporarySnapshot
from thinmeta.live.volumes import active_volumes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Literal

    from thinmeta.live.keeping import ForgetReport, KeptSnapshot

__all__ = ["LivePool", "live_pool"]

DEFAULT_CACHE_BYTES = 64 << 20
MAX_DEVICE_ID = (1 << 24) - 1


def live_pool(name_or_path: str | os.PathLike[str]) -> LivePool:
    """Find a thin pool that is active on this host.

    Args:
        name_or_path: What device-mapper calls it; a node of it, ``/dev/mapper/NAME`` or
            ``/dev/dm-3``; for a pool of LVM ``vg/pool`` or ``/dev/vg/pool``.

    Returns:
        The pool. Nothing is open: it is asked anew each time.

    Raises:
        LivePoolError: There is no such pool, or ``dmsetup`` is missing, or may not.
        UsageError: It is a file, or a device that is no pool.
        TypeError: It is neither a string nor a path.
    """
    device, table = resolve.pool_device(os.fspath(name_or_path))
    return LivePool(device, parse_pool_table(device.name, table))


class LivePool(PoolDevice):
    """A thin pool that is active; made by :func:`live_pool`.

    Each call asks ``dmsetup`` anew, and takes a few milliseconds for it. What changes the
    pool is committed by the kernel when the call returns. It can be used by several threads.
    A pool with a uuid, as all of LVM's have, may be renamed meanwhile, or activated anew.

    On a pool of LVM the messages that change devices raise :class:`ManagedByLvmError`
    unless told ``force=True``: LVM keeps books of its own. :attr:`lvm` does it LVM's way.
    """

    def __repr__(self) -> str:
        return f"<thinmeta.LivePool {self.name!r}>"

    # ---- volumes ----

    def volumes(self) -> list[LiveVolume]:
        """Its thin devices that are active on this host, by number and name.

        Raises:
            LivePoolError: ``dmsetup`` fails.
        """
        self._device = dmsetup.info(self.name, self.uuid)
        return active_volumes(self.name, self.device_number)

    def find_volume(self, device_id: int) -> LiveVolume | None:
        """A thin device by its number, if it is active; one that can be written before others.

        Raises:
            LivePoolError: ``dmsetup`` fails.
        """
        device_id = _device_id(device_id)
        found = [volume for volume in self.volumes() if volume.device_id == device_id]
        return min(found, key=lambda volume: volume.read_only, default=None)

    def device_id_of(self, name: str) -> int:
        """The number of a volume by its name.

        Args:
            name: What device-mapper calls it while it is active; or what LVM calls it,
                ``thin1`` or ``vg/thin1``, active or not.

        Raises:
            LivePoolError: There is no such volume in this pool.
        """
        name = name.removeprefix("/dev/mapper/").removeprefix("/dev/")
        for volume in self.volumes():
            if name in (volume.name, volume.path.removeprefix("/dev/")):
                return volume.device_id
        if self._lvm is not None:
            return self._lvm.volume(name).device_id
        reason = f"no volume {name!r} of this pool is active: 'thinmeta live status' lists them"
        raise LivePoolError(self.name, reason, errno.ENOENT)

    def activate(
        self,
        device_id: int,
        *,
        name: str,
        size_sectors: int,
        read_only: bool = True,
        external_origin: str | os.PathLike[str] | None = None,
    ) -> LiveVolume:
        """Make a thin device usable on this host, under a name.

        LVM does not know of it, and cannot remove the volume meanwhile; its own way is
        :meth:`LvmPool.activate`.

        Args:
            device_id: Its number.
            name: What device-mapper is to call it.
            size_sectors: How large it is, in sectors of 512 bytes: the pool does not know.
            read_only: Let nobody write to it.
            external_origin: What shows through where nothing was written, a device.

        Returns:
            The volume; its node is there.

        Raises:
            LivePoolError: There is no such thin device, or the name is taken.
        """
        self.refresh()
        words = [0, _count(size_sectors, "size_sectors"), "thin", self.device_number]
        words.append(_device_id(device_id))
        if external_origin is not None:
            words.append(resolve.table_word(os.fspath(external_origin)))
        line = " ".join(map(str, words))

        def work() -> None:
            try:
                dmsetup.create(name, line, read_only=read_only)
            except LivePoolError as error:
                raise messages.refused_activation(self, error, device_id) from error
            try:
                wait_for_node(dmsetup.info(name).number)
            except BaseException:
                dmsetup.remove(name)
                raise

        finish(work)
        for volume in self.volumes():
            if volume.device_id == device_id and volume.name == dmsetup.info(name).name:
                return volume
        raise LivePoolError(name, "the volume was removed by somebody else at once", errno.ENXIO)

    def deactivate(self, name: str) -> None:
        """Remove what :meth:`activate` has made; what is in the pool stays.

        Raises:
            LivePoolError: It is in use, or there is none.
        """
        finish(lambda: dmsetup.remove(name))

    def suspended(self, name: str) -> Standstill:
        """Let an active volume stand still: what was written before is in the pool.

        A context manager that always lets it go on. A filesystem on it is frozen: whatever
        wants to write there waits. A volume that is suspended already stays so.

        Raises:
            LivePoolError: It is not active, or cannot be suspended.
        """
        return Standstill(name)

    def temporary_snapshot(
        self, origin: int | str, *, name: str | None = None, size_sectors: int | None = None
    ) -> TemporarySnapshot:
        """Make a snapshot of a volume, activate it read-only, and remove it afterwards.

        What it shows is the volume as of one moment: wherever it is active here it is
        suspended for that moment. On a pool of LVM ``lvcreate``, ``lvchange`` and
        ``lvremove`` do it; else the snapshot gets one of the highest device ids.

        ::

            with live.temporary_snapshot("vg-home") as volume:
                with live.metadata_snapshot(fresh=True, data=False) as pool:
                    runs = list(pool.devices[volume.device_id].runs())
                ...  # read them from volume.path

        Args:
            origin: The volume's number or name, as :meth:`device_id_of` takes it.
            name: What the snapshot is called meanwhile; for LVM the name of the volume.
            size_sectors: How large it is, in sectors of 512 bytes; needed where the origin
                is not active, as the pool does not know. LVM does.

        Returns:
            A context manager whose value is the snapshot, a :class:`LiveVolume`.

        Raises:
            NoSuchDeviceError: On entering: there is no such volume.
            UsageError: On entering: the size is not known.
            LivePoolError: On entering or leaving: it cannot be made, or removed.
        """
        return TemporarySnapshot(self, origin, name=name, size_sectors=size_sectors)

    # ---- the metadata snapshot ----

    def metadata_snapshot(
        self,
        *,
        adopt: bool = False,
        fresh: bool = False,
        data: bool = True,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> MetadataSnapshot:
        """Reserve the metadata snapshot and read it, while the pool is used.

        The value of the ``with`` block is the pool as it is now: everything is committed
        first. The kernel keeps it until the block is left, or the interpreter ends; then it
        is released. Of a process that was killed the next one releases it. Where another
        process of thinmeta has reserved one already that is read, and released by
        the last reader; it shows the pool as of then.

        What is on the *data* device is read as it is now: the content of a volume that is
        written meanwhile is no content of any one moment. Make a snapshot of it, and read
        that.

        Args:
            adopt: Read also a snapshot that somebody else's tool holds; it is not released.
            fresh: Do not share: one of this very moment.
            data: Open the data device, too, for what is in the volumes.
            cache_bytes: How much of the metadata may be kept in memory.

        Returns:
            A context manager whose value is a :class:`Pool`.

        Raises:
            MetadataSnapshotHeldError: On entering: somebody else's tool holds one, or a
                fresh one was wanted.
            NoSpaceError: There is too little metadata left to hold one.
            LivePoolError: The pool has failed or is read-only, the kernel is older than
                4.4, or a device node is gone. On leaving: it could not be released.
        """
        cache_bytes = cache_argument(cache_bytes)
        return MetadataSnapshot(self, adopt=adopt, fresh=fresh, data=data, cache_bytes=cache_bytes)

    def reserve_metadata_snapshot(self) -> int:
        """Reserve the metadata snapshot and keep it, also when this process ends.

        Everyone who reads the pool meanwhile reads that one.

        Returns:
            Its metadata block.

        Raises:
            MetadataSnapshotHeldError: There is one already.
            NoSpaceError: There is too little metadata left to hold one.
            LivePoolError: As for :meth:`metadata_snapshot`.
        """
        held_root = reserve_kept(self)
        assert held_root is not None  # this was no dry run
        return held_root

    def release_metadata_snapshot(self, *, stale: bool = False) -> bool:
        """Release what :meth:`reserve_metadata_snapshot` has reserved.

        Args:
            stale: Release instead what a process that was killed has left behind.

        Returns:
            Whether it is released now. If not: there are readers, the last of which will do
            it; or nothing was left behind.

        Raises:
            NoMetadataSnapshotError: None is held, and ``stale`` was not asked for.
            MetadataSnapshotHeldError: It is somebody else's, or of a process that runs.
            LivePoolError: The pool cannot do it.
        """
        return release_kept(self, stale=stale)

    # ---- what is kept for the next run ----

    def kept(self) -> list[KeptSnapshot]:
        """The snapshots that ``send``, ``replicate`` and backups have made here.

        They are the bases of the next runs, or were left behind. Other users' are not among
        them, if they have another ``THINMETA_STATE_DIR``.

        Returns:
            By volume and purpose; also those that are not in the pool any more.

        Raises:
            StreamError: What was written down about them is damaged.
            MetadataSnapshotHeldError: Somebody else's tool holds a metadata snapshot.
            LivePoolError: The pool cannot be asked, or what was written down not be read.
        """
        from thinmeta.live.keeping import list_kept

        return list_kept(self)

    def forget(
        self, which: Iterable[int | str] | Literal["all"], *, dry_run: bool = False
    ) -> ForgetReport:
        """Remove snapshots that :meth:`kept` lists, and no others.

        The next run for their purpose has no base then: it reads the whole volume, or a backup
        goes by the mappings in its repository. Of one that is not in the pool any more, or that
        somebody has written to, only what was written down goes. On a pool of LVM ``lvremove``
        does it.

        Args:
            which: Their numbers, or LVM's names of them; ``"all"`` means all that nobody uses.
            dry_run: Only say what would be done.

        Returns:
            What was done. If it raises, some of it may have been.

        Raises:
            DeviceInUseError: A process of thinmeta uses one, or somebody has opened it; unless
                all are meant, when it is left alone.
            LivePoolError: One is none of those; or it cannot be removed: the next run, or
                the next call, does that.
            StreamError, MetadataSnapshotHeldError: As for :meth:`kept`.
        """
        from thinmeta.live.keeping import forget

        return forget(self, which, dry_run=dry_run)

    # ---- messages that change devices ----

    def create_thin(self, device_id: int, *, force: bool = False) -> None:
        """Make a thin device without mappings.

        Raises:
            DeviceExistsError: There is one of this number.
            ManagedByLvmError: The pool is LVM's, and ``force`` is not set.
            LivePoolError: The pool is read-only or has failed.
        """
        device_id = _device_id(device_id)
        self._mind_lvm("lvcreate makes thin volumes", force=force)
        messages.send(self, "create_thin", device_id)

    def create_snapshot(
        self, device_id: int, *, origin_id: int, suspend: str | None = None, force: bool = False
    ) -> None:
        """Make a thin device with what another one has now.

        While the origin is active on this host, it must stand still: the kernel does not
        see to that.

        Args:
            device_id: The new one's number.
            origin_id: The number of the origin.
            suspend: The name of the active volume to suspend meanwhile.
            force: Do it though LVM would not know of it.

        Raises:
            UsageError: The origin is active and not suspended.
            DeviceExistsError: There is one of this number.
            NoSuchDeviceError: There is no origin.
            ManagedByLvmError: The pool is LVM's, and ``force`` is not set.
            LivePoolError: The pool is read-only or has failed, or the origin cannot be
                suspended.
        """
        device_id, origin_id = _device_id(device_id), _device_id(origin_id)
        self._mind_lvm("lvcreate --snapshot makes snapshots", force=force)
        messages.snapshot(self, device_id, origin_id, suspend)

    def delete(self, device_id: int, *, force: bool = False) -> None:
        """Take a thin device out of the pool, with all it has for itself.

        Raises:
            NoSuchDeviceError: There is none of this number.
            DeviceInUseError: It is active.
            ManagedByLvmError: The pool is LVM's, and ``force`` is not set.
            LivePoolError: The pool is read-only or has failed.
        """
        device_id = _device_id(device_id)
        self._mind_lvm("lvremove removes thin volumes", force=force)
        messages.send(self, "delete", device_id)

    def set_transaction_id(self, expected: int, new: int, *, force: bool = False) -> None:
        """Set the number that userspace keeps in a pool.

        Raises:
            StaleTransactionError: It is not ``expected``.
            ManagedByLvmError: The pool is LVM's, and ``force`` is not set.
            LivePoolError: The pool is read-only or has failed.
        """
        words = _count(expected, "a transaction id"), _count(new, "a transaction id")
        self._mind_lvm("LVM sets the transaction id, and refuses a pool with another", force=force)
        messages.send(self, "set_transaction_id", *words)

    def _mind_lvm(self, way: str, *, force: bool) -> None:
        if self._lvm is not None and not force:
            reason = f"{way}, and would not know of this change; force=True makes it all the same"
            raise ManagedByLvmError(self._lvm.full_name, reason)


def _device_id(value: object) -> int:
    found = number(value, "a device id")
    if not 0 <= found <= MAX_DEVICE_ID:
        raise UsageError(f"a device id cannot be {found}: 0 to {MAX_DEVICE_ID}")
    return found


def _count(value: object, what: str) -> int:
    found = number(value, what)
    if not 0 <= found <= MAX_U64:
        raise UsageError(f"{what} cannot be {found}")
    return found
