"""Sizes that are foretold, and pools that are really made."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

import thinmeta
from dropins import DropIns
from thinmeta.sizing import metadata_size


def listing(data_blocks: int, mapped: list[int]) -> str:
    """Devices that share nothing; every second mapping lies elsewhere, as far as fits."""
    head = (
        f'<superblock uuid="" time="0" transaction="0" version="2" data_block_size="128" '
        f'nr_data_blocks="{data_blocks}">\n'
    )
    lines = [head]
    data = 0
    for device, blocks in enumerate(mapped):
        lines.append(
            f'<device dev_id="{device}" mapped_blocks="{blocks}" transaction="0" '
            'creation_time="0" snap_time="0">\n'
        )
        if blocks:
            lines.append(
                f'<range_mapping origin_begin="{7 * device}" data_begin="{data}" '
                f'length="{blocks}" time="0"/>\n'
            )
        data += blocks
        lines.append("</device>\n")
    return "".join([*lines, "</superblock>\n"])


def cases() -> list[tuple[int, list[int]]]:
    draw = random.Random(4)
    found: list[tuple[int, list[int]]] = [
        (1, []),
        (100, [0]),
        (16320, [252]),
        (16321, [253]),
        (70_000, [63_504]),
        (70_000, [63_505]),
        (4_000_000, [100, 0, 4000]),
        (300_000, [3] * 600),
    ]
    for _ in range(20):
        mapped = [draw.choice((0, 5, 252, 900, 70_000)) for _ in range(draw.randint(1, 300))]
        found.append((sum(mapped) + draw.randrange(1, 9_000_000), mapped))
    return found


@pytest.mark.parametrize(("data_blocks", "mapped"), cases())
def test_a_pool_fits_just_as_foretold(tmp_path: Path, data_blocks: int, mapped: list[int]) -> None:
    need = metadata_size(data_blocks, mapped)
    xml, out = tmp_path / "pool.xml", tmp_path / "pool.img"
    xml.write_text(listing(data_blocks, mapped))
    made = thinmeta.restore(xml, out, size_bytes=need.total * 4096)
    assert made.metadata_blocks_used == made.metadata_blocks == need.total
    assert thinmeta.check(out).is_clean
    out.unlink()
    with pytest.raises(thinmeta.NoSpaceError):
        thinmeta.restore(xml, out, size_bytes=(need.total - 1) * 4096)


def test_random_writing_stays_below_half_full_nodes(tmp_path: Path) -> None:
    path = tmp_path / "pool.img"
    blocks = 20_000
    order = list(range(blocks))
    random.Random(1).shuffle(order)
    with thinmeta.Pool.create(
        path, data_block_size_sectors=128, data_blocks=blocks, metadata_blocks=2000
    ) as pool:
        for begin in range(0, blocks, 500):
            with pool.transaction() as txn:
                if begin == 0:
                    txn.create_thin(0)
                for at in range(begin, begin + 500):
                    txn.insert(0, virtual_block=order[at], data_block=txn.allocate_data())
        used = pool.metadata_space.allocated
    assert metadata_size(blocks, [blocks]).total <= used
    assert used <= metadata_size(blocks, [blocks], fill=0.5).total


def test_the_command(drop_in: DropIns) -> None:
    words = "size --data-size 1T --block-size 64K --devices 100"
    document = json.loads(drop_in(f"{words} --json").out)
    peer = drop_in("thin_metadata_size -b 64k -s 1t -m 100 -u b -n").out
    assert document["thin_metadata_size_blocks"] * 4096 == int(peer)
    blocks = (1 << 40) // 65536
    share, more = divmod(blocks, 100)
    need = metadata_size(blocks, [share + 1] * more + [share] * (100 - more))
    assert document["in_order"]["total"] == need.total
    assert document["in_order"]["leaves"] == need.leaves
    assert document["at_random"]["total"] > document["in_order"]["total"]
    assert document["all_their_own"]["total"] > 50 * document["at_random"]["total"]
    text = drop_in(words).out.decode()
    assert str(need.total) in text
    assert "more than there can be" in text
    for wrong in (
        "",
        "--data-size 1T",
        "--data-size 1T --block-size 100",
        "--data-size 1K --block-size 64K",
        "--data-size 1T --block-size 64K --devices 0",
    ):
        assert drop_in(f"size {wrong}").status == 2
    with pytest.raises(thinmeta.UsageError):
        metadata_size(5, [-1])
    with pytest.raises(thinmeta.UsageError):
        metadata_size(5, [1], fill=0.2)
