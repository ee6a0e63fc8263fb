"""Volumes of a pool that begin as what other volumes of it are."""

from __future__ import annotations

from array import array
from typing import NamedTuple

from thinmeta._core import Blake3
from thinmeta.errors import AlreadyFormattedError, DeviceInUseError, WrongBaseError
from thinmeta.stream.targets.pool import PoolTarget, evidence_of, free_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from thinmeta.pool import Pool
    from thinmeta.stream.format import Header
    from thinmeta.stream.sidecar import Work
    from thinmeta.stream.targets.base import Begin, Evidence, Gathering
    from thinmeta.transaction import PoolTransaction

__all__ = ["Related", "RelatedTarget"]

_AT_ONCE = 1 << 16


class Related(NamedTuple):
    """Another device of the destination.

    Attributes:
        device_id: Which.
        evidence: How it looked when it was found to hold what it should.
        blocks: Ranges of virtual blocks in which a new device has what this one has.
    """

    device_id: int
    evidence: Evidence
    blocks: Sequence[tuple[int, int]] = ()


class RelatedTarget(PoolTarget):
    """A thin device that shares blocks with others of its pool.

    What comes is what they have not: for the rest of it the temporary device begins as a
    snapshot of one, with what is taken from others mapped over it.

    Args:
        metadata: The pool's metadata.
        data: The pool's data.
        device_id: The thin device, which need not be there yet.
        relative: What it begins as; ``None``: with nothing.
        taken: What is taken from others.
        mark: What is known by this may be gone on with; anything else begins anew.
    """

    def __init__(
        self,
        metadata: str,
        data: str,
        device_id: int,
        *,
        relative: Related | None,
        taken: Sequence[Related],
        mark: str,
    ) -> None:
        super().__init__(metadata, data, device_id)
        self._relative, self._taken = relative, taken
        # So that it takes no more room than what it is made of.
        self._leaves_zeros_out = True
        hasher = Blake3(mark.encode())
        for each in (relative, *taken):
            # Others than those that it was begun with have other contents, or none.
            if each is not None:
                hasher.update(f"{each.device_id} {sorted(each.evidence.items())}".encode())
        self._mark = hasher.digest()[:16].hex()

    def __enter__(self) -> Self:
        super().__enter__()
        work = self.state.work
        if work is not None and work.mark != self._mark and not work.complete:
            work.resumable = False
        return self

    def check(self, header: Header, *, overwrite: bool, resume: bool, force_base: bool) -> None:
        """Refuse what does not fit; nothing has been changed.

        Raises:
            WrongBaseError: It goes on from another place than the last one got to.
            AlreadyFormattedError: There is a volume, and nothing said that it may go.
        """
        # What changes are since is another device here.
        if header.resume_offset_bytes is not None:
            self._check_resume(header, resume=resume)
        elif not overwrite and (what := self._occupied()):
            raise AlreadyFormattedError(self.name, what)

    def _check_unchanged(self, work: Work) -> None:
        """Whatever was there goes, or was seen not to be there."""

    def _new_work(self, header: Header) -> Work:
        work = super()._new_work(header)
        work.mark = self._mark
        # It is made as a snapshot of a snapshot then.
        work.creation_time += bool(self._taken)
        return work

    def _gather(self, work: Work, begin: Begin) -> Gathering:
        if begin == "anew" and self._relative is not None:
            pool = self._open_pool
            if work.device_id in pool.devices:
                reason = f"thin device {work.device_id} was made just now by somebody else"
                raise DeviceInUseError(self._metadata, reason)
            for each in (self._relative, *self._taken):
                self._check_related(pool, each)
            with pool.transaction() as txn:
                origin = self._relative.device_id
                if self._taken:
                    between = free_id({*pool.devices, self._id, work.device_id})
                    txn.create_snapshot(between, origin_id=origin)
                    for each in self._taken:
                        _take(pool, txn, between, each)
                    # All that is mapped twice is older than each device that maps it: by that
                    # whoever writes to one of them knows that there are others.
                    txn.create_snapshot(work.device_id, origin_id=between)
                    txn.delete(between)
                else:
                    txn.create_snapshot(work.device_id, origin_id=origin)
            begin = "resume"
        return super()._gather(work, begin)

    def _check_related(self, pool: Pool, related: Related) -> None:
        if evidence_of(pool, related.device_id) != related.evidence:
            raise WrongBaseError(
                f"device {related.device_id} of {self._metadata}: somebody has changed it since "
                "it was copied, so that nothing can be taken from it: migrate the family once more"
            )


def _take(pool: Pool, txn: PoolTransaction, device_id: int, other: Related) -> None:
    """Map what another device has, where it has something."""
    virtual, data = array("Q"), array("Q")
    runs = pool.devices[other.device_id].runs
    for begin, end in other.blocks:
        txn.remove_range(device_id, begin, end)
        for run in runs(begin, end):
            for at in range(0, run.length_blocks, _AT_ONCE):
                count = min(run.length_blocks - at, _AT_ONCE)
                virtual.extend(range(run.virtual_begin + at, run.virtual_begin + at + count))
                data.extend(range(run.data_begin + at, run.data_begin + at + count))
                if len(virtual) >= _AT_ONCE:
                    txn.insert_many(device_id, virtual, data)
                    virtual, data = array("Q"), array("Q")
    if virtual:
        txn.insert_many(device_id, virtual, data)
