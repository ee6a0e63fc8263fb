"""The explorer on real block devices: of a pool in use, and of one that is not."""

from pathlib import Path

import pytest

import thinmeta
from kernel.disks import Disks
from kernel.live import BLOCK_BYTES
from kernel.world import pattern
from oracles import require
from thinmeta.explore import (
    DevicesPlace,
    Explorer,
    HomePlace,
    MappingPlace,
    OwnersPlace,
)

BLOCKS = 32


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require("dmsetup")
    monkeypatch.setenv("THINMETA_RUN_DIR", str(tmp_path / "run"))
    # There is no udev here: dmsetup makes the nodes itself.
    monkeypatch.setenv("DM_DISABLE_UDEV", "1")


def explore(explorer: Explorer, pool: thinmeta.Pool) -> None:
    """Compare what pages say with what the pool says."""
    assert explorer.page(HomePlace()).troubles == ()
    devices = explorer.page(DevicesPlace())
    assert [row.cells[0] for row in devices.rows] == ["0", "1"] and devices.troubles == ()
    for block in (0, 3, BLOCKS - 1):
        found = pool.devices[1].find(block)
        assert found is not None
        page = explorer.page(MappingPlace(1, block))
        assert dict(page.facts)["data block"] == str(found.data_block) and not page.troubles
        owners = explorer.page(OwnersPlace(found.data_block))
        assert ("1", str(block)) in {row.cells for row in owners.rows} and not owners.troubles


def test_a_pool_is_explored_in_use_and_afterwards(disks: Disks) -> None:
    with disks.live_pool() as kernel:
        kernel.create_thin(0)
        volume = kernel.activate(0, blocks=BLOCKS)
        volume.write(0, pattern("first", BLOCKS * BLOCK_BYTES))
        kernel.create_snapshot(1, origin_id=0)
        ours = thinmeta.live_pool(kernel.device.name)
        with pytest.raises(thinmeta.DeviceInUseError):
            Explorer(ours.metadata_path)
        with ours.metadata_snapshot() as pool:
            # Since then half of it was written anew.
            volume.write(0, pattern("second", BLOCKS // 2 * BLOCK_BYTES))
            with Explorer(ours.metadata_path, metadata_snapshot="held") as explorer:
                explore(explorer, pool)
        assert kernel.status().held_root is None
    with Explorer(disks.metadata) as explorer:
        page = explorer.page(OwnersPlace(0))  # through a pool on the same device
        assert page.rows
        with pytest.raises(thinmeta.DeviceInUseError):
            thinmeta.open_pool(disks.metadata)
        first = explorer.page(DevicesPlace())
        assert not page.troubles and not first.troubles
    with thinmeta.open_pool(disks.metadata) as pool:
        assert [row.cells[0] for row in first.rows] == [str(device) for device in pool.devices]
