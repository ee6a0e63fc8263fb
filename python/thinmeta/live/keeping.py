"""What thinmeta keeps in a pool for its next runs: listed, and let go of.

A page of the books (:mod:`thinmeta.live.own`) is for one volume and one purpose. Whoever sends
or backs up has it locked, so that what is in use is known, and is not forgotten.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from thinmeta.errors import DeviceInUseError, LivePoolError, UsageError
from thinmeta.live.making import SnapshotMaker, is_own, volume_words
from thinmeta.live.mapped import names_of
from thinmeta.live.own import Books, OwnSnapshot, Page, pages_of
from thinmeta.live.programs import finish

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from thinmeta.live.pool import LivePool

__all__ = ["ForgetReport", "KeptSnapshot", "LeftAlone", "forget", "list_kept"]

Role = Literal["kept", "left", "removing"]
Presence = Literal["there", "gone", "changed", "unknown"]


@dataclass(frozen=True, slots=True)
class KeptSnapshot:
    """A snapshot of a live volume that thinmeta has made.

    Attributes:
        device_id: Its number in the pool; ``None`` for one of LVM's that is gone.
        lvm_name: What LVM calls it; empty in pools that LVM does not manage.
        volume_id: Number of the volume that it was made of.
        volume_name: What LVM or device-mapper calls that volume; empty where it is not active.
        purpose: What it is kept for: ``"send"``, ``"send NAME"``, ``"replicate TARGET"``, or
            the id of a repository of backups.
        role: ``"kept"`` as the base of the next run; ``"left"`` by a process that was killed,
            or for a stream that was cut; ``"removing"``: nobody's base any more, and not yet
            removed.
        in_use: Whether a process of thinmeta sends or backs up the volume for that purpose now.
        presence: Whether it is in the pool: ``"there"``; ``"gone"``; ``"changed"``: somebody
            has written to it, or it is somebody else's device with its number; ``"unknown"``
            where somebody reads an older state of the metadata.
        made_at: When it was made, in seconds since 1970, or ``None`` if that is not known.
        size_bytes: Size of the volume then, or ``None`` if that is not known.
    """

    device_id: int | None
    lvm_name: str
    volume_id: int
    volume_name: str
    purpose: str
    role: Role
    in_use: bool
    presence: Presence
    made_at: int | None
    size_bytes: int | None


class LeftAlone(NamedTuple):
    """A snapshot that is not forgotten.

    Attributes:
        snapshot: The snapshot.
        reason: Who uses it.
    """

    snapshot: KeptSnapshot
    reason: str


class ForgetReport(NamedTuple):
    """What :meth:`LivePool.forget` has done, or would do.

    Attributes:
        removed: They were in the pool, and are not any more.
        dropped: Only what was written down about them is gone: they were not in the pool, or
            were not ours any more.
        left: Those that somebody uses; only if all were to be forgotten.
    """

    removed: list[KeptSnapshot]
    dropped: list[KeptSnapshot]
    left: list[LeftAlone]


class _Found(NamedTuple):
    page: Page
    own: OwnSnapshot
    shown: KeptSnapshot


def list_kept(live: LivePool) -> list[KeptSnapshot]:
    """What :meth:`LivePool.kept` says."""
    return [each.shown for each in _find(live)]


def _find(live: LivePool) -> list[_Found]:
    pages = pages_of(live.name, live.identity)
    owns = [own for page in pages for own in page.snapshots]
    if not owns:
        return []
    names = names_of(live)
    numbers, presences = _of_lvm(live, owns) if live.lvm is not None else _of_pool(live, owns)
    found = []
    for page in pages:
        for own in page.snapshots:
            role: Role = "removing"
            if own in (page.base, page.making):
                role = "kept" if own == page.base else "left"
            shown = KeptSnapshot(
                device_id=numbers.get(own),
                lvm_name=own.lvm_name,
                volume_id=page.origin_id,
                volume_name=names.get(page.origin_id, ""),
                purpose=page.purpose,
                role=role,
                in_use=page.in_use,
                presence=presences[own],
                made_at=own.made_at or None,
                size_bytes=own.size_bytes or None,
            )
            found.append(_Found(page, own, shown))
    return found


_Facts = tuple[dict[OwnSnapshot, int], dict[OwnSnapshot, Presence]]


def _of_lvm(live: LivePool, owns: list[OwnSnapshot]) -> _Facts:
    """Which are there by LVM's books: those have names, which nobody else gives."""
    assert live.lvm is not None
    ids = {volume.name: volume.device_id for volume in live.lvm.volumes()}
    numbers = {own: ids[own.lvm_name] for own in owns if own.lvm_name in ids}
    return numbers, {own: "there" if own in numbers else "gone" for own in owns}


def _of_pool(live: LivePool, owns: list[OwnSnapshot]) -> _Facts:
    """Which are there by the pool's metadata, and still what they were."""
    presences: dict[OwnSnapshot, Presence] = {}
    snapshot = live.metadata_snapshot(data=False)
    with snapshot as pool:
        for own in owns:
            device = pool.devices.get(own.device_id)
            if device is None:
                # What was there before us may be from before it was made.
                presences[own] = "unknown" if snapshot.joined else "gone"
            else:
                presences[own] = "there" if is_own(device, own) else "changed"
    return {own: own.device_id for own in owns}, presences


def forget(
    live: LivePool, which: Iterable[int | str] | Literal["all"], *, dry_run: bool = False
) -> ForgetReport:
    """What :meth:`LivePool.forget` does."""
    found = _find(live)
    everything = which == "all"
    if isinstance(which, str):
        if not everything:
            raise UsageError(f"forget {which!r}: give a list of numbers and names, or 'all'")
        chosen = found
    else:
        chosen = _chosen(live, found, which)
        for each in chosen:  # before anything is done
            _check_unused(live, each)
    report = ForgetReport([], [], [])
    for each in chosen:
        try:
            if dry_run:
                _check_unused(live, each)
                is_removed = each.shown.presence in ("there", "unknown")
            else:
                is_removed = _forget(live, each)
        except DeviceInUseError as error:
            if not everything:
                raise
            report.left.append(LeftAlone(each.shown, error.reason))
        else:
            (report.removed if is_removed else report.dropped).append(each.shown)
    return report


def _chosen(live: LivePool, found: list[_Found], which: Iterable[int | str]) -> list[_Found]:
    """Those that are meant, each once.

    Raises:
        LivePoolError: One is none of ours.
    """
    chosen: dict[int, _Found] = {}
    for word in which:
        # A number may be used again after a snapshot of ours is gone: then all of them.
        numbers = isinstance(word, int)
        names = [each.shown.device_id if numbers else each.own.lvm_name for each in found]
        these = [(at, found[at]) for at, name in enumerate(names) if name == word]
        if not these or word == "":
            what = f"thin device {word}" if numbers else repr(word)
            reason = f"{what} is no snapshot that thinmeta keeps here, and is not touched: "
            reason += f"'thinmeta live kept {live.name}' lists them"
            raise LivePoolError(live.name, reason, errno.ENOENT)
        chosen.update(these)
    return list(chosen.values())


def _words(live: LivePool, found: _Found) -> str:
    shown = found.shown
    name = shown.lvm_name or f"thin device {shown.device_id} of {live.name}"
    return f"{name}, a snapshot of {volume_words(shown.volume_id, shown.volume_name)}"


def _check_unused(live: LivePool, found: _Found) -> None:
    """Refuse what somebody uses.

    Raises:
        DeviceInUseError: A process of ours has it, or somebody has opened it.
    """
    if found.shown.in_use:
        raise _in_use(live, found)
    for volume in live.volumes():
        if volume.device_id == found.shown.device_id and volume.open_count:
            raise DeviceInUseError(_words(live, found), f"somebody has opened {volume.path}")


def _in_use(live: LivePool, found: _Found) -> DeviceInUseError:
    reason = "a process of thinmeta sends or backs up the volume for that purpose "
    return DeviceInUseError(
        _words(live, found), f"{reason}({found.shown.purpose}): wait until it is done"
    )


def _forget(live: LivePool, found: _Found) -> bool:
    """Remove one, with nobody else at its page; whether it was in the pool."""
    page, shown = found.page, found.shown
    volume = volume_words(page.origin_id, shown.volume_name)
    books = Books(live.name, live.identity, page.origin_id, page.purpose, volume=volume)

    def work() -> bool:
        try:
            books.__enter__()
        except LivePoolError as error:
            if error.errno != errno.EBUSY:
                raise
            raise _in_use(live, found) from error
        try:
            if found.own not in books.page.snapshots:
                # It was used, or forgotten, since we looked.
                raise _in_use(live, _Found(page, found.own, replace(shown, in_use=True)))
            _check_unused(live, found)
            return SnapshotMaker(live, page.origin_id, books, words=volume).forget(found.own)
        finally:
            books.__exit__(None, None, None)

    return finish(work)
