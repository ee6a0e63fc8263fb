"""Blocks under locks: who gets which when, what views show, what reaches the device."""

import contextlib
import gc
import io
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import thinmeta
from leaving import Leave, left
from thinmeta.engine import BlockManager, CrcValidator, ReadLock, Store, Validator, WriteLock

BLOCK = 4096
LEAF = CrcValidator("leaf", salt=0x1EAF)
OTHER = CrcValidator("other", salt=0x07E4)

#: As long as a wait may take that ends at once, on a machine that has other things to do.
SOON_SECONDS = 20


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "blocks.img"
    path.write_bytes(bytes(16 * BLOCK))
    return path


@pytest.fixture
def bm() -> Iterator[BlockManager]:
    with BlockManager.in_memory(16) as manager:
        yield manager


def put(bm: BlockManager, location: int, text: bytes) -> None:
    with bm.write_lock_zero(location, LEAF) as lock, memoryview(lock) as view:
        view[64 : 64 + len(text)] = text


def get(bm: BlockManager, location: int, length: int) -> bytes:
    with bm.read_lock(location, LEAF) as lock, memoryview(lock) as view:
        return bytes(view[64 : 64 + length])


def elsewhere(work: Callable[[], Any]) -> Any:
    """What another thread gets, or raises."""
    answer: list[Any] = []

    def run() -> None:
        try:
            answer.append(work())
        except BaseException as raised:
            answer.append(raised)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(SOON_SECONDS)
    assert not thread.is_alive(), "still waiting"
    if isinstance(answer[0], BaseException):
        raise answer[0]
    return answer[0]


# ---- files ----


def test_what_was_flushed_is_in_the_file_sealed(image: Path) -> None:
    with BlockManager(image) as bm:
        assert (bm.nr_blocks, bm.path, bm.read_only, bm.closed) == (16, str(image), False, False)
        put(bm, 3, b"hello")
        assert image.read_bytes() == bytes(16 * BLOCK)
        bm.flush()
        raw = image.read_bytes()[3 * BLOCK : 4 * BLOCK]
        assert raw[64:69] == b"hello"
        assert int.from_bytes(raw[8:16], "little") == 3
        LEAF.check(3, raw)
    assert bm.closed
    with BlockManager(os.fsencode(image), mode="r") as bm:
        assert get(bm, 3, 5) == b"hello"


def test_what_was_not_flushed_is_lost(image: Path) -> None:
    with BlockManager(image) as bm:
        put(bm, 3, b"hello")
    assert image.read_bytes() == bytes(16 * BLOCK)


def test_what_was_opened_for_reading_cannot_be_written(image: Path) -> None:
    with BlockManager(image, mode="r") as bm:
        assert bm.read_only
        for change in (
            lambda: bm.write_lock(0, LEAF),
            lambda: bm.write_lock_zero(0, LEAF),
            bm.flush,
            lambda: bm.set_read_only(False),
        ):
            with pytest.raises(thinmeta.ReadOnlyError):
                change()
        with bm.read_lock(0) as lock:
            assert bytes(lock) == bytes(BLOCK)
    assert image.read_bytes() == bytes(16 * BLOCK)


def test_changes_can_be_refused_for_a_while(image: Path) -> None:
    with BlockManager(image) as bm:
        put(bm, 1, b"kept")
        bm.set_read_only()
        assert bm.read_only
        with pytest.raises(thinmeta.ReadOnlyError):
            bm.flush()
        with pytest.raises(thinmeta.ReadOnlyError):
            bm.write_lock(1, LEAF)
        assert get(bm, 1, 4) == b"kept"
        bm.set_read_only(False)
        bm.flush()
    assert image.read_bytes()[BLOCK + 64 : BLOCK + 68] == b"kept"


def test_a_writer_is_alone_and_readers_are_not(image: Path) -> None:
    with BlockManager(image), pytest.raises(thinmeta.DeviceInUseError):
        BlockManager(image)
    with BlockManager(image), pytest.raises(thinmeta.DeviceInUseError):
        BlockManager(image, mode="r")
    with BlockManager(image, mode="r"), BlockManager(image, mode="r"):
        with pytest.raises(thinmeta.DeviceInUseError):
            BlockManager(image)


def test_flush_and_unlock_writes_the_superblock_last(image: Path) -> None:
    with BlockManager(image) as bm:
        put(bm, 5, b"tree")
        superblock = bm.write_lock_zero(0, OTHER)
        with memoryview(superblock) as view:
            view[64:68] = b"root"
        bm.flush()
        assert image.read_bytes()[:BLOCK] == bytes(BLOCK), "a locked block is not written"
        put(bm, 6, b"more")
        bm.flush_and_unlock(superblock)
        assert not superblock.held
        raw = image.read_bytes()
        assert raw[64:68] == b"root"
        assert raw[6 * BLOCK + 64 : 6 * BLOCK + 68] == b"more"
        with pytest.raises(thinmeta.UsageError, match="was released"):
            bm.flush_and_unlock(superblock)


def test_another_managers_lock_is_not_flushed(bm: BlockManager) -> None:
    with BlockManager.in_memory(2) as second, second.write_lock_zero(0, LEAF) as lock:
        with pytest.raises(thinmeta.UsageError, match="another block manager"):
            bm.flush_and_unlock(lock)
        assert lock.held


# ---- validators ----


def test_a_damaged_block_is_refused_each_time_and_named(image: Path) -> None:
    with BlockManager(image) as bm:
        put(bm, 3, b"hello")
        bm.flush()
    with image.open("r+b") as file:
        file.seek(3 * BLOCK + 200)
        file.write(b"x")
    with BlockManager(image) as bm:
        for lock in (bm.read_lock, bm.write_lock, bm.read_lock):
            with pytest.raises(thinmeta.DamagedBlockError) as caught:
                lock(3, LEAF)
            error = caught.value
            assert (error.block, error.validator, error.check) == (3, "leaf", "checksum")
        with bm.read_lock(3) as held:
            assert bytes(held)[200:201] == b"x", "without a validator the bytes are had"


def test_a_block_of_one_kind_is_not_locked_as_another(bm: BlockManager) -> None:
    put(bm, 3, b"hello")
    for lock in (bm.read_lock, bm.write_lock, bm.read_try_lock):
        with pytest.raises(thinmeta.DamagedBlockError, match="block kind"):
            lock(3, OTHER)
    with bm.write_lock_zero(3, OTHER):
        pass
    with pytest.raises(thinmeta.DamagedBlockError, match="block kind"):
        bm.read_lock(3, LEAF)


def test_a_misplaced_block_is_found_out(image: Path) -> None:
    with BlockManager(image) as bm:
        put(bm, 3, b"hello")
        bm.flush()
    raw = image.read_bytes()[3 * BLOCK : 4 * BLOCK]
    with image.open("r+b") as file:
        file.seek(4 * BLOCK)
        file.write(raw)
    with BlockManager(image, mode="r") as bm:
        with pytest.raises(thinmeta.DamagedBlockError) as caught:
            bm.read_lock(4, LEAF)
        assert (caught.value.check, caught.value.found, caught.value.expected) == ("location", 3, 4)


def test_a_magic_number_is_put_in_and_checked() -> None:
    own = CrcValidator("own", salt=1, magic=0xABCD, magic_offset=100)
    block = bytearray(BLOCK)
    own.prepare(7, block)
    assert block[100:108] == (0xABCD).to_bytes(8, "little")
    own.check(7, block)
    with pytest.raises(thinmeta.DamagedBlockError) as caught:
        CrcValidator("own", salt=1, magic=0xABCE, magic_offset=100).check(7, block)
    assert (caught.value.check, caught.value.found, caught.value.expected) == (
        "magic",
        0xABCD,
        0xABCE,
    )
    assert own == CrcValidator("own", salt=1, magic=0xABCD, magic_offset=100)
    assert hash(own) == hash(CrcValidator("own", salt=1, magic=0xABCD, magic_offset=100))
    assert own != CrcValidator("own", salt=1) and own != "own"


def test_the_checksum_is_crc32c_over_what_follows_it() -> None:
    block = bytearray(os.urandom(BLOCK))
    LEAF.prepare(9, block)
    assert int.from_bytes(block[:4], "little") == crc32c(block[4:]) ^ 0xFFFFFFFF ^ 0x1EAF


def crc32c(data: bytes | bytearray) -> int:
    """Bit by bit, as the polynomial is written down."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_the_kinds_that_are_built_in_have_names_and_know_their_blocks(tmp_path: Path) -> None:
    kinds = [
        Validator.btree_node(),
        Validator.bitmap(),
        Validator.index(),
        Validator.array_block(),
        Validator.thin_superblock(),
        Validator.store_superblock(),
    ]
    assert [kind.name for kind in kinds] == [
        "btree node",
        "space map bitmap",
        "space map index",
        "array block",
        "thin superblock",
        "store superblock",
    ]
    assert len(set(kinds)) == 6
    assert Validator.btree_node() == Validator.btree_node()
    Store.create(tmp_path / "s.img", size_bytes=64 * BLOCK).close()
    with BlockManager(tmp_path / "s.img", mode="r") as bm:
        found = {}
        for location in range(4):
            for kind in kinds:
                with contextlib.suppress(thinmeta.DamagedBlockError), bm.read_lock(location, kind):
                    found[location] = kind.name
    assert found == {
        0: "store superblock",
        1: "space map index",
        2: "btree node",
        3: "space map bitmap",
    }


# ---- views ----


def test_a_read_view_survives_the_release_and_never_changes(bm: BlockManager) -> None:
    put(bm, 3, b"old")
    with bm.read_lock(3, LEAF) as lock:
        view = memoryview(lock)
        assert view.readonly and view.nbytes == len(lock) == BLOCK
    with bm.write_lock(3, LEAF) as writer, memoryview(writer) as writable:
        writable[64:67] = b"new"
        assert bytes(view[64:67]) == b"old"
    bm.flush()
    assert get(bm, 3, 3) == b"new"
    assert bytes(view[64:67]) == b"old"
    del lock
    gc.collect()
    assert bytes(view[64:67]) == b"old"
    view.release()


def test_read_views_outlive_the_block_manager(image: Path) -> None:
    with BlockManager(image) as bm:
        put(bm, 3, b"old")
        with bm.read_lock(3, LEAF) as lock:
            view = memoryview(lock)
    del bm, lock
    gc.collect()
    assert bytes(view[64:67]) == b"old"


def test_a_read_lock_cannot_be_written_through(bm: BlockManager) -> None:
    with bm.read_lock(3) as lock, memoryview(lock) as view:
        with pytest.raises(TypeError):
            view[0] = 1
        with pytest.raises((TypeError, BufferError)):
            io.BytesIO(b"x").readinto(lock)


def test_a_write_lock_in_view_is_not_left_quietly(bm: BlockManager) -> None:
    lock = bm.write_lock_zero(3, LEAF)
    view = memoryview(lock)
    with pytest.raises(BufferError, match="memoryview of block 3 is in use"), lock:
        view[64:66] = b"hi"
    assert lock.held
    with pytest.raises(BufferError):
        lock.release()
    with pytest.raises(thinmeta.WouldBlockError):
        elsewhere(lambda: bm.read_try_lock(3, LEAF))
    view[66:67] = b"!"
    view.release()
    lock.release()
    assert get(bm, 3, 3) == b"hi!"


def test_left_by_an_exception_its_view_writes_nowhere(bm: BlockManager) -> None:
    with left(), bm.write_lock_zero(3, LEAF) as lock:
        view = memoryview(lock)
        view[64:68] = b"then"
        raise Leave
    assert not lock.held
    view[64:68] = b"late"
    assert get(bm, 3, 4) == b"then"
    bm.flush()
    with bm.write_lock(3, LEAF) as again, memoryview(again) as fresh:
        assert bytes(fresh[64:68]) == b"then"
        fresh[64:68] = b"more"
        assert bytes(view[64:68]) == b"late"
    assert get(bm, 3, 4) == b"more"


def test_all_views_of_a_write_lock_show_the_same_memory(bm: BlockManager) -> None:
    with bm.write_lock_zero(3, LEAF) as lock:
        with memoryview(lock) as one, memoryview(lock) as other, one[64:70] as part:
            part[:] = b"shared"
            assert bytes(other[64:70]) == b"shared"
            with pytest.raises(BufferError):
                lock.release()
    assert get(bm, 3, 6) == b"shared"


def test_a_released_lock_shows_nothing_and_is_released_once(bm: BlockManager) -> None:
    for lock in (bm.write_lock_zero(3, LEAF), bm.read_lock(4)):
        assert lock.held and lock.location in (3, 4)
        lock.release()
        assert "released" in repr(lock)
        with pytest.raises(BufferError, match="was released"):
            memoryview(lock)
        with pytest.raises(thinmeta.UsageError, match="was released"):
            lock.release()
        with pytest.raises(thinmeta.UsageError, match="was released"):
            lock.__enter__()


def test_a_lock_released_inside_its_with_block_is_left_quietly(bm: BlockManager) -> None:
    with bm.read_lock(3) as lock:
        lock.release()


def test_a_lock_that_nobody_keeps_is_released(bm: BlockManager) -> None:
    bm.write_lock_zero(3, LEAF)
    gc.collect()
    with bm.read_lock(3, LEAF):
        pass


# ---- threads ----


def test_a_thread_cannot_lock_what_it_holds(bm: BlockManager) -> None:
    with bm.read_lock(3):
        for lock in (bm.write_lock, bm.read_try_lock, bm.write_lock_zero):
            with pytest.raises(thinmeta.UsageError, match="holds a lock on block 3 already"):
                lock(3, LEAF)
        with pytest.raises(thinmeta.UsageError, match="already"):
            bm.read_lock(3)
        assert elsewhere(lambda: bm.read_lock(3).held), "another thread may"


def test_a_lock_is_released_by_any_thread(bm: BlockManager) -> None:
    lock = elsewhere(lambda: bm.write_lock_zero(3, LEAF))
    assert isinstance(lock, WriteLock)
    with memoryview(lock) as view:
        view[64:66] = b"ok"
    lock.release()
    assert get(bm, 3, 2) == b"ok"


def test_a_writer_waits_for_readers_while_other_threads_run(bm: BlockManager) -> None:
    reader = bm.read_lock(3)
    ran = 0

    def write() -> bool:
        with bm.write_lock_zero(3, LEAF):
            return ran > 0

    done: list[bool] = []
    thread = threading.Thread(target=lambda: done.append(write()))
    thread.start()
    while not writer_waits(bm):
        ran += 1
    ran += 1
    assert not done
    reader.release()
    thread.join(SOON_SECONDS)
    assert done == [True]


def writer_waits(bm: BlockManager) -> bool:
    """Whether somebody waits to write block 3: then no new reader is let in."""
    try:
        elsewhere(lambda: bm.read_try_lock(3, LEAF).release())
    except thinmeta.WouldBlockError:
        return True
    except thinmeta.DamagedBlockError:
        return False
    return False


@pytest.mark.parametrize("wait", ["read", "write", "zero"])
def test_ctrl_c_ends_a_wait_for_a_lock(bm: BlockManager, wait: str) -> None:
    put(bm, 3, b"held")
    release = threading.Event()
    held = threading.Event()

    def hold() -> None:
        with bm.write_lock(3, LEAF):
            held.set()
            release.wait(SOON_SECONDS)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(SOON_SECONDS)
    lock: dict[str, Callable[[int, Validator], object]] = {
        "read": bm.read_lock,
        "write": bm.write_lock,
        "zero": bm.write_lock_zero,
    }
    timer = threading.Timer(0.2, signal.raise_signal, [signal.SIGINT])
    timer.start()
    started = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            lock[wait](3, LEAF)
        assert time.monotonic() - started < SOON_SECONDS
    finally:
        timer.join()
        release.set()
        thread.join()
    assert get(bm, 3, 4) == b"held", "nobody is left in the queue"


def test_eight_threads_never_see_half_a_change(bm: BlockManager) -> None:
    put(bm, 3, bytes(8))
    end = time.monotonic() + 1

    def write() -> None:
        while time.monotonic() < end:
            with bm.write_lock(3, LEAF) as lock, memoryview(lock) as view:
                number = int.from_bytes(view[64:72], "little") + 1
                view[64:72] = view[4000:4008] = number.to_bytes(8, "little")

    def read() -> int:
        last = 0
        while time.monotonic() < end:
            with bm.read_lock(3, LEAF) as lock, memoryview(lock) as view:
                one, other = bytes(view[64:72]), bytes(view[4000:4008])
            assert one == other
            assert int.from_bytes(one, "little") >= last
            last = int.from_bytes(one, "little")
        return last

    def flush() -> None:
        while time.monotonic() < end:
            bm.flush()

    jobs: list[Callable[[], object]] = [write, write, read, read, read, read, flush]
    failed: list[BaseException] = []

    def run(job: Callable[[], object]) -> None:
        try:
            job()
        except BaseException as raised:
            failed.append(raised)

    threads = [threading.Thread(target=run, args=[job]) for job in jobs]
    for thread in threads:
        thread.start()
    run(read)
    for thread in threads:
        thread.join()
    assert not failed
    assert int.from_bytes(get(bm, 3, 8), "little") > 0


# ---- the cache ----


def test_read_try_lock_neither_reads_nor_waits(image: Path) -> None:
    with BlockManager(image) as bm:
        put(bm, 3, b"here")
        bm.flush()
    with BlockManager(image) as bm:
        with pytest.raises(thinmeta.WouldBlockError) as caught:
            bm.read_try_lock(3, LEAF)
        assert isinstance(caught.value, BlockingIOError)
        assert get(bm, 3, 4) == b"here"
        with bm.read_try_lock(3, LEAF) as lock:
            assert bytes(lock)[64:68] == b"here"


def test_prefetch_brings_blocks_in_by_itself(image: Path) -> None:
    with BlockManager(image) as bm:
        put(bm, 3, b"here")
        bm.flush()
    with BlockManager(image) as bm:
        bm.prefetch(iter([3, 3, 99]))
        deadline = time.monotonic() + SOON_SECONDS
        while True:
            try:
                bm.read_try_lock(3, LEAF).release()
            except thinmeta.WouldBlockError:
                assert time.monotonic() < deadline
                os.sched_yield()
            else:
                break


def test_more_than_the_cache_holds_is_written_early_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "many.img"
    path.write_bytes(bytes(1000 * BLOCK))
    with BlockManager(path, cache_bytes=0) as bm:
        for location in range(1000):
            put(bm, location, b"%d" % location)
        for location in range(1000):
            assert get(bm, location, 4).rstrip(b"\0") == b"%d" % location
        bm.flush()
    assert path.read_bytes()[999 * BLOCK + 64 :][:3] == b"999"


# ---- bad input ----


def test_no_such_block(bm: BlockManager) -> None:
    for location in (16, 2**63, 2**64 - 1):
        for lock in (bm.read_lock, bm.write_lock, bm.write_lock_zero):
            with pytest.raises(OSError, match="past the end of a device of 16 blocks"):
                lock(location, LEAF)
    for location in (-1, 2**64):
        with pytest.raises(thinmeta.UsageError, match="cannot be a block"):
            bm.read_lock(location, LEAF)
    wrong: Any
    for wrong in (True, 1.5, "1", None):
        with pytest.raises(TypeError):
            bm.read_lock(wrong, LEAF)


def test_what_is_no_validator_is_a_type_error(bm: BlockManager) -> None:
    wrong: Any
    for wrong in (None, "leaf", object()):
        with pytest.raises(TypeError):
            bm.write_lock(3, wrong)


def test_numbers_that_no_validator_can_have() -> None:
    for salt in (-1, 2**32):
        with pytest.raises(thinmeta.UsageError, match="cannot be a salt"):
            CrcValidator("own", salt=salt)
    for magic in (-1, 2**64):
        with pytest.raises(thinmeta.UsageError, match="cannot be a magic number"):
            CrcValidator("own", salt=0, magic=magic)
    for offset in (0, 15, 4089, 2**60, -1):
        with pytest.raises(thinmeta.UsageError):
            CrcValidator("own", salt=0, magic=1, magic_offset=offset)
    with pytest.raises(TypeError):
        CrcValidator("own", salt=True)
    for length in (0, 4095, 4097):
        with pytest.raises(thinmeta.UsageError, match="a block has 4096 bytes"):
            LEAF.check(0, bytes(length))
        with pytest.raises(thinmeta.UsageError, match="a block has 4096 bytes"):
            LEAF.prepare(0, bytearray(length))
    with pytest.raises(BufferError):
        LEAF.prepare(0, bytes(BLOCK))


def test_arguments_that_no_block_manager_can_have(image: Path) -> None:
    mode: Any
    for mode in ("w", "", "rb"):
        with pytest.raises(thinmeta.UsageError, match="mode is"):
            BlockManager(image, mode=mode)
    for cache_bytes in (-1, 2**64):
        with pytest.raises(thinmeta.UsageError, match="cannot be cache_bytes"):
            BlockManager(image, cache_bytes=cache_bytes)
    with pytest.raises(TypeError):
        BlockManager(image, cache_bytes=True)
    with pytest.raises(thinmeta.UsageError, match="too many for memory"):
        BlockManager.in_memory(2**40)
    with pytest.raises(FileNotFoundError):
        BlockManager(image.parent / "absent")
    with pytest.raises(IsADirectoryError):
        BlockManager(image.parent)
    with pytest.raises(OSError, match="neither a file nor a block device"):
        BlockManager("/dev/null")


def test_it_is_not_closed_while_a_lock_is_held(bm: BlockManager) -> None:
    with bm.read_lock(3) as one, bm.write_lock_zero(4, LEAF):
        with pytest.raises(thinmeta.UsageError, match="2 locks are held"):
            bm.close()
        one.release()
        with pytest.raises(thinmeta.UsageError, match="1 locks are held"):
            bm.close()
    bm.close()
    bm.close()


def test_a_closed_block_manager_does_nothing(image: Path) -> None:
    bm = BlockManager(image)
    bm.close()
    uses: list[Callable[[], object]] = [
        lambda: bm.nr_blocks,
        lambda: bm.read_only,
        bm.set_read_only,
        bm.flush,
        bm.__enter__,
        lambda: bm.prefetch([1]),
        lambda: bm.read_lock(0),
        lambda: bm.read_try_lock(0, LEAF),
        lambda: bm.write_lock(0, LEAF),
        lambda: bm.write_lock_zero(0, LEAF),
    ]
    for use in uses:
        with pytest.raises(thinmeta.UsageError, match="the block manager is closed"):
            use()
    assert "closed" in repr(bm)
    BlockManager(image).close()


# ---- the laws, over random histories ----


class BlockLaws(RuleBasedStateMachine):
    """One thread's locks and flushes, over a file that is looked at behind its back."""

    @initialize()
    def start(self) -> None:
        import tempfile

        self.file = tempfile.NamedTemporaryFile()  # noqa: SIM115 # closed in teardown
        self.file.truncate(8 * BLOCK)
        self.bm = BlockManager(self.file.name, cache_bytes=0)
        self.now: dict[int, bytes] = {}
        self.durable: dict[int, bytes] = {}
        self.locks: dict[int, ReadLock | WriteLock] = {}
        self.views: list[tuple[memoryview, bytes]] = []

    @rule(location=st.integers(0, 7), text=st.binary(min_size=1, max_size=8))
    def write(self, location: int, text: bytes) -> None:
        if location in self.locks:
            with pytest.raises(thinmeta.UsageError):
                self.bm.write_lock_zero(location, LEAF)
            return
        fresh = location not in self.now or text[0] % 2 == 0
        lock = (self.bm.write_lock_zero if fresh else self.bm.write_lock)(location, LEAF)
        with lock, memoryview(lock) as view:
            if not fresh:
                assert bytes(view[64:72]) == self.now[location]
            view[64:72] = text.ljust(8, b"\0")
        self.now[location] = text.ljust(8, b"\0")

    @precondition(lambda self: self.now)
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        location = data.draw(st.sampled_from(sorted(self.now)))
        if location in self.locks:
            with pytest.raises(thinmeta.UsageError):
                self.bm.read_lock(location, LEAF)
            return
        with self.bm.read_lock(location, LEAF) as lock:
            self.views.append((memoryview(lock), self.now[location]))

    @precondition(lambda self: self.now)
    @rule(data=st.data(), write=st.booleans())
    def hold(self, data: st.DataObject, write: bool) -> None:
        location = data.draw(st.sampled_from(sorted(self.now)))
        if location not in self.locks:
            lock = self.bm.write_lock if write else self.bm.read_lock
            self.locks[location] = lock(location, LEAF)

    @precondition(lambda self: self.locks)
    @rule(data=st.data())
    def let_go(self, data: st.DataObject) -> None:
        self.locks.pop(data.draw(st.sampled_from(sorted(self.locks)))).release()

    @rule()
    def flush(self) -> None:
        self.bm.flush()
        written = {at for at, lock in self.locks.items() if isinstance(lock, WriteLock)}
        self.durable |= {at: text for at, text in self.now.items() if at not in written}

    @rule()
    def reopen(self) -> None:
        for lock in self.locks.values():
            lock.release()
        self.locks.clear()
        self.bm.flush()
        self.durable = dict(self.now)
        self.bm.close()
        self.bm = BlockManager(self.file.name, cache_bytes=0)

    @invariant()
    def views_never_change(self) -> None:
        for view, text in getattr(self, "views", []):
            assert bytes(view[64:72]) == text

    @invariant()
    def what_was_flushed_is_there(self) -> None:
        for location, text in getattr(self, "durable", {}).items():
            if self.now[location] == text:
                raw = Path(self.file.name).read_bytes()[location * BLOCK :][:BLOCK]
                LEAF.check(location, raw)
                assert raw[64:72] == text

    def teardown(self) -> None:
        if hasattr(self, "bm"):
            for lock in self.locks.values():
                lock.release()
            self.bm.close()
            self.file.close()


TestBlockLaws = BlockLaws.TestCase
TestBlockLaws.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
