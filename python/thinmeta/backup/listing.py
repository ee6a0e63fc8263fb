"""Which generations a repository has, and which one somebody means."""

from __future__ import annotations

import logging

from thinmeta.backup.manifest import GENERATIONS, StoredGeneration, generation_of, read_manifest
from thinmeta.backup.stopping import stop_point
from thinmeta.errors import DamagedRepositoryError, NoSuchGenerationError, StreamError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from thinmeta.backup.objects import ObjectStore

__all__ = ["find_generation", "newest_first", "read_generations"]

LATEST = "latest"

log = logging.getLogger("thinmeta.backup")


def names_of_generations(store: ObjectStore) -> list[str]:
    """Names of all generations, the oldest first."""
    names = (generation_of(name) for name, _ in list(store.list(GENERATIONS)))
    return sorted(name for name in names if name is not None)


def newest_first(
    store: ObjectStore, damaged: dict[str, StreamError] | None = None
) -> Iterator[StoredGeneration]:
    """The generations that can be read, each read when it is asked for.

    Args:
        store: The repository's objects.
        damaged: Gets what is wrong with the others, by name.
    """
    for name in reversed(names_of_generations(store)):
        stop_point()
        try:
            yield read_manifest(store, name)
        except FileNotFoundError:
            continue  # pruned meanwhile
        except StreamError as error:
            log.warning("%s: %s%s.json: %s", store.name, GENERATIONS, name, error)
            if damaged is not None:
                damaged[name] = error


def read_generations(store: ObjectStore) -> tuple[list[StoredGeneration], dict[str, StreamError]]:
    """Those that can be read, the oldest first, and what is wrong with the others."""
    damaged: dict[str, StreamError] = {}
    found = list(newest_first(store, damaged))
    found.reverse()
    return found, damaged


def find_generation(store: ObjectStore, wanted: str, volume: str | None) -> StoredGeneration:
    """One generation.

    Args:
        store: The repository's objects.
        wanted: Its name or the beginning of its id, its sequence number, or ``"latest"``.
        volume: Of the volume of that name.

    Raises:
        NoSuchGenerationError: There is none, or more than one.
        DamagedRepositoryError: Its manifest is damaged.
    """
    names = names_of_generations(store)
    if wanted == LATEST:
        return _latest(store, names, volume)
    fit = [name for name in names if _is_meant(wanted, name)]
    if not fit:
        reason = f"it has no generation {wanted!r}: 'thinmeta backup list' shows them"
        raise NoSuchGenerationError(store.name, reason, wanted)
    if len(fit) > 1:
        reason = f"{wanted} may be any of {', '.join(fit)}: say which"
        raise NoSuchGenerationError(store.name, reason, wanted)
    found = _read(store, fit[0], wanted)
    if volume is not None and found.volume != volume:
        reason = f"{found.name} is of volume {found.volume!r}, and not of {volume!r}"
        raise NoSuchGenerationError(store.name, reason, wanted)
    return found


def _latest(store: ObjectStore, names: list[str], volume: str | None) -> StoredGeneration:
    """The newest generation of a volume; a damaged one is no reason to take an older unasked."""
    from thinmeta.backup.keeping import groups_of

    found: list[StoredGeneration] = []
    for name in reversed(names):
        stop_point()
        try:
            each = _read(store, name, LATEST)
        except DamagedRepositoryError:
            if not found:
                raise  # nobody knows of which volume it is
            continue
        except NoSuchGenerationError:
            continue  # pruned meanwhile
        if volume in (None, each.volume):
            found.append(each)
    if not found:
        of_it = "" if volume is None else f" of volume {volume!r}"
        raise NoSuchGenerationError(store.name, f"it has no generation{of_it} yet", LATEST)
    groups = groups_of(found)
    if len(groups) > 1:
        newest = sorted((group[-1] for group in groups), key=lambda each: each.name, reverse=True)
        last = ", ".join(f"{each.name} of {_called(each)}" for each in newest[:4])
        reason = f"the latest of which volume? {last}: name one of them, or use --volume"
        raise NoSuchGenerationError(store.name, reason, LATEST)
    return found[0]


def _called(stored: StoredGeneration) -> str:
    """A volume as people know it."""
    pool = f" of pool {stored.pool}" if stored.pool else ""
    return (stored.volume or f"device {stored.identity.device_id}") + pool


def _read(store: ObjectStore, name: str, wanted: str) -> StoredGeneration:
    try:
        return read_manifest(store, name)
    except FileNotFoundError as error:
        raise NoSuchGenerationError(store.name, f"{name} was just pruned", wanted) from error
    except StreamError as error:
        reason = f"{GENERATIONS}{name}.json: {error}: nothing of this generation can be restored"
        damaged = (f"{GENERATIONS}{name}.json",)
        raise DamagedRepositoryError(store.name, reason, damaged) from error


def _is_meant(wanted: str, name: str) -> bool:
    """Whether somebody who says ``wanted`` may mean the generation of that name."""
    sequence, _, identifier = name.partition("-")
    if wanted == name:
        return True
    if wanted.isascii() and wanted.isdigit() and len(wanted) <= 8:
        return int(wanted) == int(sequence)
    return len(wanted) >= 4 and identifier.startswith(wanted)
