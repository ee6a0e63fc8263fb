"""A repository for programs that use asyncio: the same calls, awaited.

What takes time is done by a thread of its own, so that the loop goes on meanwhile. If the task
that waits is cancelled, the work is stopped the way an exception stops it, and the wait ends
when that is done: no thread goes on behind anybody's back, nothing half-made is left, and what
a backup had stored is found by the next one.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial

from thinmeta.backup.repository import Repository
from thinmeta.backup.stopping import STOP, Stopped

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable
    from typing import Self, TypeVar

    from thinmeta.backup.create import Outlook
    from thinmeta.backup.manifest import StoredGeneration
    from thinmeta.backup.markers import Marker
    from thinmeta.backup.objects import ObjectStore, Path
    from thinmeta.backup.prune import PruneReport
    from thinmeta.backup.restore import RestoreReport
    from thinmeta.backup.verify import VerifyReport
    from thinmeta.source import Generation

    Progress = Callable[[int, int], object]
    Result = TypeVar("Result")

__all__ = ["AsyncRepository"]


class AsyncRepository:
    """A :class:`~thinmeta.backup.Repository` whose methods are awaited.

    Each method takes what that one's takes, returns and raises the same, and may be cancelled:
    what had been done until then is as if the call had failed there. A call that is cancelled
    as it comes to its end may have been carried out. ``progress`` is called in the loop.

    Made by :meth:`init` and :meth:`open`, or around a repository that is open.

    Args:
        repository: The repository.

    Attributes:
        repository: The same, for those who do not wait.
        address: The folder, or the address of the store.
        id: A random number that the repository is known by, in hexadecimal.
    """

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self.address, self.id = repository.address, repository.id

    def __repr__(self) -> str:
        return f"<thinmeta.backup.AsyncRepository {self.address!r}>"

    @classmethod
    async def init(cls, where: Path | ObjectStore, *, key: bytes | None = None) -> Self:
        """Make a repository; see :meth:`Repository.init`."""
        return cls(await _in_thread(partial(Repository.init, where, key=key)))

    @classmethod
    async def repair(cls, where: Path | ObjectStore, *, key: bytes | None = None) -> Self:
        """Make a lost ``config.json`` anew; see :meth:`Repository.repair`."""
        return cls(await _in_thread(partial(Repository.repair, where, key=key)))

    @classmethod
    async def open(cls, where: Path | ObjectStore, *, key: bytes | None = None) -> Self:
        """Open a repository; see :meth:`Repository.open`."""
        return cls(await _in_thread(partial(Repository.open, where, key=key)))

    async def generations(self) -> list[StoredGeneration]:
        """All generations, the oldest first; see :meth:`Repository.generations`."""
        return await _in_thread(self.repository.generations)

    async def find(
        self, generation: str | int | StoredGeneration, *, volume: str | None = None
    ) -> StoredGeneration:
        """One generation; see :meth:`Repository.find`."""
        return await _in_thread(partial(self.repository.find, generation, volume=volume))

    async def create(
        self,
        generation: Generation,
        *,
        volume: str = "",
        pool: str = "",
        base: str | int | StoredGeneration | None = None,
        full: bool = False,
        level: int = 1,
        threads: int | None = None,
        wait_seconds: float = 60.0,
        progress: Progress | None = None,
    ) -> StoredGeneration:
        """Make a generation of what a volume holds; see :meth:`Repository.create`."""
        call = partial(
            self.repository.create,
            generation,
            volume=volume,
            pool=pool,
            base=base,
            full=full,
            level=level,
            threads=threads,
            wait_seconds=wait_seconds,
        )
        return await _with_progress(call, progress)

    async def outlook(
        self,
        generation: Generation,
        *,
        volume: str = "",
        pool: str = "",
        base: str | int | StoredGeneration | None = None,
        full: bool = False,
    ) -> Outlook:
        """What :meth:`create` would read; see :meth:`Repository.outlook`."""
        outlook = self.repository.outlook
        call = partial(outlook, generation, volume=volume, pool=pool, base=base, full=full)
        return await _in_thread(call)

    async def restore(
        self,
        generation: str | int | StoredGeneration,
        target: str | os.PathLike[str],
        *,
        volume: str | None = None,
        data: str | None = None,
        device_id: int | None = None,
        overwrite: bool = False,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> RestoreReport:
        """Restore a generation; see :meth:`Repository.restore`."""
        call = partial(
            self.repository.restore,
            generation,
            target,
            volume=volume,
            data=data,
            device_id=device_id,
            overwrite=overwrite,
            threads=threads,
        )
        return await _with_progress(call, progress)

    async def verify(
        self, *, quick: bool = False, mend: bool = False, progress: Progress | None = None
    ) -> VerifyReport:
        """Look at all objects; see :meth:`Repository.verify`."""
        return await _with_progress(
            partial(self.repository.verify, quick=quick, mend=mend), progress
        )

    async def prune(
        self,
        *,
        keep_last: int = 0,
        keep_daily: int = 0,
        keep_weekly: int = 0,
        keep_monthly: int = 0,
        keep: Iterable[str | int] = (),
        volume: str | None = None,
        drop_damaged: bool = False,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> PruneReport:
        """Delete generations, and what only they needed; see :meth:`Repository.prune`."""
        call = partial(
            self.repository.prune,
            keep_last=keep_last,
            keep_daily=keep_daily,
            keep_weekly=keep_weekly,
            keep_monthly=keep_monthly,
            keep=keep,
            volume=volume,
            drop_damaged=drop_damaged,
            dry_run=dry_run,
        )
        return await _with_progress(call, progress)

    async def unlock(self, *, dry_run: bool = False) -> list[Marker]:
        """Remove the marks of those who may be dead; see :meth:`Repository.unlock`."""
        return await _in_thread(partial(self.repository.unlock, dry_run=dry_run))


class _Teller:
    """Passes progress on to the loop, where nothing piles up.

    Args:
        loop: The loop of whoever waits.
        progress: What to call there.
        stop: Set if that fails.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, progress: Progress, stop: threading.Event
    ) -> None:
        self._loop, self._progress, self._stop = loop, progress, stop
        self._latest: tuple[int, int] | None = None
        self._lock = threading.Lock()
        self.failure: BaseException | None = None

    def __call__(self, done: int, total: int) -> None:
        """In the thread that works."""
        with self._lock:
            asked, self._latest = self._latest is not None, (done, total)
        if not asked:
            self._loop.call_soon_threadsafe(self.tell)

    def tell(self) -> None:
        """In the loop: pass the latest numbers on."""
        with self._lock:
            latest, self._latest = self._latest, None
        if latest is None or self._stop.is_set():
            return
        try:
            self._progress(*latest)
        except BaseException as error:
            self.failure = error
            self._stop.set()


async def _with_progress(call: Callable[..., Result], progress: Progress | None) -> Result:
    if progress is None:
        return await _in_thread(call)
    stop = threading.Event()
    teller = _Teller(asyncio.get_running_loop(), progress, stop)
    try:
        made = await _in_thread(partial(call, progress=teller), stop)
    except Stopped:
        assert teller.failure is not None
        raise teller.failure from None
    teller.tell()
    if teller.failure is not None:
        raise teller.failure
    return made


async def _in_thread(call: Callable[[], Result], stop: threading.Event | None = None) -> Result:
    """Call in a thread; do not return before it has ended, whatever happens."""
    asked = threading.Event() if stop is None else stop
    context = copy_context()
    context.run(STOP.set, asked)
    run: Callable[[Callable[[], Result]], Result] = context.run
    # A thread of its own: a backup would keep one of the loop's from others for hours.
    pool = ThreadPoolExecutor(1, "thinmeta-backup")
    future = asyncio.get_running_loop().run_in_executor(pool, run, call)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        asked.set()
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError:
                continue  # asked twice: it is under way
        future.exception()  # nobody else will ask
        raise
    except BaseException:
        asked.set()  # the loop has stopped, or the coroutine is closed
        raise
    finally:
        pool.shutdown()  # the work is done, and the thread about to end
