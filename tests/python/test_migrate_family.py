"""Families of devices in another pool: what they share is shared there, and copied once."""

import itertools
import os
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import thinmeta
from checks import AllChecks
from families import Family, assert_same, destination, random_families, used_blocks
from killing import killed_before
from oracles import ThinTools
from stream_places import in_memory
from streams import BLOCK, Source, pattern
from thinmeta.migrating import FamilyReport, migrate_family, plan_family
from thinmeta.migrating.ranges import covering, joined, without
from thinmeta.stream.targets.related import RelatedTarget
from thinmeta.volume import WritableVolume

#: `THINMETA_FAMILIES=200` for more, and every step that somebody may be killed before.
FAMILIES = int(os.environ.get("THINMETA_FAMILIES", "3"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with in_memory(tmp_path_factory) as folder:
        yield folder


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THINMETA_STATE_DIR", str(tmp_path / "state"))


def migrated(source: Family | Source, ids: list[int], copy: Source, **options: Any) -> FamilyReport:
    options.setdefault("threads", 2)
    with thinmeta.open_pool(source.meta, data=source.data) as pool:
        return migrate_family(pool, ids, copy.meta, copy.data, **options)


# ---- what arrives ----


@pytest.mark.parametrize("same_size", [True, False], ids=["same blocks", "other blocks"])
def test_random_families_take_no_more_room_and_read_the_same(
    folder: Path, same_size: bool, thin_tools: ThinTools
) -> None:
    """As many data blocks as there are different ones, but for those with nothing but zeros."""
    here = folder / ("same" if same_size else "other")
    here.mkdir()
    for number, family in enumerate(itertools.islice(random_families(here, 77), FAMILIES)):
        draw = random.Random(number)
        sectors = family.model.data_block_size_sectors
        theirs = sectors if same_size else draw.choice([128, 256, 384, 640])
        if theirs == sectors:
            theirs = sectors if same_size else 2 * sectors
        room = len(family.blocks()) * family.block_bytes
        factor = 1 if same_size else 2 + 2 * theirs // sectors
        copy = destination(family.meta.parent / "copy", theirs, (factor * room) + (4 << 20))
        report = migrated(family, family.ids, copy)
        called = {each: each for each in family.ids}
        assert_same(family, copy, called)
        AllChecks(thin_tools)(copy.meta, newer=number == 0 or FAMILIES > 3)
        used, places = used_blocks(copy), len(family.places(theirs * 512))
        if same_size:
            # Here no data block is mapped at two places, so that they are the source's own.
            assert used == places - len(family.zeros) == len(family.blocks() - family.zeros)
            assert used <= report.copied_bytes // family.block_bytes <= places
        else:
            assert used <= places
        mapped = sum(len(each.mappings) for each in family.model.devices.values())
        told = sum(each.plan.mapped_bytes for each in report.members)
        assert told == mapped * family.block_bytes
        assert_older_than_sharing(copy)


def assert_older_than_sharing(copy: Source) -> None:
    """What two devices map is older than the last snapshot of either, by their details."""
    with copy.open() as pool:
        owners: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for device in pool.devices.values():
            for run in device.runs():
                for block in range(run.data_begin, run.data_begin + run.length_blocks):
                    owners[block].append((run.time, device.snapshotted_time))
    shared = [each for each in owners.values() if len(each) > 1]
    assert shared
    assert all(time < snapshot for each in shared for time, snapshot in each)


def crossed(folder: Path) -> Source:
    """Three devices of which any two have something that the third has not.

    No order of snapshots and changes copies each block once.
    """
    source = Source(folder)
    source.create(1)
    source.write(1, (0, pattern(1, 8 * BLOCK)))
    source.snapshot(2)
    source.snapshot(3)
    source.write(1, (0, pattern(2, BLOCK)), (6 * BLOCK, bytes(BLOCK)))
    source.write(2, (BLOCK, pattern(3, BLOCK)), (7 * BLOCK + 99, b"a few bytes"))
    source.write(3, (2 * BLOCK, pattern(4, BLOCK)))
    source.discard(3, 4 * BLOCK, BLOCK)
    return source


def test_what_only_others_have_is_taken_from_them(folder: Path) -> None:
    source = crossed(folder / "crossed")
    source.create(9)
    source.write(9, (0, pattern(9, 2 * BLOCK)))
    copy = Source(folder / "crossed-copy")
    report = migrated(source, [1, 2, 3, 9], copy, destination_ids={3: 30})
    by_id = {plan.device_id: (plan, done) for plan, done in report.members}
    # The oldest first, and what has nothing in common with the others whole.
    assert report.members[0].plan.device_id == 1
    assert by_id[1][0].relative_id is None and by_id[9][0].relative_id is None
    assert by_id[9][1].copied_bytes == by_id[9][0].mapped_bytes == 2 * BLOCK
    # What was there before the snapshots, and what each has got since; zeros take no room.
    used = 8 + 1 + 2 + 1 + 2
    assert used_blocks(copy) == used
    # The zeros were read, among others.
    assert report.copied_bytes == (used + 1) * BLOCK
    for old, new in {1: 1, 2: 2, 3: 30, 9: 9}.items():
        assert copy.content(new) == source.content(old)
    # And whoever writes to one of them changes that one only.
    for new in (1, 2, 30):
        before = {each: copy.content(each) for each in (1, 2, 30) if each != new}
        copy.write(new, *((block * BLOCK + 7, b"mine") for block in range(8)))
        assert {each: copy.content(each) for each in before} == before


def test_a_data_block_at_two_places_is_copied_to_two(folder: Path) -> None:
    """No kernel makes such a pool; what is shared is what is at one place of two volumes."""
    source = crossed(folder / "places")
    with source.open(mode="r+") as pool, pool.transaction() as txn:
        here = txn.find(1, 3)
        assert here is not None
        txn.insert(1, virtual_block=7, data_block=here.data_block)
        txn.create_snapshot(5, origin_id=1)
    copy = Source(folder / "places-copy")
    report = migrated(source, [1, 5], copy)
    # Eight places of one volume, of which the zeros take no room, and nothing for the other.
    assert used_blocks(copy) == 7
    assert [done.copied_bytes for _, done in report.members] == [8 * BLOCK, 0]
    for each in (1, 5):
        assert copy.content(each) == source.content(each)
        assert (
            copy.content(each)[3 * BLOCK : 4 * BLOCK] == copy.content(each)[7 * BLOCK : 8 * BLOCK]
        )


def test_a_plan_says_what_is_done(folder: Path) -> None:
    source = crossed(folder / "planned")
    copy = Source(folder / "planned-copy")
    before = copy.meta.read_bytes()
    with source.open() as pool:
        plans = plan_family(pool, [3, 1, 2], copy.meta)
    assert copy.meta.read_bytes() == before
    report = migrated(source, [3, 1, 2], copy)
    assert tuple(plans) == tuple(plan for plan, _ in report.members)
    assert sum(plan.copy_bytes for plan in plans) == report.copied_bytes
    assert sum(plan.shared_bytes for plan in plans) == report.shared_bytes > 0


def test_an_empty_device_and_an_empty_pool_arrive(folder: Path) -> None:
    source = Source(folder / "empty")
    source.create(1)
    source.snapshot(2)
    copy = Source(folder / "empty-copy")
    report = migrated(source, [1, 2], copy)
    assert (report.copied_bytes, report.shared_bytes, used_blocks(copy)) == (0, 0, 0)
    with copy.open() as pool:
        assert list(pool.devices) == [1, 2]


# ---- what is refused, and what is there already ----


def test_what_does_not_go_together_is_refused(folder: Path) -> None:
    source = crossed(folder / "refused")
    copy = Source(folder / "refused-copy")
    for ids, options, says in (
        ([], {}, "no device was named"),
        ([1, 1], {}, "named twice"),
        ([1, 2], {"destination_ids": {1: 2}}, "the same id"),
        ([1], {"destination_ids": {2: 3}}, "not one of those"),
    ):
        with pytest.raises(thinmeta.UsageError, match=says):
            migrated(source, ids, copy, **options)
    with pytest.raises(thinmeta.NoSuchDeviceError):
        migrated(source, [1, 77], copy)
    with pytest.raises(thinmeta.UsageError, match="are the same"):
        migrated(source, [1], source, destination_ids={1: 8})
    copy.create(2)
    with pytest.raises(thinmeta.AlreadyFormattedError, match="device 2"):
        migrated(source, [1, 2], copy)
    # Device 1 is there by now, and is not copied again.
    report = migrated(source, [1, 2], copy, overwrite=True)
    assert [done.was_there for _, done in report.members] == [True, False]
    assert copy.content(2) == source.content(2)


def test_what_is_there_is_compared_and_not_copied_again(folder: Path) -> None:
    source = crossed(folder / "again")
    copy = Source(folder / "again-copy")
    migrated(source, [1, 2], copy)
    images = copy.meta.read_bytes(), copy.data.read_bytes()
    report = migrated(source, [1, 2], copy, verify="all")
    assert (copy.meta.read_bytes(), copy.data.read_bytes()) == images
    assert all(done.was_there for _, done in report.members)
    assert report.copied_bytes == 0
    # One more of the family, which has most of the first, comes before the second.
    report = migrated(source, [1, 2, 3], copy)
    assert {plan.device_id: done.was_there for plan, done in report.members} == {
        1: True,
        2: True,
        3: False,
    }
    assert copy.content(3) == source.content(3)
    # What somebody has written to is not taken for what it was.
    copy.write(1, (0, b"mine"))
    with pytest.raises(thinmeta.AlreadyFormattedError, match="device 1"):
        migrated(source, [1, 2, 3], copy)


def test_nothing_is_taken_from_what_was_changed_just_then(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = crossed(folder / "then")
    copy = Source(folder / "then-copy")
    enter, entered = RelatedTarget.__enter__, 0

    def meddling(self: RelatedTarget) -> RelatedTarget:
        nonlocal entered
        entered += 1
        if entered == 3:
            copy.write(1, (3 * BLOCK, b"mine"))
        return enter(self)

    monkeypatch.setattr(RelatedTarget, "__enter__", meddling)
    with pytest.raises(thinmeta.WrongBaseError, match=r"device 1 of .* changed it since"):
        migrated(source, [1, 2, 3], copy)
    assert copy.content(3) == source.content(3)
    with copy.open() as pool:
        assert list(pool.devices) == [1, 3]


def test_what_was_written_wrongly_does_not_take_effect(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = crossed(folder / "wrong")
    copy = Source(folder / "wrong-copy")
    migrated(source, [1], copy)
    write = WritableVolume.write

    def wrong(self: WritableVolume, content: Any) -> int:
        changed = bytearray(content)
        changed[5] ^= 1
        return write(self, changed)

    with monkeypatch.context() as patch:
        patch.setattr(WritableVolume, "write", wrong)
        with pytest.raises(thinmeta.VerificationError):
            migrated(source, [1, 2, 3], copy)
    with copy.open() as pool:
        assert list(pool.devices) == [1]
    migrated(source, [1, 2, 3], copy, verify="all")
    assert [copy.content(each) for each in (1, 2, 3)] == [source.content(i) for i in (1, 2, 3)]


# ---- who is killed ----


def test_one_that_is_killed_before_any_step_goes_on(folder: Path) -> None:
    """In the end it is as if nothing had happened: no block is copied twice."""
    source = crossed(folder / "killed")
    source.snapshot(4, 2)
    source.write(2, (5 * BLOCK, pattern(5, 2 * BLOCK)))
    ids = [1, 2, 3, 4]
    whole = Source(folder / "killed-whole")
    migrated(source, ids, whole)
    images = source.meta.read_bytes(), source.data.read_bytes()
    step, resumed, there = 0, 0, 0
    while True:
        here = folder / "killed-copy"
        if here.exists():
            for file in here.iterdir():
                file.unlink()
        copy = Source(here)

        def work(copy: Source = copy) -> None:
            migrated(source, ids, copy, threads=1, checkpoint_bytes=1)

        if not killed_before(step, work):
            break
        step += 1 if FAMILIES > 3 else random.Random(step).randrange(3, 8)
        # What is there is whole.
        with copy.open() as pool:
            present = [each for each in pool.devices if each < 10]
        for each in present:
            assert copy.content(each) == source.content(each)
        report = migrated(source, ids, copy, checkpoint_bytes=1)
        there += sum(done.was_there for _, done in report.members) > 0
        resumed += any(done.resumed_at_bytes is not None for _, done in report.members)
        assert [copy.content(each) for each in ids] == [source.content(each) for each in ids]
        with copy.open() as pool:
            assert list(pool.devices) == ids
        assert used_blocks(copy) == used_blocks(whole)
    assert step > 60 and there > 3 and resumed > 0
    assert (source.meta.read_bytes(), source.data.read_bytes()) == images


def test_one_that_is_killed_does_not_go_on_with_another_family(folder: Path) -> None:
    """What was gathered began with what others had then; with others it is begun anew."""
    source = crossed(folder / "others")
    source.write(3, (3 * BLOCK, pattern(6, 3 * BLOCK)))
    source.snapshot(4, 3)
    step, seen = 0, 0
    while True:
        here = folder / "others-copy"
        if here.exists():
            for file in here.iterdir():
                file.unlink()
        copy = Source(here)

        def work(copy: Source = copy) -> None:
            migrated(source, [1, 2, 4], copy, threads=1, checkpoint_bytes=1)

        if not killed_before(step, work):
            break
        step += 1 if FAMILIES > 3 else 6
        with copy.open() as pool:
            seen += 2 in pool.devices and 4 not in pool.devices
            ids = [1, 4] if 2 in pool.devices else [1, 2, 4]
        migrated(source, ids, copy, checkpoint_bytes=1)
        for each in ids:
            assert copy.content(each) == source.content(each)
    assert seen > 0


# ---- arithmetic ----


def test_ranges_are_what_sets_of_numbers_say() -> None:
    draw = random.Random(5)
    for _ in range(300):
        sides = []
        for _ in range(2):
            numbers = {draw.randrange(60) for _ in range(draw.randrange(50))}
            sides.append((numbers, joined((each, each + 1) for each in sorted(numbers))))
        (mine, left), (theirs, right) = sides
        rest = list(without(left, right))
        assert {each for begin, end in rest for each in range(begin, end)} == mine - theirs
        assert all(begin < end for begin, end in rest)
        block = draw.randrange(1, 7)
        covered = covering([(begin, end - begin) for begin, end in left], block)
        assert {each for begin, end in covered for each in range(begin, end)} == {
            each // block for each in mine
        }
        assert all(one[1] < two[0] for one, two in itertools.pairwise(covered))
