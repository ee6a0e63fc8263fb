"""When a file was made, which Python does not tell on Linux."""

from __future__ import annotations

import os

__all__ = ["birth_ns"]

_AT_FDCWD = -100
_BTIME = 0x800
#: In ``struct statx``: the mask, and the seconds and nanoseconds of the birth time.
_STATX_BYTES, _SECONDS_AT, _NANOSECONDS_AT = 256, 80, 88


def birth_ns(path: str) -> int:
    """When a file was made, in nanoseconds since the epoch; 0 where nothing knows."""
    import ctypes
    import struct

    statx = getattr(ctypes.CDLL(None, use_errno=True), "statx", None)
    if statx is None:
        return 0
    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    if statx(_AT_FDCWD, os.fsencode(path), 0, _BTIME, buffer) != 0:
        return 0
    (mask,) = struct.unpack_from("=I", buffer)
    if not mask & _BTIME:
        return 0
    (seconds,) = struct.unpack_from("=q", buffer, _SECONDS_AT)
    (nanoseconds,) = struct.unpack_from("=I", buffer, _NANOSECONDS_AT)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)
