"""What a target holds, and what is being done to it: a small file beside it.

JSON with a checksum, replaced as a whole. A target without one may hold anything.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, fields

from thinmeta._core import crc32c
from thinmeta.errors import StreamError
from thinmeta.identity import Identity
from thinmeta.notes import remove_note, write_note
from thinmeta.stream.format import parse_json
from thinmeta.stream.token import Token

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

    Kind = Literal["journal", "partial", "in place", "device"]

__all__ = ["Sidecar", "State", "Work", "state_folder"]

VERSION = 1
STATE_FOLDER = "/var/lib/thinmeta/targets"
_MAX_BYTES = 1 << 20
_KINDS = ("journal", "partial", "in place", "device")


@dataclass(slots=True)
class Work:
    """A state that is on its way into a target.

    Attributes:
        kind: Where it is gathered: ``"journal"``: a file with what has to be done to the
            target; ``"partial"``: a file that will take the target's place; ``"in place"``:
            the target itself; ``"device"``: a thin device that will.
        identity: The state that comes.
        base: What it is made from.
        resumable: Whether it can be sent again exactly.
        complete: Whether all of it is there, checked, and durable.
        checked: Whether the target was seen to be what it was, when all was there: from then on
            room for the changes may be reserved in it.
        begun: Whether the target may have been changed since then.
        offset_bytes: All of the volume below this is there, checked, and durable.
        path: The file.
        mark: What the file begins with, in hexadecimal; by it our file is known.
        length_bytes: Of the file, up to ``offset_bytes``.
        device_id: The thin device.
        creation_time: The pool's clock when it was made.
        switch_time: The pool's clock when it takes the target's place.
        inode: Of the file that takes the target's place.
        replaces: How the file looked whose place it takes; empty: there was none.
    """

    kind: Kind
    identity: Identity
    base: Identity | None
    resumable: bool
    complete: bool = False
    checked: bool = False
    begun: bool = False
    offset_bytes: int = 0
    path: str = ""
    mark: str = ""
    length_bytes: int = 0
    device_id: int = 0
    creation_time: int = 0
    switch_time: int = 0
    inode: int = 0
    replaces: str = ""

    @property
    def token(self) -> Token | None:
        """Where the sender may go on; ``None``: it has to begin anew."""
        if not self.resumable or self.complete or self.offset_bytes == 0:
            return None
        return Token.of(self.identity, self.base, self.offset_bytes)


@dataclass(slots=True)
class State:
    """What is known of a target.

    Attributes:
        held: What it holds, if that is known.
        evidence: How it looked then.
        work: What is on its way.
    """

    held: Identity | None = None
    evidence: dict[str, int | str] = field(default_factory=dict)
    work: Work | None = None

    def to_json(self) -> dict[str, Any]:
        """As what JSON can say."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> State:
        """Make one from what a file says.

        Raises:
            StreamError: That cannot be.
        """
        if not isinstance(value, dict) or not isinstance(value.get("evidence"), dict):
            raise StreamError("no state")
        held, work, evidence = value.get("held"), value.get("work"), value["evidence"]
        if not all(type(each) in (int, str) for each in evidence.values()):
            raise StreamError("evidence that cannot be")
        return cls(
            None if held is None else Identity.from_json(held),
            evidence,
            None if work is None else _work(work),
        )


def _work(value: object) -> Work:
    if not isinstance(value, dict) or value.get("kind") not in _KINDS:
        raise StreamError("work of no kind")
    base = value.get("base")
    found: dict[str, Any] = {
        "identity": Identity.from_json(value.get("identity")),
        "base": None if base is None else Identity.from_json(base),
    }
    for each in fields(Work):
        if each.name in found:
            continue
        part = value.get(each.name)
        kind = {"int": int, "bool": bool}.get(str(each.type), str)
        if type(part) is not kind or (type(part) is int and not 0 <= part < 1 << 64):
            raise StreamError(f"work whose {each.name} cannot be")
        found[each.name] = part
    work = Work(**found)
    if work.offset_bytes > work.identity.size_bytes or work.length_bytes >= 1 << 63:
        raise StreamError("work whose numbers cannot be")
    return work


class Sidecar:
    """The file.

    Args:
        path: Where it is.
        target: What errors call the target.
    """

    def __init__(self, path: str, target: str) -> None:
        self.path, self._target = path, target

    def load(self) -> State:
        """What it says; a state without anything if there is none.

        Raises:
            StreamError: It is damaged, or of a newer version.
            OSError: It cannot be read.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return State()
        with open(descriptor, "rb") as file:
            text = file.read(_MAX_BYTES)
        try:
            value = parse_json(text, "it")
            if not isinstance(value, dict) or value.get("thinmeta-target") != VERSION:
                raise StreamError(f"it is not of version {VERSION}")
            content = value.get("state")
            if value.get("crc32c") != _checksum(content):
                raise StreamError("its checksum is wrong")
            return State.from_json(content)
        except StreamError as error:
            raise StreamError(
                f"{self.path}, which says what {self._target} holds, cannot be believed "
                f"({error}): remove it, and send the whole volume"
            ) from error

    def save(self, state: State) -> None:
        """Make it say something else, durably; nothing at all if there is nothing to say.

        Raises:
            OSError: It cannot be written; it says what it said before.
        """
        if state.held is None and state.work is None:
            remove_note(self.path)
            return
        content = state.to_json()
        value = {"thinmeta-target": VERSION, "crc32c": _checksum(content), "state": content}
        write_note(self.path, value)


def _checksum(content: object) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return f"{crc32c(text.encode('utf-8', 'surrogatepass')):08x}"


def state_folder() -> str:
    """Where the sidecars of devices are, which is made if it is not there.

    Raises:
        OSError: It cannot be made.
    """
    folder = os.path.abspath(os.environ.get("THINMETA_STATE_DIR") or STATE_FOLDER)
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
    except OSError as error:
        words = f"{error.strerror} (THINMETA_STATE_DIR in the environment names another folder)"
        raise OSError(error.errno, words, folder) from error
    return folder
