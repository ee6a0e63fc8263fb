"""Migration: what arrives, what is proven of it, and what is refused."""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import thinmeta
from killing import killed_before
from loops import loop_device
from stream_places import FilePlace, Place, PoolPlace, in_memory
from streams import BLOCK, SIZE, Source, monday_and_tuesday, pattern
from thinmeta.bookmark import Bookmark
from thinmeta.migrating import MigrationReport, migrate
from thinmeta.migrating.apart import check_apart
from thinmeta.stream import DeviceTarget, FileTarget, PoolTarget, Target
from thinmeta.stream.targets.media import FileMedium, Medium
from thinmeta.volume import WritableVolume

KINDS = [FilePlace, PoolPlace]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with in_memory(tmp_path_factory) as folder:
        yield folder


@pytest.fixture(scope="module")
def source(folder: Path) -> Source:
    return monday_and_tuesday(folder / "source")


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THINMETA_STATE_DIR", str(tmp_path / "state"))


def migrated(source: Source, device_id: int, target: Target, **options: Any) -> MigrationReport:
    opening = {key: options.pop(key) for key in ("external_origin",) if key in options}
    options.setdefault("threads", 2)
    with source.generation(device_id, **opening) as generation:
        return migrate(generation, target, **options)


# ---- what arrives ----


@pytest.mark.parametrize("kind", KINDS)
def test_a_volume_arrives_and_then_what_changed_in_it(
    source: Source, folder: Path, kind: Callable[..., Place]
) -> None:
    place = kind(folder / "target", None)
    whole = migrated(source, 2, place.target())
    assert place.content() == source.content(2)
    # Blocks 0, 2, 3, 5 and the end are mapped; everything is proven, zeros as well.
    assert whole.copied_bytes == 4 * BLOCK + 5000
    assert (whole.verified_bytes, whole.verified_zero_bytes) == (4 * BLOCK + 5000, 4 * BLOCK)
    assert whole.copied_bytes + whole.zeroed_bytes == SIZE
    changes = migrated(source, 3, place.target(), base=2)
    assert place.content() == source.content(3)
    # Block 2 was written, 6 is new, 0 was unmapped.
    assert (changes.copied_bytes, changes.zeroed_bytes) == (2 * BLOCK, BLOCK)
    assert (changes.verified_bytes, changes.verified_zero_bytes) == (2 * BLOCK, BLOCK)
    assert changes.base is not None and changes.base.digest == whole.identity.digest
    assert place.leftovers() == []


def test_what_is_not_mapped_any_more_is_unmapped_or_a_hole(source: Source, folder: Path) -> None:
    file, pool = FilePlace(folder / "file", None), PoolPlace(folder / "pool", None)
    for place in (file, pool):
        migrated(source, 2, place.target())
        migrated(source, 3, place.target(), base=2)
    path = folder / "file" / "copy.img"
    with path.open("rb") as opened:
        assert os.lseek(opened.fileno(), 0, os.SEEK_DATA) == 2 * BLOCK
    with pool.pool.open() as opened_pool:
        # Blocks of three of the source's: the first has nothing but block 2.
        before = opened_pool.devices[5].find(0)
        assert before is not None
        assert opened_pool.devices[5].mapped_blocks == 3
    with thinmeta.open_pool(pool.pool.meta) as checked:
        assert thinmeta.check(checked).is_clean


def test_mapped_zeros_take_no_room_in_the_destination(tmp_path: Path) -> None:
    source = Source(tmp_path / "source")
    source.create(1)
    source.write(1, (0, bytes(4 * BLOCK)), (5 * BLOCK, pattern(1, BLOCK)))
    pool = Source(tmp_path / "pool")
    report = migrated(source, 1, PoolTarget(str(pool.meta), str(pool.data), 9))
    assert report.copied_bytes == BLOCK
    with pool.open() as opened:
        assert opened.devices[9].mapped_blocks == 1
    assert pool.content(9) == source.content(1)


def test_a_device_gets_zeros_and_keeps_what_lies_behind(source: Source, tmp_path: Path) -> None:
    backing = tmp_path / "backing"
    old = random.Random(3).randbytes(SIZE + 3 * BLOCK)
    backing.write_bytes(old[: len(old) // 4096 * 4096])
    with loop_device(backing) as device:
        target = DeviceTarget(str(device))
        with pytest.raises(thinmeta.AlreadyFormattedError, match="something is on it"):
            migrated(source, 2, target)
        report = migrated(source, 2, target, overwrite=True)
        assert report.past_cache
        # Nothing but reading tells that a device holds zeros.
        assert report.verified_zero_bytes == 4 * BLOCK
        assert device.read_bytes()[:SIZE] == source.content(2)
        changes = migrated(source, 3, target, base=2, verify="all")
        assert device.read_bytes()[:SIZE] == source.content(3)
        assert changes.verified_bytes + changes.verified_zero_bytes == SIZE
        assert device.read_bytes()[SIZE:] == old[SIZE : len(old) // 4096 * 4096]


def test_a_read_only_device_is_refused_before_anything_is_noted(
    source: Source, tmp_path: Path
) -> None:
    backing = tmp_path / "backing"
    backing.write_bytes(bytes(SIZE + BLOCK))
    with loop_device(backing, read_only=True) as device:
        with pytest.raises(thinmeta.ReadOnlyError, match="read-only device"):
            migrated(source, 2, DeviceTarget(str(device)))
    assert not [*tmp_path.glob("state/*")]
    assert backing.read_bytes() == bytes(SIZE + BLOCK)


def test_a_base_may_be_a_bookmark(source: Source, folder: Path, tmp_path: Path) -> None:
    with source.generation(2) as generation:
        saved = generation.save_bookmark(str(tmp_path / "monday"))
    assert saved is not None
    place = FilePlace(folder / "target", None)
    migrated(source, 2, place.target())
    migrated(source, 3, place.target(), base=Bookmark.open(tmp_path / "monday"))
    assert place.content() == source.content(3)


def test_what_shows_through_is_copied_and_stays_what_it_was(tmp_path: Path) -> None:
    source = Source(tmp_path / "source")
    origin = tmp_path / "origin"
    origin.write_bytes(pattern(9, 6 * BLOCK))
    source.create(1)
    source.write(1, (BLOCK, pattern(1, BLOCK)), (4 * BLOCK, bytes(BLOCK)))
    source.snapshot(2)
    source.write(1, (2 * BLOCK, pattern(2, BLOCK)))
    source.discard(1, BLOCK, BLOCK)
    source.snapshot(3)
    target = FileTarget(str(tmp_path / "copy"))
    report = migrated(source, 2, target, external_origin=origin)
    assert (tmp_path / "copy").read_bytes() == source.content(2, external_origin=origin)
    # All but block 4, whose zeros are mapped.
    assert (report.copied_bytes, report.zeroed_bytes) == (SIZE - BLOCK, BLOCK)
    # Block 1 shows the origin once more.
    report = migrated(source, 3, target, external_origin=origin, base=2)
    assert (tmp_path / "copy").read_bytes() == source.content(3, external_origin=origin)
    # And what lies past the base's last block, as nobody knows how large that was.
    assert report.copied_bytes == 2 * BLOCK + SIZE - 5 * BLOCK


@pytest.mark.parametrize("seed", range(6))
def test_random_histories_arrive_in_files_and_in_pools_of_other_blocks(
    folder: Path, seed: int
) -> None:
    draw = random.Random(seed)
    source = Source(folder / f"source-{seed}", sectors=draw.choice([128, 256]))
    source.size = draw.randrange(1, 60 * BLOCK, 512)
    source.create(1)
    file = FilePlace(folder / f"file-{seed}", None)
    pool = PoolPlace(folder / f"pool-{seed}", None)
    pool.pool.size = source.size  # a pool does not know how large a volume is
    for generation in range(2, 7):
        for _ in range(draw.randrange(6)):
            begin = draw.randrange(0, source.size, 512)
            length = min(draw.choice([512, 5000, BLOCK, 9 * BLOCK]), source.size - begin)
            if draw.random() < 0.4:
                source.discard(1, begin, length)
            else:
                zeros = draw.random() < 0.2
                source.write(1, (begin, bytes(length) if zeros else draw.randbytes(length)))
        source.snapshot(generation)
        after = source.content(generation)
        for place in (file, pool):
            report = migrated(
                source,
                generation,
                place.target(),
                base=None if generation == 2 else generation - 1,
                verify=draw.choice(["copied", "all"]),
                buffer_bytes=draw.choice([0, 1 << 20, 16 << 20]),
            )
            assert place.content() == after
            assert report.identity.device_id == generation
            assert place.leftovers() == []


# ---- what is proven ----


def spoil(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *, change: bool = True) -> None:
    """Let the third write go wrong, and nobody say so: a bit is another one, or it is lost."""
    write, calls = getattr(owner, name), 0

    def wrong(self: Any, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != 3:
            return write(self, *arguments)
        content = bytearray(arguments[-1])
        if not change:
            return len(content)
        content[-1] ^= 16
        return write(self, *arguments[:-1], memoryview(content))

    monkeypatch.setattr(owner, name, wrong)


@pytest.mark.parametrize("change", [True, False], ids=["another bit", "nothing"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_not_written_as_it_should_be_never_takes_effect(
    source: Source,
    folder: Path,
    kind: Callable[..., Place],
    change: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = kind(folder / "target", source.send(2))
    with monkeypatch.context() as patch:
        owner: Any = FileMedium if kind is FilePlace else WritableVolume
        spoil(patch, owner, "write", change=change)
        with pytest.raises(thinmeta.VerificationError, match="as the source does") as caught:
            migrated(source, 3, place.target(), overwrite=True)
    # The third piece is the last block; a bit is another one there, or all of it is missing.
    first = SIZE - 1 if change else SIZE - 3000
    assert caught.value.offset_bytes == first
    assert place.content() == source.content(2)
    assert place.leftovers() == []
    assert "is complete at device 2" in caught.value.__notes__[0]
    migrated(source, 3, place.target(), base=2)
    assert place.content() == source.content(3)


def test_changes_that_were_applied_wrongly_are_no_base_of_others(
    source: Source, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = FilePlace(folder / "target", source.send(2))

    def forgetful(self: Medium, offset_bytes: int, length_bytes: int) -> None:
        """Leave what is there, as a device does whose firmware is bad at this."""

    with monkeypatch.context() as patch:
        patch.setattr(FileMedium, "zero", forgetful)
        with pytest.raises(thinmeta.VerificationError, match="as zeros") as caught:
            migrated(source, 3, place.target(), base=2)
    assert caught.value.offset_bytes == 0
    assert place.target().peek().held is None
    with pytest.raises(thinmeta.WrongBaseError, match="nothing says what it holds"):
        migrated(source, 3, place.target(), base=2)
    migrated(source, 3, place.target(), overwrite=True)
    assert place.content() == source.content(3)


def test_without_a_proof_a_wrong_write_stays_unnoticed(
    source: Source, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above can fail: this is what it would be like."""
    place = FilePlace(folder / "target", None)
    spoil(monkeypatch, FileMedium, "write")
    report = migrated(source, 3, place.target(), verify="nothing")
    assert (report.verified_bytes, report.verified_zero_bytes) == (0, 0)
    content = place.content()
    assert content is not None
    pairs = enumerate(zip(content, source.content(3), strict=True))
    wrong = [at for at, (mine, theirs) in pairs if mine != theirs]
    assert wrong == [SIZE - 1]


def test_it_is_the_disk_that_is_read_back_and_not_the_cache(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backing = tmp_path / "backing"
    backing.write_bytes(bytes(1 << 20))
    sync = Medium.sync

    def failing(self: Medium) -> None:
        """The disk loses a sector when all was flushed; the cache does not notice."""
        sync(self)
        with backing.open("r+b") as disk:
            disk.seek(2 * BLOCK)
            disk.write(bytes(512))
            disk.flush()
            os.fsync(disk.fileno())

    # While somebody has it open, its cache stays.
    with loop_device(backing) as device, device.open("rb"):
        with monkeypatch.context() as patch:
            patch.setattr(Medium, "sync", failing)
            with pytest.raises(thinmeta.VerificationError) as caught:
                migrated(source, 2, DeviceTarget(str(device)))
        assert caught.value.offset_bytes == 2 * BLOCK
        # Through the cache it looks well.
        assert device.read_bytes()[:SIZE] == source.content(2)
        migrated(source, 2, DeviceTarget(str(device)))
    assert backing.read_bytes()[:SIZE] == source.content(2)


def test_a_destination_that_differs_from_the_base_elsewhere_is_found_by_comparing_all(
    source: Source, folder: Path
) -> None:
    """Changed, and its times put back: what says that it was changed does not notice."""
    path = folder / "target" / "copy.img"
    for verify, found in (("copied", False), ("all", True)):
        place = FilePlace(folder / "target", source.send(2))
        times = path.stat()
        with path.open("r+b") as file:
            file.seek(3 * BLOCK + 10)
            file.write(b"mine")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        if not found:
            migrated(source, 3, place.target(), base=2, verify=verify)
            continue
        with pytest.raises(thinmeta.VerificationError) as caught:
            migrated(source, 3, place.target(), base=2, verify=verify)
        assert caught.value.offset_bytes == 3 * BLOCK + 10
        assert place.target().peek().held is None


def test_a_destination_that_was_changed_since_is_no_base(source: Source, folder: Path) -> None:
    for kind in KINDS:
        place = kind(folder / "target", source.send(2))
        if isinstance(place, PoolPlace):
            place.pool.write(5, (3 * BLOCK, b"mine"))
        else:
            with (folder / "target" / "copy.img").open("r+b") as file:
                file.seek(3 * BLOCK)
                file.write(b"mine")
        with pytest.raises(thinmeta.WrongBaseError, match="was changed since"):
            migrated(source, 3, place.target(), base=2)
        with pytest.raises(thinmeta.VerificationError) as caught:
            migrated(source, 3, place.target(), base=2, force_base=True, verify="all")
        assert caught.value.offset_bytes == 3 * BLOCK
        migrated(source, 3, place.target(), overwrite=True)
        assert place.content() == source.content(3)


def test_a_base_that_nobody_knows_of_may_be_believed_and_is_then_proven(
    source: Source, tmp_path: Path
) -> None:
    path = tmp_path / "copy"
    path.write_bytes(source.content(2))
    with pytest.raises(thinmeta.WrongBaseError, match="nothing says what it holds"):
        migrated(source, 3, FileTarget(str(path)), base=2)
    migrated(source, 3, FileTarget(str(path)), base=2, force_base=True, verify="all")
    assert path.read_bytes() == source.content(3)
    wrong = tmp_path / "wrong"
    wrong.write_bytes(bytes(SIZE))
    with pytest.raises(thinmeta.VerificationError):
        migrated(source, 3, FileTarget(str(wrong)), base=2, force_base=True, verify="all")
    with pytest.raises(thinmeta.WrongBaseError, match="was written since"):
        migrated(source, 3, FileTarget(str(path)), base=1)
    with pytest.raises(thinmeta.WrongBaseError, match="not in the pool"):
        migrated(source, 3, FileTarget(str(path)), base=77)


# ---- what is refused ----


def test_a_device_that_is_too_small_is_refused(source: Source, tmp_path: Path) -> None:
    backing = tmp_path / "backing"
    backing.write_bytes(bytes(8 * BLOCK))
    with loop_device(backing) as device:
        with pytest.raises(OSError, match="a larger device is needed; nothing written") as caught:
            migrated(source, 2, DeviceTarget(str(device)))
        assert caught.value.filename == str(device)
    assert backing.read_bytes() == bytes(8 * BLOCK)


def test_a_pool_that_is_full_is_what_it_was(source: Source, tmp_path: Path) -> None:
    small = Source(tmp_path / "small", data_blocks=5)
    small.create(5)
    small.write(5, (0, b"mine"))
    before = small.content(5)
    target = PoolTarget(str(small.meta), str(small.data), 5)
    with pytest.raises(thinmeta.NoSpaceError) as caught:
        migrated(source, 2, target, overwrite=True)
    assert caught.value.space == "data"
    assert small.content(5) == before
    # What came up to the last checkpoint waits for room, and goes when something else comes.
    with small.open(mode="r+") as pool, pool.transaction() as txn:
        txn.grow_data(40)
    with small.data.open("r+b") as data:
        data.truncate(40 * BLOCK)
    migrated(source, 2, target, overwrite=True)
    assert small.content(5) == source.content(2)
    with small.open() as pool:
        assert list(pool.devices) == [5]


def test_a_destination_in_use_is_refused(source: Source, tmp_path: Path) -> None:
    backing = tmp_path / "copy.img"
    backing.write_bytes(bytes(16 * BLOCK))
    pool = Source(tmp_path / "pool")
    with loop_device(backing) as device:
        with pytest.raises(thinmeta.DeviceInUseError, match="stands on it"):
            migrated(source, 2, FileTarget(str(backing)), overwrite=True)
        descriptor = os.open(device, os.O_RDONLY | os.O_EXCL)
        try:
            with pytest.raises(thinmeta.DeviceInUseError, match="mounted, or used"):
                migrated(source, 2, DeviceTarget(str(device)))
        finally:
            os.close(descriptor)
    with pool.open(mode="r+"), pytest.raises(thinmeta.DeviceInUseError):
        migrated(source, 2, PoolTarget(str(pool.meta), str(pool.data), 1))
    assert backing.read_bytes() == bytes(16 * BLOCK)


def test_source_and_destination_are_told_apart_by_whatever_name(
    source: Source, tmp_path: Path
) -> None:
    data, other = tmp_path / "data", tmp_path / "other"
    data.write_bytes(bytes(BLOCK))
    other.write_bytes(bytes(BLOCK))
    link, hard = tmp_path / "link", tmp_path / "hard"
    link.symlink_to(data)
    os.link(data, hard)
    for name in (data, link, hard):
        with pytest.raises(thinmeta.UsageError, match="source and destination are the same"):
            check_apart([str(data)], [str(name)])
    check_apart([str(data), str(tmp_path / "nothing")], [str(other), str(tmp_path / "nothing")])
    with loop_device(data) as device, loop_device(other) as second:
        for left, right in ((data, device), (device, data), (device, device)):
            with pytest.raises(thinmeta.UsageError, match="the same"):
                check_apart([str(left)], [str(right)])
        check_apart([str(device)], [str(second), str(other)])


def test_a_state_of_a_target_that_cannot_be_believed_is_no_state(
    source: Source, folder: Path
) -> None:
    place = FilePlace(folder / "target", source.send(2))
    sidecar = folder / "target" / "copy.img.thinmeta"
    sound = bytearray(sidecar.read_bytes())
    draw = random.Random(11)
    for _ in range(20):
        damaged = bytearray(sound)
        damaged[draw.randrange(len(sound))] ^= 1 << draw.randrange(8)
        sidecar.write_bytes(damaged)
        try:
            migrated(source, 3, place.target(), base=2)
        except (thinmeta.StreamError, thinmeta.WrongBaseError):
            assert place.content() == source.content(2)
        else:
            # White space, or the number of a column of it.
            assert place.content() == source.content(3)
            place.reset()


# ---- what goes on ----


class _Ended(Exception):
    pass


def interrupted(source: Source, device_id: int, place: Place, after: int, **options: Any) -> None:
    """End a migration when so many bytes have been read or compared."""

    def show(done: int, total: int) -> None:
        if done >= after:
            raise _Ended

    with pytest.raises(_Ended):
        migrated(
            source,
            device_id,
            place.target(),
            checkpoint_bytes=1,
            buffer_bytes=0,
            threads=1,
            progress=show,
            **options,
        )


@pytest.mark.parametrize("base", [None, 2], ids=["a whole volume", "changes"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_one_goes_on_and_proves_all_of_it(
    source: Source, folder: Path, kind: Callable[..., Place], base: int | None
) -> None:
    total = 2 * BLOCK if base else 4 * BLOCK + 5000
    for after in range(1, 2 * total, BLOCK // 2):
        place = kind(folder / "target", source.send(2))
        interrupted(source, 3, place, after, base=base, overwrite=True)
        if place.content() == source.content(3):
            # Changes of a file are compared when they have taken effect.
            assert kind is FilePlace and base is not None
        else:
            assert place.content() == source.content(2)
        report = migrated(source, 3, place.target(), base=base, overwrite=True)
        assert place.content() == source.content(3)
        assert place.leftovers() == []
        # What an earlier run has copied is proven by this one.
        assert report.verified_bytes == total
        if after > 3 * BLOCK:
            assert report.was_there or (report.resumed_at_bytes or 0) > 2 * BLOCK
            assert report.copied_bytes < total


def test_what_an_earlier_run_has_gathered_may_be_gone(source: Source, folder: Path) -> None:
    place = FilePlace(folder / "target", source.send(2))
    interrupted(source, 3, place, 3 * BLOCK, overwrite=True)
    (folder / "target" / "copy.img.thinmeta-partial").unlink()
    report = migrated(source, 3, place.target(), overwrite=True)
    assert report.resumed_at_bytes is None
    assert place.content() == source.content(3)


def test_what_an_earlier_run_has_gathered_may_be_damaged(source: Source, folder: Path) -> None:
    place = FilePlace(folder / "target", source.send(2))
    interrupted(source, 3, place, 4 * BLOCK, overwrite=True)
    with (folder / "target" / "copy.img.thinmeta-partial").open("r+b") as file:
        file.seek(2 * BLOCK + 5)
        file.write(b"damage")
    with pytest.raises(thinmeta.VerificationError) as caught:
        migrated(source, 3, place.target(), overwrite=True)
    assert caught.value.offset_bytes == 2 * BLOCK + 5
    assert place.content() == source.content(2)
    report = migrated(source, 3, place.target(), overwrite=True)
    assert report.resumed_at_bytes is None
    assert place.content() == source.content(3)


def test_what_is_there_already_is_only_compared(source: Source, folder: Path) -> None:
    for kind in KINDS:
        place = kind(folder / "target", None)
        first = migrated(source, 2, place.target())
        again = migrated(source, 2, place.target())
        assert again.was_there and again.verified_bytes == first.verified_bytes
        assert (again.copied_bytes, again.zeroed_bytes) == (0, 0)
        assert migrated(source, 2, place.target(), verify="nothing").was_there


def test_a_volume_that_was_written_in_place_is_not_taken_for_what_is_there(
    tmp_path: Path,
) -> None:
    """Its mappings are what they were, and so is all that identifies it."""
    source = Source(tmp_path / "source")
    source.create(1)
    source.write(1, (0, pattern(1, BLOCK)))
    target = FileTarget(str(tmp_path / "copy"))
    migrated(source, 1, target)
    assert migrated(source, 1, target).was_there
    source.write(1, (100, b"in place"))
    with pytest.raises(thinmeta.VerificationError, match="already") as caught:
        migrated(source, 1, target)
    assert caught.value.offset_bytes == 100
    with pytest.raises(thinmeta.AlreadyFormattedError):
        migrated(source, 1, target, verify="nothing")
    migrated(source, 1, target, overwrite=True)
    assert (tmp_path / "copy").read_bytes() == source.content(1)


@pytest.mark.parametrize("base", [None, 2], ids=["a whole volume", "changes"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_that_is_killed_before_any_step_leaves_old_or_new_and_goes_on(
    source: Source, folder: Path, kind: Callable[..., Place], base: int | None
) -> None:
    place = kind(folder / "target", source.send(2))
    before, after = source.content(2), source.content(3)
    images = source.meta.read_bytes(), source.data.read_bytes()
    options: dict[str, Any] = {"base": base, "overwrite": True, "checkpoint_bytes": 1}
    seen = {"old": 0, "new": 0, "being applied": 0, "gone on": 0}
    step = 0
    while True:
        place.reset()

        def work() -> None:
            migrated(source, 3, place.target(), threads=1, **options)

        if not killed_before(step, work):
            break
        step += 1
        state, content = place.target().peek(), place.content()
        if content == before:
            seen["old"] += 1
        elif content == after:
            seen["new"] += 1
        else:
            assert state.work is not None and state.work.begun
            seen["being applied"] += 1
        report = migrated(source, 3, place.target(), **options)
        seen["gone on"] += report.was_there or report.resumed_at_bytes is not None
        assert place.content() == after
        # At most the journal is left, which nobody needs and the next one replaces.
        assert place.leftovers() in ([], ["copy.img.thinmeta-journal"] * report.was_there)
        held = place.target().peek().held
        assert held is not None and held.device_id == 3
    assert place.content() == after
    assert (source.meta.read_bytes(), source.data.read_bytes()) == images
    assert step > 15
    assert seen["old"] > 5 and seen["new"] > 0 and seen["gone on"] > 3
    if kind is FilePlace and base is not None:
        assert seen["being applied"] > 0
