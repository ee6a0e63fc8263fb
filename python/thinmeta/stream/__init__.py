"""Streams: a state of a volume, or what changed since another one, as bytes.

::

    from thinmeta import stream

    with thinmeta.open_pool("meta.img", data="data.img") as pool:
        with ImageGeneration(pool, 2) as monday, open("monday", "wb") as out:
            stream.send(monday, out, base=1)
    with open("monday", "rb") as monday:
        stream.receive(monday, "copy.img")

What a stream consists of is told byte by byte in ``docs/stream.md``.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.stream.examine import StreamSummary, inspect, verify
    from thinmeta.stream.format import Header
    from thinmeta.stream.planning import plan
    from thinmeta.stream.receiver import ReceiveReport, Standing, look, print_token, receive
    from thinmeta.stream.sender import SendReport, send
    from thinmeta.stream.targets import (
        DeviceTarget,
        FileTarget,
        PoolTarget,
        Target,
        open_target,
    )
    from thinmeta.stream.token import Token

__all__ = [
    "DeviceTarget",
    "FileTarget",
    "Header",
    "PoolTarget",
    "ReceiveReport",
    "SendReport",
    "Standing",
    "StreamSummary",
    "Target",
    "Token",
    "inspect",
    "look",
    "open_target",
    "plan",
    "print_token",
    "receive",
    "send",
    "verify",
]

if not TYPE_CHECKING:  # a checker must still refuse names that are not there
    _HOMES = {
        "examine": "StreamSummary inspect verify",
        "format": "Header",
        "receiver": "ReceiveReport Standing look print_token receive",
        "planning": "plan",
        "sender": "SendReport send",
        "targets": "DeviceTarget FileTarget PoolTarget Target open_target",
        "token": "Token",
    }

    def __getattr__(name):
        from importlib import import_module

        home = next((home for home, names in _HOMES.items() if name in names.split()), None)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"thinmeta.stream.{home}"), name)
        return value

    def __dir__():
        return sorted({*globals(), *__all__})
