"""A snapshot of a volume for as long as it is read."""

from __future__ import annotations

import errno
import os

from thinmeta.errors import DeviceExistsError, LivePoolError, UsageError
from thinmeta.live import messages
from thinmeta.live.programs import finish

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from thinmeta.live.lvm import LvmPool
    from thinmeta.live.pool import LivePool
    from thinmeta.live.status import LiveVolume

__all__ = ["TemporarySnapshot"]

#: LVM and people count device ids from below; we take one from above.
_HIGHEST_ID = (1 << 24) - 1
_TRIES = 1000


class TemporarySnapshot:
    """A context manager whose value is an active, read-only snapshot of a volume.

    Made by :meth:`LivePool.temporary_snapshot`. Leaving it removes the snapshot; a process
    that is killed leaves it behind, under its name.
    """

    def __init__(
        self, live: LivePool, origin: int | str, *, name: str | None, size_sectors: int | None
    ) -> None:
        self._live, self._origin, self._size_sectors = live, origin, size_sectors
        self._name = name
        self._process = os.getpid()
        #: What takes back what was done, the last first.
        self._undo: list[Callable[[], None]] = []

    def __enter__(self) -> LiveVolume:
        if self._undo:
            raise UsageError("the temporary snapshot is there already")
        try:
            lvm = self._live.lvm
            return finish(self._make if lvm is None else lambda: self._make_in_lvm(lvm))
        except BaseException as failure:
            self._remove(failure)
            raise

    def __exit__(
        self,
        raised: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._remove(value)

    def _make(self) -> LiveVolume:
        live, origin = self._live, self._origin
        origin_id = live.device_id_of(origin) if isinstance(origin, str) else origin
        active = live.find_volume(origin_id)
        size_sectors = self._size_sectors
        if size_sectors is None:
            if active is None:
                raise UsageError(
                    f"thin device {origin_id} of {live.name} is not active, and a pool does not "
                    "know how large its volumes are: size_sectors is needed"
                )
            size_sectors = active.size_sectors
        device_id = self._create(origin_id)
        self._undo.append(lambda: live.delete(device_id))
        name = self._name or f"thinmeta-{live.name}-{origin_id}-{os.getpid()}"
        volume = live.activate(
            device_id,
            name=name,
            size_sectors=size_sectors,
            external_origin=None if active is None else active.external_origin,
        )
        self._undo.append(lambda: live.deactivate(volume.name))
        return volume

    def _create(self, origin_id: int) -> int:
        for device_id in range(_HIGHEST_ID, _HIGHEST_ID - _TRIES, -1):
            try:
                messages.snapshot_of_active(self._live, device_id, origin_id)
            except DeviceExistsError:
                continue
            return device_id
        reason = f"all of the last {_TRIES} device ids are taken, most likely by snapshots that "
        reason += "were left behind: delete those"
        raise LivePoolError(self._live.name, reason, errno.EEXIST)

    def _make_in_lvm(self, lvm: LvmPool) -> LiveVolume:
        origin = self._origin
        if isinstance(origin, int):
            known = [volume.name for volume in lvm.volumes() if volume.device_id == origin]
            if not known:
                reason = f"LVM knows no volume with thin id {origin}"
                raise LivePoolError(lvm.full_name, reason, errno.ENOENT)
            origin = known[0]
        name = self._name or f"thinmeta-{origin.rpartition('/')[2]}-{os.getpid()}"
        snapshot = lvm.create_snapshot(name, origin=origin)
        self._undo.append(lambda: lvm.remove(snapshot.name))
        lvm.activate(snapshot.name)
        volume = self._live.find_volume(snapshot.device_id)
        if volume is None:
            reason = f"LVM says that it activated {snapshot.name}, and it is not active here"
            raise LivePoolError(lvm.full_name, reason, errno.ENXIO)
        return volume

    def _remove(self, failure: BaseException | None) -> None:
        if self._process != os.getpid():  # a forked child's leaving is nobody else's
            return

        def work() -> None:
            while self._undo:
                self._undo.pop()()

        try:
            finish(work)
        except Exception as error:
            if failure is None:
                raise
            failure.add_note(f"the temporary snapshot could not be removed: {error}")
