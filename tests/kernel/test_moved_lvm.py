"""A pool of LVM on fewer extents: the recipe of docs/moving.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import thinmeta
from kernel import blockdev
from kernel.blockdev import KernelLog
from kernel.live import BLOCK_BYTES
from kernel.lvm import EXTENT_BYTES, LvmError, VolumeGroup, run
from kernel.world import pattern

VOLUME_BYTES = 32 << 20
EXTENTS = 2


def fewer_extents(text: str, volume: str, extents: int) -> str:
    """LVM's books with a volume of one segment made shorter."""
    begin = text.index(f"\t\t{volume} {{\n")
    found = re.compile(r"segment_count = (\d+)").search(text, begin)
    assert found is not None and found[1] == "1"
    count = re.compile(r"extent_count = \d+").search(text, begin)
    assert count is not None
    return f"{text[: count.start()]}extent_count = {extents}{text[count.end() :]}"


def test_a_pool_of_lvm_is_shrunk(
    kernel_log: KernelLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THINMETA_STATE_DIR", str(tmp_path / "state"))
    first, later = pattern("first", 24 * BLOCK_BYTES), pattern("later", 3 * BLOCK_BYTES)
    with VolumeGroup() as group:
        junk = group.create_thin("junk", size_bytes=VOLUME_BYTES)
        blockdev.write(junk, 0, bytes(EXTENTS * EXTENT_BYTES))
        path = group.create_thin("thin1", size_bytes=VOLUME_BYTES)
        blockdev.write(path, 0, first)
        group.create_snapshot("snap1", origin="thin1")
        blockdev.write(path, 2 * BLOCK_BYTES, later)
        group.remove("junk")

        # The data, to be written: what LVM lends out is read-only.
        group.deactivate_all()
        group.activate("pool_tdata")
        table = run("dmsetup", "table", group.data)
        group.deactivate("pool_tdata")
        run("dmsetup", "create", "shrink-data", "--table", table.strip())
        try:
            with group.metadata_swapped_out() as spare:
                before = tmp_path / "pool_tmeta.before"
                before.write_bytes(Path(spare).read_bytes())
                blocks = EXTENTS * EXTENT_BYTES // BLOCK_BYTES
                data = "/dev/mapper/shrink-data"
                done = thinmeta.shrink(before, data, spare, data_blocks=blocks)
                assert done.plan.moved_blocks == 27
                assert thinmeta.check(spare).is_clean
        finally:
            run("dmsetup", "remove", "shrink-data")

        with pytest.raises(LvmError, match="cannot be reduced"):
            run("lvreduce", "--yes", "--force", "--extents", str(EXTENTS), "vg/pool")
        books = tmp_path / "vg.cfg"
        run("vgcfgbackup", "--file", str(books), "vg")
        text = books.read_text()
        for volume in ("pool", "pool_tdata"):
            text = fewer_extents(text, volume, EXTENTS)
        books.write_text(text)
        run("vgcfgrestore", "--force", "--yes", "--file", str(books), "vg")

        group.activate("thin1", "snap1")
        rows = group.volumes()
        for name in ("pool", "[pool_tdata]"):
            assert int(rows[name]["lv_size"]) == EXTENTS * EXTENT_BYTES
        status = run("dmsetup", "status", "--target", "thin-pool")
        assert f"27/{blocks} " in status and " rw " in status
        assert blockdev.read(group.path("snap1"), 0, len(first)) == first
        now = first[: 2 * BLOCK_BYTES] + later + first[5 * BLOCK_BYTES :]
        assert blockdev.read(group.path("thin1"), 0, len(now)) == now
        # And LVM goes on with it.
        blockdev.write(group.path("thin1"), 0, later)
        assert blockdev.read(group.path("snap1"), 0, len(first)) == first
        run("lvextend", "--quiet", "--size", "+4M", "vg/pool")
