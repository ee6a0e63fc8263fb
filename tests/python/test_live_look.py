"""What a live volume would have to send is told without a snapshot of it."""

from pathlib import Path

import pytest

import thinmeta
from command import ThinmetaCommand, as_json, fails
from fake_lvm import FakeLvm
from kept_world import SIZE, KeptWorld, make_kept_world
from live_world import BLOCK
from thinmeta import NoSuchDeviceError, UsageError, WrongBaseError
from thinmeta.bookmark import Bookmark
from thinmeta.live.look import LiveLook
from thinmeta.source import identity_of_device
from thinmeta.stream.planning import plan
from thinmeta.stream.token import Token

KEPT = 9_000_000
RESERVE = "message pool 0 reserve_metadata_snap"
RELEASE = "message pool 0 release_metadata_snap"
TOUCHING = ("message", "create", "remove", "suspend", "resume", "lvcreate", "lvremove", "lvchange")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeptWorld:
    return make_kept_world(tmp_path, monkeypatch)


def changed_since_kept(world: KeptWorld) -> None:
    """Block 1 is overwritten and block 7 new since the state that was kept."""
    world.snapshot(KEPT, "send")
    world.write(1, BLOCK, b"changed")
    world.write(1, 7 * BLOCK, b"new")


def touched(world: KeptWorld) -> set[str]:
    """What was asked for that can change something."""
    return {line for line in world.dmsetup.log() if line.split()[0] in TOUCHING}


def test_a_look_says_what_a_snapshot_of_this_moment_would(world: KeptWorld) -> None:
    changed_since_kept(world)
    files, ids = world.files(), world.device_ids()
    with LiveLook(world.live(), "home") as look:
        kept = look.kept_base
        assert kept is not None and kept.device_id == KEPT
        for base in (kept, KEPT, 1):  # the volume's own number is what was kept of it
            changes = look.changes(base)
            assert list(changes.data) == [(BLOCK, BLOCK), (7 * BLOCK, BLOCK)]
            assert not changes.zero
            assert changes.base is not None
            assert (changes.base.device_id, changes.base.digest) == (1, kept.digest.hex())
        everything = plan(look)
        assert list(everything.data) == [(0, 3 * BLOCK), (7 * BLOCK, BLOCK)]
        assert everything.zero_bytes == SIZE - 4 * BLOCK
        identity = look.identity
        assert look.volume_name == "home"
        look.keep()
        look.leave_behind()
        assert look.save_bookmark("nowhere") is None
        with pytest.raises(UsageError, match=r"home \(thin device 1\) is only looked at"):
            look.read_into(0, bytearray(1))
        # It is exact for the moment of the call.
        world.write(1, 9 * BLOCK, b"later")
        assert (9 * BLOCK, BLOCK) in list(look.changes(kept).data)
    assert touched(world) == {RESERVE, RELEASE}
    assert (world.files(), world.device_ids()) == (files, ids)
    assert world.dmsetup.held_root() is None
    assert not Path(kept.path).exists()
    assert (identity.is_snapshot, identity.size_is_known, identity.device_id) == (True, True, 1)


def test_a_look_knows_the_identity_of_the_snapshot_to_come(world: KeptWorld) -> None:
    with LiveLook(world.live(), 1) as look:
        pass
    world.dmsetup.tell("pool", "create_snap 50 1")
    with thinmeta.open_pool(world.meta) as pool:
        made = identity_of_device(pool, 50, size_bytes=SIZE)
    assert {**made.to_json(), "device_id": 1} == look.identity.to_json()


def test_a_look_needs_no_lock_and_takes_none(world: KeptWorld) -> None:
    changed_since_kept(world)
    with world.user("send"), LiveLook(world.live(), 1) as look:
        assert look.changes(look.kept_base).data_bytes == 2 * BLOCK
    with LiveLook(world.live(), 1), world.books("send") as books:
        assert books.base is not None


def test_a_base_that_proves_nothing_is_refused(world: KeptWorld, tmp_path: Path) -> None:
    changed_since_kept(world)
    with thinmeta.open_pool(world.meta) as pool:
        foreign = Bookmark.save(pool.devices[2], tmp_path / "bookmark", pool_uuid="another")
    live = world.live()
    with LiveLook(live, 1) as look:
        with pytest.raises(WrongBaseError, match="was written"):
            look.changes(3)
        with pytest.raises(NoSuchDeviceError):
            look.changes(77)
        with pytest.raises(WrongBaseError, match="not in the pool"):
            plan(look, 77)
        assert look.changes(foreign).data_bytes == 2 * BLOCK  # this pool has no uuid
    world.write(KEPT, 0, b"spoilt")
    with LiveLook(live, 1) as look:
        assert look.kept_base is None
        with pytest.raises(WrongBaseError, match="was written"):
            look.changes(1)
    world.dmsetup.tell("pool", f"delete {KEPT}")
    with LiveLook(live, 1) as look:
        assert look.kept_base is None
    # Somebody else's snapshot with its number, which is a good base, but not that one.
    world.dmsetup.tell("pool", f"create_snap {KEPT} 1")
    with LiveLook(live, 1) as look:
        assert look.kept_base is None


def test_the_size_has_to_be_known(world: KeptWorld) -> None:
    live = world.live()
    with pytest.raises(UsageError, match="thin device 2 of pool is not active"):
        LiveLook(live, 2).__enter__()
    with pytest.raises(NoSuchDeviceError):
        LiveLook(live, 77, size_bytes=BLOCK).__enter__()
    with pytest.raises(UsageError, match="no external origin"):
        LiveLook(live, 1, flatten=True).__enter__()
    with LiveLook(live, 2, size_bytes=2 * BLOCK) as look:
        assert list(look.changes(None).data) == [(0, 2 * BLOCK)]
        assert look.identity.size_bytes == 2 * BLOCK


def test_what_a_cut_stream_was_of_is_looked_at_and_stays(world: KeptWorld) -> None:
    own = world.snapshot(KEPT, "send", role="left")
    world.write(1, 7 * BLOCK, b"new")
    with LiveLook(world.live(), 1, wanted=own.digest) as look:
        assert (look.identity.digest, look.identity.device_id) == (own.digest, 1)
        assert list(look.changes(None).data) == [(0, 3 * BLOCK)]
        assert look.identity.size_bytes == own.size_bytes
    world.dmsetup.tell("pool", f"delete {KEPT}")
    with LiveLook(world.live(), 1, wanted=own.digest) as look:
        assert look.identity.digest != own.digest


def test_a_dry_run_of_send_changes_nothing_in_the_pool(
    command: ThinmetaCommand, world: KeptWorld
) -> None:
    changed_since_kept(world)
    left = world.snapshot(KEPT + 1, "send", role="left")
    world.write(1, 8 * BLOCK, b"later")
    files, ids = world.files(), world.device_ids()
    run = command("send", "pool", "home", "--from", "kept", "--dry-run")
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("home, device 1 as of time ")
    assert ": changes since device 1 as of time " in run.stdout
    assert f"  {3 * BLOCK} bytes to read and send" in run.stdout
    plain = as_json(command("send", "pool", "1", "-n", "--json", "--save-bookmark", "bookmark"))
    assert plain["changed_bytes"] == 5 * BLOCK
    with LiveLook(world.live(), 1, wanted=left.digest) as look:
        identity = look.identity
    token = str(Token.of(identity, None, BLOCK))
    resumed = as_json(command("send", "pool", "1", "-n", "--json", "--resume", token))
    assert resumed["identity"]["digest"] == left.digest
    assert resumed["changed_bytes"] == 4 * BLOCK
    assert touched(world) == {RESERVE, RELEASE}
    assert (world.files(), world.device_ids()) == (files, ids)
    fails(command("send", "pool", "home", "-n", "--from", "kept", "--purpose", "x"), 1, "send the")


def test_of_lvm_s_volumes_the_size_is_known(command: ThinmetaCommand, world: KeptWorld) -> None:
    with world.dmsetup.changed() as state:
        state["devices"].clear()
    with thinmeta.open_pool(world.meta, mode="r+") as pool, pool.transaction() as txn:
        txn.delete(2)
        txn.delete(3)
    lvm = FakeLvm(world.dmsetup, world.meta, world.data)
    with world.dmsetup.changed() as state:
        del state["devices"]["vg--1-home"]
    shown = as_json(command("send", "vg-1/pool", "home", "-n", "--json"))
    assert shown["identity"]["size_bytes"] == SIZE
    assert shown["changed_bytes"] == 3 * BLOCK
    assert list(lvm.rows()) == ["home"]
    with pytest.raises(NoSuchDeviceError):
        LiveLook(thinmeta.live_pool("vg-1/pool"), 5).__enter__()
