"""Commands that make metadata anew: what they refuse, and how they say so."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import small_pools
import thinmeta
from command import ThinmetaCommand, as_json, fails
from corpus import Corpus
from loops import loop_device
from model import DeviceModel, PoolModel
from ondisk import BLOCK
from oracles import missing

TOO_LARGE = 1 << 32


@pytest.fixture
def lost(corpus: Corpus, tmp_path: Path) -> Path:
    """An image without its superblock."""
    image = tmp_path / "lost.img"
    content = corpus["random-60k"].meta.read_bytes()
    image.write_bytes(bytes([0xFF]) * BLOCK + content[BLOCK:])
    return image


@pytest.mark.parametrize("name", ["flags", "data_block_size"])
def test_numbers_that_are_too_large_are_refused(
    command: ThinmetaCommand, corpus: Corpus, tmp_path: Path, name: str
) -> None:
    xml, out = tmp_path / "pool.xml", tmp_path / "out"
    thinmeta.dump(corpus["random-60k"].meta, xml)
    fails(command("restore", xml, "-o", out, "--override", f"{name}={TOO_LARGE}"), 2, name)
    assert not out.exists()


def test_a_size_of_blocks_that_is_too_large_is_refused(
    command: ThinmetaCommand, lost: Path
) -> None:
    words = ("--data-block-size", TOO_LARGE, lost)
    fails(command("repair", "--plan", *words), 2, "data_block_size_sectors is 4294967296")
    fails(command("dump", "--repair", *words), 2, "data_block_size_sectors is 4294967296")


def test_flags_that_nobody_knows_are_refused(
    command: ThinmetaCommand, corpus: Corpus, tmp_path: Path
) -> None:
    xml, out = tmp_path / "pool.xml", tmp_path / "out"
    thinmeta.dump(corpus["random-60k"].meta, xml)
    for flags in (2, 7):
        ran = command("restore", xml, "-o", out, "--override", f"flags={flags}")
        fails(ran, 2, f"flags are {flags}; 0 and 1, needs_check, are known")
    assert command("restore", xml, "-o", out, "--override", "flags=1").returncode == 0
    with thinmeta.open_pool(out) as pool:
        assert pool.superblock.needs_check


def test_a_dump_without_the_superblock_can_be_told_the_size_of_blocks(
    command: ThinmetaCommand, corpus: Corpus, lost: Path
) -> None:
    # It is damage, and no mistake on the command line.
    fails(command("dump", "--repair", lost), 1, "say it with --data-block-size")
    fails(command("repair", "--plan", lost), 1, "say it with --data-block-size")
    words = ("--data-block-size", 128, "--nr-data-blocks", 77777, "--transaction-id", 9)
    ran = command("dump", "--repair", *words, lost)
    assert ran.returncode == 0, ran.stderr
    found = PoolModel.from_xml(ran.stdout.encode())
    assert (found.nr_data_blocks, found.transaction_id) == (77777, 9)
    truth = corpus["random-60k"].model
    assert found.devices[0].mappings == truth.devices[0].mappings
    fails(command("dump", *words, lost), 2, "are for --repair")


@pytest.fixture
def no_room(tmp_path: Path) -> Iterator[Path]:
    """A folder with room for nothing."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if mount is None or umount is None or os.geteuid() != 0:
        missing("root is needed to mount a small tmpfs")
    words = [mount, "-t", "tmpfs", "-o", "size=300k", "none", str(folder)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        missing("no tmpfs can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run([umount, str(folder)], check=True)


def test_a_full_folder_for_temporary_files_is_called_by_its_name(
    command: ThinmetaCommand,
    corpus: Corpus,
    tmp_path: Path,
    no_room: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    meta, xml, target = corpus["random-60k"].meta, tmp_path / "pool.xml", tmp_path / "target"
    thinmeta.dump(meta, xml)
    with target.open("wb") as file:
        file.truncate(16 << 20)
    damaged = tmp_path / "damaged.img"
    raw = bytearray(meta.read_bytes())
    raw[400] ^= 1  # the superblock's checksum
    damaged.write_bytes(raw)
    monkeypatch.setenv("TMPDIR", str(no_room))
    with loop_device(target) as device:
        for words in (
            ("restore", xml, "-o", device),
            ("repair", meta, "-o", device),
            ("thin_restore", "-i", xml, "-o", device),
            ("thin_repair", "-i", meta, "-o", device),
        ):
            ran = command(*words)
            assert ran.returncode in (1, 3), ran.stderr
            assert f"{no_room}/(temporary file)" in ran.stderr
            assert "No space left on device" in ran.stderr
            assert "set TMPDIR" in ran.stderr
            assert str(device) not in ran.stderr
    fails(command("dump", "--repair", "--data-block-size", 128, damaged), 3, "set TMPDIR")


@pytest.mark.parametrize(
    ("name", "status", "says"),
    [
        ("metadata-snap", 1, "holds a metadata snapshot, which new metadata would not have"),
        ("needs-check", 1, "needs_check is set, the pool may be damaged"),
    ],
)
def test_what_stands_in_the_way_is_said_in_the_words_of_the_command(
    command: ThinmetaCommand, corpus: Corpus, tmp_path: Path, name: str, status: int, says: str
) -> None:
    meta, out = corpus[name].meta, tmp_path / "out"
    fails(command("shrink", "--plan", meta), status, f"shrink: {meta}: ")
    fails(command("shrink", "--plan", meta), status, says)
    words = ("--no-copy", "--data-blocks", 100, "-o", out)
    fails(command("shrink", meta, *words), status, says)
    two = ("--origin", 0, "--snapshot", 1)
    fails(command("merge", meta, *two, "--plan"), status, f"merge: {meta}: ")
    fails(command("merge", meta, *two, "-o", out), status, says)
    assert not out.exists()


def test_an_output_in_use_is_not_to_be_read_through_a_snapshot(
    command: ThinmetaCommand, corpus: Corpus, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    with target.open("wb") as file:
        file.truncate(16 << 20)
    with loop_device(target) as device:
        held = os.open(device, os.O_RDONLY | os.O_EXCL)
        try:
            ran = command("repair", corpus["random-60k"].meta, "-o", device)
        finally:
            os.close(held)
    fails(ran, 3, "is held by a live pool, a mount or another program")
    assert "snapshot" not in ran.stderr


def strangers(folder: Path) -> Path:
    """Devices 1 and 2 have nothing in common, 3 is a snapshot of 1."""
    pool = PoolModel(nr_data_blocks=100, time=1)
    for device_id, data in ((1, 10), (2, 20), (3, 10)):
        pool.devices[device_id] = DeviceModel(device_id, mappings={0: (data, 0)})
    small_pools.make(pool, folder / "meta")
    return folder / "meta"


def test_a_merge_of_strangers_is_warned_of(command: ThinmetaCommand, tmp_path: Path) -> None:
    meta, out = strangers(tmp_path), tmp_path / "out"
    warning = "devices 1 and 2 have no block in common"
    for rest in (("--plan",), ("-o", out), ("--plan", "--json")):
        ran = command("merge", meta, "--origin", 1, "--snapshot", 2, *rest)
        assert ran.returncode == 0
        assert warning in ran.stderr
        quiet = command("merge", meta, "--origin", 1, "--snapshot", 3, *rest)
        assert (quiet.returncode, quiet.stderr) == (0, "")
    # One laid over the other as its external origin never has.
    laid = ("--origin", 1, "--snapshot", 2, "--overlay", "--plan", "--json")
    assert command("merge", meta, *laid).stderr == ""
    assert as_json(command("merge", meta, *laid))["common_blocks"] == 0


def test_a_folder_in_the_place_of_the_notes_is_called_by_its_name(
    command: ThinmetaCommand, tmp_path: Path
) -> None:
    pool = PoolModel(nr_data_blocks=100)
    pool.devices[1] = DeviceModel(1, mappings={0: (90, 0)})
    meta, data, out = tmp_path / "meta", tmp_path / "data", tmp_path / "new"
    small_pools.make(pool, meta)
    small_pools.make_data(pool, data)
    (tmp_path / "new.shrink").mkdir()
    ran = command("shrink", meta, "--data", data, "--data-blocks", 50, "-o", out)
    fails(ran, 2, f"{tmp_path}/new.shrink is not what a shrink notes down")


def test_a_region_with_a_number_that_is_too_large_is_told_why(
    command: ThinmetaCommand, corpus: Corpus
) -> None:
    ran = command("rmap", "--region", f"0..{'9' * 23}", corpus["random-60k"].meta)
    fails(ran, 2, "--region must be below 2^64")


def test_buffers_cannot_be_empty(command: ThinmetaCommand, corpus: Corpus, tmp_path: Path) -> None:
    pair = corpus["pair-zeroing-2"]
    words = ("--data", pair.data, "--buffer-size", 0)
    fails(command("migrate", pair.meta, 0, *words, tmp_path / "out"), 2, "cannot be empty")
    more = ("--family", "all", tmp_path / "meta", "--dest-data", tmp_path / "data")
    fails(command("migrate", pair.meta, *words, *more), 2, "cannot be empty")


def test_a_journal_is_refused_where_the_pool_has_it(
    command: ThinmetaCommand, corpus: Corpus, tmp_path: Path
) -> None:
    pair = corpus["pair-zeroing-2"]
    words = ("--data", pair.data, tmp_path / "meta", 7, "--dest-data", tmp_path / "data")
    ran = command("migrate", pair.meta, 0, *words, "--journal", "/nonexist")
    fails(ran, 2, "--journal: changes of a pool's volume are gathered in the pool")
