"""In which order the devices of a family are copied, and what each takes from those before it.

Two devices share a block where they map the same virtual block to the same data block. Each is
made as a snapshot of its best relative, and what that has not is looked for in all others that
are there already. So whatever two devices share is copied once, in whichever order: the order is
for the metadata, as a snapshot shares the nodes of its origin, too.
"""

from __future__ import annotations

from typing import NamedTuple

from thinmeta._core import Blake3
from thinmeta.migrating.ranges import covering, joined, without
from thinmeta.source import Changes, Ranges

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from thinmeta.migrating.ranges import Range

    Since = Callable[[int, "int | None"], Changes]

__all__ = ["Place", "Plan", "Taken", "order_of", "plan_member"]


class Place(NamedTuple):
    """A device's place in the order.

    Attributes:
        member: Which, by its number in the family.
        relative: What it begins as a snapshot of; ``None``: with nothing.
        others: Who before it has something of it as well, those with the most first.
    """

    member: int
    relative: int | None
    others: tuple[int, ...]


class Taken(NamedTuple):
    """What is mapped to the blocks that another device has, in blocks of the destination."""

    member: int
    blocks: tuple[Range, ...]


class Plan(NamedTuple):
    """What is done for one device.

    Attributes:
        place: Where in the order.
        changes: What is copied and made zero.
        taken: What is taken from others than the relative.
        mapped_bytes: All that the device maps.
        mark: By this a plan is known again.
    """

    place: Place
    changes: Changes
    taken: tuple[Taken, ...]
    mapped_bytes: int
    mark: str

    @property
    def shared_bytes(self) -> int:
        """What of it is in the destination before it."""
        return self.mapped_bytes - self.changes.data_bytes


def order_of(ages: Sequence[tuple[int, int]], since: Since) -> list[Place]:
    """The oldest first, and then whichever has the least to be copied.

    Args:
        ages: When each device was made, and its id.
        since: The changes of one member since another, or since nothing.
    """
    mapped = [since(each, None).data_bytes for each in range(len(ages))]
    shared: dict[tuple[int, int], int] = {}
    for one in range(len(ages)):
        for other in range(one):
            common = mapped[one] - since(one, other).data_bytes if mapped[other] else 0
            shared[one, other] = shared[other, one] = common
    left = sorted(range(len(ages)), key=lambda each: ages[each])
    #: For whoever is left: the best that is done, with what has to be copied and unmapped.
    best: dict[int, tuple[int, int, int]] = {}
    places: list[Place] = []
    while left:
        related = [each for each in left if each in best]
        member = min(related, key=lambda each: best[each][:2], default=left[0])
        relative = best[member][2] if member in best else None
        others = sorted(
            (each.member for each in places if shared[member, each.member]),
            key=lambda other: -shared[member, other],
        )
        places.append(Place(member, relative, tuple(each for each in others if each != relative)))
        left.remove(member)
        for each in left:
            if common := shared[each, member]:
                found = mapped[each] - common, mapped[member] - common, member
                # Of equals the first one counts.
                if each not in best or found[:2] < best[each][:2]:
                    best[each] = found
    return places


def plan_member(place: Place, since: Since, block_bytes: int, *, same_blocks: bool) -> Plan:
    """What has to be copied of a device, and what others have.

    Args:
        place: Its place in the order.
        since: As for :func:`order_of`.
        block_bytes: Size of a data block of the destination; only whole ones are shared.
        same_blocks: Whether the source's have that size.
    """
    whole = since(place.member, None)
    changes = whole
    if place.relative is not None:
        changes = since(place.member, place.relative)
        if not same_blocks:
            changes = _emptied(changes, whole, block_bytes)
    taken = []
    # There may be a range for each block: nothing is made of them that nobody needs.
    wanted = covering(changes.data, block_bytes) if place.others else []
    for other in place.others:
        if not wanted:
            break
        differs = since(place.member, other)
        touched = joined(
            sorted([*covering(differs.data, block_bytes), *covering(differs.zero, block_bytes)])
        )
        if found := tuple(without(wanted, touched)):
            taken.append(Taken(other, found))
            wanted = list(without(wanted, found))
    if taken:
        changes = _left(changes, taken, block_bytes)
    hasher = Blake3(block_bytes.to_bytes(8, "little"))
    for part in (changes.data, changes.zero):
        hasher.update(len(part).to_bytes(8, "little"))
        hasher.update(part._numbers)
    return Plan(place, changes, tuple(taken), whole.data_bytes, hasher.digest()[:16].hex())


def _emptied(changes: Changes, whole: Changes, block_bytes: int) -> Changes:
    """The changes, where blocks of which nothing is mapped any more become holes as a whole."""
    mapped = covering(whole.data, block_bytes)
    empty = list(without(covering(changes.zero, block_bytes), mapped))
    zero = [(begin, begin + length) for begin, length in changes.zero]
    zero += [(begin * block_bytes, end * block_bytes) for begin, end in empty]
    ranges = Ranges.of((begin, end - begin) for begin, end in joined(sorted(zero)))
    return Changes(changes.base, changes.data._numbers, ranges._numbers)


def _left(changes: Changes, taken: list[Taken], block_bytes: int) -> Changes:
    """The changes, without blocks that are taken from others."""
    blocks = joined(sorted(each for one in taken for each in one.blocks))
    gone = [(begin * block_bytes, end * block_bytes) for begin, end in blocks]

    def rest(ranges: Ranges) -> Ranges:
        kept = without(((begin, begin + length) for begin, length in ranges), gone)
        return Ranges.of((begin, end - begin) for begin, end in kept)

    data, zero = rest(changes.data), rest(changes.zero)
    return Changes(changes.base, data._numbers, zero._numbers)
