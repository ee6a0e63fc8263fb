"""A volume of LVM, back onto the external origin that LVM keeps for it: as in docs/migrate.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernel import blockdev
from kernel.blockdev import KernelLog
from kernel.lvm import LvmError, VolumeGroup, run
from kernel.world import pattern
from thinmeta.cli import main

VOLUME_BYTES = 8 << 20
BLOCK_BYTES = 65536


def test_an_external_origin_of_lvm_takes_its_volume_back(
    kernel_log: KernelLog,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("run", "state"):
        monkeypatch.setenv(f"THINMETA_{name.upper()}_DIR", str(tmp_path / name))
    monkeypatch.setenv("DM_DISABLE_UDEV", "1")
    with VolumeGroup() as group:
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
