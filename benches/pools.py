"""Generates the benchmark pools: metadata images with a known content.

    python benches/pools.py [POOL ...] [--dir bench-data] [--scale 1] [--restore COMMAND]

S       one device, sequential: one extent, and yet a full tree
M       one device, every data block random: no runs at all
L       an origin and 99 snapshots, 90 % of their leaves shared as nodes
F       the same devices as L with the same data blocks, and nothing shared
D1 D20  a device and its snapshot, 1 % or 20 % of the leaves differ, the others are shared nodes
D1s D20s  the same share of mappings differs, scattered, and no leaf is shared
V       a volume with content, half sequential, half fragmented, 64 KiB blocks, and its data image

Sizes at scale 1: S 1 million mappings, M 5, L and F 20, D* 10; V 1 GiB. An image is made once per
folder and scale, and found again by the small JSON file beside it. The mappings go through
thin_restore; L, D1 and D20 need a 1.x one, which understands <def> and <ref>.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import random
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

LEAF = 252  # mappings in one full 4 KiB leaf
DATA_BLOCK_SECTORS = 128
DATA_BLOCK_BYTES = DATA_BLOCK_SECTORS * 512
FORMAT = 1  # raise it when a generator changes, and old images are made anew
NEED_SHARED = frozenset({"L", "D1", "D20"})
NAMES = ("S", "M", "L", "F", "D1", "D20", "D1s", "D20s", "V")


@dataclass(frozen=True)
class Pool:
    """One generated pool: its metadata image, and what is known of it."""

    name: str
    scale: float
    image: Path
    mappings: int
    leaves_differing: int = 0
    data: Path | None = None
    volume_sha256: str = ""
    volume_bytes: int = 0


class XmlWriter:
    """Writes the dump format, in large pieces."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=1 << 20)

    def write(self, text: str) -> None:
        self._file.write(text.encode())

    def superblock(self, data_blocks: int) -> None:
        self.write(
            f'<superblock uuid="" time="1" transaction="2" flags="0" version="2" '
            f'data_block_size="{DATA_BLOCK_SECTORS}" nr_data_blocks="{data_blocks}">\n'
        )

    def device(self, device_id: int, mapped: int, *, created: int = 0) -> None:
        self.write(
            f'<device dev_id="{device_id}" mapped_blocks="{mapped}" transaction="1" '
            f'creation_time="{created}" snap_time="1">\n'
        )

    def run(self, virtual: int, data: int, length: int) -> None:
        self.write(
            f'<range_mapping origin_begin="{virtual}" data_begin="{data}" '
            f'length="{length}" time="0"/>\n'
        )

    def singles(self, first: int, data: Sequence[int], when: int) -> None:
        line = f'<single_mapping origin_block="%d" data_block="%d" time="{when}"/>\n'
        for at in range(0, len(data), 65536):
            piece = data[at : at + 65536]
            self.write("".join([line % pair for pair in enumerate(piece, first + at)]))

    def close(self) -> None:
        self.write("</superblock>\n")
        self._file.close()


def shuffled(count: int, seed: int) -> list[int]:
    """The numbers below `count` in an order that depends on the seed (and on numpy being there)."""
    try:
        numpy = importlib.import_module("numpy")
    except ImportError:
        numbers = list(range(count))
        random.Random(seed).shuffle(numbers)
        return numbers
    result: list[int] = numpy.random.default_rng(seed).permutation(count).tolist()
    return result


def leaf(values: Sequence[int], number: int) -> Sequence[int]:
    return values[number * LEAF : (number + 1) * LEAF]


def write_sequential(xml: XmlWriter, count: int) -> int:
    xml.superblock(count + 1024)
    xml.device(1, count)
    xml.run(0, 0, count)
    xml.write("</device>\n")
    return count


def write_fragmented(xml: XmlWriter, count: int) -> int:
    space = count + count // 2
    xml.superblock(space)
    xml.device(1, count)
    xml.singles(0, shuffled(space, 1)[:count], 0)
    xml.write("</device>\n")
    return count


def write_snapshots(xml: XmlWriter, per_device: int, *, flat: bool, devices: int = 100) -> int:
    leaves = max(2, per_device // LEAF)
    count = leaves * LEAF
    chance = random.Random(3)
    own = max(1, leaves // 10)
    private: list[set[int]] = [set()]
    private += [set(chance.sample(range(leaves), own)) for _ in range(devices - 1)]
    total = count + sum(map(len, private)) * LEAF
    values = shuffled(total, 4)
    xml.superblock(total + total // 4)
    if not flat:
        write_defs(xml, values, range(leaves))
    fresh = leaves  # the next leaf of data blocks that nobody has
    for device, mine in enumerate(private):
        xml.device(device + 1, count, created=min(device, 1))
        for number in range(leaves):
            if number in mine:
                xml.singles(number * LEAF, leaf(values, fresh), 1)
                fresh += 1
            elif flat:
                xml.singles(number * LEAF, leaf(values, number), 0)
            else:
                xml.write(f'<ref name="{number}"/>\n')
        xml.write("</device>\n")
    return count * devices


def write_defs(xml: XmlWriter, values: Sequence[int], leaves: Iterable[int]) -> None:
    for number in leaves:
        xml.write(f'<def name="{number}">\n')
        xml.singles(number * LEAF, leaf(values, number), 0)
        xml.write("</def>\n")


def write_pair(xml: XmlWriter, count: int, share: float) -> int:
    leaves = count // LEAF
    count = leaves * LEAF
    differing = differing_leaves(leaves, share)
    total = count + len(differing) * LEAF
    values = shuffled(total, 6)
    xml.superblock(total + total // 4)
    write_defs(xml, values, (n for n in range(leaves) if n not in differing))
    fresh = leaves
    for device in (1, 2):
        xml.device(device, count, created=device - 1)
        for number in range(leaves):
            if number not in differing:
                xml.write(f'<ref name="{number}"/>\n')
            elif device == 1:
                xml.singles(number * LEAF, leaf(values, number), 0)
            else:
                xml.singles(number * LEAF, leaf(values, fresh), 1)
                fresh += 1
        xml.write("</device>\n")
    return 2 * count


def differing_leaves(leaves: int, share: float) -> set[int]:
    return set(random.Random(5).sample(range(leaves), max(1, int(leaves * share))))


def write_scattered_pair(xml: XmlWriter, count: int, share: float) -> int:
    changed = int(count * share)
    values = shuffled(count + changed, 7)
    xml.superblock(count + changed + count // 4)
    second = values[:count]
    for number, at in enumerate(random.Random(8).sample(range(count), changed)):
        second[at] = values[count + number]
    for device, mine in ((1, values[:count]), (2, second)):
        xml.device(device, count, created=device - 1)
        xml.singles(0, mine, 0)
        xml.write("</device>\n")
    return 2 * count


def volume_layout(blocks: int) -> list[int]:
    """Data block of every virtual block of V: the first half in order, the second shuffled."""
    half = blocks // 2
    return list(range(half)) + [half + n for n in shuffled(blocks - half, 9)]


def write_volume(xml: XmlWriter, blocks: int) -> int:
    layout = volume_layout(blocks)
    half = blocks // 2
    xml.superblock(blocks)
    xml.device(1, blocks)
    xml.run(0, 0, half)
    xml.singles(half, layout[half:], 0)
    xml.write("</device>\n")
    return blocks


def write_data(path: Path, blocks: int) -> str:
    """Writes V's data image and returns the sha256 of the volume that it holds."""
    noise = random.Random(10).randbytes(DATA_BLOCK_BYTES - 8)
    digest = hashlib.sha256()
    with path.open("w+b") as file:
        for number in range(blocks):
            file.write(number.to_bytes(8, "little") + noise)
        file.flush()
        for number in volume_layout(blocks):
            digest.update(os.pread(file.fileno(), DATA_BLOCK_BYTES, number * DATA_BLOCK_BYTES))
    return digest.hexdigest()


def sized(count: int, scale: float) -> int:
    return max(LEAF * 4, int(count * scale))


def volume_blocks(scale: float) -> int:
    return max(256 << 20, int((1 << 30) * min(scale, 1.0))) // DATA_BLOCK_BYTES


GENERATORS: dict[str, Callable[[XmlWriter, float], int]] = {
    "S": lambda xml, scale: write_sequential(xml, sized(1_000_000, scale)),
    "M": lambda xml, scale: write_fragmented(xml, sized(5_000_000, scale)),
    "L": lambda xml, scale: write_snapshots(xml, sized(200_000, scale), flat=False),
    "F": lambda xml, scale: write_snapshots(xml, sized(200_000, scale), flat=True),
    "D1": lambda xml, scale: write_pair(xml, sized(5_000_000, scale), 0.01),
    "D20": lambda xml, scale: write_pair(xml, sized(5_000_000, scale), 0.20),
    "D1s": lambda xml, scale: write_scattered_pair(xml, sized(5_000_000, scale), 0.01),
    "D20s": lambda xml, scale: write_scattered_pair(xml, sized(5_000_000, scale), 0.20),
    "V": lambda xml, scale: write_volume(xml, volume_blocks(scale)),
}


def folder(directory: Path, scale: float) -> Path:
    return directory / f"scale-{scale:g}"


def image_bytes(scale: float) -> int:
    """2 GiB, sparse, at scale 1; the share of it that is free stays the same at other scales."""
    return max(64, int(2048 * scale)) << 20


def existing(directory: Path, name: str, scale: float) -> Pool | None:
    image = folder(directory, scale) / f"{name}.img"
    try:
        facts = json.loads(image.with_suffix(".json").read_text())
    except (OSError, ValueError):
        return None
    data = image.with_suffix(".data")
    if facts.pop("format", None) != FORMAT or not image.exists() or (name == "V") != data.exists():
        return None
    return Pool(**facts, image=image, data=data if name == "V" else None)


def remember(pool: Pool) -> None:
    facts = asdict(pool) | {"format": FORMAT}
    del facts["image"], facts["data"]
    pool.image.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")


def leaves_differing(name: str, scale: float) -> int:
    share = {"D1": 0.01, "D20": 0.20}.get(name)
    return len(differing_leaves(sized(5_000_000, scale) // LEAF, share)) if share else 0


def make(
    directory: Path, name: str, scale: float, restore: Sequence[str], *, keep_xml: bool
) -> Pool:
    """Generates one pool, through files of temporary names, so that what is there is whole."""
    target = folder(directory, scale)
    target.mkdir(parents=True, exist_ok=True)
    image, xml_path = target / f"{name}.img", target / f"{name}.xml"
    unfinished = target / f".{name}.img"
    xml = XmlWriter(xml_path)
    mappings = GENERATORS[name](xml, scale)
    xml.close()
    with unfinished.open("wb") as file:
        file.truncate(image_bytes(scale))
    command = [*restore, "-i", str(xml_path), "-o", str(unfinished)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    data, digest, size = None, "", 0
    if name == "V":
        data, size = image.with_suffix(".data"), mappings * DATA_BLOCK_BYTES
        digest = write_data(data, mappings)
    unfinished.rename(image)
    if not keep_xml:
        xml_path.unlink()
    pool = Pool(name, scale, image, mappings, leaves_differing(name, scale), data, digest, size)
    remember(pool)
    return pool


def ensure(
    directory: Path,
    names: Iterable[str],
    scale: float,
    restore: Sequence[str],
    *,
    understands_shared: bool,
    keep_xml: bool = False,
) -> dict[str, Pool]:
    """The named pools, found or made; those that this thin_restore cannot make are left out."""
    pools: dict[str, Pool] = {}
    for name in names:
        pool = existing(directory, name, scale)
        if pool is None:
            if not restore or (name in NEED_SHARED and not understands_shared):
                print(f"pool {name}: needs a 1.x thin_restore; left out", file=sys.stderr)
                continue
            start = time.perf_counter()
            pool = make(directory, name, scale, restore, keep_xml=keep_xml)
            took = time.perf_counter() - start
            print(f"pool {name}: {pool.mappings} mappings, made in {took:.1f} s", file=sys.stderr)
        pools[name] = pool
    return pools


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pool", nargs="*", default=list(NAMES), help="default: all")
    parser.add_argument("--dir", type=Path, default=Path("bench-data"))
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--restore", default="pdata_tools thin_restore", metavar="COMMAND")
    parser.add_argument("--no-shared", action="store_true", help="COMMAND is 0.9.0")
    parser.add_argument("--keep-xml", action="store_true")
    given = parser.parse_args()
    pools = ensure(
        given.dir,
        given.pool,
        given.scale,
        shlex.split(given.restore),
        understands_shared=not given.no_shared,
        keep_xml=given.keep_xml,
    )
    for pool in pools.values():
        print(f"{pool.name:5} {pool.mappings:>10} mappings  {pool.image}")


if __name__ == "__main__":
    main()
