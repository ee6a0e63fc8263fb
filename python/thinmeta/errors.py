"""The exception tree: facts as attributes, so that nobody parses a message.

Everything that is wrong with a pool or with the way it is used derives from
:class:`ThinmetaError`. Plain input and output errors stay :class:`OSError`, with
``errno`` and ``filename``. Every class survives pickling with its attributes.

The native module raises these classes too; it calls the constructors with
positional arguments in the order given here.
"""

from __future__ import annotations

import errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "AbortedError",
    "AlreadyFormattedError",
    "DamagedBlockError",
    "DamagedRepositoryError",
    "DeviceExistsError",
    "DeviceInUseError",
    "LivePoolError",
    "ManagedByLvmError",
    "MetadataSnapshotHeldError",
    "NoMetadataSnapshotError",
    "NoSpaceError",
    "NoSuchDeviceError",
    "NoSuchGenerationError",
    "NoSuchTreeError",
    "NotFormattedError",
    "ObjectStoreError",
    "OtherVersionError",
    "PoisonedError",
    "ReadOnlyError",
    "RemoteError",
    "RepositoryBusyError",
    "RepositoryError",
    "RepositoryKeyError",
    "StaleTransactionError",
    "StreamError",
    "ThinmetaError",
    "UnreadableError",
    "UnsoundPoolError",
    "UnsupportedFormatError",
    "UsageError",
    "VerificationError",
    "WouldBlockError",
    "WrongBaseError",
    "XmlError",
]


class ThinmetaError(Exception):
    """Root of everything that thinmeta itself has to report.

    What failed while something was made or opened names the step in its message:
    ``"superblock"``, ``"space map create"``, ``"space map open"``.
    """

    def _arguments(self) -> tuple[Any, ...]:
        """The constructor's arguments, from which a pickled copy is made."""
        return self.args

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments(), vars(self) or None


class DamagedBlockError(ThinmetaError):
    """A metadata block failed its check and was not used.

    Attributes:
        block: Block number on the metadata device (4096-byte blocks).
        validator: Whose check failed, e.g. ``"btree node"``.
        check: Which one, e.g. ``"checksum"``.
        found: What the block holds, a number or words.
        expected: What it should hold, a number or words.
        step: What was being made or opened, e.g. ``"space map open"``, or None.
    """

    def __init__(
        self,
        block: int,
        validator: str,
        check: str,
        found: int | str,
        expected: int | str,
        step: str | None = None,
    ) -> None:
        super().__init__(block, validator, check, found, expected, step)
        self.block, self.validator, self.check = block, validator, check
        self.found, self.expected, self.step = found, expected, step

    def __str__(self) -> str:
        form = "{:#010x}" if "checksum" in self.check else "{}"
        found, expected = (
            form.format(value) if isinstance(value, int) else value
            for value in (self.found, self.expected)
        )
        step = f"{self.step}: " if self.step else ""
        return (
            f"{step}metadata block {self.block} is damaged: {self.validator}, {self.check}: "
            f"found {found}, expected {expected}"
        )


class UnsoundPoolError(ThinmetaError):
    """What was asked for is done to sound metadata only, and these are not.

    Attributes:
        path: The metadata.
        code: What :func:`thinmeta.check` calls the worst of it, e.g. ``"node-damaged"``.
        reason: The same in words, and what to do.
    """

    def __init__(self, path: str, code: str, reason: str) -> None:
        super().__init__(path, code, reason)
        self.path, self.code, self.reason = path, code, reason

    def __str__(self) -> str:
        return f"{self.path} is not sound: {self.code}: {self.reason}"


class NoSpaceError(ThinmetaError):
    """A space map has no free block left.

    Attributes:
        space: Which one: ``"data"``, ``"metadata"`` or ``"in-memory"``.
        reason: What there is, and what could make room.
    """

    def __init__(self, space: str, reason: str = "") -> None:
        super().__init__(space, reason)
        self.space, self.reason = space, reason

    def __str__(self) -> str:
        reason = f": {self.reason}" if self.reason else ""
        return f"no free block left in the {self.space} space{reason}"


class WouldBlockError(ThinmetaError, BlockingIOError):
    """The answer would need input or output, and the caller asked for none."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.EAGAIN, message)

    def _arguments(self) -> tuple[Any, ...]:
        return (self.strerror,)

    def __str__(self) -> str:
        return str(self.strerror)


class ReadOnlyError(ThinmetaError, PermissionError):
    """A change was asked of something that was opened only for reading."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.EPERM, message)

    def _arguments(self) -> tuple[Any, ...]:
        return (self.strerror,)

    def __str__(self) -> str:
        return str(self.strerror)


class DeviceInUseError(ThinmetaError, OSError):
    """Somebody else uses the device or file: a live pool, a loop device, a writer.

    ``errno`` is ``EBUSY`` and ``filename`` the path.

    Attributes:
        path: The device or file.
        reason: Who uses it, as far as can be told.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(errno.EBUSY, reason, path)
        self.path, self.reason = path, reason

    def _arguments(self) -> tuple[Any, ...]:
        return self.path, self.reason

    def __str__(self) -> str:
        return f"{self.path}: in use: {self.reason}"


class NoSuchDeviceError(ThinmetaError, KeyError):
    """The pool has no thin device of that id.

    Attributes:
        device_id: The id that was asked for.
    """

    def __init__(self, device_id: int) -> None:
        super().__init__(device_id)
        self.device_id = device_id

    def __str__(self) -> str:
        return f"the pool has no thin device {self.device_id}"


class NoSuchTreeError(ThinmetaError, KeyError):
    """The store has no tree of that name.

    Attributes:
        name: The name that was asked for.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"the store has no tree {self.name!r}"


class DeviceExistsError(ThinmetaError):
    """The pool has a thin device of that id already.

    Attributes:
        device_id: The id that was to be created.
    """

    def __init__(self, device_id: int) -> None:
        super().__init__(device_id)
        self.device_id = device_id

    def __str__(self) -> str:
        return f"the pool has a thin device {self.device_id} already"


class NotFormattedError(ThinmetaError):
    """Block 0 is all zero: nobody has put pool metadata there yet.

    Attributes:
        path: The device or file.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"{self.path}: not formatted: block 0 is all zero, there is no pool here"


class AlreadyFormattedError(ThinmetaError):
    """Something is there, and nothing said that it may be overwritten.

    Attributes:
        path: The device or file.
        reason: What is there, as far as it can be told.
    """

    def __init__(
        self, path: str, reason: str = "block 0 is not all zero, something is here already"
    ) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}; overwrite=True replaces it"


class UnsupportedFormatError(ThinmetaError):
    """Not thin-pool metadata, or a kind of it that this version cannot use.

    Attributes:
        path: The device or file.
        reason: What it looks like, or what is not supported.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class MetadataSnapshotHeldError(ThinmetaError):
    """A metadata snapshot is held already; release it first.

    Attributes:
        held_root: Metadata block of the one that is held, where that is known.
    """

    held_root: int | None = None


class NoMetadataSnapshotError(ThinmetaError):
    """The metadata snapshot was asked for, and the pool holds none (any more).

    Attributes:
        path: The device or file.
        reason: Whether there was none, or it was released while it was read.
    """

    def __init__(self, path: str, reason: str = "the pool holds no metadata snapshot") -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class StaleTransactionError(ThinmetaError):
    """The transaction id is not the expected one: somebody else changed the pool."""


class UsageError(ThinmetaError, ValueError):
    """A call that cannot be right; it leaves everything as it was.

    A closed object, a device of another pool, a lock that this thread holds already, a
    value of the wrong size, a key beyond 64 bits.
    """


class ManagedByLvmError(UsageError):
    """LVM keeps books about this pool, and would not know of the change.

    Attributes:
        pool: The pool as LVM calls it, ``vg/pool``.
        reason: What LVM's own way is.
    """

    def __init__(self, pool: str, reason: str) -> None:
        super().__init__(pool, reason)
        self.pool, self.reason = pool, reason

    def __str__(self) -> str:
        return f"{self.pool} is managed by LVM: {self.reason}"


class LivePoolError(ThinmetaError, OSError):
    """A pool in the kernel cannot be asked or told something.

    There is none of that name, it has failed or is read-only, ``dmsetup`` is missing or
    refuses, a device node is gone. ``errno`` says which, as far as there is a number for it.

    Attributes:
        pool: The device, volume or pool, as device-mapper or LVM calls it.
        reason: What happened, and what to do.
    """

    def __init__(self, pool: str, reason: str, number: int = errno.EIO) -> None:
        super().__init__(number, reason, pool)
        self.pool, self.reason = pool, reason

    def _arguments(self) -> tuple[Any, ...]:
        return self.pool, self.reason, self.errno

    def __str__(self) -> str:
        return f"{self.pool}: {self.reason}"


class AbortedError(ThinmetaError):
    """A change failed half-way: no space, a damaged block, a failed read.

    Nothing but the committed state can be read until ``abort``, which returns to it
    completely.

    Attributes:
        needs_check_set: Whether a failed commit has left ``needs_check`` in the
            superblock of a pool.
    """

    needs_check_set: bool = False


class PoisonedError(ThinmetaError):
    """A write or a flush failed: what the device has is not known.

    Nothing is written any more, and nothing tried again, until it is closed and opened.

    Attributes:
        needs_check_set: Whether a failed commit has left ``needs_check`` in the
            superblock of a pool, so that nobody changes it before it was checked.
    """

    needs_check_set: bool = False


class RemoteError(ThinmetaError):
    """Another host could not be reached, or could not do what it was asked.

    Attributes:
        host: The host, as ``ssh`` knows it.
        reason: What it, or ssh, said.
        status: The exit status; 255 is ssh's own, ``None``: nothing was run.
    """

    def __init__(self, host: str, reason: str, status: int | None = None) -> None:
        super().__init__(host, reason, status)
        self.host, self.reason, self.status = host, reason, status

    def __str__(self) -> str:
        return f"{self.host}: {self.reason}"


class WrongBaseError(ThinmetaError):
    """A stream does not fit the volume that it is to be applied to."""


class VerificationError(ThinmetaError):
    """What was written does not read as what it was made of.

    Attributes:
        path: What was written to, as it was given.
        offset_bytes: Where in the volume it differs first.
        length_bytes: How far from there on it was looked at.
        reason: What was found.
    """

    def __init__(self, path: str, offset_bytes: int, length_bytes: int, reason: str) -> None:
        super().__init__(path, offset_bytes, length_bytes, reason)
        self.path, self.reason = path, reason
        self.offset_bytes, self.length_bytes = offset_bytes, length_bytes

    def _arguments(self) -> tuple[Any, ...]:
        return self.path, self.offset_bytes, self.length_bytes, self.reason

    def __str__(self) -> str:
        return (
            f"{self.path}: not what it should be at byte {self.offset_bytes} "
            f"({self.length_bytes} bytes looked at): {self.reason}"
        )


class StreamError(ThinmetaError):
    """A stream is damaged, cut short or of an unknown version.

    Attributes:
        resumable: Whether what came is kept, and :func:`thinmeta.stream.send` can go on from
            ``token``.
        token: What to give it, or ``None``.
    """

    resumable: bool = False
    token: str | None = None


class XmlError(ThinmetaError):
    """XML that is to become a pool's metadata says none.

    Attributes:
        path: The file, as it was given.
        line: Where it is wrong, from 1 on.
        column: Byte of the line, from 1 on.
        reason: What is wrong there.
    """

    def __init__(self, path: str, line: int, column: int, reason: str) -> None:
        super().__init__(path, line, column, reason)
        self.path, self.line, self.column, self.reason = path, line, column, reason

    def _arguments(self) -> tuple[Any, ...]:
        return self.path, self.line, self.column, self.reason

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}: {self.reason}"


class RepositoryError(ThinmetaError):
    """A backup repository is not there, or cannot do what was asked of it.

    Attributes:
        repository: The folder or the address of the repository.
        reason: What is wrong, and what to do.
    """

    def __init__(self, repository: str, reason: str) -> None:
        super().__init__(repository, reason)
        self.repository, self.reason = repository, reason

    def _arguments(self) -> tuple[Any, ...]:
        return self.repository, self.reason

    def __str__(self) -> str:
        return f"{self.repository}: {self.reason}"


class DamagedRepositoryError(RepositoryError):
    """Objects of a repository are missing or are not what they were.

    Attributes:
        objects: Names of these objects, as far as they were looked at.
        restorable: Names of the generations that have all their objects; ``None`` where
            that was not looked at.
    """

    def __init__(
        self,
        repository: str,
        reason: str,
        objects: tuple[str, ...] = (),
        restorable: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__(repository, reason)
        self.objects, self.restorable = objects, restorable

    def _arguments(self) -> tuple[Any, ...]:
        return self.repository, self.reason, self.objects, self.restorable


class NoSuchGenerationError(RepositoryError, KeyError):
    """The repository has no such generation, or more than one that could be meant.

    Attributes:
        generation: What was asked for.
    """

    def __init__(self, repository: str, reason: str, generation: str) -> None:
        super().__init__(repository, reason)
        self.generation = generation

    def _arguments(self) -> tuple[Any, ...]:
        return self.repository, self.reason, self.generation


class UnreadableError(StreamError):
    """Something is there, and the disk or the filesystem does not give it, now at least."""


class OtherVersionError(StreamError):
    """It is of a version that this program does not know, and sound as far as that goes."""


class RepositoryKeyError(RepositoryError):
    """The key of an encrypted repository is missing, another one, or cannot be read."""


class RepositoryBusyError(RepositoryError, OSError):
    """Somebody else does something with the repository that this would disturb.

    ``errno`` is ``EBUSY``.
    """

    def __init__(self, repository: str, reason: str) -> None:
        OSError.__init__(self, errno.EBUSY, reason, repository)
        self.repository, self.reason = repository, reason


class ObjectStoreError(RepositoryError, OSError):
    """An object store cannot be reached, or refuses: credentials, network, rights.

    ``errno`` is ``EACCES`` where credentials are missing or not enough, else ``EIO``.
    """

    def __init__(self, repository: str, reason: str, number: int = errno.EIO) -> None:
        OSError.__init__(self, number, reason, repository)
        self.repository, self.reason = repository, reason

    def _arguments(self) -> tuple[Any, ...]:
        return self.repository, self.reason, self.errno
