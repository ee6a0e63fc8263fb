#!/usr/bin/env python3
"""The main job of thinmeta on a real pool: list, check, compare, extract, prove, change.

    make demo

The pool in examples/pool was written by a Linux kernel. What the kernel read from its
volumes is recorded below, and the demo compares with that. Then the pool is changed. After
that comes the engine below, as a store of one's own: a process is killed in the middle of a
transaction. It ends with backups: of two states of a volume, the second incrementally.
"""

import array
import hashlib
import lzma
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import thinmeta
from thinmeta.engine import Store

POOL = Path(__file__).resolve().parent / "pool"

#: What Linux 6.1 read from each volume before it let go of the pool.
SIZE_BYTES = 10_498_048
SHA256_THROUGH_THE_KERNEL = {
    2: "c7b89633845b76c473c804fea9f593d4561ac72097ddb4abf022911153fbd900",
    0: "03fded8b681aaeabd4b0a4449ea6abaeff7c0f55fd28fd3747fa137809c55260",
    3: "2b5eb24b112e56f2375c6aad1f4a219d77797b19e3540709c45019a737ff90e6",
}

#: What another process does to the store: it never comes to the end of its transaction.
KILLED = """\
with Store.open("s.img", cache_bytes=1 << 20) as store:
    with store.transaction() as txn:
        keys = array.array("Q", range(0, 1_000_000, 3))
        txn.tree("squares").insert_many(keys, keys)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def tell(text: str) -> None:
    """Print a paragraph."""
    print(f"\n{textwrap.fill(' '.join(text.split()), 79)}\n")


def run(*words: str, cwd: Path, show: int = 20) -> str:
    """Show a command as a user types it, run it, and show what it printed."""
    program = Path(sys.executable).with_name("thinmeta")
    print(f"    $ thinmeta {' '.join(words)}", flush=True)
    done = subprocess.run(
        [str(program), *words],
        cwd=cwd,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines = done.stdout.splitlines()
    head, tail = (lines, []) if len(lines) <= show else (lines[: show - 4], lines[-3:])
    left_out = [f"... {len(lines) - len(head) - len(tail)} lines more ..."] if tail else []
    print(textwrap.indent("\n".join([*head, *left_out, *tail]), "    "))
    return done.stdout


def demo(folder: Path) -> None:
    tell("""A thin pool is how LVM, container engines and virtual machine hosts keep many
        volumes and snapshots in one place. Its data lie in one large device, in blocks of
        64 KiB here, in the order in which they were written. Its metadata, a small device
        of its own, say which block belongs to which place of which volume. Snapshots share
        blocks until one side writes. Without the metadata the data are a heap of pieces,
        and until now only the kernel could put them together.""")
    tell("""Here are two images that a Linux kernel wrote: metadata.img and data.img.
        We need no kernel and no root to read them. Which volumes does the pool hold?""")
    run("ls", "metadata.img", cwd=folder)
    tell("""DEV is a volume's number, MAPPED how much of it has been written. CREATE_TIME
        and SNAP_TIME are no dates but counts: the pool's clock ticks once with each
        snapshot, and they say where it stood when the volume was created and when it
        last took part in a snapshot. Volume 2 is a snapshot of volume 0, and 3 a snapshot
        of 2 that was written to later.
        Is the metadata sound? This reads and verifies all of it:""")
    run("check", "metadata.img", cwd=folder)
    tell("""What has changed in snapshot 3 since it was taken of volume 2? A backup has to copy
        these ranges and nothing else. The data are not read for that: the
        metadata know.""")
    run("delta", "metadata.img", "2", "3", cwd=folder)
    tell("""The same for volume 0 since snapshot 2 was taken. Parts of it were also discarded
        (trimmed) meanwhile: "left_only" is what only the snapshot still has.""")
    run("delta", "metadata.img", "2", "0", cwd=folder, show=14)
    tell("""Now the content. Put volume 0 together from the two images. (Its size is not
        in the metadata; LVM knows it.)""")
    run(
        *("extract", "metadata.img", "data.img", "0"),
        *("--size", str(SIZE_BYTES), "-o", "volume-0.img"),
        cwd=folder,
    )
    tell("""Is that what the kernel would have read? Its sha256 was taken through the kernel
        when the pool was made:""")
    prove("volume 0, extracted by the command", sha256(folder / "volume-0.img"), 0)

    tell("""From Python a volume is a file object; nothing is copied first:""")
    print("    >>> with thinmeta.open_pool('metadata.img', data='data.img') as pool:")
    print(f"    ...     volume = pool.devices[3].open(size_bytes={SIZE_BYTES})")
    print("    ...     hashlib.file_digest(volume, 'sha256').hexdigest()\n")
    with thinmeta.open_pool(folder / "metadata.img", data=folder / "data.img") as pool:
        with pool.devices[3].open(size_bytes=SIZE_BYTES) as volume:
            prove("volume 3, read in Python", hashlib.file_digest(volume, "sha256").hexdigest(), 3)
    change_demo(folder)
    store_demo(folder)
    backup_demo(folder)
    print()


CHANGE = """\
with thinmeta.open_pool("metadata.img", mode="r+", data="data.img") as pool:
    with pool.transaction() as txn:  # all of it, or nothing
        txn.create_snapshot(7, origin_id=3)
    with pool.devices[7].open(mode="r+", size_bytes=SIZE_BYTES) as volume:
        volume.seek(5 << 20)
        volume.write(b"written without a kernel")
"""


def change_demo(folder: Path) -> None:
    """Take a snapshot and write to it."""
    tell("""A pool can be changed, too, as the kernel would. Take a snapshot of volume 3, and
        write to it. What the two share stays where it is; the block that is written goes to
        a new place first, and the metadata point to it when it is durable.""")
    print(textwrap.indent(CHANGE.rstrip(), "    "))
    program = f"import thinmeta\nSIZE_BYTES = {SIZE_BYTES}\n{CHANGE}"
    subprocess.run([sys.executable, "-c", program], cwd=folder, check=True)
    tell("""What has changed? One block; and volume 3 is what it was:""")
    run("delta", "metadata.img", "3", "7", cwd=folder)
    with thinmeta.open_pool(folder / "metadata.img", data=folder / "data.img") as pool:
        with pool.devices[3].open(size_bytes=SIZE_BYTES) as volume:
            prove("volume 3, afterwards", hashlib.file_digest(volume, "sha256").hexdigest(), 3)
        with pool.devices[7].open(size_bytes=SIZE_BYTES) as volume:
            volume.seek(5 << 20)
            found = volume.read(24)
        print(f"    {'volume 7, what was written:':<36}{found.decode()}\n")
        if found != b"written without a kernel":
            sys.exit("    Something else. This is a bug in thinmeta: please report it.")
    run("check", "metadata.img", cwd=folder)


def store_demo(folder: Path) -> None:
    """Commit something, be killed while changing it, and find it again."""
    tell("""The engine that keeps such metadata is a library of its own: trees in a file or on a
        block device, changed by transactions. Here is a store with 100,000 squares. Then
        another process changes a third of them and adds 300,000, with a small cache, so that
        it has to write long before its commit. It is killed in the middle:""")
    path, keys = folder / "s.img", array.array("Q", range(100_000))
    squares = array.array("Q", (key * key for key in keys))
    with Store.create(path, size_bytes=32 << 20) as store:
        with store.transaction() as txn:
            txn.tree("squares").insert_many(keys, squares)
    before = path.read_bytes()

    print(textwrap.indent(KILLED, "    "))
    program = f"import array, os, signal\nfrom thinmeta.engine import Store\n{KILLED}"
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, check=False)
    if done.returncode != -signal.SIGKILL:
        sys.exit(f"    The other process ended with {done.returncode}.")

    after = path.read_bytes()
    blocks = range(0, len(after), 4096)
    written = sum(before[at : at + 4096] != after[at : at + 4096] for at in blocks)
    print(f"    {written:,} blocks of the file were written before it died. What is there?\n")
    with Store.open(path) as store, store.view() as view:
        found = view.tree("squares").entries()
    same = memoryview(found.keys) == memoryview(keys)
    if not same or memoryview(found.values) != memoryview(squares):
        sys.exit("    Something else. This is a bug in thinmeta: please report it.")
    print(f"    {len(found):,} squares: the last commit, whole, and nothing to repair.")


def backup_demo(folder: Path) -> None:
    """Back two states of a volume up, restore both, and compare them."""
    tell("""Last, backups. A repository is a folder, or a bucket of an object store. Volume 2 is
        a snapshot that nobody has written to. Back it up; equal blocks are stored once, and
        all of them compressed:""")
    source = ("--data", "data.img", "--size", str(SIZE_BYTES))
    run("backup", "init", "repository", cwd=folder)
    run("backup", "create", "repository", "metadata.img", "2", *source, cwd=folder)
    tell("""Volume 0, from which it was taken, has been written since. The metadata prove which
        blocks are the same: these are not read again. (If the snapshot had been deleted,
        its saved mappings would prove it. Of volume 0 they prove nothing: its own blocks are
        written in their places.)""")
    run("backup", "create", "repository", "metadata.img", "0", *source, cwd=folder)
    run("backup", "list", "repository", cwd=folder)
    tell("""Each can be restored by itself, and every piece is compared with its hash. Is that
        what the kernel had read?""")
    for number, device_id in ((1, 2), (2, 0)):
        target = f"restored-{device_id}.img"
        run("backup", "restore", "repository", str(number), target, cwd=folder)
        prove(f"volume {device_id}, restored", sha256(folder / target), device_id)
    print()
    run("backup", "verify", "repository", cwd=folder)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def prove(what: str, found: str, device_id: int) -> None:
    recorded = SHA256_THROUGH_THE_KERNEL[device_id]
    print(f"    {what + ':':<36}{found}")
    print(f"    {'recorded through the kernel:':<36}{recorded}")
    if found != recorded:
        sys.exit("    They differ. This is a bug in thinmeta: please report it.")
    print("    They are the same.")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="thinmeta-demo-") as name:
        folder = Path(name)
        for image in ("metadata.img", "data.img"):
            with lzma.open(POOL / f"{image}.xz") as packed, (folder / image).open("wb") as out:
                shutil.copyfileobj(packed, out)
        demo(folder)


if __name__ == "__main__":
    main()
