"""The metadata of a live pool for a moment, as of now."""

from __future__ import annotations

import time

from thinmeta.errors import MetadataSnapshotHeldError, NoSuchDeviceError
from thinmeta.live.kept import holder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from thinmeta.live.pool import LivePool
    from thinmeta.pool import Pool

__all__ = ["FreshMetadata"]

#: How long another reader of the metadata may take.
PATIENCE_SECONDS = 60.0


class FreshMetadata:
    """A context manager whose value is the pool's metadata; waits for other readers.

    Who reads the metadata already shares an older state of them: one in which a device that
    was just made is not yet there.

    Args:
        live: The pool.
        device_id: A device that has to be in it.

    Raises:
        NoSuchDeviceError: On entering: it is not, and this is no older state.
        MetadataSnapshotHeldError: On entering: somebody reads an older state for very long.
    """

    def __init__(self, live: LivePool, device_id: int | None = None) -> None:
        self._live, self._device_id = live, device_id
        self._snapshot = live.metadata_snapshot(data=False)

    def __enter__(self) -> Pool:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            pool = self._snapshot.__enter__()
            if self._device_id is None or self._device_id in pool.devices:
                return pool
            joined = self._snapshot.joined or self._snapshot.adopted
            kept = joined and holder(self._live, self._live.status()) == "command"
            self._snapshot.__exit__(None, None, None)
            if not joined:
                raise NoSuchDeviceError(self._device_id)
            if kept:
                raise MetadataSnapshotHeldError(
                    f"{self._live.name}: 'thinmeta live reserve' holds an older state of the "
                    f"metadata: 'thinmeta live release {self._live.name}' lets go of it"
                )
            if time.monotonic() > deadline:
                raise MetadataSnapshotHeldError(
                    f"{self._live.name}: another process has been reading an older state of the "
                    f"metadata for {PATIENCE_SECONDS:g} s: wait until it is done"
                )
            time.sleep(0.2)
            self._snapshot = self._live.metadata_snapshot(data=False)

    def __exit__(
        self,
        raised: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._snapshot.__exit__(raised, value, traceback)
