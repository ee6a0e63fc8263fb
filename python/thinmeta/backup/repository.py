"""Backup repositories: generations of volumes, each piece of content stored once."""

from __future__ import annotations

import logging
import os
from functools import partial
from weakref import finalize

from thinmeta.arguments import number, threads_argument
from thinmeta.backup.config import make_config, read_config, repair_config
from thinmeta.backup.create import Creation, Outlook
from thinmeta.backup.listing import LATEST, find_generation, newest_first, read_generations
from thinmeta.backup.manifest import StoredGeneration
from thinmeta.backup.objects import open_store
from thinmeta.backup.sealed import folder_of, own_store
from thinmeta.errors import DamagedRepositoryError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from tempfile import TemporaryDirectory
    from typing import Self

    from thinmeta.backup.markers import Marker
    from thinmeta.backup.objects import ObjectStore, Path
    from thinmeta.backup.prune import PruneReport
    from thinmeta.backup.restore import RestoreReport
    from thinmeta.backup.verify import VerifyReport
    from thinmeta.source import Generation

    Progress = Callable[[int, int], object]

__all__ = ["Repository"]

DEFAULT_THREADS = 2
MAX_NAME = 200

log = logging.getLogger("thinmeta.backup")


class Repository:
    """A backup repository in a folder or an object store.

    Made by :meth:`init` and :meth:`open`. Nothing is kept open between calls, and any number
    of processes may use a repository at the same time.

    Attributes:
        address: The folder, or the address of the store.
        id: A random number that the repository is known by, in hexadecimal.
    """

    def __init__(self, store: ObjectStore, identifier: str) -> None:
        self._store = store
        self._scratch: TemporaryDirectory[str] | None = None
        self.address, self.id = store.name, identifier

    def __repr__(self) -> str:
        return f"<thinmeta.backup.Repository {self.address!r}>"

    @classmethod
    def init(cls, where: Path | ObjectStore, *, key: bytes | None = None) -> Self:
        """Make a repository.

        Args:
            where: A folder, which is made if it is not there, or ``s3://BUCKET/PREFIX``,
                ``gs://``, ``az://``, ``file://`` or ``memory://NAME``.
            key: Encrypt everything under this key, of 32 bytes (:mod:`thinmeta.backup.keys`).
                It is kept nowhere: without it nothing can be restored.

        Raises:
            RepositoryError: There is one already, or the folder has something else in it.
            RepositoryKeyError: That cannot be a key.
            UsageError: An object store or encryption needs a package that is not installed.
            ObjectStoreError: The store cannot be reached, or does not allow it.
            OSError: The folder cannot be written.
        """
        return cls(*make_config(open_store(where), key))

    @classmethod
    def repair(cls, where: Path | ObjectStore, *, key: bytes | None = None) -> Self:
        """Make ``config.json`` anew where it is lost or damaged, and open the repository.

        An encrypted repository gets its id back; another one gets a new id, so that snapshots
        that were kept for it in live pools are not known any more.

        Args:
            where: As :meth:`init` takes it.
            key: Its key, if it is encrypted.

        Raises:
            RepositoryError: There are no generations, or nothing needs to be made anew.
            RepositoryKeyError: As :meth:`open`.
        """
        return cls(*repair_config(open_store(where), key))

    @classmethod
    def open(cls, where: Path | ObjectStore, *, key: bytes | None = None) -> Self:
        """Open a repository.

        Args:
            where: As :meth:`init` takes it.
            key: Its key, if it is encrypted.

        Raises:
            RepositoryError: There is none.
            RepositoryKeyError: It is encrypted under another key or none was given; or it is
                not encrypted, and a key was given.
            UsageError: An object store or encryption needs a package that is not installed.
            DamagedRepositoryError: What says what it is is damaged.
            ObjectStoreError: The store cannot be reached, or does not allow it.
        """
        return cls(*read_config(open_store(where), key))

    def generations(self) -> list[StoredGeneration]:
        """All generations, the oldest first; damaged ones are left out, with a warning.

        :meth:`verify` says which these are.
        """
        return read_generations(self._store)[0]

    def find(
        self, generation: str | int | StoredGeneration, *, volume: str | None = None
    ) -> StoredGeneration:
        """One generation.

        Args:
            generation: Its name or the beginning of its id, its sequence number, or
                ``"latest"``.
            volume: Of the volume of that name. ``"latest"`` needs it where there are
                generations of more than one.

        Raises:
            NoSuchGenerationError: There is none, or more than one that could be meant.
            DamagedRepositoryError: Its manifest is damaged.
        """
        if isinstance(generation, StoredGeneration):
            return generation
        try:
            return find_generation(self._store, str(generation), volume)
        except DamagedRepositoryError as error:
            raise self._is_damaged(set(error.objects), error.reason) from error

    def _find_for(
        self, generation: str | int | StoredGeneration, volume: str | None
    ) -> StoredGeneration:
        """One generation; the latest is that of the volume in question."""
        return self.find(generation, volume=volume if generation == LATEST else None)

    def create(
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
        """Make a generation of what a volume holds.

        What is unchanged since an earlier generation is not read again if the snapshot of
        that one is still in the pool, or its bookmark proves it; and what is stored already
        is not stored again.

        Args:
            generation: The state of the volume, from :mod:`thinmeta.source`.
            volume: A name for the volume. With one, generations of that name are taken for
                earlier states of it, in the same pool.
            pool: What the pool is known by, if it has no uuid. Without a uuid, this and
                ``volume`` nobody knows which generations are of the same pool, and everything
                that is mapped is read.
            base: The generation to be made from, and no other: then it has to prove something.
            full: Read everything that is mapped.
            level: How hard zstd tries, -7 to 22.
            threads: How many threads read, hash and compress; 2 by default.
            wait_seconds: How long to wait for a prune that deletes.
            progress: Called now and then as ``progress(done, total)``, in bytes.

        Raises:
            WrongBaseError: Nothing proves what is unchanged since ``base``.
            NoSuchGenerationError: There is no such ``base``.
            RepositoryBusyError: A prune deletes, and does not come to an end.
            DamagedBlockError: The pool's metadata is damaged.
            OSError: The volume cannot be read or the repository not written. What was stored
                is not stored again by the next try.
        """
        return self._creation(
            generation,
            volume=volume,
            pool=pool,
            base=base,
            full=full,
            level=level,
            threads=threads,
            wait_seconds=wait_seconds,
            progress=progress,
        ).run(partial(newest_first, self._store))

    def outlook(
        self,
        generation: Generation,
        *,
        volume: str = "",
        pool: str = "",
        base: str | int | StoredGeneration | None = None,
        full: bool = False,
    ) -> Outlook:
        """What :meth:`create` would read, and from which base; nothing is stored."""
        creation = self._creation(generation, volume=volume, pool=pool, base=base, full=full)
        return creation.outlook(newest_first(self._store))

    def _creation(
        self,
        generation: Generation,
        *,
        volume: str,
        pool: str,
        base: str | int | StoredGeneration | None,
        full: bool,
        level: int = 1,
        threads: int | None = None,
        wait_seconds: float = 0.0,
        progress: Progress | None = None,
    ) -> Creation:
        for text, what in ((volume, "volume"), (pool, "pool")):
            if len(text) > MAX_NAME or not text.isprintable():
                raise UsageError(f"{what} has to be one line of at most {MAX_NAME} characters")
        if base is not None and full:
            raise UsageError("either from a base or in full")
        level = number(level, "level")
        if not -7 <= level <= 22:
            raise UsageError(f"zstd has levels from -7 to 22, and none {level}")
        return Creation(
            own_store(self._store),
            self._cache(),
            generation,
            volume=volume,
            pool=pool,
            wanted=None if base is None else self._find_for(base, volume or None),
            full=full,
            level=level,
            threads=threads_argument(threads) or DEFAULT_THREADS,
            wait_seconds=wait_seconds,
            progress=progress,
        )

    def restore(
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
        """Restore a generation.

        Args:
            generation: As :meth:`find` takes it.
            target: A file, which becomes sparse and appears when all of it is there; a block
                device, which is written in place; or the metadata of a pool that nobody uses.
            volume: As :meth:`find` takes it.
            data: The data of that pool.
            device_id: Its thin device to restore into, which need not be there.
            overwrite: Replace what is there.
            threads: How many threads read and check; 2 by default.
            progress: Called now and then as ``progress(done, total)``, in bytes that are not
                zeros.

        Raises:
            NoSuchGenerationError: There is none such.
            DamagedRepositoryError: Objects are missing or damaged; ``restorable`` has the
                generations that can be restored.
            AlreadyFormattedError: Something is there.
            DeviceInUseError: Somebody uses the target.
            UsageError: The target would be inside the repository.
            OSError: The target is full, or cannot be written.
        """
        from thinmeta.backup.locate import Lost
        from thinmeta.backup.restore import restore
        from thinmeta.backup.targets import open_target

        stored = self.find(generation, volume=volume)
        self._refuse_inside(target)
        where = open_target(
            target, stored.size_bytes, overwrite=overwrite, data=data, device_id=device_id
        )
        workers = threads_argument(threads) or DEFAULT_THREADS
        try:
            return restore(
                self._store, self._cache(), stored, where, threads=workers, progress=progress
            )
        except Lost as error:
            lost = sum(length for _, length in error.ranges)
            what = ", ".join(sorted(error.objects)[:3]) or "pieces that no pack has"
            reason = f"{stored.name} cannot be restored: {what}: {lost} bytes and more are lost"
            raise self._is_damaged(error.objects, reason) from error

    def verify(
        self, *, quick: bool = False, mend: bool = False, progress: Progress | None = None
    ) -> VerifyReport:
        """Look at all objects, and say which generations can be restored.

        Args:
            quick: Do not read the packs: only look whether they are there.
            mend: Note in the repository which packs are damaged or gone: what a later backup
                finds of their content in the volume is stored again, which may mend older
                generations, too. ``create(full=True)`` looks at the most.
            progress: Called now and then as ``progress(done, total)``, in bytes of packs.

        Raises:
            ObjectStoreError: The store cannot be reached.
        """
        from thinmeta.backup.verify import verify

        return verify(self._store, self._cache(), quick=quick, mend=mend, progress=progress)

    def prune(
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
        """Delete generations, and what only they needed.

        Args:
            keep_last: Keep so many of the newest generations of each volume. Of one volume are
                those of one ``volume`` name; without a name, those of one device of one pool,
                and those that were made from another one.
            keep_daily: Keep the newest of each of so many of the latest days (of UTC) that have
                one; it does not matter what the other rules keep.
            keep_weekly: The same of weeks, from Monday on.
            keep_monthly: The same of months.
            keep: Keep these besides. This alone is no rule.
            volume: Delete only generations of the volume of that name.
            drop_damaged: Delete the generations, too, that cannot be restored in full; without
                it, nothing is deleted while there are any.
            dry_run: Only say what would be deleted.
            progress: Called now and then as ``progress(done, total)``, in bytes of packs that
                are written anew.

        Raises:
            RepositoryBusyError: A backup is being made, or another prune is at work.
            DamagedRepositoryError: What is kept is damaged; nothing was deleted.
            NoSuchGenerationError: One of ``keep`` or the volume is not there.
        """
        from thinmeta.backup.keeping import KeepRules
        from thinmeta.backup.prune import Prune

        rules = KeepRules(
            last=number(keep_last, "keep_last"),
            daily=number(keep_daily, "keep_daily"),
            weekly=number(keep_weekly, "keep_weekly"),
            monthly=number(keep_monthly, "keep_monthly"),
        )
        if not rules or min(rules.last, rules.daily, rules.weekly, rules.monthly) < 0:
            raise UsageError("at least one generation has to be kept: keep_last=1")
        kept = {self._find_for(each, volume).name for each in keep}
        prune = Prune(own_store(self._store), self._cache(), progress=progress)
        return prune.run(
            partial(read_generations, self._store),
            rules=rules,
            keep=kept,
            volume=volume,
            drop_damaged=drop_damaged,
            dry_run=dry_run,
        )

    def unlock(self, *, dry_run: bool = False) -> list[Marker]:
        """Remove the marks of backups and prunes whose processes are not known to be alive.

        Only to be used if it is certain that nothing is at work on another machine.

        Returns:
            What was removed.
        """
        from thinmeta.backup.markers import ACTIVE, CONDEMNED, markers

        found = [*markers(self._store, ACTIVE), *markers(self._store, CONDEMNED)]
        gone = [each for each in found if each.state != "alive"]
        if not dry_run:
            self._store.delete([each.name for each in gone])
        return gone

    def _refuse_inside(self, target: str | os.PathLike[str]) -> None:
        folder = folder_of(self._store)
        if folder is None:
            return
        folder, path = os.path.realpath(folder), os.path.realpath(target)
        if os.path.commonpath((folder, path)) == folder:
            raise UsageError(f"{os.fspath(target)} is in the repository: restore to another place")

    def _is_damaged(self, objects: set[str], reason: str) -> DamagedRepositoryError:
        """What says which generations are whole."""
        from thinmeta.backup.verify import verify

        report = verify(self._store, self._cache(), quick=True, progress=None)
        whole = tuple(each.name for each in report.generations if each.is_restorable)
        words = f"{len(whole)} of {len(report.generations)} generations have all their objects"
        words = f"{reason}; {words}: 'thinmeta backup verify' says more"
        return DamagedRepositoryError(self.address, words, tuple(sorted(objects)), whole)

    def _cache(self) -> str:
        """The folder for copies of index objects; one for now where there can be no other."""
        root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        folder = os.path.join(root, "thinmeta", self.id)
        if self._store.path("") is not None:
            return folder  # nothing is copied
        if self._scratch is None:
            try:
                os.makedirs(folder, mode=0o700, exist_ok=True)
                if os.access(folder, os.W_OK):
                    return folder
            except OSError as error:
                log.info("no copies of index objects are kept: %s", error)
            from tempfile import TemporaryDirectory

            self._scratch = TemporaryDirectory(prefix="thinmeta-index-", ignore_cleanup_errors=True)
            finalize(self, self._scratch.cleanup)
        return self._scratch.name
