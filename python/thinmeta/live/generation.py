"""A state of a live volume that stands still while it is read.

The volume itself is never read: it may change at any moment. A snapshot of it is made and
activated read-only, and its mappings are saved, so that the metadata snapshot is held for a
moment only. What was read through is kept as the base of the next one, or removed.
"""

from __future__ import annotations

import os
from dataclasses import replace

from thinmeta.bookmark import Bookmark, check_place
from thinmeta.errors import NoSuchDeviceError, UsageError, WrongBaseError
from thinmeta.identity import Identity
from thinmeta.live.fresh import FreshMetadata
from thinmeta.live.making import SnapshotMaker
from thinmeta.live.own import Books
from thinmeta.live.programs import finish
from thinmeta.source import Changes, Ranges, identity_of_bookmark
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
        identity: Who the snapshot is.
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
        self._books = Books(live.name, live.identity, self._origin_id, purpose)
        self._maker = SnapshotMaker(live, self._origin_id, self._books, size_bytes=size_bytes)
        self._descriptor = -1
        self._saved: Bookmark | None = None
        self._scratch = ""
        self._keeps = self._leaves = False

    def __enter__(self) -> Self:
        import tempfile

        self._books.__enter__()
        try:
            self._scratch = tempfile.mkdtemp(prefix="thinmeta-")
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
        base = self._books.base
        if base is None or self._keeps:
            return None
        try:
            found = self._bookmark_of(base.device_id, size_bytes=base.size_bytes or None)
        except (NoSuchDeviceError, UsageError):  # deleted, or written to
            return None
        return found if found.digest.hex() == base.digest else None

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
            failure.add_note(f"what is left of the snapshot is removed by the next run: {error}")
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._books.__exit__(None, None, None)

    def _name_of_volume(self) -> str:
        lvm = self._live.lvm
        if lvm is not None:
            found = (each.name for each in lvm.volumes() if each.device_id == self._origin_id)
            return next(found, "")
        active = self._live.find_volume(self._origin_id)
        return "" if active is None else active.name

    def _read_mappings(self) -> None:
        making, volume = self._books.making, self._maker.volume
        assert making is not None
        size = volume.size_sectors * SECTOR_BYTES
        saved = self._saved = self._bookmark_of(making.device_id, size_bytes=size)
        own = replace(making, digest=saved.digest.hex(), size_bytes=size)
        self._books.write(making=own, base=self._books.base)
        with_origin = volume.external_origin is not None and not self._flatten
        if self._flatten and volume.external_origin is None:
            raise UsageError("there is no external origin whose content could be taken over")
        known = identity_of_bookmark(saved).to_json()
        self.identity = Identity.from_json({**known, "external_origin": with_origin})
        self.volume_name = self._name_of_volume()
        self._descriptor = os.open(volume.path, os.O_RDONLY | os.O_CLOEXEC)

    def _bookmark_of(self, device_id: int, size_bytes: int | None = None) -> Bookmark:
        path = os.path.join(self._scratch, f"{device_id}-{os.urandom(4).hex()}")
        with FreshMetadata(self._live, device_id) as pool:
            device = pool.devices[device_id]
            return Bookmark.save(device, path, size_bytes=size_bytes, pool_uuid=self._live.uuid)

    # ---- reading ----

    def changes(self, base: int | Bookmark | None) -> Changes:
        """What has to be read, and what is zero, to get here from a base.

        Args:
            base: Nothing; the number of a snapshot in the pool; or a bookmark.

        Raises:
            WrongBaseError: The base cannot be one: a volume that was written, other data
                blocks, a later state, another pool.
            NoSuchDeviceError: The base is not in the pool (any more).
        """
        saved = self._state()
        size = self.identity.size_bytes
        if self._flatten:
            if base is not None:
                raise UsageError("a volume with its external origin's content is sent whole")
            return Changes(None, Ranges.of([(0, size)])._numbers, b"")
        if base is None:
            return Changes(None, *saved._native.changes(None, 0, size))
        if not isinstance(base, Bookmark):
            try:
                base = self._bookmark_of(base)
            except UsageError as error:
                raise WrongBaseError(str(error)) from error
        if base.pool_uuid and self._live.uuid and base.pool_uuid != self._live.uuid:
            raise WrongBaseError(
                f"the bookmark is of pool {base.pool_uuid}, and this is {self._live.uuid}"
            )
        # What was just read of this very pool may be newer than the snapshot: another one was
        # made in between.
        own = os.path.dirname(base.path) == self._scratch
        if base.pool_time > saved.pool_time and not own:
            raise WrongBaseError(
                f"the pool's clock is {saved.pool_time}, and was {base.pool_time} when the "
                "bookmark was saved: this is another pool, or an earlier state of it"
            )
        before = identity_of_bookmark(base)
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
                    error.filename = self._maker.volume.path
                    raise
                if not count:
                    raise UsageError(f"the volume ends before byte {offset_bytes + rest.nbytes}")
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
