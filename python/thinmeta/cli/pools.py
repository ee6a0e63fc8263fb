"""What a reading command reads: an image, a metadata device, or a live pool.

A live pool is read through its metadata snapshot, which is reserved and released around
the work. What makes live pools work is imported only when there is one: of a file no
program is asked anything.
"""

from __future__ import annotations

import os
import stat

from thinmeta.cli.options import device_number
from thinmeta.errors import LivePoolError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Literal

    from thinmeta.live import LivePool, MetadataSnapshot
    from thinmeta.pool import Pool

    Snapshot = Literal["held"] | int | None

__all__ = ["Source", "find_source"]

SYSFS = "/sys/dev/block"


class Source:
    """What is read.

    Attributes:
        word: What the user calls it.
        live: The live pool, if it is one.
        snapshot: Which metadata snapshot is read, as ``-m`` gives it; of a live pool the
            held one.
        reserves: Whether it is reserved, and released, by us.
    """

    __slots__ = ("live", "reserves", "snapshot", "word")

    def __init__(self, word: str, live: LivePool | None, snapshot: Snapshot) -> None:
        self.word, self.live = word, live
        # With -m the snapshot is there already, whoever holds it.
        self.reserves = live is not None and snapshot is None
        self.snapshot: Snapshot = "held" if self.reserves else snapshot

    @property
    def metadata(self) -> str:
        """The metadata device or image."""
        return self.word if self.live is None else self.live.metadata_path

    def device_number(self, word: str, what: str) -> int:
        """A thin device's id; of a live pool its name will do."""
        if self.live is None or word.isdigit():
            return device_number(word, what)
        return self.live.device_id_of(word)

    def reading(self, data: str | None = None) -> Reading:
        """Open it; a context manager whose value is the pool.

        Args:
            data: The data device or image, if it is needed.
        """
        return Reading(self, data)


class Reading:
    """A pool that is read, and let go of in the end, also when a signal ends the work."""

    def __init__(self, source: Source, data: str | None) -> None:
        self._source, self._data = source, data
        self._open: Pool | MetadataSnapshot | None = None

    def __enter__(self) -> Pool:
        source = self._source
        if source.live is None or not source.reserves:
            from thinmeta.pool import open_pool

            if source.live is not None:
                source.live.check_nodes(data=self._data is not None)
            pool = open_pool(source.metadata, metadata_snapshot=source.snapshot, data=self._data)
            self._open = pool
            return pool

        from thinmeta.cli.signals import raise_on_termination

        raise_on_termination()
        snapshot = source.live.metadata_snapshot(data=self._data is not None)
        pool = snapshot.__enter__()
        self._open = snapshot
        return pool

    def __exit__(
        self,
        raised: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._open is None:
            return
        self._open.__exit__(raised, value, traceback)


def find_source(word: str, snapshot: Snapshot) -> Source:
    """Find out what a word means.

    A file or device of that name comes first; then a pool that device-mapper or LVM
    (``vg/pool``) calls so.

    Args:
        word: From the command line.
        snapshot: What ``-m`` says.

    Raises:
        OSError: There is no such thing.
        UsageError: It is a live volume, and no pool.
    """
    try:
        found = os.stat(word)
    except FileNotFoundError as error:
        return Source(word, _of_name(word, error), snapshot)
    except OSError:
        return Source(word, None, snapshot)  # opening it says what is wrong
    return Source(word, _of_node(word, found), snapshot)


def _of_name(word: str, absent: FileNotFoundError) -> LivePool | None:
    if word.startswith("/") and not word.startswith("/dev/"):
        return None
    from thinmeta.live import live_pool

    try:
        return live_pool(word)
    except LivePoolError as error:
        # The file is what was missed first; why there is no such pool comes after it.
        words = f"{absent.strerror}, and no live pool: {error.reason}"
        raise FileNotFoundError(absent.errno, words, word) from None


def _of_node(word: str, found: os.stat_result) -> LivePool | None:
    if not stat.S_ISBLK(found.st_mode):
        return None
    number = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
    if not os.path.exists(f"{SYSFS}/{number}/dm"):
        return None
    from thinmeta.live import live_pool

    try:
        return live_pool(word)
    except (LivePoolError, UsageError):
        return None  # a device as any other: opening it tells
