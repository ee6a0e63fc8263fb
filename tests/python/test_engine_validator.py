"""Validators written in Python: who asks them when, and what becomes of what they raise."""

import contextlib
import gc
import itertools
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import thinmeta
from thinmeta.engine import BlockManager, CrcValidator, TransactionManager, Validator

BLOCK = 4096
#: Of the metadata space map's root in the superblock.
ROOT = 64
#: After this a test that makes no progress has failed.
LIMIT_SECONDS = 60


class Adler(Validator):
    """An Adler-32 at byte 0, of the block's number and the other bytes."""

    name = "adler"

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, int]] = []
        self.within: Callable[[], object] | None = None
        #: What ``prepare`` raises, for which blocks.
        self.refused: dict[int, Exception] = {}

    def _begin(self, what: str, location: int) -> None:
        self.asked.append((what, location, threading.get_ident()))
        if self.within is not None:
            self.within()

    def count(self, what: str) -> int:
        return sum(1 for asked, _, _ in self.asked if asked == what)

    @staticmethod
    def checksum(location: int, data: memoryview) -> int:
        return zlib.adler32(data[4:], location + 1)

    def check(self, location: int, data: memoryview) -> None:
        assert data.readonly and data.nbytes == BLOCK
        self._begin("check", location)
        found = int.from_bytes(data[:4], "little")
        expected = self.checksum(location, data)
        if found != expected:
            raise thinmeta.DamagedBlockError(location, self.name, "checksum", found, expected)

    def prepare(self, location: int, data: memoryview) -> None:
        assert not data.readonly and data.nbytes == BLOCK
        self._begin("prepare", location)
        data[4:8] = b"junk"
        if location in self.refused:
            raise self.refused[location]
        data[4:8] = b"good"
        data[:4] = self.checksum(location, data).to_bytes(4, "little")


class Nope(Exception):
    """Nobody else raises it."""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "blocks.img"
    path.write_bytes(bytes(64 * BLOCK))
    return path


def put(bm: BlockManager, location: int, kind: Validator, text: bytes) -> None:
    with bm.write_lock_zero(location, kind) as lock, memoryview(lock) as view:
        view[64 : 64 + len(text)] = text


def get(bm: BlockManager, location: int, kind: Validator, length: int) -> bytes:
    with bm.read_lock(location, kind) as lock, memoryview(lock) as view:
        return bytes(view[64 : 64 + length])


def in_time(*works: Callable[[], object]) -> None:
    """Runs all of them at once; a deadlock is a failure and not a hang."""
    raised: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    end = time.monotonic() + LIMIT_SECONDS
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    assert not any(thread.is_alive() for thread in threads), "still waiting"
    if raised:
        raise raised[0]


@contextlib.contextmanager
def created(bm: BlockManager, head: Validator) -> Iterator[TransactionManager]:
    """A manager on a committed device."""
    tm, space, superblock = TransactionManager.create(bm, 0, head)
    with tm:
        tm.pre_commit()
        with memoryview(superblock) as view:
            view[ROOT : ROOT + 32] = space.copy_root()
        tm.commit(superblock)
        yield tm


# ---- a round trip ----


def test_what_was_prepared_is_in_the_file_and_is_checked_when_it_is_read(image: Path) -> None:
    kind = Adler()
    with BlockManager(image) as bm:
        put(bm, 3, kind, b"hello")
        put(bm, 5, kind, b"world")
        assert kind.asked == [] and image.read_bytes() == bytes(64 * BLOCK)
        bm.flush()
        own = threading.get_ident()
        assert kind.asked == [("prepare", 3, own), ("prepare", 5, own)]
        raw = image.read_bytes()[3 * BLOCK : 4 * BLOCK]
        assert raw[4:8] == b"good" and raw[64:69] == b"hello"
        kind.check(3, memoryview(raw))
        kind.asked.clear()
        bm.flush()
        assert get(bm, 3, kind, 5) == b"hello"
        assert kind.asked == [], "neither changed nor read since"
    with BlockManager(image, mode="r") as bm:
        assert get(bm, 5, kind, 5) == b"world" and get(bm, 5, kind, 5) == b"world"
        assert kind.asked == [("check", 5, own)]


def test_a_transaction_whose_blocks_are_all_of_own_kinds(image: Path) -> None:
    head, leaf = Adler(), Adler()
    with BlockManager(image) as bm, created(bm, head) as tm:
        with tm.new_block(leaf) as lock, memoryview(lock) as view:
            where, view[64:69] = lock.location, b"first"
        with tm.transaction(_keep):
            lock, inc_children = tm.shadow_block(where, leaf)
            assert not inc_children
            with lock, memoryview(lock) as view:
                view[64:69] = b"again"
        assert (head.count("prepare"), leaf.count("prepare")) == (2, 1)
        with tm.read_lock(where, leaf) as read, memoryview(read) as view:
            assert bytes(view[64:69]) == b"again"
    with BlockManager(image, mode="r") as bm:
        assert get(bm, where, leaf, 5) == b"again"
        with bm.read_lock(0, head) as read, memoryview(read) as view:
            assert bytes(view[4:8]) == b"good"


def test_each_object_is_a_kind_of_its_own_and_named_by_its_class() -> None:
    class Nameless(Adler):
        name = "nameless"

    class Other(Validator):
        def check(self, location: int, data: memoryview) -> None: ...
        def prepare(self, location: int, data: memoryview) -> None: ...

    one, other = Adler(), Adler()
    assert one == one and one != other and hash(one) == hash(one)
    assert [kind.name for kind in (one, Nameless(), Other())] == ["adler", "nameless", "Other"]
    with BlockManager.in_memory(16) as bm:
        put(bm, 3, one, b"x")
        assert get(bm, 3, one, 1) == b"x"
        for wrong in (other, Other(), Validator.btree_node(), CrcValidator("adler", salt=1)):
            with pytest.raises(thinmeta.DamagedBlockError) as raised:
                bm.read_lock(3, wrong)
            assert (raised.value.check, raised.value.found) == ("block kind", "adler")


def test_what_is_not_a_whole_validator_is_refused() -> None:
    class Half(Validator):
        def check(self, location: int, data: memoryview) -> None: ...

    class Misnamed(Adler):
        name = 5  # type: ignore[assignment]

    with pytest.raises(TypeError, match="Half defines no prepare"):
        Half()
    with pytest.raises(TypeError, match="Validator defines no check"):
        Validator()
    with pytest.raises(TypeError, match="name is a str"):
        Misnamed()
    for call in (Validator.check, Validator.prepare):
        with pytest.raises(NotImplementedError):
            call(Adler(), 0, bytearray(BLOCK))


def test_a_validator_lives_as_long_as_the_cache_needs_it_and_no_longer() -> None:
    kind = Adler()
    alive = weakref.ref(kind)
    bm = BlockManager.in_memory(16)
    put(bm, 3, kind, b"x")
    del kind
    gc.collect()
    assert alive() is not None
    bm.flush()
    bm.close()
    gc.collect()
    assert alive() is None


# ---- what they raise ----


def test_a_damaged_block_is_not_seen_and_what_check_raised_comes_out(image: Path) -> None:
    kind = Adler()
    with BlockManager(image) as bm:
        put(bm, 3, kind, b"hello")
        bm.flush()
    with image.open("r+b") as file:
        file.seek(3 * BLOCK + 64)
        file.write(b"j")
    made: list[Exception] = []

    class Strict(Adler):
        def check(self, location: int, data: memoryview) -> None:
            try:
                super().check(location, data)
            except thinmeta.DamagedBlockError as error:
                made.append(error)
                raise

    strict = Strict()
    with BlockManager(image) as bm:
        for lock in (bm.read_lock, bm.write_lock):
            with pytest.raises(thinmeta.DamagedBlockError) as raised:
                lock(3, strict)
            assert raised.value is made[-1], "the very exception"
            assert (raised.value.block, raised.value.validator) == (3, "adler")
        assert len(made) == 2, "the next lock asks again"
        strict.within = _raise(Nope("no"))
        with pytest.raises(Nope, match="no"):
            bm.read_lock(3, strict)
        # Cached, but no validator has accepted it: neither is it seen then.
        bm.read_lock(3).release()
        for look in (bm.read_lock, bm.read_try_lock, bm.write_lock):
            with pytest.raises(Nope, match="no"):
                look(3, strict)
        strict.within = None
        put(bm, 3, strict, b"new")
        bm.flush()
        assert get(bm, 3, strict, 3) == b"new"


def _raise(error: Exception) -> Callable[[], object]:
    def work() -> object:
        raise error

    return work


@pytest.mark.parametrize("which", ["leaf", "head"])
def test_a_commit_that_cannot_be_prepared_fails_and_poisons_nothing(
    image: Path, which: str
) -> None:
    head, leaf = Adler(), Adler()
    with BlockManager(image) as bm, created(bm, head) as tm:
        before = image.read_bytes()
        for attempt in range(2):
            error = Nope(f"attempt {attempt}")

            def change(error: Nope = error) -> int:
                with tm.transaction(_keep):
                    with tm.new_block(leaf) as lock:
                        location = lock.location
                    refusing = leaf if which == "leaf" else head
                    refusing.refused = {location: error, 0: error}
                return location

            with pytest.raises(Nope) as raised:
                change()
            assert raised.value is error
            leaf.refused, head.refused = {}, {}
            if which == "leaf":
                assert image.read_bytes() == before, "nothing at all was written"
            assert image.read_bytes()[:BLOCK] == before[:BLOCK]
        assert tm.ref(4) == 0, "the scope has rolled back"
        # By hand nobody does.
        with tm.new_block(leaf) as lock:
            where = lock.location
        leaf.refused = {where: error}
        if which == "leaf":
            with pytest.raises(Nope):
                tm.pre_commit()
        else:
            leaf.refused, head.refused = {}, {0: error}
            tm.pre_commit()
            superblock = bm.write_lock(0, head)
            with pytest.raises(Nope):
                tm.commit(superblock)
            assert not superblock.held
        for call in (tm.pre_commit, lambda: tm.new_block(leaf), lambda: tm.inc(where)):
            with pytest.raises(thinmeta.AbortedError, match=r"validator adler.*attempt 1"):
                call()
        tm.abort()
        leaf.refused, head.refused = {}, {}
        with tm.transaction(_keep), tm.new_block(leaf) as lock:
            where = lock.location
        assert image.read_bytes()[where * BLOCK + 4 :][:4] == b"good"


def test_a_flush_that_cannot_be_prepared_writes_nothing_and_keeps_the_changes(image: Path) -> None:
    kind, plain = Adler(), CrcValidator("plain", salt=7)
    with BlockManager(image) as bm:
        put(bm, 2, plain, b"two")
        for location in (3, 4, 5):
            put(bm, location, kind, b"odd")
        kind.refused = {4: Nope()}
        for _ in range(2):
            with pytest.raises(Nope):
                bm.flush()
            assert image.read_bytes() == bytes(64 * BLOCK)
        with pytest.raises(Nope):
            bm.flush_and_unlock(bm.write_lock_zero(0, plain))
        with bm.read_lock(4, kind) as lock, memoryview(lock) as view:
            assert bytes(view[4:8]) == bytes(4), "what prepare began is not seen"
        kind.refused = {}
        bm.flush()
        raw = image.read_bytes()
        assert [raw[at * BLOCK + 64 :][:3] for at in (2, 3, 4, 5)] == [b"two"] + [b"odd"] * 3
        assert raw[:BLOCK] == bytes(BLOCK), "the superblock's changes were dropped"


# ---- views that are kept ----


def test_a_view_that_is_kept_sees_and_changes_nothing(image: Path) -> None:
    kept: list[memoryview] = []

    class Keeper(Adler):
        name = "keeper"

        def check(self, location: int, data: memoryview) -> None:
            kept.extend([data, data[:]])
            super().check(location, data)

        def prepare(self, location: int, data: memoryview) -> None:
            super().prepare(location, data)
            kept.extend([data, data[:]])

    kind = Keeper()
    with BlockManager(image) as bm:
        put(bm, 3, kind, b"one")
        bm.flush()
        _, part = kept
        assert part.nbytes == BLOCK
        part[64:67] = b"two"
        assert get(bm, 3, kind, 3) == b"one"
        bm.flush()
        put(bm, 3, kind, b"six")
        assert bytes(part[64:67]) == b"two"
    assert image.read_bytes()[3 * BLOCK + 64 :][:3] == b"one"
    with BlockManager(image) as bm:
        assert get(bm, 3, kind, 3) == b"one"
        assert kept[3].readonly
    for view in kept:
        view.release()


def test_memory_that_prepare_cuts_off_is_an_error(image: Path) -> None:
    class Cutter(Adler):
        def prepare(self, location: int, data: memoryview) -> None:
            memory = data.obj
            data.release()
            assert isinstance(memory, bytearray)
            del memory[100:]

    with BlockManager(image) as bm:
        put(bm, 3, Cutter(), b"one")
        with pytest.raises(BufferError, match="cut"):
            bm.flush()
        assert image.read_bytes() == bytes(64 * BLOCK)


# ---- early writes, other threads, calls back ----


def test_a_small_cache_prepares_what_it_writes_early(tmp_path: Path) -> None:
    path, blocks = tmp_path / "many.img", 500
    path.write_bytes(bytes(blocks * BLOCK))
    kind = Adler()
    with BlockManager(path, cache_bytes=0) as bm:
        for location in range(blocks):
            put(bm, location, kind, location.to_bytes(8, "little"))
        early = kind.count("prepare")
        assert blocks // 2 < early < blocks
        for location in range(blocks):
            assert get(bm, location, kind, 8) == location.to_bytes(8, "little")
        bm.flush()
        assert kind.count("prepare") == blocks
        # What is wanted is not there, and there is no place for it.
        kind.refused = {location: Nope() for location in range(blocks)}

        def fill() -> None:
            for location in range(blocks):
                put(bm, location, kind, b"later")

        with pytest.raises(Nope):
            fill()
        kind.refused = {}
        bm.flush()
    raw = path.read_bytes()
    for location in range(blocks):
        kind.check(location, memoryview(raw)[location * BLOCK :][:BLOCK])


def test_threads_that_read_change_and_commit_do_not_deadlock(tmp_path: Path) -> None:
    path = tmp_path / "many.img"
    path.write_bytes(bytes(600 * BLOCK))
    end = time.monotonic() + 4
    head, leaf = Adler(), Adler()
    done = {"commits": 0, "reads": 0, "flushes": 0}
    # Others get a turn in the middle of a check.
    head.within = leaf.within = lambda: time.sleep(0)
    with BlockManager(path, cache_bytes=0) as bm, created(bm, head) as tm:
        places: list[int] = []
        with tm.transaction(_keep):
            for _ in range(150):
                with tm.new_block(leaf) as lock, memoryview(lock) as view:
                    places.append(lock.location)
                    view[64:72] = view[4088:] = bytes(8)

        def commit() -> None:
            for round_nr in itertools.count(1):
                if time.monotonic() > end:
                    return
                text = round_nr.to_bytes(8, "little")
                with contextlib.suppress(thinmeta.NoSpaceError), tm.transaction(_keep):
                    for at in places[:100]:
                        with bm.write_lock(at, leaf) as lock, memoryview(lock) as view:
                            view[64:72] = view[4088:] = text
                    tm.new_block(leaf).release()
                done["commits"] += 1

        def read() -> None:
            while time.monotonic() < end:
                for at in places:
                    with tm.read_lock(at, leaf) as lock, memoryview(lock) as view:
                        assert view[64:72] == view[4088:]
                    done["reads"] += 1

        def flush() -> None:
            while time.monotonic() < end:
                bm.flush()
                done["flushes"] += 1
                time.sleep(0.01)

        in_time(commit, read, read, read, flush, flush)
        assert min(done.values()) > 5, done
        assert leaf.count("check") > 100 and leaf.count("prepare") > 100


def _keep(view: memoryview) -> None:
    """Leaves the superblock as it is."""


def test_a_validator_that_uses_the_engine_is_told_not_to(image: Path) -> None:
    head, kind, plain = Adler(), Adler(), CrcValidator("plain", salt=7)
    with BlockManager(image) as bm, created(bm, head) as tm:
        put(bm, 60, kind, b"x")
        put(bm, 61, plain, b"x")
        bm.flush()
        calls: list[Callable[[], object]] = [
            bm.flush,
            lambda: bm.read_lock(61, plain),
            lambda: bm.read_lock(60, kind),
            lambda: bm.write_lock(61, plain),
            lambda: bm.prefetch([1, 2]),
            lambda: tm.new_block(plain),
            lambda: tm.ref(5),
            tm.pre_commit,
            tm.abort,
        ]
        refused: list[str] = []

        def within() -> None:
            for call in calls:
                with pytest.raises(thinmeta.UsageError, match="must not use the engine") as raised:
                    call()
                refused.append(str(raised.value))

        head.within = kind.within = within

        def use() -> None:
            put(bm, 60, kind, b"y")
            bm.flush()
            with tm.transaction(_keep):
                tm.new_block(kind).release()
            bm.read_lock(62).release()
            with pytest.raises(thinmeta.DamagedBlockError):
                bm.read_lock(62, kind)
            with pytest.raises(thinmeta.DamagedBlockError):
                bm.read_lock(63, kind)

        in_time(use)
        # Two flushed blocks, a superblock, and two that were checked.
        assert len(refused) == 5 * len(calls)
        head.within = kind.within = None
        assert get(bm, 60, kind, 1) == b"y", "and afterwards it is used as before"
