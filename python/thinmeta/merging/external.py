"""Back onto the external origin: what a volume has mapped is written to what lies below it.

While it is done, and if it is cut at any moment, the volume reads as before: what is written
to the origin lies below blocks that the volume has mapped, and is what they hold. So nothing is
lost, and doing it again is all that a restart needs. What was done is written down, so that
the next run begins there; what is said to be done is compared in the end all the same.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple

from thinmeta._core import is_zero
from thinmeta.errors import (
    DeviceInUseError,
    ReadOnlyError,
    UsageError,
    VerificationError,
)
from thinmeta.merging.progress import Journal
from thinmeta.migrating.ahead import ahead, thread_count
from thinmeta.migrating.apart import check_apart
from thinmeta.migrating.copying import CHECKPOINT_BYTES, How
from thinmeta.migrating.pieces import Chain, Reader
from thinmeta.migrating.verifying import Verified, verify
from thinmeta.source import Changes, identity_of_device
from thinmeta.stream.planning import batches_of, pieces_of
from thinmeta.stream.targets.content import Content
from thinmeta.stream.targets.device import is_read_only
from thinmeta.stream.targets.media import write_at
from thinmeta.stream.targets.work_file import check_unused, lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Self

    from typing_extensions import Buffer

    from thinmeta.identity import Identity
    from thinmeta.pool import Pool
    from thinmeta.volume import Volume

__all__ = ["ExternalMerge", "merge_into_external_origin"]

_BUFFER_BYTES = 16 << 20


class ExternalMerge(NamedTuple):
    """What was merged.

    Attributes:
        origin: The device, as it was given.
        identity: The volume.
        mapped_bytes: What the volume has mapped of the origin, which is what is written.
        ranges: In so many ranges.
        written_bytes: What was written by this run.
        verified_bytes: What was read back and is what the volume reads.
        past_cache: Whether it was read from the disk, past the page cache.
        resumed_at_bytes: Where in the volume this run began, if one before was interrupted.
        dry_run: Whether everything is as it was.
    """

    origin: str
    identity: Identity
    mapped_bytes: int
    ranges: int
    written_bytes: int = 0
    verified_bytes: int = 0
    past_cache: bool = False
    resumed_at_bytes: int | None = None
    dry_run: bool = False


def merge_into_external_origin(
    pool: Pool,
    device_id: int,
    origin: str,
    *,
    sources: Iterable[str],
    size_bytes: int | None = None,
    dry_run: bool = False,
    verify: bool = True,
    threads: int | None = None,
    checkpoint_bytes: int = CHECKPOINT_BYTES,
    progress: Callable[[int, int], object] | None = None,
) -> ExternalMerge:
    """Write what a volume has mapped to the external origin that it was made over.

    Blocks that are not mapped are left alone: the origin is what the volume shows there.
    Afterwards the origin reads as the volume does. The volume is not changed, and can be
    deleted then. Whatever else stands on the same origin sees the change.

    Args:
        pool: Opened with ``data=``; the volume must not be written to meanwhile.
        device_id: The volume.
        origin: The device or the file that it was made over.
        sources: The files and devices that the pool is in: none of them may be the origin.
        size_bytes: Size of the volume; ``None``: as far as it is mapped, and not past the end
            of the origin, if there are only zeros in the rest of a block that reaches across.
        dry_run: Only say how much it is.
        verify: Read back what was written, and compare it with what the volume reads.
        threads: How many read and hash; ``None`` means the cores, at most 8.
        checkpoint_bytes: How much is written again at most after it was interrupted.
        progress: Called now and then as ``progress(done, total)``, in bytes.

    Raises:
        NoSuchDeviceError: The pool has no such device.
        DeviceInUseError: The origin is mounted, or somebody uses it: a volume that stands on
            it and is active, too.
        ReadOnlyError: The origin cannot be written to.
        UsageError: It is the pool itself, or neither a device nor a file.
        VerificationError: It does not read as the volume does afterwards.
        DamagedBlockError: A block of the metadata failed its check.
        OSError: The origin is smaller than what is mapped; something cannot be read or
            written.
    """
    count = thread_count(threads)
    check_apart(sources, [origin])
    with _Origin(origin) as below, _Mapped(pool, device_id, below.size_bytes) as merged:
        merged.fit(origin, size_bytes)
        report = ExternalMerge(
            origin, merged.identity, merged.changes.data_bytes, len(merged.changes.data)
        )
        if dry_run:
            return report._replace(dry_run=True)
        total = merged.changes.data_bytes * (2 if verify else 1)
        done = 0

        def show(length: int) -> None:
            nonlocal done
            done += length
            if progress is not None:
                progress(min(done, total), total)

        how = How.of(count, _BUFFER_BYTES, checkpoint_bytes, show)
        return _Merge(merged, below, how, report).run(prove=verify)


class _Mapped:
    """What a volume has mapped, as something to read from; a context manager.

    Args:
        pool: Opened with ``data=``.
        device_id: The volume.
        end_bytes: Nothing past this can be merged.
    """

    def __init__(self, pool: Pool, device_id: int, end_bytes: int) -> None:
        self._device, self._end = pool.devices[device_id], end_bytes
        # Without a size: as far as it is mapped.
        identity = identity_of_device(pool, device_id)
        self.identity = identity
        self._volume: Volume = self._device.open(size_bytes=identity.size_bytes)
        self.changes = Changes(None, b"", b"")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        raised: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._volume.close()

    def fit(self, origin: str, size_bytes: int | None) -> None:
        """Find out what is mapped, and that the origin has room for it.

        Raises:
            OSError: It has not.
        """
        from dataclasses import replace

        mapped = self.identity.size_bytes
        if size_bytes is not None:
            mapped = min(mapped, size_bytes)
        if mapped > self._end:
            self._check_rest(origin, mapped, guessed=size_bytes is None)
            mapped = self._end
        self.identity = replace(
            self.identity, size_bytes=mapped, size_is_known=size_bytes is not None
        )
        data, _ = self._device._changes(None, 0, mapped)
        self.changes = Changes(None, data, b"")

    def _check_rest(self, origin: str, mapped: int, *, guessed: bool) -> None:
        """Refuse what would be lost: but zeros at the end of a block that reaches across."""
        block = self.identity.data_block_size_sectors * 512
        over = mapped - self._end
        if guessed and over < block:
            rest = memoryview(bytearray(over))
            self.read_into(self._end, rest)
            if is_zero(rest):
                return
        words = f"{os.strerror(errno.ENOSPC)}: it has {self._end} bytes, and the volume is mapped "
        words += f"up to byte {mapped}: "
        words += "make it larger first, or give the size of the volume; nothing written"
        raise OSError(errno.ENOSPC, words, origin)

    def read_into(self, offset_bytes: int, buffer: Buffer) -> None:
        """Fill a buffer from a place in the volume; threads may do so at the same time."""
        with memoryview(buffer) as view:
            if self._volume._native.read_at(offset_bytes, view) != view.nbytes:
                raise UsageError(f"the volume ends before byte {offset_bytes + view.nbytes}")


class _Origin:
    """The external origin, which nobody else has."""

    def __init__(self, path: str) -> None:
        self.path, self.descriptor = path, -1

    def __enter__(self) -> Self:
        found = os.stat(self.path)
        is_device = stat.S_ISBLK(found.st_mode)
        if not is_device and not stat.S_ISREG(found.st_mode):
            raise UsageError(f"{self.path} is neither a file nor a block device")
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_EXCL if is_device else 0)
        try:
            self.descriptor = os.open(self.path, flags)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise DeviceInUseError(
                    self.path,
                    "it is mounted, or used by another device, perhaps by a volume that stands on "
                    "it and is active: unmount or deactivate that first",
                ) from error
            if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
                raise self._read_only(str(error.strerror)) from error
            raise
        try:
            if is_device:
                number = os.fstat(self.descriptor).st_rdev
                if is_read_only(f"{os.major(number)}:{os.minor(number)}"):
                    raise self._read_only("it is a read-only device")
            if not is_device:
                lock(self.descriptor, self.path)
                check_unused(self.descriptor, self.path)
            self.size_bytes = os.lseek(self.descriptor, 0, os.SEEK_END)
        except BaseException:
            os.close(self.descriptor)
            raise
        return self

    def __exit__(
        self,
        raised: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self.descriptor)

    def _read_only(self, why: str) -> ReadOnlyError:
        return ReadOnlyError(
            f"{self.path}: it cannot be written to ({why}). External origins are read-only as a "
            "rule, and LVM keeps them so: make a device of your own over the same place "
            "('thinmeta merge --help' tells how)"
        )

    def sync(self) -> None:
        """Make durable what was written."""
        try:
            os.fsync(self.descriptor)
        except OSError as error:
            error.filename = self.path
            raise


class _Merge:
    def __init__(self, merged: _Mapped, origin: _Origin, how: How, report: ExternalMerge) -> None:
        self._merged, self._origin, self._how, self._report = merged, origin, how, report
        self._chain = Chain()

    def run(self, *, prove: bool) -> ExternalMerge:
        journal = Journal(self._origin.path, self._origin.descriptor, self._merged.identity)
        # What was done before is only believed where it is compared.
        begin = journal.done_bytes if prove else 0
        written = self._write(begin, journal)
        try:
            found = self._prove(begin) if prove else Verified()
        except VerificationError:
            # What is said to be done is not: all of it once more.
            journal.forget()
            if not begin:
                raise
            begin, self._chain = 0, Chain()
            written += self._write(begin, journal)
            found = self._prove(begin)
        journal.forget()
        return self._report._replace(
            written_bytes=written,
            verified_bytes=found.verified_bytes,
            past_cache=found.past_cache,
            resumed_at_bytes=begin or None,
        )

    def _write(self, begin: int, journal: Journal) -> int:
        how, origin = self._how, self._origin
        batches = batches_of(pieces_of(self._merged.changes, begin))
        written = since = 0
        for batch in ahead(Reader(self._merged).read, batches, how.threads, how.waiting):
            for piece, content, digest in batch:
                # Zeros that are mapped are content: the origin may show something else.
                zeros = memoryview(bytes(piece.length_bytes)) if content is None else content
                write_at(origin.descriptor, piece.offset_bytes, zeros, origin.path)
                self._chain.add(piece, digest)
                how.progress(piece.length_bytes)
                written += piece.length_bytes
                since += piece.length_bytes
                if since >= how.checkpoint_bytes:
                    origin.sync()
                    journal.note(piece.offset_bytes + piece.length_bytes)
                    since = 0
        origin.sync()
        journal.note(self._merged.identity.size_bytes)
        return written

    def _prove(self, begin: int) -> Verified:
        merged = self._merged
        return verify(
            merged,
            Content(self._origin.path, self._origin.path),
            merged.changes,
            self._how,
            begin_bytes=begin,
            digest=self._chain.digest(),
        )
