"""``thinmeta migrate`` and ``thin_migrate``, as a user calls them."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

import thinmeta
from command import ThinmetaCommand, as_json, fails
from dropins import DropIns
from guides import run_console, unpack_example
from oracles import newer_tools
from streams import BLOCK, SIZE, Source, monday_and_tuesday
from test_docs import DOCS, run
from thinmeta import stream
from thinmeta.stream.targets import PoolTarget, Target

#: `THINMETA_MIGRATE_KILLS=200` for more.
KILLS = int(os.environ.get("THINMETA_MIGRATE_KILLS", "8"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return monday_and_tuesday(tmp_path_factory.mktemp("source"))


def words(source: Source, device_id: int, *more: object) -> tuple[object, ...]:
    return ("migrate", source.meta, device_id, "--data", source.data, "--size", source.size, *more)


def test_what_was_copied_and_proven_is_told(
    command: ThinmetaCommand, source: Source, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.img"
    would = as_json(command(*words(source, 2, copy, "--dry-run", "--json")))
    assert (would["copy_bytes"], would["zero_bytes"]) == (4 * BLOCK + 5000, 4 * BLOCK)
    assert would["dry_run"] is True and not copy.exists()
    run = command(*words(source, 2, copy))
    assert run.returncode == 0, run.stderr
    first, second = run.stdout.splitlines()
    assert first.startswith(f"{copy} holds device 2 as of time 1 (")
    assert first.endswith("260.9 KiB copied, 256 KiB zero")
    assert second.startswith("verified: 260.9 KiB read back ")
    again = command(*words(source, 2, copy))
    assert again.stdout.splitlines()[0].endswith("it was there already")
    done = as_json(command(*words(source, 3, copy, "--delta-id", 2, "--json", "--verify-all")))
    assert (done["copied_bytes"], done["zeroed_bytes"]) == (2 * BLOCK, BLOCK)
    assert done["verified_bytes"] + done["verified_zero_bytes"] == SIZE
    assert (done["was_there"], done["resumed_at_bytes"]) == (False, None)
    assert done["base"]["device_id"] == 2 and done["identity"]["device_id"] == 3
    assert copy.read_bytes() == source.content(3)


def test_a_pool_is_a_destination(command: ThinmetaCommand, source: Source, tmp_path: Path) -> None:
    pool = Source(tmp_path / "pool", sectors=256)
    to_pool = (pool.meta, 7, "--dest-data", pool.data)
    assert command(*words(source, 2, *to_pool, "--no-verify")).stdout.endswith("not verified\n")
    assert pool.content(7) == source.content(2)
    assert command(*words(source, 3, *to_pool, "--delta-id", 2)).returncode == 0
    assert pool.content(7) == source.content(3)
    assert command("check", pool.meta).returncode == 0


def test_a_size_that_nobody_knows_is_guessed_and_said_to_be(
    command: ThinmetaCommand, source: Source, tmp_path: Path
) -> None:
    run = command("migrate", source.meta, 2, "--data", source.data, tmp_path / "copy")
    assert run.returncode == 0
    assert "was guessed from the last block written" in run.stderr
    assert (tmp_path / "copy").stat().st_size == 9 * BLOCK


def test_what_does_not_go_together_is_said(
    command: ThinmetaCommand, source: Source, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    for line, says in (
        ((source.meta, 2, copy), "--data is missing"),
        ((*words(source, 2, copy, "--dest-data", copy)[1:],), "DEST_ID is missing"),
        ((*words(source, 2, copy, 5)[1:],), "--dest-data is missing"),
        ((*words(source, 2, copy, "--keep")[1:],), "of live volumes can be kept"),
        ((*words(source, 2, copy, "--delta-id", "kept")[1:],), "of live volumes can be kept"),
        ((*words(source, 2, copy, "--force-base")[1:],), "there is no base"),
        ((*words(source, 2, copy, "--no-verify", "--verify-all")[1:],), "exclude each other"),
        ((*words(source, 2, source.data)[1:],), "source and destination are the same"),
        (
            (*words(source, 2, source.meta, 9, "--dest-data", source.data)[1:],),
            "source and destination are the same",
        ),
    ):
        fails(command("migrate", *line), 2, says)
    fails(command(*words(source, 77, copy)), 1, "77")
    copy.write_bytes(b"mine")
    fails(command(*words(source, 2, copy)), 1, "--overwrite replaces it")
    fails(command(*words(source, 3, copy, "--delta-id", 2)), 1, "nothing says what it holds")
    fails(command(*words(source, 3, copy, "--delta-id", 1)), 1, "was written since")
    assert copy.read_bytes() == b"mine"


def test_a_wrong_destination_is_told_with_the_place(
    command: ThinmetaCommand, source: Source, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(bytes(SIZE))
    run = command(*words(source, 3, copy, "--delta-id", 2, "--force-base"))
    fails(run, 1, f"not what it should be at byte {3 * BLOCK}")
    assert "counts as holding nothing" in run.stderr


def begun(target: Target) -> bool:
    """Whether it could be gone on with."""
    try:
        work = target.peek().work
    except (thinmeta.StreamError, FileNotFoundError):
        return False
    return work is not None and work.token is not None


@pytest.mark.parametrize("kind", ["file", "pool"])
def test_a_command_that_is_killed_at_any_moment_goes_on(
    command: ThinmetaCommand, tmp_path: Path, kind: str
) -> None:
    draw = random.Random(23)
    source = Source(tmp_path / "source", data_blocks=2600)
    source.size = 2200 * BLOCK
    source.create(1)
    piece = draw.randbytes(100 * BLOCK)
    source.write(1, *((begin * BLOCK, piece) for begin in range(0, 2000, 150)))
    source.snapshot(2)
    images = [(path, path.stat().st_mtime_ns) for path in (source.meta, source.data)]
    pool = Source(tmp_path / "pool", data_blocks=2600)
    pool.size = source.size
    place = _File(tmp_path / "copy.img") if kind == "file" else _Device(pool, 5)
    line = words(source, 2, *place.words)
    after, finished = source.content(2), 0
    for round_ in range(KILLS):
        with subprocess.Popen(command.argv(*line), stdout=subprocess.DEVNULL) as process:
            # At any moment; and when there is something that can be gone on with.
            deadline = time.monotonic() + (60 if round_ % 4 == 3 else draw.uniform(0, 0.3))
            while time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.002)
                if round_ % 4 == 3 and begun(place.target()):
                    break
            process.kill()
        assert process.returncode in (0, -signal.SIGKILL)
        # It is not there, or it is whole.
        if place.is_there():
            assert place.content() == after
            finished += 1
            place.remove()
    report = as_json(command(*line, "--json"))
    assert report["verified_bytes"] == 14 * 100 * BLOCK
    assert place.content() == after
    assert finished < KILLS
    assert [(path, path.stat().st_mtime_ns) for path, _ in images] == images


class _File:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.words: tuple[object, ...] = (path,)

    def target(self) -> Target:
        return stream.open_target(self._path)

    def is_there(self) -> bool:
        return self._path.exists()

    def content(self) -> bytes:
        return self._path.read_bytes()

    def remove(self) -> None:
        self._path.unlink()


class _Device:
    def __init__(self, pool: Source, device_id: int) -> None:
        self._pool, self._id = pool, device_id
        self.words: tuple[object, ...] = (pool.meta, device_id, "--dest-data", pool.data)

    def target(self) -> Target:
        return PoolTarget(str(self._pool.meta), str(self._pool.data), self._id)

    def is_there(self) -> bool:
        with self._pool.open() as pool:
            return self._id in pool.devices

    def content(self) -> bytes:
        return self._pool.content(self._id)

    def remove(self) -> None:
        self._pool.delete(self._id)


# ---- thin_migrate ----


#: Command lines that fail, and what 1.1.0 ends with; of active volumes tests/kernel has more.
REFUSED = {
    "": 64,
    "-q": 64,
    "--dest-file COPY": 64,
    "--source-dev DATA": 64,
    "--source-dev DATA --dest-file COPY": 64,
    "--source-dev=DATA --dest-file=COPY": 64,
    "--source-dev DATA --dest-dev COPY": 64,
    "--source-dev DATA --dest-dev COPY --dest-file COPY": 64,
    "--source-dev DATA --dest-file COPY --zero-dest": 64,
    "--source-dev DATA --dest-file COPY --buffer-size-meg 3": 64,
    "--source-dev DATA --dest-file COPY --buffer-size-meg 0": 64,
    "--source-dev ABSENT --dest-file COPY": 64,
    "--source-dev": 2,
    "--source-dev DATA --dest-file": 2,
    "--source-dev DATA --source-dev DATA --dest-file COPY": 2,
    "--buffer-size-meg x": 2,
    "--buffer-size-meg -5": 2,
    "--buffer-size-meg 18446744073709551616": 2,
    "--zero-dest=1": 2,
    "word": 2,
    "--what": 2,
    "-x": 2,
}


@pytest.mark.parametrize("line", REFUSED)
def test_thin_migrate_fails_where_1_x_does(
    drop_in: DropIns, source: Source, tmp_path: Path, line: str
) -> None:
    copy = tmp_path / "copy"
    places = {"COPY": copy, "DATA": source.data, "ABSENT": tmp_path / "absent"}
    status = REFUSED[line]
    for word, place in places.items():
        line = line.replace(word, str(place))
    ran = drop_in(f"thin_migrate {line}")
    assert (ran.status, ran.out) == (1, b"")
    assert "-q" in line.split() or ran.err.startswith("thinmeta: ")
    assert drop_in(f"thin_migrate {line}", compat="1.x").status == status
    newer = newer_tools()
    if newer is not None:
        assert newer.run("thin_migrate", *line.split()).returncode == status
    assert not copy.exists()


def test_thin_migrate_says_what_is_missing(
    drop_in: DropIns, source: Source, tmp_path: Path
) -> None:
    from_file = f"thin_migrate --source-dev {source.data}"
    for line, says in (
        ("thin_migrate", "--source-dev is missing"),
        (from_file, "--dest-dev or --dest-file is missing"),
        (f"{from_file} --dest-file {tmp_path / 'copy'}", "no active thin volume"),
        # 1.1.0 has that in its code, and ends with an error of its own.
        (f"{from_file} --dest-file {tmp_path / 'copy'} --delta-id 3", "no active thin volume"),
    ):
        assert says in drop_in(line).err
        assert drop_in(f"{line} -q").err == ""
    assert drop_in("thin_migrate -V").out == b"1.1.0\n"


def test_the_guide_shows_what_is_printed(
    command: ThinmetaCommand, memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THINMETA_STATE_DIR", str(memory_path / "state"))
    unpack_example(memory_path)
    assert run_console(DOCS / "migrate.md", command, memory_path) == 9
    assert run(DOCS / "migrate.md", memory_path, monkeypatch) == 1


# ---- families ----


def test_a_family_is_told_device_by_device(command: ThinmetaCommand, tmp_path: Path) -> None:
    source = monday_and_tuesday(tmp_path / "source")
    pool = Source(tmp_path / "pool")
    line = ("migrate", source.meta, "--data", source.data, pool.meta, "--dest-data", pool.data)
    before = pool.meta.read_bytes()
    would = as_json(command(*line, "--family", "1,2=20,3", "--dry-run", "--json"))
    assert pool.meta.read_bytes() == before
    run = command(*line, "--family", "1,2=20", "--family", "3")
    assert run.returncode == 0, run.stderr
    # Device 1 and 3 are one and the same; of what they have, 2 lacks what came on Tuesday.
    *devices, end = run.stdout.splitlines()
    assert devices == [
        "device 1: 320 KiB copied, 0 B shared",
        "device 3, after 1: 0 B copied, 320 KiB shared",
        "device 2 as 20, after 1: 128 KiB copied, 192 KiB shared",
    ]
    assert end == (
        f"{pool.meta} holds 3 devices: {7 * BLOCK} bytes copied, {8 * BLOCK} bytes shared; "
        "448 KiB read back"
    )
    assert (would["copy_bytes"], would["shared_bytes"]) == (7 * BLOCK, 8 * BLOCK)
    assert [each["device_id"] for each in would["devices"]] == [1, 3, 2]
    for old, new in ((1, 1), (2, 20), (3, 3)):
        assert pool.content(new) == source.content(old)
    again = as_json(command(*line, "--family", "1,2=20,3", "--json"))
    assert [each["was_there"] for each in again["devices"]] == [True, True, True]
    assert again["copied_bytes"] == 0
    assert command("check", pool.meta).returncode == 0
    everything = Source(tmp_path / "everything")
    to_it = (everything.meta, "--dest-data", everything.data, "--family", "all")
    assert command(*line[:4], *to_it, "--no-verify").stdout.endswith("; not verified\n")
    assert [everything.content(each) for each in (1, 2, 3)] == [
        source.content(each) for each in (1, 2, 3)
    ]


def test_what_does_not_go_together_with_a_family_is_said(
    command: ThinmetaCommand, source: Source, tmp_path: Path
) -> None:
    pool = Source(tmp_path / "pool")
    family = ("--family", "1,2")
    from_images = (source.meta, "--data", source.data)
    to_pool = (pool.meta, "--dest-data", pool.data)
    for line, status, says in (
        ((*from_images, *family), 2, "DEST_META is missing"),
        ((source.meta, *to_pool, *family), 2, "--data is missing"),
        ((*from_images, pool.meta, *family), 2, "--dest-data is missing"),
        ((*from_images, *to_pool, 7, *family), 2, "one word too many"),
        ((*from_images, *to_pool, *family, "--delta-id", 1), 2, "exclude each other"),
        ((*from_images, *to_pool, *family, "--size", 512), 2, "exclude each other"),
        ((*from_images, *to_pool, "--family", ","), 2, "no device was named"),
        ((*from_images, *to_pool, "--family", "1,1"), 2, "named twice"),
        ((*from_images, *to_pool, "--family", "1=2,2"), 2, "the same id"),
        ((*from_images, *to_pool, "--family", "1,x"), 2, "--family"),
        ((*from_images, *to_pool, "--family", "1,77"), 1, "77"),
        ((*from_images, source.meta, "--dest-data", pool.data, *family), 2, "are the same"),
    ):
        fails(command("migrate", *line), status, says)
    pool.create(2)
    fails(command("migrate", *from_images, *to_pool, *family), 1, "--overwrite replaces it")
