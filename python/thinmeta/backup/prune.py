"""Deleting generations, and what nobody needs any more.

The order of things is what keeps a backup that is made meanwhile, and every generation that
stays, whole at any moment and after any crash; ``docs/backup.md`` has the argument:

1. mark what the generations need that stay; if something of it is damaged, stop;
2. delete the manifests of the others;
3. write what is still needed of packs that are mostly waste to new packs, and then the
   index objects anew that name packs which will go;
4. put ``condemned/…``, and look for ``active/…``: if a backup is being made, stop;
5. look whether there are other generations or index objects by now: begin anew if so;
6. delete index objects, and only then packs, segments and bookmarks.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from dataclasses import dataclass, field

from thinmeta import _core
from thinmeta.backup.base import BOOKMARKS
from thinmeta.backup.index import (
    DAMAGED,
    INDEX,
    MAX_PACK_BYTES,
    PACKS,
    SPILL_PIECES,
    IndexSet,
    pack_object,
    read_table,
)
from thinmeta.backup.keeping import KeepRules, groups_of
from thinmeta.backup.locate import Lost
from thinmeta.backup.manifest import GENERATIONS, generation_of
from thinmeta.backup.markers import (
    ACTIVE,
    CONDEMNED,
    abandon,
    markers,
    put_marker,
    take_back,
)
from thinmeta.backup.pipeline import PACK_BYTES
from thinmeta.backup.sealed import piece_key
from thinmeta.backup.segments import SEGMENTS
from thinmeta.backup.stopping import stop_point
from thinmeta.backup.waste import Waste, find_waste
from thinmeta.errors import (
    DamagedRepositoryError,
    NoSuchGenerationError,
    OtherVersionError,
    RepositoryBusyError,
    StreamError,
    UnreadableError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from thinmeta.backup.manifest import StoredGeneration
    from thinmeta.backup.objects import ObjectStore

    #: Gives the generations that can be read, and what is wrong with the others.
    Read = Callable[[], tuple[list[StoredGeneration], dict[str, StreamError]]]

__all__ = ["Prune", "PruneReport"]

#: More index objects than this are put together.
MANY_INDEXES = 16
#: How often it begins anew because there was a backup meanwhile.
ATTEMPTS = 5
#: Objects that are deleted before somebody looks again whether that is still allowed.
DELETE_AT_ONCE = 500

log = logging.getLogger("thinmeta.backup")


@dataclass(slots=True)
class PruneReport:
    """What was deleted, or would be.

    Attributes:
        kept: Names of the generations that stay.
        reasons: Of each of these what it is kept for: rules, as in ``daily 2026-11-27``,
            ``asked for``, or ``another volume``. A backup that was made meanwhile has none.
        deleted: Names of those that do not.
        freed_bytes: Size of the objects that were deleted, less that of new ones.
        repacked_bytes: How much was written anew, to get rid of the rest of packs.
        deleted_objects: How many objects were deleted, without manifests.
        dry_run: Whether nothing was changed.
    """

    kept: list[str]
    deleted: list[str]
    freed_bytes: int = 0
    repacked_bytes: int = 0
    deleted_objects: int = 0
    dry_run: bool = False
    reasons: dict[str, list[str]] = field(default_factory=dict)


@dataclass(slots=True)
class _Doomed:
    """What is to be deleted, and what was seen when that was decided."""

    generations: set[str]
    indexes_seen: set[str]
    indexes: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    bytes: int = 0


class Prune:
    """One prune.

    Args:
        store: The repository's objects.
        cache: A folder for copies of index objects.
        progress: Called as ``progress(done, total)``, in bytes of packs written anew.
    """

    def __init__(
        self,
        store: ObjectStore,
        cache: str,
        *,
        progress: Callable[[int, int], object] | None,
    ) -> None:
        self._store, self._cache, self._progress = store, cache, progress
        self._id = os.urandom(8).hex()
        self._report = PruneReport([], [])

    def run(
        self,
        read: Read,
        *,
        rules: KeepRules,
        keep: set[str],
        volume: str | None,
        drop_damaged: bool,
        dry_run: bool,
    ) -> PruneReport:
        """Do it; see :meth:`thinmeta.backup.Repository.prune`."""
        if dry_run:
            return self._look(read, rules, keep, volume, drop_damaged=drop_damaged)
        marker = put_marker(self._store, ACTIVE, "prune", self._id)
        try:
            self._refuse_others(marker, "nothing was deleted")
            kept, dropped = self._choose(read, rules, keep, volume, drop_damaged=drop_damaged)
            waste = self._find_waste(kept)
            self._store.delete([f"{GENERATIONS}{name}.json" for name in dropped])
            self._report.deleted = dropped
            self._free(read, waste, marker)
        except BaseException:
            # What was put is no use any more, but it is not to go on when the marker has gone.
            with suppress(OSError):
                self._store.flush()
            raise
        finally:
            try:
                take_back(self._store, marker)
            except OSError as error:
                abandon(marker)
                log.warning("the marker of this prune could not be removed: %s", error)
        return self._report

    def _look(
        self,
        read: Read,
        rules: KeepRules,
        keep: set[str],
        volume: str | None,
        *,
        drop_damaged: bool,
    ) -> PruneReport:
        """What would be done; nothing is written."""
        kept, dropped = self._choose(read, rules, keep, volume, drop_damaged=drop_damaged)
        waste = self._find_waste(kept)
        sizes = waste.sizes
        gone = sum(sizes[pack] for pack in [*waste.dead, *waste.mostly_dead])
        self._report.freed_bytes = gone - waste.live_bytes
        self._report.repacked_bytes = waste.live_bytes
        self._report.deleted, self._report.dry_run = dropped, True
        self._report.kept = [each.name for each in kept]
        return self._report

    def _refuse_others(self, ours: str, stands: str) -> list[str]:
        """Refuse to go on beside others; the markers of those who are dead.

        Raises:
            RepositoryBusyError: Somebody is at work.
        """
        dead = []
        for each in [*markers(self._store, ACTIVE), *markers(self._store, CONDEMNED)]:
            if each.name == ours or self._id in each.name:
                continue
            if each.state == "dead":
                dead.append(each.name)
                continue
            what = "another prune is at work" if each.kind == "prune" else "a backup is being made"
            hint = "wait until it is done"
            if each.state == "unknown":
                hint += (
                    "; if its machine is gone for good, 'thinmeta backup unlock' removes its mark"
                )
            raise RepositoryBusyError(self._store.name, f"{what} ({each.owner}): {hint}; {stands}")
        return dead

    # ---- what stays ----

    def _choose(
        self,
        read: Read,
        rules: KeepRules,
        keep: set[str],
        volume: str | None,
        *,
        drop_damaged: bool,
    ) -> tuple[list[StoredGeneration], list[str]]:
        found, unreadable = read()
        if unreadable and not drop_damaged:
            names = ", ".join(sorted(unreadable))
            raise DamagedRepositoryError(
                self._store.name,
                f"the manifests of {names} are damaged, so that nobody knows what they need; "
                "nothing was deleted: --drop-damaged deletes them",
                tuple(f"{GENERATIONS}{name}.json" for name in sorted(unreadable)),
            )
        dropped = sorted(unreadable)
        if drop_damaged:
            whole = self._whole(found, unreadable, keep, volume)
            damaged = {each.name for each in found if volume in (None, each.volume)} - whole
            dropped += damaged
            found = [each for each in found if each.name not in damaged]
        if volume is not None and not any(each.volume == volume for each in found):
            reason = f"it has no generation of a volume {volume!r}: nothing was deleted"
            raise NoSuchGenerationError(self._store.name, reason, volume)
        reasons: dict[str, list[str]] = {name: ["asked for"] for name in keep}
        for group in groups_of(found):
            stay = {each.name: ["another volume"] for each in group}
            if volume is None or group[-1].volume == volume:
                stay = rules.kept(group)
            for name, why in stay.items():
                reasons.setdefault(name, []).extend(why)
        kept = [each for each in found if each.name in reasons]
        dropped += [each.name for each in found if each.name not in reasons]
        self._report.reasons = {each.name: reasons[each.name] for each in kept}
        return kept, sorted(dropped)

    def _whole(
        self,
        found: list[StoredGeneration],
        unreadable: dict[str, StreamError],
        keep: set[str],
        volume: str | None,
    ) -> set[str]:
        """Generations that can be restored, where the others may be deleted for good.

        Raises:
            DamagedRepositoryError: They may not: it is not certain that they are damaged, or
                nothing of a volume would be left.
        """
        from thinmeta.backup.verify import verify

        report = verify(self._store, self._cache, quick=True, progress=None)
        whole = {each.name for each in report.generations if each.is_restorable}
        errors = [*unreadable.values(), *(each.error for each in report.findings)]
        reason = ""
        if any(isinstance(each, UnreadableError) for each in errors):
            reason = "the disk cannot read some objects now, which says nothing of what they are"
        elif any(isinstance(each, OtherVersionError) for each in errors):
            reason = "some objects are of a newer version, and not damaged: use a newer thinmeta"
        elif unreadable and volume is not None:
            who = ", ".join(sorted(unreadable))
            reason = f"nobody knows of which volume {who} were: leave --volume out to delete them"
        elif lost := sorted(keep - whole):
            reason = f"{', '.join(lost)}, which --keep names, cannot be restored in full"
        else:
            for group in groups_of(found):
                if not any(each.name in whole for each in group):
                    last = group[-1]
                    what = f"volume {last.volume!r}" if last.volume else "one volume"
                    reason = f"nothing would be left of {what} ({last.name}): back it up first"
            if unreadable and not whole:
                reason = "nothing would be left: back up what there is first"
        if reason:
            names = tuple(each.object for each in report.findings)
            text = f"{reason}; nothing was deleted"
            raise DamagedRepositoryError(self._store.name, text, names, tuple(sorted(whole)))
        return whole

    def _find_waste(self, kept: list[StoredGeneration]) -> Waste:
        try:
            return find_waste(self._store, self._cache, kept)
        except Lost as error:
            raise DamagedRepositoryError(
                self._store.name,
                f"generations that are to stay are damaged ({', '.join(sorted(error.objects))}): "
                "'thinmeta backup verify' says which; nothing was deleted: --drop-damaged "
                "deletes them",
                tuple(sorted(error.objects)),
            ) from error

    # ---- what goes ----

    def _free(self, read: Read, waste: Waste, marker: str) -> None:
        for _ in range(ATTEMPTS):
            doomed = self._write_anew(waste)
            if self._delete(doomed, marker):
                self._report.kept = sorted(doomed.generations)
                return
            log.info("a backup was made meanwhile: looking anew")
            found, _ = read()
            waste = self._find_waste(found)
        raise RepositoryBusyError(self._store.name, f"backups are being made; {self._stands()}")

    def _stands(self) -> str:
        count = len(self._report.deleted)
        return f"{count} generations are deleted, and another prune frees what only they needed"

    def _write_anew(self, waste: Waste) -> _Doomed:
        """Put packs and index objects that make others unnecessary; say which these are."""
        index, store = waste.index, self._store
        new = IndexSet(store, self._cache)
        spared = self._repack(waste, new)
        stuck: set[str] = set()
        while True:
            gone, dirty, again = self._replaceable(waste, spared, new.packs, stuck)
            tableless = {pack for pack in again if not self._has_table(pack, waste.sizes[pack])}
            held = {name for name in index.objects if waste.names[name] & tableless} - stuck
            if not held:
                break
            # Only these index objects say what is in such packs; so they stay, with all that
            # they name.
            stuck |= held
        for pack in sorted(again - tableless):
            stop_point()
            name = pack_object(pack)
            new.blocks.record(read_table(store, name, waste.sizes[pack]))
            if new.blocks.fresh_pieces >= SPILL_PIECES:
                new.put()
        new.put()
        doomed = _Doomed(set(waste.generations), waste.indexes_seen | set(new.objects))
        doomed.indexes = sorted(set(dirty) - set(new.objects))
        doomed.others = [pack_object(pack) for pack in sorted(gone)]
        # What was said of packs that are not there any more.
        stay = {DAMAGED + pack.hex() for pack in waste.sizes if pack not in gone}
        doomed.others += [name for name, _ in store.list(DAMAGED) if name not in stay]
        doomed.bytes = sum(waste.sizes[pack] for pack in gone)
        for name, size in [*store.list(SEGMENTS), *store.list(BOOKMARKS)]:
            if name not in waste.needed:
                doomed.others.append(name)
                doomed.bytes += size
        return doomed

    def _replaceable(
        self, waste: Waste, spared: set[bytes], fresh: set[bytes], stuck: set[str]
    ) -> tuple[set[bytes], list[str], set[bytes]]:
        """What goes if the index objects of ``stuck`` stay.

        Returns:
            Packs and index objects that go, and packs that have to be named anew.
        """
        index = waste.index
        held = set().union(*[waste.names[name] for name in stuck])
        gone = (waste.dead | waste.mostly_dead) - spared - fresh - held
        dirty = [name for name in index.objects if waste.names[name] & gone]
        if len(index.objects) - len(dirty) - len(index.damaged) > MANY_INDEXES:
            dirty = [name for name in index.objects if name not in stuck]
        clean = [waste.names[name] for name in index.objects if name not in set(dirty)]
        again = (set(waste.sizes) & index.packs) - gone - fresh - set().union(*clean)
        return gone, [*dirty, *index.damaged], again

    def _has_table(self, pack: bytes, size: int) -> bool:
        """Whether a pack says what it has."""
        stop_point()
        name = pack_object(pack)
        try:
            read_table(self._store, name, size)
        except StreamError as error:
            log.warning("%s: %s: %s: its index objects stay", self._store.name, name, error)
            return False
        return True

    def _repack(self, waste: Waste, new: IndexSet) -> set[bytes]:
        """Write what is needed of packs to others; the packs that have to stay as they are."""
        builder = _core.PackBuilder()
        spared: set[bytes] = set()
        done = 0
        total = sum(waste.sizes[pack] for pack in waste.mostly_dead)
        for pack in sorted(waste.mostly_dead):
            stop_point()
            name, size = pack_object(pack), waste.sizes[pack]
            try:
                data = self._store.get(name, MAX_PACK_BYTES)
                table = read_table(self._store, name, size)
                if table.damaged(data, key=piece_key(self._store)):
                    raise StreamError("pieces are damaged")
            except StreamError as error:
                log.warning("%s: %s: %s: left as it is", self._store.name, name, error)
                spared.add(pack)
                continue
            if builder.take_over(waste.index.blocks, table, data) >= PACK_BYTES:
                self._put_pack(builder, new)
            done += size
            if self._progress is not None:
                self._progress(done, total)
        self._put_pack(builder, new)
        return spared

    def _put_pack(self, builder: _core.PackBuilder, new: IndexSet) -> None:
        data, table, _, _, _, _ = builder.finish().take()
        if len(table) == 0:
            return
        self._store.put(pack_object(table.name), data, later=True)
        new.blocks.record(table)
        new.packs.add(table.name)
        with memoryview(data) as view:
            self._report.repacked_bytes += view.nbytes

    def _delete(self, doomed: _Doomed, marker: str) -> bool:
        """Delete, unless there was a backup meanwhile: ``False`` then."""
        gate = put_marker(self._store, CONDEMNED, "prune", self._id)
        try:
            dead = self._refuse_others(marker, self._stands())
            # From here on nobody makes a backup until the gate is gone.
            self._store.delete(name for name in dead if name.startswith(ACTIVE))
            if self._has_changed(doomed):
                return False
            before = self._report.freed_bytes
            self._delete_all(gate, doomed.indexes)
            self._delete_all(gate, doomed.others)
            self._report.freed_bytes = before + doomed.bytes - self._report.repacked_bytes
            for folder in (PACKS, INDEX, SEGMENTS, BOOKMARKS, GENERATIONS):
                self._store.clean(folder)
            self._store.delete(name for name in dead if name.startswith(CONDEMNED))
        finally:
            take_back(self._store, gate)
        return True

    def _has_changed(self, doomed: _Doomed) -> bool:
        names = {generation_of(name) for name, _ in self._store.list(GENERATIONS)} - {None}
        indexes = {name for name, _ in self._store.list(INDEX)}
        return names != doomed.generations or indexes != doomed.indexes_seen

    def _delete_all(self, gate: str, names: list[str]) -> None:
        for begin in range(0, len(names), DELETE_AT_ONCE):
            stop_point()
            if self._store.size(gate) is None:
                raise RepositoryBusyError(
                    self._store.name,
                    f"this prune was declared dead ('thinmeta backup unlock'); {self._stands()}",
                )
            part = names[begin : begin + DELETE_AT_ONCE]
            self._store.delete(part)
            self._report.deleted_objects += len(part)
