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
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from hashlib import sha256

from thinmeta.errors import LivePoolError, StreamError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Self

__all__ = ["Books", "OwnSnapshot", "Page", "page_of", "pages_of", "state_folder"]

STATE_FOLDER = "/var/lib/thinmeta"
VERSION = 1
_MAX_BYTES = 1 << 20
#: Who only looks has the lock for less than that.
LOOK_SECONDS = 1.0


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
        made_at: When it was made, in seconds since 1970; 0 if that was not written down.
    """

    device_id: int
    lvm_name: str = ""
    digest: str = ""
    pool_time: int = 0
    size_bytes: int = 0
    made_at: int = 0

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
        large = found.size_bytes, found.made_at
        if not all(type(each) is int and 0 <= each < 1 << 63 for each in large):
            raise ValueError(value)
        if not all(type(each) is str for each in (found.lvm_name, found.digest)):
            raise ValueError(value)
        return found


@dataclass(slots=True)
class Page:
    """What we have in a pool for one volume and one purpose.

    Attributes:
        origin_id: The volume.
        purpose: What the snapshots are for.
        making: The snapshot that is being made or used.
        base: The one that was kept.
        removing: Those that are nobody's base any more.
        in_use: Whether a process has it; for those who only look.
    """

    origin_id: int
    purpose: str
    making: OwnSnapshot | None = None
    base: OwnSnapshot | None = None
    removing: list[OwnSnapshot] = field(default_factory=list)
    in_use: bool = False

    @property
    def snapshots(self) -> list[OwnSnapshot]:
        """All of them, each once."""
        found = [self.base, self.making, *self.removing]
        return list(dict.fromkeys(each for each in found if each is not None))


def _folder() -> str:
    return os.path.join(state_folder(), "snapshots")


def _beginning(identity: str) -> str:
    """What the files of a pool are called first; those of another one may be called so, too."""
    return (re.sub(r"[^A-Za-z0-9_.+-]", "_", identity)[:80].lstrip(".") or "pool") + "-"


def _path(identity: str, origin_id: int, purpose: str) -> str:
    words = f"{identity}\0{origin_id}\0{purpose}"
    key = f"{_beginning(identity)}{origin_id}-{sha256(os.fsencode(words)).hexdigest()[:12]}"
    return os.path.join(_folder(), f"{key}.json")


def _read(pool: str, path: str) -> tuple[str, Page] | None:
    """What a file says: of which pool it is, and a page; ``None`` if there is none.

    Raises:
        StreamError: It is damaged.
        OSError: It cannot be read.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(_MAX_BYTES)
    except FileNotFoundError:
        return None
    try:
        found = json.loads(text)
        identity, origin_id, purpose = found["pool"], found["origin_id"], found["purpose"]
        if found["version"] != VERSION or type(purpose) is not str:
            raise ValueError(found["version"])
        if type(origin_id) is not int or path != _path(identity, origin_id, purpose):
            raise ValueError(origin_id)
        removing = [OwnSnapshot.from_json(each) for each in found["removing"]]
        page = Page(
            origin_id,
            purpose,
            making=OwnSnapshot.from_json(found["making"]),
            base=OwnSnapshot.from_json(found["base"]),
            removing=[each for each in removing if each is not None],
        )
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise StreamError(
            f"{path} is damaged: it says which snapshots of pool {pool} are thinmeta's own; look "
            "at 'thinmeta ls', delete those, and then the file"
        ) from error
    return identity, page


def _look(pool: str, path: str) -> tuple[str, Page] | None:
    """The same, and whether a process has it; nothing is made for the sake of a look."""
    lock = -1
    in_use = False
    try:
        with suppress(FileNotFoundError):
            lock = os.open(f"{path}.lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                in_use = True
        found = _read(pool, path)
    except OSError as error:
        raise _unusable(pool, error) from error
    finally:
        if lock >= 0:
            os.close(lock)
    if found is not None:
        found[1].in_use = in_use
    return found


def _unusable(pool: str, error: OSError) -> LivePoolError:
    reason = f"{_folder()} cannot be used: {error.strerror}; THINMETA_STATE_DIR names another "
    return LivePoolError(pool, reason + "folder", error.errno or errno.EIO)


def page_of(pool: str, identity: str, origin_id: int, purpose: str) -> Page:
    """What was written down for a volume and a purpose, for those who only look.

    Raises:
        StreamError: It is damaged.
        LivePoolError: It cannot be read.
    """
    found = _look(pool, _path(identity, origin_id, purpose))
    return Page(origin_id, purpose) if found is None else found[1]


def pages_of(pool: str, identity: str) -> list[Page]:
    """All that was written down about a pool, by volume and purpose.

    Args:
        pool: The pool's name, for errors.
        identity: What tells the pool from all others.

    Raises:
        StreamError: Some of it is damaged.
        LivePoolError: It cannot be read.
    """
    try:
        names = os.listdir(_folder())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unusable(pool, error) from error
    form = re.compile(re.escape(_beginning(identity)) + r"\d+-[0-9a-f]{12}\.json")
    pages = []
    for name in names:
        if form.fullmatch(name):
            found = _look(pool, os.path.join(_folder(), name))
            if found is not None and found[0] == identity:
                pages.append(found[1])
    return sorted(pages, key=lambda page: (page.origin_id, page.purpose))


class Books:
    """What we have in a pool for one volume and one purpose; a context manager.

    Whoever is inside is alone: a second one is refused.

    Args:
        pool: The pool's name, for errors.
        identity: What tells the pool from all others.
        origin_id: The volume.
        purpose: What the snapshots are for, e.g. the id of a repository of backups: each
            has a base of its own.
        volume: What errors call the volume.

    Attributes:
        making: The snapshot that is being made or used.
        base: The one that was kept.
        removing: Those that are to go.
    """

    def __init__(
        self, pool: str, identity: str, origin_id: int, purpose: str, *, volume: str = ""
    ) -> None:
        self._pool, self._identity = pool, identity
        self._volume = volume or f"thin device {origin_id}"
        self._path = _path(identity, origin_id, purpose)
        self._lock = -1
        self._page = Page(origin_id, purpose)

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

    @property
    def page(self) -> Page:
        """All of it."""
        return self._page

    def __enter__(self) -> Self:
        page = self._page
        try:
            os.makedirs(_folder(), mode=0o700, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._lock = os.open(f"{self._path}.lock", flags, 0o600)
            self._take_lock()
            found = _read(self._pool, self._path)
        except BaseException as error:
            self._close()
            if isinstance(error, OSError) and not isinstance(error, LivePoolError):
                raise _unusable(self._pool, error) from error
            raise
        self._page = Page(page.origin_id, page.purpose) if found is None else found[1]
        return self

    def _take_lock(self) -> None:
        deadline = time.monotonic() + LOOK_SECONDS
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    reason = f"another process sends, backs up or forgets {self._volume} for the "
                    reason += f"same purpose ({self._page.purpose}): wait until it is done"
                    raise LivePoolError(self._pool, reason, errno.EBUSY) from error
                time.sleep(0.01)
            else:
                return

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

    def write(
        self,
        *,
        making: OwnSnapshot | None,
        base: OwnSnapshot | None,
        removing: tuple[OwnSnapshot, ...] | None = None,
    ) -> None:
        """Write down what we have; durable when this returns.

        Args:
            making: The snapshot that is being made or used.
            base: The one that was kept.
            removing: Those that are to go; ``None``: as before.
        """
        going = self._page.removing if removing is None else list(removing)
        page = Page(self._page.origin_id, self._page.purpose, making, base, going)
        if not page.snapshots:
            # If this is not durable, what comes back names snapshots that are gone.
            with suppress(FileNotFoundError):
                os.unlink(self._path)
            self._page = page
            return
        content = {
            "version": VERSION,
            "pool": self._identity,
            "pool_name": self._pool,
            "origin_id": page.origin_id,
            "purpose": page.purpose,
            "making": None if making is None else asdict(making),
            "base": None if base is None else asdict(base),
            "removing": [asdict(each) for each in going],
        }
        from thinmeta.files import OutputFile

        with OutputFile(self._path) as descriptor:
            os.write(descriptor, json.dumps(content, indent=1).encode() + b"\n")
        self._page = page
