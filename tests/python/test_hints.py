"""Hints for other backup programs: what they leave out is what it was, or zeros."""

import json
import lzma
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import thinmeta
from backups import UNIT, VOLUME, World
from command import ThinmetaCommand, fails
from test_docs import DOCS, REPOSITORY, run
from thinmeta.bookmark import Bookmark
from thinmeta.hints import borg_map, rbd_diff
from thinmeta.source import Changes, ImageGeneration, identity_of_device

Row = tuple[int, int, str]


def parsed(text: str, size: int) -> list[Row]:
    """A map as borg reads it: in order, without gaps, over all of the input."""
    rows = []
    at = 0
    for line in text.splitlines():
        begin, length, state = line.split(" ")
        assert int(begin) == at and int(length) > 0 and state in ("data", "zero", "same")
        rows.append((at, int(length), state))
        at += int(length)
    assert at == size
    assert all(one[2] != other[2] for one, other in pairwise(rows))
    return rows


def applied(rows: list[Row], before: bytes, now: bytes) -> bytes:
    """What a program has that reads only what it is told to."""
    made = b""
    for begin, length, state in rows:
        end = begin + length
        made += {"data": now[begin:end], "zero": bytes(length), "same": before[begin:end]}[state]
    return made


def backed_up(hints: list[dict[str, object]], before: bytes, now: bytes) -> bytes:
    """The same of a program that takes what rbd says."""
    made = bytearray(before[: len(now)].ljust(len(now), b"\0"))
    at = 0
    for each in hints:
        begin, length = each["offset"], each["length"]
        assert isinstance(begin, int) and isinstance(length, int)
        assert begin >= at and length > 0 and each.keys() == {"offset", "length", "exists"}
        at = begin + length
        assert each["exists"] in ("true", "false")
        made[begin:at] = now[begin:at] if each["exists"] == "true" else bytes(length)
    return bytes(made)


@pytest.mark.parametrize("seed", range(12))
def test_what_is_left_out_is_what_it_was(tmp_path: Path, seed: int) -> None:
    with World(tmp_path, seed, mib=2, sectors=(128, 256)[seed % 2]) as world:
        before, older, saved = b"", None, None
        for number in range(6):
            world.step(changes=4)
            now, snapshot = world.shown(), world.snapshot()
            size = world.size
            with ImageGeneration(world.pool, snapshot, size_bytes=size) as volume:
                bases: list[int | Bookmark | None] = [None]
                if older is not None and saved is not None:
                    bases += [older, saved]
                for base in bases:
                    changes = volume.changes(base)
                    held = before if base is not None else b""
                    has = len(held)
                    text = "".join(borg_map(changes, volume.identity, base_bytes=has))
                    rows = parsed(text, size)
                    assert applied(rows, held, now) == now
                    data = [(begin, length) for begin, length, state in rows if state == "data"]
                    within = [row for row in data if row[0] + row[1] <= has or base is None]
                    assert set(within) <= set(changes.data)
                    text = "".join(rbd_diff(changes, volume.identity, base_bytes=has))
                    hints = json.loads(text)
                    assert backed_up(hints, held, now) == now
                    if base is None:
                        assert not [row for row in rows if row[2] == "same"]
                        assert all(each["exists"] == "true" for each in hints)
                path = tmp_path / f"{number}.bookmark"
                assert volume.save_bookmark(str(path)) is not None
            before, older, saved = now, snapshot, Bookmark.open(path)


def made(data: list[tuple[int, int]], zero: list[tuple[int, int]], *, full: bool) -> Changes:
    from array import array

    def column(rows: list[tuple[int, int]]) -> memoryview:
        return memoryview(array("Q", [number for row in rows for number in row]))

    changes = Changes(None, column(data), column(zero))
    if not full:
        changes.base = IDENTITY
    return changes


IDENTITY: thinmeta.identity.Identity


@pytest.fixture(scope="module", autouse=True)
def identity(tmp_path_factory: pytest.TempPathFactory) -> None:
    global IDENTITY
    with World(tmp_path_factory.mktemp("identity"), 1, mib=2) as world:
        IDENTITY = identity_of_device(world.pool, VOLUME, size_bytes=100)


@given(
    st.lists(st.sampled_from(["data", "zero", "same"]), min_size=1, max_size=60),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=300)
def test_any_mixture_is_told_in_order(states: list[str], full: bool, origin: bool) -> None:
    from dataclasses import replace

    def runs(of: str) -> list[tuple[int, int]]:
        text = "".join("x" if state == of else "." for state in states)
        return [(match.start(), len(match[0])) for match in re.finditer("x+", text)]

    identity = replace(IDENTITY, size_bytes=len(states), external_origin=origin)
    changes = made(runs("data"), runs("zero"), full=full)
    rows = parsed("".join(borg_map(changes, identity)), len(states))
    told = [state for _, length, state in rows for _ in range(length)]
    expected = {"zero": "data"} if origin else {}
    if full:
        expected["same"] = "data"  # it cannot be; if it were, it were read
    assert told == [expected.get(state, state) for state in states]


def test_many_ranges_come_in_parts() -> None:
    from dataclasses import replace

    count = 20_000
    identity = replace(IDENTITY, size_bytes=2 * count)
    changes = made([(2 * at, 1) for at in range(count)], [], full=False)
    parts = list(borg_map(changes, identity))
    assert len(parts) > 5 and parsed("".join(parts), 2 * count)
    parts = list(rbd_diff(changes, identity))
    assert len(parts) > 3 and len(json.loads("".join(parts))) == count


def test_a_map_of_an_unknown_size_is_none() -> None:
    from dataclasses import replace

    with pytest.raises(thinmeta.UsageError, match="its size is needed"):
        list(borg_map(made([], [], full=True), replace(IDENTITY, size_is_known=False)))
    empty = replace(IDENTITY, size_bytes=0)
    assert "".join(borg_map(made([], [], full=True), empty)) == ""
    assert "".join(rbd_diff(made([], [], full=True), empty)) == "[]\n"


# ---- the command line ----


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, bytes, bytes]:
    """Snapshots 10 and 11 of a volume of 2 MiB less 100 bytes, and what they hold."""
    with World(tmp_path, 3, mib=2) as world:
        world.resize(world.size - 100)
        world.write(0, world.random.randbytes(10 * UNIT))
        world.write(world.size - 10, b"at the end")
        before, older = world.shown(), world.snapshot()
        world.write(3 * UNIT, b"new")
        world.discard(5 * UNIT, 2 * UNIT)
        world.write(20 * UNIT, b"more")
        now, newer = world.shown(), world.snapshot()
        assert (older, newer) == (10, 11)
        Bookmark.save(world.pool.devices[10], tmp_path / "b", size_bytes=world.size)
    return world.paths[0], before, now


def test_the_command_writes_maps(
    images: tuple[Path, bytes, bytes], command: ThinmetaCommand, tmp_path: Path
) -> None:
    metadata, before, now = images
    size = f"--size={len(now)}"
    since = command("delta", metadata, 10, 11, "--format", "borg-map", size)
    assert since.returncode == 0
    assert parsed(since.stdout, len(now)) == [
        (0, 3 * UNIT, "same"),
        (3 * UNIT, UNIT, "data"),
        (4 * UNIT, UNIT, "same"),
        (5 * UNIT, 2 * UNIT, "zero"),
        (7 * UNIT, 3 * UNIT, "same"),
        (10 * UNIT, 10 * UNIT, "zero"),
        (20 * UNIT, UNIT, "data"),
        (21 * UNIT, 10 * UNIT, "zero"),
        (31 * UNIT, len(now) - 31 * UNIT, "same"),
    ]
    words = "delta", metadata, "--from-bookmark", tmp_path / "b", 11
    assert command(*words, "--format=borg-map", size).stdout == since.stdout
    full = command("delta", metadata, "--full", 11, "--format=borg-map", size)
    assert applied(parsed(full.stdout, len(now)), b"", now) == now
    # What the archive does not have is read, also where nothing has changed.
    short = command("delta", metadata, 10, 11, "--format=borg-map", size, "--left-size=1M")
    assert parsed(short.stdout, len(now))[-1] == (31 * UNIT, len(now) - 31 * UNIT, "data")
    origin = command("delta", metadata, 10, 11, "--format=borg-map", size, "--external-origin")
    assert "zero" not in origin.stdout
    for left in ((10, 11), ("--full", 11)):
        for sized in ((size,), ()):
            run = command("delta", metadata, *left, "--format=rbd-diff", *sized)
            held = before if left[0] == 10 else b""
            # Without a size the last block is told whole.
            wide = now.ljust(-(-len(now) // UNIT) * UNIT, b"\0")
            assert backed_up(json.loads(run.stdout), held, wide)[: len(now)] == now


def test_what_lies_past_the_size_is_left_out_and_told(
    images: tuple[Path, bytes, bytes], command: ThinmetaCommand
) -> None:
    words = "delta", images[0], 10, 11, "--format"
    now = images[2]
    for form in ("borg-map", "rbd-diff"):
        # A block that the end cuts is no reason to say something.
        assert command(*words, form, f"--size={len(now)}").stderr == ""
        short = command(*words, form, f"--size={20 * UNIT + 7}")
        assert short.returncode == 0
        assert "device 11 has blocks up to byte 2097152, past its size of 1310727" in short.stderr
        end = f"{20 * UNIT} 7 data\n" if form == "borg-map" else f'{20 * UNIT},"length":7,'
        assert end in short.stdout
    # What a larger one has more is in no archive of the older.
    larger = command(*words, "borg-map", "--size=3M").stdout
    assert parsed(larger, 3 << 20)[-1] == (2 << 20, 1 << 20, "zero")


def test_a_discard_of_what_is_compared_with_spoils_no_map(
    tmp_path: Path, command: ThinmetaCommand
) -> None:
    """It leaves no trace: the archive has what was there, and both volumes a hole."""
    with World(tmp_path, 5, mib=2) as world:
        world.write(0, world.random.randbytes(10 * UNIT))
        before, older = world.shown(), world.snapshot()
        world.discard(2 * UNIT, UNIT)
        with world.pool.devices[older].open(mode="r+", size_bytes=world.size) as volume:
            volume.discard(2 * UNIT, UNIT)
        now, newer = world.shown(), world.snapshot()
    words = "delta", world.paths[0], older, newer, "--format=borg-map", f"--size={len(now)}"
    assert applied(parsed(command(*words).stdout, len(now)), before, now) == now


def test_the_command_compares_with_a_bookmark_in_all_forms(
    images: tuple[Path, bytes, bytes], command: ThinmetaCommand, tmp_path: Path
) -> None:
    words = "delta", images[0], "--from-bookmark", tmp_path / "b", 11
    text = command(*words).stdout
    assert text == command("delta", images[0], 10, 11).stdout
    assert command(*words, "--format=text").stdout == text
    both = [json.loads(command(*words, form).stdout) for form in ("--json", "--format=json")]
    assert both[0] == both[1] and both[0]["left"] == str(tmp_path / "b")


def test_what_proves_nothing_is_refused(
    images: tuple[Path, bytes, bytes], command: ThinmetaCommand
) -> None:
    for form in ("borg-map", "rbd-diff"):
        run = command("delta", images[0], VOLUME, 11, f"--format={form}", "--size=2M")
        fails(run, 1, "was written since it was made")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((10, 11, "--format=borg-map"), "--size is missing"),
        (("--full", 11, "--format=rbd-diff", "--external-origin"), "--size is missing"),
        ((10, 11, "--format=xml"), "one of text, json, borg-map, rbd-diff"),
        ((10, 11, "--format=rbd-dif"), "did you mean 'rbd-diff'"),
        ((10, 11, "--format=rbd-diff", "--json"), "exclude each other"),
        ((10, 11, "--format=rbd-diff", "--same"), "--same is for ranges"),
        ((10, 11, "--full", "--format=rbd-diff"), "in the place of LEFT"),
        ((11, "--format=rbd-diff"), "RIGHT is missing"),
        ((11, "--full"), "--full is for --format"),
        ((10, 11, "--left-size=1M"), "--left-size is for --format"),
        ((10, 11, "--size=1M"), "--size is for --format"),
        ((11, "--full", "--from-bookmark=b", "--format=rbd-diff"), "exclude each other"),
    ],
)
def test_words_that_do_not_fit(
    images: tuple[Path, bytes, bytes],
    command: ThinmetaCommand,
    words: tuple[object, ...],
    says: str,
) -> None:
    fails(command("delta", images[0], *words), 2, says)


def test_the_program_and_the_output_of_the_page_are_so(
    command: ThinmetaCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = (REPOSITORY / "examples" / "pool" / "metadata.img.xz").read_bytes()
    (tmp_path / "metadata.img").write_bytes(lzma.decompress(packed))
    page = DOCS / "hints.md"
    assert run(page, tmp_path, monkeypatch) == 1
    words = "delta", tmp_path / "metadata.img", 2, 0, "--format"
    shown = command(*words, "borg-map", "--size=10498048").stdout
    assert (tmp_path / "map").read_text() == shown
    hints = command(*words, "rbd-diff").stdout
    for expected in ("\n".join(shown.splitlines()[:4]), hints[:99]):
        assert f"\n{expected}\n" in page.read_text()
    read = sum(length for _, length, state in parsed(shown, 10_498_048) if state == "data")
    assert f"{read:,} of {10_498_048:,}" in page.read_text()
