"""What real versions of LVM print of their pools is understood (tests/fixtures/lvm)."""

import shlex
from pathlib import Path

import pytest

from thinmeta.live.lvm import LvmPool, LvmVolume

REPORTS = Path(__file__).resolve().parents[1] / "fixtures" / "lvm"
MIB = 1 << 20


@pytest.fixture
def lvs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of this name that prints a report, which is still to be copied there."""
    report = tmp_path / "report.json"
    program = tmp_path / "lvs"
    program.write_text(f"#!/bin/sh\ncat {shlex.quote(str(report))}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return report


def volumes(lvs: Path, report: str, group: str, pool: str) -> list[LvmVolume]:
    # As printed with --nosuffix, which the recorded ones were not.
    text = (REPORTS / report).read_text()
    lvs.write_text(text.replace('B", "lv_tags"', '", "lv_tags"'))
    return LvmPool(group, pool).volumes()


def test_volumes_of_a_pool_are_told_from_all_others(lvs: Path) -> None:
    found = volumes(lvs, "lvs-active.json", "vg", "pool")
    assert [(volume.name, volume.device_id, volume.origin) for volume in found] == [
        ("thin1", 1, None),
        ("snap1", 2, "thin1"),
        ("snap2", 3, "thin1"),
        ("snap3", 4, "snap1"),
        ("ext1", 5, "plain"),
    ]
    assert [volume.name for volume in found if not volume.active] == ["snap1"]
    assert {volume.size_bytes for volume in found} == {100 * MIB, 12 * MIB}
    (other,) = volumes(lvs, "lvs-group.json", "data-1", "my-pool")
    assert (other.name, other.device_name) == ("vm-100-disk-0", "data--1-vm--100--disk--0")


def test_nothing_is_active_after_the_pool_was_deactivated(lvs: Path) -> None:
    found = volumes(lvs, "lvs-inactive.json", "vg", "pool")
    assert len(found) == 5
    assert not any(volume.active for volume in found)


def test_a_pool_may_have_no_volumes(lvs: Path) -> None:
    assert volumes(lvs, "lvs-new-pool.json", "vg", "pool") == []


@pytest.mark.parametrize("report", ["lvs-2.03.31.json", "lvs-2.03.31-std.json"])
def test_newer_versions_print_more_and_other_types(lvs: Path, report: str) -> None:
    snapshot, volume = sorted(volumes(lvs, report, "vg", "pool"), key=lambda volume: volume.name)
    assert (volume.name, volume.device_id, volume.origin, volume.active) == ("thin1", 1, None, True)
    assert (snapshot.device_id, snapshot.origin, snapshot.active) == (2, "thin1", False)


def test_a_snapshot_that_waits_to_be_merged_is_no_obstacle(lvs: Path) -> None:
    """LVM hides it, in brackets; with --all it would be there."""
    report = (REPORTS / "lvs-merge-waits.json").read_text()
    assert '"origin":"[snap1]"' in report
    shown = [line for line in report.splitlines() if '"lv_name":"[' not in line]
    text = "\n".join(shown)
    lvs.write_text(text.replace('B", "lv_tags"', '", "lv_tags"'))
    found = LvmPool("vg", "pool").volumes()
    assert [(volume.name, volume.origin) for volume in found] == [
        ("thin1", None),
        ("snap2", "snap1"),
    ]
