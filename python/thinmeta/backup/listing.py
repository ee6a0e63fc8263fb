"""Which generations a repository has, and which one somebody means."""

from __future__ import annotations

import logging

from thinmeta.backup.manifest import GENERATIONS, StoredGeneration, generation_of, read_manifest
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
    store: ObjectStore, damaged: dict[str, str] | None = None
) -> Iterator[StoredGeneration]:
    """The generations that can be read, each read when it is asked for.

    Args:
        store: The repository's objects.
        damaged: Gets what is wrong with the others, by name.
    """
    for name in reversed(names_of_generations(store)):
        try:
            yield read_manifest(store, name)
        except FileNotFoundError:
            continue  # pruned meanwhile
        except StreamError as error:
            log.warning("%s: %s%s.json: %s", store.name, GENERATIONS, name, error)
            if damaged is not None:
                damaged[name] = str(error)


def read_generations(store: ObjectStore) -> tuple[list[StoredGeneration], dict[str, str]]:
    """Those that can be read, the oldest first, and what is wrong with the others."""
    damaged: dict[str, str] = {}
    found = list(newest_first(store, damaged))
    found.reverse()
    return found, damaged


def find_generation(store: ObjectStore, wanted: str) -> StoredGeneration:
    """One generation.

    Args:
        store: The repository's objects.
        wanted: Its name or the beginning of its id, its sequence number, or ``"latest"``.

    Raises:
        NoSuchGenerationError: There is none, or more than one.
        DamagedRepositoryError: Its manifest is damaged.
    """
    names = list(names_of_generations(store))
    if wanted == LATEST:
        if not names:
            raise NoSuchGenerationError(store.name, "it has no generation yet", wanted)
        fit = [max(names)]  # a damaged one is no reason to take an older one unasked
    else:
        fit = [name for name in names if _is_meant(wanted, name)]
    if not fit:
        reason = f"it has no generation {wanted!r}: 'thinmeta backup list' shows them"
        raise NoSuchGenerationError(store.name, reason, wanted)
    if len(fit) > 1:
        reason = f"{wanted} may be any of {', '.join(fit)}: say which"
        raise NoSuchGenerationError(store.name, reason, wanted)
    try:
        return read_manifest(store, fit[0])
    except FileNotFoundError as error:
        raise NoSuchGenerationError(store.name, f"{fit[0]} was just pruned", wanted) from error
    except StreamError as error:
        name = f"{GENERATIONS}{fit[0]}.json"
        reason = f"{name}: {error}: nothing of this generation can be restored"
        raise DamagedRepositoryError(store.name, reason, (name,)) from error


def _is_meant(wanted: str, name: str) -> bool:
    """Whether somebody who says ``wanted`` may mean the generation of that name."""
    sequence, _, identifier = name.partition("-")
    if wanted == name:
        return True
    if wanted.isascii() and wanted.isdigit() and len(wanted) <= 8:
        return int(wanted) == int(sequence)
    return len(wanted) >= 4 and identifier.startswith(wanted)
