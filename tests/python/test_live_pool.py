"""A live pool is found, asked and told things; what is refused is a typed error."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import thinmeta
from leaving import Leave, left
from live_world import Child, LiveWorld, make_world
from thinmeta import LivePoolError, UsageError
from thinmeta.live import nodes, programs


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LiveWorld:
    return make_world(tmp_path, monkeypatch)


def test_a_pool_says_all_about_itself(world: LiveWorld) -> None:
    live = world.live()
    assert (live.name, live.uuid, live.lvm) == ("pool", "", None)
    assert (live.metadata_path, live.data_path) == (str(world.meta), str(world.data))
    assert (live.data_block_size_sectors, live.low_water_mark_blocks) == (128, 100)
    assert live.features == ("skip_block_zeroing", "error_if_no_space")
    assert live.target_version == (1, 22, 0)
    assert ".".join(map(str, live.kernel_version)) in os.uname().release
    status = live.status()
    assert (status.transaction_id, status.mode, status.held_root) == (0, "rw", None)
    assert (status.used_data_blocks, status.total_data_blocks) == (4, 1000)


def test_volumes_are_those_of_the_pool_alone(world: LiveWorld) -> None:
    world.dmsetup.add_pool("other", world.meta, world.data)
    world.dmsetup.add_volume("home", 1, open=2)
    world.dmsetup.add_volume("copy", 2, readonly=True, suspended=True, uuid="a-uuid")
    world.dmsetup.add_volume("foreign", 1, pool="other")
    live = world.live()
    home, copy = live.volumes()
    assert (home.name, home.device_id, home.size_bytes) == ("home", 1, 20480 * 512)
    assert (home.read_only, home.suspended, home.open_count, home.uuid) == (False, False, 2, "")
    assert (copy.read_only, copy.suspended, copy.uuid) == (True, True, "a-uuid")
    assert (copy.mapped_sectors, copy.highest_mapped_sector) == (0, None)
    assert live.find_volume(2) == copy
    assert live.find_volume(3) is None
    assert live.device_id_of("home") == live.device_id_of("/dev/mapper/home") == 1
    with pytest.raises(LivePoolError, match="no volume 'foreign' of this pool"):
        live.device_id_of("foreign")
    world.dmsetup.add_volume("copy-rw", 2)
    assert live.find_volume(2) == live.volumes()[2]  # the one that may change


def test_every_device_changing_message_is_done(world: LiveWorld) -> None:
    live = world.live()
    live.create_thin(8)
    live.create_snapshot(9, origin_id=1)
    live.delete(2)
    live.set_transaction_id(0, 5)
    with thinmeta.open_pool(world.meta) as pool:
        assert list(pool.devices) == [1, 3, 8, 9]
        assert pool.devices[9].mapped_blocks == 3
        assert pool.superblock.trans_id == 5


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda live: live.create_thin(1), thinmeta.DeviceExistsError, "device 1 already"),
        (
            lambda live: live.create_snapshot(2, origin_id=1),
            thinmeta.DeviceExistsError,
            "device 2 already",
        ),
        (
            lambda live: live.create_snapshot(9, origin_id=77),
            thinmeta.NoSuchDeviceError,
            "no thin device 77",
        ),
        (lambda live: live.delete(77), thinmeta.NoSuchDeviceError, "no thin device 77"),
        (
            lambda live: live.set_transaction_id(4, 5),
            thinmeta.StaleTransactionError,
            "is 0, not 4",
        ),
        (lambda live: live.create_thin(1 << 24), UsageError, "0 to 16777215"),
        (lambda live: live.create_thin(-1), UsageError, "0 to 16777215"),
        (lambda live: live.create_thin(True), TypeError, "must be a number"),
        (lambda live: live.set_transaction_id(0, 1 << 64), UsageError, "cannot be"),
        (lambda live: live.create_snapshot(9, origin_id=1, suspend="x"), UsageError, "not active"),
    ],
)
def test_a_refusal_says_what_it_is(
    world: LiveWorld,
    call: Callable[[thinmeta.LivePool], object],
    error: type[Exception],
    says: str,
) -> None:
    live = world.live()
    with pytest.raises(error, match=says):
        call(live)
    with thinmeta.open_pool(world.meta) as pool:
        assert list(pool.devices) == [1, 2, 3]


def test_an_active_device_is_not_deleted(world: LiveWorld) -> None:
    world.dmsetup.add_volume("home", 1)
    with pytest.raises(thinmeta.DeviceInUseError, match="active as home: deactivate it"):
        world.live().delete(1)


def test_an_active_origin_stands_still_while_a_snapshot_is_made(world: LiveWorld) -> None:
    world.dmsetup.add_volume("home", 1)
    live = world.live()
    with pytest.raises(UsageError, match=r"active as home.*suspend='home'"):
        live.create_snapshot(9, origin_id=1)
    with pytest.raises(UsageError, match=r"other is not thin device 1 .*active as home"):
        live.create_snapshot(9, origin_id=1, suspend="other")
    live.create_snapshot(9, origin_id=1, suspend="home")
    changes = [line for line in world.dmsetup.log() if line.split()[0] not in ("info", "table")]
    assert changes[-3:] == ["suspend home", "message pool 0 create_snap 9 1", "resume home"]
    # One that is suspended already stays so.
    with world.dmsetup.changed() as state:
        state["devices"]["home"]["suspended"] = True
    live.create_snapshot(10, origin_id=1)
    live.create_snapshot(11, origin_id=1, suspend="home")
    home = live.find_volume(1)
    assert home is not None and home.suspended


def test_a_volume_goes_on_whatever_happens(world: LiveWorld) -> None:
    world.dmsetup.add_volume("home", 1)
    live = world.live()
    with pytest.raises(thinmeta.DeviceExistsError):
        live.create_snapshot(2, origin_id=1, suspend="home")
    with left(), live.suspended("home"):
        assert live.volumes()[0].suspended
        raise Leave
    assert not live.volumes()[0].suspended
    world.dmsetup.fail("resume home", "device-mapper: resume ioctl failed: Input/output error")
    with (
        pytest.raises(LivePoolError, match="still suspended: 'dmsetup resume home'") as caught,
        live.suspended("home"),
    ):
        pass
    assert caught.value.errno == errno.EIO
    with pytest.raises(ZeroDivisionError) as other, live.suspended("home"):
        raise ZeroDivisionError
    # It was suspended when this one came.
    assert not hasattr(other.value, "__notes__")


def test_an_interrupt_waits_for_the_end_of_a_snapshot(world: LiveWorld) -> None:
    world.dmsetup.add_volume("home", 1)
    live = world.live()
    world.dmsetup.slow("message pool 0 create_snap", 1.0)

    def interrupt() -> None:
        while "suspend home" not in world.dmsetup.log():
            pass
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        live.create_snapshot(9, origin_id=1, suspend="home")
    thread.join()
    assert world.dmsetup.log()[-2:] == ["message pool 0 create_snap 9 1", "resume home"]
    assert not live.volumes()[0].suspended


def test_a_volume_goes_on_when_the_process_is_killed(world: LiveWorld) -> None:
    world.dmsetup.add_volume("home", 1)
    live = world.live()
    code = """
import sys, thinmeta
with thinmeta.live_pool("pool").suspended("home"):
    print("still", flush=True)
    sys.stdin.readline()
"""
    with Child(code) as child:
        child.hear("still")
        assert live.volumes()[0].suspended
        child.kill()
        while "resume home" not in world.dmsetup.log():
            time.sleep(0.01)
    assert not live.volumes()[0].suspended
    # But not before the kernel has made the snapshot that it was asked for.
    world.dmsetup.slow("message", 0.5)
    code = "import thinmeta; live = thinmeta.live_pool('pool')\n"
    code += "live.create_snapshot(9, origin_id=1, suspend='home')"
    with Child(code) as child:
        while not any(line.startswith("message") for line in world.dmsetup.log()):
            time.sleep(0.01)
        child.kill()
        while world.dmsetup.log().count("resume home") < 2:
            assert live.volumes()[0].suspended or 9 in device_ids(world)
    assert 9 in device_ids(world)


def device_ids(world: LiveWorld) -> list[int]:
    with thinmeta.open_pool(world.meta) as pool:
        return list(pool.devices)


def test_volumes_are_activated_and_deactivated(
    world: LiveWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "NODE_SECONDS", 0.0)
    monkeypatch.setattr(nodes, "device_number", lambda path: path.removeprefix("/dev/block/"))
    live = world.live()
    volume = live.activate(2, name="look", size_sectors=2048)
    assert (volume.name, volume.device_id, volume.size_sectors) == ("look", 2, 2048)
    assert volume.read_only
    with pytest.raises(LivePoolError, match="is there a device of that name already"):
        live.activate(2, name="look", size_sectors=2048)
    live.deactivate("look")
    assert live.volumes() == []
    with pytest.raises(LivePoolError, match="does not exist"):
        live.deactivate("look")
    with pytest.raises(LivePoolError, match="no device can have such a name"):
        live.activate(2, name="a/b", size_sectors=2048)
    with pytest.raises(UsageError, match="no block device"):
        live.activate(2, name="look", size_sectors=2048, external_origin=world.data)


def test_a_node_that_does_not_come_leaves_no_device(
    world: LiveWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "NODE_SECONDS", 0.0)
    with pytest.raises(LivePoolError, match=r"node /dev/block/1999:1 is gone.*dmsetup mknodes"):
        world.live().activate(2, name="look", size_sectors=2048)
    assert world.live().volumes() == []


def test_a_temporary_snapshot_is_there_and_gone(
    world: LiveWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "NODE_SECONDS", 0.0)
    monkeypatch.setattr(nodes, "device_number", lambda path: path.removeprefix("/dev/block/"))
    world.dmsetup.add_volume("home", 1)
    live = world.live()
    highest = (1 << 24) - 1
    live.create_thin(highest)  # taken
    with live.temporary_snapshot("home") as volume:
        assert (volume.device_id, volume.read_only) == (highest - 1, True)
        assert volume.size_sectors == 20480
        assert str(os.getpid()) in volume.name
        with live.metadata_snapshot(fresh=True) as pool:
            assert pool.devices[volume.device_id].mapped_blocks == 3
    with left(), live.temporary_snapshot(1, name="look") as volume:
        assert volume.name == "look"
        raise Leave
    assert [volume.name for volume in live.volumes()] == ["home"]
    with thinmeta.open_pool(world.meta) as pool:
        assert list(pool.devices) == [1, 2, 3, highest]
    with pytest.raises(UsageError, match="size_sectors is needed"), live.temporary_snapshot(2):
        pass
    with pytest.raises(thinmeta.NoSuchDeviceError), live.temporary_snapshot(99, size_sectors=8):
        pass
    # What cannot be activated is deleted again.
    world.dmsetup.fail("create", "device-mapper: reload ioctl on x failed: Invalid argument")
    with pytest.raises(LivePoolError, match="Invalid argument"), live.temporary_snapshot("home"):
        pass
    with thinmeta.open_pool(world.meta) as pool:
        assert list(pool.devices) == [1, 2, 3, highest]


@pytest.mark.parametrize(
    "word",
    ["nothing", "-x", "-j", "a/b/c", "vg/pool", "/dev/mapper/none", "/dev/none/x", "..", "."],
)
def test_a_pool_that_is_not_there_is_an_error_that_names_those_that_are(
    world: LiveWorld, word: str
) -> None:
    with pytest.raises(LivePoolError) as caught:
        thinmeta.live_pool(word)
    assert caught.value.pool.startswith(word)
    if word not in ("..", "."):
        assert "active pools: pool" in str(caught.value)
        assert caught.value.errno == errno.ENXIO


def test_what_is_no_pool_is_refused(world: LiveWorld) -> None:
    world.dmsetup.add_volume("home", 1)
    world.dmsetup.add("plain", "0 100 linear 8:0 0")
    with pytest.raises(UsageError, match="a volume of a thin pool"):
        thinmeta.live_pool("home")
    with pytest.raises(UsageError, match="no thin pool, but a device with the target 'linear'"):
        thinmeta.live_pool("plain")
    with pytest.raises(UsageError, match="no device: open_pool"):
        thinmeta.live_pool(world.meta)
    with pytest.raises(UsageError, match="no pool is named"):
        thinmeta.live_pool("")
    with pytest.raises(TypeError, match="not int"):
        thinmeta.live_pool(5)  # type: ignore[arg-type]


def test_names_are_no_options(world: LiveWorld) -> None:
    world.dmsetup.add_pool("--help", world.meta, world.data)
    live = thinmeta.live_pool("--help")
    assert live.name == "--help"
    live.create_thin(50)
    with live.metadata_snapshot() as pool:
        assert 50 in pool.devices


def test_a_missing_program_is_said(world: LiveWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    live = world.live()
    monkeypatch.setattr(programs, "_find", lambda program: None)
    with pytest.raises(LivePoolError, match="the program dmsetup is not installed") as caught:
        live.status()
    assert caught.value.errno == errno.ENOENT


def test_what_the_program_complains_about_is_one_line(world: LiveWorld) -> None:
    live = world.live()
    complaint = "/dev/mapper/control: open failed: Permission denied\n  and  more\n"
    complaint += "Failure to communicate with kernel device-mapper driver."
    world.dmsetup.fail("status", complaint)
    with pytest.raises(LivePoolError) as caught:
        live.status()
    assert caught.value.reason == (
        "dmsetup: /dev/mapper/control: open failed: Permission denied; and more"
    )
    assert caught.value.errno == errno.EACCES
    world.dmsetup.fail("table", "signal SIGKILL")
    with pytest.raises(LivePoolError, match="ended by signal 9"):
        live.volumes()


def test_a_program_that_does_not_answer_is_ended(
    world: LiveWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = world.live()
    world.dmsetup.slow("status", 600.0)
    monkeypatch.setattr("thinmeta.live.dmsetup.QUESTION_SECONDS", 0.5)
    with pytest.raises(LivePoolError, match=r"did not answer within 0\.5 seconds") as caught:
        live.status()
    assert caught.value.errno == errno.ETIMEDOUT


def test_a_failed_pool_and_a_read_only_one_are_said(world: LiveWorld) -> None:
    live = world.live()

    def becomes(status: str, refusal: str) -> None:
        with world.dmsetup.changed() as state:
            state["devices"]["pool"]["status"] = f"0 524288 thin-pool {status}"
        world.dmsetup.fail("message", f"message ioctl on pool  failed: {refusal}")

    becomes("Fail", "Invalid argument")
    assert live.status().failed == "Fail"
    with pytest.raises(LivePoolError, match=r"has failed \(Fail\): deactivate it and check"):
        live.create_thin(50)
    with pytest.raises(LivePoolError, match=r"has failed"), live.metadata_snapshot():
        pass
    becomes("0 9/64 1/8 - ro discard_passdown error_if_no_space needs_check 16", "Not supported")
    with pytest.raises(LivePoolError, match="read-only: deactivate it") as caught:
        live.create_thin(50)
    assert caught.value.errno == errno.EROFS
    with pytest.raises(LivePoolError, match="read-only"), live.metadata_snapshot():
        pass
    becomes("0 64/64 1/8 - ro discard_passdown error_if_no_space - 16", "Operation not supported")
    with pytest.raises(thinmeta.NoSpaceError) as full:
        live.create_thin(50)
    assert full.value.space == "metadata"


def test_an_unfit_table_is_an_error(world: LiveWorld) -> None:
    world.dmsetup.add("odd", "0 100 thin-pool 8:0")
    with pytest.raises(LivePoolError, match="table that is not understood"):
        thinmeta.live_pool("odd")


def test_work_is_finished_where_there_is_no_signal_and_at_the_end(tmp_path: Path) -> None:
    assert programs.finish(lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        programs.finish(lambda: 1 // 0)
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(programs.finish(lambda: 6)))
    thread.start()
    thread.join()
    assert results == [6]
    code = (
        "import atexit; from thinmeta.live.programs import finish;"
        "atexit.register(lambda: print(finish(lambda: 7)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("7\n", "")


def test_a_hung_program_ends_after_an_interrupt(
    world: LiveWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "GRACE_SECONDS", 0.2)
    live = world.live()
    world.dmsetup.slow("message", 600.0)

    def interrupt() -> None:
        while not any(line.startswith("message") for line in world.dmsetup.log()):
            pass
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt) as caught:
        live.create_thin(50)
    thread.join()
    assert "ended by signal 15" in caught.value.__notes__[0]
