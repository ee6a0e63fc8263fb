"""Ctrl-C ends a long call at once: quietly, with 130, leaving nothing half done."""

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

import thinmeta
from command import ThinmetaCommand, is_writing
from corpus import Corpus, Image
from ondisk import BLOCK, patched, seal, tree, u64

#: "Within a second", with room for a machine that has other things to do.
SOON_SECONDS = 5


@pytest.fixture(scope="module")
def long_pool(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool whose listing takes minutes: ten thousand devices share one big tree."""
    image = corpus["random-60k"]
    raw = image.meta.read_bytes()
    top = int.from_bytes(raw[320:328], "little")
    root = raw[top * BLOCK + 32 + 8 * 252 :][:8]
    details = bytes.fromhex("60ea000000000000" + "00" * 16)
    devices = range(10_000)
    free = int.from_bytes(raw[192:200], "little") - 400
    mapping_root, mapping_blocks = tree(free, [(d, root) for d in devices], 8)
    after = free + len(mapping_blocks)
    details_root, details_blocks = tree(after, [(d, details) for d in devices], 24)
    block0 = patched(patched(raw[:BLOCK], 320, u64(mapping_root)), 328, u64(details_root))
    path = tmp_path_factory.mktemp("long") / "meta.img"
    path.write_bytes(raw)
    with path.open("r+b") as file:
        file.write(seal(block0, "thin superblock"))
        file.seek(free * BLOCK)
        file.write(b"".join(mapping_blocks + details_blocks))
    return path


def interrupted(process: subprocess.Popen[bytes]) -> int:
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    status = process.wait(timeout=60)
    assert time.monotonic() - started < SOON_SECONDS
    return status


def drain(process: subprocess.Popen[bytes]) -> threading.Thread:
    stream = process.stdout
    assert stream is not None

    def read_on() -> None:
        while stream.read(1 << 20):
            pass

    thread = threading.Thread(target=read_on)
    thread.start()
    return thread


def test_the_long_pool_is_one(long_pool: Path) -> None:
    with thinmeta.open_pool(long_pool) as pool:
        assert len(pool.devices) == 10_000
        assert pool.devices[9_999].mapped_blocks == 60_000
        assert next(iter(pool.devices[9_999].runs())) == next(iter(pool.devices[0].runs()))


@pytest.mark.parametrize("reader", ["fast", "stuck"])
def test_ctrl_c_ends_a_dump_within_a_second(
    long_pool: Path, command: ThinmetaCommand, reader: str
) -> None:
    process = subprocess.Popen(
        command.argv("dump", long_pool), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(100_000)
    thread = drain(process) if reader == "fast" else None

    assert interrupted(process) == 130
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    if thread is not None:
        thread.join()
    process.stdout.close()


def test_ctrl_c_leaves_no_output_file_behind(
    long_pool: Path, command: ThinmetaCommand, tmp_path: Path
) -> None:
    process = subprocess.Popen(command.argv("dump", long_pool, "-o", tmp_path / "out.xml"))
    wait_for_a_file(process, tmp_path)

    assert interrupted(process) == 130
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def large_and_damaged(long_pool: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Metadata as large as can be, without a superblock: all of it has to be looked at."""
    path = tmp_path_factory.mktemp("large") / "meta.img"
    path.write_bytes(bytes([0xFF]) * BLOCK + long_pool.read_bytes()[BLOCK:])
    os.truncate(path, 255 * 16320 * BLOCK)
    return path


#: How long each has run when it is interrupted, much less than all that it takes.
MOMENT_SECONDS = 0.7


def interrupted_later(words: list[str], stdin: IO[bytes] | None = None) -> None:
    with subprocess.Popen(
        words, stdin=stdin, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=MOMENT_SECONDS)
        assert interrupted(process) == 130
        assert process.stderr is not None
        assert process.stderr.read() == b"thinmeta: interrupted\n"


def interrupted_at_work(words: list[str]) -> None:
    """Interrupted as soon as threads of the native module are at work."""
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        until = time.monotonic() + 60
        while len(os.listdir(f"/proc/{process.pid}/task")) == 1:
            assert process.poll() is None and time.monotonic() < until
        assert interrupted(process) == 130
        assert process.stderr is not None
        assert process.stderr.read() == b"thinmeta: interrupted\n"


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_ctrl_c_ends_rmap(long_pool: Path, command: ThinmetaCommand, form: tuple[str, ...]) -> None:
    interrupted_later(command.argv("rmap", *form, long_pool))


def test_ctrl_c_ends_a_repair_and_leaves_nothing(
    large_and_damaged: Path, command: ThinmetaCommand, tmp_path: Path
) -> None:
    words = ("repair", "--data-block-size", 128, large_and_damaged)
    interrupted_at_work(command.argv(*words, "--plan"))
    interrupted_later(command.argv(*words, "-o", tmp_path / "new"))
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_ends_a_restore_and_leaves_nothing(
    long_pool: Path, command: ThinmetaCommand, tmp_path: Path
) -> None:
    with subprocess.Popen(command.argv("dump", long_pool), stdout=subprocess.PIPE) as feeder:
        assert feeder.stdout is not None
        interrupted_later(command.argv("restore", "-", "-o", tmp_path / "new"), feeder.stdout)
        feeder.kill()
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_ends_an_extract_within_a_second(
    corpus: Corpus, command: ThinmetaCommand, tmp_path: Path
) -> None:
    image = corpus["pair-zeroing-2"]
    process = subprocess.Popen(
        command.argv(
            "extract", image.meta, image.data, 0, "-o", tmp_path / "out.img", "--size", 8 << 40
        ),
        stdout=subprocess.DEVNULL,
    )
    wait_for_a_file(process, tmp_path)

    assert interrupted(process) == 130
    assert list(tmp_path.iterdir()) == []


def wait_for_a_file(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Until the command has begun to write, which it does to a file without a name."""
    deadline = time.monotonic() + 60
    while not is_writing(process.pid, folder):
        assert process.poll() is None, "ended before anything was written"
        assert time.monotonic() < deadline
        os.sched_yield()


@pytest.fixture
def ctrl_c_soon() -> Iterator[None]:
    """Ctrl-C a moment from now, while the call has let go of the interpreter's lock."""
    timer = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])
    timer.start()
    yield
    timer.cancel()


def test_ctrl_c_ends_a_long_call_of_the_api(long_pool: Path, ctrl_c_soon: None) -> None:
    with thinmeta.open_pool(long_pool) as pool, Path(os.devnull).open("wb") as out:
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            thinmeta.dump(pool, out.fileno())
        assert time.monotonic() - started < SOON_SECONDS
        assert pool.devices[0].mapped_blocks == 60_000, "the pool goes on working"


def test_a_progress_callback_may_end_the_call(long_pool: Path) -> None:
    class EnoughError(Exception):
        pass

    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        seen.append((done, total))
        if len(seen) == 3:
            raise EnoughError

    with thinmeta.open_pool(long_pool) as pool, Path(os.devnull).open("wb") as out:
        with pytest.raises(EnoughError):
            thinmeta.dump(pool, out.fileno(), progress=progress)
    assert all(0 <= done <= total for done, total in seen)
    assert seen == sorted(seen)


def died_while_python_started(err: bytes) -> bool:
    """Whether an interrupt ended the interpreter itself, before it ran a line of ours.

    It says so in several ways ("Fatal Python error", "failed to set __main__.__loader__"),
    always with a traceback of nothing but its own frozen modules.
    """
    frames = re.findall(rb'^ *File "([^"]+)"', err, re.MULTILINE)
    only_its_own = bool(frames) and all(frame.startswith(b"<frozen ") for frame in frames)
    return only_its_own and b"\nthinmeta: " not in b"\n" + err


def test_ctrl_c_at_any_moment_is_130_or_the_whole_answer(
    corpus: Corpus, command: ThinmetaCommand
) -> None:
    image: Image = corpus["random-60k"]
    words = command.argv("check", "--json", image.meta)
    whole = subprocess.run(words, capture_output=True, check=True, timeout=60)
    statuses = set()
    for moment in range(25):
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            process.wait(timeout=0.004 * moment)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        if process.returncode == 1 and died_while_python_started(err):
            continue
        statuses.add(process.returncode)
        if process.returncode == 0:
            assert out == whole.stdout
        elif moment * 0.004 > 0.05:
            assert b"Traceback" not in err
    assert statuses <= {0, 130, -signal.SIGINT}
