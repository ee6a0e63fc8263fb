"""The examples run as their texts say, and what they claim is so."""

import hashlib
import lzma
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import thinmeta
from corpus import Corpus
from oracles import ThinTools, find, require_module
from thinmeta.engine import Store

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"


def run(program: str, *args: object) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / program), *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def ext4_pool(tmp_path: Path) -> tuple[Path, Path]:
    for image in ("metadata.img", "data.img"):
        packed = (EXAMPLES / "ext4-pool" / f"{image}.xz").read_bytes()
        (tmp_path / image).write_bytes(lzma.decompress(packed))
    return tmp_path / "metadata.img", tmp_path / "data.img"


def test_the_demo_proves_what_it_says(corpus: Corpus) -> None:
    out = run("demo.py")

    assert out.count("They are the same.") == 5
    assert out.count("$ thinmeta ") == 14
    assert re.search(r"volume 7, what was written: +written without a kernel", out)
    assert out.count(corpus["pair-zeroing-2"].facts["kernel_reported"]["contents"]["0"]) == 5
    written = re.search(r"([\d,]+) blocks of the file were written before it died", out)
    assert written is not None and int(written[1].replace(",", "")) > 100
    assert "100,000 squares: the last commit, whole" in out
    assert re.search(r"00000002-\w+: 2.4 MiB read since generation 1, 2.4 MiB new", out)
    assert "CLEAN: 2 generations can be restored" in out
    assert max(map(len, out.splitlines())) <= 110


def test_the_demo_s_pool_is_the_kernel_s(corpus: Corpus) -> None:
    images = corpus["pair-zeroing-2"].facts["images"]
    for name, part in [("metadata", "meta"), ("data", "data")]:
        content = lzma.decompress((EXAMPLES / "pool" / f"{name}.img.xz").read_bytes())
        assert hashlib.sha256(content).hexdigest() == images[part]["sha256"]


def test_an_incremental_backup_reads_what_changed_and_ends_with_the_new_content(
    corpus: Corpus, tmp_path: Path
) -> None:
    """The two stages of a pool that a kernel wrote, one after the other in the same files."""
    repository, copy = tmp_path / "repository", tmp_path / "copy.img"
    pool = tmp_path / "metadata.img", tmp_path / "data.img"
    read = {}
    for stage, device in (("pair-zeroing-1", 2), ("pair-zeroing-2", 0), ("pair-zeroing-2", 3)):
        image = corpus[stage]
        pool[0].write_bytes(image.meta.read_bytes())
        pool[1].write_bytes(image.data.read_bytes())
        reported = image.facts["kernel_reported"]
        size = reported["devices"][str(device)]["sectors"] * 512

        out = run("incremental_backup.py", repository, *pool, device, size, copy)

        digest = hashlib.sha256(copy.read_bytes()).hexdigest()
        assert digest == reported["contents"][str(device)]
        read[device] = int(out.split()[1])
        if device != 2:
            changed = sum(
                row.length for row in image.model.delta(2, device) if row.kind != "left_only"
            )
            assert read[device] <= changed * 65536 < read[2]
    code = (EXAMPLES / "incremental_backup.py").read_text().splitlines()
    assert len(code) <= 40


def test_a_file_is_read_out_of_an_ext4_volume(ext4_pool: tuple[Path, Path]) -> None:
    assert "inside-a-pool" in run("read_file_system.py", *ext4_pool, 1)
    assert run("read_file_system.py", *ext4_pool, 1, "hello.txt").startswith("Hello from inside")
    story = run("read_file_system.py", *ext4_pool, 1, "story.txt").splitlines()
    assert len(story) == 40_000
    assert story[31_415].startswith("line 31416 of a file")


def test_the_ext4_volume_is_a_sound_file_system(
    ext4_pool: tuple[Path, Path], tmp_path: Path
) -> None:
    e2fsck = find("e2fsck")
    if e2fsck is None:
        pytest.skip("e2fsck is not installed")
    whole = tmp_path / "fs.img"
    with thinmeta.open_pool(ext4_pool[0], data=ext4_pool[1]) as pool:
        with pool.devices[1].open(size_bytes=8 << 20) as volume:
            whole.write_bytes(volume.read())
    subprocess.run([e2fsck, "-f", "-n", os.fspath(whole)], check=True, capture_output=True)


def test_a_pool_is_made_of_disk_images(tmp_path: Path, thin_tools: ThinTools) -> None:
    one = b"a" * 70_000 + bytes(200_000) + b"b" * 65_536 + bytes(10)
    two = bytes(1 << 20) + b"c"
    for name, content in (("one", one), ("two", two)):
        (tmp_path / name).write_bytes(content)
    pool = tmp_path / "meta", tmp_path / "data"
    out = run("import_images.py", *pool, tmp_path / "one", tmp_path / "two")

    assert out.splitlines() == [
        "one: volume 1, 4 blocks, snapshot 1001",
        "two: volume 2, 1 blocks, snapshot 1002",
    ]
    assert thin_tools.check(pool[0]) == 0
    with thinmeta.open_pool(pool[0], data=pool[1]) as opened:
        assert list(opened.devices) == [1, 2, 1001, 1002]
        for device_id, content in ((1, one), (2, two), (1001, one), (1002, two)):
            with opened.devices[device_id].open(size_bytes=len(content)) as volume:
                assert volume.readall() == content


def test_a_store_keeps_what_each_run_found(tmp_path: Path) -> None:
    store, folder = tmp_path / "s.img", tmp_path / "folder"
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / name).write_text(name)
    first = run("store.py", store, folder)
    # Written before another is removed: no inode number is used again.
    (folder / "d").write_text("d")
    (folder / "a").write_text("longer")
    (folder / "b").unlink()
    second = run("store.py", store, folder)
    third = run("store.py", store, folder)

    assert first.startswith("3 entries; 3 new, 0 changed, 0 gone\n1 runs kept in ")
    assert second.startswith("3 entries; 1 new, 1 changed, 1 gone\n2 runs kept in ")
    assert third.startswith("3 entries; 0 new, 0 changed, 0 gone\n3 runs kept in ")
    with Store.open(store, mode="r") as opened, opened.view() as view:
        assert view.names() == ["now", "run 000000", "run 000001", "run 000002"]
        assert [len(view.tree(name)) for name in view.names()] == [3, 0, 3, 3]
        assert sorted(view.tree("run 000001").values()) == [1, 1, 1]
        assert sorted(view.tree("now").values()) == [1, 1, 6]


def test_polars_answers(corpus: Corpus) -> None:
    require_module("polars")
    out = run("to_polars.py", corpus["pair-zeroing-2"].meta, 2, 3)

    assert "changed" in out
    assert "right_only" in out
    assert "same" in out
