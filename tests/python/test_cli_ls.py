"""``thinmeta ls`` has every field that ``thin_ls`` has, in every unit."""

from __future__ import annotations

from pathlib import Path

import pytest

import thinmeta
from command import ThinmetaCommand, as_json
from corpus import Corpus
from dropins import DropIns


@pytest.mark.parametrize("name", ["snap-chain", "block-192k", "metadata-snap", "kernel-6.12"])
def test_ls_has_every_field_of_thin_ls(
    command: ThinmetaCommand, corpus: Corpus, drop_in: DropIns, name: str
) -> None:
    """As the stand-in says, which says what 1.x does."""
    meta = corpus[name].meta
    devices = as_json(command("ls", "--json", "-o", "all", meta))["devices"]
    keys = {
        "DEV": "device_id",
        "TRANSACTION": "transaction_id",
        "CREATE_TIME": "creation_time",
        "SNAP_TIME": "snapshotted_time",
    }
    for unit in ("BLOCK", "SECTOR", "BYTE"):
        for size in ("MAPPED", "EXCLUSIVE", "SHARED"):
            keys[f"{size}_{unit}S"] = f"{size}_{unit}s".lower()
        keys[f"HIGHEST_{unit}"] = f"highest_mapped_{unit}".lower()
    ran = drop_in(f"thin_ls --no-headers -o {','.join(keys)}", meta)
    theirs = [[int(cell) for cell in line.split()] for line in ran.out.splitlines()]
    assert theirs
    # A device without mappings has no highest one; the peer says 0, or the last of block 0.
    ours = [[device[key] for key in keys.values()] for device in devices]
    for own, row in zip(ours, theirs, strict=True):
        assert [cell for cell in own if cell is not None] == [
            other for cell, other in zip(own, row, strict=True) if cell is not None
        ]
    sizes = ("dev", "mapped", "exclusive", "shared", "highest")
    for units in ("blocks", "sectors", "bytes"):
        table = command("ls", "-o", ",".join(sizes), "--units", units, meta).stdout
        unit = units.upper().removesuffix("S")
        columns = [
            list(keys).index(key)
            for key in (
                "DEV",
                f"MAPPED_{unit}S",
                f"EXCLUSIVE_{unit}S",
                f"SHARED_{unit}S",
                f"HIGHEST_{unit}",
            )
        ]
        assert [line.split() for line in table.splitlines()[1:]] == [
            ["-" if row[column] is None else str(row[column]) for column in columns] for row in ours
        ]


def test_ls_says_where_a_volume_ends(command: ThinmetaCommand, tmp_path: Path) -> None:
    meta = tmp_path / "meta.img"
    with (
        thinmeta.Pool.create(
            meta, data_block_size_sectors=128, data_blocks=100, metadata_blocks=100
        ) as pool,
        pool.transaction() as txn,
    ):
        txn.create_thin(3)
        txn.create_thin(4)
        txn.insert(4, virtual_block=79, data_block=txn.allocate_data())
    table = command("ls", "-o", "dev,highest", meta).stdout.splitlines()
    assert [line.split() for line in table[1:]] == [["3", "-"], ["4", "5", "MiB"]]
    devices = as_json(command("ls", "-o", "highest", "--json", meta))["devices"]
    assert devices == [
        dict.fromkeys(("highest_mapped_block", "highest_mapped_sector", "highest_mapped_byte")),
        {
            "highest_mapped_block": 79,
            "highest_mapped_sector": 80 * 128 - 1,
            "highest_mapped_byte": 80 * 65536 - 1,
        },
    ]
