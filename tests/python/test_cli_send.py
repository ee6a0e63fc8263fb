"""``thinmeta send``, ``stream`` and ``bookmark``, as a user calls them."""

import io
import json
import os
import pty
import subprocess
from pathlib import Path

import pytest

from command import ThinmetaCommand, as_json, fails
from streams import BLOCK, SIZE, Source, monday_and_tuesday, pattern
from thinmeta import stream
from thinmeta.bookmark import Bookmark


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return monday_and_tuesday(tmp_path_factory.mktemp("source"))


def words(source: Source, *more: object) -> list[object]:
    return ["send", source.meta, *more, "--data", source.data, "--size", SIZE]


def sent(command: ThinmetaCommand, *arguments: object) -> tuple[bytes, str]:
    run = subprocess.run(command.argv(*arguments), capture_output=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout, run.stderr.decode()


def test_a_stream_goes_to_stdout_and_a_line_about_it_to_stderr(
    command: ThinmetaCommand, source: Source
) -> None:
    data, said = sent(command, *words(source, 2))
    header = stream.verify(io.BytesIO(data)).header
    assert (header.identity.device_id, header.base) == (2, None)
    assert said.startswith("sent device 2 as of time 1") and said.count("\n") == 1
    data, said = sent(command, *words(source, 3, "--from", 2), "--level=19", "--json")
    header = stream.verify(io.BytesIO(data)).header
    assert header.base is not None and header.base.device_id == 2
    report = json.loads(said)
    assert report["stream_bytes"] == len(data)
    assert report["identity"] == header.identity.to_json()
    assert report["read_bytes"] == 2 * BLOCK
    assert report["size_source"] == "given"


def test_a_size_that_was_guessed_is_said_to_be(command: ThinmetaCommand, source: Source) -> None:
    data, said = sent(command, "send", source.meta, 2, "--data", source.data)
    assert "was guessed" in said
    identity = stream.verify(io.BytesIO(data)).header.identity
    assert (identity.size_bytes, identity.size_is_known) == (9 * BLOCK, False)


def test_a_dry_run_says_how_much_has_changed(command: ThinmetaCommand, source: Source) -> None:
    value = as_json(command(*words(source, 3, "--from", 2, "-n", "--json")))
    with source.generation(3) as generation:
        changes = stream.plan(generation, 2)
    assert value["changed_bytes"] == changes.data_bytes == 2 * BLOCK
    assert value["unmapped_bytes"] == changes.zero_bytes == BLOCK
    assert (value["changed_ranges"], value["unmapped_ranges"]) == (2, 1)
    run = command(*words(source, 3, "--from", 2, "--dry-run"))
    assert f"{2 * BLOCK} bytes to read and send (128 KiB, 2 ranges)" in run.stdout
    run = command(*words(source, 2, "--dry-run"))
    assert "the whole volume" in run.stdout


def test_a_file_is_written_whole_or_not_at_all(
    command: ThinmetaCommand, source: Source, tmp_path: Path
) -> None:
    out = tmp_path / "monday.stream"
    run = command(*words(source, 2, "-o", out))
    assert run.returncode == 0 and run.stdout.startswith("sent device 2") and run.stderr == ""
    assert stream.verify(io.BytesIO(out.read_bytes())).stream_bytes == out.stat().st_size
    before = out.read_bytes()
    fails(command(*words(source, 3, "--from", 9, "-o", out)), 1, "use a bookmark")
    fails(command(*words(source, 3, "-o", source.meta)), 2, "is the input")
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["monday.stream"]


def test_a_bookmark_stands_for_a_snapshot_that_is_gone(
    command: ThinmetaCommand, tmp_path: Path
) -> None:
    source = monday_and_tuesday(tmp_path / "source")
    bookmark, out = tmp_path / "monday.bookmark", tmp_path / "stream"
    command(*words(source, 2, "-o", tmp_path / "monday", "--save-bookmark", bookmark))
    value = as_json(command("bookmark", "show", bookmark, "--json"))
    assert (value["device_id"], value["size_bytes"]) == (2, SIZE)
    source.delete(2)
    source.write(1, (0, pattern(5, 10)))
    source.snapshot(4)
    run = command(*words(source, 4, "--from-bookmark", bookmark, "-o", out, "--json"))
    assert as_json(run)["base"]["digest"] == value["digest"]
    fails(command(*words(source, 1, "--save-bookmark", out)), 2, "is no bookmark")
    other = tmp_path / "other.bookmark"
    fails(command(*words(source, 1, "--save-bookmark", other)), 2, "make a snapshot of it")
    damaged = bytearray(bookmark.read_bytes())
    damaged[-1] ^= 1
    bookmark.write_bytes(damaged)
    fails(command(*words(source, 4, "--from-bookmark", bookmark, "-o", out)), 1, "damaged bookmark")
    fails(command(*words(source, 4, "--from-bookmark", source.data)), 1, "not a bookmark")


def test_bookmarks_are_saved_and_shown(
    command: ThinmetaCommand, source: Source, tmp_path: Path
) -> None:
    path = tmp_path / "b"
    run = command("bookmark", "save", source.meta, 2, path, "--size", "1M")
    assert run.returncode == 0 and "size:     1 MiB (1048576 bytes)" in run.stdout
    assert command("bookmark", "show", path).stdout == run.stdout
    value = as_json(command("bookmark", "save", source.meta, 3, path, "--json"))
    assert value["size_bytes"] is None and value["end_blocks"] == 9
    assert value["digest"] == Bookmark.open(path).digest.hex()
    assert "not known" in command("bookmark", "show", path).stdout
    fails(command("bookmark", "save", source.meta, 1, path), 2, "make a snapshot of it")
    fails(command("bookmark", "save", source.meta, 77, path), 1, "no thin device 77")
    assert value["digest"] == Bookmark.open(path).digest.hex()


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["send", "META", "2"], 2, "--data is missing"),
        (["send", "META"], 2, "ID is missing"),
        (["send", "META", "2", "3"], 2, "one word too many"),
        (["send", "META", "x", "--data", "DATA"], 2, "ID must be a number"),
        (["send", "META", "2", "--data", "DATA", "--from", "x"], 2, "--from must be a number"),
        (["send", "META", "2", "--data", "DATA", "--level", "x"], 2, "--level must be a number"),
        (["send", "META", "2", "--data", "DATA", "--level", "99"], 2, "levels from -7 to 22"),
        (["send", "META", "2", "--data", "DATA", "--size", "x"], 2, "--size"),
        (["send", "META", "2", "--data", "DATA", "--flatten"], 2, "no external origin"),
        (["send", "META", "2", "--data", "DATA", "--flatten", "--from", "3"], 2, "leave the base"),
        (["send", "META", "2", "--data", "DATA", "--resume", "x"], 1, "no token"),
        (["send", "META", "2", "--data", "DATA", "--resume", "AQ" * 60], 1, "no token"),
        (["send", "META", "9", "--data", "DATA"], 1, "no thin device 9"),
        (["send", "META", "2", "--data", "/no/such"], 3, "/no/such"),
        (["send", "/no/such", "2", "--data", "DATA"], 3, "/no/such"),
        (["send", "DATA", "2", "--data", "META"], 1, ""),
        (["send", "META", "2", "--data", "DATA", "--from", "2", "--from-bookmark", "x"], 2, "one"),
        (["stream"], 2, "a word is missing"),
        (["stream", "inspekt"], 2, "did you mean 'inspect'"),
        (["stream", "inspect", "/no/such"], 3, "/no/such"),
        (["stream", "inspect", "META"], 1, "no stream of thinmeta"),
        (["stream", "verify", "META", "x"], 2, "one word too many"),
        (["stream", "verify", "--records", "META"], 2, "no option"),
        (["bookmark"], 2, "a word is missing"),
        (["bookmark", "shwo"], 2, "did you mean 'show'"),
        (["bookmark", "show", "META"], 1, "not a bookmark"),
        (["bookmark", "save", "META", "2"], 2, "FILE is missing"),
    ],
)
def test_wrong_words_are_one_line(
    command: ThinmetaCommand, source: Source, arguments: list[str], status: int, says: str
) -> None:
    stands_for = {"META": source.meta, "DATA": source.data}
    fails(command(*[stands_for.get(word, word) for word in arguments]), status, says)


@pytest.mark.parametrize("name", ["send", "receive", "stream", "bookmark"])
def test_help_names_every_option(command: ThinmetaCommand, name: str) -> None:
    from importlib import import_module

    run = command(name, "--help")
    assert run.returncode == 0 and run.stderr == ""
    for option in import_module(f"thinmeta.cli.{name}").OPTIONS:
        assert f"--{option.long}" in run.stdout
    assert max(map(len, run.stdout.splitlines())) <= 92
    assert name in command("--help").stdout


def test_a_stream_is_not_written_to_a_terminal(command: ThinmetaCommand, source: Source) -> None:
    ours, theirs = pty.openpty()
    try:
        run = subprocess.run(
            command.argv(*words(source, 2)),
            stdout=theirs,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(theirs)
        os.close(ours)
    assert run.returncode == 2
    assert "would be printed on this terminal" in run.stderr


def test_a_reader_that_goes_away_ends_it_quietly(command: ThinmetaCommand, tmp_path: Path) -> None:
    source = Source(tmp_path)
    source.size = 4 << 20
    source.create(1)
    source.write(1, (0, os.urandom(4 << 20)))
    with subprocess.Popen(
        command.argv("send", source.meta, 1, "--data", source.data),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read(16) == b"thinmeta-stream\n"
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (141, b"")


def test_a_full_disk_is_said_to_be(command: ThinmetaCommand, source: Source) -> None:
    with open("/dev/full", "wb") as full:
        run = subprocess.run(
            command.argv(*words(source, 2)), stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert run.returncode == 3
    assert run.stderr.startswith(b"thinmeta: standard output: No space left")


# ---- stream ----


def test_a_stream_is_looked_into(command: ThinmetaCommand, source: Source, tmp_path: Path) -> None:
    path = tmp_path / "stream"
    path.write_bytes(source.send(3, 2))
    text = command("stream", "inspect", path).stdout
    for part in ("makes:    device 3", "of:       device 2", "131072 bytes in", "checkpoint"):
        assert part in text
    assert command("stream", "verify", path).stdout == text + (
        "SOUND: everything in it is as it was sent.\n"
    )
    value = as_json(command("stream", "inspect", path, "--json", "--records"))
    assert value["stream_bytes"] == path.stat().st_size
    kinds = [record["kind"] for record in value["records"]]
    assert kinds.count("data") == value["data_records"] > 1
    assert (
        sum(each["stored_bytes"] for each in value["records"] if each["kind"] == "data")
        == (value["stored_bytes"])
    )
    rows = command("stream", "inspect", "--records", path).stdout.splitlines()
    assert rows[0].split() == ["KIND", "BEGIN_BYTES", "LENGTH_BYTES", "STORED"]
    assert [row.split()[0] for row in rows[1 : 1 + len(kinds)]] == kinds
    with path.open("rb") as file:
        run = subprocess.run(
            command.argv("stream", "verify"), stdin=file, capture_output=True, check=False
        )
    assert run.returncode == 0 and b"SOUND" in run.stdout
    spoiled = bytearray(path.read_bytes())
    spoiled[-5] ^= 1
    path.write_bytes(spoiled)
    fails(command("stream", "verify", path), 1, "damaged stream: at byte")
    path.write_bytes(spoiled[:-9])
    fails(command("stream", "inspect", path), 1, "was cut")
