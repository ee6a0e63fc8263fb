"""Who holds a metadata snapshot: lock files that end with the process that has them.

Three files for each pool, in ``/run/thinmeta``:

* ``KEY.lock`` is locked for a moment by whoever reserves, joins or releases. What follows
  is only done under it, so that the last one who leaves and the next one who comes do not
  meet. Programs that are run meanwhile inherit the lock: when this process is killed, the
  next one waits until the kernel has heard what was on its way.
* ``KEY.holders`` is locked, shared, by everyone who reads. Whoever can have it alone knows
  that nobody else is alive.
* ``KEY.record`` says which snapshot we have reserved, so that it is told from somebody
  else's, and stays until it is released.

The record is there before the snapshot is, as an intent. The program that reserves adds a
line to it when the kernel has said yes, whether or not we live to see that.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import stat
import time
from contextlib import contextmanager, suppress
from hashlib import sha256
from typing import Literal, NamedTuple

from thinmeta.errors import LivePoolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Critical", "Holders", "Keeper", "Record"]

Keeper = Literal["process", "command"]

RUN_FOLDER = "/run/thinmeta"
VERSION = 1
#: Nobody is inside for longer than a few messages take.
CRITICAL_SECONDS = 120.0
_MAX_RECORD_BYTES = 4096

#: Lock files that this process has open; a forked child lets go of them.
_descriptors: set[int] = set()


class Record(NamedTuple):
    """What was written down about the snapshot that we hold.

    Attributes:
        keeper: ``"process"``: the last process that reads it releases it; ``"command"``: it
            stays until it is released by a command.
        held_root: Its metadata block; ``None`` when we were killed before we knew.
        checksum: The one in that block, by which a later one in its place is told.
        reserved: Whether the kernel has reserved it, or was only about to be asked.
    """

    keeper: Keeper
    held_root: int | None
    checksum: int | None
    reserved: bool


class Critical(NamedTuple):
    """The moment in which nobody else comes or leaves.

    Attributes:
        lock: The descriptor of the lock.
    """

    lock: int


class Holders:
    """The lock files of one pool.

    Args:
        pool: The pool's name, for errors.
        identity: What tells the pool from all others: its uuid, or number and name.
    """

    def __init__(self, pool: str, identity: str) -> None:
        self._pool = pool
        self._folder = os.environ.get("THINMETA_RUN_DIR") or RUN_FOLDER
        # Readable as far as it goes; the hash keeps different ones apart.
        short = re.sub(r"[^A-Za-z0-9_.+-]", "_", identity)[:100].lstrip(".") or "pool"
        key = f"{short}-{sha256(os.fsencode(identity)).hexdigest()[:12]}"
        self._base = os.path.join(self._folder, key)

    @contextmanager
    def critical(self) -> Iterator[Critical]:
        """Keep everybody else from coming and leaving.

        Raises:
            LivePoolError: The folder cannot be used, or somebody stays inside.
        """
        self._make_folder()
        lock = self._open(f"{self._base}.lock", os.O_RDWR | os.O_CREAT)
        try:
            deadline = time.monotonic() + CRITICAL_SECONDS
            while not _try_lock(lock, fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    reason = f"another process has {self._base}.lock for {CRITICAL_SECONDS:g} s"
                    raise LivePoolError(self._pool, f"{reason}: see what it does", errno.EBUSY)
                time.sleep(0.005)
            yield Critical(lock)
        finally:
            _close(lock)

    def enter(self) -> tuple[int, bool]:
        """Become one of those who read; within the critical moment.

        Returns:
            A descriptor that has to stay open, and whether nobody else is there.
        """
        descriptor = self._open(f"{self._base}.holders", os.O_RDWR | os.O_CREAT)
        try:
            alone = _try_lock(descriptor, fcntl.LOCK_EX)
            # Nobody comes meanwhile, so this succeeds whatever was before.
            if not _try_lock(descriptor, fcntl.LOCK_SH):
                reason = f"somebody else has a lock on {self._base}.holders"
                raise LivePoolError(self._pool, reason, errno.EBUSY)
        except BaseException:
            _close(descriptor)
            raise
        return descriptor, alone

    def leave(self, descriptor: int) -> None:
        """Be no reader any more."""
        _close(descriptor)

    def is_last(self, descriptor: int) -> bool:
        """Whether nobody else reads; within the critical moment, by one who leaves."""
        return _try_lock(descriptor, fcntl.LOCK_EX)

    def has_record(self) -> bool:
        """Whether anything was written down."""
        return os.path.exists(f"{self._base}.record")

    def record(self) -> Record | None:
        """What was written down; ``None`` for nothing, or nothing that can be read."""
        try:
            descriptor = self._open(f"{self._base}.record", os.O_RDONLY)
        except LivePoolError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        try:
            first, _, rest = os.read(descriptor, _MAX_RECORD_BYTES).partition(b"\n")
        finally:
            _close(descriptor)
        try:
            found = json.loads(first)
            if found["version"] != VERSION or found["keeper"] not in ("process", "command"):
                return None
            held_root, checksum = _count(found["held_root"]), _count(found["checksum"])
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
        reserved = held_root is not None or rest.startswith(b"done\n")
        return Record(found["keeper"], held_root, checksum, reserved)

    def write(self, record: Record) -> int:
        """Write something down, whole or not at all; within the critical moment.

        Returns:
            A descriptor, which the caller closes, that adds to it.
        """
        path = f"{self._base}.record"
        content = {
            "version": VERSION,
            "keeper": record.keeper,
            "held_root": record.held_root,
            "checksum": record.checksum,
            "process": os.getpid(),
        }
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        descriptor = self._open(f"{path}.new", flags)
        try:
            os.write(descriptor, json.dumps(content).encode() + b"\n")
            os.replace(f"{path}.new", path)
        except OSError as error:
            _close(descriptor)
            raise self._failed(error) from error
        except BaseException:
            _close(descriptor)
            raise
        return descriptor

    def note(self, record: Record) -> None:
        """Write something down that nobody adds to."""
        _close(self.write(record))

    def done(self, descriptor: int) -> None:
        """Close what :meth:`write` has returned."""
        _close(descriptor)

    def forget(self) -> None:
        """Nothing is held any more; within the critical moment."""
        with suppress(FileNotFoundError):
            os.unlink(f"{self._base}.record")

    def _make_folder(self) -> None:
        try:
            with suppress(FileExistsError):
                os.mkdir(self._folder, 0o700)
            found = os.stat(self._folder)
        except OSError as error:
            raise self._failed(error) from error
        # Nobody but us, and root, may make us believe that a snapshot is ours.
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            reason = f"lock files are not kept in {self._folder}: others may write there"
            raise LivePoolError(self._pool, reason, errno.EPERM)

    def _open(self, path: str, flags: int) -> int:
        try:
            descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        except OSError as error:
            raise self._failed(error) from error
        _descriptors.add(descriptor)
        return descriptor

    def _failed(self, error: OSError) -> LivePoolError:
        reason = f"lock files cannot be kept in {self._folder}: {error.strerror}"
        reason += " (THINMETA_RUN_DIR in the environment names another folder)"
        return LivePoolError(self._pool, reason, error.errno or errno.EIO)


def _count(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 64:
        raise ValueError(value)
    return value


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _close(descriptor: int) -> None:
    """Close a lock file; what a child has closed already is not closed twice."""
    if descriptor in _descriptors:
        _descriptors.discard(descriptor)
        os.close(descriptor)


def _let_go() -> None:
    """In a forked child: the locks are its parent's, and end with it."""
    for descriptor in list(_descriptors):
        with suppress(OSError):
            os.close(descriptor)
    _descriptors.clear()


os.register_at_fork(after_in_child=_let_go)
