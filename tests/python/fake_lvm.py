"""A made-up LVM for tests: lvs, lvcreate, lvchange and lvremove over a made-up dmsetup.

What ``lvs`` prints has the form of what the real one printed (tests/fixtures/lvm); tests in
tests/kernel use the real one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NoReturn

from fake_dmsetup import FakeDmsetup, Refused, _add, _message, _state

PROGRAMS = ("lvs", "lvcreate", "lvchange", "lvremove")
UUID = "LVM-" + "g" * 32


class FakeLvm:
    """The group ``vg-1`` with the pool ``pool``, which has volume ``home``, thin device 1."""

    def __init__(self, dmsetup: FakeDmsetup, meta: Path, data: Path) -> None:
        self.dmsetup = dmsetup
        for name in PROGRAMS:
            program = dmsetup.bin / name
            code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); "
            code += (
                f"from fake_lvm import main; main({name!r}, {str(dmsetup.path)!r}, sys.argv[1:])"
            )
            (dmsetup.bin / f"{name}.py").write_text(code)
            program.write_text(f'#!/bin/sh\nexec {sys.executable} -B "$0.py" "$@"\n')
            program.chmod(0o755)
        dmsetup.add_pool("vg--1-pool-tpool", meta, data, uuid=f"{UUID}{'p' * 32}-tpool")
        with dmsetup.changed() as state:
            minor = state["devices"]["vg--1-pool-tpool"]["minor"]
            uuid = f"{UUID}{'p' * 32}-pool"
            _add(state, "vg--1-pool", f"0 524288 linear 1999:{minor} 0", uuid=uuid, readonly=True)
            state["volumes"] = {
                "home": {"thin_id": 1, "origin": "", "size": 10485760, "skip": False, "ro": False}
            }
            _activate(state, "home")

    def rows(self) -> dict[str, Any]:
        with self.dmsetup.changed() as state:
            found: dict[str, Any] = state["volumes"]
            return found


def _activate(state: dict[str, Any], name: str) -> None:
    volume = state["volumes"][name]
    minor = state["devices"]["vg--1-pool-tpool"]["minor"]
    table = f"0 {volume['size'] // 512} thin 1999:{minor} {volume['thin_id']}"
    _add(state, _device(name), table, uuid=f"{UUID}{name:x<32}", readonly=volume["ro"])


def _device(name: str) -> str:
    return f"vg--1-{name.replace('-', '--')}"


def _rows(state: dict[str, Any]) -> list[dict[str, str]]:
    rows = [
        {
            "lv_name": name,
            "thin_id": str(volume["thin_id"]),
            "lv_size": str(volume["size"]),
            "origin": volume["origin"],
            "lv_active": "active" if _device(name) in state["devices"] else "",
            "pool_lv": "pool",
        }
        for name, volume in state["volumes"].items()
    ]
    blank = {"thin_id": "", "origin": "", "lv_active": "active", "pool_lv": ""}
    return [*rows, {"lv_name": "pool", "lv_size": "268435456", **blank}]


def _volume(state: dict[str, Any], word: str) -> str:
    group, _, name = word.partition("/")
    if group != "vg-1" or name not in state["volumes"]:
        raise Refused(f'  Failed to find logical volume "{word}"')
    return name


def _run(state: dict[str, Any], program: str, words: list[str]) -> str:
    options = {word: words[at + 1] for at, word in enumerate(words[:-1]) if word.startswith("-")}
    if program == "lvs":
        assert options["--reportformat"] == "json" and "--nosuffix" in words
        if words[-1] != "vg-1":
            raise Refused(f'  Volume group "{words[-1]}" not found')
        return json.dumps({"report": [{"lv": _rows(state)}]}, indent=4)
    name = _volume(state, words[-1])
    if program == "lvcreate":
        new = options["--name"]
        if new in state["volumes"]:
            raise Refused(f'  Logical Volume "{new}" already exists in volume group "vg-1"')
        origin = state["volumes"][name]
        thin_id = max(volume["thin_id"] for volume in state["volumes"].values()) + 1
        ids = f"{thin_id} {origin['thin_id']}"
        _message(state, "vg--1-pool-tpool", f"create_snap {ids}")
        state["volumes"][new] = {
            "thin_id": thin_id,
            "origin": name,
            "size": origin["size"],
            "skip": options["--setactivationskip"] == "y",
            "ro": options["--permission"] == "r",
        }
    elif program == "lvchange" and options["--activate"] == "y":
        assert "--ignoreactivationskip" in words or not state["volumes"][name]["skip"]
        if _device(name) not in state["devices"]:
            _activate(state, name)
    elif program == "lvchange":
        state["devices"].pop(_device(name), None)
    else:
        assert "--force" in words
        state["devices"].pop(_device(name), None)
        _message(state, "vg--1-pool-tpool", f"delete {state['volumes'].pop(name)['thin_id']}")
    return ""


def main(program: str, path: str, words: list[str]) -> NoReturn:
    asked = " ".join([program, *words])
    with _state(Path(path)) as state:
        state["log"].append(asked)
        refusals = [text for what, text in state["fail"].items() if asked.startswith(what)]
    try:
        if refusals:
            raise Refused(refusals[0])
        with _state(Path(path)) as state:
            print(_run(state, program, words))
    except Refused as refused:
        print(refused, file=sys.stderr)
        sys.exit(5)
    sys.exit(0)
