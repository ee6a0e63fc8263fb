"""A volume back onto its external origin: what is written, proven, refused, and gone on with."""

import errno
import os
import random
from pathlib import Path
from typing import Any

import pytest

import thinmeta
from command import ThinmetaCommand, as_json, fails
from killing import killed_before
from loops import loop_device
from streams import BLOCK, Source, pattern
from thinmeta.merging.external import ExternalMerge, merge_into_external_origin
from thinmeta.stream.targets.media import write_at

POOLS = int(os.environ.get("THINMETA_MOVES_POOLS", "12"))
SEED = int(os.environ.get("THINMETA_MOVES_SEED", "1"))
SIZE = 12 * BLOCK


@pytest.fixture
def tmp_path(memory_path: Path) -> Path:
    """Nothing here is about a disk, and each of many outputs is flushed."""
    return memory_path


class World:
    """A volume over an external origin, in images."""

    def __init__(self, folder: Path, *, size: int = SIZE) -> None:
        folder.mkdir(exist_ok=True)
        self.source = Source(folder / "pool")
        self.source.size = size
        self.origin = folder / "origin.img"
        self.below = pattern(42, size)
        self.origin.write_bytes(self.below)
        self.source.create(1)
        self.source.write(
            1,
            (0, pattern(1, BLOCK)),
            (3 * BLOCK, pattern(2, 2 * BLOCK)),
            (7 * BLOCK, bytes(BLOCK)),  # zeros where the origin has something else
            (10 * BLOCK, pattern(3, BLOCK)),
        )
        self.images = self.source.meta.read_bytes(), self.source.data.read_bytes()

    def content(self) -> bytes:
        """What the volume shows."""
        return self.source.content(1, external_origin=self.origin)

    def merge(self, origin: Path | None = None, **options: Any) -> ExternalMerge:
        options.setdefault("threads", 1)
        with self.source.open() as pool:
            return merge_into_external_origin(
                pool,
                1,
                str(origin or self.origin),
                sources=(str(self.source.meta), str(self.source.data)),
                **options,
            )

    def words(self, *more: object) -> tuple[object, ...]:
        pool = (self.source.meta, 1, "--data", self.source.data)
        return ("merge", *pool, "--into-external-origin", self.origin, *more)

    def journal(self) -> Path:
        return self.origin.with_name("origin.img.thinmeta-merge")

    def check(self, shown: bytes) -> None:
        """All of the volume is in the origin, and the pool is what it was."""
        assert self.origin.read_bytes() == shown == self.content()
        assert (self.source.meta.read_bytes(), self.source.data.read_bytes()) == self.images
        assert not self.journal().exists()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("THINMETA_STATE_DIR", str(tmp_path / "state"))
    return World(tmp_path)


def test_what_is_mapped_is_written_and_the_rest_is_left_alone(world: World) -> None:
    shown = world.content()
    assert shown != world.below
    would = world.merge(dry_run=True)
    assert (would.mapped_bytes, would.ranges, would.written_bytes) == (5 * BLOCK, 4, 0)
    assert world.origin.read_bytes() == world.below
    done = world.merge()
    assert (done.written_bytes, done.verified_bytes) == (5 * BLOCK, 5 * BLOCK)
    assert done.resumed_at_bytes is None
    world.check(shown)
    assert world.merge().written_bytes == 5 * BLOCK  # once more does no harm
    world.check(shown)


def test_a_device_may_be_larger_and_is_left_alone_behind(world: World) -> None:
    shown = world.content()
    with world.origin.open("ab") as file:
        file.write(pattern(8, BLOCK))
    with loop_device(world.origin) as device:
        report = world.merge(device)
        assert report.past_cache
        assert device.read_bytes() == shown + pattern(8, BLOCK)
    assert world.origin.read_bytes()[:SIZE] == shown
    assert list((world.origin.parent / "state").iterdir()) == []


def test_a_device_that_ends_before_what_is_mapped_is_refused(world: World) -> None:
    for size in (3 * BLOCK, 10 * BLOCK, 11 * BLOCK - 512):
        os.truncate(world.origin, size)
        before = world.origin.read_bytes()
        for options in ({}, {"size_bytes": SIZE}, {"dry_run": True}):
            with pytest.raises(OSError, match="nothing written") as caught:
                world.merge(**options)
            assert caught.value.errno == errno.ENOSPC
            assert caught.value.filename == str(world.origin)
        assert world.origin.read_bytes() == before
    # What is mapped past the size of the volume is none of it.
    world.merge(size_bytes=11 * BLOCK - 512)
    assert world.origin.read_bytes() == world.source.content(
        1, size_bytes=11 * BLOCK - 512, external_origin=world.origin
    )


def test_zeros_in_the_rest_of_a_block_that_reaches_across_the_end_are_left_out(
    tmp_path: Path,
) -> None:
    """A volume ends where its origin does, in the middle of a block, and nobody said so."""
    world = World(tmp_path, size=11 * BLOCK + 1024)
    world.source.write(1, (11 * BLOCK, b"the end"))
    world.images = world.source.meta.read_bytes(), world.source.data.read_bytes()
    shown = world.content()
    world.merge()
    world.check(shown)


def test_a_device_in_use_is_refused(world: World) -> None:
    with loop_device(world.origin) as device:
        with pytest.raises(thinmeta.DeviceInUseError, match="stands on it"):
            world.merge()
        descriptor = os.open(device, os.O_RDONLY | os.O_EXCL)
        try:
            with pytest.raises(thinmeta.DeviceInUseError, match="mounted, or used"):
                world.merge(device)
        finally:
            os.close(descriptor)
        for pool in (world.source.meta, world.source.data):
            with pytest.raises(thinmeta.UsageError, match="the same"):
                world.merge(pool)
    assert world.origin.read_bytes() == world.below


def test_a_device_that_is_read_only_is_refused(world: World, tmp_path: Path) -> None:
    with loop_device(world.origin, read_only=True) as device:
        with pytest.raises(thinmeta.ReadOnlyError, match="device of your own"):
            world.merge(device)
    with pytest.raises(thinmeta.UsageError, match="neither a file nor a block device"):
        world.merge(tmp_path)
    with pytest.raises(FileNotFoundError):
        world.merge(tmp_path / "nothing")
    assert world.origin.read_bytes() == world.below


def test_what_was_not_written_as_it_should_be_is_noticed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = world.content()

    def wrong(descriptor: int, offset: int, content: memoryview, name: str) -> None:
        if offset == 3 * BLOCK:
            content = memoryview(bytes(content[:-1]) + b"!")
        write_at(descriptor, offset, content, name)

    with monkeypatch.context() as patch:
        patch.setattr("thinmeta.merging.external.write_at", wrong)
        with pytest.raises(thinmeta.VerificationError) as caught:
            world.merge()
        assert caught.value.offset_bytes == 5 * BLOCK - 1
        assert world.content() == shown  # what is wrong lies below what is mapped
        world.merge(verify=False)
        assert world.origin.read_bytes() != shown
    world.merge()
    world.check(shown)


def test_one_that_is_killed_before_any_step_goes_on(world: World) -> None:
    shown, step, resumed = world.content(), 0, 0
    while killed_before(step, lambda: world.merge(checkpoint_bytes=1)):
        step += 1
        # The volume reads as before, however much was written.
        assert world.content() == shown
        report = world.merge(checkpoint_bytes=1)
        assert report.verified_bytes == 5 * BLOCK
        resumed += report.resumed_at_bytes is not None
        world.check(shown)
        world.origin.write_bytes(world.below)
    world.check(shown)
    assert step > 15 and resumed > 8


def test_what_is_said_to_be_done_is_compared_and_not_believed(world: World) -> None:
    """The volume was written in place in between: its mappings are what they were."""
    shown, step = world.content(), 0
    while not world.journal().exists():
        world.origin.write_bytes(world.below)
        assert killed_before(step, lambda: world.merge(checkpoint_bytes=1))
        step += 1
    for _ in range(8):  # farther on
        killed_before(step, lambda: world.merge(checkpoint_bytes=1))
    world.source.write(1, (7, b"in place"))
    world.images = world.source.meta.read_bytes(), world.source.data.read_bytes()
    assert world.content() != shown
    report = world.merge()
    assert report.resumed_at_bytes is None
    world.check(world.content())


def test_a_journal_that_cannot_be_believed_is_none(world: World) -> None:
    shown = world.content()
    journals = [b"", b"{", b"[]", b"\xff" * 9, b'{"thinmeta-merge": 1}', b"[" * 100000]
    other = World(world.origin.parent / "other")
    step = 0
    while not other.journal().exists():
        assert killed_before(step, lambda: other.merge(checkpoint_bytes=1))
        step += 1
    sound = other.journal().read_bytes()
    draw = random.Random(4)
    for _ in range(20):
        damaged = bytearray(sound)
        damaged[draw.randrange(len(sound))] ^= 1 << draw.randrange(8)
        journals.append(bytes(damaged))
    for journal in journals:
        world.origin.write_bytes(world.below)
        world.journal().write_bytes(journal)
        world.merge()
        world.check(shown)


def test_random_volumes_are_what_their_origin_becomes(tmp_path: Path) -> None:
    for seed in range(SEED, SEED + POOLS):
        draw = random.Random(seed)
        world = World(tmp_path / str(seed), size=draw.randrange(12 * BLOCK, 40 * BLOCK, 512))
        for _ in range(draw.randrange(12)):
            begin = draw.randrange(0, world.source.size, 512)
            length = min(draw.choice([512, 7000, 6 * BLOCK]), world.source.size - begin)
            if draw.random() < 0.3:
                world.source.discard(1, begin, length)
            else:
                world.source.write(1, (begin, draw.randbytes(length)))
        world.images = world.source.meta.read_bytes(), world.source.data.read_bytes()
        shown = world.content()
        world.merge(size_bytes=world.source.size, threads=draw.choice([1, 3]))
        world.check(shown)


# ---- the command ----


def test_the_command_says_what_it_did(command: ThinmetaCommand, world: World) -> None:
    shown = world.content()
    for plan in ("--plan", "-n", "--dry-run"):
        run = command(*world.words(plan))
        assert run.returncode == 0, run.stderr
    assert world.origin.read_bytes() == world.below
    assert run.stdout.startswith(f"{5 * BLOCK} bytes of device 1 ")
    assert run.stdout.endswith(f"would be written to {world.origin} (320 KiB, 4 ranges)\n")
    run = command(*world.words())
    assert run.returncode == 0, run.stderr
    first, second = run.stdout.splitlines()
    assert first.startswith(f"{world.origin} has the content of device 1 as of time ")
    assert first.endswith("320 KiB written") and second.startswith("verified: 320 KiB read back ")
    world.check(shown)
    report = as_json(command(*world.words("--json")))
    assert (report["written_bytes"], report["mapped_ranges"]) == (5 * BLOCK, 4)
    assert command(*world.words("--no-verify")).stdout.endswith("not verified\n")


def test_the_command_says_what_is_missing(command: ThinmetaCommand, world: World) -> None:
    pool, data = ("merge", world.source.meta), ("--data", world.source.data)
    origin = ("--into-external-origin", world.origin)
    fails(command(*pool, 1), 2, "--origin and --snapshot, or ID and --into-external-origin")
    fails(command(*pool, 1, *data), 2, "--data is for --into-external-origin")
    fails(command(*pool, 1, *origin), 2, "--data is missing")
    fails(command(*pool, *data, *origin), 2, "ID is missing")
    fails(command(*world.words("--overlay")), 2, "--overlay is for an origin in the pool")
    fails(command(*world.words("-o", "new")), 2, "--output is for an origin in the pool")
    fails(command(*world.words("-m")), 2, "nothing can be merged")
    fails(command(*world.words("--size", "x")), 2, "--size must be a number")
    fails(command("merge-external", *pool[1:], 1), 2, "there is no command")
    assert world.origin.read_bytes() == world.below
    os.truncate(world.origin, BLOCK)
    fails(command(*world.words()), 3, "make it larger first")
