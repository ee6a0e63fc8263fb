"""What the program ``dmsetup`` does, without a process, which is what costs time in here.

Tests of many rounds use it; that the program itself is used rightly is tested elsewhere.
"""

import errno
import os
import struct
from collections.abc import Callable, Iterable, Sequence

import pytest

from kernel import dm
from thinmeta.live import dmsetup
from thinmeta.live.programs import Ran

_LIST, _CREATE, _REMOVE, _SUSPEND, _INFO, _LOAD, _STATUS, _VERSIONS, _MESSAGE = (
    *(2, 3, 4, 6, 7, 9, 12, 13, 14),
)
_READ_ONLY, _SUSPENDED, _TABLE, _NO_FLUSH = 1 << 0, 1 << 1, 1 << 4, 1 << 11
_TARGET = struct.Struct("=QQiI16s")


def use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let everything that calls dmsetup call this."""
    monkeypatch.setattr(dmsetup, "run", run)


def wrap(wrapper: Callable[[Callable[..., Ran]], Callable[..., Ran]]) -> None:
    """Put something around it, for the rest of this process."""
    vars(dmsetup)["run"] = wrapper(run)


def run(
    blame: str,
    program: str,
    arguments: Iterable[str],
    *,
    seconds: float | None = None,
    keep: Sequence[int] = (),
    proof: int | None = None,
) -> Ran:
    assert program == "dmsetup", program
    try:
        out = _run(list(arguments))
    except OSError as error:
        number = error.errno or errno.EIO
        return Ran(1, "", f"dmsetup: {os.strerror(number)}", number)
    if proof is not None:
        os.write(proof, b"done\n")
    return Ran(0, out, "", 0)


def _run(words: list[str]) -> str:
    command, words = words[0], words[1:]
    if command == "info":
        devices = _named(words) or _names()
        return "".join(_info(name, uuid, number) for name, uuid, number in devices)
    if command in ("table", "status"):
        flags = _TABLE if command == "table" else _NO_FLUSH
        named = _named(words)
        if named:
            name, uuid, _ = named[0]
            return _lines(dm.call(name, _STATUS, flags=flags, uuid=uuid)) + "\n"
        kind = words[words.index("--target") + 1]
        found = [(name, dm.call(name, _STATUS, flags=flags)) for name, _, _ in _names()]
        return "".join(
            f"{name}: {_lines(answer)}\n" for name, answer in found if _kind(answer) == kind
        )
    if command == "targets":
        return "".join(_versions(dm.call("", _VERSIONS).rest))
    if command == "message":
        name, uuid, _ = _named(words)[0]
        text = " ".join(words[words.index("0", 1) + 1 :])
        payload = struct.pack("=Q", 0) + text.encode() + b"\0"
        dm.call(name, _MESSAGE, payload=payload, uuid=uuid)
    elif command == "suspend":
        dm.call(words[-1], _SUSPEND, flags=_SUSPENDED)
    elif command == "resume":
        dm.call(words[-1], _SUSPEND)
    elif command == "create":
        _create(words)
    elif command == "remove":
        dm.Device.remove_name(words[-1])
    else:
        raise AssertionError(f"dmsetup {command} is not known here")
    return ""


def _named(words: list[str]) -> list[tuple[str, str, int]]:
    """The device that words name, as name, uuid and number; the list is empty for all."""
    if "-u" in words:
        return [("", words[words.index("-u") + 1], 0)]
    if "-j" in words:
        major, minor = (int(words[words.index(each) + 1]) for each in ("-j", "-m"))
        return [("", "", (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12)]
    if "--" in words:
        return [(words[words.index("--") + 1], "", 0)]
    return []


def _names() -> list[tuple[str, str, int]]:
    rest, found = dm.call("", _LIST).rest, []
    at = 0
    while at < len(rest):
        _, following = struct.unpack_from("=QI", rest, at)
        name = rest[at + 12 :].split(b"\0", 1)[0].decode()
        if name:
            found.append((name, "", 0))
        if not following:
            break
        at += following
    return found


def _info(name: str, uuid: str, number: int) -> str:
    found = dm.call(name, _INFO, uuid=uuid, number=number)
    major, minor = found.number >> 8 & 0xFFF, (found.number & 0xFF) | found.number >> 12 & 0xFFF00
    state = "Read-only" if found.flags & _READ_ONLY else "Writeable"
    moving = "Suspended" if found.flags & _SUSPENDED else "Active"
    words = (major, minor, found.open_count, state, moving, found.uuid, found.name)
    return "/".join(map(str, words)) + "\n"


def _kind(answer: dm.Answer) -> str:
    if not answer.targets:
        return ""
    return str(_TARGET.unpack_from(answer.rest)[4].split(b"\0", 1)[0].decode())


def _lines(answer: dm.Answer) -> str:
    assert answer.targets == 1
    begin, length, *_ = _TARGET.unpack_from(answer.rest)
    text = answer.rest[_TARGET.size :].split(b"\0", 1)[0].decode()
    return f"{begin} {length} {_kind(answer)} {text}"


def _versions(rest: bytes) -> Iterable[str]:
    at = 0
    while True:
        following, *numbers = struct.unpack_from("=I3I", rest, at)
        name = rest[at + 16 :].split(b"\0", 1)[0].decode()
        yield f"{name} v{'.'.join(map(str, numbers))}\n"
        if not following:
            return
        at += following


def _create(words: list[str]) -> None:
    name, line = words[-1], words[words.index("--table") + 1]
    _, length, kind, parameters = line.split(" ", 3)
    flags = _READ_ONLY if "--readonly" in words else 0
    dm.call(name, _CREATE)
    try:
        text = parameters.encode() + b"\0"
        text += b"\0" * (-(_TARGET.size + len(text)) % 8)
        head = _TARGET.pack(0, int(length), 0, _TARGET.size + len(text), kind.encode())
        dm.call(name, _LOAD, payload=head + text, targets=1, flags=flags)
        dm.call(name, _SUSPEND)
    except OSError as error:
        dm.Device.remove_name(name)
        raise OSError(error.errno or errno.EIO, "create") from error
