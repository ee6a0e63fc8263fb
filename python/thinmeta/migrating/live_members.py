"""Volumes of a live pool as members of a family: a snapshot of each is made and read."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import replace

from thinmeta.errors import UsageError
from thinmeta.live.generation import LiveGeneration
from thinmeta.migrating.apart import check_apart
from thinmeta.migrating.members import Member, size_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from typing_extensions import Buffer

    from thinmeta import _core
    from thinmeta.live import LivePool
    from thinmeta.migrating.members import Columns
    from thinmeta.stream.targets import Target

__all__ = ["live_members"]


@contextmanager
def live_members(
    live: LivePool, targets: Mapping[int, Target], block_bytes: int, *, purpose: str
) -> Iterator[Sequence[Member]]:
    """Make snapshots of volumes, or take those that an earlier run was interrupted with.

    Each is of its own moment. Blocks are the same where both snapshots prove it by their data
    block and its time.

    Args:
        live: The pool.
        targets: Where each volume goes, by its number.
        block_bytes: Size of a data block of the destination.
        purpose: What snapshots are for that are left behind.

    Raises:
        UsageError: A volume shows an external origin; the destination is in the pool.
        NoSuchDeviceError: There is no such volume.
        DeviceInUseError: Somebody uses the destination.
        ThinmetaError: A snapshot cannot be made.
        OSError: Something cannot be opened.
    """
    active = [each.path for each in live.volumes()]
    sources = [*active, live.metadata_path, live.data_path, live.path]
    # Whatever the destination refuses, it refuses before a snapshot is made.
    wanted = {}
    for device_id, target in targets.items():
        check_apart(sources, target.paths)
        with target:
            target.recover()
            state = target.state
        if state.work is not None and state.work.token is not None:
            wanted[device_id] = state.work.identity.digest
        elif state.held is not None:
            wanted[device_id] = state.held.digest
    saved: dict[int, _core.Bookmark] = {}

    def columns_of(device_id: int) -> Columns:
        def columns(other: Member | None, size: int) -> tuple[Buffer, Buffer]:
            base = None if other is None else saved[other.identity.device_id]
            return saved[device_id].changes(base, size, size)

        return columns

    with ExitStack() as stack:
        generations, members = [], []
        for device_id in targets:
            generation = stack.enter_context(
                LiveGeneration(live, device_id, purpose=purpose, wanted=wanted.get(device_id, ""))
            )
            generations.append(generation)
            identity = generation.identity
            if identity.external_origin:
                raise UsageError(
                    f"device {device_id} of {live.name} shows an external origin, which is not in "
                    "the pool: migrate it by itself"
                )
            saved[device_id] = generation.mappings._native
            size = size_in(identity.size_bytes, block_bytes)
            members.append(
                Member(
                    replace(identity, size_bytes=size),
                    columns_of(device_id),
                    generation,
                    identity.size_bytes,
                )
            )
        try:
            yield members
        except BaseException:
            for generation, target in zip(generations, targets.values(), strict=True):
                if _is_begun(target, generation.identity.digest):
                    generation.leave_behind()
            raise


def _is_begun(target: Target, digest: str) -> bool:
    """Whether what is there is of this very snapshot, or will be when it is gone on with."""
    state = target.peek()
    work = state.work
    if work is not None and (work.complete or work.token is not None):
        return work.identity.digest == digest
    return state.held is not None and state.held.digest == digest
