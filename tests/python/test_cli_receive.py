"""``thinmeta receive``, as a user calls it."""

import json
import os
import pty
import re
import shlex
import signal
import subprocess
from pathlib import Path

import pytest

from command import ThinmetaCommand, as_json, fails
from streams import BLOCK, SIZE, Source, monday_and_tuesday


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return monday_and_tuesday(tmp_path_factory.mktemp("source"))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "copy of it.img"


def received(
    command: ThinmetaCommand, data: bytes, *arguments: object
) -> subprocess.CompletedProcess[str]:
    run = subprocess.run(
        command.argv("receive", *arguments), input=data, capture_output=True, check=False
    )
    return subprocess.CompletedProcess(
        run.args, run.returncode, run.stdout.decode(), run.stderr.decode()
    )


def test_a_pipe_from_send_to_receive_makes_a_copy(
    command: ThinmetaCommand, source: Source, tmp_path: Path
) -> None:
    target = tmp_path / "copy.img"
    for device_id, base in ((2, ""), (3, "--from 2")):
        thinmeta = shlex.quote(command.argv()[0])
        pipe = (
            f"{thinmeta} send {source.meta} {device_id} --data {source.data} --size {SIZE} {base} "
            f"2>/dev/null | {thinmeta} receive {target}"
        )
        run = subprocess.run(
            ["bash", "-o", "pipefail", "-c", pipe], capture_output=True, text=True, check=False
        )
        assert (run.returncode, run.stderr) == (0, "")
        assert run.stdout.startswith(f"{target} holds device {device_id} as of time")
        assert target.read_bytes() == source.content(device_id)


def test_a_report_in_json(command: ThinmetaCommand, source: Source, target: Path) -> None:
    data = source.send(2)
    would = as_json(received(command, data, target, "--json", "--dry-run"))
    assert would["dry_run"] is True
    assert not target.exists()
    value = as_json(received(command, data, target, "--json"))
    assert value == {**would, "dry_run": False}
    assert value["stream_bytes"] == len(data)
    assert value["data_bytes"] + value["unmapped_bytes"] == SIZE
    text = received(command, source.send(3, 2), target, "-n").stdout
    assert "would hold device 3" in text and "to write" in text


def test_a_volume_of_a_pool(command: ThinmetaCommand, source: Source, tmp_path: Path) -> None:
    pool = Source(tmp_path / "pool", sectors=256)
    words = (pool.meta, 7, "--data", pool.data)
    run = received(command, source.send(2), *words)
    assert run.returncode == 0 and "device 7 of" in run.stdout
    fails(received(command, source.send(2), *words), 1, "--overwrite replaces it")
    received(command, source.send(3, 2), *words)
    assert pool.content(7) == source.content(3)
    fails(received(command, b"", pool.meta, 7), 2, "--data is missing")
    fails(received(command, b"", pool.meta, "--data", pool.data), 2, "ID is missing")
    fails(received(command, b"", pool.meta, "x", "--data", pool.data), 2, "ID must be a number")
    fails(received(command, b"", *words, "--journal", tmp_path), 2, "gathered in the pool")


def test_the_error_of_a_stream_that_was_cut_says_how_to_go_on(
    command: ThinmetaCommand, source: Source, target: Path, tmp_path: Path
) -> None:
    received(command, source.send(2), target)
    data = source.send(3, 2)
    run = received(command, data[:-40], target)
    fails(run, 1, f"{target} is complete at device 2 as of time 1")
    found = re.search(r"--resume (\S+) \| thinmeta (receive .*)'", run.stderr)
    assert found is not None
    token, words = found[1], shlex.split(found[2])
    assert received(command, b"", target, "--print-token").stdout == f"{token}\n"
    value = as_json(received(command, b"", target, "--print-token", "--json"))
    assert value == {"target": str(target), "token": token}
    sent = subprocess.run(
        command.argv(
            *("send", source.meta, 3, "--data", source.data, "--size", SIZE, "--from", 2),
            *("--resume", token),
        ),
        capture_output=True,
        check=True,
    ).stdout
    fails(received(command, sent, target), 2, "--resume takes it up")
    assert words[0] == "receive"
    assert received(command, sent, *words[1:]).returncode == 0
    assert target.read_bytes() == source.content(3)
    fails(received(command, b"", target, "--print-token"), 1, "nothing is kept")
    other = Source(tmp_path / "other")
    other.create(3)
    run = command("send", other.meta, 3, "--data", other.data, "--resume", token)
    fails(run, 1, "the token is for another state")


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        ([], 1, "no stream of thinmeta"),
        (["--dry-run"], 1, "no stream of thinmeta"),
        (["--no-such"], 2, "no option"),
        (["--external-origin"], 2, "needs a value"),
        (["one", "two"], 2, "one word too many"),
    ],
)
def test_wrong_words_are_one_line(
    command: ThinmetaCommand, target: Path, options: list[str], status: int, says: str
) -> None:
    fails(received(command, b"rubbish" * 100, target, *options), status, says)
    assert not target.exists()


def test_nothing_that_comes_is_said_to_be_nothing(command: ThinmetaCommand, target: Path) -> None:
    fails(received(command, b"", target), 1, "nothing came")
    fails(received(command, b"", target, "--resume"), 1, "nothing came")
    assert not target.exists()


def test_a_terminal_is_no_stream(command: ThinmetaCommand, target: Path) -> None:
    for words, status in (([], 2), (["--resume"], 1)):
        ours, theirs = pty.openpty()
        try:
            run = subprocess.run(
                command.argv("receive", target, *words),
                stdin=theirs,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        finally:
            os.close(theirs)
            os.close(ours)
        fails(run, status, "there is no stream")


def test_a_base_that_was_changed_may_be_believed(
    command: ThinmetaCommand, source: Source, target: Path
) -> None:
    received(command, source.send(2), target)
    content = bytearray(target.read_bytes())
    content[3 * BLOCK] ^= 1
    target.write_bytes(content)
    fails(received(command, source.send(3, 2), target), 1, "--force-base")
    assert received(command, source.send(3, 2), target, "--force-base").returncode == 0


def test_an_external_origin_is_given(
    command: ThinmetaCommand, source: Source, target: Path, tmp_path: Path
) -> None:
    origin = tmp_path / "origin"
    origin.write_bytes(b"origin" * 50_000)
    words = command.argv(
        *("send", source.meta, 3, "--data", source.data, "--size", SIZE),
        *("--external-origin", origin),
    )
    data = subprocess.run(words, capture_output=True, check=True).stdout
    fails(received(command, data, target), 2, "give it with --external-origin")
    assert received(command, data, target, "--external-origin", origin).returncode == 0
    assert target.read_bytes() == source.content(3, external_origin=str(origin))
    flat = subprocess.run([*words, "--flatten"], capture_output=True, check=True).stdout
    received(command, flat, target, "--overwrite")
    assert target.read_bytes() == source.content(3, external_origin=str(origin))


def test_being_asked_to_end_leaves_nothing_behind(
    command: ThinmetaCommand, source: Source, target: Path
) -> None:
    received(command, source.send(2), target)
    names = sorted(path.name for path in target.parent.iterdir())
    data = source.send(3, 2, checkpoint_bytes=1 << 20)
    with subprocess.Popen(
        command.argv("receive", target), stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None and process.stderr is not None
        process.stdin.write(data[:-100])
        process.stdin.flush()
        journal = target.with_name(f"{target.name}.thinmeta-journal")
        while not journal.exists():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        said = process.stderr.read()
    assert process.returncode == 128 + signal.SIGTERM
    assert said == b"thinmeta: asked to end\n"
    assert sorted(path.name for path in target.parent.iterdir()) == names
    assert target.read_bytes() == source.content(2)


def test_the_state_is_a_file_that_people_can_read(
    command: ThinmetaCommand, source: Source, target: Path
) -> None:
    received(command, source.send(2), target)
    state = json.loads(target.with_name(f"{target.name}.thinmeta").read_text())
    assert state["state"]["held"]["device_id"] == 2
    assert state["state"]["work"] is None
