"""Where what a target holds can be read back."""

from __future__ import annotations

from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.devices import ThinDevice

__all__ = ["Content"]


class Content(NamedTuple):
    """Where content is that can be read back.

    Attributes:
        name: What the user calls it.
        path: The file or the device that it is in.
        device: The thin device whose mappings say where in there; ``None``: it begins at the
            beginning.
        block_bytes: Size of a data block of that device.
    """

    name: str
    path: str
    device: ThinDevice | None = None
    block_bytes: int = 0
