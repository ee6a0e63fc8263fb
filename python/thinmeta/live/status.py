"""What dmsetup prints of pools and thin devices, as values.

Kernels have added words to these lines over the years. Those that are missing are
``None``, those that are not known are passed over, and whatever makes no sense is a
:class:`LivePoolError`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from thinmeta.errors import LivePoolError

__all__ = [
    "DeviceInfo",
    "LiveStatus",
    "LiveVolume",
    "PoolTable",
    "ThinTable",
    "parse_info",
    "parse_pool_status",
    "parse_pool_table",
    "parse_thin_status",
    "parse_thin_table",
    "parse_versions",
]

Mode = Literal["rw", "ro", "out_of_data_space"]
Passdown = Literal["discard_passdown", "no_discard_passdown", "ignore_discard"]

_MODES: dict[str, Mode] = {"rw": "rw", "ro": "ro", "out_of_data_space": "out_of_data_space"}
_PASSDOWN: dict[str, Passdown] = {
    "discard_passdown": "discard_passdown",
    "no_discard_passdown": "no_discard_passdown",
    "ignore_discard": "ignore_discard",
}
_FAILED = ("Fail", "Error")


@dataclass(frozen=True, slots=True)
class LiveStatus:
    """How a live pool is, as the kernel says it.

    Blocks of metadata have 4096 bytes; of data, the pool's own size. A pool that has failed
    has no counts: all fields but ``failed`` are ``None``.

    Attributes:
        failed: ``"Fail"`` or ``"Error"`` where that is all the kernel says; else ``None``.
        transaction_id: The number that userspace keeps in the pool.
        used_metadata_blocks: Metadata blocks in use; the kernel counts a reserve of its own,
            a tenth or 4096 blocks, as used.
        total_metadata_blocks: All metadata blocks.
        used_data_blocks: Data blocks in use.
        total_data_blocks: All data blocks.
        held_root: Metadata block of the metadata snapshot; ``None`` where none is held.
        mode: ``"rw"``, ``"ro"`` (a commit has failed, the metadata are full, or it was
            asked for) or ``"out_of_data_space"``; the first kernels do not say.
        discard_passdown: What becomes of discards.
        error_if_no_space: Whether writes fail when the pool is full, or wait.
        needs_check: Whether the metadata have to be checked; older kernels do not say.
        metadata_low_watermark_blocks: So few free metadata blocks cause an event; older kernels
            do not say.
        line: The kernel's own words.
    """

    failed: str | None
    transaction_id: int | None = None
    used_metadata_blocks: int | None = None
    total_metadata_blocks: int | None = None
    used_data_blocks: int | None = None
    total_data_blocks: int | None = None
    held_root: int | None = None
    mode: Mode | None = None
    discard_passdown: Passdown | None = None
    error_if_no_space: bool | None = None
    needs_check: bool | None = None
    metadata_low_watermark_blocks: int | None = None
    line: str = ""

    @property
    def free_metadata_blocks(self) -> int | None:
        """Metadata blocks that the kernel would still give out."""
        if self.total_metadata_blocks is None or self.used_metadata_blocks is None:
            return None
        return self.total_metadata_blocks - self.used_metadata_blocks

    @property
    def free_data_blocks(self) -> int | None:
        """Data blocks that are free."""
        if self.total_data_blocks is None or self.used_data_blocks is None:
            return None
        return self.total_data_blocks - self.used_data_blocks


@dataclass(frozen=True, slots=True)
class LiveVolume:
    """A thin device that is active on this host.

    Attributes:
        name: What device-mapper calls it; LVM: ``vg-name`` with every ``-`` doubled.
        uuid: Its device-mapper uuid, or empty.
        device_id: Its number in the pool.
        size_sectors: Its size, in sectors of 512 bytes.
        read_only: Whether nobody can write to it here.
        suspended: Whether it stands still.
        open_count: How many have it open: mounted, or used by another device.
        path: Its device node.
        external_origin: The node of what shows through where nothing was written, if
            it has such.
        mapped_sectors: How much of it is mapped; ``None`` where the kernel cannot say.
        highest_mapped_sector: The last sector that is mapped; ``None`` where nothing is.
    """

    name: str
    uuid: str
    device_id: int
    size_sectors: int
    read_only: bool
    suspended: bool
    open_count: int
    path: str
    external_origin: str | None = None
    mapped_sectors: int | None = None
    highest_mapped_sector: int | None = None

    @property
    def size_bytes(self) -> int:
        """Its size in bytes."""
        return self.size_sectors * 512


class DeviceInfo(NamedTuple):
    """What device-mapper knows of any of its devices."""

    name: str
    uuid: str
    major: int
    minor: int
    open_count: int
    read_only: bool
    suspended: bool

    @property
    def number(self) -> str:
        """As tables have it: ``254:3``."""
        return f"{self.major}:{self.minor}"


class PoolTable(NamedTuple):
    """The table of a pool: its devices as they stand there, mostly ``major:minor``."""

    length_sectors: int
    metadata: str
    data: str
    data_block_size_sectors: int
    low_water_mark_blocks: int
    features: tuple[str, ...]


class ThinTable(NamedTuple):
    """The table of a thin device."""

    length_sectors: int
    pool: str
    device_id: int
    external_origin: str | None


def _not_understood(name: str, what: str, line: str) -> LivePoolError:
    shown = " ".join(line.split())
    shown = shown if len(shown) <= 200 else shown[:200] + "…"
    return LivePoolError(name, f"dmsetup printed a {what} that is not understood: {shown!r}")


def _number(word: str) -> int:
    if not (word.isascii() and word.isdigit()) or len(word) > 20 or int(word) >= 1 << 64:
        raise ValueError(word)
    return int(word)


def _of(word: str) -> tuple[int, int]:
    """``used/total``."""
    used, slash, total = word.partition("/")
    if not slash or _number(used) > _number(total):
        raise ValueError(word)
    return int(used), int(total)


def _target(line: str, kind: str) -> tuple[int, list[str]]:
    """The length and the words of a line that is about a target of a kind."""
    words = line.split()
    if len(words) < 3 or words[2] != kind or _number(words[0]) != 0:
        raise ValueError(line)
    return _number(words[1]), words[3:]


def parse_pool_status(name: str, line: str) -> LiveStatus:
    """Read the line that ``dmsetup status`` prints of a pool.

    Raises:
        LivePoolError: It is not such a line.
    """
    said = " ".join(line.split())
    try:
        _, words = _target(line, "thin-pool")
        if words[0] in _FAILED:
            return LiveStatus(failed=words[0], line=said)
        transaction_id = _number(words[0])
        metadata, data = _of(words[1]), _of(words[2])
        held_root = None if words[3] == "-" else _number(words[3])
    except (ValueError, IndexError):
        raise _not_understood(name, "status", line) from None
    rest = words[4:]
    # One that has words after the mode tells of needs_check by a word or a dash.
    check: bool | None = None
    if "needs_check" in rest:
        check = True
    elif "-" in rest:
        check = False
    space: bool | None = None
    if "error_if_no_space" in rest:
        space = True
    elif "queue_if_no_space" in rest:
        space = False
    low: int | None = None
    if rest and rest[-1].isascii() and rest[-1].isdigit() and len(rest[-1]) < 20:
        low = int(rest[-1])
    return LiveStatus(
        failed=None,
        transaction_id=transaction_id,
        used_metadata_blocks=metadata[0],
        total_metadata_blocks=metadata[1],
        used_data_blocks=data[0],
        total_data_blocks=data[1],
        held_root=held_root,
        mode=next((_MODES[word] for word in rest if word in _MODES), None),
        discard_passdown=next((_PASSDOWN[word] for word in rest if word in _PASSDOWN), None),
        error_if_no_space=space,
        needs_check=check,
        metadata_low_watermark_blocks=low,
        line=said,
    )


def parse_pool_table(name: str, line: str) -> PoolTable:
    """Read the line that ``dmsetup table`` prints of a pool.

    Raises:
        LivePoolError: It is not such a line.
    """
    try:
        length, words = _target(line, "thin-pool")
        count = _number(words[4]) if len(words) > 4 else 0
        features = tuple(words[5 : 5 + count])
        if len(features) != count:
            raise ValueError(line)
        metadata, data = words[0], words[1]
        return PoolTable(length, metadata, data, _number(words[2]), _number(words[3]), features)
    except (ValueError, IndexError):
        raise _not_understood(name, "table", line) from None


def parse_thin_table(name: str, line: str) -> ThinTable:
    """Read the line that ``dmsetup table`` prints of a thin device.

    Raises:
        LivePoolError: It is not such a line.
    """
    try:
        length, words = _target(line, "thin")
        return ThinTable(length, words[0], _number(words[1]), words[2] if words[2:] else None)
    except (ValueError, IndexError):
        raise _not_understood(name, "table", line) from None


def parse_thin_status(name: str, line: str) -> tuple[int | None, int | None]:
    """Read the line that ``dmsetup status`` prints of a thin device.

    Returns:
        How many sectors are mapped, and the last one that is; ``None`` for what the kernel
        does not say, as of a device that has failed.

    Raises:
        LivePoolError: It is not such a line.
    """
    try:
        _, words = _target(line, "thin")
        if words[0] in (*_FAILED, "-"):
            return None, None
        return _number(words[0]), None if words[1] == "-" else _number(words[1])
    except (ValueError, IndexError):
        raise _not_understood(name, "status", line) from None


def parse_info(name: str, line: str) -> DeviceInfo:
    """Read ``major/minor/open/readonly/suspended/uuid/name``; no name has a slash.

    Raises:
        LivePoolError: It is not such a line.
    """
    words = line.strip("\n").split("/")
    try:
        major, minor, opened = map(_number, words[:3])
        if words[3] not in ("Writeable", "Read-only") or len(words) < 7:
            raise ValueError(line)
        return DeviceInfo(
            name=words[-1],
            uuid="/".join(words[5:-1]),
            major=major,
            minor=minor,
            open_count=opened,
            read_only=words[3] == "Read-only",
            suspended=words[4].lower() == "suspended",
        )
    except (ValueError, IndexError):
        raise _not_understood(name, "device", line) from None


def parse_versions(text: str) -> dict[str, tuple[int, int, int]]:
    """Read what ``dmsetup targets`` prints: the version of each target that is there."""
    found: dict[str, tuple[int, int, int]] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) != 2 or not words[1].startswith("v"):
            continue
        try:
            major, minor, patch = map(_number, words[1][1:].split("."))
        except ValueError:
            continue
        found[words[0]] = (major, minor, patch)
    return found
