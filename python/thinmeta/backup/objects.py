"""Where the objects of a repository are kept: a folder, or an object store.

A store has objects by name, each put whole and never changed. All that a repository needs
of it is that a listing shows what was put before it began, as S3, Google's and Azure's stores
and every filesystem do.
"""

from __future__ import annotations

import os

from thinmeta.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Protocol, TypeAlias

    from typing_extensions import Buffer

    Path: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]

    class ObjectStore(Protocol):
        """Objects by name; used by several threads at once.

        Names are words of letters, digits, ``.`` and ``-``, joined by ``/``. What is not
        there is a :class:`FileNotFoundError`.
        """

        @property
        def name(self) -> str:
            """What messages call the store."""

        def put(self, name: str, data: Buffer, *, later: bool = False) -> None:
            """Store an object, durably; one of that name is replaced, whole.

            Args:
                name: The object's.
                data: Its bytes.
                later: It need not be there before :meth:`flush` has returned, which also raises
                    what went wrong.
            """

        def put_new(self, name: str, data: Buffer) -> bool:
            """Store an object if there is none of that name; whether it was."""

        def flush(self) -> None:
            """See to it that all is there that was put with ``later``, and is durable."""

        def put_file(self, name: str, path: str) -> None:
            """Store what a file holds, durably, however much that is."""

        def get(self, name: str, limit_bytes: int) -> Buffer:
            """The bytes of an object.

            Raises:
                StreamError: It has more than that, which none of ours has.
            """

        def fetch(self, name: str, path: str) -> None:
            """Write the bytes of an object to a new file, however many there are."""

        def get_range(self, name: str, begin: int, end: int) -> Buffer:
            """Some bytes of an object; fewer where it ends before."""

        def size(self, name: str) -> int | None:
            """Bytes of an object; ``None`` if it is not there."""

        def list(self, prefix: str) -> Iterator[tuple[str, int]]:
            """Names and bytes of the objects below ``prefix``, which ends with ``/``."""

        def delete(self, names: Iterable[str]) -> None:
            """Delete objects; those that are not there are none of its business."""

        def path(self, name: str) -> str | None:
            """The file that is an object, where there is one.

            A store that has files needs what it was given to ``put`` no longer than the call.
            """

        def clean(self, prefix: str) -> int:
            """Remove what killed writers have left there, while nobody writes; how many files."""


__all__ = ["open_store"]

#: Stores in memory live as long as the process, and are found again by their address.
_IN_MEMORY: dict[str, ObjectStore] = {}


def open_store(where: Path | ObjectStore) -> ObjectStore:
    """The store at a folder's path or an address.

    Args:
        where: A folder (also as ``file://``), or ``s3://``, ``gs://``, ``az://`` with bucket
            and prefix, or ``memory://NAME`` of this process; or a store itself.

    Raises:
        UsageError: No such kind of address, or obstore is not installed.
        ObjectStoreError: The address lacks something, such as an account.
    """
    if not isinstance(where, str | bytes | os.PathLike):
        return where
    address = os.fsdecode(where)
    scheme, colon, rest = address.partition("://")
    if not colon:
        from thinmeta.backup.local import LocalStore

        return LocalStore(address)
    scheme = scheme.lower()
    if scheme == "file":
        # Ours makes objects durable, which obstore's would not.
        from urllib.parse import unquote

        from thinmeta.backup.local import LocalStore

        host, slash, path = rest.partition("/")
        if host not in ("", "localhost") or not slash:
            raise UsageError(f"{address}: a file:// address has three slashes and a whole path")
        return LocalStore("/" + unquote(path))
    if scheme == "memory":
        from thinmeta.backup.remote import memory_store

        if address not in _IN_MEMORY:
            _IN_MEMORY[address] = memory_store(address)
        return _IN_MEMORY[address]
    from thinmeta.backup.remote import remote_store

    return remote_store(address)
