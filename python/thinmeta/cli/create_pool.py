"""``thinmeta create --pool``."""

from __future__ import annotations

import errno
import os
import stat

from thinmeta.cli.change import METADATA_BLOCK_BYTES
from thinmeta.cli.lvm import warn_about_lvm
from thinmeta.cli.options import size, whole_number
from thinmeta.cli.output import write_json, write_text
from thinmeta.errors import (
    AlreadyFormattedError,
    DeviceInUseError,
    ThinmetaError,
    UsageError,
)
from thinmeta.pool import Pool, open_pool
from thinmeta.report import count, human_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from thinmeta.cli.options import Parsed

__all__ = ["create_pool"]

MAX_METADATA_BLOCKS = 255 * 16320
SECTOR_BYTES = 512
SMALLEST, LARGEST = 64 << 10, 1 << 30


def create_pool(parsed: Parsed) -> int:
    """Make a pool as the command line says, and return the exit status."""
    if len(parsed.words) > 1:
        raise _wrong(f"one word too many with --pool: {parsed.words[1]!r}")
    path, overwrite, dry_run = parsed.words[0], parsed.has("overwrite"), parsed.has("dry-run")
    block_bytes = size(_needed(parsed, "data-block-size"), "--data-block-size")
    if block_bytes % SMALLEST or not SMALLEST <= block_bytes <= LARGEST:
        raise _wrong(f"--data-block-size is a multiple of 64K up to 1GiB, not {block_bytes} bytes")
    data_blocks = whole_number(_needed(parsed, "data-blocks"), "--data-blocks")
    given = parsed.value("metadata-blocks")
    metadata_blocks = None if given is None else whole_number(given, "--metadata-blocks")
    if metadata_blocks is None and not os.path.exists(path):
        raise _wrong(f"there is no file {path}: --metadata-blocks N makes one")

    def make(place: str, blocks: int | None) -> int:
        with Pool.create(
            place,
            data_block_size_sectors=block_bytes // SECTOR_BYTES,
            data_blocks=data_blocks,
            metadata_blocks=blocks,
            overwrite=overwrite,
        ) as pool:
            return pool._native.metadata_space()[0]

    warn_about_lvm(path)
    try:
        if dry_run:
            made_blocks = _try(path, metadata_blocks, make, overwrite=overwrite)
        else:
            made_blocks = make(path, metadata_blocks)
    except AlreadyFormattedError as error:
        # The class says it in words of Python.
        raise ThinmetaError(f"{error.path}: {error.reason}; --overwrite replaces it") from error
    data, metadata = data_blocks * block_bytes, made_blocks * METADATA_BLOCK_BYTES
    if parsed.has("json"):
        write_json(
            {
                "metadata": path,
                "command": "create",
                "dry_run": dry_run,
                "data_block_size_bytes": block_bytes,
                "data_blocks": data_blocks,
                "data_bytes": data,
                "metadata_blocks": made_blocks,
                "metadata_bytes": metadata,
            }
        )
    else:
        write_text(
            f"{'would create' if dry_run else 'created'} a pool of "
            f"{count(data_blocks, 'data block')} of {human_bytes(block_bytes)} "
            f"({human_bytes(data)}), with {count(made_blocks, 'metadata block')} "
            f"({human_bytes(metadata)})\n"
        )
    return 0


def _wrong(what: str) -> UsageError:
    return UsageError(f"create: {what}; see 'thinmeta create --help'")


def _needed(parsed: Parsed, name: str) -> str:
    word = parsed.value(name)
    if word is None:
        raise _wrong(f"--pool needs --{name}")
    return word


def _try(
    path: str,
    metadata_blocks: int | None,
    make: Callable[[str, int | None], int],
    *,
    overwrite: bool,
) -> int:
    """Make the pool somewhere else, if it could be made here; its metadata blocks.

    Raises:
        AlreadyFormattedError: There is something, and it is not to be overwritten.
        DeviceInUseError: Somebody uses it.
        OSError: It cannot be written.
        UsageError: A device that is smaller than it is to be.
    """
    blocks = metadata_blocks or 0
    if os.path.exists(path):
        with open(path, "r+b") as file:
            is_blank = not file.read(METADATA_BLOCK_BYTES).strip(b"\0")
            there = file.seek(0, os.SEEK_END) // METADATA_BLOCK_BYTES
            is_device = stat.S_ISBLK(os.fstat(file.fileno()).st_mode)
        try:
            open_pool(path, mode="r+").close()
        except DeviceInUseError:
            raise
        except (ThinmetaError, OSError):  # whatever it is, it is no pool
            pass
        if not is_blank and not overwrite:
            raise AlreadyFormattedError(path)
        if is_device and blocks > there:
            raise UsageError(f"{path}: the device has {there} metadata blocks, not {blocks}")
        blocks = max(blocks, min(there, MAX_METADATA_BLOCKS))
    elif not os.access(os.path.dirname(path) or ".", os.W_OK | os.X_OK):
        there = os.path.isdir(os.path.dirname(path) or ".")
        code = errno.EACCES if there else errno.ENOENT
        raise OSError(code, os.strerror(code), path)

    import tempfile

    with tempfile.TemporaryDirectory(prefix="thinmeta-") as folder:
        return make(os.path.join(folder, "pool"), blocks)
