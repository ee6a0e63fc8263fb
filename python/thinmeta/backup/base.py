"""Which stored generation the next one is made from.

A generation can be a base if something proves which blocks are what they were in it: the
snapshot that it was made of, which is still in the pool and was not written, or the bookmark
that was saved with it. :meth:`thinmeta.source.Generation.changes` judges that; here the
candidates are found and tried.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

from thinmeta.backup.local import reading_object
from thinmeta.bookmark import Bookmark
from thinmeta.errors import (
    DamagedRepositoryError,
    NoSuchDeviceError,
    StreamError,
    ThinmetaError,
    UnsupportedFormatError,
    UsageError,
    WrongBaseError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from thinmeta.backup.manifest import StoredGeneration
    from thinmeta.backup.objects import ObjectStore
    from thinmeta.source import Changes, Generation

__all__ = ["BOOKMARKS", "Base", "choose_base", "pool_of"]

BOOKMARKS = "bookmarks/"
#: So many generations of the same pool are looked at for the one with the least to read.
CANDIDATES = 8

log = logging.getLogger("thinmeta.backup")


@dataclass(frozen=True, slots=True)
class Base:
    """What a generation is made from.

    Attributes:
        stored: The generation; ``None``: everything is read.
        changes: What has to be read.
    """

    stored: StoredGeneration | None
    changes: Changes


def pool_of(generation: Generation, pool: str) -> str:
    """What a pool is known by: its uuid, or what the caller says; empty if by nothing."""
    return generation.identity.pool_uuid or pool


class BaseFinder:
    """Tries generations as bases.

    Args:
        store: Where their bookmarks are.
        folder: A folder for copies of bookmarks, which has to stay until all is read.
        generation: The state to back up.
        piece_bytes: Length of a piece; a base has to have the same.
        part_bytes: Length of a part; likewise.
    """

    def __init__(
        self,
        store: ObjectStore,
        folder: str,
        generation: Generation,
        *,
        piece_bytes: int,
        part_bytes: int,
    ) -> None:
        self._store, self._folder, self._generation = store, folder, generation
        self._lengths = piece_bytes, part_bytes

    def changes_since(self, stored: StoredGeneration) -> Changes:
        """What has changed since a generation.

        Raises:
            WrongBaseError: Nothing proves what has not changed.
            DamagedRepositoryError: What would prove it is damaged.
        """
        if (stored.piece_bytes, stored.segment_bytes) != self._lengths:
            raise WrongBaseError(f"{stored.name} has data blocks of another size")
        if stored.identity.external_origin != self._generation.identity.external_origin:
            raise WrongBaseError(f"one of {stored.name} and the volume has an external origin")
        reasons = []
        damage: DamagedRepositoryError | None = None
        # Both prove the same; to ask a live pool for a snapshot takes longer.
        for attempt in (self._since_bookmark, self._since_snapshot):
            try:
                changes = attempt(stored)
            except WrongBaseError as error:
                reasons.append(str(error))
                continue
            except DamagedRepositoryError as error:
                damage = error
                continue
            if changes is None:
                continue
            if changes.base is not None and changes.base.digest == stored.identity.digest:
                return changes
            reasons.append("what is there is another state")
        if damage is not None:
            raise damage
        reason = "; ".join(dict.fromkeys(reasons)) or (
            "it was no snapshot, or one that was written: its blocks may have been overwritten"
        )
        raise WrongBaseError(f"nothing proves what is unchanged since {stored.name}: {reason}")

    def _since_snapshot(self, stored: StoredGeneration) -> Changes | None:
        """By the snapshot that it was made of, if that is still in the pool."""
        here = self._generation.identity
        same_pool = stored.identity.pool_uuid == here.pool_uuid
        if not stored.identity.is_snapshot or not same_pool:
            return None
        try:
            return self._generation.changes(stored.identity.device_id)
        except (NoSuchDeviceError, UsageError):
            return None

    def _since_bookmark(self, stored: StoredGeneration) -> Changes | None:
        if stored.bookmark is None:
            return None
        name = BOOKMARKS + stored.bookmark
        try:
            path = self._store.path(name)
            if path is None:
                path = os.path.join(self._folder, stored.bookmark)
                self._store.fetch(name, path)
            with reading_object():
                bookmark = Bookmark.open(path)
        except (FileNotFoundError, StreamError, UnsupportedFormatError) as error:
            raise DamagedRepositoryError(
                self._store.name, f"{name}, which proves what is unchanged: {error}", (name,)
            ) from error
        return self._generation.changes(bookmark)


def choose_base(
    finder: BaseFinder,
    generation: Generation,
    stored: Iterable[StoredGeneration],
    *,
    volume: str,
    pool: str,
    wanted: StoredGeneration | None,
) -> Iterator[Base]:
    """Bases from the best on, the last one being none: everything is read then.

    Args:
        finder: What tries them.
        generation: The state to back up.
        stored: The generations that there are, the newest first.
        volume: What the caller calls the volume; only its generations are looked at then.
        pool: What the pool is known by; without it and ``volume`` there is no base.
        wanted: The one that the caller wants, and no other.

    Raises:
        WrongBaseError: The wanted one proves nothing.
        DamagedRepositoryError: Its bookmark is damaged.
    """
    if wanted is not None:
        yield Base(wanted, finder.changes_since(wanted))
        raise WrongBaseError(f"objects of {wanted.name} are damaged: use another base")
    found = []
    tried = 0
    for each in stored:
        if not _is_candidate(each, volume, pool):
            continue
        if tried == CANDIDATES:
            break
        tried += 1
        try:
            changes = finder.changes_since(each)
        except ThinmetaError as error:
            log.info("%s is no base: %s", each.name, error)
            continue
        if volume:  # the caller has said that it is the same
            yield Base(each, changes)
            continue
        found.append(Base(each, changes))
        if changes.data_bytes + changes.zero_bytes == 0:
            break
    # Another volume of the pool would do, but everything differs; the newest of equals.
    yield from sorted(found, key=lambda base: base.changes.data_bytes)
    if tried:
        log.info("everything that is mapped is read: no base is left")
    yield Base(None, generation.changes(None))


def _is_candidate(stored: StoredGeneration, volume: str, pool: str) -> bool:
    """Whether a generation may be of the same pool, as far as anybody has said."""
    if stored.pool and pool and stored.pool != pool:
        return False
    if volume:
        return stored.volume == volume
    return bool(pool) and stored.pool == pool
