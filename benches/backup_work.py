"""What the group `backup` needs done in processes of their own: pools, and plain copies.

python -m backup_work full FOLDER BYTES        a volume of random content: full.meta, full.data
python -m backup_work text FOLDER BYTES        one of text
python -m backup_work change FOLDER BYTES      a sparse one of which 1 % changes
python -m backup_work ranges FOLDER OUT        copy what has changed, and nothing else
python -m backup_work half FOLDER BYTES        one that is full and compresses to half, 1 % changes
python -m backup_work counted WORD...          the command, and the bytes that it has read
python -m backup_work reads PROGRAM...         any program, and the bytes that it has read
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import thinmeta

BLOCK = 64 << 10
AT_ONCE = 64 * BLOCK


def create(folder: Path, name: str, data_blocks: int) -> thinmeta.Pool:
    data = folder / f"{name}.data"
    with data.open("wb") as file:
        file.truncate(data_blocks * BLOCK)
    pool = thinmeta.Pool.create(
        folder / f"{name}.meta",
        data_block_size_sectors=BLOCK // 512,
        data_blocks=data_blocks,
        metadata_blocks=max(data_blocks // 32, 512),
        data=data,
        overwrite=True,
    )
    with pool.transaction() as txn:
        txn.create_thin(1)
    return pool


def snapshot(pool: thinmeta.Pool, new: int) -> None:
    with pool.transaction() as txn:
        txn.create_snapshot(new, origin_id=1)


def text(count: int) -> bytes:
    lines = (
        f"{at:012} host{at % 7} service[{at * 7919 % 4096}]: all is well\n" for at in range(count)
    )
    return "".join(lines).encode()


def whole(folder: Path, name: str, size: int) -> None:
    """A volume that is written from front to end."""
    page = memoryview(text(1 << 20))
    with create(folder, name, size // BLOCK + 16) as pool:
        with pool.devices[1].open(mode="r+", size_bytes=size) as volume:
            for at in range(0, size, AT_ONCE):
                length = min(AT_ONCE, size - at)
                begin = at % (len(page) - AT_ONCE)
                content = os.urandom(length) if name == "full" else page[begin : begin + length]
                volume.write(content)
        snapshot(pool, 2)


def change(folder: Path, size: int) -> None:
    """A tenth is there, at random; a hundredth of all blocks is written after snapshot 2."""
    rng, blocks = random.Random(1), size // BLOCK
    with create(folder, "change", blocks // 4) as pool:
        for count, new in ((blocks // 10, 2), (blocks // 100, 3)):
            with pool.devices[1].open(mode="r+", size_bytes=size) as volume:
                for block in sorted(rng.sample(range(blocks), count)):
                    volume.seek(block * BLOCK)
                    volume.write(os.urandom(BLOCK))
            snapshot(pool, new)


def half(folder: Path, size: int) -> None:
    """All of it is there; a hundredth of all blocks is written after snapshot 2."""
    rng, blocks = random.Random(1), size // BLOCK
    page = text(1 << 20)

    def content() -> bytes:
        begin = rng.randrange(len(page) - BLOCK)
        return os.urandom(BLOCK // 2) + page[begin : begin + BLOCK // 2]

    with create(folder, "half", blocks + blocks // 100 + 16) as pool:
        for places, new in ((range(blocks), 2), (rng.sample(range(blocks), blocks // 100), 3)):
            with pool.devices[1].open(mode="r+", size_bytes=size) as volume:
                for block in sorted(places):
                    volume.seek(block * BLOCK)
                    volume.write(content())
            snapshot(pool, new)


def changed_rows(folder: Path) -> list[tuple[int, int]]:
    """Where what has changed is in the pool's data, and how long it is there, in bytes."""
    with thinmeta.open_pool(folder / "change.meta") as pool:
        rows = [row for row in pool.delta(2, 3) if row.right_data_block is not None]
        return [(row.right_data_block * BLOCK, row.length_bytes) for row in rows]


def ranges(folder: Path, out: str) -> None:
    """As dd would, but in one process: the ranges read, written and flushed."""
    rows = [tuple(map(int, line.split())) for line in (folder / "ranges").read_text().splitlines()]
    source = os.open(folder / "change.data", os.O_RDONLY)
    target = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    for begin, length in rows:
        os.write(target, os.pread(source, length, begin))
    os.fsync(target)


def counted(words: list[str]) -> int:
    from thinmeta.cli import main

    status = main(words)
    print(f"rchar {bytes_read()}", file=sys.stderr)
    return status


def bytes_read() -> int:
    """By this process, and by the children that it has waited for."""
    facts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(facts["rchar"])


def reads(words: list[str]) -> int:
    before = bytes_read()
    status = subprocess.run(words, check=False, stdout=subprocess.DEVNULL).returncode
    print(f"rchar {bytes_read() - before}", file=sys.stderr)
    return status


def main(words: list[str]) -> int:
    what, *rest = words
    if what == "counted":
        return counted(rest)
    if what == "reads":
        return reads(rest)
    folder = Path(rest[0])
    if what in ("full", "text"):
        whole(folder, what, int(rest[1]))
    elif what == "half":
        half(folder, int(rest[1]))
    elif what == "change":
        change(folder, int(rest[1]))
        rows = changed_rows(folder)
        (folder / "ranges").write_text("".join(f"{begin} {length}\n" for begin, length in rows))
    else:
        ranges(folder, rest[1])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
