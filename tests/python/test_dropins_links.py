"""The drop-ins as programs: by name, by links of their names, and how they end."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from command import ThinmetaCommand, fails
from corpus import Corpus
from thinmeta.cli.dropins import NAMES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "bin"
    made.mkdir()
    return made


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_links_of_every_name_are_made_and_removed(command: ThinmetaCommand, folder: Path) -> None:
    dry = command("install-links", "--dry-run", folder)
    assert (dry.returncode, names(folder)) == (0, [])
    made = command("install-links", folder)
    assert made.returncode == 0
    assert names(folder) == sorted(NAMES)
    assert dry.stdout == made.stdout.replace("linked ", "would link ")
    for name in NAMES:
        assert (folder / name).readlink() == command.program
        assert f"linked {folder / name} -> {command.program}\n" in made.stdout
    # Once more: there is nothing to be done.
    assert command("install-links", folder).stdout == ""

    dry = command("install-links", "-n", "--remove", folder)
    assert (dry.returncode, names(folder)) == (0, sorted(NAMES))
    gone = command("install-links", "--remove", folder)
    assert (gone.returncode, names(folder)) == (0, [])
    assert dry.stdout == gone.stdout.replace("removed ", "would remove ")
    assert command("install-links", "--remove", folder).stdout == ""


def test_a_link_to_another_installation_of_ours_is_replaced(
    command: ThinmetaCommand, folder: Path
) -> None:
    (folder / "thin_ls").symlink_to("/nowhere/thinmeta")
    assert command("install-links", folder).returncode == 0
    assert (folder / "thin_ls").readlink() == command.program
    assert names(folder) == sorted(NAMES)


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_not_ours_stays(command: ThinmetaCommand, folder: Path, kind: str) -> None:
    path = folder / "thin_dump"
    if kind == "file":
        path.write_text("the peer's\n")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/usr/sbin/pdata_tools")
    # All but when it was last read, which looking at it changes.
    before = os.lstat(path)[:7]
    for option in ([], ["--dry-run"]):
        fails(command("install-links", *option, folder), 2, "no link to thinmeta")
        assert names(folder) == ["thin_dump"]
    assert command("install-links", "--remove", folder).returncode == 0
    assert os.lstat(path)[:7] == before


def test_a_folder_has_to_be_there(command: ThinmetaCommand, tmp_path: Path) -> None:
    fails(command("install-links", tmp_path / "none"), 3, "none: No such file")
    fails(command("install-links"), 2, "DIR is missing")


def test_only_an_installed_program_can_be_linked_to(folder: Path) -> None:
    argv = [sys.executable, "-m", "thinmeta", "install-links", str(folder)]
    run = subprocess.run(argv, capture_output=True, text=True, check=False)
    fails(run, 2, "call the installed program")
    assert names(folder) == []


def test_a_link_does_what_the_name_does(
    command: ThinmetaCommand, corpus: Corpus, folder: Path
) -> None:
    command("install-links", folder).check_returncode()
    meta = corpus["pair-zeroing-2"].meta
    for words in (["thin_ls"], ["thin_dump", "-m"], ["thin_check"], ["thin_check", "-q"]):
        argv = [str(folder / words[0]), *words[1:], str(meta)]
        linked = subprocess.run(argv, capture_output=True, text=True, check=False)
        named = command(*words, meta)
        assert (linked.returncode, linked.stdout) == (named.returncode, named.stdout)
        assert linked.returncode == 0
    assert subprocess.run([folder / "thin_ls", "-V"], capture_output=True).stdout == b"1.1.0\n"
    fails(command("thin_nothing"), 2, "there is no command 'thin_nothing'")


def test_the_wheel_installs_one_program(command: ThinmetaCommand) -> None:
    for name in NAMES:
        assert not command.program.with_name(name).exists()


def test_with_nothing_to_clear_nothing_is_written(
    command: ThinmetaCommand, corpus: Corpus, tmp_path: Path
) -> None:
    """What LVM calls at every activation; a read-only file will do."""
    meta = tmp_path / "meta.img"
    shutil.copyfile(corpus["snap-chain"].meta, meta)
    meta.chmod(0o444)
    before = meta.read_bytes(), meta.stat().st_mtime_ns
    run = command("thin_check", "-q", "--clear-needs-check-flag", meta)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert (meta.read_bytes(), meta.stat().st_mtime_ns) == before


@pytest.mark.parametrize("options", [[], ["-q"], ["--skip-mappings"], ["--super-block-only"]])
def test_the_mark_is_cleared_and_nothing_else_changes(
    command: ThinmetaCommand, corpus: Corpus, tmp_path: Path, options: list[str]
) -> None:
    meta = tmp_path / "meta.img"
    shutil.copyfile(corpus["needs-check"].meta, meta)
    before = meta.read_bytes()
    run = command("thin_check", "--clear-needs-check-flag", *options, meta)
    assert run.returncode == 0
    assert ("cleared needs_check" in run.stderr) == ("-q" not in options)
    after = meta.read_bytes()
    assert (before[4], after[4]) == (1, 0)
    assert {at for at in range(len(after)) if after[at] != before[at]} <= {0, 1, 2, 3, 4}
    again = command("thin_check", "--clear-needs-check-flag", meta)
    assert (again.returncode, again.stderr) == (0, "")


def test_the_mark_stays_while_something_is_wrong(
    command: ThinmetaCommand, corpus: Corpus, tmp_path: Path
) -> None:
    meta = tmp_path / "meta.img"
    shutil.copyfile(corpus["metadata-full"].meta, meta)
    before = meta.read_bytes()
    run = command("thin_check", "--clear-needs-check-flag", meta)
    assert (run.returncode, meta.read_bytes()) == (1, before)
    assert "needs_check was not cleared" in run.stderr
    options = ["--clear-needs-check-flag", "--ignore-non-fatal-errors"]
    assert command("thin_check", *options, meta).returncode == 0
    assert meta.read_bytes()[4] == 0


def test_the_mark_stays_where_it_cannot_be_written(
    command: ThinmetaCommand, corpus: Corpus, tmp_path: Path
) -> None:
    """Somebody else reads it: nobody may write."""
    import fcntl

    meta = tmp_path / "meta.img"
    shutil.copyfile(corpus["needs-check"].meta, meta)
    before = meta.read_bytes()
    with meta.open("rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        run = command("thin_check", "--clear-needs-check-flag", meta)
    assert (run.returncode, meta.read_bytes()) == (1, before)
    assert "thinmeta: " in run.stderr


def test_a_reader_that_goes_away_and_a_disk_that_is_full_are_failures(
    command: ThinmetaCommand, corpus: Corpus
) -> None:
    meta = corpus["random-60k"].meta
    for words in (["thin_dump"], ["thin_delta", "--thin1", "0", "--thin2", "0"]):
        with open("/dev/full", "wb") as full:
            argv = command.argv(*words, meta)
            run = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, check=False)
        assert (run.returncode, run.stderr.count(b"\n")) == (1, 1)
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer, "wb") as out:
            run = subprocess.run(argv, stdout=out, stderr=subprocess.PIPE, check=False)
        assert (run.returncode, run.stderr) == (1, b"")
