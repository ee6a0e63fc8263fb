"""Changing pools from Python: what each call does, and what it refuses without a trace."""

import multiprocessing
import os
import signal
import threading
import warnings
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import thinmeta
from leaving import Leave, left
from ondisk import BLOCK, patched, seal
from oracles import require_module

DATA_BLOCKS = 1000
CREATE: Any = {"data_block_size_sectors": 128, "data_blocks": 10}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A pool with device 1, of ten mappings, and its snapshot 2."""
    path = tmp_path / "meta.img"
    with (
        thinmeta.Pool.create(
            path, data_block_size_sectors=128, data_blocks=DATA_BLOCKS, metadata_blocks=256
        ) as pool,
        pool.transaction() as txn,
    ):
        txn.create_thin(1)
        txn.insert_many(1, array("Q", range(10)), array("Q", range(100, 110)))
        txn.create_snapshot(2, origin_id=1)
    return path


@pytest.fixture
def pool(image: Path) -> Iterator[thinmeta.Pool]:
    with thinmeta.open_pool(image, mode="r+") as pool:
        yield pool


def test_the_pool_shows_the_last_commit_and_the_transaction_what_it_made(
    pool: thinmeta.Pool,
) -> None:
    device = pool.devices[1]
    with pool.transaction() as txn:
        txn.create_thin(7)
        assert txn.remove(1, 3)
        assert not txn.remove(1, 3)
        assert txn.device_ids() == [1, 2, 7]
        assert txn.device(1).mapped_blocks == 9
        assert (txn.find(1, 3), txn.find(2, 3)) == (None, pool.devices[2].find(3))
        assert [txn.is_changed(each) for each in (1, 2, 7)] == [True, False, True]
        assert txn.changed
        assert (device.mapped_blocks, list(pool.devices)) == (10, [1, 2])
        assert device.find(3) is not None
    assert (device.mapped_blocks, list(pool.devices)) == (9, [1, 2, 7])
    assert device.find(3) is None
    assert sum(run.length_blocks for run in device.runs()) == 9
    assert thinmeta.check(pool).is_clean


def test_a_rolled_back_transaction_leaves_handles_as_they_were(
    pool: thinmeta.Pool, image: Path
) -> None:
    before = image.read_bytes()
    device = pool.devices[1]
    with left(), pool.transaction() as txn:
        txn.delete(1)
        txn.create_thin(3)
        raise Leave
    assert txn.ended
    assert device.mapped_blocks == 10 and len(list(device.runs())) == 1
    assert 3 not in pool.devices
    assert image.read_bytes() == before


def test_a_handle_of_a_device_that_is_gone_says_so(pool: thinmeta.Pool) -> None:
    device = pool.devices[2]
    with pool.transaction() as txn:
        txn.delete(2)
    for use in (lambda: device.mapped_blocks, lambda: list(device.runs()), lambda: device.find(0)):
        with pytest.raises(thinmeta.NoSuchDeviceError):
            use()
    with pool.transaction() as txn:
        txn.create_thin(2)
    assert device.mapped_blocks == 0, "the id is somebody else's now, and so is the handle"


def test_numbers_of_the_pool(pool: thinmeta.Pool) -> None:
    with pool.transaction() as txn:
        assert (txn.transaction_id, txn.time, txn.held_root) == (0, 1, 0)
        txn.set_transaction_id(0, 2**64 - 1)
        held = txn.reserve_metadata_snapshot()
        assert (txn.transaction_id, txn.held_root) == (2**64 - 1, held)
        assert (txn.data_blocks, txn.used_data_blocks, txn.metadata_blocks) == (1000, 10, 256)
        txn.grow_data(2000)
        txn.grow_metadata(512)
        assert (txn.data_blocks, txn.metadata_blocks) == (2000, 512)
    assert pool.superblock.trans_id == 2**64 - 1
    assert pool.superblock.held_root == held
    assert (pool.data_space.blocks, pool.metadata_space.blocks) == (2000, 512)
    assert pool.free_metadata_blocks == pool.metadata_space.free - 51
    assert pool.free_data_blocks == 1990
    with thinmeta.open_pool(pool.path, metadata_snapshot="held") as snapshot:
        assert list(snapshot.devices) == [1, 2]
        assert snapshot.superblock.trans_id == 2**64 - 1, "it shows the commit that it is part of"


def test_a_snapshot_costs_the_same_whatever_its_origin(tmp_path: Path) -> None:
    """Counted in blocks that a commit takes."""
    took = []
    for mappings in (1, 100_000):
        path = tmp_path / f"{mappings}.img"
        sizes: Any = {**CREATE, "data_blocks": 200_000, "metadata_blocks": 4096}
        with thinmeta.Pool.create(path, **sizes) as pool:
            with pool.transaction() as txn:
                txn.create_thin(1)
                txn.insert_many(1, array("Q", range(mappings)), array("Q", range(mappings)))
            before = pool.metadata_space.allocated
            with pool.transaction() as txn:
                txn.create_snapshot(2, origin_id=1)
            took.append(pool.metadata_space.allocated - before)
    assert took == [0, 0]


def test_data_blocks_are_counted_reserved_and_held(pool: thinmeta.Pool) -> None:
    with pool.transaction() as txn:
        block = txn.allocate_data()
        assert txn.data_count(block) == 1
        assert not txn.block_is_shared(block)
        assert txn.insert(2, virtual_block=50, data_block=block)
        assert not txn.insert(2, virtual_block=50, data_block=block), "the time alone is new"
        assert txn.data_count(block) == 1
        assert txn.data_count(100) == 2, "the leaf that both shared is two now"
        assert txn.block_is_shared(100)
        txn.inc_data(100, 110)
        txn.delete(1)
        assert txn.data_count(100) == 2
    assert pool.data_space.allocated == 11
    with pool.transaction() as txn:
        txn.delete(2)
        txn.dec_data(100, 105)
    assert pool.data_space.allocated == 5, "what is held is not freed"
    with pool.transaction() as txn:
        with pytest.raises(thinmeta.UsageError, match="not held"):
            txn.dec_data(100, 101)
        txn.dec_data(105, 110)
    assert pool.data_space.allocated == 0
    assert thinmeta.check(pool).is_clean


def test_of_a_block_that_comes_twice_in_a_batch_the_last_counts(pool: thinmeta.Pool) -> None:
    with pool.transaction() as txn:
        assert txn.insert_many(1, array("Q", [5, 20, 20, 5]), array("Q", [1, 2, 3, 4])) == 1
        assert [txn.find(1, each).data_block for each in (5, 20)] == [4, 3]  # type: ignore[union-attr]
        assert [txn.data_count(each) for each in range(1, 5)] == [0, 0, 1, 1]
    assert thinmeta.check(pool).is_clean


@pytest.mark.parametrize("kind", ["numpy", "array", "arrow", "strided"])
def test_columns_come_in_any_form(pool: thinmeta.Pool, kind: str) -> None:
    virtual, data = range(500, 900), range(200, 600)
    if kind == "array":
        columns = array("Q", virtual), array("Q", data)
    elif kind == "arrow":
        pyarrow = require_module("pyarrow")
        columns = pyarrow.array(virtual, pyarrow.uint64()), pyarrow.array(data, pyarrow.uint64())
    else:
        numpy = require_module("numpy")
        columns = numpy.array(virtual, numpy.uint64), numpy.array(data, numpy.uint64)
        if kind == "strided":
            columns = tuple(numpy.repeat(each, 2)[::2] for each in columns)
    with pool.transaction() as txn:
        assert txn.insert_many(1, *columns) == 400
    assert pool.devices[1].find(899) == thinmeta.BlockMapping(599, 1, False)


def test_ctrl_c_ends_a_long_batch_and_nothing_of_it_is_there(tmp_path: Path) -> None:
    numpy = require_module("numpy")
    count = 8_000_000
    sizes: Any = {**CREATE, "data_blocks": count, "metadata_blocks": 400_000}
    virtual = numpy.random.default_rng(1).permutation(count).astype(numpy.uint64)
    with thinmeta.Pool.create(tmp_path / "meta.img", **sizes) as pool:
        timer = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])
        with left(), pool.transaction() as txn:
            txn.create_thin(1)
            timer.start()
            with pytest.raises(KeyboardInterrupt):
                txn.insert_many(1, virtual, virtual)
            timer.join()
            with pytest.raises(thinmeta.AbortedError):
                txn.delete(1)
            raise Leave
        assert txn.ended and not pool.devices
        with pool.transaction() as txn:
            txn.create_thin(1)
        assert thinmeta.check(pool).is_clean


REFUSED: dict[str, tuple[Callable[[thinmeta.PoolTransaction], object], type[Exception], str]] = {
    "an id of 25 bits": (lambda t: t.create_thin(2**24), thinmeta.UsageError, "at most 16777215"),
    "an id below 0": (lambda t: t.create_thin(-1), thinmeta.UsageError, "cannot be -1"),
    "a device that is there": (lambda t: t.create_thin(1), thinmeta.DeviceExistsError, "1"),
    "a snapshot that is there": (
        lambda t: t.create_snapshot(2, origin_id=1),
        thinmeta.DeviceExistsError,
        "2",
    ),
    "no origin": (
        lambda t: t.create_snapshot(3, origin_id=9),
        thinmeta.NoSuchDeviceError,
        "9",
    ),
    "deleting nothing": (lambda t: t.delete(9), thinmeta.NoSuchDeviceError, "9"),
    "mapping of nothing": (
        lambda t: t.insert(9, virtual_block=0, data_block=0),
        thinmeta.NoSuchDeviceError,
        "9",
    ),
    "past the data device": (
        lambda t: t.insert(1, virtual_block=0, data_block=DATA_BLOCKS),
        thinmeta.UsageError,
        "there is no block 1000",
    ),
    "past every volume": (
        lambda t: t.insert(1, virtual_block=2**48, data_block=0),
        thinmeta.UsageError,
        "there is no block 281474976710656",
    ),
    "one of many past the data device": (
        lambda t: t.insert_many(1, array("Q", range(100)), array("Q", range(901, 1001))),
        thinmeta.UsageError,
        "there is no block 1000",
    ),
    "columns of two lengths": (
        lambda t: t.insert_many(1, array("Q", [1]), array("Q", [])),
        thinmeta.UsageError,
        "1 virtual blocks and 0 data blocks",
    ),
    "columns of something else": (
        lambda t: t.insert_many(1, [1, 2], [3, 4]),
        TypeError,
        "64-bit integers",
    ),
    "negative blocks": (
        lambda t: t.insert_many(1, array("q", [-1]), array("Q", [1])),
        thinmeta.UsageError,
        "no sign",
    ),
    "removing from nothing": (lambda t: t.remove(9, 0), thinmeta.NoSuchDeviceError, "9"),
    "a range reversed": (
        lambda t: t.remove_range(1, 5, 4),
        thinmeta.UsageError,
        "from 5 to 4 is reversed",
    ),
    "a data range reversed": (lambda t: t.inc_data(5, 4), thinmeta.UsageError, "reversed"),
    "holding what is free": (lambda t: t.inc_data(0, 1), thinmeta.UsageError, "not in use"),
    "holding past the end": (lambda t: t.inc_data(999, 1001), thinmeta.UsageError, "1000 blocks"),
    "counting past the end": (lambda t: t.data_count(1000), thinmeta.UsageError, "past the end|10"),
    "another transaction id": (
        lambda t: t.set_transaction_id(5, 6),
        thinmeta.StaleTransactionError,
        "is 0, not 5",
    ),
    "no metadata snapshot": (
        lambda t: t.release_metadata_snapshot(),
        thinmeta.NoMetadataSnapshotError,
        "holds no",
    ),
    "shrinking data": (lambda t: t.grow_data(999), thinmeta.UsageError, "cannot shrink to 999"),
    "shrinking metadata": (lambda t: t.grow_metadata(255), thinmeta.UsageError, "shrink to 255"),
    "too much metadata": (
        lambda t: t.grow_metadata(4_161_601),
        thinmeta.UsageError,
        "at most 4161600",
    ),
    "too much data": (lambda t: t.grow_data(2**40 + 1), thinmeta.UsageError, "at most"),
    "data whose counts do not fit": (
        lambda t: t.grow_data(2**40),
        thinmeta.NoSpaceError,
        "metadata",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_refused_and_the_pool_stays_as_it_was(
    pool: thinmeta.Pool, image: Path, name: str
) -> None:
    refused, error, text = REFUSED[name]
    before = image.read_bytes()
    with pool.transaction() as txn:
        with pytest.raises(error, match=text):
            refused(txn)
        assert not txn.changed
        txn.set_transaction_id(0, 0)  # it goes on
    assert image.read_bytes() == before
    with pool.transaction() as txn:
        txn.create_thin(99)
        with pytest.raises(error, match=text):
            refused(txn)
    assert list(pool.devices) == [1, 2, 99]
    assert thinmeta.check(pool).is_clean


def test_blocks_and_ids_are_numbers(pool: thinmeta.Pool) -> None:
    with pool.transaction() as txn:
        for call in (
            lambda: txn.create_thin(True),
            lambda: txn.create_thin("1"),  # type: ignore[arg-type]
            lambda: txn.delete(1.0),  # type: ignore[arg-type]
            lambda: txn.insert(1, virtual_block=None, data_block=1),  # type: ignore[arg-type]
        ):
            with pytest.raises(TypeError):
                call()


def test_a_freed_block_waits_for_the_commit(pool: thinmeta.Pool) -> None:
    with pool.transaction() as txn:
        txn.delete(2)
        txn.remove_range(1, 0, 5)
        with pytest.raises(thinmeta.UsageError, match="freed in this transaction"):
            txn.insert(1, virtual_block=40, data_block=100)
        with pytest.raises(thinmeta.UsageError, match="freed in this transaction"):
            txn.insert_many(1, array("Q", [40, 41]), array("Q", [500, 104]))
        assert txn.find(1, 40) is None
    with pool.transaction() as txn:
        txn.insert(1, virtual_block=40, data_block=100)


def test_the_clock_stays_in_24_bits(pool: thinmeta.Pool, image: Path) -> None:
    pool.close()
    block = image.read_bytes()[:BLOCK]
    block = seal(patched(block, 44, (2**24 - 2).to_bytes(4, "little")), "thin superblock")
    with image.open("r+b") as file:
        file.write(block)
    with thinmeta.open_pool(image, mode="r+") as late, late.transaction() as txn:
        txn.create_snapshot(3, origin_id=1)
        with pytest.raises(thinmeta.UsageError, match="clock"):
            txn.create_snapshot(4, origin_id=1)
        assert txn.time == 2**24 - 1


def test_space_for_data_runs_out(pool: thinmeta.Pool, image: Path) -> None:
    with pool.transaction() as txn:
        while txn.free_data_blocks:
            txn.insert(1, virtual_block=1000 + txn.used_data_blocks, data_block=txn.allocate_data())
        with pytest.raises(thinmeta.NoSpaceError) as caught:
            txn.allocate_data()
        assert caught.value.space == "data"
    states = [pool.state]
    with pool.transaction() as txn:
        txn.remove(1, 1010)
    assert [*states, pool.state] == ["out_of_data_space", "write"]
    assert thinmeta.check(pool).is_clean


def create_many(txn: thinmeta.PoolTransaction) -> None:
    for device_id in range(10, 400):
        txn.create_thin(device_id)


def test_space_for_metadata_runs_out_in_the_middle_and_nothing_has_happened(
    pool: thinmeta.Pool, image: Path
) -> None:
    before = image.read_bytes()
    with left(), pool.transaction() as txn:
        with pytest.raises(thinmeta.NoSpaceError) as caught:
            create_many(txn)
        raise Leave
    assert caught.value.space == "metadata"
    assert image.read_bytes() == before
    txn = pool.transaction()
    with pytest.raises(thinmeta.NoSpaceError):
        # Takes more than is left at once, reserve and all.
        txn.insert_many(1, array("Q", range(0, 900_000, 3)), array("Q", [7] * 300_000))
    with pytest.raises(thinmeta.AbortedError):
        txn.create_thin(5)
    with pytest.raises(thinmeta.AbortedError) as failed:
        txn.commit()
    assert txn.ended and not failed.value.needs_check_set
    assert image.read_bytes()[:BLOCK] == before[:BLOCK]
    assert thinmeta.check(pool).is_clean
    with pool.transaction() as txn:
        txn.delete(1)
    assert list(pool.devices) == [2]


def test_before_commit_comes_before_anything_is_durable(pool: thinmeta.Pool, image: Path) -> None:
    before, seen = image.read_bytes(), []
    with pool.transaction(before_commit=lambda: seen.append(image.read_bytes())) as txn:
        txn.create_thin(3)
    assert seen == [before]

    class NotNowError(Exception):
        pass

    def refuse() -> None:
        raise NotNowError

    before = image.read_bytes()
    with pytest.raises(NotNowError), pool.transaction(before_commit=refuse) as txn:
        txn.delete(3)
    assert txn.ended and 3 in pool.devices

    def end_and_refuse() -> None:
        txn.abort()
        raise NotNowError

    txn = pool.transaction(before_commit=end_and_refuse)
    with pytest.raises(NotNowError):
        txn.commit()
    assert image.read_bytes() == before


def test_one_transaction_at_a_time(pool: thinmeta.Pool) -> None:
    txn = pool.transaction()
    with pytest.raises(thinmeta.UsageError, match="open already"):
        pool.transaction()
    txn.commit()
    for use in (txn.commit, txn.abort, txn.device_ids, lambda: txn.create_thin(5)):
        with pytest.raises(thinmeta.UsageError, match="has ended"):
            use()
    with pytest.raises(thinmeta.UsageError, match="has ended"), txn:
        pass


def test_closing_the_pool_rolls_back(pool: thinmeta.Pool, image: Path) -> None:
    txn = pool.transaction()
    txn.create_thin(50)
    pool.close()
    assert txn.ended
    with pytest.raises(thinmeta.UsageError):
        txn.commit()
    with thinmeta.open_pool(image, mode="r+") as again:
        assert 50 not in again.devices


def test_a_block_that_is_left_after_its_pool_was_closed_says_that_nothing_was_committed(
    pool: thinmeta.Pool,
) -> None:
    with pytest.raises(thinmeta.UsageError, match="nothing was committed"), pool.transaction():
        pool.close()


def test_a_forgotten_transaction_is_rolled_back_and_told_of(pool: thinmeta.Pool) -> None:
    txn = pool.transaction()
    txn.create_thin(50)
    with pytest.warns(ResourceWarning, match="neither committed nor rolled back"):
        del txn
    with pool.transaction() as txn:
        assert txn.device_ids() == [1, 2]


def test_opening_and_closing_writes_nothing(image: Path) -> None:
    before, when = image.read_bytes(), image.stat().st_mtime_ns
    with thinmeta.open_pool(image, mode="r+") as pool:
        assert pool.state == "write"
        with pool.transaction() as txn:
            txn.allocate_data()
    assert (image.read_bytes(), image.stat().st_mtime_ns) == (before, when)


def test_a_pool_has_one_writer_and_then_no_reader(image: Path) -> None:
    with thinmeta.open_pool(image, mode="r+"):
        with pytest.raises(thinmeta.DeviceInUseError):
            thinmeta.open_pool(image)
        with pytest.raises(thinmeta.DeviceInUseError):
            thinmeta.open_pool(image, mode="r+")
    with thinmeta.open_pool(image), pytest.raises(thinmeta.DeviceInUseError):
        thinmeta.open_pool(image, mode="r+")
    with pytest.raises(thinmeta.UsageError, match="only be read"):
        thinmeta.open_pool(image, mode="r+", metadata_snapshot="held")


def test_other_threads_read_while_one_changes(pool: thinmeta.Pool) -> None:
    """Eight readers, one writer: each sees whole commits, and nobody a wrong one."""
    failures: list[BaseException] = []
    over = threading.Event()

    def read() -> None:
        try:
            while not over.is_set():
                device = pool.devices[1]
                mapped = {run.virtual_begin: run.length_blocks for run in device.runs()}
                # Each commit moves a window of ten blocks.
                assert sum(mapped.values()) == 10, mapped
                assert thinmeta.check(pool, threads=1).is_clean
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for at in range(60):
        with pool.transaction() as txn:
            txn.remove(1, at)
            txn.insert(1, virtual_block=at + 10, data_block=txn.allocate_data())
    over.set()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]


def test_two_volumes_are_compared_as_of_one_commit(pool: thinmeta.Pool) -> None:
    over = threading.Event()

    def commit() -> None:
        at = 100
        while not over.is_set():
            with pool.transaction() as txn:
                # Both change, and stay alike.
                for device_id in (1, 2):
                    txn.insert(device_id, virtual_block=at % 50 + 20, data_block=at % 800 + 150)
            at += 1

    with pool.transaction() as txn:
        txn.insert(1, virtual_block=0, data_block=100)
    thread = threading.Thread(target=commit)
    thread.start()
    try:
        for _ in range(3000):
            assert len(pool.delta(1, 2)) == 0
    finally:
        over.set()
        thread.join()


def test_what_becomes_free_is_seen_by_the_next_transaction(pool: thinmeta.Pool) -> None:
    assert pool.devices[1].mapped_blocks == 10
    with pool.transaction() as txn:
        txn.delete(1)
        txn.delete(2)
    with pool.transaction() as txn:
        assert txn.free_data_blocks == pool.free_data_blocks == DATA_BLOCKS


def test_a_forked_child_leaves_the_pool_alone(pool: thinmeta.Pool, image: Path) -> None:
    txn, device = pool.transaction(), pool.devices[1]
    txn.create_thin(40)

    def child() -> None:
        uses: list[Callable[[], object]] = [
            txn.commit,
            pool.transaction,
            txn.device_ids,
            lambda: device.find(0),
            lambda: list(pool.devices),
            lambda: pool.superblock,
        ]
        for use in uses:
            try:
                use()
            except thinmeta.UsageError as error:
                if "fork" in str(error):
                    continue
            os._exit(1)
        pool.close()
        os._exit(0 if pool.closed else 1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join(60)
    assert process.exitcode == 0
    txn.commit()
    assert 40 in pool.devices
