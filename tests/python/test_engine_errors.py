"""Whatever goes wrong with a store is a typed error, and the last commit stays whole."""

import array
import copy
import errno
import os
import pickle
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import thinmeta
from corpus import Corpus
from loops import loop_device
from thinmeta.engine import BTree, Store

BLOCK = 4096
ROWS = {key: key * 7 for key in range(0, 30_000, 3)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with a few hundred nodes."""
    path = tmp_path / "s.img"
    with Store.create(path, size_bytes=2 << 20, checked=True) as store:
        with store.transaction() as txn:
            tree = txn.tree("t")
            for key, value in ROWS.items():
                tree[key] = value
            txn.snapshot("t", "s")
    return path


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path, checked=True) as store:
        yield store


def whole(store: Store) -> bool:
    with store.view() as view:
        return view.names() == ["s", "t"] and view.tree("t") == view.tree("s") == ROWS


def fill(tree: BTree[int]) -> None:
    """More than there is room for."""
    for key in range(10**6):
        tree[key] = key


def damage(use: Callable[[], object]) -> thinmeta.DamagedBlockError | None:
    """What damage somebody met, or None."""
    try:
        use()
    except thinmeta.DamagedBlockError as error:
        return error
    return None


# ---- opening and creating ----


def test_opening_what_is_no_store(corpus: Corpus, tmp_path: Path) -> None:
    path = tmp_path / "x"
    contents: list[tuple[bytes, type[Exception], str]] = [
        (b"", thinmeta.UnsupportedFormatError, "no whole block"),
        (b"\0" * 100, thinmeta.UnsupportedFormatError, "no whole block"),
        (b"\0" * 4096, thinmeta.NotFormattedError, "block 0 is all zero"),
        (b"<superblock>" * 5000, thinmeta.UnsupportedFormatError, "no store"),
        (corpus["sequential"].meta.read_bytes(), thinmeta.UnsupportedFormatError, "thin"),
    ]
    for content, error, words in contents:
        path.write_bytes(content)
        for mode in ("r", "r+"):
            with pytest.raises(error, match=words) as caught:
                Store.open(path, mode=mode)
            assert getattr(caught.value, "path", None) == str(path)
        assert path.read_bytes() == content


def test_opening_what_is_not_there(tmp_path: Path) -> None:
    for mode in ("r", "r+"):
        with pytest.raises(FileNotFoundError) as caught:
            Store.open(tmp_path / "nothing", mode=mode)
        assert caught.value.filename == str(tmp_path / "nothing")
        with pytest.raises(IsADirectoryError):
            Store.open(tmp_path, mode=mode)
    with pytest.raises(FileNotFoundError):
        Store.create(tmp_path / "no" / "folder", size_bytes=1 << 20)
    with pytest.raises(IsADirectoryError):
        Store.create(tmp_path)
    with pytest.raises(OSError, match="neither a file nor a block device"):
        Store.open(os.devnull)


def test_creating_over_something_needs_to_be_told(path: Path, corpus: Corpus) -> None:
    with Store.create(path, overwrite=True) as store, store.view() as view:
        assert view.names() == []
        assert store.nr_blocks == 512, "the file is taken as it is"
    for content in (path.read_bytes(), corpus["sequential"].meta.read_bytes(), b"text" * 30_000):
        path.write_bytes(content)
        with pytest.raises(thinmeta.AlreadyFormattedError, match="overwrite") as caught:
            Store.create(path, size_bytes=4 << 20)
        assert caught.value.path == str(path) and caught.value.reason
        assert path.read_bytes() == content, "not even its length has changed"
    path.write_bytes(b"\0" * (1 << 20))
    with Store.create(path):
        pass


def test_a_store_needs_twelve_blocks(tmp_path: Path) -> None:
    for size in (0, 1, 11 * BLOCK, 12 * BLOCK - 1):
        with pytest.raises(thinmeta.NoSpaceError) as caught:
            Store.create(tmp_path / "s.img", size_bytes=size)
        assert caught.value.space == "metadata" and "12 blocks" in caught.value.reason
    with Store.create(tmp_path / "s.img", size_bytes=12 * BLOCK, checked=True) as store:
        with store.transaction() as txn:
            txn.tree("t")[1] = 1
        with store.view() as view:
            assert view.tree("t")[1] == 1


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"size_bytes": -1}, thinmeta.UsageError),
        ({"size_bytes": 2**64}, thinmeta.UsageError),
        ({"size_bytes": True}, TypeError),
        ({"size_bytes": "1"}, TypeError),
        ({"cache_bytes": -1}, thinmeta.UsageError),
        ({"cache_bytes": None}, TypeError),
        ({"overwrite": 1}, TypeError),
        ({"checked": "yes"}, TypeError),
    ],
)
def test_options_that_make_no_sense(
    tmp_path: Path, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        Store.create(tmp_path / "s.img", **options)
    assert list(tmp_path.iterdir()) == []


def test_modes_that_are_none(path: Path) -> None:
    for mode in ("w", "rb", "", None, True):
        with pytest.raises(thinmeta.UsageError, match="mode is"):
            Store.open(path, mode=mode)  # type: ignore[arg-type] # what mypy would refuse


def test_a_file_behind_a_loop_device_is_in_use(path: Path) -> None:
    with loop_device(path):
        uses: list[Callable[[], Store]] = [
            lambda: Store.open(path),
            lambda: Store.create(path, overwrite=True),
        ]
        for use in uses:
            with pytest.raises(thinmeta.DeviceInUseError, match="loop") as caught:
                use()
            assert caught.value.errno == errno.EBUSY


def test_another_process_is_kept_out(path: Path, store: Store) -> None:
    program = "import sys; from thinmeta.engine import Store; Store.open(sys.argv[1]).close()"
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "DeviceInUseError" in done.stderr
    store.close()
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)


def test_a_store_opened_to_read_is_not_written(path: Path) -> None:
    before = path.read_bytes()
    with Store.open(path, mode="r") as store:
        with pytest.raises(thinmeta.ReadOnlyError) as caught:
            store.transaction()
        assert isinstance(caught.value, PermissionError)
        assert whole(store) and store.nr_free > 0
    assert path.read_bytes() == before


# ---- no space ----


def test_a_full_store_says_so_and_goes_back_to_the_last_commit(store: Store) -> None:
    free = store.nr_free

    def change_too_much() -> None:
        with store.transaction() as txn:
            fill(txn.tree("full"))

    with pytest.raises(thinmeta.NoSpaceError) as caught:
        change_too_much()
    assert caught.value.space == "metadata" and caught.value.reason
    assert store.nr_free == free
    assert whole(store)
    with store.transaction() as txn:
        txn.delete("s")
        txn.snapshot("t", "s")
    assert whole(store)


def test_after_a_failed_change_everything_but_the_last_commit_is_refused(store: Store) -> None:
    txn = store.transaction()
    tree, other = txn.tree("full"), txn.tree("t")
    rows = iter(other)
    with pytest.raises(thinmeta.NoSpaceError):
        fill(tree)
    uses: list[Callable[[], object]] = [
        lambda: tree[1],
        lambda: tree.get(1),
        lambda: 1 in tree,
        lambda: tree.__setitem__(1, 1),
        lambda: other.__delitem__(0),
        lambda: other[0],
        lambda: len(other),
        lambda: next(rows),
        lambda: other.entries(),
        lambda: txn.tree("another"),
        lambda: txn.snapshot("t", "u"),
        lambda: txn.delete("t"),
        lambda: store.space,
    ]
    for use in uses:
        with pytest.raises(thinmeta.AbortedError, match="no metadata space left"):
            use()
    assert whole(store), "what was committed is read as before"
    txn.abort()
    with store.transaction() as txn:
        assert txn.tree("t") == ROWS
    assert whole(store)


def test_a_commit_after_a_failed_change_fails_and_rolls_back(store: Store) -> None:
    txn = store.transaction()
    tree = txn.tree("full")
    with pytest.raises(thinmeta.NoSpaceError):
        fill(tree)
    with pytest.raises(thinmeta.AbortedError):
        txn.commit()
    assert txn.ended
    assert whole(store)
    with store.transaction() as txn:
        txn.tree("u")


def test_blocks_that_a_view_withholds_are_named(tmp_path: Path) -> None:
    with Store.create(tmp_path / "s.img", size_bytes=64 * BLOCK) as store:
        column = array.array("Q", range(3000))
        with store.transaction() as txn:
            txn.tree("t").insert_many(column, column)
        with store.view() as view:
            with store.transaction() as txn:
                txn.delete("t")

            def fill() -> None:
                with store.transaction() as txn:
                    for part in range(0, 10**6, 3000):
                        keys = array.array("Q", range(part, part + 3000))
                        txn.tree("u").insert_many(keys, keys)

            with pytest.raises(thinmeta.NoSpaceError, match="view"):
                fill()
            assert view.tree("t") == {key: key for key in range(3000)}


# ---- damage ----


def test_a_flipped_byte_anywhere_is_an_error_or_changes_nothing(path: Path) -> None:
    """Never a wrong answer: each block in turn is damaged, and everything is read."""
    sound, kinds = path.read_bytes(), Counter[str]()

    def read_all() -> None:
        with Store.open(path) as store:
            assert whole(store)

    for at in range(0, len(sound), BLOCK):
        if not any(sound[at : at + BLOCK]):
            continue
        raw = bytearray(sound)
        raw[at + random.Random(at).randrange(BLOCK)] ^= 0x10
        path.write_bytes(raw)
        error = damage(read_all)
        if error is not None:
            assert error.block == at // BLOCK
            assert str(error.block) in str(error)
            kinds[error.step or error.validator] += 1
    assert kinds["btree node"] > 30
    assert kinds["space map open"] > 0


def test_the_step_that_failed_is_in_the_message(path: Path) -> None:
    sound, steps = path.read_bytes(), set()
    for at in range(0, len(sound), BLOCK):
        if not any(sound[at : at + BLOCK]):
            continue
        raw = bytearray(sound)
        raw[at + 40] ^= 1
        path.write_bytes(raw)
        error = damage(lambda: Store.open(path).close())
        if error is not None and error.step is not None:
            assert str(error).startswith(f"{error.step}: metadata block {at // BLOCK} ")
            steps.add(error.step)
    assert "space map open" in steps


def test_damage_met_by_a_look_up_names_the_block(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    with Store.open(path) as store, store.view() as view:
        assert view.tree("t")[0] == 0
    # Whichever leaf has key 0: its bytes are there once.
    at = raw.index(b"".join(key.to_bytes(8, "little") for key in (0, 3, 6, 9, 12)))
    raw[at] ^= 1
    path.write_bytes(raw)
    with Store.open(path) as store, store.view() as view:
        tree = view.tree("t")
        uses: list[Callable[[], object]] = [
            lambda: tree[0],
            lambda: 0 in tree,
            lambda: list(tree),
            lambda: tree.first(),
            lambda: tree.lookup_many(array.array("Q", [0])),
            lambda: tree.entries(),
            lambda: len(tree),
        ]
        for use in uses:
            with pytest.raises(thinmeta.DamagedBlockError) as caught:
                use()
            assert caught.value.block == at // BLOCK
            assert caught.value.check == "checksum"
        assert tree[29_997] == 29_997 * 7, "the rest can be read"

        def change() -> None:
            with store.transaction() as txn:
                txn.tree("t")[1] = 1

        with pytest.raises(thinmeta.DamagedBlockError):
            change()


# ---- writes that fail ----


FAILING = """
import array, resource, signal, sys
import thinmeta
from thinmeta.engine import Store

path, unlimited = sys.argv[1], resource.getrlimit(resource.RLIMIT_FSIZE)

def limit(bytes):
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes, unlimited[1]))

def refused(use):
    try:
        use()
    except thinmeta.PoisonedError as error:
        assert "reopened" in str(error), error
        return
    raise AssertionError("it went on")

store = Store.open(path)
with store.view() as view:
    before = view.tree("t").entries()
free = store.nr_free
try:
    with store.transaction() as txn:
        txn.tree("t").insert_many(*[array.array("Q", range(100_000, 120_000))] * 2)
        limit(4096)  # from here on the disk takes nothing
except (OSError, thinmeta.PoisonedError) as error:
    print(type(error).__name__)
else:
    raise AssertionError("the commit went well")
limit(unlimited[0])
refused(store.transaction)
refused(lambda: store.space)
with store.view() as view:  # what was committed can be read
    assert len(view.tree("t").entries()) == len(before)
store.close()
with Store.open(path, checked=True) as store:
    assert store.nr_free == free
    with store.transaction() as txn:
        assert len(txn.tree("t")) == len(before)
        txn.tree("t")[1] = 1
    with store.view() as view:
        assert len(view.tree("t")) == len(before) + 1
"""


def test_a_write_that_fails_poisons_until_the_store_is_opened_again(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FAILING, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout in ("PoisonedError\n", "OSError\n")


# ---- errors as values ----


def raised_by(use: Callable[[], object]) -> thinmeta.ThinmetaError:
    with pytest.raises(thinmeta.ThinmetaError) as caught:
        use()
    return caught.value


def test_errors_of_the_engine_survive_pickling(path: Path, tmp_path: Path) -> None:
    (tmp_path / "zero").write_bytes(bytes(1 << 16))
    with Store.open(path) as store, store.view() as view:
        tree = view.tree("t")
        raised = [
            raised_by(lambda: view.tree("nothing")),
            raised_by(lambda: tree[-1]),
            raised_by(tree.clear),
            raised_by(lambda: Store.open(path)),
            raised_by(lambda: Store.create(tmp_path / "x", size_bytes=1)),
            raised_by(lambda: Store.open(tmp_path / "zero")),
        ]
    raised.append(raised_by(lambda: Store.create(path)))
    raised.append(raised_by(store.view))
    for error in raised:
        for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
            assert type(again) is type(error)
            assert str(again) == str(error)
            assert vars(again) == vars(error)
    assert {type(error).__name__ for error in raised} == {
        "AlreadyFormattedError",
        "DeviceInUseError",
        "NoSpaceError",
        "NoSuchTreeError",
        "NotFormattedError",
        "ReadOnlyError",
        "UsageError",
    }
