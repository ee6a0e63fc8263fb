"""``thinmeta backup`` as a user runs it."""

import hashlib
import json
import lzma
import os
import re
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import thinmeta
from backups import UNIT, VOLUME, World
from command import ThinmetaCommand, as_json, fails

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path, 1, mib=4) as made:
        made.write(0, made.random.randbytes(20 * UNIT))
        yield made


class Backup:
    """The command on the images of a world, which has to let go of its pool."""

    def __init__(self, command: ThinmetaCommand, folder: Path) -> None:
        self.command, self.repo = command, folder / "repo"
        self.images = folder / "meta.img", folder / "data.img"

    def __call__(self, name: str, *words: object) -> subprocess.CompletedProcess[str]:
        return self.command("backup", name, self.repo, *words)

    def create(self, device_id: int, *words: object) -> subprocess.CompletedProcess[str]:
        metadata, data = self.images
        return self("create", metadata, device_id, "--data", data, "--size", "4M", *words)


@pytest.fixture
def backup(command: ThinmetaCommand, tmp_path: Path) -> Backup:
    return Backup(command, tmp_path)


def events(run: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.stdout.splitlines()]


def done(run: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    last = events(run)[-1]
    assert last["event"] == "done"
    return last


def test_from_the_first_backup_to_the_last(world: World, backup: Backup, tmp_path: Path) -> None:
    assert "an empty repository" in backup("init").stdout
    first = world.snapshot()
    content = world.shown()
    world.write(3 * UNIT, b"changed")
    second = world.snapshot()
    world.pool.close()
    run = backup.create(first)
    assert run.returncode == 0 and "1.2 MiB read, 1.2 MiB new" in run.stdout
    run = backup.create(second, "--dry-run")
    assert re.match(r"would read 64 KiB of 4 MiB: since 00000001-\w{16}\n", run.stdout)
    # The same file is the same pool, and so it is known what has not changed.
    run = backup.create(second, "-v")
    assert re.match(r"00000002-\w+: 64 KiB read since generation 1, 64 KiB new", run.stdout)
    assert "reading 65536 of 4194304 bytes" in run.stderr
    table = backup("list").stdout.splitlines()
    assert len(table) == 3 and table[0].split()[0] == "GENERATION"
    assert table[2].split()[-1] == "1"

    target = tmp_path / "out.img"
    assert "4 MiB, of which 1.2 MiB are not zeros" in backup("restore", 1, target).stdout
    assert target.read_bytes() == content
    fails(backup("restore", "latest", target), 1, "there is a file already; --overwrite")
    assert backup("restore", "latest", target, "--overwrite").returncode == 0
    assert target.read_bytes() == world.shown()

    assert backup("verify").stdout.startswith("CLEAN: 2 generations can be restored (")
    assert "would delete 1 generation, 1 stay" in backup("prune", "--keep-last=1", "-n").stdout
    assert len(backup("list").stdout.splitlines()) == 3
    assert "deleted 1 generation, 1 stay" in backup("prune", "--keep-last", 1).stdout
    assert len(backup("list").stdout.splitlines()) == 2
    assert backup("restore", 2, target, "--overwrite").returncode == 0
    assert target.read_bytes() == world.shown()
    assert backup("unlock").stdout == "no marks of anybody who may be dead\n"


def test_programs_are_told_by_events(world: World, backup: Backup, tmp_path: Path) -> None:
    assert done(backup("init", "--json"))["repository"] == str(backup.repo)
    first = world.snapshot()
    world.pool.close()
    looked = done(backup.create(first, "--json", "-n", "--volume", "web"))
    assert (looked["dry_run"], looked["read_bytes"]) == (True, 20 * UNIT)
    run = backup.create(first, "--json", "--volume", "web")
    shown = [event for event in events(run) if event["event"] == "progress"]
    assert shown and all(0 <= each["done_bytes"] <= each["total_bytes"] for each in shown)
    assert {"bytes_per_second", "remaining_seconds"} <= set(shown[0])
    made = done(run)
    assert made["volume"] == "web" and made["base"] is None and made["read_bytes"] == 20 * UNIT
    assert made["identity"]["device_id"] == first and "segments" not in made

    listed = as_json(backup("list", "--json"))
    assert [each["name"] for each in listed["generations"]] == [made["name"]]
    assert as_json(backup("list", "--json", "--volume", "other"))["generations"] == []
    restored = done(backup("restore", "latest", tmp_path / "x", "--json"))
    assert restored["generation"] == made["name"] and restored["size_bytes"] == 4 << 20
    verified = done(backup("verify", "--json"))
    assert verified["clean"] and verified["generations"][0]["restorable"]
    pruned = done(backup("prune", "--keep-last", 1, "--json"))
    assert pruned["kept"] == [made["name"]] and pruned["deleted"] == []
    assert done(backup("unlock", "--json"))["marks"] == []


def test_damage_is_told_and_sets_the_exit_status(
    world: World, backup: Backup, tmp_path: Path
) -> None:
    backup("init")
    first = world.snapshot()
    world.pool.close()
    backup.create(first)
    (pack,) = [each for each in (backup.repo / "packs").rglob("*") if each.is_file()]
    data = bytearray(pack.read_bytes())
    data[100] ^= 1
    pack.write_bytes(data)
    run = backup("verify")
    assert run.returncode == 1
    name = f"packs/{pack.parent.name}/{pack.name}"
    assert run.stdout.splitlines()[0] == f"{name}: 1 of 20 pieces are damaged"
    assert "64 KiB are lost: bytes 0 to 65536" in run.stdout.splitlines()[1]
    assert run.stdout.splitlines()[2].startswith("DAMAGED: 1 object; 0 of 1 generations")
    assert done(backup("verify", "--json", "--mend"))["generations"][0]["lost_bytes"] == UNIT
    run = backup("restore", "latest", tmp_path / "out")
    assert run.returncode == 1 and not (tmp_path / "out").exists()
    assert "0 of 1 generations have all their objects" in run.stderr
    # What --mend has noted is stored again, and that mends the old generation.
    assert "64 KiB new" not in backup.create(first).stdout
    assert "1.2 MiB new" in backup.create(first, "--full").stdout
    assert backup("restore", 1, tmp_path / "out").returncode == 0
    assert (tmp_path / "out").read_bytes() == world.shown()


def test_into_a_volume_of_a_pool(world: World, backup: Backup) -> None:
    backup("init")
    first = world.snapshot()
    world.pool.close()
    backup.create(first)
    metadata, data = backup.images
    run = backup("restore", 1, metadata, 99, "--data", data)
    assert f"device 99 of {metadata}: 00000001" in run.stdout
    with thinmeta.open_pool(metadata, data=data) as pool:
        with pool.devices[99].open(size_bytes=4 << 20) as volume:
            assert volume.readall() == world.shown()


def test_a_volume_that_is_written_proves_nothing_and_that_is_said(
    world: World, backup: Backup
) -> None:
    backup("init")
    first = world.snapshot()
    world.write(5, b"x")
    world.pool.close()
    assert backup.create(first).stderr == ""
    assert "the next backup cannot build on this" in backup.create(VOLUME).stderr


def test_copied_images_are_another_pool_unless_the_caller_says_so(
    world: World, backup: Backup, tmp_path: Path
) -> None:
    backup("init")
    first = world.snapshot()
    world.pool.close()
    backup.create(first)
    metadata = tmp_path / "copy.img"
    metadata.write_bytes(backup.images[0].read_bytes())
    backup.images = metadata, backup.images[1]
    assert "1.2 MiB read," in backup.create(first).stdout
    assert "0 B read since generation 1" in backup.create(first, "--base", 1).stdout


def test_metadata_copied_to_one_place_are_told_apart_by_their_data(
    world: World, backup: Backup, tmp_path: Path
) -> None:
    """Two pools that were filled alike: all that their metadata say is the same."""
    snapshot = world.snapshot()
    content = world.shown()
    world.pool.close()
    other = tmp_path / "other.img"
    other.write_bytes(bytes(byte ^ 0xFF for byte in backup.images[1].read_bytes()))
    backup("init")
    assert backup.create(snapshot).returncode == 0
    run = backup("create", backup.images[0], snapshot, "--data", other, "--size", "4M")
    assert "1.2 MiB read, 1.2 MiB new" in run.stdout
    fails(backup("restore", "latest", tmp_path / "out"), 1, "the latest of which volume")
    assert backup("restore", 2, tmp_path / "out").returncode == 0
    restored = (tmp_path / "out").read_bytes()
    assert restored[: 20 * UNIT] == bytes(byte ^ 0xFF for byte in content[: 20 * UNIT])


def test_usage(backup: Backup, command: ThinmetaCommand, tmp_path: Path) -> None:
    fails(command("backup", "nothing"), 2, "there is no command 'nothing'")
    fails(command("backup", "lst"), 2, "did you mean 'list'")
    fails(backup("list"), 1, "no repository is there; 'thinmeta backup init")
    backup("init")
    fails(backup("init"), 1, "there is a repository already")
    fails(backup("restore", "latest", tmp_path / "x"), 1, "no generation yet")
    fails(backup("restore", "7", tmp_path / "x"), 1, "no generation '7'")
    fails(backup("restore", "7", tmp_path / "x", 3), 2, "--data is missing")
    fails(backup("restore", "7", tmp_path / "x", "--data=d"), 2, "ID is missing")
    fails(backup("prune"), 2, "what stays? --keep-last")
    fails(backup("prune", "--keep-last", 0), 2, "at least 1")
    fails(backup("prune", "--keep-last", 1, "--keep", 9), 1, "no generation '9'")
    fails(backup("create", tmp_path / "none", 1, "--data", "d"), 3, "No such file")
    fails(backup("create", "p", 1, "--base=1", "--full"), 2, "--base and --full")
    fails(backup("create", "p", 1, "--data=d", "--level=x"), 2, "--level must be a number")
    assert not list((backup.repo / "active").glob("*"))
    for name in ("", "init", "create", "list", "restore", "verify", "prune", "unlock"):
        words = ["backup", name, "--help"] if name else ["backup", "--help"]
        out = command(*words).stdout
        assert out.startswith("Usage: thinmeta backup") and max(map(len, out.splitlines())) < 100


def test_wrong_input_leaves_the_repository_as_it_was(world: World, backup: Backup) -> None:
    backup("init")
    first = world.snapshot()
    world.write(0, b"later")
    second = world.snapshot()
    world.pool.close()
    backup.create(second)
    metadata, _ = backup.images
    before = sorted(backup.repo.rglob("*"))
    with metadata.open("r+b") as file:
        file.seek(4096 * 5)
        file.write(os.urandom(4096 * 250))
    fails(backup.create(first), 1, "is damaged")
    fails(backup.create(first, "--full"), 1, "is damaged")
    assert sorted(backup.repo.rglob("*")) == before
    assert backup("verify").returncode == 0


def test_a_full_disk(world: World, backup: Backup, tmp_path: Path) -> None:
    backup("init")
    first = world.snapshot()
    world.pool.close()

    def limited() -> None:
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            backup.command.argv("backup", *words),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            preexec_fn=limited,
        )

    metadata, data = backup.images
    size = ("--size", "4M")
    failed = run("create", backup.repo, metadata, first, "--data", data, *size)
    fails(failed, 3, "File too large")
    assert not list(backup.repo.rglob("packs/*/*")) and not list(backup.repo.rglob(".tmp*"))
    assert backup("list").stdout.count("\n") == 1
    assert backup.create(first).returncode == 0
    (tmp_path / "out").write_bytes(b"")
    failed = run("restore", backup.repo, 1, tmp_path / "out", "--overwrite")
    fails(failed, 3, "out: File too large")
    assert (tmp_path / "out").read_bytes() == b"" and not list(tmp_path.glob(".out*"))
    assert backup("restore", 1, tmp_path / "out").returncode == 0


def test_the_example_pool(backup: Backup, tmp_path: Path) -> None:
    for image in ("metadata.img", "data.img"):
        (tmp_path / image).write_bytes(
            lzma.decompress((EXAMPLES / "pool" / f"{image}.xz").read_bytes())
        )
    backup("init")
    words = ("--data", tmp_path / "data.img", "--size", 10_498_048)
    for device_id in (2, 0):
        backup("create", tmp_path / "metadata.img", device_id, *words)
    backup("restore", "latest", tmp_path / "v.img")
    found = hashlib.sha256((tmp_path / "v.img").read_bytes()).hexdigest()
    assert found == "03fded8b681aaeabd4b0a4449ea6abaeff7c0f55fd28fd3747fa137809c55260"
