"""Commands that change a pool do so once, whole, and say what they did."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import thinmeta
from command import ThinmetaCommand, as_json, fails
from corpus import Corpus
from model import PoolModel
from thinmeta.cli import lvm

#: Four devices that share blocks, and a metadata snapshot.
POOL = "pair-zeroing-2"
Copy = Callable[..., Path]


@pytest.fixture
def copied(corpus: Corpus, tmp_path: Path) -> Copy:
    """Makes copies of images, which may be changed."""

    def copy(image: str = POOL, name: str = "meta.img") -> Path:
        return Path(shutil.copyfile(corpus[image].meta, tmp_path / name))

    return copy


def listing(meta: Path) -> PoolModel:
    """What is in a pool; it has to be a sound one."""
    report = thinmeta.check(meta)
    assert report.is_clean, report.findings
    xml = bytearray()

    class Out:
        def write(self, part: bytes) -> int:
            xml.extend(part)
            return len(part)

    with thinmeta.open_pool(meta) as pool:
        thinmeta.dump(pool, Out())
    return PoolModel.from_xml(bytes(xml))


def held_root(meta: Path) -> int:
    with thinmeta.open_pool(meta) as pool:
        return pool.superblock.held_root


def says(run: "subprocess.CompletedProcess[str]", text: str) -> None:
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == text + "\n"


EVERY_CHANGE = [
    ["create", "META", "77"],
    ["snapshot", "META", "0", "77"],
    ["delete", "META", "0"],
    ["delete", "META", "3"],
    ["discard", "META", "0", "0", "50"],
    ["discard", "META", "2", "0", "18446744073709551615"],
    ["discard", "META", "2", "90", "90"],
    ["grow", "META", "--data-blocks", "20000", "--metadata-blocks", "2048"],
    ["set-transaction-id", "META", "0", "5"],
    ["release-snapshot", "META"],
    ["reserve-snapshot", "META"],
    ["edit", "META", "SCRIPT"],
]
SCRIPT = """
# a new origin for device 3
{"op": "create_snapshot", "device_id": 8, "origin_id": 3}
{"op": "delete", "device_id": 3}
{"op": "remove_range", "device_id": 8, "begin": 0, "end": 9}
{"op": "grow_metadata", "blocks": 4096}
"""


@pytest.mark.parametrize("words", EVERY_CHANGE, ids=" ".join)
def test_a_dry_run_changes_nothing_and_tells_what_will_be(
    command: ThinmetaCommand, copied: Copy, tmp_path: Path, words: list[str]
) -> None:
    # The other one holds a metadata snapshot, and there can be one only.
    meta = copied("pair-zeroing-1" if words[0] == "reserve-snapshot" else POOL)
    script = tmp_path / "script"
    script.write_text(SCRIPT)
    places = {"META": meta, "SCRIPT": script}
    line = [places.get(word, word) for word in words]
    before = meta.read_bytes()

    dry = as_json(command(*line, "--json", "--dry-run"))
    text = command(*line, "-n")
    assert (text.returncode, text.stderr) == (0, "")
    assert meta.read_bytes() == before
    wet = as_json(command(*line, "--json"))

    assert (dry.pop("dry_run"), wet.pop("dry_run")) == (True, False)
    assert dry == wet
    assert dry["command"] == words[0] and dry["metadata"] == str(meta)
    if words[2:] != ["2", "90", "90"]:
        assert text.stdout.startswith("would ")
        assert wet["before"] != wet["after"]
    listing(meta)


def test_the_json_is_the_pool_before_and_after(command: ThinmetaCommand, copied: Copy) -> None:
    meta = copied("pair-zeroing-1")
    with thinmeta.open_pool(meta) as pool:
        freed = pool.exclusive_blocks()[1][0]
        used = pool.data_space.allocated
    answer = as_json(command("delete", "--json", meta, "1"))
    assert (answer["devices_created"], answer["devices_deleted"]) == ([], [1])
    assert freed == 40
    assert answer["before"]["used_data_blocks"] == used
    assert answer["after"] == {
        "transaction_id": 0,
        "time": 1,
        "devices": 2,
        "mapped_blocks": 194,
        "mapped_bytes": 194 * 65536,
        "data_blocks": answer["before"]["data_blocks"],
        "data_bytes": answer["before"]["data_blocks"] * 65536,
        "used_data_blocks": used - freed,
        "used_data_bytes": (used - freed) * 65536,
        "metadata_blocks": answer["before"]["metadata_blocks"],
        "metadata_bytes": answer["before"]["metadata_blocks"] * 4096,
        "metadata_snapshot": None,
    }


def test_a_device_is_created(command: ThinmetaCommand, copied: Copy) -> None:
    meta = copied()
    before = listing(meta)
    says(command("create", "-n", meta, "16777215"), "would create thin device 16777215")
    says(command("create", meta, "16777215"), "created thin device 16777215")
    after = listing(meta)
    device = after.devices.pop(16777215)
    assert device.mappings == {}
    assert (device.creation_time, device.snapshotted_time) == (before.time, before.time)
    assert after == before


def test_a_snapshot_has_what_its_origin_has(command: ThinmetaCommand, copied: Copy) -> None:
    meta = copied()
    before = listing(meta)
    mappings = len(before.devices[2].mappings)
    says(
        command("snapshot", meta, "2", "9"),
        f"created thin device 9, a snapshot of thin device 2: {mappings} mappings shared",
    )
    after = listing(meta)
    assert after.devices[9].mappings == after.devices[2].mappings == before.devices[2].mappings
    assert after.time == before.time + 1 == after.devices[2].snapshotted_time


def test_a_device_is_deleted(command: ThinmetaCommand, copied: Copy) -> None:
    meta = copied("pair-zeroing-1")
    before = listing(meta)
    text = "thin device 1: 40 mappings removed, 40 data blocks freed (2.5 MiB)"
    says(command("delete", meta, "1", "--dry-run"), f"would delete {text}")
    says(command("delete", meta, "1"), f"deleted {text}")
    del before.devices[1]
    assert listing(meta) == before
    # The other two share all that they have.
    says(
        command("delete", meta, "0"),
        "deleted thin device 0: 97 mappings removed, 0 data blocks freed",
    )


def test_a_range_is_discarded(command: ThinmetaCommand, copied: Copy) -> None:
    meta = copied("pair-zeroing-1")
    before = listing(meta)
    mappings = before.devices[1].mappings
    end = sorted(mappings)[10]
    says(
        command("discard", meta, "1", "0", end),
        "removed 10 mappings of thin device 1: 10 data blocks freed (640 KiB)",
    )
    says(
        command("discard", meta, "1", "0", end),
        "nothing to remove: thin device 1 has nothing there",
    )
    for block in sorted(mappings)[:10]:
        del mappings[block]
    before.devices[1].mapped_blocks = len(mappings)
    assert listing(meta) == before


@pytest.mark.parametrize(
    ("first", "last", "begin", "end"),
    [
        ("0", "64K", 0, 1),
        ("1", "128K", 1, 2),
        ("1", "131071", 1, 1),
        ("1", "2", 0, 0),
        ("64KiB", "1MiB", 1, 16),
        ("8s", "384s", 1, 3),
        ("0", "9007199254740992", 0, 1 << 37),
    ],
)
def test_bytes_to_discard_are_whole_blocks(
    command: ThinmetaCommand, copied: Copy, first: str, last: str, begin: int, end: int
) -> None:
    meta = copied()
    before = listing(meta).devices[0].mappings
    answer = as_json(command("discard", "--bytes", "--json", meta, "0", first, last))
    assert (answer["begin_block"], answer["end_block"]) == (begin, end)
    left = {block: value for block, value in before.items() if not begin <= block < end}
    assert listing(meta).devices[0].mappings == left


def test_a_pool_grows(command: ThinmetaCommand, copied: Copy) -> None:
    meta = copied()
    with thinmeta.open_pool(meta) as pool:
        data, metadata = pool.data_space.blocks, pool.metadata_space.blocks
    assert meta.stat().st_size == metadata * 4096
    run = command("grow", meta, "--data-blocks", 4096, "--metadata-blocks", 4096)
    says(
        run,
        f"grew the metadata space from {metadata} to 4096 blocks (16 MiB)\n"
        f"grew the data space from {data} to 4096 blocks (256 MiB)",
    )
    with thinmeta.open_pool(meta) as pool:
        assert (pool.data_space.blocks, pool.metadata_space.blocks) == (4096, 4096)
    assert meta.stat().st_size == 4096 * 4096
    listing(meta)
    says(
        command("grow", meta, "--data-blocks", 4096),
        "nothing to grow: the data space has 4096 blocks (256 MiB) already",
    )
    for words in (("--data-blocks", 4095), ("--metadata-blocks", 4095)):
        run = command("grow", meta, *words)
        assert run.returncode == 2
        assert run.stderr.startswith("thinmeta: ") and run.stderr.count("\n") == 1


def test_a_dry_run_of_growth_leaves_the_file_as_long_as_it_was(
    command: ThinmetaCommand, copied: Copy
) -> None:
    meta = copied()
    size = meta.stat().st_size
    run = command("grow", "-n", meta, "--metadata-blocks", 100_000)
    assert run.stdout.startswith("would grow the metadata space from ")
    assert meta.stat().st_size == size


def test_the_transaction_id_is_set_by_who_knows_it(command: ThinmetaCommand, copied: Copy) -> None:
    meta = copied("transaction-id")
    now = listing(meta).transaction_id
    before = meta.read_bytes()
    run = command("set-transaction-id", meta, now + 1, now + 2)
    assert (run.returncode, run.stdout) == (1, "")
    assert meta.read_bytes() == before
    new = 2**64 - 1
    says(
        command("set-transaction-id", meta, now, new),
        f"set the transaction id from {now} to {new}",
    )
    assert listing(meta).transaction_id == new


def test_a_metadata_snapshot_is_reserved_and_released(
    command: ThinmetaCommand, copied: Copy
) -> None:
    meta = copied("pair-zeroing-1")
    fails(command("release-snapshot", meta), 1, "no metadata snapshot")
    before = meta.read_bytes()
    dry = command("reserve-snapshot", meta, "-n")
    assert meta.read_bytes() == before
    run = command("reserve-snapshot", meta)
    block = held_root(meta)
    assert block
    says(run, f"reserved a metadata snapshot at block {block}")
    says(dry, f"would reserve a metadata snapshot at block {block}")
    for more in ((), ("-n",)):
        fails(command("reserve-snapshot", meta, *more), 1, "snapshot")
    assert command("snapshot", meta, "0", "9").returncode == 0
    held = as_json(command("ls", "--json", "-m", meta))["devices"]
    assert [device["device_id"] for device in held] == [0, 1, 2]

    # What only the snapshot has comes free with it.
    says(
        command("delete", meta, "1"),
        "deleted thin device 1: 40 mappings removed, 0 data blocks freed",
    )
    says(
        command("release-snapshot", meta),
        f"released the metadata snapshot at block {block}: 40 data blocks freed (2.5 MiB)",
    )
    assert held_root(meta) == 0
    assert sorted(listing(meta).devices) == [0, 2, 9]


def new_pool(*more: object) -> list[object]:
    return ["create", "--pool", "--data-block-size=64K", "--data-blocks=1000", *more]


def test_a_pool_is_created(command: ThinmetaCommand, tmp_path: Path) -> None:
    meta = tmp_path / "new.img"
    words = new_pool("--metadata-blocks=512", meta)
    text = "a pool of 1000 data blocks of 64 KiB (62.5 MiB), with 512 metadata blocks (2 MiB)"
    says(command(*words, "--dry-run"), f"would create {text}")
    assert not meta.exists()
    says(command(*words), f"created {text}")
    assert meta.stat().st_size == 512 * 4096
    assert listing(meta) == PoolModel(data_block_size_sectors=128, nr_data_blocks=1000)

    before = meta.read_bytes()
    for more in ((), ("-n",)):
        fails(command(*words, *more), 1, "--overwrite replaces it")
    says(command("create", meta, "5"), "created thin device 5")
    says(command(*words, "-n", "--overwrite"), f"would create {text}")
    assert sorted(listing(meta).devices) == [5]
    assert as_json(command(*words, "--overwrite", "--json")) == {
        "metadata": str(meta),
        "command": "create",
        "dry_run": False,
        "data_block_size_bytes": 65536,
        "data_blocks": 1000,
        "data_bytes": 1000 * 65536,
        "metadata_blocks": 512,
        "metadata_bytes": 512 * 4096,
    }
    assert listing(meta) == PoolModel(data_block_size_sectors=128, nr_data_blocks=1000)
    assert len(before) == meta.stat().st_size


def test_the_size_of_a_new_pool_is_that_of_its_file(
    command: ThinmetaCommand, tmp_path: Path
) -> None:
    meta = tmp_path / "new.img"
    for more in ((), ("-n",)):
        fails(command(*new_pool(meta, *more)), 2, f"there is no file {meta}: --metadata-blocks")
        small = new_pool(meta, "--metadata-blocks=5", *more)
        fails(command(*small), 3, "metadata blocks")
        assert not meta.exists()
    with meta.open("wb") as file:
        file.truncate(300 * 4096)
    for more, verb in (("-n",), "would create"), ((), "created"):
        run = command(*new_pool(meta, *more))
        assert run.stdout.startswith(f"{verb} a pool of 1000 data blocks")
        assert "with 300 metadata blocks" in run.stdout
    listing(meta)


def test_what_is_there_is_not_taken_for_nothing(command: ThinmetaCommand, tmp_path: Path) -> None:
    meta = tmp_path / "precious"
    meta.write_bytes(b"not a pool at all" + bytes(1 << 20))
    before = meta.read_bytes()
    for more in ((), ("-n",), ("--json",)):
        fails(command(*new_pool(meta, *more)), 1, "--overwrite replaces it")
    assert meta.read_bytes() == before


@pytest.mark.parametrize("more", [(), ("--dry-run",), ("--json",)], ids=str)
def test_what_cannot_be_changed_is_left_as_it_was(
    command: ThinmetaCommand, copied: Copy, more: tuple[str, ...]
) -> None:
    meta = copied()
    before = meta.read_bytes()
    for words, text in (
        (("create", meta, 3), "a thin device 3 already"),
        (("snapshot", meta, 0, 3), "a thin device 3 already"),
        (("snapshot", meta, 77, 78), "no thin device 77"),
        (("delete", meta, 77), "no thin device 77"),
        (("discard", meta, 77, 0, 1), "no thin device 77"),
        (("set-transaction-id", meta, 1, 2), "transaction"),
        (("reserve-snapshot", meta), "snapshot"),
    ):
        fails(command(*words, *more), 1, text)
    assert meta.read_bytes() == before


def test_a_pool_marked_for_a_check_is_not_changed(command: ThinmetaCommand, copied: Copy) -> None:
    meta = copied("needs-check")
    before = meta.read_bytes()
    for words in (
        ("delete", meta, 0),
        ("reserve-snapshot", meta),
        ("grow", meta, "--data-blocks=1"),
    ):
        for more in ((), ("-n",)):
            fails(command(*words, *more), 1, f"{meta}: needs_check is set")
    assert meta.read_bytes() == before


def test_what_is_no_pool_or_not_there_is_not_changed(
    command: ThinmetaCommand, tmp_path: Path
) -> None:
    absent, empty = tmp_path / "absent", tmp_path / "zeros"
    empty.write_bytes(bytes(1 << 20))
    fails(command("create", absent, "1"), 3, f"{absent}: No such file or directory")
    fails(command("create", tmp_path, "1"), 3, f"{tmp_path}: Is a directory")
    fails(command("create", empty, "1"), 1, "not formatted")
    assert empty.read_bytes() == bytes(1 << 20)


def test_a_pool_that_somebody_has_open_is_not_changed(
    command: ThinmetaCommand, copied: Copy
) -> None:
    meta = copied()
    with thinmeta.open_pool(meta, mode="r+"):
        for more in ((), ("-n",)):
            fails(command("delete", meta, "0", *more), 3, f"{meta}: in use")
            fails(command(*new_pool(meta, "--overwrite", *more)), 3, f"{meta}: in use")
    assert command("delete", meta, "0").returncode == 0


# ---- LVM ----


@pytest.mark.parametrize(
    ("name", "is_so"),
    [
        ("pool_tmeta", True),
        ("vg-pool_tmeta", True),
        ("pool_tmeta0", True),
        ("pool_tmeta12", True),
        ("pool_tmeta.img", False),
        ("_tmeta", False),
        ("pool_tmeta_rimage_0", False),
        ("tmeta", False),
        ("pool_tdata", False),
        ("meta.img", False),
    ],
)
def test_the_metadata_of_lvm_is_known_by_its_name(tmp_path: Path, name: str, is_so: bool) -> None:
    path = tmp_path / name
    path.touch()
    link, other = tmp_path / "link", tmp_path / "other.img"
    link.symlink_to(path)
    assert lvm.is_of_lvm(str(path)) is lvm.is_of_lvm(str(link)) is is_so
    assert lvm.is_of_lvm(str(tmp_path / "absent" / name)) is is_so
    path.unlink()
    other.touch()
    path.symlink_to(other)
    assert lvm.is_of_lvm(str(path)) is is_so


def test_the_name_of_a_device_mapper_node_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dm-3" / "dm").mkdir(parents=True)
    (tmp_path / "dm-3" / "dm" / "name").write_text("vg-pool_tmeta\n")
    monkeypatch.setattr(lvm, "SYSFS", str(tmp_path))
    assert lvm.is_of_lvm("/dev/dm-3")
    assert not lvm.is_of_lvm("/dev/dm-4")


def test_a_change_of_a_pool_of_lvm_is_done_with_one_warning(
    command: ThinmetaCommand, copied: Copy
) -> None:
    meta = copied(name="vg-pool_tmeta")
    runs = [
        command("delete", meta, "3", "--dry-run"),
        command("delete", meta, "3"),
        command("reserve-snapshot", "-n", copied("empty", "empty_tmeta")),
        command(*new_pool("--overwrite", meta)),
    ]
    for run in runs:
        assert run.returncode == 0 and run.stdout
        assert run.stderr.startswith("thinmeta: warning: ")
        assert "LVM" in run.stderr and "docs/lvm.md" in run.stderr
        assert run.stderr.count("\n") == 1
    assert command("ls", meta).stderr.count("LVM") == 0
    failed = command("delete", meta, "3", "--json")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.count("LVM") == 1 and "no thin device 3" in failed.stderr


def test_a_report_that_cannot_be_printed_is_a_failure_of_its_own(
    command: ThinmetaCommand, copied: Copy
) -> None:
    meta = copied()
    with open("/dev/full", "wb") as full:
        run = subprocess.run(
            command.argv("delete", meta, 3), stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert run.returncode == 3
    why = b"No space left on device (the change of the pool was made)"
    assert run.stderr == b"thinmeta: standard output: " + why + b"\n"
    assert 3 not in listing(meta).devices


def test_a_dry_run_of_a_new_pool_asks_for_its_folder(
    command: ThinmetaCommand, tmp_path: Path
) -> None:
    sizes = ("--data-block-size", "64K", "--data-blocks", 10, "--metadata-blocks", 100)
    place = tmp_path / "none" / "meta"
    for more in ((), ("-n",)):
        done = command("create", "--pool", *sizes, *more, place)
        assert (done.returncode, done.stdout) == (3, "")
        assert "No such file or directory" in done.stderr
