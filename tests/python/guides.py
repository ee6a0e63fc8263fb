"""Guides whose commands are run, and print what is shown."""

from __future__ import annotations

import lzma
import re
import subprocess
from pathlib import Path

import thinmeta
from command import ThinmetaCommand

POOL = Path(__file__).resolve().parents[2] / "examples" / "pool"
#: What a guide may show besides our own commands.
OTHERS = {"truncate"}


def unpack_example(folder: Path) -> None:
    """The pool of examples/ as guides have it: its metadata snapshot is released."""
    for name, image in (("pool_tmeta.img", "metadata.img"), ("pool_tdata.img", "data.img")):
        (folder / name).write_bytes(lzma.decompress((POOL / f"{image}.xz").read_bytes()))
    with thinmeta.open_pool(folder / "pool_tmeta.img", mode="r+") as pool:
        with pool.transaction() as txn:
            txn.release_metadata_snapshot()


def run_console(page: Path, command: ThinmetaCommand, folder: Path) -> int:
    """Run what a page shows, one command after the other, in a folder.

    What a command prints begins with what is shown. Returns how many commands of ours there
    were.
    """
    commands = 0
    for block in re.findall(r"^```console\n(.*?)^```$", page.read_text(), re.DOTALL | re.M):
        for shown in re.split(r"^\$ ", block, flags=re.M)[1:]:
            line, _, printed = shown.partition("\n")
            program, *words = line.split()
            if program != "thinmeta":
                assert program in OTHERS
            argv = command.argv(*words) if program == "thinmeta" else [program, *words]
            done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
            assert done.returncode == 0, (line, done.stderr)
            assert done.stdout.startswith(printed), line
            commands += program == "thinmeta"
    return commands
