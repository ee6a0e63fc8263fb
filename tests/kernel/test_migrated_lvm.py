"""Volumes of LVM in other places, and back onto an external origin: as in docs/migrate.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel import blockdev
from kernel.blockdev import KernelLog
from kernel.lvm import LvmError, VolumeGroup, run
from kernel.world import pattern
from thinmeta.cli import main

VOLUME_BYTES = 8 << 20
BLOCK_BYTES = 65536


@pytest.fixture
def group(
    kernel_log: KernelLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[VolumeGroup]:
    for name in ("run", "state"):
        monkeypatch.setenv(f"THINMETA_{name.upper()}_DIR", str(tmp_path / name))
    monkeypatch.setenv("DM_DISABLE_UDEV", "1")
    with VolumeGroup() as made:
        yield made


def test_a_volume_in_use_goes_to_another_one_and_then_what_changed(group: VolumeGroup) -> None:
    home = group.create_thin("home", size_bytes=VOLUME_BYTES)
    copy = group.create_thin("copy", size_bytes=VOLUME_BYTES)
    blockdev.write(home, 3 * BLOCK_BYTES, pattern("first", 9 * BLOCK_BYTES))
    pool = group.full_name(group.pool)
    words = ["migrate", pool, "home", copy]
    assert main([*words, "--keep"]) == 0
    assert blockdev.read(copy, 0, VOLUME_BYTES) == blockdev.read(home, 0, VOLUME_BYTES)
    blockdev.write(home, 5 * BLOCK_BYTES + 512, pattern("later", 2 * BLOCK_BYTES))
    blockdev.discard(home, 10 * BLOCK_BYTES, 2 * BLOCK_BYTES)
    assert main([*words, "--delta-id", "kept"]) == 0
    assert blockdev.read(copy, 0, VOLUME_BYTES) == blockdev.read(home, 0, VOLUME_BYTES)
    mapped = {run("dmsetup", "status", path).split()[3] for path in (home, copy)}
    assert mapped == {str(7 * BLOCK_BYTES // 512)}


def test_an_external_origin_of_lvm_takes_its_volume_back(
    group: VolumeGroup, capsys: pytest.CaptureFixture[str]
) -> None:
    base, over = group.path("base"), group.path("over")
    size = ("--size", f"{VOLUME_BYTES}b")
    run("lvcreate", "--quiet", "--yes", *size, "--name", "base", "vg")
    blockdev.write(base, 0, pattern("base", VOLUME_BYTES))
    group.deactivate("base")
    run("lvchange", "--quiet", "--permission", "r", "vg/base")
    thin = ("--type", "thin", "--name", "over", "--thinpool", group.pool)
    run("lvcreate", "--quiet", "--yes", *thin, "vg/base")
    blockdev.write(over, 5 * BLOCK_BYTES + 512, pattern("new", 3 * BLOCK_BYTES))
    shown = blockdev.read(over, 0, VOLUME_BYTES)

    def merge(into: str) -> tuple[int, str]:
        words = ["merge", group.full_name(group.pool), "over", "--into-external-origin", into]
        status = main(words)
        return status, capsys.readouterr().err

    status, why = merge(base)
    assert status == 3 and "can be written to" in why
    group.deactivate("over")
    group.activate("base")
    status, why = merge(base)
    assert status == 3 and "a read-only device" in why
    with pytest.raises(LvmError, match="not permitted"):
        run("lvchange", "--permission", "rw", "vg/base")

    table = run("dmsetup", "table", "vg-base-real")
    group.deactivate("base")
    run("dmsetup", "create", "merge-base", "--table", table.strip())
    try:
        assert merge("/dev/mapper/merge-base") == (0, "")
    finally:
        run("dmsetup", "remove", "merge-base")
    group.activate("over")
    assert blockdev.read(over, 0, VOLUME_BYTES) == shown
    group.remove("over")
    run("lvchange", "--quiet", "--permission", "rw", "vg/base")
    group.activate("base")
    assert blockdev.read(base, 0, VOLUME_BYTES) == shown
