"""Asking and telling device-mapper, through its own program."""

from __future__ import annotations

import errno
import re

from thinmeta.errors import LivePoolError
from thinmeta.live.programs import QUESTION_SECONDS, Ran, run
from thinmeta.live.status import DeviceInfo, parse_info, parse_versions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "ask",
    "create",
    "info",
    "infos",
    "message",
    "pool_names",
    "remove",
    "resume",
    "status",
    "statuses",
    "suspend",
    "table",
    "tables",
    "targets",
]

#: Names come as the kernel has them: without blanks, and as they can be given back.
_RAW = ("--manglename", "none")
_COLUMNS = (
    *("info", "-c", "--noheadings", "--separator", "/"),
    *("-o", "major,minor,open,readonly,suspended,uuid,name"),
)
_MAX_NAME = 127


def ask(blame: str, arguments: Iterable[str]) -> str:
    """Put a question and return what is printed.

    Raises:
        LivePoolError: dmsetup is missing, may not, or knows no such device.
    """
    return _good(blame, run(blame, "dmsetup", arguments, seconds=QUESTION_SECONDS)).out


def _tell(blame: str, arguments: Iterable[str]) -> None:
    _good(blame, run(blame, "dmsetup", arguments))


def _good(blame: str, ran: Ran) -> Ran:
    if ran.status:
        raise LivePoolError(blame, ran.reason, ran.number or errno.EIO)
    return ran


def _name(name: str) -> str:
    """Check a name before it is given away.

    Raises:
        LivePoolError: No device can have it.
    """
    if not name or "/" in name or "\0" in name or len(name) > _MAX_NAME or name in (".", ".."):
        raise LivePoolError(name or "''", "no device can have such a name", errno.EINVAL)
    return name


def _which(name: str, uuid: str) -> tuple[str, ...]:
    """A device by its uuid, which stays when LVM renames it; else by its name."""
    return ("-u", uuid) if uuid else ("--", _name(name))


def info(name: str, uuid: str = "") -> DeviceInfo:
    """What device-mapper knows of a device.

    Args:
        name: Its name, or its number ``major:minor`` with a colon in front.
        uuid: Its uuid, if it has one: then the name is for errors alone.

    Raises:
        LivePoolError: There is no such device.
    """
    if name.startswith(":"):
        major, _, minor = name[1:].partition(":")
        line = ask(name[1:], (*_COLUMNS, *_RAW, "-j", major, "-m", minor))
    else:
        line = ask(name, (*_COLUMNS, *_RAW, *_which(name, uuid)))
    if not line.strip():
        raise LivePoolError(name.removeprefix(":"), "there is no such device", errno.ENXIO)
    return parse_info(name, line.splitlines()[0])


def infos(blame: str) -> dict[str, DeviceInfo]:
    """The same of all devices, by name."""
    lines = ask(blame, (*_COLUMNS, *_RAW)).splitlines()
    found = [parse_info(blame, line) for line in lines if line.count("/") >= 6]
    return {each.name: each for each in found}


def table(name: str, uuid: str = "") -> str:
    """A device's table, a line for each target."""
    return ask(name, ("table", *_which(name, uuid)))


def status(name: str, uuid: str = "") -> str:
    """A device's status; nothing is committed for it."""
    return ask(name, ("status", "--noflush", *_which(name, uuid)))


def tables(blame: str, target: str) -> dict[str, str]:
    """The tables of all devices with a target of a kind, by name."""
    return _by_name(ask(blame, ("table", *_RAW, "--target", target)))


def statuses(blame: str, target: str) -> dict[str, str]:
    """The status of all devices with a target of a kind, by name."""
    return _by_name(ask(blame, ("status", *_RAW, "--noflush", "--target", target)))


def _by_name(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in text.splitlines():
        # Raw names have no blank, so the first one is where the name ends.
        match = re.match(r"(\S+): (.*)", line)
        if match:
            found.setdefault(match[1], match[2])
    return found


def pool_names(blame: str) -> list[str]:
    """The pools that are active."""
    return sorted(tables(blame, "thin-pool"))


def targets(blame: str) -> dict[str, tuple[int, int, int]]:
    """The version of each kind of target that the kernel knows."""
    return parse_versions(ask(blame, ("targets",)))


def message(
    name: str,
    words: Iterable[object],
    *,
    uuid: str = "",
    keep: Sequence[int] = (),
    proof: int | None = None,
) -> None:
    """Tell a pool something.

    Args:
        name: The pool's device.
        words: The message.
        uuid: The device's uuid, if it has one.
        keep: Descriptors that stay open until it is done; see :func:`run`.
        proof: A descriptor that gets a line once the kernel has said yes.

    Raises:
        LivePoolError: The kernel said no; ``errno`` tells why.
    """
    arguments = ["message", *_which(name, uuid), "0", *map(str, words)]
    _good(name, run(name, "dmsetup", arguments, keep=keep, proof=proof))


def suspend(name: str) -> None:
    """Let a device stand still: what was written is on its way out, nothing new begins."""
    _tell(name, ("suspend", "--", _name(name)))


def resume(name: str) -> None:
    """Let a device go on."""
    _tell(name, ("resume", "--", _name(name)))


def create(name: str, line: str, *, read_only: bool) -> None:
    """Make a device of one target."""
    mode = ("--readonly",) if read_only else ()
    _tell(name, ("create", *mode, "--table", line, "--", _name(name)))


def remove(name: str) -> None:
    """Remove a device; whoever looks at it in passing is waited for."""
    _tell(name, ("remove", "--retry", "--", _name(name)))
