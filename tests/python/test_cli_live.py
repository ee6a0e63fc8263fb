"""``thinmeta live``, and the reading commands on a live pool."""

import hashlib
import os
import signal
import subprocess
import time
from array import array
from pathlib import Path

import pytest

import thinmeta
from command import ThinmetaCommand, as_json, fails
from fake_lvm import FakeLvm
from kept_world import SIZE, KeptWorld, make_kept_world
from live_world import BLOCK, LiveWorld, make_world
from thinmeta.cli import live as live_command

RESERVE = "message pool 0 reserve_metadata_snap"
RELEASE = "message pool 0 release_metadata_snap"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LiveWorld:
    return make_world(tmp_path, monkeypatch)


@pytest.fixture
def lvm(world: LiveWorld) -> FakeLvm:
    with world.dmsetup.changed() as state:
        state["devices"].clear()
    with thinmeta.open_pool(world.meta, mode="r+") as pool, pool.transaction() as txn:
        txn.delete(2)
        txn.delete(3)
    return FakeLvm(world.dmsetup, world.meta, world.data)


def messages(world: LiveWorld) -> list[str]:
    return [line for line in world.dmsetup.log() if line.startswith("message")]


def test_help_names_everything(command: ThinmetaCommand) -> None:
    page = command("live", "--help").stdout
    assert page == command("help", "live").stdout == command("live", "status", "-h").stdout
    assert "\n  live " in command("--help").stdout
    for option in live_command.OPTIONS:
        assert f"--{option.long}" in page
    for word in ("--json", "--dry-run", "--help", *live_command._COMMANDS):
        assert word in page
    assert max(map(len, page.splitlines())) <= 90


def test_wrong_usage_is_status_2(command: ThinmetaCommand, world: LiveWorld) -> None:
    fails(command("live"), 2, "a word is missing: status, snapshot")
    fails(command("live", "stauts", "pool"), 2, "did you mean 'status'")
    fails(command("live", "status"), 2, "POOL is missing")
    fails(command("live", "status", "-n", "pool"), 2, "no option '-n'")
    fails(command("live", "release", "pool", "x"), 2, "one word too many: 'x'")
    fails(command("live", "reserve", "pool", "--stale"), 2, "no option '--stale'")
    fails(command("live", "snapshot", "pool", "x", "1"), 2, "NEW must be a number")
    fails(command("live", "kept", "pool", "x"), 2, "one word too many: 'x'")
    fails(command("live", "kept", "-n", "pool"), 2, "no option '-n'")
    fails(command("live", "forget"), 2, "POOL is missing")
    fails(command("live", "forget", "pool"), 2, "An ID, or --all")
    fails(command("live", "forget", "pool", "7", "--all"), 2, "--all and an ID")
    fails(command("live", "forget", "pool", "7" * 9), 2, "ID must be a device id")
    fails(command("live", "status", world.meta), 2, "no device: open_pool")
    assert messages(world) == []


def test_the_status_is_told_in_full(command: ThinmetaCommand, world: LiveWorld) -> None:
    world.dmsetup.add_volume("home", 1, open=1)
    world.dmsetup.add_volume("copy", 2, readonly=True, suspended=True)
    text = command("live", "status", "pool").stdout
    for line in (
        "pool               pool",
        f"metadata device    {world.meta}",
        f"data device        {world.data}",
        "mode               rw",
        "needs check        no",
        "data               256 KiB of 62.5 MiB, 0.4 % (4 of 1000 blocks of 64 KiB)",
        "transaction id     0",
        "metadata snapshot  none",
        "discards           discard_passdown",
        "when full          writes fail",
        "low data           below 6.2 MiB",
        "low metadata       below 4 MiB",
        "features           skip_block_zeroing error_if_no_space",
        "NAME  DEV    SIZE  MAPPED         ACCESS  OPEN",
        "home    1  10 MiB     0 B             rw     1",
        "copy    2  10 MiB     0 B  ro, suspended     0",
    ):
        assert f"{line}\n" in text, line
    value = as_json(command("live", "status", "--json", "pool"))
    live = world.live()
    assert value["status"] == {
        name: getattr(live.status(), name) for name in live.status().__dataclass_fields__
    }
    assert value["target_version"] == "1.22.0"
    assert (value["lvm"], value["metadata_snapshot_holder"]) == (None, "nobody")
    assert [volume["size_bytes"] for volume in value["volumes"]] == [10485760, 10485760]
    assert messages(world) == []


def test_who_holds_the_snapshot_is_told(command: ThinmetaCommand, world: LiveWorld) -> None:
    def told() -> str:
        (line,) = (
            line
            for line in command("live", "status", "pool").stdout.splitlines()
            if line.startswith("metadata snapshot")
        )
        return line

    assert as_json(command("live", "reserve", "--json", "pool"))["metadata_snapshot"] == (
        world.dmsetup.held_root()
    )
    assert "reserved by a command" in told()
    assert command("live", "release", "pool").stdout == "released the metadata snapshot\n"
    with world.live().metadata_snapshot():
        assert "a process of thinmeta reads it" in told()
    world.dmsetup.tell("pool", "reserve_metadata_snap")
    assert "somebody else's tool holds it" in told()


def test_a_failed_pool_has_a_status(command: ThinmetaCommand, world: LiveWorld) -> None:
    with world.dmsetup.changed() as state:
        state["devices"]["pool"]["status"] = "0 524288 thin-pool Fail"
    run = command("live", "status", "pool")
    assert run.returncode == 0
    assert "state            Fail: the pool has failed" in run.stdout
    assert as_json(command("live", "status", "pool", "--json"))["status"]["failed"] == "Fail"
    fails(command("ls", "pool"), 3, "the pool has failed (Fail)")


def test_a_snapshot_is_made_and_a_dry_run_makes_none(
    command: ThinmetaCommand, world: LiveWorld
) -> None:
    world.dmsetup.add_volume("home", 1)
    words = ("live", "snapshot", "pool", "9", "1")
    fails(command(*words), 2, "active as home")
    fails(command(*words, "-n"), 2, "active as home")
    run = command(*words, "--suspend", "home", "-n")
    said = "thin device 9, a snapshot of thin device 1, home standing still\n"
    assert run.stdout == f"would create {said}"
    assert messages(world) == []
    assert command(*words, "--suspend", "home").stdout == f"created {said}"
    assert messages(world) == ["message pool 0 create_snap 9 1"]
    fails(command(*words, "--suspend=home"), 1, "thin device 9 already")
    value = as_json(
        command("live", "snapshot", "pool", "10", "home", "--suspend", "home", "--json")
    )
    assert (value["device_id"], value["origin_id"], value["suspended"]) == (10, 1, "home")
    with thinmeta.open_pool(world.meta) as pool:
        assert list(pool.devices) == [1, 2, 3, 9, 10]


def test_a_snapshot_of_lvm_has_a_name(
    command: ThinmetaCommand, lvm: FakeLvm, world: LiveWorld
) -> None:
    words = ("live", "snapshot", "vg-1/pool", "home-monday", "home")
    run = command(*words, "-n")
    assert run.stdout == "would create vg-1/home-monday, a snapshot of vg-1/home\n"
    assert list(lvm.rows()) == ["home"]
    run = command(*words)
    assert run.stdout == ("created vg-1/home-monday (thin device 2), a snapshot of vg-1/home\n"), (
        run.stderr
    )
    assert list(lvm.rows()) == ["home", "home-monday"]
    fails(command(*words), 3, "already exists")
    fails(command(*words, "--suspend", "home"), 2, "leave --suspend out")
    fails(command("live", "snapshot", "vg-1/pool", "x", "nothing"), 3, "no thin volume 'nothing'")
    forced = ("live", "snapshot", "vg-1/pool", "77", "1", "--force", "--suspend", "vg--1-home")
    assert "created thin device 77" in command(*forced).stdout
    value = as_json(command("live", "snapshot", "vg-1/pool", "other", "home", "--json"))
    assert (value["lvm"], value["volume"], value["device_id"]) == ("vg-1/pool", "other", 3)


def test_reserving_and_releasing(command: ThinmetaCommand, world: LiveWorld) -> None:
    fails(command("live", "release", "pool"), 1, "holds no metadata snapshot")
    assert command("live", "release", "--stale", "pool").stdout == "nothing was left behind\n"
    run = command("live", "reserve", "-n", "pool")
    assert run.stdout == "would reserve the metadata snapshot\n"
    assert messages(world) == []
    run = command("live", "reserve", "pool")
    held = world.dmsetup.held_root()
    assert f"reserved the metadata snapshot at block {held}" in run.stdout
    fails(command("live", "reserve", "pool"), 1, "reserved by a command")
    fails(command("live", "reserve", "-n", "pool"), 1, "reserved by a command")
    assert command("ls", "pool").returncode == 0
    assert world.dmsetup.held_root() == held
    run = command("live", "release", "-n", "pool")
    assert run.stdout == "would release the metadata snapshot\n"
    with world.live().metadata_snapshot():
        run = command("live", "release", "pool")
        assert run.stdout == "it is being read: the last of its readers will release it\n"
    assert world.dmsetup.held_root() is None
    world.dmsetup.tell("pool", "reserve_metadata_snap")
    fails(command("live", "release", "pool"), 1, "somebody else's tool holds")
    assert as_json(command("ls", "-m", "--json", "pool"))["metadata_snapshot_held"]
    fails(command("ls", "pool"), 1, "somebody else's tool holds")
    assert world.dmsetup.held_root() is not None


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeptWorld:
    return make_kept_world(tmp_path, monkeypatch)


def test_what_is_kept_is_told_and_forgotten(command: ThinmetaCommand, kept: KeptWorld) -> None:
    assert command("live", "kept", "pool").stdout == "nothing is kept\n"
    assert command("live", "forget", "pool", "--all").stdout == "nothing is kept\n"
    kept.snapshot(9000001, "replicate /srv/copy")
    kept.snapshot(9000002, "send", role="left")
    kept.snapshot(9000003, "send", origin_id=3)
    kept.dmsetup.tell("pool", "delete 9000003")
    heads, *rows = (line.split() for line in command("live", "kept", "pool").stdout.splitlines())
    assert heads == ["DEV", "VOLUME", "MADE", "STATE", "PURPOSE"]
    made = rows[0][3]
    assert made.endswith("Z") and made.startswith("20")
    without = [[word for word in row if not word.endswith("Z")] for row in rows]
    assert without == [
        ["9000001", "home", "(1)", "kept", "replicate", "/srv/copy"],
        ["9000002", "home", "(1)", "left", "behind", "send"],
        ["9000003", "3", "gone", "from", "the", "pool", "send"],
    ]
    first, *_ = as_json(command("live", "kept", "pool", "--json"))["snapshots"]
    assert first == {
        "device_id": 9000001,
        "lvm_name": "",
        "volume_id": 1,
        "volume_name": "home",
        "purpose": "replicate /srv/copy",
        "role": "kept",
        "in_use": False,
        "presence": "there",
        "size_bytes": SIZE,
        "made": made,
    }
    before = kept.files()
    run = command("live", "forget", "pool", "--all", "-n")
    said = "thin device 9000001, a snapshot of home (1) for replicate /srv/copy"
    assert run.stdout.splitlines() == [
        f"would remove {said}",
        "would remove thin device 9000002, a snapshot of home (1) for send",
        "would forget thin device 9000003, a snapshot of 3 for send, which is not in the pool",
    ]
    assert (kept.files(), kept.device_ids()) == (before, [1, 2, 3, 9000001, 9000002])
    fails(command("live", "forget", "pool", "9000001", "2"), 3, "'thinmeta live kept pool'")
    assert command("live", "forget", "pool", "9000001").stdout == f"removed {said}\n"
    with kept.user("send"):
        assert " in use " in command("live", "kept", "pool").stdout
        fails(command("live", "forget", "pool", "9000002"), 3, "in use: a process of thinmeta")
        run = command("live", "forget", "pool", "--all")
        assert (run.returncode, run.stdout.count("forgot")) == (0, 1)
        assert "thin device 9000002, a snapshot of home (1) for send is left alone" in run.stderr
    value = as_json(command("live", "forget", "pool", "--all", "--json"))
    assert [each["device_id"] for each in value["removed"]] == [9000002]
    assert (value["dropped"], value["left"], value["dry_run"]) == ([], [], False)
    assert kept.device_ids() == [1, 2, 3]


READING: list[tuple[str, ...]] = [
    ("ls", "META"),
    ("ls", "META", "-o", "all", "--bytes"),
    ("check", "META"),
    ("dump", "META"),
    ("dump", "META", "--shared", "--dev-id", "3"),
    ("delta", "META", "1", "3"),
    ("delta", "META", "1", "3", "--same"),
]


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_a_live_pool_is_read_as_its_metadata_are(
    command: ThinmetaCommand, world: LiveWorld, words: tuple[str, ...]
) -> None:
    live = command(*("pool" if word == "META" else word for word in words))
    assert live.returncode == 0, live.stderr
    assert messages(world) == [RESERVE, RELEASE]
    world.dmsetup.tell("pool", "reserve_metadata_snap")
    image = command(*(world.meta if word == "META" else word for word in words), "-m")
    assert (live.stdout, live.stderr) == (image.stdout, "")
    if words[0] != "dump":
        json_of = ["pool" if word == "META" else word for word in (*words, "-m", "--json")]
        value = as_json(command(*json_of))
        assert value["metadata"] == "pool"
        assert value["metadata_snapshot"] == "held"
    assert messages(world) == [RESERVE, RELEASE]


def test_a_live_pool_is_explored_through_its_snapshot(
    command: ThinmetaCommand, world: LiveWorld
) -> None:
    with thinmeta.open_pool(world.meta) as pool:
        ids = [str(device) for device in pool.devices]
    live = as_json(command("explore", "--json", "pool", "devices"))
    assert [row["cells"][0] for row in live["rows"]] == ids and live["findings"] == []
    assert (live["metadata"], live["metadata_snapshot"]) == ("pool", "held")
    assert messages(world) == [RESERVE, RELEASE]
    world.dmsetup.tell("pool", "reserve_metadata_snap")
    again = as_json(command("explore", "--json", "-m", "pool", "devices"))
    assert again == live and messages(world) == [RESERVE, RELEASE]
    home = as_json(command("explore", "--json", "-m", "pool"))
    assert "metadata snapshot" in home["title"] and home["findings"] == []


def test_volumes_can_be_called_by_their_names(
    command: ThinmetaCommand, lvm: FakeLvm, world: LiveWorld
) -> None:
    command("live", "snapshot", "vg-1/pool", "monday", "home")
    assert "no difference" in command("delta", "vg-1/pool", "home", "monday").stdout
    by_name = command("dump", "vg-1/pool", "--dev-id", "monday")
    assert by_name.stdout == command("dump", "vg-1/pool", "--dev-id", "2").stdout
    assert 'dev_id="2"' in by_name.stdout
    fails(command("delta", "vg-1/pool", "home", "tuesday"), 3, "no thin volume 'tuesday'")
    assert world.dmsetup.held_root("vg--1-pool-tpool") is None


def test_extracting_from_a_live_pool(command: ThinmetaCommand, world: LiveWorld) -> None:
    out = world.folder / "out.img"
    content = (b"three" + (b"one" * BLOCK)[5:]).ljust(16 * BLOCK, b"\0")
    value = as_json(command("extract", "pool", "3", "-o", out, "--json", "--size", 16 * BLOCK))
    assert out.read_bytes() == content
    assert value["sha256"] == hashlib.sha256(content).hexdigest()
    assert (value["metadata"], value["data"]) == ("pool", str(world.data))
    assert value["size_source"] == "given"
    assert messages(world) == [RESERVE, RELEASE]
    run = command("extract", "pool", "3", "-o", out)
    assert "was guessed from the last block written" in run.stderr
    # Of an active one the size is known.
    world.dmsetup.add_volume("look", 3, readonly=True)
    value = as_json(command("extract", "pool", "look", "-o", out, "--json"))
    assert (value["size_source"], value["size_bytes"]) == ("live", 10485760)
    fails(command("extract", world.meta, "1", "-o", out), 2, "ID is missing")
    fails(command("extract", "pool", world.data, "1", "-o", out), 2, "leave DATA out")
    fails(command("extract", "pool", "77", "-o", out), 1, "no thin device 77")
    assert world.dmsetup.held_root() is None


def test_a_volume_that_may_change_is_not_extracted(
    command: ThinmetaCommand, world: LiveWorld
) -> None:
    out = world.folder / "out.img"
    world.dmsetup.add_volume("home", 1)
    run = command("extract", "pool", "1", "-o", out)
    fails(run, 3, "thinmeta live snapshot pool NEW 1 --suspend home")
    assert not out.exists()
    assert messages(world) == []


def test_hints_know_sizes_and_origins_of_live_volumes(
    command: ThinmetaCommand, world: LiveWorld
) -> None:
    words = "delta", "pool", "--full", "3", "--format", "borg-map"
    fails(command(*words, "--size=1M"), 3, "not active: activate it read-only")
    world.dmsetup.add_volume("look", 3, readonly=True)
    size, block = 10485760, BLOCK
    whole = command(*words).stdout.splitlines()
    assert whole == [f"0 {3 * block} data", f"{3 * block} {size - 3 * block} zero"]
    assert command(*words, "--size", 2 * block).stdout == f"0 {2 * block} data\n"
    # A volume that can be written to is no source, and what one was written proves nothing.
    world.dmsetup.add_volume("home", 1)
    fails(
        command("delta", "pool", "3", "home", "--format=rbd-diff"),
        3,
        "thinmeta live snapshot pool NEW 1 --suspend home",
    )
    assert world.dmsetup.held_root() is None


def test_hints_for_a_volume_with_an_external_origin_call_nothing_zeros(
    command: ThinmetaCommand, world: LiveWorld
) -> None:
    world.dmsetup.add_volume("look", 3, readonly=True, origin="7:9")
    for form in ("borg-map", "rbd-diff"):
        told = command("delta", "pool", "--full", "look", "--format", form)
        assert told.returncode == 0, told.stderr
        expected = {
            "borg-map": "0 10485760 data\n",
            "rbd-diff": '[{"offset":0,"length":10485760,"exists":"true"}]\n',
        }
        assert told.stdout == expected[form]


def test_hints_need_one_origin_for_both_volumes(command: ThinmetaCommand, world: LiveWorld) -> None:
    words = "delta", "pool", "2", "look", "--format=borg-map"
    world.dmsetup.add_volume("look", 3, readonly=True)
    world.dmsetup.add_volume("older", 2, readonly=True, origin="7:9")
    refused = command(*words)
    fails(refused, 1, "and device 3 shows zeros: take --full")
    assert "device 2 shows /dev/" in refused.stderr
    with world.dmsetup.changed() as state:
        del state["devices"]["look"]
    world.dmsetup.add_volume("look", 3, readonly=True, origin="7:9")
    told = command(*words)
    # What lies past the older one's last block is read: it may have been smaller.
    size, block = 10485760, BLOCK
    rows = [(0, 1, "data"), (1, 2, "same"), (3, size // block - 3, "data")]
    expected = "".join(f"{begin * block} {length * block} {of}\n" for begin, length, of in rows)
    assert told.stdout == expected


@pytest.mark.parametrize("form", ["text", "borg-map"])
def test_a_bookmark_of_another_pool_is_compared_with_nothing(
    command: ThinmetaCommand, world: LiveWorld, form: str
) -> None:
    saved = world.folder / "bookmark"
    words = "delta", "pool", "--from-bookmark", saved, "3", "--format", form
    world.dmsetup.add_volume("look", 3, readonly=True)
    with world.dmsetup.changed() as state:
        state["devices"]["pool"]["uuid"] = "one"
    assert command("bookmark", "save", "pool", "2", saved).returncode == 0
    assert command(*words).returncode == 0
    with world.dmsetup.changed() as state:
        state["devices"]["pool"]["uuid"] = "two"
    fails(command(*words), 1, "the bookmark is of pool one, and this is two")


def test_a_volume_that_comes_while_it_is_extracted_spoils_it(
    command: ThinmetaCommand, world: LiveWorld
) -> None:
    out = world.folder / "out.img"
    # The release of this pool's size is quick; so it is the look before that is made slow.
    world.dmsetup.slow(RESERVE, 1.0)
    process = subprocess.Popen(
        command.argv("extract", "pool", "1", "-o", out), stderr=subprocess.PIPE, text=True
    )
    while RESERVE not in world.dmsetup.log():
        time.sleep(0.01)
    world.dmsetup.add_volume("home", 1)
    _, complaint = process.communicate()
    assert process.returncode == 3
    assert "can be written to while it is copied" in complaint
    assert not out.exists()
    assert world.dmsetup.held_root() is None


def test_the_size_of_an_inactive_volume_comes_from_lvm(
    command: ThinmetaCommand, lvm: FakeLvm, world: LiveWorld
) -> None:
    out = world.folder / "out.img"
    fails(
        command("extract", "vg-1/pool", "home", "-o", out),
        3,
        "thinmeta live snapshot vg-1/pool NEW home",
    )
    command("live", "snapshot", "vg-1/pool", "monday", "home")
    value = as_json(command("extract", "vg-1/pool", "monday", "-o", out, "--json"))
    assert (value["size_source"], value["size_bytes"]) == ("live", 10485760)
    assert out.read_bytes() == (b"one" * BLOCK).ljust(10485760, b"\0")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_releases_the_snapshot(
    command: ThinmetaCommand, world: LiveWorld, number: signal.Signals
) -> None:
    """It comes while the output waits for a reader who does not read on."""
    with thinmeta.open_pool(world.meta, mode="r+") as pool, pool.transaction() as txn:
        columns = array("Q", range(0, 10000, 2)), array("Q", (10 + at % 900 for at in range(5000)))
        txn.insert_many(1, *columns)
    with subprocess.Popen(
        command.argv("dump", "pool"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(1)
        assert world.dmsetup.held_root() is not None
        process.send_signal(number)
        process.stdout.close()
        complaint = process.stderr.read()
    assert process.returncode in (128 + number, 141)  # or it saw first that nobody reads
    assert world.dmsetup.held_root() is None
    assert b"Traceback" not in complaint
    assert messages(world) == [RESERVE, RELEASE]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("when", [RESERVE, RELEASE])
def test_a_signal_while_the_kernel_is_asked_leaves_nothing(
    command: ThinmetaCommand, world: LiveWorld, number: signal.Signals, when: str
) -> None:
    world.dmsetup.slow(when, 0.5)
    process = subprocess.Popen(
        command.argv("ls", "pool"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    while when not in world.dmsetup.log():
        time.sleep(0.01)
    os.killpg(process.pid, number)  # as a terminal does
    out, complaint = process.communicate()
    assert process.returncode == 128 + number
    said = "interrupted" if number == signal.SIGINT else "asked to end"
    assert complaint.decode() == f"thinmeta: {said}\n"
    assert out == b""
    assert world.dmsetup.held_root() is None
    assert messages(world) == [RESERVE, RELEASE]


def test_what_is_neither_a_file_nor_a_pool(command: ThinmetaCommand, world: LiveWorld) -> None:
    run = command("ls", "nothing")
    fails(run, 3, "nothing: No such file or directory, and no live pool: there is no such thin")
    assert "active pools: pool" in run.stderr
    fails(command("ls", "vg/pool"), 3, "vg/pool: No such file or directory, and no live pool")
    fails(command("check", "/dev/mapper/none"), 3, "No such file or directory, and no live pool")
    world.dmsetup.add_volume("home", 1)
    fails(command("ls", "home"), 2, "home is a volume of a thin pool, not the pool")


def test_a_file_comes_before_a_pool(command: ThinmetaCommand, world: LiveWorld) -> None:
    """And for a file no program is asked anything."""
    for words in (("ls",), ("check",), ("dump",), ("delta", "1", "3")):
        run = subprocess.run(
            command.argv(words[0], "meta.img", *words[1:]),
            cwd=world.folder,
            capture_output=True,
            check=False,
        )
        assert run.returncode == 0
    run = subprocess.run(
        command.argv("extract", "meta.img", "data.img", "1", "-o", "out"),
        cwd=world.folder,
        capture_output=True,
        check=False,
    )
    assert run.returncode == 0
    assert world.dmsetup.log() == []
    (world.folder / "pool").write_bytes(world.meta.read_bytes())
    run = subprocess.run(
        command.argv("ls", "pool"), cwd=world.folder, capture_output=True, check=False
    )
    assert run.returncode == 0
    assert world.dmsetup.log() == []


def test_a_release_that_fails_is_said(command: ThinmetaCommand, world: LiveWorld) -> None:
    world.dmsetup.fail(RELEASE, "message ioctl on pool  failed: Operation not supported")
    fails_with_output = command("ls", "pool")
    assert fails_with_output.returncode == 3
    assert "could not be released" in fails_with_output.stderr
    assert "thinmeta live release --stale pool" in fails_with_output.stderr
    fails(command("ls", "pool"), 3, "thinmeta live release --stale pool")
    with world.dmsetup.changed() as state:
        state["fail"].clear()
    run = command("live", "release", "--stale", "pool")
    assert run.stdout == "released the metadata snapshot\n"
    # What went wrong first decides about the status.
    world.dmsetup.fail(RELEASE, "message ioctl on pool  failed: Operation not supported")
    run = command("extract", "pool", "77", "-o", world.folder / "out")
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert line.startswith("thinmeta: the pool has no thin device 77; ")
    assert "could not be released" in line


def test_a_missing_dmsetup_is_said(
    command: ThinmetaCommand, world: LiveWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.dmsetup.fail("info", "/dev/mapper/control: open failed: Permission denied")
    fails(command("live", "status", "pool"), 3, "open failed: Permission denied")
    fails(command("ls", "pool"), 3, "pool: No such file or directory, and no live pool: dmsetup:")
