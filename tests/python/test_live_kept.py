"""What is kept of live volumes for the next run is listed, and forgotten; nothing else is."""

import fcntl
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import thinmeta
from fake_lvm import FakeLvm
from kept_world import SIZE, KeptWorld, make_kept_world
from thinmeta import DeviceInUseError, LivePoolError, StreamError, UsageError
from thinmeta.live import nodes
from thinmeta.live.making import SnapshotMaker
from thinmeta.live.own import Books, OwnSnapshot

FIRST, SECOND, THIRD, FOURTH = range(9_000_000, 9_000_004)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeptWorld:
    return make_kept_world(tmp_path, monkeypatch)


def shown(world: KeptWorld) -> list[tuple[int | None, str, str, str]]:
    return [
        (each.device_id, each.purpose, each.role, each.presence) for each in world.live().kept()
    ]


def test_nothing_is_made_for_the_sake_of_a_look(world: KeptWorld) -> None:
    assert world.live().kept() == []
    assert world.live().forget("all") == ([], [], [])
    assert not world.state.exists()
    assert world.messages() == []


def test_what_is_kept_and_what_was_left_is_listed(world: KeptWorld) -> None:
    before = int(time.time())
    world.snapshot(FIRST, "replicate /srv/copy")
    world.snapshot(SECOND, "send", role="left")
    world.snapshot(THIRD, "send", role="removing")
    world.snapshot(FOURTH, "send", origin_id=3)
    # Before it was made the process was killed.
    with world.books("another") as books:
        books.write(making=OwnSnapshot(77), base=None)
    assert shown(world) == [
        (77, "another", "left", "gone"),
        (FIRST, "replicate /srv/copy", "kept", "there"),
        (SECOND, "send", "left", "there"),
        (THIRD, "send", "removing", "there"),
        (FOURTH, "send", "kept", "there"),
    ]
    found = {each.device_id: each for each in world.live().kept()}
    first, fourth = found[FIRST], found[FOURTH]
    assert (first.volume_id, first.volume_name, first.lvm_name) == (1, "home", "")
    assert (fourth.volume_id, fourth.volume_name) == (3, "")  # which is not active
    assert first.size_bytes == SIZE and found[77].size_bytes is None
    assert first.made_at is not None and before <= first.made_at <= time.time()
    assert found[77].made_at is None
    assert not any(each.in_use for each in found.values())
    world.dmsetup.tell("pool", f"delete {FIRST}")
    world.write(FOURTH, 0, b"mine")
    assert (FIRST, "replicate /srv/copy", "kept", "gone") in shown(world)
    assert (FOURTH, "send", "kept", "changed") in shown(world)
    assert world.dmsetup.held_root() is None


def test_books_that_do_not_say_when_are_read(world: KeptWorld) -> None:
    """As they were written before that was noted."""
    world.snapshot(FIRST, "send")
    (path,) = world.state.rglob("*.json")
    lines = [line for line in path.read_text().splitlines() if "made_at" not in line]
    path.write_text("\n".join(lines).replace(f'"size_bytes": {SIZE},', f'"size_bytes": {SIZE}'))
    (each,) = world.live().kept()
    assert (each.device_id, each.made_at, each.presence) == (FIRST, None, "there")


def test_ours_are_forgotten_and_nothing_else(world: KeptWorld) -> None:
    world.snapshot(FIRST, "send")
    world.snapshot(SECOND, "send a")
    world.snapshot(THIRD, "send b")
    files = world.files()
    live = world.live()
    for stranger in (2, 1, 77, "home", ""):
        with pytest.raises(LivePoolError, match="is not touched: 'thinmeta live kept pool'"):
            live.forget([FIRST, stranger])
    with pytest.raises(UsageError, match="or 'all'"):
        live.forget("everything")
    assert live.forget([]) == ([], [], [])
    assert (world.files(), world.device_ids()) == (files, [1, 2, 3, FIRST, SECOND, THIRD])
    report = live.forget([SECOND, SECOND])
    assert [each.device_id for each in report.removed] == [SECOND]
    assert (report.dropped, report.left) == ([], [])
    assert world.device_ids() == [1, 2, 3, FIRST, THIRD]
    report = live.forget("all")
    assert [each.device_id for each in report.removed] == [FIRST, THIRD]
    assert world.device_ids() == [1, 2, 3]
    assert world.files() == {}
    assert live.kept() == []
    assert len(world.messages("delete")) == 3
    with world.books("send") as books:
        assert books.page.snapshots == []


@pytest.mark.parametrize("alike", ["1999_0-pool", "1999:0-pool-1"])
def test_a_pool_whose_files_are_called_alike_is_left_alone(world: KeptWorld, alike: str) -> None:
    live = world.live()
    assert live.identity == "1999:0-pool"
    world.snapshot(FIRST, "send")
    with Books("other", alike, 2, "send") as books:
        books.write(making=None, base=OwnSnapshot(2, digest="00" * 32))
    assert len(world.files()) == 2
    assert [each.device_id for each in live.kept()] == [FIRST]
    live.forget("all")
    (left,) = world.files().values()
    assert f'"pool": "{alike}"' in left.decode()
    assert world.device_ids() == [1, 2, 3]


def test_of_what_is_gone_or_another_s_only_the_record_goes(world: KeptWorld) -> None:
    for number, purpose in ((FIRST, "a"), (SECOND, "b"), (THIRD, "c")):
        world.snapshot(number, purpose)
    world.dmsetup.tell("pool", f"delete {FIRST}")
    world.write(SECOND, 0, b"mine")
    # The number is used again, for a volume of somebody else.
    world.dmsetup.tell("pool", f"delete {THIRD}")
    world.dmsetup.tell("pool", f"create_thin {THIRD}")
    messages = world.messages("delete")
    live = world.live()
    assert [each.device_id for each in live.forget("all", dry_run=True).dropped] == [
        *(FIRST, SECOND, THIRD),
    ]
    report = live.forget([FIRST, SECOND, THIRD])
    assert [(each.device_id, each.presence) for each in report.dropped] == [
        *((FIRST, "gone"), (SECOND, "changed"), (THIRD, "changed")),
    ]
    assert report.removed == []
    assert world.messages("delete") == messages
    assert world.device_ids() == [1, 2, 3, SECOND, THIRD]
    assert world.files() == {}


def test_what_a_running_process_uses_is_refused(world: KeptWorld) -> None:
    world.snapshot(FIRST, "send")
    world.snapshot(SECOND, "send", role="left")
    world.snapshot(THIRD, "other")
    live = world.live()
    with world.user("send") as user:
        assert [each.in_use for each in live.kept()] == [False, True, True]
        for number in (FIRST, SECOND):
            with pytest.raises(DeviceInUseError, match="a process of thinmeta") as caught:
                live.forget([THIRD, number])  # of which none is touched
            assert "a snapshot of home (thin device 1)" in str(caught.value)
            with pytest.raises(DeviceInUseError):
                live.forget([number], dry_run=True)
        assert world.device_ids() == [1, 2, 3, FIRST, SECOND, THIRD]
        report = live.forget("all")
        assert [each.device_id for each in report.removed] == [THIRD]
        assert [each.snapshot.device_id for each in report.left] == [FIRST, SECOND]
        assert world.device_ids() == [1, 2, 3, FIRST, SECOND]
        user.kill()
    assert [each.in_use for each in live.kept()] == [False, False]
    assert len(live.forget("all").removed) == 2
    assert world.device_ids() == [1, 2, 3]


def test_one_that_begins_to_be_used_just_then_is_refused(
    world: KeptWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the work the books are opened, and what is in them changes."""
    world.snapshot(FIRST, "send")
    live = world.live()
    enter = Books.__enter__

    def used_before(books: Books) -> Books:
        monkeypatch.setattr(Books, "__enter__", enter)
        world.snapshot(SECOND, "send")  # which is the base now
        return enter(books)

    monkeypatch.setattr(Books, "__enter__", used_before)
    with pytest.raises(DeviceInUseError):
        live.forget([FIRST])
    assert world.device_ids() == [1, 2, 3, FIRST, SECOND]
    assert shown(world) == [(SECOND, "send", "kept", "there")]


def test_what_somebody_has_opened_is_refused(world: KeptWorld) -> None:
    world.snapshot(FIRST, "a")
    world.snapshot(SECOND, "b")
    world.dmsetup.add_volume(f"thinmeta-pool-{FIRST}", FIRST, readonly=True, open=1)
    # Nobody has it open; but under that name it is not ours to deactivate.
    world.dmsetup.add_volume("look", SECOND, readonly=True)
    files = world.files()
    live = world.live()
    with pytest.raises(DeviceInUseError, match="somebody has opened"):
        live.forget([FIRST])
    with pytest.raises(DeviceInUseError, match="active as look: deactivate it first"):
        live.forget([SECOND])
    report = live.forget("all")
    assert (report.removed, report.dropped, len(report.left)) == ([], [], 2)
    assert world.files() == files
    assert world.device_ids() == [1, 2, 3, FIRST, SECOND]


def test_one_that_a_killed_process_left_active_is_removed(world: KeptWorld) -> None:
    world.snapshot(FIRST, "a", role="left")
    world.dmsetup.add_volume(f"thinmeta-pool-{FIRST}", FIRST, readonly=True)
    assert [each.device_id for each in world.live().forget([FIRST]).removed] == [FIRST]
    assert [volume.name for volume in world.live().volumes()] == ["home"]
    assert world.device_ids() == [1, 2, 3]


def test_a_dry_run_forgets_nothing(world: KeptWorld) -> None:
    world.snapshot(FIRST, "a")
    world.snapshot(SECOND, "b", role="left")
    world.dmsetup.tell("pool", f"delete {SECOND}")
    files, messages = world.files(), world.messages("delete")
    report = world.live().forget("all", dry_run=True)
    assert [each.device_id for each in report.removed] == [FIRST]
    assert [each.device_id for each in report.dropped] == [SECOND]
    assert (world.files(), world.messages("delete")) == (files, messages)
    assert world.device_ids() == [1, 2, 3, FIRST]


def test_one_that_could_not_be_removed_is_not_forgotten(world: KeptWorld) -> None:
    world.snapshot(FIRST, "a")
    world.dmsetup.fail(f"message pool 0 delete {FIRST}", "message ioctl on pool  failed: I/O error")
    with pytest.raises(LivePoolError, match="I/O error"):
        world.live().forget([FIRST])
    # A base that may be half gone is none.
    assert shown(world) == [(FIRST, "a", "removing", "there")]
    with world.dmsetup.changed() as state:
        state["fail"].clear()
    world.live().forget("all")
    assert world.device_ids() == [1, 2, 3]
    assert world.files() == {}


def test_an_interrupt_does_not_cut_it_in_two(world: KeptWorld) -> None:
    world.snapshot(FIRST, "a")
    world.dmsetup.slow("message pool 0 delete", 0.5)

    def interrupt() -> None:
        while not world.messages("delete"):
            pass
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        world.live().forget("all")
    thread.join()
    assert world.device_ids() == [1, 2, 3]
    assert world.files() == {}


def test_a_look_keeps_nobody_from_beginning(world: KeptWorld) -> None:
    world.snapshot(FIRST, "send")
    (path,) = world.state.rglob("*.lock")
    looking = os.open(path, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    timer = threading.Timer(0.3, os.close, (looking,))
    timer.start()
    with world.books("send") as books:
        assert books.base is not None
        # And two who look do not see each other.
        assert [each.in_use for each in world.live().kept()] == [True]
    timer.join()


def test_damaged_books_are_named(world: KeptWorld) -> None:
    world.snapshot(FIRST, "a")
    (path,) = world.state.rglob("*.json")
    whole = path.read_bytes()
    spoiled = (b"", b"{", whole.replace(b'"a"', b'"b"'), whole.replace(b"9000000", b'"9"'), b"[]")
    for content in spoiled:
        path.write_bytes(content)
        for attempt in (world.live().kept, lambda: world.live().forget("all")):
            with pytest.raises(StreamError, match="is damaged") as caught:
                attempt()
            assert str(path) in str(caught.value)
    assert world.device_ids() == [1, 2, 3, FIRST]


def test_an_old_base_that_is_looked_at_is_removed_by_a_later_run(
    world: KeptWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It stays in the books, also of the runs in between."""
    monkeypatch.setattr(nodes, "NODE_SECONDS", 0.0)
    monkeypatch.setattr(nodes, "device_number", lambda path: path.removeprefix("/dev/block/"))
    world.snapshot(FIRST, "send", role="removing")
    world.dmsetup.add_volume("look", FIRST, readonly=True)
    live = world.live()

    def run() -> None:
        with world.books("send") as books:
            maker = SnapshotMaker(live, 1, books, words="home (thin device 1)")
            maker.begin(held="", wanted="")
            assert maker.volume.read_only
            maker.end(stays=False)

    run()
    assert "an old snapshot of home (thin device 1) is removed later" in caplog.text
    assert shown(world) == [(FIRST, "send", "removing", "there")]
    live.deactivate("look")
    run()
    assert world.device_ids() == [1, 2, 3]
    assert live.kept() == []


def test_a_snapshot_that_cannot_be_activated_is_called_as_the_user_calls_it(
    world: KeptWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "NODE_SECONDS", 0.0)
    live = world.live()
    with world.books("send") as books:
        maker = SnapshotMaker(live, 1, books, words="home (thin device 1)")
        with pytest.raises(LivePoolError, match=r"the snapshot of home \(thin device 1\) cannot"):
            maker.begin(held="", wanted="")
        maker.end(stays=False)
    assert world.device_ids() == [1, 2, 3]


def test_who_is_in_the_way_is_said_of_the_volume(world: KeptWorld) -> None:
    live = world.live()
    with world.user("send"):
        books = Books(live.name, live.identity, 1, "send", volume="home (thin device 1)")
        with pytest.raises(LivePoolError, match=r"forgets home \(thin device 1\) for the same"):
            books.__enter__()


# ---- pools of LVM ----


@pytest.fixture
def lvm(world: KeptWorld) -> FakeLvm:
    with world.dmsetup.changed() as state:
        state["devices"].clear()
    with thinmeta.open_pool(world.meta, mode="r+") as pool, pool.transaction() as txn:
        txn.delete(2)
        txn.delete(3)
    return FakeLvm(world.dmsetup, world.meta, world.data)


def keep_in_lvm(live: thinmeta.LivePool, name: str, purpose: str) -> int:
    assert live.lvm is not None
    made = live.lvm.create_snapshot(name, origin="home")
    with Books(live.name, live.identity, 1, purpose) as books:
        books.write(making=None, base=OwnSnapshot(made.device_id, lvm_name=name))
    return made.device_id


def test_in_pools_of_lvm_lvremove_does_it(world: KeptWorld, lvm: FakeLvm) -> None:
    live = thinmeta.live_pool("vg-1/pool")
    assert live.lvm is not None
    keep_in_lvm(live, "thinmeta-1-aa", "send")
    second = keep_in_lvm(live, "thinmeta-1-bb", "other")
    live.lvm.create_snapshot("monday", origin="home")
    # Killed between lvcreate and the note of its number.
    live.lvm.create_snapshot("thinmeta-1-cc", origin="home")
    with Books(live.name, live.identity, 1, "third") as books:
        books.write(making=OwnSnapshot(0, lvm_name="thinmeta-1-cc"), base=None)
    found = {each.lvm_name: each for each in live.kept()}
    assert list(found) == ["thinmeta-1-bb", "thinmeta-1-aa", "thinmeta-1-cc"]
    assert found["thinmeta-1-cc"].device_id == live.lvm.volume("thinmeta-1-cc").device_id
    assert (found["thinmeta-1-cc"].role, found["thinmeta-1-aa"].role) == ("left", "kept")
    assert {each.volume_name for each in found.values()} == {"home"}
    for stranger in ("monday", live.lvm.volume("monday").device_id):
        with pytest.raises(LivePoolError, match="is not touched"):
            live.forget([stranger])
    assert [each.lvm_name for each in live.forget(["thinmeta-1-aa"]).removed] == ["thinmeta-1-aa"]
    assert [each.lvm_name for each in live.forget([second]).removed] == ["thinmeta-1-bb"]
    live.lvm.remove("thinmeta-1-cc")
    (dropped,) = live.forget("all").dropped
    assert (dropped.lvm_name, dropped.device_id, dropped.presence) == (
        *("thinmeta-1-cc", None, "gone"),
    )
    assert list(lvm.rows()) == ["home", "monday"]
    assert [line for line in world.dmsetup.log() if line.startswith("lvremove")] == [
        f"lvremove --force vg-1/thinmeta-1-{word}" for word in ("aa", "bb", "cc")
    ]
    assert world.messages("delete") == []


def test_in_pools_of_lvm_what_lvremove_calls_used_is_put_off(
    world: KeptWorld, lvm: FakeLvm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody has it, and is not seen before: a device above it, a look at the wrong moment."""
    from thinmeta.live import programs

    live = thinmeta.live_pool("vg-1/pool")
    for name, purpose in (("thinmeta-1-aa", "send"), ("thinmeta-1-bb", "other")):
        keep_in_lvm(live, name, purpose)
    real = programs.run

    def run(name: str, program: str, words: tuple[str, ...], **options: Any) -> programs.Ran:
        if program == "lvremove" and words[-1].endswith("aa"):
            words_ = "lvremove: Logical volume vg-1/thinmeta-1-aa is used by another device."
            return programs.Ran(5, "", words_, 0)
        return real(name, program, words, **options)

    monkeypatch.setattr("thinmeta.live.lvm.run", run)
    with pytest.raises(DeviceInUseError, match="used by another device"):
        live.forget(["thinmeta-1-aa"])
    assert sorted(each.role for each in live.kept()) == ["kept", "kept"]
    report = live.forget("all")
    assert [each.lvm_name for each in report.removed] == ["thinmeta-1-bb"]
    assert len(report.left) == 1 and [each.role for each in live.kept()] == ["kept"]


def test_in_pools_of_lvm_what_is_open_stays(world: KeptWorld, lvm: FakeLvm) -> None:
    live = thinmeta.live_pool("vg-1/pool")
    assert live.lvm is not None
    keep_in_lvm(live, "thinmeta-1-aa", "send")
    live.lvm.activate("thinmeta-1-aa")
    with world.dmsetup.changed() as state:
        state["devices"]["vg--1-thinmeta--1--aa"]["open"] = 1
    with pytest.raises(DeviceInUseError, match=r"thinmeta-1-aa, a snapshot of home \(thin dev"):
        live.forget(["thinmeta-1-aa"])
    assert list(lvm.rows()) == ["home", "thinmeta-1-aa"]
    assert [each.role for each in live.kept()] == ["kept"]
