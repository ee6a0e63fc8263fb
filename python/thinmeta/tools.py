"""Whole-pool jobs: check it, dump it."""

from __future__ import annotations

import io
import os

from thinmeta import _core
from thinmeta.arguments import snapshot_argument, threads_argument
from thinmeta.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, Literal, Protocol

    from thinmeta.pool import Path, Pool
    from thinmeta.types import CheckReport

    class Writer(Protocol):
        """An object that bytes can be written to."""

        def write(self, data: bytes, /) -> object:
            """Take the bytes; say how many of them, or nothing if it was all."""


__all__ = ["FORMATS", "check", "dump"]

FORMATS = ("xml", "human", "jsonl")


def check(
    path_or_pool: Path | Pool,
    *,
    metadata_snapshot: Literal["held"] | int | None = None,
    superblock_only: bool = False,
    skip_mappings: bool = False,
    threads: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> CheckReport:
    """Look for everything that can be wrong with a pool's metadata; nothing is written.

    A damaged block ends nothing: what lies beyond it is reported as affected, and
    the check goes on. Memory is bounded by the number of metadata and data blocks,
    not of mappings.

    Args:
        path_or_pool: The metadata device or image, or an open pool.
        metadata_snapshot: For a path, as in :func:`open_pool`. A snapshot's check
            reads its trees only; counts cannot be compared then.
        superblock_only: Look at block 0 and no further.
        skip_mappings: Leave out the mappings of the devices.
        threads: How many to use; ``None`` means the cores, at most 8.
        progress: Called now and then as ``progress(done, total)``.

    Returns:
        What was found, and how much was looked at.

    Raises:
        OSError: The path cannot be opened or read.
        DeviceInUseError: Somebody uses it, and no snapshot was asked for.
        NotFormattedError: Block 0 is all zero.
        UnsupportedFormatError: It is something else; the message says what.
        NoMetadataSnapshotError: No metadata snapshot is held.
    """
    from thinmeta.types import CheckReport

    return CheckReport.from_fields(
        check_fields(
            path_or_pool,
            metadata_snapshot=metadata_snapshot,
            superblock_only=superblock_only,
            skip_mappings=skip_mappings,
            threads=threads,
            progress=progress,
        )
    )


def check_fields(
    path_or_pool: Path | Pool,
    *,
    metadata_snapshot: Literal["held"] | int | None = None,
    superblock_only: bool = False,
    skip_mappings: bool = False,
    mapping_root: int | None = None,
    details_root: int | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, Any]:
    """:func:`check`, its result as the native module gives it: cheap when all is well.

    ``mapping_root`` and ``details_root`` are taken in the place of the superblock's.
    """
    source: str | _core.Pool
    if isinstance(path_or_pool, str | bytes | os.PathLike):
        source = os.fsdecode(path_or_pool)
    else:
        if metadata_snapshot is not None:
            raise UsageError("an open pool has its metadata_snapshot from open_pool")
        source = path_or_pool._native
    return _core.check(
        source,
        metadata_snapshot=snapshot_argument(metadata_snapshot),
        superblock_only=superblock_only,
        skip_mappings=skip_mappings,
        mapping_root=mapping_root,
        details_root=details_root,
        threads=threads_argument(threads),
        progress=progress,
    )


def check_and_clear_fields(
    path: str,
    *,
    superblock_only: bool,
    skip_mappings: bool,
    minor: bool,
    like_1_x: bool,
    progress: Callable[[int, int], object] | None,
) -> tuple[dict[str, Any], bool]:
    """Check what nobody uses, and clear ``needs_check`` if the pool is sound.

    Sound is what has no fatal and, but for sums of the space maps, no other findings;
    with ``minor``, what has no fatal ones; with ``like_1_x``, what 1.x find so. The pool is
    ours from before the check until the flag is cleared, which is the only thing that is
    written.

    Returns:
        The findings as :func:`check_fields` gives them, and whether it was cleared.
    """
    return _core.check_and_clear(
        path,
        superblock_only=superblock_only,
        skip_mappings=skip_mappings,
        minor=minor,
        like_1_x=like_1_x,
        progress=progress,
    )


def dump(
    path_or_pool: Path | Pool,
    out: Path | int | Writer,
    *,
    format: str = "xml",
    shared: bool = False,
    device_ids: Iterable[int] | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> None:
    """Write down a pool's devices and mappings.

    Args:
        path_or_pool: The metadata device or image, or an open pool.
        out: A path, where the result appears when it is whole; or a file descriptor,
            or a binary file, which takes longer.
        format: ``"xml"``, the form that thin_dump prints and thin_restore takes;
            ``"human"``, the same for reading; ``"jsonl"``, one JSON object a line.
        shared: Print parts that devices share once, as ``<def>`` and ``<ref>``;
            otherwise every device is printed in full.
        device_ids: Only these devices; ``None`` means all.
        threads: How many to use; ``None`` means the cores, at most 8.
        progress: Called now and then as ``progress(done, total)``.

    Raises:
        DamagedBlockError: A block failed its check. What has been written is not
            the whole pool.
        NoSuchDeviceError: A device that was asked for is not there.
        OSError: The path cannot be read, or ``out`` not written.
        UsageError: The format is unknown, or ``out`` is the path of the metadata.
        TypeError: ``out`` takes text, or is nothing that can be written to.
    """
    if format not in FORMATS:
        raise UsageError(f"format is {format!r}, not one of {', '.join(FORMATS)}")
    if isinstance(out, io.TextIOBase):
        raise TypeError("out must be a binary file (mode 'wb'), not a text file")
    takes = isinstance(out, str | bytes | os.PathLike | int) or hasattr(out, "write")
    if not takes or isinstance(out, bool):
        raise TypeError(
            f"out must be a path, a descriptor or a binary file, not {type(out).__name__}"
        )
    if isinstance(path_or_pool, str | bytes | os.PathLike):
        from thinmeta.pool import open_pool

        with open_pool(path_or_pool) as pool:
            dump(
                pool,
                out,
                format=format,
                shared=shared,
                device_ids=device_ids,
                threads=threads,
                progress=progress,
            )
        return
    chosen = None if device_ids is None else list(device_ids)
    for device_id in chosen or ():
        path_or_pool.devices[device_id]  # says if it is not there, before anything is written
    threads = threads_argument(threads)

    def write(target: int | Writer) -> None:
        path_or_pool._native.dump(
            target,
            format=format,
            shared=shared,
            device_ids=chosen,
            threads=threads,
            progress=progress,
        )

    if isinstance(out, str | bytes | os.PathLike):
        from thinmeta.files import OutputFile

        with OutputFile(os.fsdecode(out), inputs=(path_or_pool.path,)) as descriptor:
            write(descriptor)
    else:
        write(out)
