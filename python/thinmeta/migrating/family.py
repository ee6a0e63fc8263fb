"""Migration of devices that share blocks, to a pool where they share them again."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from thinmeta.errors import UsageError
from thinmeta.migrating.apart import check_apart
from thinmeta.migrating.copying import CHECKPOINT_BYTES
from thinmeta.migrating.members import image_members, looked_at
from thinmeta.migrating.relatives import order_of, plan_member
from thinmeta.migrating.work import BUFFER_BYTES, migrate
from thinmeta.pool import Pool, open_pool
from thinmeta.stream.targets.pool import PoolTarget
from thinmeta.stream.targets.related import Related, RelatedTarget
from thinmeta.types import SECTOR_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from thinmeta.live import LivePool
    from thinmeta.migrating.members import Member
    from thinmeta.migrating.relatives import Plan
    from thinmeta.migrating.report import MigrationReport, Verify
    from thinmeta.pool import Path
    from thinmeta.source import Changes

__all__ = ["FamilyReport", "MemberPlan", "MemberReport", "migrate_family", "plan_family"]


class MemberPlan(NamedTuple):
    """What would be done for a device.

    Attributes:
        device_id: Its id in the source.
        destination_id: Its id in the destination.
        relative_id: Of which device, by its id in the source, it begins as a snapshot;
            ``None``: of none, it is copied whole.
        mapped_bytes: All that it maps.
        copy_bytes: What has to be copied, as no device before it has it.
        shared_bytes: What devices before it have: the rest.
        zero_bytes: What would be unmapped.
    """

    device_id: int
    destination_id: int
    relative_id: int | None
    mapped_bytes: int
    copy_bytes: int
    shared_bytes: int
    zero_bytes: int


class MemberReport(NamedTuple):
    """What was done for a device.

    Attributes:
        plan: What it is, and what it shares.
        migration: What was copied and compared.
    """

    plan: MemberPlan
    migration: MigrationReport


class FamilyReport(NamedTuple):
    """What was migrated.

    Attributes:
        members: The devices, in the order in which they were copied.
    """

    members: tuple[MemberReport, ...]

    @property
    def copied_bytes(self) -> int:
        """Content that was brought, of all of them."""
        return sum(each.migration.copied_bytes for each in self.members)

    @property
    def shared_bytes(self) -> int:
        """What was there already when a device got it, of all of them."""
        return sum(each.plan.shared_bytes for each in self.members)


def plan_family(
    pool: Pool | LivePool,
    device_ids: Iterable[int],
    metadata: Path,
    *,
    destination_ids: Mapping[int, int] | None = None,
) -> list[MemberPlan]:
    """Find out what :func:`migrate_family` would do; no content is read, and nothing written.

    Args:
        pool: As there; of a live pool its metadata are looked at as of this moment, and no
            snapshot is made.
        device_ids: As there.
        metadata: As there.
        destination_ids: As there.

    Raises:
        NoSuchDeviceError: The pool has no such device.
        UsageError: A device comes twice, or two of them would get the same id.
        DamagedBlockError: A block of the metadata failed its check.
        OSError: Something cannot be read.
    """
    family = _Family(device_ids, metadata, destination_ids)
    with ExitStack() as stack:
        if not isinstance(pool, Pool):
            from thinmeta.live.fresh import FreshMetadata

            pool = stack.enter_context(FreshMetadata(pool))
        members = looked_at(pool, family.device_ids, family.block_bytes)
        return [family.describe(members, plan) for plan in _plans(members, family.block_bytes)]


def migrate_family(
    pool: Pool | LivePool,
    device_ids: Iterable[int],
    metadata: Path,
    data: Path,
    *,
    destination_ids: Mapping[int, int] | None = None,
    overwrite: bool = False,
    verify: Verify = "copied",
    threads: int | None = None,
    buffer_bytes: int = BUFFER_BYTES,
    checkpoint_bytes: int = CHECKPOINT_BYTES,
    progress: Callable[[int, int], object] | None = None,
) -> FamilyReport:
    """Copy devices to another pool, where they share what they share here.

    Each begins as a snapshot of its best relative that is there already, is given what others
    of them have, and only what none has is copied: so a block of data is copied once, however
    many devices map it, as long as they do so at the same place. With data blocks of another
    size than the source's those of the destination are shared that are the same as a whole.

    Every device takes effect by itself, when it is complete and proven. Called again after
    whatever has ended it early, it goes on: what is there already is compared and not copied
    again.

    Args:
        pool: Opened with ``data=``; nobody may change it meanwhile. Or a live pool: then a
            snapshot of each volume is made and read, and goes in the end; after an error it
            stays for the next call.
        device_ids: Which.
        metadata: The other pool's metadata, which nobody uses.
        data: Its data.
        destination_ids: What a device is to be called there, where that is something else.
        overwrite: Devices of these ids may be there, and go.
        verify: How much of each is read back and compared: what was copied for it, all of it,
            or nothing. What it shares was compared with the device that it was copied for.
        threads: How many read and hash; ``None`` means the cores, at most 8.
        buffer_bytes: How much content is in memory at most, about.
        checkpoint_bytes: How much is copied again at most after it was interrupted.
        progress: Called now and then as ``progress(done, total)``, in bytes of content.

    Raises:
        NoSuchDeviceError: The pool has no such device.
        UsageError: A device comes twice; two of them would get the same id; the pools are one.
        AlreadyFormattedError: There is a device of such an id, and ``overwrite`` was not set.
        VerificationError: What was copied does not read as the source does. The device is
            what it was, or not there.
        WrongBaseError: Somebody has changed a device of the destination in between.
        DeviceInUseError: Somebody uses the destination.
        NoSpaceError: It is full.
        DamagedBlockError: A block of the metadata failed its check.
        OSError: Something cannot be read or written.
    """
    family = _Family(device_ids, metadata, destination_ids)
    destination = os.fsdecode(metadata), os.fsdecode(data)
    reports: list[MemberReport] = []
    done: dict[int, Related] = {}
    with family.members(pool, *destination) as members:
        plans = _plans(members, family.block_bytes)
        show = _Shower(plans, verify, progress)
        for plan in plans:
            member, place = members[plan.place.member], plan.place
            described = family.describe(members, plan)
            target = RelatedTarget(
                *destination,
                described.destination_id,
                relative=None if place.relative is None else done[place.relative],
                taken=[done[each.member]._replace(blocks=each.blocks) for each in plan.taken],
                mark=plan.mark,
            )
            member.plan = plan
            report = migrate(
                member,
                target,
                base=described.relative_id,
                overwrite=overwrite,
                verify=verify,
                threads=threads,
                buffer_bytes=buffer_bytes,
                checkpoint_bytes=checkpoint_bytes,
                progress=show.member,
            )
            show.end(plan)
            reports.append(MemberReport(described, report))
            done[place.member] = Related(described.destination_id, target.state.evidence)
    return FamilyReport(tuple(reports))


class _Family:
    """Who is copied, and to what."""

    def __init__(
        self,
        device_ids: Iterable[int],
        metadata: Path,
        destination_ids: Mapping[int, int] | None,
    ) -> None:
        self.device_ids = list(device_ids)
        if not self.device_ids:
            raise UsageError("no device was named")
        for device_id in self.device_ids:
            if self.device_ids.count(device_id) > 1:
                raise UsageError(f"device {device_id} is named twice")
        called = destination_ids or {}
        if foreign := called.keys() - set(self.device_ids):
            raise UsageError(f"device {min(foreign)} is not one of those that are copied")
        self._called = {each: called.get(each, each) for each in self.device_ids}
        if len(set(self._called.values())) < len(self._called):
            raise UsageError("two devices would get the same id in the destination")
        with open_pool(metadata) as pool:
            self.block_bytes = pool.superblock.data_block_size_bytes

    @contextmanager
    def members(
        self, pool: Pool | LivePool, metadata: str, data: str
    ) -> Iterator[Sequence[Member]]:
        """Open them to be read."""
        if isinstance(pool, Pool):
            check_apart([pool.path], (metadata, data))
            with image_members(pool, self.device_ids, self.block_bytes) as members:
                yield members
            return
        from thinmeta.migrating.live_members import live_members

        purpose = " ".join(("migrate", *map(os.path.realpath, (metadata, data))))
        targets = {old: PoolTarget(metadata, data, new) for old, new in self._called.items()}
        with live_members(pool, targets, self.block_bytes, purpose=purpose) as members:
            yield members

    def describe(self, members: Sequence[Member], plan: Plan) -> MemberPlan:
        place = plan.place
        device_id = members[place.member].identity.device_id
        relative = None if place.relative is None else members[place.relative].identity.device_id
        return MemberPlan(
            device_id,
            self._called[device_id],
            relative,
            plan.mapped_bytes,
            plan.changes.data_bytes,
            plan.shared_bytes,
            plan.changes.zero_bytes,
        )


def _plans(members: Sequence[Member], block_bytes: int) -> list[Plan]:
    def since(member: int, other: int | None) -> Changes:
        return members[member].since(None if other is None else members[other])

    blocks = {each.identity.data_block_size_sectors * SECTOR_BYTES for each in members}
    same_blocks = blocks == {block_bytes}
    ages = [(each.identity.creation_time, each.identity.device_id) for each in members]
    return [
        plan_member(place, since, block_bytes, same_blocks=same_blocks)
        for place in order_of(ages, since)
    ]


class _Shower:
    """Counts how much of all was done, and tells it."""

    def __init__(
        self,
        plans: Sequence[Plan],
        verify: Verify,
        progress: Callable[[int, int], object] | None,
    ) -> None:
        self._passes = 1 if verify == "nothing" else 2
        self._total = self._passes * sum(each.changes.data_bytes for each in plans)
        self._done = 0
        self._progress = progress

    def member(self, done: int, total: int) -> None:
        """So much of a device is done."""
        if self._progress is not None:
            self._progress(min(self._done + done, self._total), self._total)

    def end(self, plan: Plan) -> None:
        """A device is done."""
        self._done += self._passes * plan.changes.data_bytes
        self.member(0, 0)
