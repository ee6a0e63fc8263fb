"""Encrypted objects: a store over another one that sees no content and cannot change any.

An object is a head and chunks of up to 64 KiB, each encrypted with AES-256-GCM under a key of
the object's own::

    sealed := head; chunks
    head   := magic "thmseal1", id of the repository (16 bytes), salt (32 random bytes)
    chunk  := encrypted bytes; tag (16 bytes)

Every chunk but the last has 64 KiB; an empty object has one empty chunk. The object's key is
HKDF-SHA-256 of the repository's key, with id and salt as salt and ``thinmeta object`` as info.
The nonce of a chunk is its number (u64) and 1 if it is the last one, else 0 (u32), both
little-endian; the object's name is authenticated with each. So no nonce comes twice under a
key, nobody can cut, reorder or exchange chunks, or give an object another's name; and how long
an object is can be told from how long it is stored.
"""

from __future__ import annotations

import os
import struct
import tempfile
from contextlib import contextmanager
from threading import Lock

from thinmeta.backup.keys import KEY_BYTES
from thinmeta.errors import RepositoryKeyError, StreamError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from io import BufferedReader
    from typing import Any

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from typing_extensions import Buffer

    from thinmeta.backup.objects import ObjectStore

__all__ = [
    "CHUNK_BYTES",
    "CIPHER",
    "SealedStore",
    "folder_of",
    "key_check",
    "own_store",
    "piece_key",
    "plain_bytes",
    "sealed_bytes",
    "sealed_for",
]

CIPHER = "AES-256-GCM"
CHUNK_BYTES = 64 << 10

_MAGIC = b"thmseal1"
_SALT_BYTES, _TAG_BYTES = 32, 16
_HEAD_BYTES = len(_MAGIC) + 16 + _SALT_BYTES
_SEALED_BYTES = CHUNK_BYTES + _TAG_BYTES
_NONCE = struct.Struct("<QI")
#: Packs are longer than this.
_ROOM_BYTES = 4 << 20
#: Salts of so many objects are remembered: of packs that are read here and there.
_REMEMBERED = 4096


def piece_key(store: ObjectStore) -> bytes | None:
    """Under which key pieces are hashed in a store; ``None``: under none."""
    return store.piece_key if isinstance(store, SealedStore) else None


def own_store(store: ObjectStore) -> ObjectStore:
    """The same store for one call, whose :meth:`flush` is about what that call has put alone.

    Of two calls at the same time one would else wait for the other's objects, or hear what went
    wrong with them, and the other would not.
    """
    from thinmeta.backup.local import LocalStore

    if isinstance(store, SealedStore):
        return SealedStore(own_store(store.inner), store._key, store._id.hex())
    return LocalStore(store.name) if type(store) is LocalStore else store


def folder_of(store: ObjectStore) -> str | None:
    """The folder that a store's objects are files of, encrypted or not."""
    return (store.inner if isinstance(store, SealedStore) else store).path("")


def key_check(key: bytes, identifier: str) -> str:
    """By this it is known that a key is the repository's; it tells nothing of the key."""
    return _derive(key, bytes.fromhex(identifier), b"thinmeta key check")[:16].hex()


def sealed_for(store: ObjectStore, name: str) -> str | None:
    """The id of the repository that an object was encrypted for; ``None``: it is not.

    Args:
        store: Where it is, as it is stored.
        name: Its name.
    """
    head = bytes(store.get_range(name, 0, _HEAD_BYTES))
    if len(head) < _HEAD_BYTES or not head.startswith(_MAGIC):
        return None
    return head[len(_MAGIC) : -_SALT_BYTES].hex()


def _derive(key: bytes, salt: bytes, purpose: bytes) -> bytes:
    try:
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF
    except ImportError as error:
        raise UsageError(
            "encrypted repositories need cryptography: pip install 'thinmeta[encryption]'"
        ) from error
    return HKDF(SHA256(), KEY_BYTES, salt, purpose).derive(key)


def sealed_bytes(plain: int) -> int:
    """How long an object of so many bytes is stored."""
    return _HEAD_BYTES + plain + _TAG_BYTES * max(-(-plain // CHUNK_BYTES), 1)


def plain_bytes(sealed: int) -> int:
    """How long an object is that is stored so long; 0 for what cannot be one."""
    body = sealed - _HEAD_BYTES
    return max(body - _TAG_BYTES * -(-body // _SEALED_BYTES), 0)


class SealedStore:
    """The objects of an encrypted repository.

    Args:
        store: Where they are kept.
        key: The repository's.
        identifier: The repository's id, in hexadecimal.

    Attributes:
        name: What messages call the store.
        inner: Where the objects are kept.
        piece_key: Under which pieces are hashed.
    """

    def __init__(self, store: ObjectStore, key: bytes, identifier: str) -> None:
        given: object = key
        if not isinstance(given, bytes) or len(given) != KEY_BYTES:
            raise RepositoryKeyError(store.name, f"a key has {KEY_BYTES} bytes")
        self.inner, self._key, self._id = store, key, bytes.fromhex(identifier)
        self.name = store.name
        self.piece_key = _derive(key, self._id, b"thinmeta pieces")
        self._lock, self._sharing = Lock(), Lock()
        self._salts: dict[str, bytes] = {}
        self._shared = bytearray()

    def __repr__(self) -> str:
        return f"SealedStore({self.inner!r})"

    # ---- what comes in ----

    def put(self, name: str, data: Buffer, *, later: bool = False) -> None:
        """Store an object; see :class:`thinmeta.backup.objects.ObjectStore`."""
        with self._sealed(name, data) as sealed:
            self.inner.put(name, sealed, later=later)

    def put_new(self, name: str, data: Buffer) -> bool:
        """Store an object if there is none of that name; whether it was."""
        with self._sealed(name, data) as sealed:
            return self.inner.put_new(name, sealed)

    def put_file(self, name: str, path: str) -> None:
        """Store what a file holds."""
        with tempfile.NamedTemporaryFile(prefix="thinmeta-sealed-") as sealed:
            with open(path, "rb") as source:
                salt = os.urandom(_SALT_BYTES)
                sealed.write(self._head(salt))
                chunks = _Chunks(self._cipher(salt), name)
                number, data = 0, source.read(CHUNK_BYTES)
                while True:
                    after = source.read(CHUNK_BYTES)
                    sealed.write(chunks.seal(number, data, is_last=not after))
                    if not after:
                        break
                    number, data = number + 1, after
            sealed.flush()
            self.inner.put_file(name, sealed.name)

    def _head(self, salt: bytes) -> bytes:
        return _MAGIC + self._id + salt

    @contextmanager
    def _sealed(self, name: str, data: Buffer) -> Iterator[memoryview]:
        salt = os.urandom(_SALT_BYTES)
        chunks = _Chunks(self._cipher(salt), name)
        with memoryview(data) as view, view.cast("B") as plain:
            length = sealed_bytes(plain.nbytes)
            with self._room(length) as room, memoryview(room)[:length] as out:
                out[:_HEAD_BYTES] = self._head(salt)
                last = max(plain.nbytes - 1, 0) // CHUNK_BYTES
                for number in range(last + 1):
                    begin, at = number * CHUNK_BYTES, _HEAD_BYTES + number * _SEALED_BYTES
                    chunks.seal_into(
                        number,
                        plain[begin : begin + CHUNK_BYTES],
                        out[at : at + _SEALED_BYTES],
                        is_last=number == last,
                    )
                yield out

    @contextmanager
    def _room(self, length: int) -> Iterator[bytearray]:
        """Room for an object of that length, or a longer one."""
        if length < _ROOM_BYTES or self.inner.path("") is None:
            yield bytearray(length)
            return
        # A folder has written what it was given when it returns; another store may refer to it
        # still. So packs can share one room: what glibc gets back it cannot always use again.
        with self._sharing:
            if len(self._shared) < length:
                self._shared = bytearray(-(-length // _ROOM_BYTES) * _ROOM_BYTES)
            yield self._shared

    # ---- what goes out ----

    def get(self, name: str, limit_bytes: int) -> Buffer:
        """The bytes of an object."""
        with memoryview(self.inner.get(name, sealed_bytes(limit_bytes))) as sealed:
            salt = self._salt_of(bytes(sealed[:_HEAD_BYTES]))
            return self._open(name, salt, sealed[_HEAD_BYTES:], 0, is_end=True)

    def get_range(self, name: str, begin: int, end: int) -> Buffer:
        """Some bytes of an object; fewer where it ends before."""
        return self._range(name, begin, end) if begin < end else b""

    def salvage_range(self, name: str, begin: int, end: int) -> Buffer:
        """The same, with zeros for the chunks that cannot be decrypted.

        Raises:
            StreamError: None can, as the head is damaged.
        """
        return self._range(name, begin, end, salvage=True) if begin < end else b""

    def _range(self, name: str, begin: int, end: int, *, salvage: bool = False) -> bytearray:
        first, behind = begin // CHUNK_BYTES, -(-end // CHUNK_BYTES)
        stop = _HEAD_BYTES + behind * _SEALED_BYTES
        if first == 0:
            with memoryview(self.inner.get_range(name, 0, stop)) as sealed:
                salt = self._salt_of(bytes(sealed[:_HEAD_BYTES]))
                chunks = sealed[_HEAD_BYTES:]
                part = self._chunks_of(name, salt, chunks, 0, behind, salvage=salvage)
            self._remember(name, salt)
        else:
            start = _HEAD_BYTES + first * _SEALED_BYTES
            with memoryview(self.inner.get_range(name, start, stop)) as sealed:
                part = self._chunks_behind(name, sealed, first, behind, salvage=salvage)
        skip = begin - first * CHUNK_BYTES
        del part[end - begin + skip :]
        del part[:skip]
        return part

    def _chunks_behind(
        self, name: str, sealed: memoryview, first: int, behind: int, *, salvage: bool
    ) -> bytearray:
        """Chunks that were read without the head: its salt may be remembered."""
        with self._lock:
            salt = self._salts.get(name)
        if salt is not None and not salvage:
            try:
                return self._chunks_of(name, salt, sealed, first, behind, salvage=False)
            except StreamError:
                pass  # it was put anew since, perhaps
        salt = self._salt_of(bytes(self.inner.get_range(name, 0, _HEAD_BYTES)))
        part = self._chunks_of(name, salt, sealed, first, behind, salvage=salvage)
        self._remember(name, salt)
        return part

    def _remember(self, name: str, salt: bytes) -> None:
        with self._lock:
            if len(self._salts) >= _REMEMBERED:
                self._salts.clear()
            self._salts[name] = salt

    def _chunks_of(
        self, name: str, salt: bytes, sealed: memoryview, first: int, behind: int, *, salvage: bool
    ) -> bytearray:
        """Chunks from ``first`` on; where there are fewer, the last is that of the object."""
        if not sealed.nbytes:
            return bytearray()
        is_end = sealed.nbytes < (behind - first) * _SEALED_BYTES
        end = True if is_end else None
        return self._open(name, salt, sealed, first, is_end=end, salvage=salvage)

    def fetch(self, name: str, path: str) -> None:
        """Write the bytes of an object to a new file."""
        folder = os.path.dirname(os.path.abspath(path))
        with tempfile.TemporaryDirectory(prefix=".thinmeta-", dir=folder) as scratch:
            copy = os.path.join(scratch, "sealed")
            self.inner.fetch(name, copy)
            with open(copy, "rb") as sealed, open(path, "wb") as out:
                for part in self._parts(name, sealed):
                    out.write(part)

    def _parts(self, name: str, sealed: BufferedReader) -> Iterator[bytes]:
        chunks = _Chunks(self._cipher(self._salt_of(sealed.read(_HEAD_BYTES))), name)
        number, data = 0, sealed.read(_SEALED_BYTES)
        while True:
            after = sealed.read(_SEALED_BYTES)
            yield chunks.open(number, data, is_last=not after)
            if not after:
                return
            number, data = number + 1, after

    def _salt_of(self, head: bytes) -> bytes:
        if len(head) < _HEAD_BYTES or not head.startswith(_MAGIC):
            raise StreamError("it is not encrypted, or damaged at its beginning")
        if head[len(_MAGIC) : -_SALT_BYTES] != self._id:
            raise StreamError("it is encrypted for another repository, or damaged")
        return head[-_SALT_BYTES:]

    def _open(
        self,
        name: str,
        salt: bytes,
        sealed: memoryview,
        first: int,
        *,
        is_end: bool | None,
        salvage: bool = False,
    ) -> bytearray:
        """Decrypt chunks that follow each other.

        Args:
            name: The object's.
            salt: From its head.
            sealed: The chunks.
            first: The number of the first one.
            is_end: Whether the last one is that of the object; ``None``: perhaps.
            salvage: Zeros for what cannot be decrypted.
        """
        chunks = _Chunks(self._cipher(salt), name)
        count = max(-(-sealed.nbytes // _SEALED_BYTES), 1)
        plain = bytearray(max(sealed.nbytes - count * _TAG_BYTES, 0))
        with memoryview(plain) as out:
            for each in range(count):
                data = sealed[each * _SEALED_BYTES : (each + 1) * _SEALED_BYTES]
                room = out[each * CHUNK_BYTES : (each + 1) * CHUNK_BYTES]
                ends = is_end if each == count - 1 else False
                tries = (False, True) if ends is None else (ends,)
                for is_last in tries:
                    try:
                        chunks.open_into(first + each, data, room, is_last=is_last)
                        break
                    except StreamError:
                        if is_last is tries[-1]:
                            if not salvage:
                                raise
                            room[:] = bytes(room.nbytes)  # nothing is known of it
        return plain

    def _cipher(self, salt: bytes) -> AESGCM:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        return AESGCM(_derive(self._key, self._id + salt, b"thinmeta object"))

    # ---- what is the same ----

    def flush(self) -> None:
        """See to it that all is there that was put with ``later``, and is durable."""
        self.inner.flush()

    def size(self, name: str) -> int | None:
        """Bytes of an object; ``None`` if it is not there."""
        size = self.inner.size(name)
        return None if size is None else plain_bytes(size)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Names and bytes of the objects below ``prefix``."""
        for name, size in self.inner.list(prefix):
            yield name, plain_bytes(size)

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects, as far as they are there."""
        self.inner.delete(names)

    def path(self, name: str) -> str | None:
        """No file is an object as it is."""
        return None

    def clean(self, prefix: str) -> int:
        """Remove what killed writers have left there."""
        return self.inner.clean(prefix)


class _Chunks:
    """The chunks of one object."""

    def __init__(self, cipher: AESGCM, name: str) -> None:
        # ``*_into`` are of version 47; without a type of its own for older stubs.
        self._cipher: Any = cipher
        self._name = name.encode()

    def seal(self, number: int, data: bytes, *, is_last: bool) -> bytes:
        sealed: bytes = self._cipher.encrypt(_NONCE.pack(number, is_last), data, self._name)
        return sealed

    def seal_into(self, number: int, data: Buffer, out: memoryview, *, is_last: bool) -> None:
        self._cipher.encrypt_into(_NONCE.pack(number, is_last), data, self._name, out)

    def open(self, number: int, data: bytes, *, is_last: bool) -> bytes:
        plain = bytearray(max(len(data) - _TAG_BYTES, 0))
        self.open_into(number, data, memoryview(plain), is_last=is_last)
        return bytes(plain)

    def open_into(self, number: int, data: Buffer, out: memoryview, *, is_last: bool) -> None:
        """Decrypt one.

        Raises:
            StreamError: It was not encrypted as this chunk of this object.
        """
        from cryptography.exceptions import InvalidTag

        with memoryview(data) as view:
            if view.nbytes < _TAG_BYTES:
                raise StreamError("it ends early")
        try:
            self._cipher.decrypt_into(_NONCE.pack(number, is_last), data, self._name, out)
        except InvalidTag as error:
            raise StreamError(
                f"it was altered or cut: chunk {number} is not what was encrypted"
            ) from error
