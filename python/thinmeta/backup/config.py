"""What says what a repository is: ``config.json``."""

from __future__ import annotations

import os
import time

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
from thinmeta.errors import (
    DamagedRepositoryError,
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
    if not store.put_new(CONFIG, _config(identifier, key)):
        raise RepositoryError(store.name, "there is a repository already; nothing written")
    return opened, identifier


def read_config(store: ObjectStore, key: bytes | None) -> tuple[ObjectStore, str]:
    """Objects and id of a repository.

    Raises:
        RepositoryError: There is none.
        RepositoryKeyError: It is encrypted, and this is not the key; or it is not encrypted,
            and there is a key.
        DamagedRepositoryError: What says what it is is damaged.
    """
    try:
        config = decode(store.get(CONFIG, MAX_DOCUMENT_BYTES))
    except FileNotFoundError as error:
        reason = f"no repository is there; 'thinmeta backup init {store.name}' makes one"
        if _a_manifest(store) is not None:
            reason = f"{CONFIG} is lost: 'thinmeta backup init --repair {store.name}' makes it anew"
        raise RepositoryError(store.name, reason) from error
    except NotADirectoryError as error:
        raise RepositoryError(store.name, "no repository is there, but a file") from error
    except StreamError as error:
        reason = f"{CONFIG}: {error}: 'thinmeta backup init --repair {store.name}' makes it anew"
        raise DamagedRepositoryError(store.name, reason, (CONFIG,)) from error
    identifier = config.get("id")
    if not isinstance(identifier, str) or not _is_id(identifier):
        raise DamagedRepositoryError(store.name, f"{CONFIG}: no id", (CONFIG,))
    encryption = config.get("encryption")
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
        RepositoryError: There are no generations, or nothing needs to be made anew.
        RepositoryKeyError: It is encrypted, and this is not the key; or it is not encrypted,
            and there is a key.
    """
    name = _a_manifest(store)
    if name is None:
        raise RepositoryError(store.name, "no generation is there: nothing written")
    try:
        decode(store.get(CONFIG, MAX_DOCUMENT_BYTES))
        raise RepositoryError(store.name, f"{CONFIG} is sound; nothing written")
    except (StreamError, FileNotFoundError):
        pass
    identifier = sealed_for(store, name)
    if identifier is None:
        if key is not None:
            raise RepositoryKeyError(store.name, "it is not encrypted, but a key was given")
        identifier, opened = os.urandom(_ID_BYTES).hex(), store
    else:
        if key is None:
            raise RepositoryKeyError(store.name, "it is encrypted: its key is needed")
        opened = SealedStore(store, key, identifier)
        try:
            opened.get(name, MAX_DOCUMENT_BYTES)
        except StreamError as error:
            raise RepositoryKeyError(
                store.name, f"this is another key, or {name} is damaged: nothing written"
            ) from error
    store.put(CONFIG, _config(identifier, key))
    return opened, identifier


def _config(identifier: str, key: bytes | None) -> bytes:
    created = time.strftime(CREATED, time.gmtime())
    config: dict[str, Any] = {"version": VERSION, "id": identifier, "created": created}
    if key is not None:
        config["encryption"] = {"cipher": CIPHER, "check": key_check(key, identifier)}
    return encode(config)


def _a_manifest(store: ObjectStore) -> str | None:
    """The object of the newest generation."""
    try:
        names = [name for name, _ in store.list(GENERATIONS) if generation_of(name) is not None]
    except NotADirectoryError:
        return None
    return max(names, default=None)


def _is_id(text: str) -> bool:
    return len(text) == 2 * _ID_BYTES and all(each in "0123456789abcdef" for each in text)
