"""Metadata packed into a small file, in the form of thin_metadata_pack 1.x, and back."""

from __future__ import annotations

import errno
import os
import stat

from thinmeta import _core
from thinmeta.errors import AlreadyFormattedError, UnsupportedFormatError, UsageError
from thinmeta.files import OutputFile, is_same_file
from thinmeta.new_metadata import NewMetadata

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from thinmeta.pool import Path
    from thinmeta.types import PackedMetadata, UnpackedMetadata

__all__ = ["holds_metadata", "pack", "pack_fields", "unpack", "unpack_fields"]

BLOCK_BYTES = 4096


def pack(
    path: Path,
    out: Path,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> PackedMetadata:
    """Pack a pool's metadata into a file, as thin_metadata_pack 1.x does, which can read it.

    All blocks are packed that bear the checksum of metadata, whether anything leads to them
    or not: what a repair needs is there, and content of volumes is not. It works for the
    metadata of dm-cache and dm-era, too.

    Args:
        path: The metadata, a device or an image, which nobody may be using.
        out: Where the result goes: a file, which is replaced as a whole, a pipe, or a block
            device, whose first block is written last.
        overwrite: Whether ``out`` may be metadata, which would be lost.
        progress: Called now and then as ``progress(done, total)``, in blocks.

    Returns:
        What was packed, and how much was not.

    Raises:
        UnsupportedFormatError: There is no block of metadata.
        AlreadyFormattedError: There are metadata at ``out``.
        DeviceInUseError: Somebody uses the metadata.
        UsageError: ``path`` is empty, or ``out`` is the same.
        OSError: The one cannot be read or the other not written.
    """
    from thinmeta.types import PackedMetadata

    return PackedMetadata(
        **pack_fields(path, out, overwrite=overwrite, progress=progress, allow_nothing=False)
    )


def pack_fields(
    path: Path,
    out: Path,
    *,
    overwrite: bool,
    progress: Callable[[int, int], object] | None,
    allow_nothing: bool = True,
) -> dict[str, int]:
    """:func:`pack`, also of what has no block of metadata, as the peer does."""
    source, target = os.fsdecode(path), os.fsdecode(out)
    _refuse_metadata(target, source, overwrite=overwrite)
    if _is_block_device(target):
        return _pack_to_device(source, target, progress, allow_nothing=allow_nothing)
    with OutputFile(target, inputs=(source,)) as descriptor:
        return _packed(source, descriptor, progress, allow_nothing=allow_nothing)


def _packed(
    source: str,
    descriptor: int,
    progress: Callable[[int, int], object] | None,
    *,
    allow_nothing: bool,
) -> dict[str, int]:
    done = _core.pack_metadata(source, descriptor, progress=progress)
    if not done["packed_blocks"] and not allow_nothing:
        raise UnsupportedFormatError(source, "no block of it is metadata")
    return done


def _pack_to_device(
    source: str,
    target: str,
    progress: Callable[[int, int], object] | None,
    *,
    allow_nothing: bool,
) -> dict[str, int]:
    """Pack into a temporary file, and copy that; zeros tell a reader where it ends."""
    import tempfile

    with tempfile.TemporaryFile(prefix="thinmeta-") as work:
        done = _packed(source, work.fileno(), progress, allow_nothing=allow_nothing)
        blocks = done["packed_bytes"] // BLOCK_BYTES + 1
        work.truncate(blocks * BLOCK_BYTES)
        with NewMetadata(target, inputs=(source,), image_blocks=blocks) as new:
            work.seek(0)
            while piece := work.read(1 << 20):
                _write(new.descriptor, piece)
            new.built(blocks)
    return done


def _write(descriptor: int, piece: bytes) -> None:
    rest = memoryview(piece)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def unpack(
    packed: Path,
    path: Path,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> UnpackedMetadata:
    """Make metadata of what :func:`pack`, or thin_metadata_pack 1.x, has packed.

    Each block comes back as it was, the others are zeros. Nothing appears at ``path`` before
    all of the pack was read and every checksum was right: a file is replaced as a whole; a
    block device, for which it is unpacked into a temporary file first, is written with its
    first block last.

    Args:
        packed: The pack, a file or a device.
        path: A file, which becomes as large as the metadata were, or a block device, which
            has to be as large as that. It must not be the metadata of a pool in use.
        overwrite: Whether there may be metadata at ``path``, which are lost.
        progress: Called now and then as ``progress(done, total)``, in bytes of the pack.

    Returns:
        What was unpacked.

    Raises:
        UnsupportedFormatError: It is no pack, or one of another version.
        StreamError: It is damaged; the error tells where.
        AlreadyFormattedError: There are metadata at ``path``.
        NoSpaceError: The device is too small.
        DeviceInUseError: Somebody uses it.
        UsageError: ``path`` is the pack, or no place for metadata.
        OSError: The one cannot be read or the other not written.
    """
    from thinmeta.types import UnpackedMetadata

    return UnpackedMetadata(**unpack_fields(packed, path, overwrite=overwrite, progress=progress))


def unpack_fields(
    packed: Path,
    path: Path,
    *,
    overwrite: bool,
    progress: Callable[[int, int], object] | None,
) -> dict[str, int]:
    """:func:`unpack`, its result as the native module gives it."""
    source, target = os.fsdecode(packed), os.fsdecode(path)
    with open(source, "rb", buffering=0) as file:
        _refuse_pipe(file, source)
        blocks = _core.packed_blocks(file.fileno(), source)
        _refuse_metadata(target, source, overwrite=overwrite)
        with NewMetadata(target, inputs=(source,), image_blocks=blocks) as new:
            fields = _core.unpack_metadata(
                file.fileno(), source, new.descriptor, new.name, progress=progress
            )
            new.built(blocks)
    return fields


def holds_metadata(path: str) -> bool:
    """Whether a file or a device begins with the superblock of thin, cache or era metadata."""
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            return False
        with open(path, "rb", buffering=0) as file:
            kind = _core.block_kind(file.read(BLOCK_BYTES))
    except FileNotFoundError:
        return False
    return kind is not None and kind.endswith("superblock")


def _refuse_metadata(target: str, source: str, *, overwrite: bool) -> None:
    """Make sure that what is replaced is not the input, nor metadata that nobody meant."""
    if os.path.exists(target) and is_same_file(os.stat(target), source):
        raise UsageError(f"the output {target} is the input {source}; nothing written")
    if not overwrite and holds_metadata(target):
        raise AlreadyFormattedError(target, "there are metadata here already")


def _is_block_device(path: str) -> bool:
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except FileNotFoundError:
        return False


def _refuse_pipe(file: BinaryIO, path: str) -> None:
    if not file.seekable():
        text = f"{os.strerror(errno.ESPIPE)}: packed metadata are read from a file, not a pipe"
        raise OSError(errno.ESPIPE, text, path)
