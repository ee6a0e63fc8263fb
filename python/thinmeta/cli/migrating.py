"""What the command line means by the source of a migration, and that it is not its destination."""

from __future__ import annotations

import os
from contextlib import contextmanager

from thinmeta.cli.generations import open_generation
from thinmeta.cli.options import device_number
from thinmeta.errors import UsageError
from thinmeta.migrating.apart import check_apart

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from thinmeta.live import LivePool
    from thinmeta.source import Generation
    from thinmeta.stream.targets import Target

__all__ = ["live_generation", "open_source", "purpose_of"]


@contextmanager
def open_source(
    command: str,
    pool: str,
    volume: str,
    target: Target,
    *,
    data: str | None = None,
    size_bytes: int | None = None,
    external_origin: str | None = None,
    keeps: bool = False,
    force_base: bool = False,
    look: bool = False,
) -> Iterator[Generation]:
    """Open a state that stands still, and is not where it is to go.

    Args:
        command: Which command asks, for messages.
        pool: The pool's metadata, or a live pool.
        volume: The thin device, by its number; of a live pool by its name, too.
        target: Where it goes.
        data: The pool's data, where ``pool`` is its metadata.
        size_bytes: What ``--size`` says.
        external_origin: What ``--external-origin`` says.
        keeps: Whether what was kept of a live volume counts, or is to be kept.
        force_base: What ``--force-base`` says.
        look: Only to find out what would be copied.

    Raises:
        UsageError: Words that do not fit together; source and destination are the same.
        NoSuchDeviceError: The pool has no such device.
        DeviceInUseError: Somebody uses the destination.
        OSError: Something cannot be opened.
    """
    if data is not None:
        sources = [pool, data, *([] if external_origin is None else [external_origin])]
        check_apart(sources, target.paths)
        with open_generation(
            command,
            pool,
            volume,
            data=data,
            size_bytes=size_bytes,
            external_origin=external_origin,
        ) as generation:
            yield generation
        return
    from thinmeta.cli.pools import find_source

    live = find_source(pool, None).live
    # Without one this says what is missing.
    if live is not None and external_origin is not None:
        raise UsageError(f"{command}: --external-origin: a live volume has its own, which is known")
    if live is not None and not look:
        number = device_number(volume, "ID") if volume.isdigit() else live.device_id_of(volume)
        with live_generation(
            live,
            number,
            target,
            purpose=purpose_of(command, target),
            size_bytes=size_bytes,
            keeps=keeps,
            force_base=force_base,
        ) as generation:
            yield generation
        return
    with open_generation(
        command,
        pool,
        volume,
        size_bytes=size_bytes,
        external_origin=external_origin,
        purpose=purpose_of(command, target),
        look=look,
    ) as generation:
        yield generation


def purpose_of(command: str, target: Target) -> str:
    """What a snapshot is for that is kept: the same volume may go to several places."""
    return " ".join((command, *map(os.path.realpath, target.paths)))


@contextmanager
def live_generation(
    live: LivePool,
    device_id: int,
    target: Target,
    *,
    purpose: str,
    size_bytes: int | None = None,
    keeps: bool = False,
    force_base: bool = False,
) -> Iterator[Generation]:
    """A snapshot of a live volume, or the one that an earlier run was interrupted with.

    Raises:
        UsageError: The destination is the volume, or its pool.
        DeviceInUseError: Somebody uses the destination.
        ThinmetaError: The snapshot cannot be made.
        OSError: Something cannot be opened.
    """
    from thinmeta.live.generation import LiveGeneration

    active = [each.path for each in live.volumes() if each.device_id == device_id]
    check_apart([*active, live.metadata_path, live.data_path, live.path], target.paths)
    # Whatever the destination refuses, it refuses before a snapshot is made.
    with target:
        finished = target.recover(force=force_base)
        work, held = target.state.work, target.state.held
    wanted = "" if finished is None else finished.digest
    if work is not None and work.token is not None:
        wanted = work.identity.digest
    with LiveGeneration(
        live,
        device_id,
        purpose=purpose,
        size_bytes=size_bytes,
        held=held.digest if keeps and held is not None else "",
        wanted=wanted,
    ) as generation:
        try:
            yield generation
        except BaseException:
            # What was copied is of this very snapshot.
            left = target.state.work
            if left is not None and (left.complete or left.token is not None):
                generation.leave_behind()
            raise
