"""Thin volumes that are active as targets of streams."""

import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import thinmeta
from kernel import blockdev
from kernel.disks import Disks
from kernel.dm import Device, Target
from kernel.live import BLOCK_BYTES, BLOCK_SECTORS, LivePool, LiveVolume
from kernel.world import pattern
from streams import Source
from thinmeta import stream
from thinmeta.stream.targets.thin import thin_target

BLOCKS = 16
SIZE = 9 * BLOCK_BYTES + 4096


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("THINMETA_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Snapshots 2 and 3: written here and there, and unmapped in between."""
    source = Source(tmp_path / "source", sectors=BLOCK_SECTORS, data_blocks=60)
    source.size = SIZE
    source.create(1)
    source.write(1, *((block * BLOCK_BYTES, pattern(f"{block}", 9000)) for block in (1, 2, 5, 9)))
    source.snapshot(2)
    source.write(1, (3 * BLOCK_BYTES, pattern("three", BLOCK_BYTES)))
    source.discard(1, BLOCK_BYTES, 2 * BLOCK_BYTES)
    source.snapshot(3)
    return source


@pytest.fixture
def pool(disks: Disks) -> Iterator[LivePool]:
    with disks.live_pool() as live:
        live.create_thin(7)
        yield live


def received(data: bytes, volume: LiveVolume, **options: bool) -> None:
    stream.receive(io.BytesIO(data), volume.device.path, **options)  # type: ignore[arg-type]


def test_what_is_not_mapped_is_unmapped_in_a_thin_volume(pool: LivePool, source: Source) -> None:
    volume = pool.activate(7, blocks=BLOCKS)
    old = pattern("old", BLOCKS * BLOCK_BYTES)
    volume.write(0, old)
    with pytest.raises(thinmeta.AlreadyFormattedError, match="something is on it"):
        received(source.send(2), volume)
    received(source.send(2), volume, overwrite=True)
    assert volume.read(0, SIZE) == source.content(2)
    assert volume.read(SIZE, len(old) - SIZE) == old[SIZE:]
    # Blocks 1, 2, 5 and 9, and those past the end.
    assert volume.mapped_blocks() == 4 + BLOCKS - 10
    received(source.send(3, 2), volume)
    assert volume.read(0, SIZE) == source.content(3)
    assert volume.read(SIZE, len(old) - SIZE) == old[SIZE:]
    assert volume.mapped_blocks() == 3 + BLOCKS - 10


def test_a_snapshot_of_the_target_keeps_what_it_has(pool: LivePool, source: Source) -> None:
    volume = pool.activate(7, blocks=BLOCKS)
    received(source.send(2), volume)
    pool.create_snapshot(8, origin_id=7)
    received(source.send(3, 2), volume)
    with pool.active(8, blocks=BLOCKS) as monday:
        assert monday.read(0, SIZE) == source.content(2)
    assert volume.read(0, SIZE) == source.content(3)


def test_a_thin_volume_over_an_external_origin_is_zeroed_and_not_unmapped(
    pool: LivePool, source: Source, disks: Disks
) -> None:
    sectors = BLOCKS * BLOCK_SECTORS
    with Device("origin", Target(sectors, "linear", "/dev/ubdb 40960")) as origin:
        blockdev.write(origin.path, 0, pattern("origin", BLOCKS * BLOCK_BYTES))
        table = f"{pool.device.path} 7 {origin.path}"
        with Device("over", Target(sectors, "thin", table)) as over:
            number = os.stat(over.path).st_rdev
            found = thin_target(f"{os.major(number)}:{os.minor(number)}")
            assert found is not None
            assert (found.block_bytes, found.external_origin) == (BLOCK_BYTES, True)
            for data in (source.send(2), source.send(3, 2)):
                stream.receive(io.BytesIO(data), over.path, overwrite=True)
            assert blockdev.read(over.path, 0, SIZE) == source.content(3)
            assert thin_target("1:0") is None


def test_a_thin_volume_is_known_again_by_its_uuid_or_its_number(
    pool: LivePool, source: Source, state: Path
) -> None:
    volume = pool.activate(7, blocks=BLOCKS)
    received(source.send(2), volume)
    assert len(list(state.iterdir())) == 1
    descriptor = os.open(volume.device.path, os.O_RDONLY | os.O_EXCL)
    try:
        with pytest.raises(thinmeta.DeviceInUseError):
            received(source.send(3, 2), volume)
    finally:
        os.close(descriptor)
    volume.write(4 * 512, pattern("mine", 512))
    with pytest.raises(thinmeta.WrongBaseError, match="was changed since"):
        received(source.send(3, 2), volume)


def test_a_stream_that_is_cut_goes_on(pool: LivePool, source: Source) -> None:
    volume = pool.activate(7, blocks=BLOCKS)
    for device_id, base in ((2, None), (3, 2)):
        data = source.send(device_id, base)
        with pytest.raises(thinmeta.StreamError) as caught:
            received(data[:-120], volume)
        rest = source.send(device_id, base, token=caught.value.token)
        received(rest, volume, resume=True)
        assert volume.read(0, SIZE) == source.content(device_id)
