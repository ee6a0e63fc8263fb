#!/usr/bin/env python3
"""Backups, a replica and a stream of a volume in use, on a pool in a real kernel.

    make demo-live

The kernel is User Mode Linux, an ordinary process: this needs no root, and touches no device
of the host's. In there this program is started once more, and does what a person would do at
a shell; what is restored or copied is compared with what that kernel reads.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import threading
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NoReturn

HERE = Path(__file__).resolve()
#: What starts a kernel is shared with the tests that run in one.
LAUNCHER = HERE.parent.parent / "tests"
#: A line comes at least that often, also on a slow machine.
SILENCE_SECONDS = 300.0
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
#: Programs that are needed in there, and Debian's packages of them.
PROGRAMS = {"dmsetup": "dmsetup", "mkfs.ext4": "e2fsprogs"}

SECTORS = 262_144  # of 512 bytes: 128 MiB
POOL = '"0 1048576 thin-pool /dev/ubda /dev/ubdb 128 0 1 no_discard_passdown"'


def search_path() -> str:
    """Where programs are, those of administrators too, whoever calls."""
    return f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}:{SBIN}"


def boot() -> int:
    """Start the kernel with this program in it, and print what that prints."""
    sys.path.insert(0, str(LAUNCHER))
    from kernel.uml import KERNEL, Guest, KernelError, find_kernel

    kernel = find_kernel()
    lacking = {KERNEL: "user-mode-linux"} if kernel is None else {}
    path = search_path()
    lacking |= {name: each for name, each in PROGRAMS.items() if not shutil.which(name, path=path)}
    for program, package in lacking.items():
        print(
            f"demo-live: {program} is not installed: it is in Debian's package {package}",
            file=sys.stderr,
        )
    if kernel is None or lacking:
        return 1
    config = {
        "folder": str(HERE.parent.parent),
        "environment": dict(os.environ),
        "call": ["kernel.guest", "run", [sys.executable, "-u", str(HERE)]],
    }
    status = 1
    try:
        with closing(Guest(kernel, config)) as guest:
            try:
                for message in guest.messages(silence_seconds=SILENCE_SECONDS):
                    if "line" in message:
                        print(message["line"], flush=True)
                    status = message.get("ended", status)
            except KernelError:
                print(guest.console_text(), file=sys.stderr)
                raise
    except (KernelError, OSError, subprocess.CalledProcessError) as error:
        print(f"demo-live: {kernel}: {error}", file=sys.stderr)
        return 1
    return 0 if status == 0 else 1


# ---- from here on: inside ----


def tell(text: str) -> None:
    """Print a paragraph."""
    print(f"\n{textwrap.fill(' '.join(text.split()), 79)}\n")


def fail(text: str, *, bug: bool = True) -> NoReturn:
    """End the demo, which has not shown what it should."""
    sys.exit(f"    {text}" + (" This is a bug in thinmeta: please report it." if bug else ""))


class Shell:
    """Commands in a folder, each printed as it is typed, with what it prints."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.proofs = 0  # comparisons that held
        self.environment = {
            **os.environ,
            "PATH": search_path(),
            "CHECKOUT": str(HERE.parent.parent),
            "LC_ALL": "C",
            # There is no udev in there: dmsetup has to make its nodes itself.
            "DM_DISABLE_UDEV": "1",
            # /run and /var are the host's, and cannot be written to from in there.
            "THINMETA_RUN_DIR": str(folder / "run"),
            "THINMETA_STATE_DIR": str(folder / "state"),
        }

    def quietly(self, line: str) -> str:
        """What a command prints.

        Raises:
            CalledProcessError: It ended with another status than 0.
        """
        return subprocess.run(
            ["/bin/bash", "-o", "pipefail", "-c", line],
            cwd=self.folder,
            env=self.environment,
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ).stdout

    def run(self, line: str, *, head: int = 20, tail: int = 0) -> str:
        """Show a command, run it, and show what it printed: the first and the last lines."""
        print(f"    $ {line}")
        try:
            printed = self.quietly(line)
        except subprocess.CalledProcessError as error:
            print(textwrap.indent(error.output, "    "))
            fail(f"It ended with status {error.returncode}.", bug=line.startswith("thinmeta"))
        lines = printed.splitlines()
        left_out = len(lines) - head - tail
        if left_out > 0:
            lines[head : head + left_out] = [f"... {left_out} lines more ..."]
        for each in lines:
            print(f"    {each}")
        return printed

    def sha256(self, *names: str) -> set[str]:
        """Different hashes of files and devices."""
        return {row.split()[0] for row in self.run(f"sha256sum {' '.join(names)}").splitlines()}

    def prove(self, what: str, holds: bool) -> None:
        """Say that a comparison held, or end everything."""
        if not holds:
            fail(f"Different: {what}.")
        self.proofs += 1
        print(f"    The same: {what}.")


class Writer:
    """Appends lines to a file, each durable before the next, until it is told to stop."""

    def __init__(self, path: Path) -> None:
        self.lines = 0
        self._path = path
        self._stop = threading.Event()
        self._failure: OSError | None = None
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def _write(self) -> None:
        try:
            with self._path.open("ab", buffering=0) as file:
                while not self._stop.wait(0.01):
                    file.write(b"line %d\n" % (self.lines + 1))
                    os.fsync(file)
                    self.lines += 1
        except OSError as error:
            self._failure = error

    def stop(self) -> None:
        """Wait until it has stopped; again, it does nothing.

        Raises:
            OSError: What a write failed with.
        """
        self._stop.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure


def make_volume(shell: Shell, stack: ExitStack) -> Writer:
    """A pool, a volume with a file system in it, and somebody who uses it."""
    tell(f"""This is Linux {os.uname().release}, in a process of its own. It has two disks for a
        thin pool; both end with it. Make the pool, a volume of 128 MiB, and a file
        system with something in it:""")
    shell.run(f"dmsetup create pool --uuid demo --table {POOL}")
    stack.callback(shell.quietly, "dmsetup remove --retry pool")
    make_device(shell, stack, "home", 1, before='dmsetup message pool 0 "create_thin 1" && ')
    shell.run("mkfs.ext4 -q /dev/mapper/home && mkdir home && mount /dev/mapper/home home")
    stack.callback(unmount, shell, "home")
    shell.run('cp -r "$CHECKOUT"/{src,docs} home')
    shell.run("dd if=/dev/urandom of=home/photos bs=1M count=12 status=none && sync")
    writer = Writer(shell.folder / "home" / "log")
    stack.callback(writer.stop)
    tell("""From now on somebody uses it: a line is appended to home/log every hundredth of a
        second, and synced.""")
    shell.run("thinmeta live status pool", head=8, tail=2)
    shell.run("thinmeta ls pool")
    return writer


def make_device(
    shell: Shell,
    stack: ExitStack,
    name: str,
    device_id: int,
    *,
    before: str = "",
    options: str = "",
) -> None:
    """Activate a volume."""
    table = f'"0 {SECTORS} thin /dev/mapper/pool {device_id}"'
    shell.run(f"{before}dmsetup create {name}{options} --table {table}")
    stack.callback(shell.quietly, f"dmsetup remove --retry {name}")


def unmount(shell: Shell, name: str) -> None:
    if os.path.ismount(shell.folder / name):
        shell.quietly(f"umount {name}")


def create(shell: Shell, writer: Writer) -> tuple[str, range]:
    """A generation; the sha256 of what the kernel reads of that moment, and lines that may be."""
    before = writer.lines
    shell.run("thinmeta backup create repository pool home --volume home")
    after = writer.lines
    if after == before:
        fail("The writer stood still all the time.")
    print(f"    Meanwhile home/log grew from {before} lines to {after}.")
    # The volume has a low number, and the snapshot, made by nobody's wish, a high one.
    snapshot = shell.run("thinmeta ls pool | tail -n 1").split()[0]
    with ExitStack() as stack:
        make_device(shell, stack, "moment", int(snapshot), options=" --readonly")
        (digest,) = shell.sha256("/dev/mapper/moment")
    # A line may be there that was not counted yet.
    return digest, range(before, after + 2)


def back_up(shell: Shell, stack: ExitStack, writer: Writer) -> None:
    """Two generations of the volume, the second incremental; both restored."""
    tell("""Back it up. A snapshot is made and read, and stays until the next backup. The kernel
        can read it too, and says what was in the volume at that moment:""")
    shell.run("thinmeta backup init repository")
    first, _ = create(shell, writer)
    tell("""Some work: a part of a file is written anew, others are removed, and what they took
        up is discarded. The second backup reads what has changed, and nothing else.""")
    shell.run("dd if=/dev/urandom of=home/photos bs=1M count=2 seek=4 conv=notrunc status=none")
    shell.run("rm -r home/docs && fstrim -v home")
    second, lines = create(shell, writer)
    tell("""Restore the first to a file, and the second to a new volume, on which the kernel
        mounts the file system:""")
    shell.run("thinmeta backup list repository")
    shell.run("thinmeta backup verify repository")
    shell.run("thinmeta backup restore repository 1 restored.img")
    shell.prove("what the kernel had read then", shell.sha256("restored.img") == {first})
    make_device(shell, stack, "restored", 2, before='dmsetup message pool 0 "create_thin 2" && ')
    shell.run("thinmeta backup restore repository latest /dev/mapper/restored")
    same = shell.sha256("/dev/mapper/restored") == {second}
    shell.prove("what the kernel had read then", same)
    shell.run("mkdir restored && mount -o ro /dev/mapper/restored restored")
    stack.callback(unmount, shell, "restored")
    shell.run("diff -r home/src restored/src && wc -l restored/log")
    found = (shell.folder / "restored" / "log").read_bytes()
    count = found.count(b"\n")
    whole = found == b"".join(b"line %d\n" % number for number in range(1, count + 1))
    shell.prove(
        "the files, and home/log up to a line that was written during the backup",
        whole and count in lines,
    )


def copy(shell: Shell, writer: Writer) -> None:
    """A replica and a copy by streams, both twice."""
    tell("""A replica, and a copy by streams: first of the whole volume, while it is written.
        Then the writer stops, and what has changed since is sent.""")
    shell.run("thinmeta replicate pool home replica.img")
    shell.run("thinmeta send pool home | thinmeta receive copy.img")
    writer.stop()
    shell.run("rm -r home/src && umount home")
    shell.run("thinmeta replicate pool home replica.img")
    shell.run("thinmeta send pool home --from kept | thinmeta receive copy.img")
    same = len(shell.sha256("/dev/mapper/home", "replica.img", "copy.img")) == 1
    shell.prove("the volume and its copies", same)


def show() -> None:
    """All of it."""
    with ExitStack() as stack:
        folder = tempfile.TemporaryDirectory(prefix="demo-", dir="/dev/shm")
        shell = Shell(Path(stack.enter_context(folder)))
        writer = make_volume(shell, stack)
        back_up(shell, stack, writer)
        copy(shell, writer)
        shell.run("thinmeta check pool")
    tell(f"""Shown: a volume in use was backed up twice, restored, replicated and sent, the
        second time by what had changed. All {shell.proofs} comparisons held.""")


def main() -> int:
    if "THINMETA_IN_KERNEL" in os.environ:
        show()
        return 0
    try:
        return boot()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
