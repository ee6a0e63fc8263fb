"""Volumes of a live pool, migrated together while they are in use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import thinmeta
from kernel import quick_dmsetup
from kernel.disks import Disks
from kernel.live import BLOCK_BYTES, LivePool, LiveVolume
from kernel.world import pattern
from streams import Source
from thinmeta.cli import main
from thinmeta.live.generation import LiveGeneration
from thinmeta.migrating import migrate_family, plan_family
from thinmeta.stream.targets.related import RelatedTarget

BLOCKS = 32


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("THINMETA_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("THINMETA_STATE_DIR", str(tmp_path / "state"))
    quick_dmsetup.use(monkeypatch)
    return tmp_path


@pytest.fixture
def pool(disks: Disks) -> Iterator[LivePool]:
    """Three volumes, of which any two share what the third has not."""
    with disks.live_pool() as live:
        live.create_thin(1)
        first = live.activate(1, blocks=BLOCKS)
        first.write(0, pattern("all", 20 * BLOCK_BYTES))
        for device_id in (2, 3):
            live.create_snapshot(device_id, origin_id=1)
        for device_id, volume in volumes(live).items():
            content = pattern(f"own {device_id}", 2 * BLOCK_BYTES)
            volume.write(3 * device_id * BLOCK_BYTES, content)
        volumes(live)[2].discard(15, 18)
        yield live


def volumes(live: LivePool) -> dict[int, LiveVolume]:
    return {each: live.activate(each, blocks=BLOCKS) for each in (1, 2, 3)}


#: Everything that they had in common, and two blocks for each.
USED = 20 + 3 * 2


def devices_of(live: thinmeta.LivePool) -> list[int]:
    with live.metadata_snapshot(data=False) as pool:
        return list(pool.devices)


def contents(pool: LivePool) -> dict[int, bytes]:
    size = BLOCKS * BLOCK_BYTES
    return {each: volume.read(0, size) for each, volume in volumes(pool).items()}


def holds(copy: Source, content: dict[int, bytes]) -> bool:
    copy.size = BLOCKS * BLOCK_BYTES
    return all(copy.content(each) == content[each] for each in content)


def used_blocks(copy: Source) -> int:
    with copy.open() as pool:
        return pool.data_space.allocated


def test_volumes_in_use_share_in_another_pool_what_they_share(
    pool: LivePool, tmp_path: Path
) -> None:
    live = thinmeta.live_pool(pool.device.name)
    copy = Source(tmp_path / "copy")
    plans = plan_family(live, [1, 2, 3], copy.meta)
    assert devices_of(live) == [1, 2, 3]
    report = migrate_family(live, [1, 2, 3], copy.meta, copy.data)
    # In which order depends on when each was snapshotted; what is copied does not.
    assert sum(plan.copy_bytes for plan in plans) == report.copied_bytes == USED * BLOCK_BYTES
    assert used_blocks(copy) == USED
    assert holds(copy, contents(pool))
    # Others check what is made of images; here their folder does not take direct reads.
    assert thinmeta.check(copy.meta).is_clean
    assert devices_of(live) == [1, 2, 3]
    assert live.status().held_root is None
    # Nobody has written to them, so that they are what is there.
    again = migrate_family(live, [1, 2, 3], copy.meta, copy.data)
    assert all(done.was_there for _, done in again.members)
    volumes(pool)[3].write(0, pattern("later", BLOCK_BYTES))
    with pytest.raises(thinmeta.AlreadyFormattedError, match="device 3"):
        migrate_family(live, [1, 2, 3], copy.meta, copy.data)
    report = migrate_family(live, [1, 2, 3], copy.meta, copy.data, overwrite=True)
    assert holds(copy, contents(pool))
    assert used_blocks(copy) == USED + 1
    assert devices_of(live) == [1, 2, 3]


def test_what_was_cut_off_goes_on_with_the_same_states(
    pool: LivePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = thinmeta.live_pool(pool.device.name)
    copy = Source(tmp_path / "copy")
    before = contents(pool)
    finish, finished = RelatedTarget.finish, 0

    def failing(self: RelatedTarget) -> None:
        nonlocal finished
        finished += 1
        if finished == 2:
            raise OSError("the power is gone")
        finish(self)

    with monkeypatch.context() as patch:
        patch.setattr(RelatedTarget, "finish", failing)
        with pytest.raises(OSError, match="power"):
            migrate_family(live, [1, 2, 3], copy.meta, copy.data)
    # The first was done, and the second complete.
    assert len(devices_of(live)) == 5
    # What is written meanwhile is of a later state, which is that of what was not begun.
    for device_id, volume in volumes(pool).items():
        volume.write(0, pattern(f"later {device_id}", BLOCK_BYTES))
    report = migrate_family(live, [1, 2, 3], copy.meta, copy.data)
    there = {plan.device_id: done.was_there for plan, done in report.members}
    assert sorted(there.values()) == [False, True, True]
    after = contents(pool)
    assert holds(copy, {each: (before if there[each] else after)[each] for each in there})
    assert used_blocks(copy) == USED + 1
    assert devices_of(live) == [1, 2, 3]


def test_the_command_knows_volumes_by_their_names(pool: LivePool, tmp_path: Path) -> None:
    copy = Source(tmp_path / "copy")
    names = [volume.device.name for volume in volumes(pool).values()]
    family = f"{names[0]},{names[1]}=20,3"
    to_it = [str(copy.meta), "--dest-data", str(copy.data)]
    words = ["migrate", pool.device.name, *to_it, "--family", family]
    assert main([*words, "--dry-run"]) == 0
    assert main(words) == 0
    content = contents(pool)
    assert holds(copy, {1: content[1], 20: content[2], 3: content[3]})
    assert main(["migrate", pool.device.name, *to_it, "--family", "all"]) == 0
    assert holds(copy, content)


def test_a_volume_that_shows_an_external_origin_is_refused(
    pool: LivePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    enter = LiveGeneration.__enter__

    def with_origin(self: LiveGeneration) -> LiveGeneration:
        made = enter(self)
        made.identity = replace(made.identity, external_origin=True)
        return made

    live = thinmeta.live_pool(pool.device.name)
    copy = Source(tmp_path / "copy")
    monkeypatch.setattr(LiveGeneration, "__enter__", with_origin)
    with pytest.raises(thinmeta.UsageError, match="external origin"):
        migrate_family(live, [1, 2], copy.meta, copy.data)
    assert devices_of(live) == [1, 2, 3]
