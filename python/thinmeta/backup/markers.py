"""Who is at work in a repository: backups that are being made, and a prune that deletes.

Two rules keep what one needs from being deleted by the other, without clocks and without
locks that could be left behind:

* who makes a backup puts ``active/…`` first, and then looks for ``condemned/…``;
* who deletes puts ``condemned/…`` first, and then looks for ``active/…``.

Of two that do so at the same time at least one sees the other. ``docs/backup.md`` has the
whole argument. A marker whose process is known to be gone counts for nothing.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass

from thinmeta.backup.manifest import MAX_DOCUMENT_BYTES, VERSION, decode, encode
from thinmeta.backup.stopping import stop_point
from thinmeta.errors import RepositoryBusyError, StreamError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

    from thinmeta.backup.objects import ObjectStore

__all__ = [
    "ACTIVE",
    "CONDEMNED",
    "Marker",
    "abandon",
    "markers",
    "put_marker",
    "take_back",
    "wait_for_deletion",
]

ACTIVE, CONDEMNED = "active/", "condemned/"

#: Markers of this process whose work is still going on: one that failed in the middle
#: could not remove its own, perhaps, and must not count for as long as the process lives.
_OURS: set[str] = set()

_POLL_SECONDS = (0.05, 2.0)


@dataclass(frozen=True)
class Marker:
    """One marker.

    Attributes:
        name: The object.
        kind: ``"create"``, ``"prune"``, or ``"unknown"`` if it cannot be read.
        owner: Who put it: host, process, and when.
        state: Whether its process is alive; ``"unknown"`` where it is another machine's.
    """

    name: str
    kind: str
    owner: str
    state: Literal["alive", "dead", "unknown"]


def put_marker(store: ObjectStore, folder: str, kind: str, identifier: str) -> str:
    """Put a marker of this process and return its name."""
    name = f"{folder}{kind}-{identifier}"
    _OURS.add(name)
    try:
        store.put(name, encode({"version": VERSION, "kind": kind, **_this_process()}))
    except BaseException:
        _OURS.discard(name)
        raise
    return name


def take_back(store: ObjectStore, name: str) -> None:
    """Remove a marker of this process."""
    try:
        store.delete([name])
    finally:
        _OURS.discard(name)


def abandon(name: str) -> None:
    """Leave a marker behind as that of somebody dead, for the next one to find."""
    _OURS.discard(name)


def markers(store: ObjectStore, folder: str) -> list[Marker]:
    """All markers of a folder."""
    found = []
    for name, _ in list(store.list(folder)):
        try:
            value = decode(store.get(name, MAX_DOCUMENT_BYTES))
        except FileNotFoundError:
            continue  # taken back meanwhile
        except StreamError as error:
            found.append(Marker(name, "unknown", f"unreadable: {error}", "unknown"))
            continue
        words = [f"process {value.get('pid')} on {value.get('host')}, since {value.get('since')}"]
        owner = " ".join(str(word)[:200] for word in words if str(word).isprintable())
        found.append(Marker(name, str(value.get("kind"))[:20], owner, _state(name, value)))
    return found


def wait_for_deletion(store: ObjectStore, seconds: float, log: Any) -> None:
    """Wait until nobody deletes any more.

    Raises:
        RepositoryBusyError: Somebody still does, or was lost sight of while he did.
    """
    deadline, pause = time.monotonic() + seconds, _POLL_SECONDS[0]
    said = False
    while True:
        stop_point()
        others = [each for each in markers(store, CONDEMNED) if each.state != "dead"]
        if not others:
            return
        if not said:
            log.info("waiting for a prune that deletes: %s", others[0].owner)
            said = True
        if time.monotonic() >= deadline:
            raise RepositoryBusyError(
                store.name,
                f"a prune deletes objects ({others[0].owner}): wait until it is done; if its "
                "machine is gone for good, 'thinmeta backup unlock' removes its mark",
            )
        time.sleep(min(pause, max(deadline - time.monotonic(), 0.01)))
        pause = min(pause * 2, _POLL_SECONDS[1])


def _this_process() -> dict[str, Any]:
    pid = os.getpid()
    return {
        "host": os.uname().nodename,
        "machine": _first_line("/etc/machine-id"),
        "boot": _first_line("/proc/sys/kernel/random/boot_id"),
        "namespace": _namespace(),
        "pid": pid,
        "started": _started(pid),
        "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _state(name: str, value: dict[str, Any]) -> Literal["alive", "dead", "unknown"]:
    """Whether the process that put a marker is alive, as far as that can be known here."""
    here = _this_process()
    if value.get("boot") == here["boot"] and here["boot"]:
        if value.get("namespace") != here["namespace"] or not here["namespace"]:
            return "unknown"  # a container's: its numbers mean other processes
        pid, started = value.get("pid"), value.get("started")
        if type(pid) is not int or type(started) is not int:
            return "unknown"
        now = _started(pid)
        if now is None and _may_be_there(pid):
            return "unknown"  # where others' processes are hidden
        if now != started:
            return "dead"
        if pid == here["pid"] and name not in _OURS:
            return "dead"
        return "alive"
    same = all(value.get(key) == here[key] and here[key] for key in ("host", "machine"))
    return "dead" if same else "unknown"  # this machine, before it was started anew


def _may_be_there(pid: int) -> bool:
    """Whether a process that cannot be looked at may exist."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _started(pid: int) -> int | None:
    """When a process was started, in ticks since the boot; None if it is not there."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[:1] == [b"Z"] else int(fields[19])


def _first_line(path: str) -> str:
    with suppress(OSError):
        with open(path, encoding="ascii", errors="replace") as file:
            return file.readline().strip()
    return ""


def _namespace() -> str:
    with suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""
