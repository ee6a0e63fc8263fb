"""Real LVM on a disk of the guest's: a volume group with one thin pool, for one test.

There is no udev in there, and nothing but ``/dev`` and ``/dev/shm`` can be written to. LVM
works all the same when it is told so, in a configuration of its own: it makes the nodes itself,
and keeps its locks beside that file. A command takes half a second there.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from kernel import blockdev
from kernel.dm import SECTOR
from oracles import require

DISK = "/dev/ubdc"
EXTENT_BYTES = 4 << 20
#: What is asked of each logical volume; examples of the answers are in tests/fixtures/lvm.
FIELDS = (
    "lv_name,lv_uuid,lv_attr,lv_active,lv_size,lv_tags,lv_path,lv_dm_path,pool_lv,origin,thin_id,"
    "data_lv,metadata_lv,chunk_size,transaction_id,lv_check_needed"
)

CONFIGURATION = """\
devices {{
    dir = "/dev"
    scan = ["/dev"]
    filter = ["a|^{disk}$|", "r|.*|"]
    use_devicesfile = 0
    hints = "none"
    obtain_device_list_from_udev = 0
    external_device_info_source = "none"
}}
activation {{
    udev_sync = 0
    udev_rules = 0
    monitoring = 0
}}
global {{
    locking_dir = "{folder}/lock"
    event_activation = 0
    use_lvmpolld = 0
    use_lvmlockd = 0
    {more}
}}
backup {{
    backup = 0
    archive = 0
}}
"""
_ENVIRONMENT = {
    # dmsetup, too, has to make its nodes itself.
    "DM_DISABLE_UDEV": "1",
    "LC_ALL": "C",
    "LVM_SUPPRESS_FD_WARNINGS": "1",
}


class LvmError(Exception):
    """A command of LVM's, or dmsetup, failed; what it said is in :attr:`text`."""

    def __init__(self, words: tuple[str, ...], text: str) -> None:
        super().__init__(words, text)
        self.words, self.text = words, text

    def __str__(self) -> str:
        return f"{' '.join(self.words)}: {self.text.strip()}"


def run(*words: str) -> str:
    """What a program of LVM's, or dmsetup, prints.

    Raises:
        LvmError: It ended with another status than 0.
    """
    program = require("dmsetup") if words[0] == "dmsetup" else require("lvm")
    # LVM is one program, which does what the name says that it was called by.
    done = subprocess.run(words, executable=program, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LvmError(words, done.stderr)
    return done.stdout


class VolumeGroup:
    """A volume group on a disk, with a thin pool in it; a context manager that takes it down.

    While it is there, programs that this process starts find it, by ``LVM_SYSTEM_DIR``.
    """

    def __init__(
        self,
        *,
        name: str = "vg",
        pool: str = "pool",
        data_bytes: int = 128 << 20,
        metadata_bytes: int = 4 << 20,
        thin_check: str | None = None,
        thin_check_options: tuple[str, ...] = (),
        thin_repair: str | None = None,
    ) -> None:
        require("lvm")
        require("dmsetup")
        self.name, self.pool = name, pool
        with ExitStack() as stack:
            folder = tempfile.mkdtemp(prefix="lvm-")
            stack.callback(shutil.rmtree, folder)
            more = "" if thin_check is None else f'thin_check_executable = "{thin_check}"'
            if thin_check_options:
                words = ", ".join(f'"{word}"' for word in thin_check_options)
                more += f"\nthin_check_options = [ {words} ]"
            if thin_repair is not None:
                more += f'\nthin_repair_executable = "{thin_repair}"'
            text = CONFIGURATION.format(disk=DISK, folder=folder, more=more)
            Path(folder, "lvm.conf").write_text(text)
            stack.enter_context(_environment({**_ENVIRONMENT, "LVM_SYSTEM_DIR": folder}))
            # What an earlier test has left there is nobody's any more.
            _wipe()
            stack.callback(_wipe)
            run("vgcreate", "--quiet", "--yes", name, DISK)
            stack.callback(run, "vgchange", "--yes", "--activate", "n", name)
            run(
                *("lvcreate", "--quiet", "--yes", "--type", "thin-pool", "--name", pool),
                *("--size", f"{data_bytes}b", "--poolmetadatasize", f"{metadata_bytes}b"),
                # What the disk cannot is not asked of it: else the kernel's log has a warning.
                *("--discards", "nopassdown", name),
            )
            self._resources = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def full_name(self, volume: str) -> str:
        """As LVM's commands want it."""
        return f"{self.name}/{volume}"

    def path(self, volume: str) -> str:
        return f"/dev/{self.name}/{volume}"

    @property
    def metadata(self) -> str:
        """The node of the pool's metadata, while they are active."""
        return self._mapper("_tmeta")

    @property
    def data(self) -> str:
        return self._mapper("_tdata")

    def metadata_offset_bytes(self) -> int:
        """Where on the disk the pool's metadata lie; asked while they are active."""
        table = run("dmsetup", "table", self.metadata).split()
        assert table[2] == "linear", table
        return int(table[4]) * SECTOR

    def _mapper(self, suffix: str) -> str:
        group, pool = self.name.replace("-", "--"), self.pool.replace("-", "--")
        return f"/dev/mapper/{group}-{pool}{suffix}"

    def create_thin(self, name: str, *, size_bytes: int) -> str:
        """A thin volume, active; returns its path."""
        run(
            *("lvcreate", "--quiet", "--name", name, "--virtualsize", f"{size_bytes}b"),
            *("--thinpool", self.pool, self.name),
        )
        return self.path(name)

    def create_snapshot(self, name: str, *, origin: str, active: bool = False) -> str:
        """A thin snapshot; LVM does not activate one unless it is told to. Returns its path."""
        skip = ["--setactivationskip", "n"] if active else []
        run("lvcreate", "--quiet", "--snapshot", *skip, "--name", name, self.full_name(origin))
        return self.path(name)

    def remove(self, name: str) -> None:
        run("lvremove", "--quiet", "--yes", self.full_name(name))

    def activate(self, *names: str) -> None:
        """Volumes or the pool, snapshots too."""
        full = map(self.full_name, names)
        run("lvchange", "--activate", "y", "--ignoreactivationskip", "--yes", *full)

    def deactivate(self, *names: str) -> None:
        run("lvchange", "--activate", "n", "--yes", *map(self.full_name, names))

    def deactivate_all(self) -> None:
        run("vgchange", "--quiet", "--activate", "n", self.name)

    def message(self, text: str) -> None:
        """Tell the kernel's pool something; a thin volume has to be there."""
        run("dmsetup", "message", self._mapper("-tpool"), "0", text)

    def volumes(self) -> dict[str, dict[str, str]]:
        """What ``lvs`` says of each volume, hidden ones in their brackets."""
        printed = run(
            *("lvs", "--all", "--reportformat", "json", "--units", "b", "--nosuffix"),
            *("--options", FIELDS, self.name),
        )
        (report,) = json.loads(printed)["report"]
        return {row["lv_name"]: row for row in report["lv"]}

    def thin_ids(self) -> dict[str, int]:
        """The device id of each thin volume, by its name."""
        rows = self.volumes().items()
        return {name: int(row["thin_id"]) for name, row in rows if row["thin_id"]}

    @contextmanager
    def metadata_swapped_out(self, *, spare: str = "spare") -> Iterator[str]:
        """The metadata as an ordinary volume, all else inactive: the recipe of docs/lvm.md.

        The pool is inactive afterwards, and has its metadata again.
        """
        size = self.volumes()[f"[{self.pool}_tmeta]"]["lv_size"]
        self.deactivate_all()
        run(
            *("lvcreate", "--quiet", "--activate", "n", "--zero", "n", "--wipesignatures", "n"),
            *("--name", spare, "--size", f"{size}b", self.name),
        )
        self._swap_metadata(spare)
        try:
            self.activate(spare)
            yield self.path(spare)
        finally:
            self.deactivate(spare)
            self._swap_metadata(spare)
            self.remove(spare)

    def _swap_metadata(self, spare: str) -> None:
        run(
            *("lvconvert", "--quiet", "--yes", "--swapmetadata", "--poolmetadata"),
            *(self.full_name(spare), self.full_name(self.pool)),
        )


def _wipe() -> None:
    """Take LVM's label, and all that it has written of its own, off the disk."""
    blockdev.write(DISK, 0, bytes(EXTENT_BYTES))


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
