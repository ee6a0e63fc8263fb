"""Make a pool's metadata from what a dump says."""

from __future__ import annotations

import os

from thinmeta import _core
from thinmeta.arguments import MAX_U32, MAX_U64, optional_number
from thinmeta.errors import UsageError
from thinmeta.new_metadata import NewMetadata
from thinmeta.types import NewPool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from thinmeta.pool import Path

__all__ = ["restore"]

#: The only flag of a superblock.
NEEDS_CHECK = 1


def restore(
    xml: Path | int,
    path: Path,
    *,
    transaction_id: int | None = None,
    data_block_size_sectors: int | None = None,
    data_blocks: int | None = None,
    only_raise: bool = False,
    flags: int | None = None,
    size_bytes: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> NewPool:
    """Make metadata from the XML that :func:`dump`, or thin_dump, has written.

    What devices have in common is shared, as ``<def>`` and ``<ref>`` say or, where the XML
    has every device in full, as their mappings show. The XML is read once, from front to
    end, and memory does not depend on its size. Nothing appears at ``path`` before all is
    well: a file is replaced as a whole; a block device, on which the new metadata are built
    in a temporary file first, is written with its first block last.

    Args:
        xml: The path of the XML, or a file descriptor, which may be a pipe's.
        path: A file, which is made if it is absent, or a block device. It must not be the
            metadata of a pool in use.
        transaction_id: To take in the place of the XML's.
        data_block_size_sectors: The same, in sectors of 512 bytes.
        data_blocks: The same, the number of the pool's data blocks.
        only_raise: Take the transaction id and the number of data blocks only where they are
            more than what the XML says, as thin_restore 1.x does.
        flags: The same; with 0 the pool needs no check, whatever the dumped one did, with 1
            it does. No others are known.
        size_bytes: How large a file is to be. ``None``: as large as the one that is there,
            or twice what is in use in a new one.
        progress: Called now and then as ``progress(done, total)``, in bytes of the XML.

    Returns:
        What was made.

    Raises:
        XmlError: The XML is damaged or says no pool; it tells where.
        NoSpaceError: The device or the file is too small.
        DeviceInUseError: Somebody uses it.
        UsageError: It is the XML itself, or can hold no metadata; or a number is out of range.
        OSError: The one cannot be read or the other not written.
    """
    if isinstance(xml, int):
        return _restore(
            xml,
            "<input>",
            os.fsdecode(path),
            (),
            transaction_id=transaction_id,
            data_block_size_sectors=data_block_size_sectors,
            data_blocks=data_blocks,
            only_raise=only_raise,
            flags=flags,
            size_bytes=size_bytes,
            progress=progress,
        )
    name = os.fsdecode(xml)
    with open(name, "rb", buffering=0) as file:
        return _restore(
            file.fileno(),
            name,
            os.fsdecode(path),
            (name,),
            transaction_id=transaction_id,
            data_block_size_sectors=data_block_size_sectors,
            data_blocks=data_blocks,
            only_raise=only_raise,
            flags=flags,
            size_bytes=size_bytes,
            progress=progress,
        )


def _restore(
    xml: int,
    name: str,
    path: str,
    inputs: tuple[str, ...],
    *,
    transaction_id: int | None,
    data_block_size_sectors: int | None,
    data_blocks: int | None,
    only_raise: bool,
    flags: int | None,
    size_bytes: int | None,
    progress: Callable[[int, int], object] | None,
) -> NewPool:
    transaction_id = optional_number(transaction_id, "transaction_id", MAX_U64)
    sectors = optional_number(data_block_size_sectors, "data_block_size_sectors", MAX_U32)
    data_blocks = optional_number(data_blocks, "data_blocks", MAX_U64)
    flags = optional_number(flags, "flags", MAX_U64)
    if flags is not None and flags & ~NEEDS_CHECK:
        raise UsageError(f"flags are {flags}; 0 and {NEEDS_CHECK}, needs_check, are known")
    with NewMetadata(path, inputs=inputs, size_bytes=size_bytes) as new:
        fields = _core.restore(
            xml,
            name,
            new.descriptor,
            new.name,
            grows=new.grows,
            transaction_id=transaction_id,
            data_block_size_sectors=sectors,
            nr_data_blocks=data_blocks,
            only_raise=only_raise,
            flags=flags,
            progress=progress,
        )
        new.built(fields["metadata_blocks_used"])
    return NewPool(**fields)
