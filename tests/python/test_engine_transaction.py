"""Transactions on blocks: each operation does what the table promises, or says why not."""

import contextlib
import doctest
import resource
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

import thinmeta
from leaving import Leave, left
from thinmeta.engine import (
    BlockManager,
    CrcValidator,
    SpaceMap,
    TransactionManager,
    Validator,
)

BLOCK = 4096
HEAD = CrcValidator("head", salt=1, magic=0xFEED)
LEAF = CrcValidator("leaf", salt=2)
#: Where the superblock has the space map's root, and then whatever a test keeps there.
ROOT, EXTRA = 64, 128

SOON_SECONDS = 20


@contextmanager
def created(bm: BlockManager) -> Iterator[tuple[TransactionManager, SpaceMap]]:
    tm, space, superblock = TransactionManager.create(bm, 0, HEAD, checked=True)
    with tm:
        with tm.transaction(root_of(space)):
            pass
        assert not superblock.held
        yield tm, space


@contextmanager
def opened(bm: BlockManager) -> Iterator[tuple[TransactionManager, SpaceMap, bytes]]:
    tm, space, superblock = TransactionManager.open(
        bm, 0, HEAD, root_offset=ROOT, root_max_len=64, checked=True
    )
    with tm:
        with superblock, memoryview(superblock) as view:
            extra = bytes(view[EXTRA : EXTRA + 64])
        yield tm, space, extra


def root_of(space: SpaceMap, extra: Callable[[], bytes] = bytes) -> Callable[[memoryview], None]:
    """What writes the superblock."""

    def fill(view: memoryview) -> None:
        view[ROOT : ROOT + 32] = space.copy_root()
        more = extra()
        view[EXTRA : EXTRA + len(more)] = more

    return fill


@pytest.fixture
def bm() -> Iterator[BlockManager]:
    with BlockManager.in_memory(64) as manager:
        yield manager


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "blocks.img"
    path.write_bytes(bytes(64 * BLOCK))
    return path


def new(tm: TransactionManager, text: bytes) -> int:
    with tm.new_block(LEAF) as lock, memoryview(lock) as view:
        view[64 : 64 + len(text)] = text
        return lock.location


def text_at(tm: TransactionManager, location: int, length: int) -> bytes:
    with tm.read_lock(location, LEAF) as lock, memoryview(lock) as view:
        return bytes(view[64 : 64 + length])


@pytest.mark.parametrize("name", ["block", "space", "transaction"])
def test_the_examples_in_the_texts_run(name: str) -> None:
    results = doctest.testmod(import_module(f"thinmeta.engine.{name}"))
    assert results.attempted > 5 and results.failed == 0


# ---- the rows of the table ----


def test_create_locks_a_superblock_of_zeros_and_lays_the_map_out_as_the_format_says(
    bm: BlockManager,
) -> None:
    tm, space, superblock = TransactionManager.create(bm, 0, HEAD)
    with tm:
        assert superblock.location == 0
        assert bytes(superblock) == bytes(BLOCK)
        assert (space.nr_blocks, space.nr_free) == (64, 60)
        assert [tm.ref(at) for at in range(5)] == [1, 1, 1, 1, 0]
        assert tm.superblock == 0 and tm.block_manager is bm
        superblock.release()
        with tm.read_lock(1, Validator.index()), tm.read_lock(2, Validator.btree_node()):
            pass


def test_commit_in_two_halves_by_hand(image: Path) -> None:
    with BlockManager(image) as bm:
        tm, space, superblock = TransactionManager.create(bm, 0, HEAD)
        with tm:
            where = new(tm, b"hello")
            tm.pre_commit()
            assert image.read_bytes()[:BLOCK] == bytes(BLOCK), "the superblock comes last"
            assert image.read_bytes()[where * BLOCK + 64 :][:5] == b"hello"
            with memoryview(superblock) as view:
                view[ROOT : ROOT + 32] = space.copy_root()
                view[EXTRA] = where
            tm.commit(superblock)
            assert not superblock.held
    with BlockManager(image) as bm, opened(bm) as (tm, _, extra):
        assert text_at(tm, extra[0], 5) == b"hello"


def test_open_gives_the_superblock_locked_and_the_map_as_committed(bm: BlockManager) -> None:
    with created(bm) as (tm, space):
        places: list[int] = []
        with tm.transaction(root_of(space, lambda: bytes(places))) as same:
            assert same is tm
            places += [new(tm, b"a"), new(tm, b"b")]
        free, root = space.nr_free, space.copy_root()
    tm, space, superblock = TransactionManager.open(bm, 0, HEAD, root_offset=ROOT, root_max_len=32)
    with tm:
        assert superblock.location == 0
        with memoryview(superblock) as view:
            assert bytes(view[ROOT : ROOT + 32]) == root
        with pytest.raises(thinmeta.UsageError, match="already"):
            bm.read_lock(0, HEAD)
        superblock.release()
        assert (space.nr_free, space.copy_root()) == (free, root)
        assert text_at(tm, places[1], 1) == b"b"


def test_a_block_is_shadowed_once_a_transaction_and_the_old_one_stays(bm: BlockManager) -> None:
    with created(bm) as (tm, space):
        with tm.transaction(root_of(space)):
            old = new(tm, b"old")
            assert tm.is_shadow(old)
            with tm.shadow_block(old, LEAF)[0] as lock:
                assert lock.location == old, "it is this transaction's own"
        assert not tm.is_shadow(old)

        with tm.transaction(root_of(space)):
            lock, inc_children = tm.shadow_block(old, LEAF)
            with lock, memoryview(lock) as view:
                copy = lock.location
                assert copy != old and not inc_children
                assert bytes(view[64:67]) == b"old"
                view[64:67] = b"new"
            assert (tm.ref(old), tm.ref(copy), tm.is_shadow(copy)) == (0, 1, True)
            assert text_at(tm, old, 3) == b"old", "the last commit needs it"
            again, inc_children = tm.shadow_block(copy, LEAF)
            with again:
                assert again.location == copy and not inc_children
        assert text_at(tm, copy, 3) == b"new"


def test_a_shared_block_is_copied_and_its_children_are_to_be_counted(bm: BlockManager) -> None:
    with created(bm) as (tm, space), tm.transaction(root_of(space)):
        shared = new(tm, b"ours")
        tm.inc(shared)
        assert tm.ref(shared) == 2
        lock, inc_children = tm.shadow_block(shared, LEAF)
        with lock:
            assert inc_children and lock.location != shared
        assert (tm.ref(shared), tm.ref(lock.location)) == (1, 1)
        tm.dec(shared)
        assert tm.ref(shared) == 0


def test_what_is_freed_is_reused_after_the_commit_only(bm: BlockManager) -> None:
    with created(bm) as (tm, space):
        with tm.transaction(root_of(space)):
            freed = new(tm, b"x")
        taken: set[int] = set()
        with left(), tm.transaction(root_of(space)):
            tm.dec(freed)
            for _ in range(space.nr_free):
                taken.add(new(tm, b"y"))
            with pytest.raises(thinmeta.NoSpaceError) as caught:
                tm.new_block(LEAF)
            assert caught.value.space == "metadata"
            raise Leave
        assert taken and freed not in taken
        with tm.transaction(root_of(space)):
            tm.dec(freed)
        with left(), tm.transaction(root_of(space)):
            again = set[int]()
            while space.nr_free:
                again.add(new(tm, b"z"))
            assert freed in again
            raise Leave


# ---- the clone ----


def test_a_clone_reads_what_is_cached_and_prefetches_the_rest(image: Path) -> None:
    with BlockManager(image) as bm, created(bm) as (tm, space):
        places: list[int] = []
        with tm.transaction(root_of(space, lambda: bytes(places))):
            places += [new(tm, b"hello")]
    with BlockManager(image) as bm, opened(bm) as (tm, _, extra):
        where = extra[0]
        with tm.nonblocking_clone() as clone:
            assert clone.block_manager is bm
            with pytest.raises(thinmeta.WouldBlockError):
                clone.read_lock(where, LEAF)
            tm.issue_prefetches()
            deadline = time.monotonic() + SOON_SECONDS
            while True:
                try:
                    assert text_at(clone, where, 5) == b"hello"
                except thinmeta.WouldBlockError:
                    assert time.monotonic() < deadline
                else:
                    break


def test_a_clone_does_not_wait_for_a_writer(bm: BlockManager) -> None:
    with created(bm) as (tm, space), tm.nonblocking_clone() as clone:
        with tm.transaction(root_of(space)):
            lock = tm.new_block(LEAF)
            raised: list[BaseException] = []

            def read() -> None:
                try:
                    clone.read_lock(lock.location, LEAF)
                except BaseException as error:
                    raised.append(error)

            thread = threading.Thread(target=read)
            thread.start()
            thread.join(SOON_SECONDS)
            assert [type(error) for error in raised] == [thinmeta.WouldBlockError]
            lock.release()
        assert text_at(clone, lock.location, 1) == b"\0"


def test_a_clone_refuses_everything_that_changes_something(bm: BlockManager) -> None:
    with created(bm) as (tm, space):
        with tm.transaction(root_of(space)):
            where = new(tm, b"x")
        superblock = bm.write_lock(0, HEAD)
        clone = tm.nonblocking_clone()
        waits: list[Callable[[], object]] = [
            clone.pre_commit,
            lambda: clone.commit(superblock),
            lambda: clone.transaction(root_of(space)),
            lambda: clone.new_block(LEAF),
            lambda: clone.shadow_block(where, LEAF),
            lambda: clone.ref(where),
            lambda: clone.is_shadow(where),
            clone.abort,
            clone.issue_prefetches,
            lambda: SpaceMap.create_data(clone),
        ]
        for use in waits:
            with pytest.raises(thinmeta.WouldBlockError):
                use()
        for count in (clone.inc, clone.dec):
            with pytest.raises(thinmeta.UsageError, match="clone changes no reference count"):
                count(where)
        assert superblock.held
        superblock.release()
        assert tm.ref(where) == 1
        tm.abort()


def test_closing_a_clone_leaves_the_real_one_alone(bm: BlockManager) -> None:
    with created(bm) as (tm, space):
        with tm.transaction(root_of(space)):
            where = new(tm, b"x")
            clone = tm.nonblocking_clone()
            other = clone.nonblocking_clone()
            clone.close()
            clone.close()
            assert clone.closed and not other.closed and not tm.closed
            with pytest.raises(thinmeta.UsageError, match="closed"):
                clone.read_lock(where, LEAF)
            assert tm.is_shadow(where), "its table is untouched"
            assert text_at(other, where, 1) == b"x"
    assert "closed" in repr(other), "without the real one there is nothing to read"
    with pytest.raises(thinmeta.UsageError, match="closed"):
        other.read_lock(where, LEAF)


# ---- with tm.transaction(fill) ----


def test_an_exception_rolls_everything_back(bm: BlockManager) -> None:
    with created(bm) as (tm, space):
        with tm.transaction(root_of(space)):
            kept = new(tm, b"kept")
        free, root = space.nr_free, space.copy_root()
        with left(), tm.transaction(root_of(space)):
            lost = new(tm, b"lost")
            tm.inc(kept)
            lock, _ = tm.shadow_block(kept, LEAF)
            with lock, memoryview(lock) as view:
                view[64:68] = b"gone"
            raise Leave
        assert (space.nr_free, space.copy_root()) == (free, root)
        assert (tm.ref(kept), tm.ref(lost), tm.is_shadow(lost)) == (1, 0, False)
        assert text_at(tm, kept, 4) == b"kept"


def test_what_fill_raises_rolls_back(bm: BlockManager) -> None:
    with created(bm) as (tm, space):
        free = space.nr_free

        def fill(view: memoryview) -> None:
            view[ROOT : ROOT + 32] = bytes(32)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError), tm.transaction(fill):
            new(tm, b"lost")
        assert space.nr_free == free
        with tm.transaction(root_of(space)):
            new(tm, b"kept")
    with opened(bm) as (tm, space, _):
        assert space.nr_free == free - 1


def test_a_view_that_fill_keeps_writes_nowhere(bm: BlockManager) -> None:
    with created(bm) as (tm, space):
        kept: list[memoryview] = []

        def fill(view: memoryview) -> None:
            root_of(space)(view)
            kept.append(memoryview(view))

        with pytest.raises(BufferError), tm.transaction(fill):
            new(tm, b"lost")
        kept[0][ROOT : ROOT + 32] = bytes(32)
        with tm.transaction(root_of(space)):
            new(tm, b"kept")
        kept[0].release()
    with opened(bm) as (tm, space, _):
        assert space.nr_free == 59


def test_there_is_one_transaction_at_a_time(bm: BlockManager) -> None:
    with created(bm) as (tm, space), tm.transaction(root_of(space)):
        with pytest.raises(thinmeta.UsageError, match="open already"):
            with tm.transaction(root_of(space)):
                pass
        where = new(tm, b"x")
    assert where


def test_a_write_lock_that_an_abort_took_away_is_left_quietly(bm: BlockManager) -> None:
    with created(bm) as (tm, space):
        with left(), tm.transaction(root_of(space)):
            lock = tm.new_block(LEAF)
            view = memoryview(lock)
            raise Leave
        view[64:68] = b"late"
        lock.release()
        view.release()
        with tm.transaction(root_of(space)):
            assert text_at(tm, new(tm, b""), 4) == bytes(4)


# ---- failures ----


def test_before_the_first_commit_an_abort_goes_back_to_an_empty_device(bm: BlockManager) -> None:
    tm, space, _ = TransactionManager.create(bm, 0, HEAD)
    with tm:
        free = space.nr_free
        new(tm, b"x")
        tm.abort()
        assert space.nr_free == free
        with left(), tm.transaction(root_of(space)):
            new(tm, b"y")
            raise Leave

        def fails(view: memoryview) -> None:
            raise LookupError

        with pytest.raises(LookupError), tm.transaction(fails):
            new(tm, b"z")
        with tm.transaction(root_of(space)):
            where = new(tm, b"kept")
        assert text_at(tm, where, 4) == b"kept"


def test_a_commit_that_is_refused_leaves_the_superblock_locked(bm: BlockManager) -> None:
    tm, _, superblock = TransactionManager.create(bm, 0, HEAD)
    with tm:
        with pytest.raises(thinmeta.UsageError, match="pre_commit"):
            tm.commit(superblock)
        assert superblock.held
        superblock.release()


def test_nothing_is_committed_while_a_new_block_is_locked(bm: BlockManager) -> None:
    with created(bm) as (tm, space):
        lock = tm.new_block(HEAD)
        with pytest.raises(thinmeta.UsageError, match=str(lock.location)):
            tm.pre_commit()
        lock.release()
        with tm.transaction(root_of(space)):
            new(tm, b"x")


def test_between_the_halves_of_a_commit_nothing_changes(bm: BlockManager) -> None:
    with created(bm) as (tm, space):
        where = new(tm, b"x")
        tm.pre_commit()
        uses: list[Callable[[], object]] = [
            lambda: tm.new_block(LEAF),
            lambda: tm.shadow_block(where, LEAF),
            lambda: tm.inc(where),
            lambda: tm.dec(where),
            tm.pre_commit,
        ]
        for use in uses:
            with pytest.raises(thinmeta.UsageError, match="between the two halves"):
                use()
        assert tm.ref(where) == 1
        with bm.write_lock(0, HEAD) as lock, memoryview(lock) as view:
            root_of(space)(view)
        tm.commit(bm.write_lock(0, HEAD))
    with opened(bm) as (tm, _, _):
        assert tm.ref(where) == 1


def test_a_commit_out_of_order_or_of_another_block_is_refused(bm: BlockManager) -> None:
    with created(bm) as (tm, _):
        superblock = bm.write_lock(0, HEAD)
        with pytest.raises(thinmeta.UsageError, match="pre_commit comes before"):
            tm.commit(superblock)
        assert superblock.held
        superblock.release()
        tm.pre_commit()
        other = bm.write_lock_zero(9, LEAF)
        with pytest.raises(thinmeta.UsageError, match="not the superblock"):
            tm.commit(other)
        assert other.held
        other.release()
        superblock = bm.write_lock(0, HEAD)
        view = memoryview(superblock)
        with pytest.raises(BufferError):
            tm.commit(superblock)
        view.release()
        tm.commit(superblock)
        with pytest.raises(thinmeta.UsageError, match="pre_commit comes before"):
            tm.commit(superblock)
        with BlockManager.in_memory(2) as second, second.write_lock_zero(0, HEAD) as lock:
            with pytest.raises(thinmeta.UsageError, match="another block manager"):
                tm.commit(lock)


def test_a_change_that_can_be_refused_leaves_no_trace(bm: BlockManager) -> None:
    with created(bm) as (tm, space):
        with tm.transaction(root_of(space)):
            free = space.nr_free
            for use in (tm.inc, tm.dec, tm.ref):
                with pytest.raises(thinmeta.UsageError, match="past the 64"):
                    use(64)
                with pytest.raises(thinmeta.UsageError, match="cannot be a block"):
                    use(2**64)
                with pytest.raises(TypeError):
                    use(True)
            with pytest.raises(thinmeta.UsageError, match="no reference to drop"):
                tm.dec(40)
            with pytest.raises(thinmeta.UsageError, match="past the 64"):
                tm.shadow_block(64, LEAF)
            assert space.nr_free == free
            new(tm, b"and it goes on")
        assert space.nr_free == free - 1


def test_a_change_that_fails_half_way_has_to_be_aborted(bm: BlockManager) -> None:
    with created(bm) as (tm, space):
        with tm.transaction(root_of(space)):
            kept = new(tm, b"kept")
        raised = None
        while raised is None:
            try:
                new(tm, b"more")
            except thinmeta.NoSpaceError as error:
                raised = error
        # Whether that had begun to change something is its own affair.
        with contextlib.suppress(thinmeta.AbortedError, thinmeta.NoSpaceError):
            tm.inc(kept)
        tm.abort()
        assert (tm.ref(kept), space.nr_free) == (1, 59)
        with tm.transaction(root_of(space)):
            new(tm, b"again")


@contextmanager
def writes_fail_at(limit_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_a_failed_write_poisons_until_it_is_opened_again(image: Path) -> None:
    with BlockManager(image) as bm, created(bm) as (tm, space):
        with tm.transaction(root_of(space)):
            kept = new(tm, b"kept")
    with BlockManager(image) as bm:
        with opened(bm) as (tm, space, _):
            with writes_fail_at(BLOCK):
                with pytest.raises(thinmeta.PoisonedError, match="File too large"):
                    with tm.transaction(root_of(space)):
                        new(tm, b"lost")
            uses: list[Callable[[], object]] = [
                lambda: tm.new_block(LEAF),
                lambda: tm.ref(kept),
                lambda: tm.inc(kept),
                tm.pre_commit,
                tm.abort,
                bm.flush,
                lambda: bm.write_lock(5, LEAF),
            ]
            for use in uses:
                with pytest.raises((thinmeta.PoisonedError, thinmeta.AbortedError)):
                    use()
            with pytest.raises(thinmeta.PoisonedError):
                tm.abort()
    with BlockManager(image) as bm, opened(bm) as (tm, space, _):
        assert (text_at(tm, kept, 4), space.nr_free) == (b"kept", 59)


def test_a_device_that_is_too_small_is_refused_with_nothing_left() -> None:
    for blocks in range(4):
        with BlockManager.in_memory(blocks) as bm:
            with pytest.raises((thinmeta.NoSpaceError, OSError)):
                TransactionManager.create(bm, 0, HEAD)
    with BlockManager.in_memory(8) as bm, created(bm) as (_, space):
        assert space.nr_blocks == 8


def test_nothing_is_created_over_something_unless_told(image: Path) -> None:
    with BlockManager(image) as bm, created(bm):
        pass
    before = image.read_bytes()
    with BlockManager(image) as bm:
        with pytest.raises(thinmeta.AlreadyFormattedError):
            TransactionManager.create(bm, 0, HEAD)
        bm.flush()
        assert image.read_bytes() == before
        tm, _, superblock = TransactionManager.create(bm, 0, HEAD, overwrite=True)
        assert image.read_bytes()[:BLOCK] == bytes(BLOCK), "nobody takes it for the old one"
        with tm, superblock:
            pass


def test_what_cannot_be_opened_says_what_it_is_and_leaves_no_lock(image: Path) -> None:
    with BlockManager(image) as bm:
        with pytest.raises(thinmeta.DamagedBlockError) as caught:
            TransactionManager.open(bm, 0, HEAD, root_offset=ROOT, root_max_len=32)
        assert (caught.value.block, caught.value.validator) == (0, "head")
        with created(bm) as (_, _space):
            pass
        wrong = [(ROOT, 31), (4090, 32), (2**63, 2**63), (ROOT, 0)]
        for offset, length in wrong:
            with pytest.raises(thinmeta.UsageError, match="32 bytes"):
                TransactionManager.open(bm, 0, HEAD, root_offset=offset, root_max_len=length)
        for offset in (0, 2000):
            with pytest.raises(thinmeta.DamagedBlockError):
                TransactionManager.open(bm, 0, HEAD, root_offset=offset, root_max_len=32)
        with pytest.raises(thinmeta.DamagedBlockError, match="block kind"):
            TransactionManager.open(bm, 0, LEAF, root_offset=ROOT, root_max_len=32)
        with pytest.raises(thinmeta.UsageError, match="block 0"):
            TransactionManager.create(bm, 1, HEAD)
        with opened(bm) as (tm, _, _):
            assert tm.ref(0) == 1


def test_reading_devices_are_refused(image: Path) -> None:
    with BlockManager(image) as bm, created(bm):
        pass
    with BlockManager(image, mode="r") as bm:
        with pytest.raises(thinmeta.ReadOnlyError):
            TransactionManager.open(bm, 0, HEAD, root_offset=ROOT, root_max_len=32)
        with pytest.raises(thinmeta.ReadOnlyError):
            TransactionManager.create(bm, 0, HEAD, overwrite=True)


def test_there_is_one_manager_on_a_device_and_it_is_closed_first(bm: BlockManager) -> None:
    with created(bm) as (tm, _):
        with pytest.raises(thinmeta.UsageError, match="open on this block manager"):
            TransactionManager.open(bm, 0, HEAD, root_offset=ROOT, root_max_len=32)
        with pytest.raises(thinmeta.UsageError, match="close that first"):
            bm.close()
        assert not tm.closed
    with opened(bm):
        pass


def test_a_closed_manager_does_nothing_and_what_was_not_committed_is_lost(
    bm: BlockManager,
) -> None:
    with created(bm) as (tm, space):
        where = new(tm, b"lost")
    tm.close()
    assert tm.closed and "closed" in repr(tm)
    uses: list[Callable[[], object]] = [
        lambda: tm.new_block(LEAF),
        lambda: tm.shadow_block(where, LEAF),
        lambda: tm.read_lock(where, LEAF),
        lambda: tm.is_shadow(where),
        lambda: tm.inc(where),
        lambda: tm.ref(where),
        lambda: tm.transaction(print),
        lambda: space.nr_free,
        space.copy_root,
        space.new_block,
        tm.pre_commit,
        tm.abort,
        tm.nonblocking_clone,
        tm.issue_prefetches,
        tm.__enter__,
    ]
    for use in uses:
        with pytest.raises(thinmeta.UsageError, match="the transaction manager is closed"):
            use()
    with opened(bm) as (tm, _, _):
        assert tm.ref(where) == 0


def test_a_manager_left_open_is_reported_and_closed(bm: BlockManager) -> None:
    with pytest.warns(ResourceWarning, match="was not closed"):
        TransactionManager.create(bm, 0, HEAD)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with created(bm) as (tm, _):
            clone = tm.nonblocking_clone()
            del clone
        del tm


# ---- threads ----


def test_ctrl_c_ends_a_change_that_waits_for_a_reader(bm: BlockManager) -> None:
    with created(bm) as (tm, space):
        where = new(tm, b"x")
        held, release = threading.Event(), threading.Event()

        def hold() -> None:
            with tm.read_lock(where, LEAF):
                held.set()
                release.wait(SOON_SECONDS)

        thread = threading.Thread(target=hold)
        thread.start()
        assert held.wait(SOON_SECONDS)
        timer = threading.Timer(0.2, signal.raise_signal, [signal.SIGINT])
        timer.start()
        started = time.monotonic()
        try:
            with pytest.raises(KeyboardInterrupt):
                tm.shadow_block(where, LEAF)
            assert time.monotonic() - started < SOON_SECONDS
        finally:
            timer.join()
            release.set()
            thread.join()
        tm.abort()
        with tm.transaction(root_of(space)):
            new(tm, b"y")


def test_who_holds_a_block_can_lock_another_while_a_change_waits_for_the_first(
    bm: BlockManager,
) -> None:
    with created(bm) as (tm, space), tm.transaction(root_of(space)):
        parent, child = new(tm, b"parent"), new(tm, b"child")
        reader = tm.read_lock(parent, LEAF)
        begun = threading.Event()

        def change() -> None:
            begun.set()
            with tm.shadow_block(parent, LEAF)[0]:
                pass

        thread = threading.Thread(target=change)
        thread.start()
        begun.wait()
        time.sleep(0.05)  # only makes it likelier that the change waits already
        assert text_at(tm, child, 5) == b"child"
        reader.release()
        thread.join(SOON_SECONDS)
        assert not thread.is_alive()


def test_two_threads_change_things_in_turn(bm: BlockManager) -> None:
    with created(bm) as (tm, space), tm.transaction(root_of(space)):
        shared = new(tm, b"x")
        failed: list[BaseException] = []

        def count() -> None:
            try:
                for _ in range(200):
                    tm.inc(shared)
                    tm.dec(shared)
                    tm.inc(shared)
            except BaseException as raised:
                failed.append(raised)

        threads = [threading.Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
        assert tm.ref(shared) == 801


# ---- the laws, over random histories ----


class TransactionLaws(RuleBasedStateMachine):
    """Blocks by name: what was committed is found, what was not is gone."""

    @initialize()
    def start(self) -> None:
        self.bm = BlockManager.in_memory(256)
        self.tm, self.space, _ = TransactionManager.create(self.bm, 0, HEAD, checked=True)
        self.now: dict[int, bytes] = {}
        self.own: set[int] = set()
        self.extra: dict[int, int] = {}
        self.commit()

    @rule(text=st.binary(min_size=8, max_size=8))
    def allocate(self, text: bytes) -> None:
        if len(self.now) < 40:
            where = new(self.tm, text)
            assert where not in self.now and where not in self.committed
            self.now[where] = text
            self.own.add(where)

    @precondition(lambda self: self.now)
    @rule(data=st.data(), text=st.binary(min_size=8, max_size=8))
    def change(self, data: st.DataObject, text: bytes) -> None:
        where = data.draw(st.sampled_from(sorted(self.now)))
        shared = self.extra.get(where, 0) > 0
        assert self.tm.is_shadow(where) == (where in self.own)
        lock, inc_children = self.tm.shadow_block(where, LEAF)
        assert inc_children == shared
        with lock, memoryview(lock) as view:
            assert (lock.location == where) == (where in self.own and not shared)
            assert bytes(view[64:72]) == self.now[where]
            view[64:72] = text
        if lock.location != where:
            assert lock.location not in self.now and lock.location not in self.committed
            if shared:
                self.extra[where] -= 1
            else:
                del self.now[where]
                self.own.discard(where)
        self.now[lock.location] = text
        self.own.add(lock.location)

    @precondition(lambda self: self.now)
    @rule(data=st.data(), more=st.booleans())
    def count(self, data: st.DataObject, more: bool) -> None:
        where = data.draw(st.sampled_from(sorted(self.now)))
        extra = self.extra.get(where, 0)
        if more:
            self.tm.inc(where)
            self.extra[where] = extra + 1
        else:
            self.tm.dec(where)
            self.extra[where] = extra - 1
            if extra == 0:
                del self.now[where], self.extra[where]
                self.own.discard(where)

    @rule()
    def commit(self) -> None:
        with self.tm.transaction(root_of(self.space)):
            pass
        self.committed = dict(self.now)
        self.committed_extra = dict(self.extra)
        self.free = self.space.nr_free
        self.own.clear()

    @rule()
    def abort(self) -> None:
        self.tm.abort()
        self.go_back()

    @rule()
    def reopen(self) -> None:
        self.tm.close()
        self.tm, self.space, superblock = TransactionManager.open(
            self.bm, 0, HEAD, root_offset=ROOT, root_max_len=32, checked=True
        )
        superblock.release()
        self.go_back()

    def go_back(self) -> None:
        self.now, self.extra = dict(self.committed), dict(self.committed_extra)
        self.own.clear()
        assert self.space.nr_free == self.free
        self.everything_is_there()

    @rule()
    def everything_is_there(self) -> None:
        for where, text in self.now.items():
            assert text_at(self.tm, where, 8) == text
            assert self.tm.ref(where) == 1 + self.extra.get(where, 0)

    def teardown(self) -> None:
        if hasattr(self, "tm"):
            self.tm.close()
            self.bm.close()


TestTransactionLaws = TransactionLaws.TestCase
TestTransactionLaws.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
