"""A ``dmsetup`` for tests: pools in image files, with the words of the real one.

The devices are in a JSON file. A pool's metadata is an image, and what it is told is done to
the image, by thinmeta's own transactions. So a metadata snapshot is a real one, and can be
read; only the kernel is missing, and what volumes hold.

    state = FakeDmsetup(folder)  # makes folder/bin/dmsetup, to be put into PATH
    state.add_pool("pool", "meta.img", "data.img")

What is printed follows what dmsetup 1.02.185 printed on Linux 6.1; tests/kernel uses the
real program.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

STATE = "FAKE_DMSETUP_STATE"
#: No device of the host has it.
MAJOR = 1999
TARGETS = "thin-pool        v1.22.0\nthin             v1.22.0\nlinear           v1.4.0\n"


class FakeDmsetup:
    """The test's side: makes the program, and the devices that it knows."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        self.path = folder / "devices.json"
        self.path.write_text(json.dumps({"devices": {}, "fail": {}, "slow": {}, "log": []}))
        program = self.bin / "dmsetup"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -IB {__file__} {self.path} "$@"\n')
        program.chmod(0o755)

    def environment(self) -> dict[str, str]:
        """What processes need that are to use it."""
        return {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "THINMETA_RUN_DIR": str(self.path.parent / "run"),
        }

    @contextmanager
    def changed(self) -> Iterator[dict[str, Any]]:
        """The state, to be changed while no program looks."""
        with _state(self.path) as state:
            yield state

    def add(self, name: str, table: str, **facts: Any) -> None:
        """A device with a table of one line."""
        with self.changed() as state:
            _add(state, name, table, **facts)

    def add_pool(self, name: str, meta: Path, data: Path, **facts: Any) -> None:
        features = "2 skip_block_zeroing error_if_no_space"
        self.add(name, f"0 524288 thin-pool {meta} {data} 128 100 {features}", **facts)

    def add_volume(
        self, name: str, device_id: int, *, pool: str = "pool", origin: str = "", **facts: Any
    ) -> None:
        with self.changed() as state:
            minor = state["devices"][pool]["minor"]
            table = f"0 20480 thin {MAJOR}:{minor} {device_id} {origin}".rstrip()
            _add(state, name, table, **facts)

    def fail(self, what: str, complaint: str) -> None:
        """Let what begins with these words fail."""
        with self.changed() as state:
            state["fail"][what] = complaint

    def slow(self, what: str, seconds: float) -> None:
        """Let what begins with these words take long, before it is done."""
        with self.changed() as state:
            state["slow"][what] = seconds

    def log(self) -> list[str]:
        """What the program was asked, in order."""
        with self.changed() as state:
            return list(state["log"])

    def status(self, name: str) -> str:
        with self.changed() as state:
            return _status(state["devices"][name])

    def held_root(self, name: str = "pool") -> int | None:
        word = self.status(name).split()[6]
        return None if word == "-" else int(word)

    def tell(self, name: str, message: str) -> None:
        """Do what somebody else's tool would."""
        with self.changed() as state:
            _message(state, name, message)


@contextmanager
def _state(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        state = json.load(file)
        before = json.dumps(state)
        try:
            yield state
        finally:
            if json.dumps(state) != before:
                file.seek(0)
                file.truncate()
                json.dump(state, file)


def _add(state: dict[str, Any], name: str, table: str, **facts: Any) -> None:
    minors = {device["minor"] for device in state["devices"].values()}
    minor = next(number for number in range(1000) if number not in minors)
    base = {"minor": minor, "uuid": "", "readonly": False, "suspended": False, "open": 0}
    state["devices"][name] = {**base, "table": table, "status": None, **facts}


class Refused(Exception):
    """What the program prints to its standard error."""


def _device(state: dict[str, Any], name: str) -> dict[str, Any]:
    if name not in state["devices"]:
        raise Refused("Device does not exist.")
    found: dict[str, Any] = state["devices"][name]
    return found


def _status(device: dict[str, Any]) -> str:
    if device["status"] is not None:
        return str(device["status"])
    words = device["table"].split()
    if words[2] == "thin":
        return f"{words[0]} {words[1]} thin 0 -"
    if words[2] != "thin-pool":
        return f"{words[0]} {words[1]} {words[2]} "
    import thinmeta

    with thinmeta.open_pool(words[3]) as pool:
        superblock, data, metadata = pool.superblock, pool.data_space, pool.metadata_space
        used = metadata.blocks - pool.free_metadata_blocks
    held = superblock.held_root or "-"
    return (
        f"{words[0]} {words[1]} thin-pool {superblock.trans_id} {used}/{metadata.blocks} "
        f"{data.allocated}/{data.blocks} {held} rw discard_passdown error_if_no_space - 1024 "
    )


def _message(state: dict[str, Any], name: str, message: str) -> None:
    import thinmeta

    if name not in state["devices"]:
        raise Refused(f"device-mapper: message ioctl on {name}  failed: No such device or address")
    device = state["devices"][name]
    words = device["table"].split()
    kind, numbers = message.split()[0], [int(word) for word in message.split()[1:]]
    refusal = ""
    if kind == "delete" and any(
        each["table"].split()[2:] == ["thin", f"{MAJOR}:{device['minor']}", str(numbers[0])]
        for each in state["devices"].values()
    ):
        refusal = "Device or resource busy"
    try:
        with thinmeta.open_pool(words[3], mode="r+") as pool, pool.transaction() as txn:
            if refusal:
                pass
            elif kind == "create_thin":
                txn.create_thin(*numbers)
            elif kind == "create_snap":
                txn.create_snapshot(numbers[0], origin_id=numbers[1])
            elif kind == "delete":
                txn.delete(*numbers)
            elif kind == "set_transaction_id":
                txn.set_transaction_id(*numbers)
            elif kind == "reserve_metadata_snap":
                txn.reserve_metadata_snapshot()
            elif kind == "release_metadata_snap":
                txn.release_metadata_snapshot()
            else:
                refusal = "Invalid argument"
    except (thinmeta.DeviceExistsError, thinmeta.MetadataSnapshotHeldError) as error:
        exists = isinstance(error, thinmeta.DeviceExistsError)
        refusal = "File exists" if exists else "Device or resource busy"
    except thinmeta.NoSuchDeviceError:
        refusal = "No data available"
    except (thinmeta.StaleTransactionError, thinmeta.NoMetadataSnapshotError):
        refusal = "Invalid argument"
    except thinmeta.NoSpaceError:
        refusal = "No space left on device"
    if refusal:
        raise Refused(f"device-mapper: message ioctl on {name}  failed: {refusal}")


def _info(name: str, device: dict[str, Any]) -> str:
    mode = "Read-only" if device["readonly"] else "Writeable"
    active = "Suspended" if device["suspended"] else "Active"
    fields = (MAJOR, device["minor"], device["open"], mode, active, device["uuid"], name)
    return "/".join(map(str, fields))


def _selected(state: dict[str, Any], words: list[str]) -> dict[str, dict[str, Any]]:
    target = words[words.index("--target") + 1] if "--target" in words else None
    return {
        name: device
        for name, device in state["devices"].items()
        if target is None or device["table"].split()[2] == target
    }


def _run(state: dict[str, Any], words: list[str]) -> str:
    """One command; its options are those that thinmeta gives."""
    names = words[words.index("--") + 1 :] if "--" in words else []
    if "-u" in words:
        at = words.index("-u") + 1
        known = [name for name, each in state["devices"].items() if each["uuid"] == words[at]]
        names = [*(known or ["nothing"]), *words[at + 1 :]]
    command = words[0]
    if command == "targets":
        return TARGETS
    if command == "info":
        if "-m" in words:
            minor = int(words[words.index("-m") + 1])
            major = int(words[words.index("-j") + 1])
            names = [
                name
                for name, device in state["devices"].items()
                if (MAJOR, device["minor"]) == (major, minor)
            ]
            if not names:
                raise Refused("Device does not exist.")
        found = {name: _device(state, name) for name in names} or state["devices"]
        return "".join(f"{_info(name, device)}\n" for name, device in found.items())
    if command in ("table", "status"):
        assert command == "table" or "--noflush" in words, "it would commit"
        tell = _status if command == "status" else lambda device: str(device["table"])
        if names:
            return tell(_device(state, names[0])) + "\n"
        lines = [f"{name}: {tell(each)}\n" for name, each in _selected(state, words).items()]
        return "".join(lines) or "No devices found\n"
    if command == "message":
        assert names[1] == "0"
        _message(state, names[0], " ".join(names[2:]))
        return ""
    if command in ("suspend", "resume"):
        _device(state, names[0])["suspended"] = command == "suspend"
        return ""
    if command == "remove":
        if _device(state, names[0])["open"]:
            what = f"remove ioctl on {names[0]}  failed: Device or resource busy"
            raise Refused(f"device-mapper: {what}")
        del state["devices"][names[0]]
        return ""
    if command == "create":
        table = words[words.index("--table") + 1]
        if names[0] in state["devices"]:
            what = f"create ioctl on {names[0]} failed: Device or resource busy"
            raise Refused(f"device-mapper: {what}")
        _add(state, names[0], table, readonly="--readonly" in words)
        return ""
    raise Refused(f"Unknown command: {command}")


def main(path: Path, words: list[str]) -> NoReturn:
    assert os.environ["LC_ALL"] == "C"
    # What is asked, without options and the like.
    plain = [word for word in words if word in ("--noflush",) or not word.startswith("-")]
    asked = " ".join(plain)
    with _state(path) as state:
        state["log"].append(asked)
        delays = [seconds for what, seconds in state["slow"].items() if asked.startswith(what)]
        refusals = [text for what, text in state["fail"].items() if asked.startswith(what)]
    if delays:
        time.sleep(delays[0])
    if refusals and refusals[0].startswith("signal "):
        os.kill(os.getpid(), getattr(signal, refusals[0].split()[1]))
    try:
        if refusals:
            raise Refused(refusals[0])
        with _state(path) as state:
            out = _run(state, words)
    except Refused as refused:
        print(refused, "Command failed.", sep="\n", file=sys.stderr)
        sys.exit(1)
    sys.stdout.write(out)
    sys.exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
