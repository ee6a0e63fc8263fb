"""Outside: boot a User Mode Linux and hear what its process 1 has to say."""

import json
import lzma
import os
import re
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

KERNEL = os.environ.get("THINMETA_KERNEL", "linux.uml")
#: What must be there before dm-thin can be used, and recording what a device is sent; and what
#: lvcreate looks for before it makes any snapshot, a thin one too.
MODULES = ("dm-thin-pool", "dm-log-writes", "dm-snapshot")
#: Sparse files: what is not used takes no room.
DISKS_MIB = {"ubda": 256, "ubdb": 2048, "ubdc": 512}
BOOT_SECONDS = 60.0

# A shell stands between: when its standard input ends, because we closed it or are no more,
# all processes that the kernel is made of end, and its disks go. They are a group of their own.
SHELL = r"""
report=$1; scratch=$2; shift 2
exec 3<&0
"$@" 3<&- </dev/null &
kernel=$!
{ read -r _ <&3; kill -KILL "-$kernel" "$kernel"; rm -rf "$scratch"; } 2>/dev/null &
watcher=$!
wait "$kernel"
printf '\n{"kernel": %d}\n' $? >/dev/fd/"$report"
kill -KILL "-$kernel" "$watcher" 2>/dev/null
"""

INIT = """#!{python} -IB
import sys
sys.path[:] = {path!r}
from kernel.guest import main
main({config!r})
"""


class KernelError(Exception):
    """The kernel did not start, ended early or fell silent."""


def find_kernel() -> str | None:
    found = shutil.which(KERNEL)
    return None if found is None else os.path.abspath(found)


def modules_folder(kernel: str) -> Path:
    """Where the modules of this very kernel are."""
    given = os.environ.get("THINMETA_KERNEL_MODULES")
    if given:
        return Path(given).resolve()
    said = subprocess.run([kernel, "--version"], capture_output=True, text=True, check=True)
    return Path("/usr/lib/uml/modules", said.stdout.split()[-1])


def _name(module: str) -> str:
    return re.sub(r"\.ko(\.\w+)?$", "", Path(module).name).replace("-", "_")


def module_files(folder: Path, scratch: Path) -> list[str]:
    """The modules that we need, each after those that it needs."""
    needs: dict[str, list[str]] = {}
    for line in (folder / "modules.dep").read_text().splitlines():
        module, _, rest = line.partition(":")
        needs[module] = rest.split()
    by_name = {_name(module): module for module in needs}
    built_in = {_name(line) for line in (folder / "modules.builtin").read_text().split()}
    order: list[str] = []

    def add(module: str) -> None:
        for need in needs[module]:
            if need not in order:
                add(need)
        if module not in order:
            order.append(module)

    for name in (each.replace("-", "_") for each in MODULES):
        if name in by_name:
            add(by_name[name])
        elif name not in built_in:
            raise KernelError(f"{folder} has no module {name}")
    return [_unpacked(folder / module, scratch) for module in order]


def _unpacked(module: Path, scratch: Path) -> str:
    if module.suffix == ".ko":
        return str(module)
    if module.suffix != ".xz":
        raise KernelError(f"{module}: compressed in a way that is not known here")
    plain = scratch / module.stem
    plain.write_bytes(lzma.decompress(module.read_bytes()))
    return str(plain)


class Guest:
    """One kernel that runs, and what it says: lines of JSON from its process 1.

    It sees the root filesystem of the host, read-only, has 512 MiB of memory and three
    disks, and is told in ``config`` what to do (``guest.main``, which wants ``folder``,
    ``environment`` and ``call``).
    """

    def __init__(self, kernel: str, config: Mapping[str, Any]) -> None:
        self.scratch = Path(tempfile.mkdtemp(prefix="thinmeta-kernel-"))
        self.console = b""
        try:
            self._boot(kernel, config)
        except BaseException:
            shutil.rmtree(self.scratch)
            raise

    def _boot(self, kernel: str, config: Mapping[str, Any]) -> None:
        folder = modules_folder(kernel)
        config = {**config, "modules": module_files(folder, self.scratch)}
        init = self.scratch / "init"
        init.write_text(INIT.format(python=sys.executable, path=sys.path, config=config))
        init.chmod(0o755)
        disks = []
        for number, (name, mib) in enumerate(DISKS_MIB.items()):
            disk = self.scratch / name
            with disk.open("wb") as file:
                file.truncate(mib << 20)
            # t: no discards, whose pieces would be smaller than any data block.
            disks.append(f"ubd{number}t={disk}")
        self._report, report = os.pipe()
        self._console, console = os.pipe()
        arguments = [
            *("mem=512M", "rootfstype=hostfs", "ro", f"init={init}", f"uml_dir={self.scratch}"),
            *("con=null", "con0=null,fd:1", "con1=null", "ssl=null", f"ssl0=null,fd:{report}"),
            # No second attempt: whoever is outside decides that.
            *("panic=-1", "noreboot", "loglevel=5", *disks),
        ]
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", SHELL, "sh", str(report), self.scratch, kernel, *arguments],
            stdin=subprocess.PIPE,
            stdout=console,
            stderr=console,
            pass_fds=[report],
            start_new_session=True,
            cwd="/",
            env={"PATH": os.environ.get("PATH", os.defpath)},
        )
        os.close(report)
        os.close(console)

    def messages(self, *, silence_seconds: float) -> Iterator[dict[str, Any]]:
        """What process 1 says, until the kernel has ended.

        Raises:
            KernelError: It ended unasked, or said nothing for too long.
        """
        selector = selectors.DefaultSelector()
        selector.register(self._report, selectors.EVENT_READ)
        selector.register(self._console, selectors.EVENT_READ)
        rest, patience, goodbye = b"", BOOT_SECONDS, False
        deadline = time.monotonic() + patience
        while True:
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                raise KernelError(f"the kernel said nothing for {patience:g} seconds")
            for key, _ in ready:
                got = os.read(key.fd, 1 << 16)
                if key.fd == self._console:
                    self.console = (self.console + got)[-(1 << 16) :]
                    if not got:
                        selector.unregister(self._console)
                    continue
                *lines, rest = (rest + got).split(b"\n")
                for line in filter(None, lines):
                    message: dict[str, Any] = json.loads(line)
                    if "kernel" in message:
                        if not goodbye:
                            raise KernelError(f"the kernel ended with status {message['kernel']}")
                        return
                    goodbye = goodbye or "ended" in message
                    patience = silence_seconds
                    deadline = time.monotonic() + patience
                    yield message

    def close(self) -> None:
        """End it, whatever it is doing, and leave nothing behind."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        os.close(self._report)
        os.close(self._console)
        shutil.rmtree(self.scratch, ignore_errors=True)  # the shell may be at it, too

    def console_text(self) -> str:
        """The last of what the kernel, and processes that had nowhere else, printed."""
        return self.console.decode(errors="replace").replace("\r\n", "\n")
