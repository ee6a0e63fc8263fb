"""The explorer on damaged images, and on what is no pool: pages with findings, never an error."""

from __future__ import annotations

import fcntl
import os
import random
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import pytest

import thinmeta
from corpus import Corpus
from damages import Tree
from exploring import codes, fact, key, walk
from ondisk import BLOCK, kind_of, patched, seal
from thinmeta.explore import (
    BlockPlace,
    DevicesPlace,
    Explorer,
    HomePlace,
    MappingPlace,
    OwnersPlace,
    Page,
    Place,
)

#: Small ones, whose every block is spoiled; one has a metadata snapshot.
SMALL = ["sparse-keys", "metadata-snap", "deleted"]
#: Blocks that are made to lie, one after the other, in each of them.
LIES = int(os.environ.get("THINMETA_EXPLORE_LIES", "20"))


class Spoiled:
    """An image of one's own, whose blocks are spoiled and put right again."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path, self.content = path, content
        path.write_bytes(content)

    @cached_property
    def used(self) -> list[int]:
        blocks = range(len(self.content) // BLOCK)
        return [at for at in blocks if kind_of(self.block(at)) is not None]

    def block(self, at: int) -> bytes:
        return self.content[at * BLOCK : (at + 1) * BLOCK]

    def write(self, at: int, block: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(at * BLOCK)
            file.write(block)

    def spoil(self, at: int, draw: random.Random) -> Iterator[str]:
        """One way after the other; the block is right again at the end."""
        was = self.block(at)
        byte = draw.randrange(BLOCK)
        other = draw.choice([each for each in self.used if each != at])
        ways = {
            "zeroed": bytes(BLOCK),
            "a bit flipped": patched(was, byte, bytes([was[byte] ^ 1 << draw.randrange(8)])),
            "another block": self.block(other),
        }
        for way, block in ways.items():
            self.write(at, block)
            yield way
        self.write(at, was)


@pytest.fixture(params=SMALL)
def spoiled(request: pytest.FixtureRequest, corpus: Corpus, tmp_path: Path) -> Spoiled:
    return Spoiled(tmp_path / "meta.img", corpus[request.param].meta.read_bytes())


def visit(explorer: Explorer, places: list[Place]) -> list[Page]:
    return [explorer.page(place) for place in places]


def test_every_block_spoiled_is_shown_with_the_code_that_check_gives(spoiled: Spoiled) -> None:
    draw = random.Random(5)
    with Explorer(spoiled.path) as explorer:
        pages = list(walk(explorer))
    way_to: dict[int, Place] = {0: HomePlace()}
    for page in pages:
        for to in (page.place, *(row.to for row in page.rows)):
            if isinstance(to, BlockPlace) and to.role is not None:
                way_to.setdefault(to.block, to)
    everywhere: list[Place] = [HomePlace(), DevicesPlace(), MappingPlace(1, 3), OwnersPlace(2)]
    everywhere += [page.place for page in pages if isinstance(page.place, BlockPlace)][:12]
    told = 0
    for at in spoiled.used:
        for way in spoiled.spoil(at, draw):
            with Explorer(spoiled.path) as explorer:
                visit(explorer, [*everywhere, BlockPlace(at)])
                if at not in way_to:
                    continue
                page = explorer.page(way_to[at])
                try:
                    report = thinmeta.check(spoiled.path)
                except thinmeta.ThinmetaError:
                    assert at == 0 and codes(page) == {"superblock-damaged"}, way
                    continue
                found = {each.code for each in report.findings
                         if each.block == at and each.severity == "fatal"}  # fmt: skip
                fatal = {each.code for each in page.troubles if each.severity == "fatal"}
                assert found <= fatal, (at, way)
                assert fatal, (at, way)
                told += len(found)
    assert told > len(way_to), "check found nothing to compare with"
    with Explorer(spoiled.path) as explorer:
        assert not explorer.page(HomePlace()).troubles, "it is right again"


def test_lies_under_good_checksums_never_raise(spoiled: Spoiled) -> None:
    """Fields that are changed and sealed: loops, wild pointers, keys and counts."""
    draw = random.Random(7)
    with Explorer(spoiled.path) as explorer:
        places = list({key(page.place): page.place for page in walk(explorer)}.values())
    wild = [0, 1, 5, 2**24, 2**32 - 1, 2**40, 2**63, 2**64 - 1]
    troubled = 0
    for _ in range(LIES):
        at = draw.choice(spoiled.used)
        was = spoiled.block(at)
        kind = kind_of(was)
        assert kind is not None
        block = was
        for _ in range(draw.randint(1, 3)):
            offset = draw.choice(
                (16, 20, 24, draw.randrange(16, 400), draw.randrange(16, BLOCK - 8))
            )
            number = draw.choice((*wild, at, draw.choice(spoiled.used), draw.randrange(2**64)))
            width = draw.choice((4, 8))
            block = patched(block, offset, number.to_bytes(8, "little")[:width])
        spoiled.write(at, seal(block[:BLOCK], kind))
        with Explorer(spoiled.path) as explorer:
            mine = [
                place for place in places if isinstance(place, BlockPlace) and place.block == at
            ]
            looks = [HomePlace(), DevicesPlace(), *draw.sample(places, 8), *mine, BlockPlace(at)]
            looks += [MappingPlace(draw.choice((0, 1, 2)), draw.randrange(2000)), OwnersPlace(1)]
            seen = visit(explorer, looks)
            # And wherever that leads, two steps on.
            for page in seen:
                for row in page.rows[:3] + page.rows[-2:]:
                    if row.to is not None and not isinstance(row.to, OwnersPlace):
                        for onward in explorer.page(row.to).rows[:1]:
                            if isinstance(onward.to, BlockPlace):
                                explorer.page(onward.to)
            troubled += any(page.troubles for page in seen)
        spoiled.write(at, was)
    assert troubled > LIES // 3


def test_a_tree_that_leads_back_to_itself_ends(tmp_path: Path, corpus: Corpus) -> None:
    spoiled = Spoiled(tmp_path / "meta.img", corpus["random-60k"].meta.read_bytes())
    tree = Tree(spoiled.content)
    device, (_, root) = next(iter(tree.device_roots().items()))
    internal, entries = tree.entries(root)
    assert internal
    block = spoiled.block(root)
    at = 32 + 8 * int.from_bytes(block[20:24], "little")
    spoiled.write(root, seal(patched(block, at, root.to_bytes(8, "little")), "btree node"))
    with Explorer(spoiled.path) as explorer:
        page = explorer.page(MappingPlace(device, entries[0][0]))
        assert codes(page) == {"tree-loop"}
        page = explorer.page(BlockPlace(root, role="mappings", device=device))
        assert "tree-loop" in fact(page, "height")
        first = page.rows[0].to
        assert first is not None and codes(explorer.page(first)) >= {"tree-loop"}


def test_what_no_pool_is_can_be_looked_at_or_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(b"<superblock uuid='' time='0'>".ljust(2 * BLOCK, b" "))
    with Explorer(text) as explorer:
        page = explorer.page(HomePlace())
        assert codes(page) == {"superblock-damaged"} and "XML" in page.troubles[0].message
        assert codes(explorer.page(BlockPlace(7))) == {"bad-pointer"}
        assert codes(explorer.page(BlockPlace(2**64))) == {"bad-pointer"}
        assert codes(explorer.page(DevicesPlace())) == {"superblock-damaged"}
    short = tmp_path / "short"
    short.write_bytes(b"x")
    with pytest.raises(thinmeta.UnsupportedFormatError):
        Explorer(short)
    with pytest.raises(FileNotFoundError):
        Explorer(tmp_path / "nothing")
    with pytest.raises(thinmeta.UsageError):
        explorer.page(HomePlace())  # it is closed


def test_an_image_in_use_is_read_through_its_snapshot_only(corpus: Corpus, tmp_path: Path) -> None:
    meta = tmp_path / "meta.img"
    meta.write_bytes(corpus["metadata-snap"].meta.read_bytes())
    with meta.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(thinmeta.DeviceInUseError):
            Explorer(meta)
        with Explorer(meta, metadata_snapshot="held") as explorer:
            assert not explorer.page(HomePlace()).troubles
    with Explorer(meta), Explorer(meta):  # beside other readers
        pass
