"""Sizes that are foretold, and pools that are really made."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

import thinmeta
from dropins import DropIns
from thinmeta.sizing import metadata_size


def listing(
    data_blocks: int, mapped: list[int], shared: int = 0, *, scattered: bool = False
) -> str:
    """Devices that share their first blocks, or every second one and then so many others.

    No two of those that are not shared are the same.
    """
    head = (
        f'<superblock uuid="" time="0" transaction="0" version="2" data_block_size="128" '
        f'nr_data_blocks="{data_blocks}">\n'
    )
    lines = [head]
    data = shared
    step = 2 if scattered else 1
    for device, blocks in enumerate(mapped):
        lines.append(
            f'<device dev_id="{device}" mapped_blocks="{blocks}" transaction="0" '
            'creation_time="0" snap_time="0">\n'
        )
        runs = []
        if shared and not scattered:
            runs.append((0, 0, shared))
        elif scattered:
            own = min(shared, blocks - shared)
            runs += [(step * at, at, 1) for at in range(shared)]
            runs += [(step * at + 1, data + at, 1) for at in range(own)]
            runs.sort()
        own = blocks - sum(run[2] for run in runs)
        done = blocks - shared - own
        if own:
            begin = step * shared if shared else 7 * device
            runs.append((begin, data + done, own))
        data += own + done
        lines += [
            f'<range_mapping origin_begin="{virtual}" data_begin="{begin}" '
            f'length="{length}" time="0"/>\n'
            for virtual, begin, length in runs
        ]
        lines.append("</device>\n")
    assert data <= data_blocks
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
    # Each device that is created has a root of its own, also without mappings; a restore
    # makes one for all of these.
    need = metadata_size(data_blocks, mapped).total - max(mapped.count(0) - 1, 0)
    xml, out = tmp_path / "pool.xml", tmp_path / "pool.img"
    xml.write_text(listing(data_blocks, mapped))
    made = thinmeta.restore(xml, out, size_bytes=need * 4096)
    assert made.metadata_blocks_used == made.metadata_blocks == need
    assert thinmeta.check(out).is_clean
    out.unlink()
    with pytest.raises(thinmeta.NoSpaceError):
        thinmeta.restore(xml, out, size_bytes=(need - 1) * 4096)


SHARED = [
    # mapped, shared: leaves and nodes that are whole, and not; copies; other depths
    ([1000, 1000], 252),
    ([1000, 900, 1000], 253),
    ([1000, 900, 1000, 800], 504),
    ([500, 500, 500], 500),
    ([504, 504, 504, 504], 504),
    ([504, 504, 700, 800], 504),
    ([252, 252, 252], 252),
    ([252, 252, 700], 252),
    ([252, 700, 700], 252),
    ([252, 400], 252),
    ([150_000, 150_000, 149_900], 126_000),
    ([127_008] * 5, 63_504),
]


@pytest.mark.parametrize(("mapped", "shared"), SHARED)
def test_a_pool_that_shares_fits_just_as_foretold(
    tmp_path: Path, mapped: list[int], shared: int
) -> None:
    need, used = foretold_and_used(tmp_path, sum(mapped), mapped, shared)
    assert used == need


def test_random_sharing_is_foretold_but_for_the_ends_of_trees(tmp_path: Path) -> None:
    """Where few entries are left for a last node, it takes some of the one before it."""
    draw = random.Random(8)
    exact = 0
    for _ in range(40):
        shared = draw.choice((1, 100, 252, 252 * 3, 252 * 3 + 7, 65_000, 70_000))
        more = [draw.choice((0, 0, 1, 252, 5000)) for _ in range(draw.randint(1, 8))]
        mapped = [shared + own for own in more]
        need, used = foretold_and_used(tmp_path, sum(mapped), mapped, shared)
        assert abs(used - need) <= len(mapped), (mapped, shared)
        exact += used == need
    assert exact >= 20


@pytest.mark.parametrize("devices", [1, 2, 3, 6])
@pytest.mark.parametrize("shared", [5, 336, 337, 30_000])
def test_scattered_sharing_fits_just_as_foretold(tmp_path: Path, devices: int, shared: int) -> None:
    mapped = [2 * shared] * devices
    need, used = foretold_and_used(tmp_path, 400_000, mapped, shared, scattered=True)
    assert used == need


def test_snapshots_that_are_written_to_are_foretold(tmp_path: Path) -> None:
    """As a kernel makes them: a volume, snapshots of it, and then each goes on by itself."""
    path = tmp_path / "pool.img"
    shared, own, devices = 252 * 70, 252 * 5, 6
    blocks = shared + devices * own
    with thinmeta.Pool.create(
        path, data_block_size_sectors=128, data_blocks=blocks, metadata_blocks=2000
    ) as pool:

        def write(device: int, first: int, count: int) -> None:
            for begin in range(first, first + count, 630):
                with pool.transaction() as txn:
                    for at in range(begin, min(begin + 630, first + count)):
                        txn.insert(device, virtual_block=at, data_block=txn.allocate_data())

        with pool.transaction() as txn:
            txn.create_thin(0)
        write(0, 0, shared)
        for device in range(1, devices):
            with pool.transaction() as txn:
                txn.create_snapshot(device, origin_id=0)
        for device in range(devices):
            write(device, shared, own)
        used = pool.metadata_space.allocated
    need = metadata_size(blocks, [shared + own] * devices, shared_blocks=shared).total
    assert need <= used <= need + 2 * devices
    alone = metadata_size(blocks, [shared + own] * devices).total
    assert alone > 2 * used


def foretold_and_used(
    folder: Path, data_blocks: int, mapped: list[int], shared: int, *, scattered: bool = False
) -> tuple[int, int]:
    """Metadata blocks that a pool should take, and that it does take when it is made."""
    need = metadata_size(data_blocks, mapped, shared_blocks=shared, scattered=scattered).total
    xml, out = folder / "pool.xml", folder / "pool.img"
    xml.write_text(listing(data_blocks, mapped, shared, scattered=scattered))
    out.unlink(missing_ok=True)
    made = thinmeta.restore(xml, out, size_bytes=(need + 100) * 4096)
    assert thinmeta.check(out).is_clean
    return need, made.metadata_blocks_used


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
    all_own = metadata_size(blocks, [blocks] * 100, fill=0.5, shared_blocks=blocks, scattered=True)
    assert document["all_their_own"]["total"] == all_own.total
    text = drop_in(words).out.decode()
    assert str(need.total) in text
    assert "more than there can be" in text
    for wrong in (
        "",
        "--data-size 1T",
        "--data-size 1T --block-size 100",
        "--data-size 1K --block-size 64K",
        "--data-size 1T --block-size 64K --devices 0",
        "--data-size 1T --block-size 64K --devices 3 --mapped 400G",
        "--data-size 1T --block-size 64K --devices 3 --mapped 400G --shared 87G",
        "--data-size 1T --block-size 64K --devices 3 --mapped 400G --shared 401G",
        "--data-size 1T --block-size 64K --shared 2T",
        "--data-size 1T --block-size 64K --mapped 2T",
    ):
        assert drop_in(f"size {wrong}").status == 2
    with pytest.raises(thinmeta.UsageError):
        metadata_size(5, [9, 2], shared_blocks=3)
    with pytest.raises(thinmeta.UsageError):
        metadata_size(5, [-1])
    with pytest.raises(thinmeta.UsageError):
        metadata_size(5, [1], fill=0.2)


def test_the_command_counts_what_is_shared(drop_in: DropIns) -> None:
    words = "size --data-size 1T --block-size 64K --devices 4 --json"
    blocks, gib = (1 << 40) // 65536, (1 << 30) // 65536

    def totals(more: str) -> tuple[int, int]:
        document = json.loads(drop_in(f"{words} {more}").out)
        return document["in_order"]["total"], document["at_random"]["total"]

    def foretold(mapped: int, shared: int) -> tuple[int, int]:
        each = [mapped] * 4
        return (
            metadata_size(blocks, each, shared_blocks=shared).total,
            metadata_size(blocks, each, fill=0.5, shared_blocks=shared, scattered=True).total,
        )

    assert totals("--mapped 10G") == foretold(10 * gib, 0)
    assert totals("--mapped 10G --shared 8G") == foretold(10 * gib, 8 * gib)
    # What is not shared they have among them.
    assert totals("--shared 600G") == foretold((600 + 106) * gib, 600 * gib)
    # More than the data hold, as most of it is the same.
    assert totals("--mapped 1T --shared 1T") == foretold(1024 * gib, 1024 * gib)
