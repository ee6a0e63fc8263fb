"""Inside: process 1, which is this interpreter. No shell, no init, no udev.

It mounts, loads modules, calls a function in a child and halts. What it says goes out by the
first serial line, as lines of JSON.
"""

import ctypes
import importlib
import json
import os
import subprocess
import tty
from typing import Any

REPORT = "/dev/ttyS0"
SYS_FINIT_MODULE = 313  # x86-64, the only machine that User Mode Linux is packaged for
POWER_OFF = 0x4321FEDC

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(what: str, result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def _mount(kind: str, where: str) -> None:
    os.makedirs(where, exist_ok=True)
    _checked(where, _libc.mount(b"none", where.encode(), kind.encode(), 0, None))


def _prepare(config: dict[str, Any]) -> None:
    _mount("proc", "/proc")
    _mount("sysfs", "/sys")
    if not os.path.exists(REPORT):  # most kernels have mounted it themselves
        _mount("devtmpfs", "/dev")
    # The only folder that can be written to; tests put temporary files here.
    _mount("tmpfs", "/dev/shm")
    for module in config["modules"]:
        with open(module, "rb") as file:
            _checked(module, _libc.syscall(SYS_FINIT_MODULE, file.fileno(), b"", 0))
    os.environ.clear()
    os.environ.update(config["environment"], TMPDIR="/dev/shm", THINMETA_IN_KERNEL=REPORT)
    os.chdir(config["folder"])


def say(message: dict[str, Any]) -> None:
    """One line to whoever is outside."""
    line = memoryview(json.dumps(message).encode() + b"\n")
    descriptor = os.open(REPORT, os.O_WRONLY | os.O_NOCTTY)
    try:
        while line:
            line = line[os.write(descriptor, line) :]
    finally:
        os.close(descriptor)


def run(words: list[str]) -> int:
    """Run a program, say each line that it prints, and return its exit status."""
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as program:
        assert program.stdout is not None
        for line in program.stdout:
            say({"line": line.decode(errors="replace").rstrip("\n")})
    return program.returncode


def _call(module: str, function: str, *arguments: Any) -> int:
    """Call what was asked for, which returns an exit status."""
    # Imported by the child alone: process 1 stays small.
    return int(getattr(importlib.import_module(module), function)(*arguments))


def main(config: dict[str, Any]) -> None:
    """All that process 1 does; it does not come back.

    Args:
        config: ``modules``: the files to load, in this order; ``environment`` and ``folder`` of
            the child; ``call``: a module, the name of a function of it that returns an exit
            status, and its arguments.
    """
    failed = None
    try:
        _prepare(config)
        # Held open to the end: the line keeps its mode only while somebody has it open.
        line = os.open(REPORT, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(line)
        say({"started": os.uname().release})
        child = os.fork()
        if child == 0:
            os._exit(_call(*config["call"]))
        _, status = os.waitpid(child, 0)
        say({"ended": os.waitstatus_to_exitcode(status)})
        os.close(line)  # and wait until all of it is out
    except BaseException as error:
        failed = error
    if failed is not None:
        # An exception that left process 1 would be a panic, and hide what it was.
        print(f"process 1: {failed!r}", flush=True)
    os.sync()
    _libc.reboot(POWER_OFF)
