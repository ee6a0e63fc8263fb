"""Objects in an object store, through obstore (the extra ``s3``)."""

from __future__ import annotations

import errno
import os
import re
from contextlib import contextmanager
from datetime import timedelta

from thinmeta.errors import ObjectStoreError, StreamError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from obstore.store import ObjectStore as Store
    from typing_extensions import Buffer

__all__ = ["RemoteStore", "memory_store", "remote_store"]

#: What is not answered after so many tries and so much time is an error.
MAX_RETRIES = 6
RETRY_SECONDS = 120
CONNECT_SECONDS = 10
REQUEST_SECONDS = 90

_SCHEMES = ("s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss", "http", "https")
#: Where a store that was given no credentials looks for a machine's own.
_OF_THE_MACHINE = ("169.254.169.254", "169.254.170.", "metadata.google.internal")
_GCLOUD_FILE = "~/.config/gcloud/application_default_credentials.json"
#: What says where else credentials come from, by its first letters.
_GIVEN = {
    "s3": (
        "AWS_ACCESS_KEY",
        "AWS_CONTAINER",
        "AWS_METADATA",
        "AWS_SKIP_SIGNATURE",
        "AWS_WEB_IDENTITY",
    ),
    "gs": ("GOOGLE_",),
}
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}


class RemoteStore:
    """Objects of a store of obstore's.

    Args:
        name: What messages call it.
        store: Any of ``obstore.store``'s.
    """

    def __init__(self, name: str, store: Store) -> None:
        import obstore

        self.name, self._store, self._obstore = name, store, obstore

    def __repr__(self) -> str:
        return f"RemoteStore({self.name!r})"

    def put(self, name: str, data: Buffer, *, later: bool = False) -> None:
        """Store an object; see :class:`thinmeta.backup.objects.ObjectStore`."""
        with self._errors(name, puts=True):
            # In one request, so that there is all of it or nothing.
            self._obstore.put(self._store, name, _bytes(data), use_multipart=False)

    def put_new(self, name: str, data: Buffer) -> bool:
        """Store an object if there is none of that name; whether it was."""
        from obstore.exceptions import AlreadyExistsError, NotSupportedError, PreconditionError

        with self._errors(name, puts=True):
            try:
                self._obstore.put(
                    self._store, name, _bytes(data), mode="create", use_multipart=False
                )
            except (AlreadyExistsError, PreconditionError):
                return False
            except (NotSupportedError, NotImplementedError):
                # Nothing puts what was asked for twice: the names of generations are random.
                if self.size(name) is not None:
                    return False
                self.put(name, data)
        return True

    def flush(self) -> None:
        """Nothing: what was put is durable."""

    def put_file(self, name: str, path: str) -> None:
        """Store what a file holds; in parts, if it is much."""
        with open(path, "rb") as file, self._errors(name, puts=True):
            self._obstore.put(self._store, name, file)

    def get(self, name: str, limit_bytes: int) -> Buffer:
        """The bytes of an object."""
        with self._errors(name):
            answer = self._obstore.get(self._store, name)
            size = answer.meta["size"]
            if size > limit_bytes:
                raise StreamError(f"it has {size} bytes, which cannot be")
            found: Buffer = answer.bytes()
            return found

    def fetch(self, name: str, path: str) -> None:
        """Write the bytes of an object to a new file."""
        with self._errors(name):
            answer = self._obstore.get(self._store, name)
            with open(path, "wb") as file:
                for part in answer.stream():
                    file.write(part)

    def get_range(self, name: str, begin: int, end: int) -> Buffer:
        """Some bytes of an object; fewer where it ends before."""
        if begin >= end:
            return b""
        with self._errors(name):
            try:
                found: Buffer = self._obstore.get_range(self._store, name, start=begin, end=end)
                return found
            except self._obstore.exceptions.GenericError:
                # A range that is not in the object: 416.
                size = self.size(name)
                if size is not None and size <= begin:
                    return b""
                raise

    def size(self, name: str) -> int | None:
        """Bytes of an object; ``None`` if it is not there."""
        with self._errors(name):
            try:
                size: int = self._obstore.head(self._store, name)["size"]
            except FileNotFoundError:
                return None
            return size

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Names and bytes of the objects below ``prefix``."""
        # Always from the first page on, and to the last: a part would look like the whole.
        with self._errors(prefix):
            for page in self._obstore.list(self._store, prefix.rstrip("/")):
                for row in page:
                    yield row["path"], row["size"]

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects, as far as they are there."""
        wanted = list(names)
        for begin in range(0, len(wanted), 1000):
            part = wanted[begin : begin + 1000]
            with self._errors(part[0]):
                try:
                    self._obstore.delete(self._store, part)
                    continue
                except FileNotFoundError:
                    pass
            for name in part:  # a store that minds when one of them is not there
                with self._errors(name):
                    try:
                        self._obstore.delete(self._store, name)
                    except FileNotFoundError:
                        continue

    def path(self, name: str) -> str | None:
        """No object is a file."""
        return None

    def clean(self, prefix: str) -> int:
        """Nothing: what is not put whole is not there."""
        return 0

    @contextmanager
    def _errors(self, name: str, *, puts: bool = False) -> Iterator[None]:
        from obstore.exceptions import BaseError

        try:
            yield
        except FileNotFoundError as error:
            if puts or "NoSuchBucket" in str(error):
                reason = "there is no such bucket or container: make it first"
                raise ObjectStoreError(self.name, reason, errno.ENOENT) from error
            raise FileNotFoundError(
                errno.ENOENT, os.strerror(errno.ENOENT), f"{self.name}/{name}"
            ) from error
        except (BaseError, OSError) as error:
            if isinstance(error, ObjectStoreError):
                raise
            raise self._said(name, error) from error

    def _said(self, name: str, error: BaseException) -> ObjectStoreError:
        from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

        lines = str(error).strip().splitlines()
        words = (lines[0] if lines else type(error).__name__)[:300]
        scheme = self.name.partition("://")[0]
        if any(where in str(error) for where in _OF_THE_MACHINE):
            variables = _CREDENTIALS.get(scheme, "the credentials of the store")
            words = f"no credentials: set {variables} (this machine has none of its own: {words})"
            return ObjectStoreError(self.name, words, errno.EACCES)
        refused = (PermissionDeniedError, UnauthenticatedError)
        if isinstance(error, refused) or re.search(r"\b(401|403)\b|MissingAccount", str(error)):
            words = f"the credentials do not allow this ({name}): {words}"
            return ObjectStoreError(self.name, words, errno.EACCES)
        return ObjectStoreError(self.name, f"{name}: {words}")


def memory_store(address: str) -> RemoteStore:
    """An empty store in this process's memory.

    Raises:
        UsageError: obstore is not installed.
    """
    return RemoteStore(address, _stores().MemoryStore())


def remote_store(address: str) -> RemoteStore:
    """The store at an address, configured by the environment as obstore reads it.

    Raises:
        UsageError: No such kind of address, or obstore is not installed.
        ObjectStoreError: The address lacks something, such as an account.
    """
    scheme = address.partition("://")[0].lower()
    if scheme not in _SCHEMES:
        raise UsageError(f"{address}: there are folders, s3://, gs://, az:// and memory://")
    from_url = _stores().from_url
    _check_credentials(address, {"s3a": "s3"}.get(scheme, scheme))
    from obstore.exceptions import BaseError

    seconds = {"connect_timeout": CONNECT_SECONDS, "timeout": REQUEST_SECONDS}
    options: Any = {key: timedelta(seconds=value) for key, value in seconds.items()}
    if os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("true", "1"):
        options["allow_http"] = True
    retry: Any = {"max_retries": MAX_RETRIES, "retry_timeout": timedelta(seconds=RETRY_SECONDS)}
    try:
        store = from_url(address, client_options=options, retry_config=retry)
    except (BaseError, ValueError, TypeError) as error:
        words = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise ObjectStoreError(address, words[0], errno.EINVAL) from error
    return RemoteStore(address.rstrip("/"), store)


def _check_credentials(address: str, scheme: str) -> None:
    """Refuse at once where a store would look for credentials for minutes, and in vain."""
    given = _GIVEN.get(scheme)
    if given is None or any(name.startswith(given) for name in os.environ):
        return
    if scheme == "gs" and os.path.exists(os.path.expanduser(_GCLOUD_FILE)):
        return
    import socket

    try:
        socket.create_connection(("169.254.169.254", 80), timeout=2).close()
    except OSError as error:
        raise ObjectStoreError(
            address, f"no credentials: set {_CREDENTIALS[scheme]}", errno.EACCES
        ) from error


def _stores() -> Any:
    try:
        from obstore import store
    except ImportError as error:
        raise UsageError(
            "object stores need obstore: pip install 'thinmeta[s3]' (a folder needs nothing)"
        ) from error
    return store


def _bytes(data: Buffer) -> Buffer:
    """Data as obstore takes it, without copying where that can be."""
    view = memoryview(data)
    return view if view.contiguous and view.format == "B" else bytes(view)
