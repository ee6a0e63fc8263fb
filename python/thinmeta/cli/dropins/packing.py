"""What thin_metadata_pack and thin_metadata_unpack have in common."""

from __future__ import annotations

import sys

from thinmeta.cli.dropins.options import Option
from thinmeta.cli.output import write_error
from thinmeta.errors import AlreadyFormattedError
from thinmeta.packing import holds_metadata

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.cli.dropins.options import Parsed

__all__ = ["OPTIONS", "places"]

OPTIONS = (
    Option("--input", "-i", takes="a word"),
    Option("--output", "-o", takes="a word"),
    Option("--force", "-f"),
)


def places(parsed: Parsed) -> tuple[str, str]:
    """Where to read and where to write; as the peers do, asks before metadata are lost.

    Raises:
        AlreadyFormattedError: They are to stay.
    """
    source, out = parsed.needed("input"), parsed.needed("output")
    if not parsed.has("force") and holds_metadata(out):
        write_error(f"{out} holds metadata, which would be lost. Go on? [y/n]: ")
        answer = sys.stdin.readline() if sys.stdin is not None else ""
        if answer.strip().lower() not in ("y", "yes"):
            raise AlreadyFormattedError(out, "there are metadata here, which --force replaces")
    return source, out
