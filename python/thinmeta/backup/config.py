"""What says what a repository is: ``config.json``."""

from __future__ import annotations

import os
import time
from contextlib import suppress

from thinmeta.backup.base import BOOKMARKS
from thinmeta.backup.index import INDEX, PACKS
from thinmeta.backup.manifest import (
    CREATED,
    GENERATIONS,
    MAX_DOCUMENT_BYTES,
    VERSION,
    decode,
    encode,
    generation_of,
)
from thinmeta.backup.sealed import CIPHER, SealedStore, key_check, sealed_for
from thinmeta.backup.segments import SEGMENTS
from thinmeta.errors import (
    DamagedRepositoryError,
    OtherVersionError,
    RepositoryError,
    RepositoryKeyError,
    StreamError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from thinmeta.backup.objects import ObjectStore

__all__ = ["make_config", "read_config", "repair_config"]

CONFIG = "config.json"
#: What a folder may have that becomes a repository: where a filesystem begins.
_NOBODYS = ("lost+found",)
_ID_BYTES = 16
#: So many objects of each kind are looked at for whether they are encrypted.
LOOKED_AT = 20


def make_config(store: ObjectStore, key: bytes | None) -> tuple[ObjectStore, str]:
    """Make a store a repository.

    Returns:
        Its objects, through which they are encrypted if there is a key; and its id.

    Raises:
        RepositoryError: There is one already, or the folder has something else in it.
    """
    folder = store.path("")
    if folder is not None and os.path.isdir(folder):
        there = [each for each in os.listdir(folder) if not each.startswith(".")]
        there = [each for each in there if each not in _NOBODYS]
        if there and CONFIG not in there:
            raise RepositoryError(store.name, "the folder is not empty; nothing written")
    identifier = os.urandom(_ID_BYTES).hex()
    opened = store if key is None else SealedStore(store, key, identifier)
    if _has_lost_config(store):
        reason = f"there are generations already, and {CONFIG} is lost: use init --repair"
        raise RepositoryError(store.name, f"{reason}; nothing written")
    if not store.put_new(CONFIG, _config(identifier, key)):
        raise RepositoryError(store.name, "there is a repository already; nothing written")
    return opened, identifier


def read_config(store: ObjectStore, key: bytes | None) -> tuple[ObjectStore, str]:
    """Objects and id of a repository.

    Raises:
        RepositoryError: There is none, or it is one of a newer version.
        RepositoryKeyError: It is encrypted, and this is not the key; or it is not encrypted,
            and there is a key.
        DamagedRepositoryError: What says what it is is damaged.
    """
    try:
        identifier, encryption = _read(store)
    except FileNotFoundError as error:
        reason = f"no repository is there; 'thinmeta backup init {store.name}' makes one"
        if _manifests(store):
            reason = f"{CONFIG} is lost: 'thinmeta backup init --repair {store.name}' makes it anew"
        raise RepositoryError(store.name, reason) from error
    except NotADirectoryError as error:
        raise RepositoryError(store.name, "no repository is there, but a file") from error
    except OtherVersionError as error:
        raise RepositoryError(store.name, f"{CONFIG}: {error}") from error
    except StreamError as error:
        reason = f"{CONFIG}: {error}: 'thinmeta backup init --repair {store.name}' makes it anew"
        raise DamagedRepositoryError(store.name, reason, (CONFIG,)) from error
    if encryption is None:
        if key is not None:
            # Somebody may have taken the word away, to have the next backup written in clear.
            raise RepositoryKeyError(
                store.name, "it is not encrypted, but a key was given: nothing was done"
            )
        return store, identifier
    if not isinstance(encryption, dict) or encryption.get("cipher") != CIPHER:
        raise RepositoryError(store.name, "it is encrypted as this program does not know")
    if key is None:
        raise RepositoryKeyError(
            store.name, "it is encrypted: --key-file or --key-command has to give its key"
        )
    opened = SealedStore(store, key, identifier)
    if key_check(key, identifier) != encryption.get("check"):
        raise RepositoryKeyError(store.name, "this is the key of another repository")
    return opened, identifier


def repair_config(store: ObjectStore, key: bytes | None) -> tuple[ObjectStore, str]:
    """Make what says what a repository is anew, from what is there.

    An encrypted one gets its id back. Another one gets a new id, by which only snapshots that
    were kept for it in live pools are not known any more.

    Raises:
        RepositoryError: There are no generations that can be read, or nothing needs to be made
            anew, or the repository is of a newer version.
        RepositoryKeyError: It is encrypted, and this is not the key; or it is not encrypted,
            and there is a key.
    """
    names = _manifests(store)
    if not names:
        raise RepositoryError(store.name, "no generation is there: nothing written")
    try:
        _read(store)
        raise RepositoryError(store.name, f"{CONFIG} is sound; nothing written")
    except OtherVersionError as error:
        raise RepositoryError(store.name, f"{CONFIG}: {error}; nothing written") from error
    except (StreamError, FileNotFoundError):
        pass
    identifier = _sealed_for(store, names)
    if identifier is None:
        if key is not None:
            raise RepositoryKeyError(store.name, "it is not encrypted, but a key was given")
        if not any(_opens(store, name) for name in names):
            reason = "no manifest can be read: nobody knows what this is; nothing written"
            raise RepositoryError(store.name, reason)
        identifier, opened = os.urandom(_ID_BYTES).hex(), store
    else:
        if key is None:
            raise RepositoryKeyError(store.name, "it is encrypted: its key is needed")
        opened = SealedStore(store, key, identifier)
        if not any(_opens(opened, name) for name in names):
            reason = "this is another key, or all manifests are damaged: nothing written"
            raise RepositoryKeyError(store.name, reason)
    store.put(CONFIG, _config(identifier, key))
    return opened, identifier


def _read(store: ObjectStore) -> tuple[str, object]:
    """Id and encryption that the object names.

    Raises:
        StreamError: It is damaged.
        FileNotFoundError: There is none.
    """
    config = decode(store.get(CONFIG, MAX_DOCUMENT_BYTES))
    identifier = config.get("id")
    if not isinstance(identifier, str) or not _is_id(identifier):
        raise StreamError("it has no id")
    return identifier, config.get("encryption")


def _sealed_for(store: ObjectStore, manifests: list[str]) -> str | None:
    """For which repository most objects are encrypted; ``None``: all are in clear.

    One damaged manifest, or one that somebody has put there, must not make a repository one
    that is not encrypted.
    """
    from collections import Counter
    from itertools import islice

    found: Counter[str] = Counter()
    others = (SEGMENTS, PACKS, INDEX, BOOKMARKS)
    few = (name for folder in others for name, _ in islice(store.list(folder), LOOKED_AT))
    for name in [*manifests, *few]:
        with suppress(FileNotFoundError, StreamError):
            if (identifier := sealed_for(store, name)) is not None:
                found[identifier] += 1
    return found.most_common(1)[0][0] if found else None


def _opens(store: ObjectStore, name: str) -> bool:
    """Whether a manifest can be read."""
    try:
        decode(store.get(name, MAX_DOCUMENT_BYTES))
    except (StreamError, FileNotFoundError):
        return False
    return True


def _config(identifier: str, key: bytes | None) -> bytes:
    created = time.strftime(CREATED, time.gmtime())
    config: dict[str, Any] = {"version": VERSION, "id": identifier, "created": created}
    if key is not None:
        config["encryption"] = {"cipher": CIPHER, "check": key_check(key, identifier)}
    return encode(config)


def _manifests(store: ObjectStore) -> list[str]:
    """The objects of all generations, the newest first."""
    try:
        names = [name for name, _ in store.list(GENERATIONS) if generation_of(name) is not None]
    except NotADirectoryError:
        return []
    return sorted(names, reverse=True)


def _has_lost_config(store: ObjectStore) -> bool:
    try:
        return store.size(CONFIG) is None and bool(_manifests(store))
    except OSError:
        return False  # what is wrong with the store is said by the first put


def _is_id(text: str) -> bool:
    return len(text) == 2 * _ID_BYTES and all(each in "0123456789abcdef" for each in text)
