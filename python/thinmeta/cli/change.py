"""What the commands that change a pool have in common: one transaction, and its account.

A dry run makes every change, looks at the result and takes it back. So what it tells is
what would happen, and what would fail fails.
"""

from __future__ import annotations

import os
import stat

from thinmeta.cli.lvm import warn_about_lvm
from thinmeta.cli.options import CHANGING, parse
from thinmeta.cli.output import flush_stdout, write_json, write_text
from thinmeta.errors import ThinmetaError
from thinmeta.pool import open_pool
from thinmeta.report import count, human_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, TypeAlias

    from thinmeta.cli.options import Option, Parsed
    from thinmeta.pool import Pool
    from thinmeta.transaction import PoolTransaction

    State: TypeAlias = dict[str, int | None]

__all__ = [
    "METADATA_BLOCK_BYTES",
    "Outcome",
    "change",
    "open_to_change",
    "parse_change",
    "print_outcome",
]

METADATA_BLOCK_BYTES = 4096


def parse_change(
    command: str,
    arguments: list[str],
    names: tuple[str, ...],
    options: Iterable[Option] = (),
    *,
    optional: int = 0,
) -> Parsed:
    """Read the words of a command that changes a pool; as :func:`parse`."""
    return parse(command, arguments, options, names, common=CHANGING, optional=optional)


class Outcome:
    """What a transaction changed, or would change.

    Attributes:
        before: The pool as it was.
        after: The pool afterwards, with the same keys.
        created: Ids of thin devices that were not there before.
        deleted: Ids of thin devices that are not there any more.
        block_bytes: Size of a data block.
        dry_run: Nothing was changed.
    """

    __slots__ = ("_ids", "after", "before", "block_bytes", "created", "deleted", "dry_run")

    def __init__(self, pool: Pool, *, dry_run: bool) -> None:
        rows = pool._device_rows()
        self._ids = {row[0] for row in rows}
        self.before = self.after = _committed(pool, rows)
        self.created: list[int] = []
        self.deleted: list[int] = []
        self.block_bytes: int = pool._superblock_fields()["data_block_size"] * 512
        self.dry_run = dry_run

    def verb(self, done: str, would: str) -> str:
        """``done``, or what a dry run says instead."""
        return f"would {would}" if self.dry_run else done

    def more(self, key: str) -> int:
        """How much more of something the pool has afterwards."""
        before, after = self.before[key], self.after[key]
        assert before is not None and after is not None, key
        return after - before

    def freed(self) -> str:
        """How many data blocks became free, in words."""
        blocks = -self.more("used_data_blocks")
        text = f"{count(blocks, 'data block')} freed"
        return f"{text} ({human_bytes(blocks * self.block_bytes)})" if blocks > 0 else text

    def look_ahead(self, txn: PoolTransaction) -> None:
        """Take the state at the end of a transaction that is not committed."""
        ids = txn.device_ids()
        self.after = {
            **self.before,
            "transaction_id": txn.transaction_id,
            "time": txn.time,
            "devices": len(ids),
            "mapped_blocks": sum(txn._native.device(each)[1] for each in ids),
            "data_blocks": txn.data_blocks,
            "used_data_blocks": txn.used_data_blocks,
            "metadata_blocks": txn.metadata_blocks,
            "metadata_snapshot": txn.held_root or None,
        }
        self._compare(ids)

    def look_back(self, pool: Pool) -> None:
        """Take the state after a commit."""
        rows = pool._device_rows()
        self.after = _committed(pool, rows)
        self._compare([row[0] for row in rows])

    def _compare(self, ids: list[int]) -> None:
        self.created = [each for each in ids if each not in self._ids]
        self.deleted = sorted(self._ids.difference(ids))


def _committed(pool: Pool, rows: list[tuple[int, int, int, int, int]]) -> State:
    superblock = pool._superblock_fields()
    data_blocks, used_data_blocks = pool._native.data_space()
    metadata_blocks, _ = pool._native.metadata_space()
    return {
        "transaction_id": superblock["trans_id"],
        "time": superblock["time"],
        "devices": len(rows),
        "mapped_blocks": sum(row[1] for row in rows),
        "data_blocks": data_blocks,
        "used_data_blocks": used_data_blocks,
        "metadata_blocks": metadata_blocks,
        "metadata_snapshot": superblock["held_root"] or None,
    }


def open_to_change(path: str) -> Pool:
    """Open a pool for writing, with a line on stderr if it is one of LVM's.

    Raises:
        ThinmetaError: The pool is marked for a check.
    """
    pool = open_pool(path, mode="r+")
    warn_about_lvm(path)
    if pool._superblock_fields()["needs_check"]:
        pool.close()
        raise ThinmetaError(
            f"{path}: needs_check is set, so a commit to this pool has failed: it is not "
            "changed until it was checked and the mark taken away "
            "(thin_check --clear-needs-check-flag)"
        )
    return pool


def change(
    parsed: Parsed,
    work: Callable[[Pool, PoolTransaction], object],
) -> Outcome:
    """Do a command's work in one transaction; all of it or nothing.

    Args:
        parsed: The command line; META is its first word.
        work: Makes the changes.
    """
    path, dry_run = parsed.words[0], parsed.has("dry-run")
    with open_to_change(path) as pool:
        outcome = Outcome(pool, dry_run=dry_run)
        size_bytes = _file_size(path)
        committing = False
        try:
            with pool.transaction() as txn:
                work(pool, txn)
                if dry_run:
                    outcome.look_ahead(txn)
                    txn.abort()
                else:
                    committing = True
                    txn.commit()
        finally:
            # A rollback does not shorten a file that was made longer for new blocks. It
            # is done here, but not once there was a commit, which may count them.
            if not committing:
                _cut_off(path, size_bytes)
        if not dry_run:
            outcome.look_back(pool)
    return outcome


def _file_size(path: str) -> int | None:
    """The size of a regular file; ``None`` for a device, which nothing makes longer."""
    found = os.stat(path)
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _cut_off(path: str, size_bytes: int | None) -> None:
    """Take away what a file has beyond a size, while nobody else can use it."""
    if size_bytes is not None and os.stat(path).st_size > size_bytes:
        os.truncate(path, size_bytes)


def print_outcome(
    parsed: Parsed, outcome: Outcome, text: str, more: dict[str, Any] | None = None
) -> None:
    """Print what was changed, as a line of text or as JSON.

    Args:
        parsed: The command line.
        outcome: What was changed.
        text: The same in words, without a line feed.
        more: What else the JSON has to say, before the state of the pool.
    """
    try:
        _print(parsed, outcome, text, more)
        flush_stdout()
    except OSError as error:
        if not outcome.dry_run and not isinstance(error, BrokenPipeError):
            error.strerror = f"{error.strerror} (the change of the pool was made)"
        raise


def _print(parsed: Parsed, outcome: Outcome, text: str, more: dict[str, Any] | None) -> None:
    if not parsed.has("json"):
        write_text(text + "\n")
        return
    write_json(
        {
            "metadata": parsed.words[0],
            "command": parsed.command,
            "dry_run": outcome.dry_run,
            "data_block_size_bytes": outcome.block_bytes,
            "devices_created": outcome.created,
            "devices_deleted": outcome.deleted,
            **(more or {}),
            "before": _with_bytes(outcome.before, outcome.block_bytes),
            "after": _with_bytes(outcome.after, outcome.block_bytes),
        }
    )


def _with_bytes(state: State, block_bytes: int) -> State:
    result: State = {}
    for key, value in state.items():
        result[key] = value
        if key.endswith("_blocks"):
            unit = METADATA_BLOCK_BYTES if key == "metadata_blocks" else block_bytes
            result[key.removesuffix("blocks") + "bytes"] = None if value is None else value * unit
    return result
