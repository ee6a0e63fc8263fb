"""Where a tool puts metadata that it makes anew: whole, or not there at all.

All of it is built in a file without a name first. A regular file is then replaced by it; a
block device, which has to be large enough, gets a copy, its first block last. So whatever
goes wrong while it is built leaves what was there as it was.
"""

from __future__ import annotations

import os
import stat

from thinmeta import _core
from thinmeta.errors import NoSpaceError, UsageError
from thinmeta.files import OutputFile, is_same_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager
    from types import TracebackType
    from typing import IO, Self

__all__ = ["NewMetadata"]

BLOCK_BYTES = 4096
#: The largest that the format knows: 255 bitmaps.
MOST_BLOCKS = 255 * 16320


class NewMetadata:
    """An output for new metadata, as a context manager.

    Inside, a tool writes to :attr:`descriptor`, and says with :meth:`built` how many blocks
    are in use. If that was said, leaving it puts the metadata where they belong.

    Args:
        path: A block device, or a file, which is made if it is absent.
        inputs: Files that the work reads; none of them may be the output.
        size_bytes: How large a file is to be. ``None`` takes the size of one that is there;
            a new one has twice the blocks that are in use.
        image_blocks: Instead of that, for what is not made but copied, whatever it is: how
            many blocks it has. A file becomes as large as that, a device gets all of them.
        progress: Called as ``progress(done, total)`` while a device is written.

    Raises:
        UsageError: The output is an input, or can hold no metadata.
        NoSpaceError: It is a device with less than ``image_blocks``.
        DeviceInUseError: Somebody uses it.
        OSError: It cannot be written.
    """

    def __init__(
        self,
        path: str,
        *,
        inputs: Iterable[str] = (),
        size_bytes: int | None = None,
        image_blocks: int | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> None:
        self.path = path
        self._inputs = tuple(inputs)
        self._size_bytes = size_bytes
        self._image_blocks = image_blocks
        self._progress = progress
        self._target: _core.MetadataTarget | None = None
        self._file: OutputFile | None = None
        self._work: AbstractContextManager[tuple[IO[bytes], str]] | None = None
        self._used_blocks: int | None = None
        #: What the tool writes to.
        self.descriptor = -1
        #: What errors about that are to call it: a device's is built in a temporary file.
        self.name = path
        #: Whether the file becomes as large as it has to.
        self.grows = False

    def __enter__(self) -> Self:
        try:
            self._open()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def _open(self) -> None:
        size = self._size_bytes
        if size is not None and not BLOCK_BYTES <= size <= MOST_BLOCKS * BLOCK_BYTES:
            raise UsageError(
                f"{self.path}: metadata have 1 to {MOST_BLOCKS} blocks of {BLOCK_BYTES} bytes, "
                f"not {size} bytes"
            )
        image = self._image_blocks
        if image is not None:
            size = image * BLOCK_BYTES
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            self._open_file(size)
            return
        for other in self._inputs:
            if is_same_file(found, other):
                raise UsageError(f"the output {self.path} is the input {other}; nothing written")
        is_device = stat.S_ISBLK(found.st_mode)
        if not is_device and not stat.S_ISREG(found.st_mode):
            raise UsageError(f"{self.path}: metadata go to a file or a block device")
        if is_device and self._size_bytes is not None:
            raise UsageError(f"{self.path} is a block device, whose size is what it is")
        # Ours from here on: nobody else may be writing to it, or have it as a device.
        self._target = _core.MetadataTarget(self.path)
        there = self._target.metadata_blocks * BLOCK_BYTES
        if is_device:
            if image is not None and size is not None and there < size:
                raise NoSpaceError(
                    "metadata",
                    f"{self.path} has {there} bytes, and {size} are needed; nothing written",
                )
            from thinmeta.temporary import work_file

            self._work = work_file()
            file, self.name = self._work.__enter__()
            self.descriptor = file.fileno()
            try:
                os.ftruncate(self.descriptor, there)
            except OSError as error:
                error.filename = self.name
                raise
        else:
            self._open_file(there if size is None else size)

    def _open_file(self, size: int | None) -> None:
        self._file = OutputFile(self.path, inputs=self._inputs)
        self.descriptor = self._file.__enter__()
        self.grows = not size
        if size:
            try:
                os.ftruncate(self.descriptor, size)
            except OSError as error:
                error.filename = self.path
                raise

    def built(self, used_blocks: int) -> None:
        """Say that the metadata are whole, and how many of their blocks are in use."""
        self._used_blocks = used_blocks

    def __exit__(
        self,
        raised: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self._file is not None:
                if raised is None and self._used_blocks is None:
                    raise UsageError(f"{self.path}: nothing was built")
                file, self._file = self._file, None
                file.__exit__(raised, value, traceback)
            elif raised is None and self._target is not None and self._used_blocks is not None:
                target, blocks = self._target, self._used_blocks
                if self._image_blocks is None:
                    target.publish(self.descriptor, blocks, progress=self._progress)
                else:
                    target.publish_image(self.descriptor, blocks, progress=self._progress)
        finally:
            if self._file is not None:
                incomplete = UsageError("nothing was built")
                self._file.__exit__(UsageError, incomplete, None)
            if self._target is not None:
                self._target.close()
            if self._work is not None:
                self._work.__exit__(raised, value, traceback)
