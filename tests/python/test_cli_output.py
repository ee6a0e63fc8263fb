"""Output is whole or not there; pipes, interrupts and full disks end quietly."""

import fcntl
import os
import signal
import stat
import subprocess
import sys
import termios
import threading
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from command import ThinmetaCommand, is_writing
from corpus import Corpus
from loops import loop_device
from thinmeta.errors import UsageError
from thinmeta.files import OutputFile

HUGE = "--size=4T"  # hashing the zeros of this takes far longer than any test


@pytest.fixture(autouse=True, params=["no name", "a temporary name"])
def kind_of_file(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Files without names, and what is done where there are none."""
    kind: str = request.param
    if kind == "a temporary name":
        monkeypatch.setattr("thinmeta.files._open_without_name", lambda folder, name: -1)
    return kind


def test_whoever_is_killed_leaves_nothing(tmp_path: Path, kind_of_file: str) -> None:
    if kind_of_file != "no name":
        return  # nothing could be promised
    (tmp_path / "out").write_bytes(b"old")
    program = (
        "import os, signal, sys; from thinmeta.files import OutputFile\n"
        "with OutputFile(sys.argv[1]) as descriptor:\n"
        "    os.write(descriptor, b'half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    run = subprocess.run([sys.executable, "-c", program, tmp_path / "out"], check=False)
    assert run.returncode == -signal.SIGKILL
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("out", b"old")]


def test_where_a_file_cannot_be_given_a_name_it_has_one_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind_of_file: str
) -> None:
    def refuse(descriptor: int, path: str) -> None:
        raise PermissionError

    monkeypatch.setattr("thinmeta.files._give_name", refuse)
    with OutputFile(str(tmp_path / "out")) as descriptor:
        os.write(descriptor, b"new")
        assert len(list(tmp_path.iterdir())) == 1
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("out", b"new")]


def write(path: Path, content: bytes = b"new", inputs: tuple[str, ...] = ()) -> None:
    with OutputFile(str(path), inputs=inputs) as descriptor:
        os.write(descriptor, content)


def test_an_absent_file_appears_at_the_end(tmp_path: Path) -> None:
    with OutputFile(str(tmp_path / "out")) as descriptor:
        os.write(descriptor, b"new")
        assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").read_bytes() == b"new"


def test_a_regular_file_is_replaced_and_keeps_its_permissions(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"something longer")
    out.chmod(0o640)
    with out.open("rb") as reader:
        write(out)
        assert reader.read() == b"something longer"  # who had it open still has it
    assert out.read_bytes() == b"new"
    assert stat.S_IMODE(out.stat().st_mode) == 0o640


def test_a_new_file_has_the_permissions_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "out")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o640


@pytest.mark.parametrize("there", [True, False])
def test_a_symbolic_link_stays_and_its_file_is_replaced(tmp_path: Path, there: bool) -> None:
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "file", tmp_path / "link"
    link.symlink_to(target)
    if there:
        target.write_bytes(b"old")
    write(link)
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_failure_leaves_what_was_there(
    tmp_path: Path, error: type[BaseException], old: bytes | None
) -> None:
    out = tmp_path / "out"
    if old is not None:
        out.write_bytes(old)

    def fail_half_way() -> None:
        with OutputFile(str(out)) as descriptor:
            os.write(descriptor, b"half")
            raise error

    with pytest.raises(error):
        fail_half_way()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == ([] if old is None else [old])


def test_a_very_long_name_is_possible(tmp_path: Path) -> None:
    write(tmp_path / ("ü" * 127))
    assert (tmp_path / ("ü" * 127)).read_bytes() == b"new"


def test_a_pipe_is_written_in_place(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write(pipe)
    reader.join()
    assert read == [b"new"]
    assert pipe.is_fifo()


def test_dev_null_stays_a_device() -> None:
    write(Path("/dev/null"))
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize("as_link", [False, True])
def test_an_input_is_never_the_output(tmp_path: Path, as_link: bool) -> None:
    meta = tmp_path / "meta"
    meta.write_bytes(b"precious")
    out = meta
    if as_link:
        out = tmp_path / "other-name"
        out.hardlink_to(meta)
    with pytest.raises(UsageError, match="is the input"):
        write(out, inputs=(str(meta),))
    assert meta.read_bytes() == b"precious"


def test_a_folder_is_no_output(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        write(tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        write(tmp_path / "absent" / "out")
    assert error.value.filename == str(tmp_path / "absent" / "out")


def test_dump_to_a_file_is_dump_to_stdout(
    command: ThinmetaCommand, corpus: Corpus, tmp_path: Path
) -> None:
    meta = corpus["block-1m"].meta
    out = tmp_path / "pool.xml"
    assert command("dump", meta, "-o", out).returncode == 0
    printed = command("dump", meta)
    assert printed.returncode == 0
    assert out.read_text() == printed.stdout == command("dump", meta, "-o", "-").stdout
    assert printed.stderr == ""


def test_a_dump_never_replaces_the_metadata(command: ThinmetaCommand, corpus: Corpus) -> None:
    meta = corpus["empty"].meta
    before = meta.read_bytes()
    run = command("dump", meta, "-o", meta)
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert meta.read_bytes() == before


def test_a_reader_that_goes_away_is_no_error(command: ThinmetaCommand, corpus: Corpus) -> None:
    meta = corpus["random-60k"].meta
    for words in (["dump", meta], ["delta", meta, "0", "0", "--same"], ["dump", "--json", meta]):
        with subprocess.Popen(
            command.argv(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as run:
            assert run.stdout is not None and run.stderr is not None
            if words[0] == "dump":
                assert run.stdout.read(10)
            run.stdout.close()
            assert run.wait(60) == 141, words
            assert run.stderr.read() == b""


def test_a_full_disk_is_one_line_and_status_3(command: ThinmetaCommand, corpus: Corpus) -> None:
    meta = corpus["sequential"].meta
    pair = corpus["pair-zeroing-1"]
    extract = ["extract", pair.meta, pair.data, "0", "--size=20504s", "-o"]
    stdout = b"standard output"
    for words, name in (
        (["ls", meta], stdout),
        (["--help"], stdout),
        (["dump", meta], stdout),
        (["dump", meta, "-o", "-"], stdout),
        (["dump", meta, "-o", "/dev/full"], b"/dev/full"),
        (["delta", "--same", "--json", corpus["snap-chain"].meta, 0, 20], stdout),
        ([*extract, "-"], stdout),
        ([*extract, "/dev/full"], b"/dev/full"),
    ):
        with open("/dev/full", "wb") as full:
            run = subprocess.run(
                command.argv(*words), stdout=full, stderr=subprocess.PIPE, check=False
            )
        assert run.returncode == 3, words
        assert run.stderr == b"thinmeta: " + name + b": No space left on device\n"


def test_a_file_that_may_grow_no_further_is_named(
    command: ThinmetaCommand, corpus: Corpus, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    pair = corpus["pair-zeroing-1"]
    for words in (
        ["dump", corpus["random-60k"].meta, "-o", out],
        ["extract", pair.meta, pair.data, "0", "--size=20504s", "-o", out],
    ):
        line = ["sh", "-c", 'ulimit -f 8; trap "" XFSZ; exec "$@"', "sh", *command.argv(*words)]
        run = subprocess.run(line, capture_output=True, text=True, check=False)
        assert run.returncode == 3
        assert run.stderr == f"thinmeta: {out}: File too large\n"
        assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("as_stdout", [False, True])
def test_a_device_too_small_for_the_volume_is_not_written_to(
    command: ThinmetaCommand, corpus: Corpus, tmp_path: Path, as_stdout: bool
) -> None:
    pair = corpus["pair-zeroing-1"]
    old = bytes(range(256)) * 4096
    (tmp_path / "beneath").write_bytes(old)
    with loop_device(tmp_path / "beneath") as device, device.open("r+b") as opened:
        out = "-" if as_stdout else device
        stdout = opened if as_stdout else subprocess.PIPE
        words = command.argv("extract", pair.meta, pair.data, "0", "-o", out, "--size")
        run = subprocess.run(
            [*words, "20504s"], stdout=stdout, stderr=subprocess.PIPE, text=True, check=False
        )
        assert run.returncode == 3
        name = "standard output" if as_stdout else device
        assert run.stderr == (
            f"thinmeta: {name}: No space left on device: it has room for 1048576 bytes, "
            "and 10498048 are to be written; nothing written\n"
        )
        assert opened.read() == old
        opened.seek(0)
        fits = subprocess.run([*words, "2048s"], stdout=stdout, stderr=subprocess.PIPE, check=False)
        assert fits.returncode == 0
    assert (tmp_path / "beneath").read_bytes() != old


def test_a_closed_stdout_is_one_line_and_status_3(command: ThinmetaCommand, corpus: Corpus) -> None:
    line = [*command.argv("ls", corpus["empty"].meta)]
    run = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *line], stderr=subprocess.PIPE, check=False
    )
    assert run.returncode == 3
    assert run.stderr.count(b"\n") == 1


def waiting_bytes(pipe: IO[bytes] | None) -> int:
    assert pipe is not None
    count = array("i", [0])
    fcntl.ioctl(pipe.fileno(), termios.FIONREAD, count)
    return count[0]


def is_asleep(process_id: int) -> bool:
    return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def wait_for(happens: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
)
def test_an_interrupt_ends_a_long_call_and_leaves_nothing(
    command: ThinmetaCommand, corpus: Corpus, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    image = corpus["pair-zeroing-1"]
    out = tmp_path / "out.img"
    words = command.argv("extract", image.meta, image.data, 0, "-o", out, HUGE)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        try:
            wait_for(lambda: is_writing(run.pid, tmp_path))
            sent = time.monotonic()
            run.send_signal(number)
            assert run.wait(30) == status
            assert time.monotonic() - sent < 5  # a second, on a machine that is not busy
        finally:
            run.kill()
        assert run.stderr is not None
        assert run.stderr.read().count(b"\n") == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["dump", "delta", "extract"])
def test_an_interrupt_ends_a_write_that_waits_for_its_reader(
    command: ThinmetaCommand, corpus: Corpus, name: str
) -> None:
    meta, pair = corpus["random-60k"].meta, corpus["pair-zeroing-1"]
    chain = corpus["snap-chain"].meta
    words = {
        "dump": command.argv("dump", meta),
        "delta": command.argv("delta", "--same", "--json", chain, 0, 20),
        "extract": command.argv("extract", pair.meta, pair.data, 0, "-o", "-", HUGE),
    }[name]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout is not None
        fcntl.fcntl(run.stdout, fcntl.F_SETPIPE_SZ, 4096)
        # What it holds differs with the size of the writes; when it is full, they sleep.
        wait_for(lambda: waiting_bytes(run.stdout) > 0 and is_asleep(run.pid))
        run.send_signal(signal.SIGINT)
        try:
            assert run.wait(10) == 130
        finally:
            run.kill()


def test_a_file_that_is_replaced_keeps_its_owner(tmp_path: Path) -> None:
    out, link = tmp_path / "out", tmp_path / "link"
    out.write_bytes(b"old")
    os.link(out, link)
    out.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(out, 12345, 54321)
    before = out.stat()
    with OutputFile(str(out)) as descriptor:
        os.write(descriptor, b"new")
    after = out.stat()
    assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)
    assert stat.S_IMODE(after.st_mode) == 0o640
    # It is another file: what other names lead to stays what it was.
    assert (out.read_bytes(), link.read_bytes()) == (b"new", b"old")


def test_whose_owner_cannot_be_kept_is_replaced_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, owner: int, group: int) -> None:
        raise PermissionError

    monkeypatch.setattr("os.fchown", refuse)
    out = tmp_path / "out"
    out.write_bytes(b"old")
    out.chmod(0o600)
    with OutputFile(str(out)) as descriptor:
        os.write(descriptor, b"new")
    assert out.read_bytes() == b"new"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
