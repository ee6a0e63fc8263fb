"""What other backup programs take as a hint about what they need not read.

Of the changes of a :class:`~thinmeta.source.Generation`, or of
:func:`~thinmeta.source.device_changes`::

    with ImageGeneration(pool, 12, size_bytes=10 << 30) as volume:
        out.writelines(borg_map(volume.changes(11), volume.identity))

Each gives text in parts, of any number of ranges with little memory.
"""

from __future__ import annotations

from thinmeta.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Literal

    from thinmeta.identity import Identity
    from thinmeta.source import Changes

    State = Literal["data", "zero", "same"]

__all__ = ["borg_map", "rbd_diff", "with_holes"]

#: Ranges in one part of the text.
PART_RANGES = 4096


def with_holes(changes: Changes, whole: Changes) -> Changes:
    """The same, with all that is not mapped as zeros, and not only what was there in the base.

    Args:
        changes: What differs from the base.
        whole: What differs from nothing, of the same state.
    """
    from thinmeta.source import Changes

    return Changes(changes.base, changes.data._numbers, whole.zero._numbers)


def borg_map(
    changes: Changes, identity: Identity, *, base_bytes: int | None = None
) -> Iterator[str]:
    """The map of ``borg create --map``: what to read, what is zeros, and what is the same.

    A line ``BEGIN LENGTH STATE``, in bytes, for every part of the volume. ``same`` is what it
    was in the base, which is the archive that ``--reuse-from`` names; without a base nothing is.

    Args:
        changes: What differs from the base, or from nothing.
        identity: The volume. Its size has to be known: a map has to cover all of it. If it has an
            external origin, what it does not map shows that, and is ``data``.
        base_bytes: How much of the base the other program has, if that is less than where the
            base's last block ends; what lies past it is ``data``.

    Raises:
        UsageError: The size is not known.
    """
    if not identity.size_is_known:
        raise UsageError("a map for borg covers the whole volume: its size is needed")
    return _parts(_states(changes, identity, base_bytes))


def rbd_diff(
    changes: Changes, identity: Identity, *, base_bytes: int | None = None
) -> Iterator[str]:
    """What ``rbd diff --format json`` prints, for programs that take it as hints.

    A list of ``{"offset": BYTES, "length": BYTES, "exists": "true"}`` for what has to be read, and
    ``"false"`` for what was there in the base and is zeros now. Without a base, what is there.

    Args:
        changes: What differs from the base, or from nothing.
        identity: The volume. If it has an external origin, what it does not map shows that, and
            has to be read.
        base_bytes: As for :func:`borg_map`.
    """
    states = _states(changes, identity, base_bytes)
    exists = {"data": "true"} if changes.base is None else {"data": "true", "zero": "false"}
    comma = ""
    yield "["
    for part in _grouped(each for each in states if each[2] in exists):
        yield comma + ",".join(
            f'{{"offset":{begin},"length":{length},"exists":"{exists[state]}"}}'
            for begin, length, state in part
        )
        comma = ","
    yield "]\n"


def _states(
    changes: Changes, identity: Identity, base_bytes: int | None
) -> Iterator[tuple[int, int, State]]:
    """Ranges that cover all of a volume, each of another state than the one before."""
    size = identity.size_bytes
    # Without a base nothing is the same; there is no rest then, and if there were, it were read.
    has = 0 if changes.base is None else size if base_bytes is None else min(base_bytes, size)
    begin = end = 0
    state: State | None = None
    for first, last, now in _covering(changes, size, has, identity.external_origin):
        if now != state:
            if state is not None:
                yield begin, end - begin, state
            begin, state = first, now
        end = last
    if state is not None:
        yield begin, end - begin, state


def _covering(
    changes: Changes, size: int, has: int, origin: bool
) -> Iterator[tuple[int, int, State]]:
    """The same as begin and end, and perhaps of one state after the other."""
    at = 0
    for first, length, now in _in_order(changes, "data" if origin else "zero"):
        yield from _rest(at, first, has)
        at = first + length
        yield first, at, now
    yield from _rest(at, size, has)


def _rest(begin: int, end: int, has: int) -> Iterator[tuple[int, int, State]]:
    """What has not changed: it is the same as far as the other program has it."""
    if begin < min(end, has):
        yield begin, min(end, has), "same"
    if max(begin, has) < end:
        yield max(begin, has), end, "data"


def _in_order(changes: Changes, hole: State) -> Iterator[tuple[int, int, State]]:
    """What is to be read and what is zeros, as one: no two of them overlap."""
    data, zero = iter(changes.data), iter(changes.zero)
    a, b = next(data, None), next(zero, None)
    while a is not None or b is not None:
        if b is None or (a is not None and a[0] < b[0]):
            assert a is not None
            yield *a, "data"
            a = next(data, None)
        else:
            yield *b, hole
            b = next(zero, None)


def _parts(states: Iterable[tuple[int, int, State]]) -> Iterator[str]:
    for part in _grouped(states):
        yield "".join([f"{begin} {length} {state}\n" for begin, length, state in part])


def _grouped(
    states: Iterable[tuple[int, int, State]],
) -> Iterator[list[tuple[int, int, State]]]:
    from itertools import islice

    rest = iter(states)
    while part := list(islice(rest, PART_RANGES)):
        yield part
