"""A metadata snapshot is shared by those who read, released by the last, and never lost.

The pool is an image, the programs are real processes, and the lock files are real.
"""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import thinmeta
from leaving import Leave, left
from live_world import READER, Child, LiveWorld, make_world
from thinmeta import (
    LivePool,
    MetadataSnapshotHeldError,
    NoMetadataSnapshotError,
    UsageError,
)
from thinmeta.live.holders import Holders, Record
from thinmeta.live.kept import holder

RESERVE = "message pool 0 reserve_metadata_snap"
RELEASE = "message pool 0 release_metadata_snap"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LiveWorld:
    return make_world(tmp_path, monkeypatch)


def messages(world: LiveWorld) -> list[str]:
    return [line for line in world.dmsetup.log() if line.startswith("message")]


def who(live: LivePool) -> str:
    return holder(live, live.status())


def test_a_pool_is_read_and_let_go(world: LiveWorld) -> None:
    live = world.live()
    snapshot = live.metadata_snapshot()
    with snapshot as pool:
        assert snapshot.held_root == world.dmsetup.held_root()
        assert (snapshot.joined, snapshot.adopted) == (False, False)
        assert who(live) == "process"
        assert list(pool.devices) == [1, 2, 3]
        assert pool.delta(1, 3).changed_bytes == 65536
        with pool.devices[3].open() as volume:
            assert volume.read(5) == b"three"
        assert thinmeta.check(pool).is_clean
        with pytest.raises(UsageError, match="open already"):
            snapshot.__enter__()
    assert pool.closed
    assert world.dmsetup.held_root() is None
    assert world.records() == []
    assert messages(world) == [RESERVE, RELEASE]
    with snapshot as pool:  # once more
        assert list(pool.devices) == [1, 2, 3]
    assert messages(world) == [RESERVE, RELEASE] * 2


def test_it_is_let_go_when_the_block_is_left_by_an_exception(world: LiveWorld) -> None:
    with left(), world.live().metadata_snapshot():
        raise Leave
    assert world.dmsetup.held_root() is None


def test_it_shows_the_pool_as_it_was(world: LiveWorld) -> None:
    with world.live().metadata_snapshot(data=False) as pool:
        world.dmsetup.tell("pool", "delete 2")
        world.dmsetup.tell("pool", "create_thin 9")
        assert list(pool.devices) == [1, 2, 3]
        with pytest.raises(UsageError, match="open the pool with data="):
            pool.devices[1].open()


def test_threads_of_one_process_share_it(world: LiveWorld) -> None:
    live = world.live()
    inside = threading.Barrier(4, timeout=60)

    def read() -> None:
        with live.metadata_snapshot() as pool:
            inside.wait()
            assert list(pool.devices) == [1, 2, 3]
            inside.wait()

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    inside.wait()
    held = world.dmsetup.held_root()
    assert held is not None
    inside.wait()
    for thread in threads:
        thread.join()
    assert world.dmsetup.held_root() is None
    assert messages(world) == [RESERVE, RELEASE]


def test_processes_share_it_and_the_last_one_releases(world: LiveWorld) -> None:
    live = world.live()
    with Child(READER) as first, Child(READER) as second:
        first.hear("reading")
        second.hear("reading")
        held = world.dmsetup.held_root()
        snapshot = live.metadata_snapshot()
        with snapshot as pool:
            assert (snapshot.held_root, snapshot.joined) == (held, True)
            first.say()
            assert first.end() == (0, "")
            assert list(pool.devices) == [1, 2, 3]
        assert world.dmsetup.held_root() == held
        with pytest.raises(MetadataSnapshotHeldError, match="try again later") as caught:
            live.metadata_snapshot(fresh=True).__enter__()
        assert caught.value.held_root == held
        second.say()
        assert second.end() == (0, "")
    assert world.dmsetup.held_root() is None
    assert messages(world) == [RESERVE, RELEASE]


def test_what_a_killed_one_left_is_released_by_the_next(world: LiveWorld) -> None:
    live = world.live()
    with Child(READER) as reader:
        reader.hear("reading")
        assert who(live) == "process"
        reader.kill()
    assert world.dmsetup.held_root() is not None
    assert who(live) == "stale"
    world.dmsetup.tell("pool", "create_thin 9")
    with live.metadata_snapshot() as pool:
        assert list(pool.devices) == [1, 2, 3, 9]  # not what the dead one read
    assert messages(world) == [RESERVE, RELEASE, RESERVE, RELEASE]


def test_one_who_lives_keeps_what_a_killed_one_shared(world: LiveWorld) -> None:
    with Child(READER) as first, Child(READER) as second:
        first.hear("reading")
        second.hear("reading")
        first.kill()
        assert who(world.live()) == "process"
        assert not world.live().release_metadata_snapshot(stale=True)
        second.say()
        assert second.end() == (0, "")
    assert world.dmsetup.held_root() is None


def test_what_was_left_is_released_on_request(world: LiveWorld) -> None:
    live = world.live()
    assert not live.release_metadata_snapshot(stale=True)
    with Child(READER) as reader:
        reader.hear("reading")
        with pytest.raises(MetadataSnapshotHeldError, match="a process that runs"):
            live.release_metadata_snapshot()
        assert not live.release_metadata_snapshot(stale=True)
        reader.kill()
    with pytest.raises(MetadataSnapshotHeldError, match="release --stale pool"):
        live.release_metadata_snapshot()
    assert live.release_metadata_snapshot(stale=True)
    assert world.dmsetup.held_root() is None
    with pytest.raises(NoMetadataSnapshotError):
        live.release_metadata_snapshot()


def test_somebody_else_s_is_not_touched(world: LiveWorld) -> None:
    live = world.live()
    world.dmsetup.tell("pool", "reserve_metadata_snap")
    held = world.dmsetup.held_root()
    for attempt in (
        live.metadata_snapshot().__enter__,
        live.reserve_metadata_snapshot,
        live.release_metadata_snapshot,
        lambda: live.release_metadata_snapshot(stale=True),
    ):
        with pytest.raises(MetadataSnapshotHeldError, match="somebody else's tool holds") as caught:
            attempt()
        assert caught.value.held_root == held
        assert "dmsetup message pool 0 release_metadata_snap" in str(caught.value)
    snapshot = live.metadata_snapshot(adopt=True)
    with snapshot as pool:
        assert (snapshot.adopted, snapshot.held_root) == (True, held)
        assert list(pool.devices) == [1, 2, 3]
    assert world.dmsetup.held_root() == held
    assert messages(world) == []
    assert who(live) == "other"


def test_adopting_where_nobody_holds_one_reserves_it(world: LiveWorld) -> None:
    snapshot = world.live().metadata_snapshot(adopt=True)
    with snapshot:
        assert not snapshot.adopted
    assert messages(world) == [RESERVE, RELEASE]


def test_one_that_was_released_in_the_middle_is_not_read_on(world: LiveWorld) -> None:
    with world.live().metadata_snapshot() as pool:
        world.dmsetup.tell("pool", "release_metadata_snap")
        with pytest.raises(NoMetadataSnapshotError):
            list(pool.devices)
    assert messages(world) == [RESERVE]
    assert world.records() == []


def test_one_that_somebody_reserved_in_the_middle_is_not_released(world: LiveWorld) -> None:
    with world.live().metadata_snapshot():
        world.dmsetup.tell("pool", "release_metadata_snap")
        world.dmsetup.tell("pool", "create_thin 9")
        world.dmsetup.tell("pool", "reserve_metadata_snap")
        held = world.dmsetup.held_root()
    assert world.dmsetup.held_root() == held
    assert who(world.live()) == "other"
    with pytest.raises(MetadataSnapshotHeldError, match="somebody else"):
        world.live().metadata_snapshot().__enter__()


def test_the_same_block_with_another_content_is_not_ours(world: LiveWorld) -> None:
    """After ours was released by hand, somebody else's may lie where ours was."""
    live = world.live()
    with Child(READER) as reader:
        reader.hear("reading")
        reader.kill()
    held = world.dmsetup.held_root()
    world.dmsetup.tell("pool", "release_metadata_snap")
    for number in range(50, 300):
        world.dmsetup.tell("pool", f"create_thin {number}")
        world.dmsetup.tell("pool", "reserve_metadata_snap")
        if world.dmsetup.held_root() == held:
            break
        world.dmsetup.tell("pool", "release_metadata_snap")
    assert world.dmsetup.held_root() == held, "it never came back to that block"
    assert who(live) == "other"
    with pytest.raises(MetadataSnapshotHeldError, match="somebody else"):
        live.metadata_snapshot().__enter__()


def test_a_kept_one_outlives_its_process(world: LiveWorld) -> None:
    live = world.live()
    code = (
        "import thinmeta; print(thinmeta.live_pool('pool').reserve_metadata_snapshot(), flush=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    held = world.dmsetup.held_root()
    assert int(done.stdout) == held
    assert who(live) == "command"
    with live.metadata_snapshot():
        assert world.dmsetup.held_root() == held
    assert world.dmsetup.held_root() == held
    with pytest.raises(MetadataSnapshotHeldError, match="reserved by a command"):
        live.reserve_metadata_snapshot()
    with pytest.raises(MetadataSnapshotHeldError, match="reserved by a command"):
        live.metadata_snapshot(fresh=True).__enter__()
    assert not live.release_metadata_snapshot(stale=True)
    assert live.release_metadata_snapshot()
    assert world.dmsetup.held_root() is None


def test_a_kept_one_that_is_read_is_released_by_its_last_reader(world: LiveWorld) -> None:
    live = world.live()
    live.reserve_metadata_snapshot()
    with live.metadata_snapshot() as pool:
        assert not live.release_metadata_snapshot()
        assert list(pool.devices) == [1, 2, 3]
    assert world.dmsetup.held_root() is None


def test_it_is_released_when_the_interpreter_ends(world: LiveWorld) -> None:
    ends = {
        "pass": 0,
        "sys.exit(7)": 7,
        "raise ZeroDivisionError": 1,
        "signal.raise_signal(signal.SIGINT)": -signal.SIGINT,
    }
    for end, status in ends.items():
        code = f"""
import signal, sys, thinmeta
snapshot = thinmeta.live_pool("pool").metadata_snapshot()
pool = snapshot.__enter__()
assert list(pool.devices)
{end}
"""
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stderr
        assert world.dmsetup.held_root() is None, end
    assert messages(world) == [RESERVE, RELEASE] * len(ends)


def test_a_failure_at_the_interpreter_s_end_is_one_line(world: LiveWorld) -> None:
    world.dmsetup.fail("message pool 0 release", "message ioctl on pool  failed: Not supported")
    code = "import thinmeta; thinmeta.live_pool('pool').metadata_snapshot().__enter__()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("thinmeta: pool: the metadata snapshot could not be released")
    assert "'thinmeta live release --stale pool'" in done.stderr


def test_a_library_installs_no_handlers_of_signals(world: LiveWorld) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    with world.live().metadata_snapshot():
        assert [signal.getsignal(number) for number in numbers] == before
    assert [signal.getsignal(number) for number in numbers] == before


def test_an_interrupt_while_it_is_reserved_leaves_nothing(world: LiveWorld) -> None:
    world.dmsetup.slow(RESERVE, 0.5)
    live = world.live()

    def interrupt() -> None:
        while RESERVE not in world.dmsetup.log():
            pass
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        live.metadata_snapshot().__enter__()
    thread.join()
    assert messages(world) == [RESERVE, RELEASE]
    assert world.dmsetup.held_root() is None
    assert world.records() == []


def test_one_killed_while_the_kernel_was_asked_is_recognised(world: LiveWorld) -> None:
    """The program goes on, and whoever comes next waits for it."""
    world.dmsetup.slow(RESERVE, 1.0)
    with Child(READER) as reader:
        while RESERVE not in world.dmsetup.log():
            pass
        reader.kill()
        assert world.dmsetup.held_root() is None
        with world.live().metadata_snapshot() as pool:
            assert list(pool.devices) == [1, 2, 3]
    assert messages(world) == [RESERVE, RELEASE, RESERVE, RELEASE]
    assert world.dmsetup.held_root() is None


def test_an_intent_that_was_never_carried_out_claims_nothing(world: LiveWorld) -> None:
    """Killed before the kernel was asked; then somebody else reserved one."""
    world.dmsetup.fail(RESERVE, "signal SIGKILL")
    with Child(READER) as reader:
        reader.end()
    with world.dmsetup.changed() as state:
        state["fail"].clear()
    live = world.live()
    holders = Holders(live.name, live.identity)
    with holders.critical():
        holders.note(Record("process", None, None, reserved=False))
    world.dmsetup.tell("pool", "reserve_metadata_snap")
    assert who(live) == "other"
    with pytest.raises(MetadataSnapshotHeldError, match="somebody else"):
        live.metadata_snapshot().__enter__()


def test_a_forked_child_releases_nothing(world: LiveWorld) -> None:
    live = world.live()
    snapshot = live.metadata_snapshot()
    with snapshot as pool:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                snapshot.__exit__(None, None, None)
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert world.dmsetup.held_root() is not None
        assert list(pool.devices) == [1, 2, 3]
    assert world.dmsetup.held_root() is None
    assert messages(world) == [RESERVE, RELEASE]


def test_a_child_that_lives_on_does_not_keep_it(world: LiveWorld) -> None:
    """The parent is killed; its child still has what it inherited, but no part in it."""
    code = """
import os, sys, time, thinmeta
snapshot = thinmeta.live_pool("pool").metadata_snapshot()
snapshot.__enter__()
if os.fork() == 0:
    print("forked", flush=True)
    os.read(0, 1)
    os._exit(0)
time.sleep(600)
"""
    with Child(code) as parent:
        parent.hear("forked")
        parent.kill()
        assert who(world.live()) == "stale"
        parent.say()


@pytest.mark.parametrize("seed", range(3))
def test_many_come_and_go_and_some_are_killed(world: LiveWorld, seed: int) -> None:
    """Whoever reads has its snapshot all the while; in the end nothing is held."""
    code = """
import sys, thinmeta
live = thinmeta.live_pool("pool")
print("ready", flush=True)
for _ in range(4):
    with live.metadata_snapshot(data=False) as pool:
        for _ in range(20):
            assert list(pool.devices)[:3] == [1, 2, 3]
"""
    children = [Child(code) for _ in range(4)]
    try:
        for child in children:
            child.hear("ready")
        children[seed].kill()
        for child in children:
            if child is not children[seed]:
                assert child.end() == (0, "")
    finally:
        for child in children:
            child.__exit__()
    world.live().release_metadata_snapshot(stale=True)
    assert world.dmsetup.held_root() is None
    said = messages(world)
    assert said == [RESERVE, RELEASE] * (len(said) // 2)
