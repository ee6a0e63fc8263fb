"""Keys of encrypted repositories: files, commands, the environment."""

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from backups import World
from command import ThinmetaCommand, as_json, fails
from thinmeta.backup import Repository
from thinmeta.backup.keys import key_from_command, key_from_file, new_key, write_key_file
from thinmeta.errors import RepositoryKeyError, UsageError

KEY = bytes(range(32))
LINE = KEY.hex()


def test_a_key_file_is_a_line_for_its_owner(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_key_file(tmp_path / "key", KEY)
    finally:
        os.umask(before)
    assert (tmp_path / "key").read_text() == LINE + "\n"
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert key_from_file(tmp_path / "key") == KEY
    with pytest.raises(FileExistsError):
        write_key_file(tmp_path / "key", new_key())
    assert key_from_file(tmp_path / "key") == KEY
    assert len({new_key() for _ in range(10)}) == 10 and len(new_key()) == 32


@pytest.mark.parametrize("text", [LINE, LINE.upper(), f"  {LINE}\r\n", f"{LINE}\n\n"])
def test_space_and_case_do_not_matter(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    assert key_from_file(tmp_path / "key") == KEY
    assert key_from_command(f"cat '{tmp_path}/key'") == KEY


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        LINE[:-1],
        LINE + "0",
        f"{LINE}\n{LINE}",
        f"key {LINE}",
        "correct horse",
        "g" * 64,
        " " * 5000 + LINE,
        LINE[:32] + " " + LINE[32:],
    ],
)
def test_anything_else_is_no_key(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    with pytest.raises(RepositoryKeyError, match="64 hexadecimal digits"):
        key_from_file(tmp_path / "key")
    with pytest.raises(RepositoryKeyError, match="64 hexadecimal digits"):
        key_from_command(f"cat '{tmp_path}/key'")


def test_a_pipe_is_as_good_as_a_file() -> None:
    """What bash makes of ``--key-file <(pass show web)``."""
    with subprocess.Popen(["sh", "-c", f"sleep 0.1; echo {LINE}"], stdout=subprocess.PIPE) as slow:
        assert slow.stdout is not None
        assert key_from_file(f"/dev/fd/{slow.stdout.fileno()}") == KEY


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(RepositoryKeyError, match="No such file"):
        key_from_file(tmp_path / "nothing")
    with pytest.raises(RepositoryKeyError, match="directory"):
        key_from_file(tmp_path)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("", "is empty"),
        ("'unbalanced", "it is none: No closing quotation"),
        ("no-such-program-at-all", "cannot be run: No such file"),
        ("false", "ended with status 1"),
        (f"sh -c 'echo {LINE}; exit 3'", "ended with status 3"),
        ("sh -c 'kill -9 $$'", "ended with signal 9"),
        ("yes", "ended with signal 13|64 hexadecimal digits"),
    ],
)
def test_a_command_that_gives_no_key(command: str, words: str) -> None:
    with pytest.raises(RepositoryKeyError, match=words):
        key_from_command(command)


def test_a_key_that_others_can_read_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_key_file(tmp_path / "key", KEY)
    key_from_file(tmp_path / "key")
    assert not caplog.records
    (tmp_path / "key").chmod(0o644)
    assert key_from_file(tmp_path / "key") == KEY
    assert "chmod 600" in caplog.text


# ---- the command line ----


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, Path, int]:
    with World(tmp_path, 1, mib=4) as world:
        world.write(0, world.random.randbytes(1 << 20))
        made = *world.paths, world.snapshot()
        (tmp_path / "content").write_bytes(world.shown())
    return made


def create(
    command: ThinmetaCommand, images: tuple[Path, Path, int], repo: Path, *words: object
) -> subprocess.CompletedProcess[str]:
    metadata, data, snapshot = images
    return command("backup", "create", repo, metadata, snapshot, "--data", data, *words)


def test_all_commands_take_the_key(
    command: ThinmetaCommand,
    images: tuple[Path, Path, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key, repo, out = tmp_path / "key", tmp_path / "repo", tmp_path / "out"
    assert "a new key; keep a copy" in command("backup", "key", key).stdout
    again = command("backup", "key", key)
    fails(again, 1, "is there already")
    assert "overwrite" not in again.stderr
    printed = command("backup", "key", "-").stdout
    assert re.fullmatch(r"[0-9a-f]{64}\n", printed) and printed != key.read_text()
    given = "--key-file", key
    assert "an empty, encrypted repository" in command("backup", "init", repo, *given).stdout
    assert create(command, images, repo, *given, "--size", "4M").returncode == 0
    (made,) = as_json(command("backup", "list", "--json", repo, *given))["generations"]
    for words in (
        ("restore", repo, "latest", out),
        ("verify", repo),
        ("verify", repo, "--quick"),
        ("prune", repo, "--keep-last", 1),
        ("unlock", repo),
    ):
        fails(command("backup", *words), 1, "it is encrypted: --key-file")
        assert command("backup", *words, "--key-command", f"cat {key}").returncode == 0
    assert out.read_bytes() == (tmp_path / "content").read_bytes()
    monkeypatch.setenv("THINMETA_KEY_FILE", str(key))
    assert made["name"] in command("backup", "list", repo).stdout
    fails(command("backup", "init", repo, "--repair"), 1, "config.json is sound")
    (repo / "config.json").unlink()
    fails(command("backup", "list", repo), 1, "init --repair")
    assert "made anew" in command("backup", "init", repo, "--repair").stdout
    assert made["name"] in command("backup", "list", repo).stdout


def test_the_wrong_key_and_one_too_many(
    command: ThinmetaCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_key_file(tmp_path / "key", KEY)
    write_key_file(tmp_path / "other", new_key())
    Repository.init(tmp_path / "repo", key=KEY)
    Repository.init(tmp_path / "open")
    both = "--key-file", tmp_path / "key", "--key-command", f"cat {tmp_path / 'key'}"
    fails(command("backup", "list", tmp_path / "repo", *both), 2, "one of them")
    wrong = command("backup", "list", tmp_path / "repo", "--key-file", tmp_path / "other")
    fails(wrong, 1, "the key of another repository")
    fails(command("backup", "list", tmp_path / "open", *both[:2]), 1, "not encrypted")
    monkeypatch.setenv("THINMETA_KEY_COMMAND", f"cat {tmp_path / 'other'}")
    fails(command("backup", "list", tmp_path / "repo"), 1, "that of THINMETA_KEY_COMMAND")
    # What the command line says counts more than the environment.
    assert command("backup", "list", tmp_path / "repo", *both[:2]).returncode == 0
    monkeypatch.setenv("THINMETA_KEY_FILE", str(tmp_path / "key"))
    fails(command("backup", "list", tmp_path / "repo"), 2, "one of them")
    monkeypatch.delenv("THINMETA_KEY_COMMAND")
    assert command("backup", "list", tmp_path / "repo").returncode == 0
    # Set and empty is a mistake in a unit file, and no wish to have it written in clear.
    monkeypatch.setenv("THINMETA_KEY_FILE", "")
    fails(command("backup", "init", tmp_path / "clear"), 2, "is set, and empty")
    assert not (tmp_path / "clear").exists()
    assert Repository.open(tmp_path / "repo", key=KEY).generations() == []


def test_no_key_is_ever_printed(command: ThinmetaCommand, tmp_path: Path) -> None:
    write_key_file(tmp_path / "key", KEY)
    Repository.init(tmp_path / "repo", key=KEY)
    for words in (["list"], ["verify", "-v"], ["verify", "--json"], ["unlock"]):
        run = command("backup", *words, tmp_path / "repo", "--key-file", tmp_path / "key")
        assert run.returncode == 0 and LINE not in run.stdout + run.stderr
    half = tmp_path / "half"
    half.write_text(LINE[:-2])
    run = command("backup", "list", tmp_path / "repo", "--key-file", half)
    assert run.returncode == 1 and LINE[:20] not in run.stdout + run.stderr


def test_a_failure_is_an_event(command: ThinmetaCommand, tmp_path: Path) -> None:
    Repository.init(tmp_path / "repo", key=KEY)
    run = command("backup", "verify", "--json", tmp_path / "repo")
    assert run.returncode == 1 and run.stderr.count("\n") == 1
    event = json.loads(run.stdout)
    assert event["event"] == "error" and event["type"] == "RepositoryKeyError"
    assert event["exit_status"] == 1 and "it is encrypted" in event["message"]
    assert event["command"] == "verify"


def test_without_the_package_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Repository.init(tmp_path / "repo", key=KEY)
    for name in list(sys.modules):
        if name.split(".")[0] == "cryptography":
            monkeypatch.setitem(sys.modules, name, None)
    for make in (Repository.init, Repository.open):
        with pytest.raises(UsageError, match=r"pip install 'thinmeta\[encryption\]'"):
            make(tmp_path / "repo", key=KEY)
    with pytest.raises(UsageError, match="cryptography"):
        Repository.init(tmp_path / "new", key=KEY)
    assert not (tmp_path / "new").exists()
    # One that is not encrypted needs nothing.
    Repository.open(Repository.init(tmp_path / "open").address)
