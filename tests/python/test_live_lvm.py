"""Pools of LVM are known by their names, and changed by LVM's own programs."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import thinmeta
from fake_lvm import FakeLvm
from leaving import Leave, left
from live_world import LiveWorld, make_world
from thinmeta import LivePool, LivePoolError, ManagedByLvmError
from thinmeta.live import LvmPool, LvmVolume
from thinmeta.live.lvm import is_name, join_name, pool_of, split_name

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures" / "lvm"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LiveWorld:
    return make_world(tmp_path, monkeypatch)


@pytest.fixture
def lvm(world: LiveWorld) -> FakeLvm:
    with world.dmsetup.changed() as state:
        state["devices"].clear()
    with thinmeta.open_pool(world.meta, mode="r+") as pool, pool.transaction() as txn:
        txn.delete(2)
        txn.delete(3)
    return FakeLvm(world.dmsetup, world.meta, world.data)


@pytest.fixture
def live(lvm: FakeLvm) -> LivePool:
    return thinmeta.live_pool("vg-1/pool")


NAMES = [
    ("vg-pool", ("vg", "pool", "")),
    ("vg-pool-tpool", ("vg", "pool", "tpool")),
    ("data--1-my--pool-tpool", ("data-1", "my-pool", "tpool")),
    ("data--1-vm--100--disk--0", ("data-1", "vm-100-disk-0", "")),
    ("vg-a---tpool", ("vg", "a-", "tpool")),
    ("a-----b", ("a--", "b", "")),
]


@pytest.mark.parametrize(("name", "parts"), NAMES)
def test_names_are_taken_apart_and_put_together(name: str, parts: tuple[str, str, str]) -> None:
    assert split_name(name) == parts
    layer = f"-{parts[2]}" if parts[2] else ""
    assert join_name(parts[0], parts[1]) + layer == name


def test_what_is_no_name_of_lvm_is_seen() -> None:
    for name in ("pool", "-pool", "vg-", "a-b-c-d", ""):
        assert split_name(name) is None
    assert pool_of("vg-pool-tpool", "") is None
    assert pool_of("vg-pool-tpool", "CRYPT-abc") is None
    assert pool_of("vg-pool-tpool", "LVM-abc-tpool") == LvmPool("vg", "pool")
    assert is_name("vg/pool") and is_name("a-1/b.c+d_")
    for word in ("vg", "vg/", "/pool", "a/b/c", "-a/b", "vg/-b", "v g/p", "vg/p\n"):
        assert not is_name(word)


@pytest.mark.parametrize("word", ["vg-1/pool", "/dev/vg-1/pool", "vg--1-pool", "vg--1-pool-tpool"])
def test_a_pool_is_found_by_its_names(lvm: FakeLvm, word: str) -> None:
    live = thinmeta.live_pool(word)
    assert live.name == "vg--1-pool-tpool"
    assert live.lvm is not None and live.lvm.full_name == "vg-1/pool"


def test_a_pool_without_volumes_has_its_own_name(world: LiveWorld) -> None:
    uuid = "LVM-abc-tpool"
    world.dmsetup.add_pool("vg-empty", world.meta, world.data, uuid=uuid)
    live = thinmeta.live_pool("vg/empty")
    assert (live.name, live.identity) == ("vg-empty", uuid)
    assert live.lvm == LvmPool("vg", "empty")


def test_volumes_are_found_by_their_names(live: LivePool) -> None:
    assert live.lvm is not None
    assert live.lvm.volumes() == [
        LvmVolume("vg-1", "home", device_id=1, size_bytes=10485760, origin=None, active=True)
    ]
    for name in ("home", "vg-1/home", "/dev/vg-1/home", "vg--1-home", "/dev/mapper/vg--1-home"):
        assert live.device_id_of(name) == 1
    with pytest.raises(LivePoolError, match="no thin volume 'pool': 'lvs"):
        live.device_id_of("pool")
    with pytest.raises(LivePoolError, match="no volume can be called '--help'"):
        live.device_id_of("--help")


def test_messages_that_lvm_would_not_know_of_are_refused(world: LiveWorld, live: LivePool) -> None:
    calls: list[Callable[[], None]] = [
        lambda: live.create_thin(9),
        lambda: live.create_snapshot(9, origin_id=1),
        lambda: live.delete(1),
        lambda: live.set_transaction_id(0, 1),
    ]
    for call in calls:
        with pytest.raises(ManagedByLvmError, match=r"vg-1/pool is managed by LVM.*force=True"):
            call()
    live.create_thin(9, force=True)
    live.create_snapshot(10, origin_id=9, force=True)
    live.delete(9, force=True)
    live.set_transaction_id(0, 1, force=True)
    with live.metadata_snapshot() as pool:  # always allowed
        assert list(pool.devices) == [1, 10]
        assert pool.superblock.trans_id == 1
    live.reserve_metadata_snapshot()
    assert live.release_metadata_snapshot()


def test_snapshots_are_made_and_removed_by_lvm(lvm: FakeLvm, live: LivePool) -> None:
    assert live.lvm is not None
    made = live.lvm.create_snapshot("home-monday", origin="vg-1/home")
    assert made == LvmVolume("vg-1", "home-monday", 2, 10485760, "home", active=False)
    assert live.find_volume(2) is None
    live.lvm.activate("home-monday")
    volume = live.find_volume(2)
    assert volume is not None
    assert (volume.name, volume.read_only) == ("vg--1-home--monday", True)
    assert live.lvm.volume("home-monday").active
    live.lvm.deactivate("home-monday")
    assert live.find_volume(2) is None
    live.lvm.remove("home-monday")
    assert list(lvm.rows()) == ["home"]
    with pytest.raises(LivePoolError, match=r"lvcreate: .*already exists"):
        live.lvm.create_snapshot("home", origin="home")
    with pytest.raises(LivePoolError, match="lvremove: Failed to find logical volume"):
        live.lvm.remove("nothing")


def test_a_temporary_snapshot_is_one_of_lvm(lvm: FakeLvm, live: LivePool) -> None:
    with live.temporary_snapshot("home") as volume:
        assert volume.name.startswith("vg--1-thinmeta--home--")
        assert (volume.device_id, volume.read_only) == (2, True)
        assert len(lvm.rows()) == 2
        with live.metadata_snapshot(fresh=True) as pool:
            assert pool.devices[2].mapped_blocks == 3
    with left(), live.temporary_snapshot(1, name="look") as volume:
        assert volume.name == "vg--1-look"
        raise Leave
    assert list(lvm.rows()) == ["home"]
    with pytest.raises(LivePoolError, match="no volume with thin id 7"):
        live.temporary_snapshot(7).__enter__()
    lvm.dmsetup.fail("lvchange", "  Volume is broken.")
    with pytest.raises(LivePoolError, match=r"lvchange: Volume is broken\."):
        live.temporary_snapshot("home").__enter__()
    assert list(lvm.rows()) == ["home"]


def _prints(lvm: FakeLvm, text: str) -> None:
    program = lvm.dmsetup.bin / "lvs"
    (lvm.dmsetup.bin / "lvs.txt").write_text(text)
    program.write_text('#!/bin/sh\ncat "$0.txt"\n')


def test_what_the_real_lvs_prints_is_read(lvm: FakeLvm) -> None:
    text = (FIXTURES / "lvs-active.json").read_text()
    _prints(lvm, text.replace('B"', '"'))  # as with --nosuffix
    found = {volume.name: volume for volume in LvmPool("vg", "pool").volumes()}
    assert [(name, volume.device_id) for name, volume in found.items()] == [
        ("thin1", 1),
        ("snap1", 2),
        ("snap2", 3),
        ("snap3", 4),
        ("ext1", 5),
    ]
    assert found["thin1"].size_bytes == 100 << 20
    assert (found["thin1"].active, found["snap1"].active) == (True, False)
    assert (found["thin1"].origin, found["snap3"].origin) == (None, "snap1")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no json",
        "[]",
        "{}",
        "[" * 10000,
        json.dumps({"report": [{"lv": [{"pool_lv": "pool", "lv_name": "x"}]}]}),
        json.dumps(
            {"report": [{"lv": [{"pool_lv": "pool", "lv_name": "-x", "thin_id": 1, "lv_size": 1}]}]}
        ),
        json.dumps(
            {"report": [{"lv": [{"pool_lv": "pool", "lv_name": "x", "thin_id": -1, "lv_size": 1}]}]}
        ),
        json.dumps({"report": [{"lv": ["x"]}]}),
    ],
)
def test_what_makes_no_sense_is_an_error(lvm: FakeLvm, live: LivePool, text: str) -> None:
    assert live.lvm is not None
    _prints(lvm, text)
    with pytest.raises(LivePoolError, match="lvs printed something that is not understood"):
        live.lvm.volumes()


def test_a_group_that_is_gone_is_an_error_of_one_line(lvm: FakeLvm) -> None:
    with pytest.raises(LivePoolError) as caught:
        LvmPool("nogroup", "pool").volumes()
    assert str(caught.value) == 'nogroup/pool: lvs: Volume group "nogroup" not found'
