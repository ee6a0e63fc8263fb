"""What can go wrong with a metadata snapshot of a live pool: said, and nothing left behind."""

import gc
import json
import os
from pathlib import Path

import pytest

import thinmeta
from leaving import Leave, left
from live_world import LiveWorld, make_world
from thinmeta import LivePoolError, MetadataSnapshotHeldError, NoSpaceError
from thinmeta.live.kept import holder

RESERVE = "message pool 0 reserve_metadata_snap"
RELEASE = "message pool 0 release_metadata_snap"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LiveWorld:
    return make_world(tmp_path, monkeypatch)


def messages(world: LiveWorld) -> list[str]:
    return [line for line in world.dmsetup.log() if line.startswith("message")]


def who(live: thinmeta.LivePool) -> str:
    return holder(live, live.status())


def test_too_little_metadata_is_said_before_the_pool_comes_to_harm(world: LiveWorld) -> None:
    live = world.live()
    with world.dmsetup.changed() as state:
        state["devices"]["pool"]["status"] = (
            "0 524288 thin-pool 0 500/512 4/1000 - rw discard_passdown error_if_no_space - 128"
        )
    for attempt in (live.metadata_snapshot().__enter__, live.reserve_metadata_snapshot):
        with pytest.raises(NoSpaceError, match=r"12 metadata blocks left.*grow") as caught:
            attempt()
        assert caught.value.space == "metadata"
    assert messages(world) == []


def test_a_reservation_that_fails_for_lack_of_space_leaves_nothing(world: LiveWorld) -> None:
    world.dmsetup.fail(RESERVE, "message ioctl on pool  failed: No space left on device")
    with pytest.raises(NoSpaceError) as caught:
        world.live().metadata_snapshot().__enter__()
    assert caught.value.space == "metadata"
    assert world.dmsetup.held_root() is None
    assert world.records() == []


def test_one_that_cannot_be_released_is_left_to_the_next(world: LiveWorld) -> None:
    live = world.live()
    refusal = "message ioctl on pool  failed: Operation not supported"

    def refuse(is_so: bool) -> None:
        with world.dmsetup.changed() as state:
            state["fail"] = {"message pool 0 release": refusal} if is_so else {}

    with pytest.raises(LivePoolError, match=r"could not be released.*--stale pool"):
        with live.metadata_snapshot() as pool:
            refuse(True)
    assert pool.closed
    assert who(live) == "stale"
    refuse(False)
    leaving = Leave()
    with left(), live.metadata_snapshot():
        refuse(True)
        raise leaving
    assert "could not be released" in leaving.__notes__[0]
    refuse(False)
    assert live.release_metadata_snapshot(stale=True)


def test_a_pool_that_goes_away_while_it_is_read(world: LiveWorld) -> None:
    live = world.live()
    snapshot = live.metadata_snapshot()
    snapshot.__enter__()
    with world.dmsetup.changed() as state:
        gone = state["devices"].pop("pool")
    with pytest.raises(LivePoolError, match=r"does not exist.*thinmeta release-snapshot META"):
        snapshot.__exit__(None, None, None)
    with world.dmsetup.changed() as state:
        state["devices"]["pool"] = gone
    with live.metadata_snapshot():  # of the pool that came back, what was left is known
        pass
    assert world.dmsetup.held_root() is None


def test_a_node_that_is_gone_is_said_and_nothing_held(world: LiveWorld) -> None:
    live = world.live()
    world.data.rename(world.folder / "elsewhere")
    with pytest.raises(LivePoolError, match=r"data\.img is gone.*dmsetup mknodes"):
        live.metadata_snapshot().__enter__()
    assert world.dmsetup.held_root() is None
    with live.metadata_snapshot(data=False) as pool:
        assert list(pool.devices) == [1, 2, 3]
    world.meta.rename(world.folder / "meta")
    with world.dmsetup.changed() as state:
        state["devices"]["pool"]["status"] = "0 8 thin-pool 0 5/512 4/1000 - rw - 128"
    with pytest.raises(LivePoolError, match=r"meta\.img is gone"):
        live.metadata_snapshot().__enter__()
    assert messages(world) == [RESERVE, RELEASE, RESERVE, RELEASE]


def test_old_kernels_are_refused(world: LiveWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.uname()

    def claim(release: str) -> None:
        fields = [*real[:2], release, *real[3:]]
        monkeypatch.setattr(os, "uname", lambda: os.uname_result(fields))

    live = world.live()
    for release in ("3.10.0-1160.el7.x86_64", "4.3.6", "2.6.32"):
        claim(release)
        for attempt in (live.metadata_snapshot().__enter__, live.reserve_metadata_snapshot):
            with pytest.raises(LivePoolError, match=r"unsafe on Linux .* before 4\.4"):
                attempt()
    assert messages(world) == []
    for release in ("4.4.0-21-generic", "5.15", "10.0-rc1"):
        claim(release)
        with live.metadata_snapshot():
            pass


def test_records_that_make_no_sense_claim_nothing(world: LiveWorld) -> None:
    live = world.live()
    with live.metadata_snapshot():
        (name,) = world.records()
        path = world.folder / "run" / name
        good = json.loads(path.read_text())
    world.dmsetup.tell("pool", "reserve_metadata_snap")
    held = world.dmsetup.held_root()
    for content in (
        "",
        "\0" * 5000,
        "[" * 4000,
        "{}",
        "null",
        json.dumps({**good, "version": 2, "held_root": held}),
        json.dumps({**good, "keeper": "nobody", "held_root": held}),
        json.dumps({**good, "held_root": str(held)}),
        json.dumps({**good, "held_root": True}),
        json.dumps({**good, "held_root": 2**70}),
        json.dumps({**good, "held_root": None}),  # an intent
        json.dumps({**good, "held_root": held, "checksum": 1}),  # another one's
    ):
        path.write_text(content)
        assert who(live) == "other", content[:80]
        with pytest.raises(MetadataSnapshotHeldError, match="somebody else"):
            live.metadata_snapshot().__enter__()
    # The folder may be read by others, but what they can write is not believed.
    path.parent.chmod(0o777)
    with pytest.raises(LivePoolError, match="others may write there"):
        live.metadata_snapshot().__enter__()
    path.parent.chmod(0o700)
    path.unlink()
    path.symlink_to(world.meta)
    with pytest.raises(LivePoolError, match="lock files cannot be kept"):
        live.metadata_snapshot().__enter__()


def test_lock_files_are_private_and_can_be_elsewhere(
    world: LiveWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = world.live()
    with live.metadata_snapshot():
        run = world.folder / "run"
        assert run.stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_mode & 0o777 for path in run.iterdir()} == {0o600}
        assert len(list(run.iterdir())) == 3
    monkeypatch.setenv("THINMETA_RUN_DIR", str(world.meta / "below a file"))
    with pytest.raises(LivePoolError, match="THINMETA_RUN_DIR in the environment names another"):
        live.metadata_snapshot().__enter__()


def test_pools_of_one_name_are_not_mixed_up(world: LiveWorld) -> None:
    first = world.live()
    with world.dmsetup.changed() as state:
        state["devices"]["pool"]["minor"] = 7
    assert first.identity != world.live().identity
    with world.dmsetup.changed() as state:
        state["devices"]["pool"]["uuid"] = "LVM-" + "x" * 64 + "-tpool"
    assert world.live().identity == "LVM-" + "x" * 64 + "-tpool"
    with world.live().metadata_snapshot():
        assert len(world.records()) == 1


def test_no_descriptor_is_left_open(world: LiveWorld) -> None:
    live = world.live()
    with live.metadata_snapshot():
        pass
    gc.collect()
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with live.metadata_snapshot():
            pass
        with left(), live.metadata_snapshot():
            raise Leave
        live.reserve_metadata_snapshot()
        live.release_metadata_snapshot()
        live.volumes()
    gc.collect()
    assert sorted(os.listdir("/proc/self/fd")) == before
