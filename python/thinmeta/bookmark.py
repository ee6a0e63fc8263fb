"""Bookmarks: the mappings of a snapshot, saved to be compared with later states.

With one, an incremental backup needs no snapshot to be kept in the pool. What it can
prove, and what not, is told in ``docs/bookmarks.md``.
"""

from __future__ import annotations

import os

from thinmeta import _core
from thinmeta.arguments import MAX_U64, number
from thinmeta.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self, TypeAlias

    from thinmeta._core import Run
    from thinmeta.delta import Delta
    from thinmeta.devices import ThinDevice

    Path: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]

__all__ = ["Bookmark", "check_place"]

#: What a bookmark begins with.
MAGIC = b"thinmeta-bookmrk"


def check_place(path: Path) -> None:
    """Refuse to replace what is no bookmark.

    Raises:
        UsageError: Something else is there.
        OSError: It cannot be looked at.
    """
    import errno
    import stat

    path = os.fsdecode(path)
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            if stat.S_ISDIR(found.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            raise UsageError(f"{path} is no file, and a bookmark is one")
        if not found.st_size:
            return
        with open(path, "rb") as file:
            begin = file.read(len(MAGIC))
    except FileNotFoundError:
        return
    if begin != MAGIC:
        raise UsageError(f"{path} is there, and is no bookmark: give another name, or remove it")


class Bookmark:
    """The saved mapping of a snapshot, with the time of each block.

    Made by :meth:`save` and :meth:`open`. :meth:`thinmeta.Pool.delta` takes one in the
    place of a device, and :meth:`delta` compares two without a pool. Nothing of the
    mappings is kept in memory; the file has to stay where it is.

    Attributes:
        path: The file.
        device_id: The snapshot's id in its pool.
        creation_time: T, the pool's clock when the snapshot was made: a block of a later
            state is the same if its data block and its time are, and the time is below T.
        pool_time: The pool's clock when the bookmark was saved.
        transaction_id: The pool's transaction id then.
        data_block_size_sectors: Size of a data block, in sectors of 512 bytes.
        size_bytes: Size of the volume, or ``None`` where it was not known.
        mapped_blocks: Data blocks that it maps.
        end_blocks: One past the last of them, in data blocks of the volume.
        digest: BLAKE3 of all mappings, 32 bytes: equal for equal mappings.
        pool_uuid: The uuid that device-mapper or LVM gave the pool, empty if unknown.
    """

    __slots__ = (
        "_native",
        "creation_time",
        "data_block_size_sectors",
        "device_id",
        "digest",
        "end_blocks",
        "mapped_blocks",
        "path",
        "pool_time",
        "pool_uuid",
        "size_bytes",
        "transaction_id",
    )

    device_id: int
    creation_time: int
    pool_time: int
    transaction_id: int
    data_block_size_sectors: int
    size_bytes: int | None
    mapped_blocks: int
    end_blocks: int
    digest: bytes
    pool_uuid: str

    def __init__(self, path: str, native: _core.Bookmark) -> None:
        self.path, self._native = path, native
        for name, value in native.head().items():
            setattr(self, name, value)

    @classmethod
    def open(cls, path: Path, *, progress: Callable[[int, int], object] | None = None) -> Self:
        """Open a bookmark; all of it is read and compared with its digest.

        Args:
            path: The file.
            progress: Called now and then as ``progress(done, total)``, in data blocks.

        Raises:
            UnsupportedFormatError: It is no bookmark, or one of a newer version.
            StreamError: It is damaged.
            OSError: It cannot be read.
        """
        path = os.fsdecode(path)
        return cls(path, _core.Bookmark(path, progress=progress))

    @classmethod
    def save(
        cls,
        device: ThinDevice,
        path: Path,
        *,
        size_bytes: int | None = None,
        pool_uuid: str = "",
        progress: Callable[[int, int], object] | None = None,
    ) -> Self:
        """Save the mappings of a snapshot, and open what was saved.

        The file appears when all of it is written and durable; a bookmark of that name is
        replaced, and nothing else.

        Args:
            device: A snapshot that nobody has written to.
            path: The file to make.
            size_bytes: Size of the volume, if it is known.
            pool_uuid: The pool's uuid from device-mapper or LVM, if it has one: at most
                128 bytes.
            progress: Called now and then as ``progress(done, total)``, in data blocks.

        Raises:
            UsageError: The device was written since it was made: its blocks are
                overwritten in place, and their mappings prove nothing.
            UsageError: There is something else than a bookmark.
            DamagedBlockError: A mapping node failed its check.
            OSError: The file cannot be written.
        """
        from thinmeta.files import OutputFile

        path = os.fsdecode(path)
        if size_bytes is not None:
            size_bytes = number(size_bytes, "size_bytes")
            if not 0 <= size_bytes <= MAX_U64:
                raise UsageError(f"no volume can have {size_bytes} bytes")
        pool = device._pool()
        if os.path.exists(path) and os.path.samefile(path, pool.path):
            raise UsageError(f"the output {path} is the input {pool.path}; nothing written")
        check_place(path)
        with OutputFile(path, inputs=(pool.path,)) as descriptor:
            device._save_bookmark(
                descriptor, size_bytes=size_bytes, pool_uuid=pool_uuid, progress=progress
            )
        return cls.open(path)

    def runs(self) -> Iterator[Run]:
        """Every mapped run, in ascending virtual order, read from the file."""
        return self._native.runs()

    def delta(
        self,
        right: Bookmark,
        *,
        same: bool = False,
        progress: Callable[[int, int], object] | None = None,
    ) -> Delta:
        """Compare with another bookmark of the same pool, as ``left`` with ``right``.

        Raises:
            WrongBaseError: They are of pools of different uuids or block sizes.
            StreamError: One of the files has changed since it was opened.
        """
        from thinmeta.delta import Delta

        native = _core.delta_of_bookmarks(self._native, right._native, same=same, progress=progress)
        return Delta(native)

    def __repr__(self) -> str:
        return f"<thinmeta.Bookmark {self.path!r} device_id={self.device_id}>"
