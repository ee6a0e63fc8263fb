"""Block devices as targets, thin volumes that are active among them.

A whole volume is written in place, as there is no room for two. Changes are gathered in a
journal first.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import suppress
from hashlib import sha256

from thinmeta._core import Blake3, is_zero
from thinmeta.errors import DeviceInUseError, ReadOnlyError, UsageError
from thinmeta.stream.sidecar import Sidecar, Work, state_folder
from thinmeta.stream.targets import journal
from thinmeta.stream.targets.base import Target
from thinmeta.stream.targets.content import Content
from thinmeta.stream.targets.file import is_journal_of, journal_path
from thinmeta.stream.targets.media import DeviceMedium
from thinmeta.stream.targets.thin import thin_target
from thinmeta.stream.targets.work_file import open_work_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.identity import Identity
    from thinmeta.stream.format import Header, Record
    from thinmeta.stream.sidecar import State
    from thinmeta.stream.targets.base import Begin, Evidence, Gathering

__all__ = ["DeviceTarget", "device_key", "device_name", "is_read_only"]

SYSFS = "/sys/dev/block"
_BY_ID = "/dev/disk/by-id"
#: What is looked at to tell whether somebody else has written: filesystems and volume
#: groups keep their own books at the beginning.
_FIRST_BYTES, _LAST_BYTES = 1 << 20, 64 << 10


class DeviceTarget(Target):
    """A block device that holds a volume; it may be larger.

    Args:
        path: The device.
        journal: The folder for journals; ``None`` means the one that sidecars of devices
            are in.
    """

    def __init__(self, path: str, *, journal: str | None = None) -> None:
        super().__init__(path)
        self._journal_folder = journal
        self._descriptor = -1
        self._number = ""

    def _find(self) -> None:
        found = os.stat(self.name)
        if not stat.S_ISBLK(found.st_mode):
            raise UsageError(f"{self.name} is no block device")
        self._number = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
        path = os.path.join(state_folder(), f"{device_key(self._number)}.thinmeta")
        self._sidecar = Sidecar(path, self.name)

    def peek(self) -> State:
        """What is known of it, without locking it."""
        self._find()
        return self._sidecar.load()

    def _open(self) -> None:
        self._find()
        try:
            flags = os.O_RDWR | os.O_EXCL | os.O_CLOEXEC
            self._descriptor = os.open(self.name, flags)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            reason = "it is mounted, or used by another device or process: unmount it first"
            raise DeviceInUseError(self.name, reason) from error
        if os.fstat(self._descriptor).st_rdev != os.makedev(*map(int, self._number.split(":"))):
            raise DeviceInUseError(self.name, "another device has taken its name just now")
        if is_read_only(self._number):
            raise ReadOnlyError(f"{self.name} is a read-only device")

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _size_bytes(self) -> int:
        return os.lseek(self._descriptor, 0, os.SEEK_END)

    def _evidence(self, held: Identity) -> Evidence | None:
        hasher = Blake3()
        end = min(held.size_bytes, self._size_bytes())
        for begin, length in ((0, _FIRST_BYTES), (max(end - _LAST_BYTES, 0), _LAST_BYTES)):
            hasher.update(os.pread(self._descriptor, min(length, end - begin), begin))
        return {"edges": hasher.digest().hex()}

    def _check_room(self, header: Header) -> None:
        room, needed = self._size_bytes(), header.identity.size_bytes
        if room < needed:
            words = f"{os.strerror(errno.ENOSPC)}: it has {room} bytes, and the volume {needed}: "
            words += "a larger device is needed; nothing written"
            raise OSError(errno.ENOSPC, words, self.name)

    def _is_ours(self, path: str) -> bool:
        return is_journal_of(self._sidecar.path, path)

    def _occupied(self) -> str:
        work, held = self.state.work, self.state.held
        if held is not None:
            return f"it holds {held.describe()}"
        if work is not None and work.kind == "in place":
            return ""  # half of what was to overwrite it already
        if is_zero(os.pread(self._descriptor, _FIRST_BYTES, 0)):
            return ""
        return "something is on it"

    def _new_work(self, header: Header) -> Work:
        work = Work(
            kind="in place" if header.base is None else "journal",
            identity=header.identity,
            base=header.base,
            resumable=header.resumable,
        )
        if header.base is not None:
            folder = self._journal_folder or os.path.dirname(self._sidecar.path)
            work.path, work.mark = journal_path(self._sidecar.path, folder), journal.new_mark()
        return work

    def _gathered(self, work: Work) -> Content | None:
        return self.content() if work.kind == "in place" else None

    def content(self) -> Content:
        """Where what it holds can be read."""
        return Content(self.name, self.name)

    def _medium(self) -> DeviceMedium:
        return DeviceMedium(self._descriptor, self.name, thin_target(self._number))

    def _gather(self, work: Work, begin: Begin) -> Gathering:
        if work.kind == "in place":
            return _InPlace(self._medium())
        descriptor = open_work_file(work.path, self.name, mode=0o600)
        return journal.Journal(descriptor, work, begin)

    def _finish(self, work: Work) -> None:
        if work.kind == "journal":
            journal.apply(work, self._medium())
        self._holds(work.identity)
        if work.kind == "journal":
            with suppress(FileNotFoundError):
                os.unlink(work.path)


class _InPlace:
    """The device itself: what comes is written to its place at once."""

    def __init__(self, medium: DeviceMedium) -> None:
        self._medium = medium

    def write(self, record: Record | None, offset_bytes: int, content: memoryview) -> None:
        self._medium.write(offset_bytes, content)

    def unmap(self, offset_bytes: int, length_bytes: int) -> None:
        self._medium.zero(offset_bytes, length_bytes)

    def flush(self, work: Work) -> None:
        self._medium.sync()

    def seal(self, work: Work) -> None:
        self._medium.sync()

    def cut(self, work: Work) -> None:
        """What came after the last checkpoint comes again."""

    def drop(self, work: Work) -> None:
        """There is nothing to take away."""

    def close(self) -> None:
        """The device stays open."""


def is_read_only(number: str) -> bool:
    """Whether the kernel lets nobody write to a device; opening it for that may succeed.

    Args:
        number: ``"MAJOR:MINOR"``.
    """
    return _read(f"{SYSFS}/{number}/ro") == "1"


def device_name(number: str) -> str:
    """What a block device is known by, also after it was made anew.

    That is its uuid of device-mapper, or the name of the disk, or the file that a loop device
    stands on; or else its number.

    Args:
        number: ``major:minor``.
    """
    uuid = _read(f"{SYSFS}/{number}/dm/uuid")
    if uuid:
        return f"dm-{uuid}"
    backing = _read(f"{SYSFS}/{number}/loop/backing_file")
    if backing:
        return f"loop-{backing}"
    links = []
    with suppress(OSError):
        for name in os.listdir(_BY_ID):
            with suppress(OSError):
                found = os.stat(f"{_BY_ID}/{name}")
                if f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}" == number:
                    links.append(name)
    if links:
        return f"id-{min(links)}"
    return f"number-{number}-{_read(f'{SYSFS}/{number}/size')}"


def device_key(number: str) -> str:
    """The same as a part of a file's name."""
    name = device_name(number)
    # Readable as far as it goes; the hash keeps different ones apart.
    short = re.sub(r"[^A-Za-z0-9_.+-]", "_", name)[:100]
    return f"{short}-{sha256(os.fsencode(name)).hexdigest()[:12]}"


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read(1 << 12).strip()
    except OSError:
        return ""
