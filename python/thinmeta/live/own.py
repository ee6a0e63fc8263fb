"""Snapshots that thinmeta makes of live volumes, written down so that none is lost.

A pool has no names for its thin devices, so a file says which one is ours. It is written
before the snapshot is made, and again before one is removed: whatever a process was doing
when it was killed, the next one finds it here. At most one snapshot is under way, one is
kept as the base of what comes next, and one is being removed.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
from dataclasses import asdict, dataclass, field
from hashlib import sha256

from thinmeta.errors import LivePoolError, StreamError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Self

__all__ = ["Books", "OwnSnapshot", "state_folder"]

STATE_FOLDER = "/var/lib/thinmeta"
VERSION = 1
_MAX_BYTES = 1 << 20


def state_folder() -> str:
    """Where thinmeta keeps what has to outlive a restart of the host."""
    return os.environ.get("THINMETA_STATE_DIR") or STATE_FOLDER


@dataclass(frozen=True, slots=True)
class OwnSnapshot:
    """A snapshot of ours.

    Attributes:
        device_id: Its number in the pool.
        lvm_name: What LVM calls it; empty in pools that LVM does not manage.
        digest: Of its mappings, in hexadecimal; empty until they were read.
        pool_time: The pool's clock before it was made: it is not older.
        size_bytes: Size of the volume; 0 until it was read.
    """

    device_id: int
    lvm_name: str = ""
    digest: str = ""
    pool_time: int = 0
    size_bytes: int = 0

    @classmethod
    def from_json(cls, value: Any) -> OwnSnapshot | None:
        """What was written down, or ``None`` for nothing.

        Raises:
            ValueError: It cannot be.
        """
        if value is None:
            return None
        found = cls(**value)
        numbers = found.device_id, found.pool_time
        if not all(type(each) is int and 0 <= each < 1 << 24 for each in numbers):
            raise ValueError(value)
        if type(found.size_bytes) is not int or not 0 <= found.size_bytes < 1 << 63:
            raise ValueError(value)
        if not all(type(each) is str for each in (found.lvm_name, found.digest)):
            raise ValueError(value)
        return found


@dataclass(slots=True)
class _Page:
    making: OwnSnapshot | None = None
    base: OwnSnapshot | None = None
    #: Those that are nobody's base any more.
    removing: list[OwnSnapshot] = field(default_factory=list)


class Books:
    """What we have in a pool for one volume and one purpose; a context manager.

    Whoever is inside is alone: a second one is refused.

    Args:
        pool: The pool's name, for errors.
        identity: What tells the pool from all others.
        origin_id: The volume.
        purpose: What the snapshots are for, e.g. the id of a repository of backups: each
            has a base of its own.

    Attributes:
        making: The snapshot that is being made or used.
        base: The one that was kept.
        removing: Those that are to go.
    """

    def __init__(self, pool: str, identity: str, origin_id: int, purpose: str) -> None:
        self._pool, self._origin_id, self._purpose = pool, origin_id, purpose
        self._folder = os.path.join(state_folder(), "snapshots")
        words = f"{identity}\0{origin_id}\0{purpose}"
        short = re.sub(r"[^A-Za-z0-9_.+-]", "_", identity)[:80].lstrip(".") or "pool"
        key = f"{short}-{origin_id}-{sha256(os.fsencode(words)).hexdigest()[:12]}"
        self._path = os.path.join(self._folder, f"{key}.json")
        self._identity = identity
        self._lock = -1
        self._page = _Page()

    @property
    def making(self) -> OwnSnapshot | None:
        """The snapshot that is being made or used."""
        return self._page.making

    @property
    def base(self) -> OwnSnapshot | None:
        """The one that was kept."""
        return self._page.base

    @property
    def removing(self) -> tuple[OwnSnapshot, ...]:
        """Those that are to go."""
        return tuple(self._page.removing)

    def __enter__(self) -> Self:
        try:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._lock = os.open(f"{self._path}.lock", flags, 0o600)
        except OSError as error:
            reason = f"{self._folder} cannot be used: {error.strerror}; THINMETA_STATE_DIR names "
            raise LivePoolError(self._pool, reason + "another folder", error.errno or 0) from error
        try:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                reason = f"another process sends or backs up thin device {self._origin_id} for the "
                reason += f"same purpose ({self._purpose}): wait until it is done"
                raise LivePoolError(self._pool, reason, errno.EBUSY) from error
            self._page = self._read()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        raised: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _read(self) -> _Page:
        try:
            with open(self._path, "rb") as file:
                text = file.read(_MAX_BYTES)
        except FileNotFoundError:
            return _Page()
        try:
            found = json.loads(text)
            if found["version"] != VERSION or found["pool"] != self._identity:
                raise ValueError(found["version"])
            removing = [OwnSnapshot.from_json(each) for each in found["removing"]]
            return _Page(
                making=OwnSnapshot.from_json(found["making"]),
                base=OwnSnapshot.from_json(found["base"]),
                removing=[each for each in removing if each is not None],
            )
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise StreamError(
                f"{self._path} is damaged: it says which snapshots of pool {self._pool} are "
                "thinmeta's own; look at 'thinmeta ls', delete those, and then the file"
            ) from error

    def write(
        self,
        *,
        making: OwnSnapshot | None,
        base: OwnSnapshot | None,
        removing: tuple[OwnSnapshot, ...] = (),
    ) -> None:
        """Write down what we have; durable when this returns."""
        content = {
            "version": VERSION,
            "pool": self._identity,
            "pool_name": self._pool,
            "origin_id": self._origin_id,
            "purpose": self._purpose,
            "making": None if making is None else asdict(making),
            "base": None if base is None else asdict(base),
            "removing": [asdict(each) for each in removing],
        }
        from thinmeta.files import OutputFile

        with OutputFile(self._path) as descriptor:
            os.write(descriptor, json.dumps(content, indent=1).encode() + b"\n")
        self._page = _Page(making, base, list(removing))
