"""Metadata snapshots of a live pool: reserved, shared, read and released."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from contextlib import suppress

from thinmeta.errors import LivePoolError, NoMetadataSnapshotError, UsageError
from thinmeta.live.held import (
    check_kernel,
    foreign,
    left_behind,
    ours,
    release_held,
    reserve,
    shared,
    working,
)
from thinmeta.live.holders import Holders
from thinmeta.live.programs import finish

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from thinmeta.live.holders import Critical
    from thinmeta.live.pool import LivePool
    from thinmeta.live.status import LiveStatus
    from thinmeta.pool import Pool

__all__ = ["MUTEX", "MetadataSnapshot"]

#: Those who read in this process, to be released when it ends.
_grips: set[Grip] = set()


class _Mutex:
    """One thread of this process at a time: all of them share its locks."""

    def __init__(self) -> None:
        self.it = threading.RLock()


MUTEX = _Mutex()


class Grip:
    """One reader's part in the metadata snapshot of a pool.

    Attributes:
        held_root: Its metadata block.
        adopted: It is somebody else's, who releases it.
        joined: Somebody reserved it before, and it shows the pool as of then.
    """

    def __init__(self, live: LivePool) -> None:
        self._live = live
        self._holders = Holders(live.name, live.identity)
        self._process = os.getpid()
        self._descriptor = -1
        self.held_root = 0
        self.adopted = self.joined = False

    def take(self, *, adopt: bool, fresh: bool) -> None:
        """Reserve one, or join those who have one.

        Raises:
            MetadataSnapshotHeldError: It is somebody else's, or not a fresh one.
            NoSpaceError: There is too little metadata left.
            LivePoolError: The pool cannot do it.
        """
        check_kernel(self._live)
        with MUTEX.it, self._holders.critical() as critical:
            status = working(self._live)
            self._descriptor, alone = self._holders.enter()
            try:
                self._take(critical, status, adopt=adopt, fresh=fresh, alone=alone)
            except BaseException:
                self._leave()
                raise
            if self.adopted:
                self._leave()
            else:
                _grips.add(self)

    def _take(
        self, critical: Critical, status: LiveStatus, *, adopt: bool, fresh: bool, alone: bool
    ) -> None:
        held = status.held_root
        if held is not None:
            self._live.refresh()
            record = ours(self._live, self._holders, status)
            if record is None:
                if not adopt:
                    raise foreign(self._live, held)
                self.held_root, self.adopted = held, True
                return
            if not alone or record.keeper == "command":
                if fresh:
                    raise shared(self._live, held, record.keeper)
                self.held_root, self.joined = held, True
                return
            release_held(self._live, self._holders)  # of one who died
            status = working(self._live)
        self.held_root = reserve(self._live, self._holders, critical, status, "process")

    def release(self) -> None:
        """Be no reader any more; the last one releases the snapshot.

        In a forked child this does nothing. What somebody else has released, or reserved
        since, is left alone.

        Raises:
            LivePoolError: The pool cannot do it; it is left to whoever comes next.
        """
        if self._process != os.getpid():
            _grips.discard(self)
            return
        with MUTEX.it:
            if self not in _grips:
                return
            try:
                with self._holders.critical():
                    if self._holders.is_last(self._descriptor):
                        self._release_last()
            finally:
                _grips.discard(self)
                self._leave()

    def _release_last(self) -> None:
        try:
            status = working(self._live)
        except LivePoolError as error:
            raise left_behind(self._live, error) from error
        if status.held_root is None:
            self._holders.forget()
            return
        record = ours(self._live, self._holders, status)
        if record is not None and record.keeper == "process":
            release_held(self._live, self._holders)

    def _leave(self) -> None:
        if self._descriptor >= 0:
            self._holders.leave(self._descriptor)
            self._descriptor = -1


class MetadataSnapshot:
    """A metadata snapshot that is read; made by :meth:`LivePool.metadata_snapshot`.

    A context manager whose value is the open :class:`Pool`. It is released when the block
    is left, when the interpreter ends, and not at all when the process is killed: then the
    next one who wants it does that.

    Attributes:
        held_root: Metadata block of the snapshot, while it is open.
        adopted: It is somebody else's, who releases it.
        joined: Another process had reserved it already: it shows the pool as of then.
    """

    def __init__(
        self, live: LivePool, *, adopt: bool, fresh: bool, data: bool, cache_bytes: int
    ) -> None:
        self._live, self._adopt, self._fresh = live, adopt, fresh
        self._data, self._cache_bytes = data, cache_bytes
        self._grip: Grip | None = None
        self._pool: Pool | None = None

    def __repr__(self) -> str:
        return f"<thinmeta.live.MetadataSnapshot of {self._live.name!r}>"

    @property
    def held_root(self) -> int | None:
        """Metadata block of the snapshot, while it is open."""
        return None if self._grip is None else self._grip.held_root

    @property
    def adopted(self) -> bool:
        """Whether it is somebody else's."""
        return self._grip is not None and self._grip.adopted

    @property
    def joined(self) -> bool:
        """Whether it was there before."""
        return self._grip is not None and self._grip.joined

    def __enter__(self) -> Pool:
        if self._grip is not None:
            raise UsageError("the metadata snapshot is open already")
        grip = self._grip = Grip(self._live)
        try:
            finish(lambda: grip.take(adopt=self._adopt, fresh=self._fresh))
            self._pool = self._open(grip)
        except BaseException as failure:
            self._close(failure)
            raise
        return self._pool

    def _open(self, grip: Grip) -> Pool:
        from thinmeta.pool import open_pool

        live = self._live
        live.check_nodes(data=self._data)
        pool = open_pool(
            live.metadata_path,
            metadata_snapshot="held",
            data=live.data_path if self._data else None,
            cache_bytes=self._cache_bytes,
        )
        if pool._superblock_fields()["blocknr"] != grip.held_root:
            pool.close()
            raise NoMetadataSnapshotError(
                live.metadata_path,
                "the metadata snapshot was released, and another one reserved, by somebody else; "
                "try again",
            )
        return pool

    def __exit__(
        self,
        raised: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close(value)

    def _close(self, failure: BaseException | None) -> None:
        """Close and release; what fails here is added to what has failed before."""
        pool, self._pool = self._pool, None
        grip, self._grip = self._grip, None
        try:
            if pool is not None:
                pool.close()
        finally:
            if grip is not None:
                try:
                    finish(grip.release)
                except LivePoolError as error:
                    if failure is None:
                        raise
                    failure.add_note(str(error))


def _release_all() -> None:
    """At the interpreter's end."""
    for grip in list(_grips):
        try:
            grip.release()
        except Exception as error:
            if sys.stderr is not None:
                with suppress(OSError, ValueError):
                    sys.stderr.write(f"thinmeta: {' '.join(str(error).split())}\n")


atexit.register(_release_all)


def _forked() -> None:
    """A child has no part in what its parent holds; nor in who was inside just then."""
    MUTEX.it = threading.RLock()
    _grips.clear()


os.register_at_fork(after_in_child=_forked)
