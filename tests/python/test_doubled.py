"""Data blocks that a device has at two places: found, judged as by 1.x, and mended."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import pytest

import thinmeta
from counts import Counts
from dropins import DropIns
from loops import loop_device
from oracles import newer_tools

#: In block 0: flags, of which the first bit is needs_check.
FLAGS = 4

Devices = list[list[tuple[int, int]]]


@pytest.fixture
def tmp_path(memory_path: Path) -> Path:
    """Nothing here is about a disk."""
    return memory_path


def restored(devices: Devices, path: Path) -> Path:
    """A pool of devices, each with virtual blocks and data blocks."""
    lines = [
        (
            '<superblock uuid="" time="0" transaction="1" version="2" data_block_size="128" '
            'nr_data_blocks="5000">'
        )
    ]
    for number, mappings in enumerate(devices, 1):
        lines.append(
            f'<device dev_id="{number}" mapped_blocks="{len(mappings)}" transaction="0" '
            'creation_time="0" snap_time="0">'
        )
        lines += [
            f'<single_mapping origin_block="{virtual}" data_block="{data}" time="0"/>'
            for virtual, data in mappings
        ]
        lines.append("</device>")
    xml, image = path / "pool.xml", path / "meta.img"
    xml.write_text("\n".join([*lines, "</superblock>"]))
    image.write_bytes(bytes(1 << 20))
    thinmeta.restore(xml, image)
    return image


def newer(*words: str | Path) -> int | None:
    """How 1.x ends, where it is at hand."""
    tools = newer_tools()
    return None if tools is None else tools.run(str(words[0]), *words[1:]).returncode


TWICE = [(0, 5), (1, 6), (700, 5)]
ONCE = [(0, 50), (1, 51)]


@pytest.mark.parametrize(
    ("devices", "found", "status"),
    [
        ([TWICE], [1], 1),
        # 1.x look where nothing should be shared at all.
        ([TWICE, ONCE], [1], 0),
        ([ONCE, TWICE], [2], 0),
        ([TWICE, TWICE], [1, 2], 0),
        ([TWICE, []], [1], 0),
        ([ONCE], [], 0),
        ([ONCE, [(9, 51), (10, 50)]], [], 0),
    ],
)
def test_check_tells_and_the_drop_in_judges_as_1_x(
    drop_in: DropIns, tmp_path: Path, devices: Devices, found: list[int], status: int
) -> None:
    image = restored(devices, tmp_path)
    report = thinmeta.check(image)
    codes = {finding.code for finding in report.findings}
    assert codes == ({"mapping-doubled"} if found else set())
    affected = [finding.affected[0].device_id for finding in report.findings]
    assert affected == found
    assert drop_in("check -q", image).status == (1 if found else 0)
    assert drop_in("thin_check -q", image).status == status
    assert newer("thin_check", "-q", image) in (64 if status else 0, None)
    told = drop_in("thin_check", image).err
    assert ("mapping-doubled" in told, "no failure here" in told) == (
        bool(found),
        bool(found) and not status,
    )
    # The flag is cleared where that is no error.
    counts = Counts(image)
    counts.set_superblock(FLAGS, b"\1")
    counts.save(image)
    assert drop_in("thin_check -q --clear-needs-check-flag", image).status == status
    assert (image.read_bytes() == counts.content) == bool(status)
    counts.save(image)
    assert newer("thin_check", "-q", "--clear-needs-check-flag", image) in (64 * status, None)


@pytest.mark.parametrize("devices", [[TWICE], [TWICE, ONCE]])
def test_leaks_beside_it_are_put_right_where_1_x_do(
    drop_in: DropIns, tmp_path: Path, devices: Devices
) -> None:
    image = restored(devices, tmp_path)
    counts = Counts(image)
    counts.set("data", 4000, 1)
    counts.save(image)
    status = 1 if len(devices) == 1 else 0
    assert newer("thin_check", "-q", "--auto-repair", image) in (64 * status, None)
    counts.save(image)
    # By our own rule, nothing is put right in place where something fatal is wrong.
    assert drop_in("check -q --auto-repair", image).status == 1
    assert image.read_bytes() == counts.content
    assert drop_in("thin_check -q --auto-repair", image).status == status
    assert (image.read_bytes() == counts.content) == bool(status)
    codes = {finding.code for finding in thinmeta.check(image).findings}
    left = {"data-leak", "space-map-summary"} if status else set()
    assert codes == {"mapping-doubled", *left}


@pytest.mark.parametrize("seed", range(6))
def test_random_pools_are_found_out_and_mended(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    devices: Devices = []
    for _ in range(chance.randrange(1, 5)):
        spread = chance.choice([300, 1000, 5000])
        keys = sorted(chance.sample(range(3000), chance.randrange(200)))
        devices.append([(key, chance.randrange(spread)) for key in keys])
    image = restored(devices, tmp_path)
    expected = []
    for number, mappings in enumerate(devices, 1):
        times = Counter(data for _, data in mappings)
        if any(count > 1 for count in times.values()):
            expected.append(number)
    report = thinmeta.check(image)
    assert {finding.code for finding in report.findings} <= {"mapping-doubled"}
    assert [finding.affected[0].device_id for finding in report.findings] == expected
    out = tmp_path / "new.img"
    out.write_bytes(bytes(1 << 20))
    plan, _ = thinmeta.repair(image, out)
    assert thinmeta.check(out).is_clean
    for device, mappings in zip(plan.devices, devices, strict=True):
        assert device.kept_blocks == len({data for _, data in mappings})


@pytest.mark.parametrize("devices", [[TWICE], [TWICE, ONCE]])
def test_trim_and_shrink_end_as_those_of_1_x(
    drop_in: DropIns, tmp_path: Path, devices: Devices
) -> None:
    image, data, out = restored(devices, tmp_path), tmp_path / "data", tmp_path / "out"
    data.touch()
    os.truncate(data, 5000 * 65536)
    status = 1 if len(devices) == 1 else 0
    with loop_device(data) as device:
        words: list[str | Path] = ["--metadata-dev", image, "--data-dev", device]
        assert drop_in("thin_trim", *words).status == status
        assert newer("thin_trim", *words) in (65 * status, None)
    # Ours minds, if nobody else does.
    assert drop_in("trim", image, "--data", data).status == 1
    words = ["-i", image, "-o", out, "--data", data, "--nr-blocks", "4000"]
    out.write_bytes(bytes(1 << 20))
    assert drop_in("thin_shrink --binary --no-copy", *words).status == 0
    out.write_bytes(bytes(1 << 20))
    assert newer("thin_shrink", "--binary", "--no-copy", *words) in (0, None)
