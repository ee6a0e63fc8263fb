"""What the command line means by a state of a volume: what is sent or backed up."""

from __future__ import annotations

from contextlib import contextmanager

from thinmeta.cli.options import device_number
from thinmeta.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from thinmeta.source import Generation

__all__ = ["open_generation"]


@contextmanager
def open_generation(
    command: str,
    pool: str,
    volume: str,
    *,
    data: str | None = None,
    size_bytes: int | None = None,
    external_origin: str | None = None,
    flatten: bool = False,
    purpose: str | None = None,
    wanted: str = "",
    look: bool = False,
) -> Iterator[Generation]:
    """Open a state that stands still.

    Args:
        command: Which command asks, for messages.
        pool: The pool's metadata, or a live pool.
        volume: The thin device, by its number; of a live pool by its name, too.
        data: The pool's data, where ``pool`` is its metadata.
        size_bytes: What ``--size`` says.
        external_origin: What ``--external-origin`` says.
        flatten: Whether ``--flatten`` was given.
        purpose: What a snapshot that is made of a live volume is for; the command, if it is
            not said.
        wanted: The digest of the state that a stream was cut of.
        look: Only to find out what has changed: of a live volume no snapshot is made, and
            it cannot be read.

    Raises:
        UsageError: Words that do not fit together.
        NoSuchDeviceError: The pool has no such device.
        OSError: Something cannot be opened.
    """
    if data is None:
        from thinmeta.cli.pools import find_source

        source = find_source(pool, None)
        if source.live is None:
            raise UsageError(
                f"{command}: --data is missing: {pool} is no live pool, and says only where the "
                f"content is; see 'thinmeta {command} --help'"
            )
        if external_origin is not None:
            raise UsageError(
                f"{command}: --external-origin: a live volume has its own, which is known"
            )
        from thinmeta.live.generation import LiveGeneration
        from thinmeta.live.look import LiveLook

        with (LiveLook if look else LiveGeneration)(
            source.live,
            # As the user calls it, so that messages can.
            device_number(volume, "ID") if volume.isdigit() else volume,
            purpose=purpose or command,
            size_bytes=size_bytes,
            flatten=flatten,
            wanted=wanted,
        ) as live_generation:
            yield live_generation
        return
    from thinmeta.pool import open_pool
    from thinmeta.source import ImageGeneration

    device_id = device_number(volume, "ID")
    with (
        open_pool(pool, data=data) as opened,
        ImageGeneration(
            opened,
            device_id,
            size_bytes=size_bytes,
            external_origin=external_origin,
            flatten=flatten,
        ) as generation,
    ):
        yield generation
