"""Hostile metadata: an error, a finding, or the very same listing. Nothing else.

Every case starts from an image of the corpus and spoils it: any byte flipped, a
field replaced under a checksum that is right again, pointers bent into loops and
into each other's trees, blocks swapped, the file cut short. Then the pool is checked
and read completely. A panic of the native module is no `Exception` and fails the
test; so does a clean report beside a listing that is not the original's, unless the
peer finds nothing wrong with it either and lists the same.

``THINMETA_HOSTILE_CASES`` sets the number of cases, ``THINMETA_HOSTILE_SEED`` the
choice.
"""

import faulthandler
import io
import os
import random
import resource
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

import oracles
import thinmeta
from corpus import Corpus, Image
from ondisk import BLOCK, SALTS, Node, kind_of, patched, read_u64, seal, u64
from oracles import ThinTools

CASES = int(os.environ.get("THINMETA_HOSTILE_CASES", "4000"))
SEED = int(os.environ.get("THINMETA_HOSTILE_SEED", "20120727"))
HANG_GUARD_SECONDS = 60
MEMORY_GUARD_BYTES = 512 << 20

#: Small images that between them have every kind of block and of sharing.
IMAGES = ["metadata-snap", "deleted", "discards", "snap-chain", "pair-zeroing-2", "metadata-full"]

Patch = tuple[int, bytes]


@dataclass(frozen=True)
class Case:
    name: str
    patches: Sequence[Patch] = ()
    truncate_to: int | None = None
    #: Nothing but a block outside every structure was touched.
    must_be_harmless: bool = False
    #: A block in use fails its checksum or its location now.
    must_be_noticed: bool = False


@dataclass(frozen=True)
class Outcome:
    """What the library says of an image: its report, and its listing or the error."""

    report: thinmeta.CheckReport | Exception
    listing: bytes | Exception
    held_listing: bytes | Exception | None

    @property
    def complains(self) -> bool:
        return isinstance(self.report, Exception) or not self.report.is_clean


class Victim:
    """A copy of an image that is damaged and made whole again, case by case."""

    def __init__(self, image: Image, folder: Path) -> None:
        self.name = image.name
        self.original = image.meta.read_bytes()
        self.path = folder / f"{image.name}.img"
        self.path.write_bytes(self.original)
        self.blocks = len(self.original) // BLOCK
        self.kinds = {
            at: kind for at in range(self.blocks) if (kind := kind_of(self.block(at))) is not None
        }
        self.nodes = {
            at: Node.of(self.block(at)) for at, kind in self.kinds.items() if kind == "btree node"
        }
        self.used = self._reachable()
        self.live_nodes = sorted(at for at in self.nodes if at in self.used)
        self.held_root = read_u64(self.original, 56)
        self.good = self.judge()
        assert isinstance(self.good.report, thinmeta.CheckReport)
        assert isinstance(self.good.listing, bytes)

    def block(self, at: int) -> bytes:
        return self.original[at * BLOCK : (at + 1) * BLOCK]

    def _reachable(self) -> set[int]:
        """Every block that the superblock leads to, by a walk of our own."""
        used: set[int] = set()

        def walk(at: int, visit: Callable[[int, bytes], None]) -> None:
            if at in used:
                return
            used.add(at)
            block = self.block(at)
            header = Node.of(block)
            for i in range(header.nr_entries):
                if header.is_internal:
                    walk(read_u64(block, header.value_at(i)), visit)
                else:
                    visit(at, block[header.value_at(i) :][: header.value_size])

        def nothing(at: int, value: bytes) -> None:
            pass

        def root_of_device(at: int, value: bytes) -> None:
            walk(int.from_bytes(value, "little"), nothing)

        def bitmap(at: int, value: bytes) -> None:
            used.add(read_u64(value, 0))

        def from_superblock(at: int) -> None:
            used.add(at)
            block = self.block(at)
            walk(read_u64(block, 320), root_of_device)
            walk(read_u64(block, 328), nothing)
            if at:
                return
            walk(read_u64(block, 64 + 16), bitmap)
            walk(read_u64(block, 64 + 24), nothing)
            walk(read_u64(block, 192 + 24), nothing)
            index = read_u64(block, 192 + 16)
            used.add(index)
            for i in range(-(-read_u64(block, 192) // 16320)):
                used.add(read_u64(self.block(index), 16 + 16 * i))
            if read_u64(block, 56):
                from_superblock(read_u64(block, 56))

        from_superblock(0)
        return used

    def judge(self) -> Outcome:
        report: thinmeta.CheckReport | Exception
        try:
            report = thinmeta.check(self.path, threads=2)
        except (thinmeta.ThinmetaError, OSError) as error:
            report = error
        held = None
        if self.held_root:
            held = self._list("held")
        return Outcome(report, self._list(None), held)

    def _list(self, root: Literal["held"] | None) -> bytes | Exception:
        """Everything there is to read: the dump, and the same through the API."""
        try:
            out = io.BytesIO()
            with thinmeta.open_pool(self.path, metadata_snapshot=root) as pool:
                thinmeta.dump(pool, out)
                devices = list(pool.devices.values())
                space = (pool.data_space, pool.metadata_space)
                facts = [(d.id, d.mapped_blocks, d.transaction_id) for d in devices]
                for device in devices:
                    for run in device.runs():
                        found = device.find(run.virtual_begin)
                        assert found is not None
                        assert found.data_block == run.data_begin
                if len(devices) > 1:
                    pool.delta(devices[0], devices[-1])
                pool.exclusive_blocks(threads=2)
                # It reads the space maps as well, which say nothing of what volumes hold.
                with suppress(thinmeta.DamagedBlockError):
                    pool.statistics(threads=2)
            return out.getvalue() + repr((facts, space)).encode()
        except (thinmeta.ThinmetaError, OSError) as error:
            return error

    @contextmanager
    def damaged(self, case: Case) -> Iterator[None]:
        """The copy, damaged; whole again afterwards."""
        with self.path.open("r+b", buffering=0) as file:
            for offset, value in case.patches:
                os.pwrite(file.fileno(), value, offset)
            if case.truncate_to is not None:
                file.truncate(case.truncate_to)
        try:
            yield
        finally:
            with self.path.open("r+b", buffering=0) as file:
                for offset, value in case.patches:
                    os.pwrite(file.fileno(), self.original[offset : offset + len(value)], offset)
                if case.truncate_to is not None:
                    os.pwrite(file.fileno(), self.original[case.truncate_to :], case.truncate_to)

    def suffer(self, case: Case) -> Outcome:
        """Ask about the damaged copy, with a guard against hangs."""
        with self.damaged(case):
            faulthandler.dump_traceback_later(HANG_GUARD_SECONDS, exit=True)
            try:
                return self.judge()
            finally:
                faulthandler.cancel_dump_traceback_later()

    def resealed(self, name: str, at: int, offset: int, value: bytes) -> Case:
        block = seal(patched(self.block(at), offset, value), self.kinds[at])
        return Case(f"{name} of block {at} at {offset} = {value.hex()}", [(at * BLOCK, block)])


# Families of cases: each makes one case from a victim and a source of chance.


def flipped_byte(victim: Victim, rng: random.Random) -> Case:
    """One byte of a block in use changed, the checksum left as it was."""
    at = rng.choice(sorted(victim.used))
    offset = at * BLOCK + rng.randrange(BLOCK)
    value = victim.original[offset] ^ rng.randrange(1, 256)
    return Case(f"flip at {offset}", [(offset, bytes([value]))], must_be_noticed=True)


def flipped_bit(victim: Victim, rng: random.Random) -> Case:
    at = rng.choice(sorted(victim.used))
    offset = at * BLOCK + rng.choice((rng.randrange(64), rng.randrange(BLOCK)))
    value = victim.original[offset] ^ 1 << rng.randrange(8)
    return Case(f"bit at {offset}", [(offset, bytes([value]))], must_be_noticed=True)


def flipped_unused(victim: Victim, rng: random.Random) -> Case:
    """A byte that nothing leads to."""
    at = rng.choice([n for n in range(victim.blocks) if n not in victim.used])
    offset = at * BLOCK + rng.randrange(BLOCK)
    value = victim.original[offset] ^ rng.randrange(1, 256)
    return Case(f"unused byte at {offset}", [(offset, bytes([value]))], must_be_harmless=True)


def random_value(rng: random.Random, size: int, nearby: int) -> bytes:
    top = (1 << 8 * size) - 1
    chosen = rng.choice(
        (
            0, 1, top, top - 1, top >> 1, 1 << (8 * size - 1), rng.randrange(top),
            rng.randrange(512), nearby + 1, nearby - 1, nearby ^ 1 << rng.randrange(8 * size),
        )
    )  # fmt: skip
    return (chosen & top).to_bytes(size, "little")


SUPERBLOCK_FIELDS = [
    (4, 4), (8, 8), (16, 8), (24, 8), (32, 8), (40, 4), (44, 4), (48, 8), (56, 8),
    (64, 8), (72, 8), (80, 8), (88, 8), (96, 8), (192, 8), (200, 8), (208, 8), (216, 8),
    (320, 8), (328, 8), (336, 4), (340, 4), (344, 8), (352, 4), (356, 4), (360, 4), (364, 8),
]  # fmt: skip


def field(victim: Victim, name: str, at: int, offset: int, size: int, rng: random.Random) -> Case:
    now = int.from_bytes(victim.block(at)[offset : offset + size], "little")
    return victim.resealed(name, at, offset, random_value(rng, size, now))


def superblock_field(victim: Victim, rng: random.Random) -> Case:
    at = rng.choice([at for at in victim.used if victim.kinds[at] == "thin superblock"])
    return field(victim, "superblock", at, *rng.choice(SUPERBLOCK_FIELDS), rng)


def node_header(victim: Victim, rng: random.Random) -> Case:
    at = rng.choice(victim.live_nodes)
    return field(
        victim, "header", at, *rng.choice([(4, 4), (8, 8), (16, 4), (20, 4), (24, 4), (28, 4)]), rng
    )


def node_key(victim: Victim, rng: random.Random) -> Case:
    at = rng.choice(victim.live_nodes)
    header = victim.nodes[at]
    index = rng.randrange(header.nr_entries + 1)
    return field(victim, "key", at, min(header.key_at(index), BLOCK - 8), 8, rng)


def node_value(victim: Victim, rng: random.Random) -> Case:
    at = rng.choice(victim.live_nodes)
    header = victim.nodes[at]
    offset = header.value_at(rng.randrange(header.nr_entries + 1))
    if header.value_size == 24:
        place, size = rng.choice([(0, 8), (8, 8), (16, 4), (20, 4)])
    elif header.value_size == 16:
        place, size = rng.choice([(0, 8), (8, 4), (12, 4)])
    else:
        place, size = 0, header.value_size
    return field(victim, "value", at, min(offset + place, BLOCK - size), size, rng)


def space_map_word(victim: Victim, rng: random.Random) -> Case:
    """A word of a bitmap or of the metadata index."""
    at = rng.choice([at for at in victim.used if victim.kinds[at] in ("bitmap", "index")])
    word = 8 * rng.choice((rng.randrange(8), rng.randrange(BLOCK // 8)))
    return field(victim, victim.kinds[at], at, max(4, word), 4 if word == 0 else 8, rng)


def several_fields(victim: Victim, rng: random.Random) -> Case:
    makers = rng.choices((node_key, node_value, node_header, space_map_word), k=rng.randrange(2, 5))
    cases = [make(victim, rng) for make in makers]
    patches = {offset: block for case in cases for offset, block in case.patches}
    return Case(" and ".join(case.name for case in cases), list(patches.items()))


def bent_pointer(victim: Victim, rng: random.Random) -> Case:
    """A child or root pointer that leads to another block in use: loops, shared cycles."""
    target = rng.choice(sorted(victim.used))
    internal = [at for at in victim.live_nodes if victim.nodes[at].is_internal]
    tops = [read_u64(victim.block(at), 320) for at in (0, victim.held_root)]
    at = rng.choice([0, *tops, *internal])
    if at == 0:
        place = rng.choice((56, 64 + 16, 64 + 24, 192 + 16, 192 + 24, 320, 328))
        return victim.resealed("root", at, place, u64(target))
    header = victim.nodes[at]
    place = header.value_at(rng.randrange(max(1, header.nr_entries)))
    return victim.resealed("pointer", at, place, u64(rng.choice((at, target, target))))


def cycle(victim: Victim, rng: random.Random) -> Case:
    """A leaf turned into an internal node whose children all lead back up."""
    at = rng.choice(victim.live_nodes)
    block = victim.block(at)
    header = victim.nodes[at]
    entries = min(max(header.nr_entries, 2), 252)
    block = patched(block, 4, (1).to_bytes(4, "little"))
    block = patched(block, 16, entries.to_bytes(4, "little"))
    block = patched(block, 20, (252).to_bytes(4, "little"))
    block = patched(block, 24, (8).to_bytes(4, "little"))
    ways = [rng.choice(victim.live_nodes), at]
    for i in range(entries):
        block = patched(block, 32 + 8 * i, u64(i))
        block = patched(block, 32 + 8 * 252 + 8 * i, u64(rng.choice(ways)))
    return Case(f"cycle through {at} and {ways}", [(at * BLOCK, seal(block, "btree node"))])


def swapped(victim: Victim, rng: random.Random) -> Case:
    """Two blocks each in the other's place, as a misdirected write leaves them."""
    a, b = rng.sample(sorted(victim.used), 2)
    patches = [(a * BLOCK, victim.block(b)), (b * BLOCK, victim.block(a))]
    return Case(f"swap {a} and {b}", patches, must_be_noticed=True)


def swapped_and_resealed(victim: Victim, rng: random.Random) -> Case:
    """The same, each claiming to belong where it is."""
    a, b = rng.sample(victim.live_nodes, 2)
    patches = [
        (to * BLOCK, seal(patched(victim.block(of), 8, u64(to)), "btree node"))
        for to, of in ((a, b), (b, a))
    ]
    return Case(f"swap and reseal {a} and {b}", patches)


def other_kind(victim: Victim, rng: random.Random) -> Case:
    """A sound block of one kind sealed as another kind."""
    at = rng.choice(sorted(victim.used))
    kind = rng.choice([kind for kind in SALTS if kind != victim.kinds[at]])
    patches = [(at * BLOCK, seal(victim.block(at), kind))]
    return Case(f"block {at} sealed as {kind}", patches, must_be_noticed=True)


def old_contents(victim: Victim, rng: random.Random) -> Case:
    """A block overwritten with zeros, ones or noise, with its checksum right or wrong."""
    at = rng.choice(sorted(victim.used))
    block = rng.choice((bytes(BLOCK), b"\xff" * BLOCK, rng.randbytes(BLOCK)))
    if rng.random() < 0.5:
        block = seal(patched(block, 8, u64(at)), victim.kinds[at])
    return Case(f"block {at} overwritten", [(at * BLOCK, block)])


def truncated(victim: Victim, rng: random.Random) -> Case:
    size = rng.choice(
        (
            rng.randrange(len(victim.original)),
            rng.randrange(len(victim.original)) // BLOCK * BLOCK,
            rng.choice(sorted(victim.used)) * BLOCK,
            rng.choice(sorted(victim.used)) * BLOCK + rng.randrange(BLOCK),
        )
    )
    return Case(f"cut to {size} bytes", truncate_to=size, must_be_noticed=True)


FAMILIES: list[Callable[[Victim, random.Random], Case]] = [
    flipped_byte, flipped_bit, flipped_unused, superblock_field, node_header, node_key,
    node_value, space_map_word, several_fields, bent_pointer, cycle, swapped,
    swapped_and_resealed, other_kind, old_contents, truncated,
]  # fmt: skip


@pytest.fixture(scope="module")
def victims(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> list[Victim]:
    folder = tmp_path_factory.mktemp("victims")
    return [Victim(corpus[name], folder) for name in IMAGES]


@pytest.fixture(scope="module", autouse=True)
def memory_stays_bounded() -> Iterator[None]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < MEMORY_GUARD_BYTES


def test_the_victims_are_whole_to_begin_with(victims: list[Victim]) -> None:
    for victim in victims:
        assert {"thin superblock", "btree node", "bitmap", "index"} <= {
            victim.kinds[at] for at in victim.used
        }
        assert victim.judge() == victim.good


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_hostile_case_gives_an_error_a_finding_or_the_same_listing(
    family: Callable[[Victim, random.Random], Case], victims: list[Victim]
) -> None:
    rng = random.Random(f"{SEED} {family.__name__}")
    print(f"seed {SEED}, {CASES} cases in {len(FAMILIES)} families")
    counts: Counter[str] = Counter()
    for _ in range(max(1, CASES // len(FAMILIES))):
        victim = rng.choice(victims)
        case = family(victim, rng)
        counts[verdict(victim, case)] += 1
    print(f"{family.__name__}: {dict(counts)}")


def verdict(victim: Victim, case: Case) -> str:
    """One word for how the case went; a failed assertion where it went wrong."""
    story = f"{victim.name}: {case.name}"
    try:
        got = victim.suffer(case)
    except BaseException as panic:  # a panic is no Exception
        panic.add_note(story)
        raise
    good = victim.good
    pairs = [(got.listing, good.listing), (got.held_listing, good.held_listing)]
    if case.must_be_harmless:
        assert got == good, story
        return "harmless"
    if case.must_be_noticed:
        assert noticed(got, good), story
        assert all(isinstance(now, Exception) or now == then for now, then in pairs), story
        return "refused" if isinstance(got.report, Exception) else "found"
    if noticed(got, good):
        return "refused" if isinstance(got.report, Exception) else "found"
    if all(now == then for now, then in pairs):
        return "same"
    assert not any(isinstance(now, Exception) for now, _ in pairs), (story, got)
    return agreed_with_the_peer(victim, case, story)


def noticed(got: Outcome, good: Outcome) -> bool:
    """Whether the check says more than it says of the whole image."""
    if isinstance(got.report, Exception):
        return True
    assert isinstance(good.report, thinmeta.CheckReport)
    return not got.report.is_clean and got.report.findings != good.report.findings


def agreed_with_the_peer(victim: Victim, case: Case, story: str) -> str:
    """Another listing and a clean report: sound metadata of another pool, or our mistake."""
    if oracles.find("thin_check") is None and not oracles.REQUIRED:
        return "undecided"
    tools = ThinTools()
    with victim.damaged(case):
        assert tools.check(victim.path) == 0, story
        roots: list[Literal["held"] | None] = [None, "held"] if victim.held_root else [None]
        for root in roots:
            out = io.BytesIO()
            with thinmeta.open_pool(victim.path, metadata_snapshot=root) as pool:
                thinmeta.dump(pool, out)
            theirs = tools.dump(victim.path, *(["-m"] if root else []))
            assert out.getvalue() == theirs, story
    return "another sound pool"
