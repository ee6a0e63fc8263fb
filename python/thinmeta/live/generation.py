"""A state of a live volume that stands still while it is read.

The volume itself is never read: it may change at any moment. A snapshot of it is made and
activated read-only, and its mappings are saved, so that the metadata snapshot is held for a
moment only. What was read through is kept as the base of the next one, or removed.
"""

from __future__ import annotations

import os
from dataclasses import replace

from thinmeta.bookmark import Bookmark, check_place
from thinmeta.errors import LivePoolError, NoSuchDeviceError, UsageError, WrongBaseError
from thinmeta.live.making import SnapshotMaker, volume_words
from thinmeta.live.mapped import VolumeMappings, with_origin
from thinmeta.live.own import Books
from thinmeta.live.programs import finish
from thinmeta.source import Changes, identity_of_bookmark
from thinmeta.types import SECTOR_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from typing_extensions import Buffer

    from thinmeta.live.pool import LivePool

__all__ = ["LiveGeneration"]


class LiveGeneration:
    """A volume of a live pool as of the moment in which this is entered.

    A :class:`thinmeta.source.Generation`. Leaving it removes the snapshot, unless
    :meth:`keep` was called: then it stays as the base of the next one, and the one that was
    kept before is removed. A process that is killed leaves at most one snapshot behind, which
    the next one with the same purpose removes.

    Args:
        live: The pool.
        volume: The volume, by number or name.
        purpose: What it is read for; for each purpose another snapshot is kept.
        size_bytes: Size of the volume; needed where it is not active, and LVM does not know.
        flatten: Take what an external origin shows for content of the volume.
        held: What the copy is known to hold, a digest in hexadecimal: a snapshot with it
            that was left behind is taken for kept.
        wanted: The state that a stream was cut of, a digest, too: a snapshot with it that was
            left behind is read, and no new one made.

    Attributes:
        identity: Who the state is, with the number of the volume and not of the snapshot.
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
        held: str = "",
        wanted: str = "",
    ) -> None:
        self._live, self._flatten = live, flatten
        self._held, self._wanted = held, wanted
        self._origin_id = live.device_id_of(volume) if isinstance(volume, str) else volume
        self._words = volume_words(self._origin_id, volume if isinstance(volume, str) else "")
        self._books = Books(live.name, live.identity, self._origin_id, purpose, volume=self._words)
        self._maker = SnapshotMaker(
            live, self._origin_id, self._books, size_bytes=size_bytes, words=self._words
        )
        self._descriptor = -1
        self._saved: Bookmark | None = None
        self._scratch = ""
        self._keeps = self._leaves = False

    def __enter__(self) -> Self:
        import tempfile

        self._books.__enter__()
        try:
            self._scratch = tempfile.mkdtemp(prefix="thinmeta-")
            self._mappings = VolumeMappings(self._live, self._origin_id, self._scratch)
            finish(lambda: self._maker.begin(held=self._held, wanted=self._wanted))
            self._read_mappings()
        except BaseException as failure:
            self._leave(failure)
            raise
        return self

    def __exit__(
        self,
        raised: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave(value)

    def leave_behind(self) -> None:
        """Do not remove the snapshot on leaving: what was read of it will be continued."""
        self._leaves = True

    def keep(self) -> None:
        """Keep the snapshot as the base of what comes next; the one before goes.

        To be called when what was made of it is safe. Durable when this returns.
        """
        making, before = self._books.making, self._books.base
        if making is None:
            raise UsageError("there is no snapshot that could be kept")
        removing = self._books.removing
        if before is not None and before != making:
            removing = (*removing, before)
        self._books.write(making=None, base=making, removing=removing)
        self._keeps = True

    @property
    def kept_base(self) -> Bookmark | None:
        """The snapshot that was kept, if it is still what it was; as a bookmark."""
        return None if self._keeps else self._mappings.kept(self._books.page)

    @property
    def mappings(self) -> Bookmark:
        """Its mappings, for as long as it is open."""
        return self._state()

    @property
    def snapshot_id(self) -> int:
        """Number of the snapshot that is read."""
        return self._maker.volume.device_id

    def _leave(self, failure: BaseException | None) -> None:
        import shutil

        def work() -> None:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1
            self._maker.end(stays=self._leaves)

        try:
            finish(work)
        except Exception as error:
            if failure is None:
                raise
            left = f"what is left of the snapshot of {self._words}"
            failure.add_note(f"{left} is removed by the next run: {error}")
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._books.__exit__(None, None, None)

    def _read_mappings(self) -> None:
        making, volume = self._books.making, self._maker.volume
        assert making is not None
        size = volume.size_sectors * SECTOR_BYTES
        try:
            saved = self._saved = self._mappings.save(making.device_id, size_bytes=size)
        except (NoSuchDeviceError, UsageError) as error:
            reason = f"somebody has changed the snapshot of {self._words} that was just made: "
            raise LivePoolError(self._live.name, f"{reason}{error}") from error
        own = replace(making, digest=saved.digest.hex(), size_bytes=size)
        self._books.write(making=own, base=self._books.base)
        has_origin = volume.external_origin is not None and not self._flatten
        if self._flatten and volume.external_origin is None:
            raise UsageError("there is no external origin whose content could be taken over")
        self.identity = replace(
            identity_of_bookmark(saved), device_id=self._origin_id, external_origin=has_origin
        )
        self.volume_name = self._mappings.name()
        self._descriptor = os.open(volume.path, os.O_RDONLY | os.O_CLOEXEC)

    # ---- reading ----

    def changes(self, base: int | Bookmark | None) -> Changes:
        """What has to be read, and what is zero, to get here from a base.

        Args:
            base: Nothing; the number of a snapshot in the pool; a bookmark; or the number of
                the volume itself, for the state that was kept of it.

        Raises:
            WrongBaseError: The base cannot be one: a volume that was written, other data
                blocks, a later state, another pool.
            NoSuchDeviceError: The base is not in the pool (any more).
        """
        saved = self._state()
        size = self.identity.size_bytes
        if self._flatten:
            return with_origin(base, size)
        if base is None:
            return Changes(None, *saved._native.changes(None, 0, size))
        base = self._mappings.base(base, self._books.page)
        # What was just read of this very pool may be newer than the snapshot: another one was
        # made in between.
        if base.pool_time > saved.pool_time and not self._mappings.is_ours(base):
            raise WrongBaseError(
                f"the pool's clock is {saved.pool_time}, and was {base.pool_time} when the "
                "bookmark was saved: this is another pool, or an earlier state of it"
            )
        before = self._mappings.identity(base, self._books.page)
        columns = saved._native.changes(base._native, before.size_bytes, size)
        return Changes(before, *columns)

    def read_into(self, offset_bytes: int, buffer: Buffer) -> None:
        """Fill a buffer from a place in the volume; threads may do so at the same time.

        Raises:
            OSError: The volume cannot be read.
            UsageError: It ends before that.
        """
        self._state()
        with memoryview(buffer).cast("B") as rest:
            done = 0
            while done < rest.nbytes:
                try:
                    count = os.preadv(self._descriptor, [rest[done:]], offset_bytes + done)
                except OSError as error:
                    error.filename = f"{self._live.name}: {self._words}"
                    error.add_note(f"it was read through {self._maker.volume.path}")
                    raise
                if not count:
                    end = offset_bytes + rest.nbytes
                    raise UsageError(f"{self._words} ends before byte {end}")
                done += count

    def save_bookmark(self, path: str) -> Bookmark | None:
        """Save the mappings of the snapshot, to compare later states with."""
        import shutil

        from thinmeta.files import OutputFile

        saved = self._state()
        check_place(path)
        with OutputFile(path) as descriptor, open(saved.path, "rb") as source:
            with open(descriptor, "wb", closefd=False) as out:
                shutil.copyfileobj(source, out, 1 << 20)
        return Bookmark.open(path)

    def _state(self) -> Bookmark:
        if self._saved is None:
            raise UsageError("the generation is not open")
        return self._saved
