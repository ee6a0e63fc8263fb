"""Whether a path is the metadata of a pool that LVM manages, and what to know then."""

from __future__ import annotations

import os

from thinmeta.cli.output import write_error

__all__ = ["is_of_lvm", "warn_about_lvm"]

#: Where the kernel tells the name of a device-mapper node.
SYSFS = "/sys/class/block"


def warn_about_lvm(path: str) -> None:
    """Say on stderr, in one line, that LVM keeps a book of its own about this pool."""
    if is_of_lvm(path):
        write_error(
            f"thinmeta: warning: {path} looks like a pool of LVM, which keeps its own list of "
            "device ids and its own copy of the transaction id; neither is changed here: "
            "see docs/lvm.md\n"
        )


def is_of_lvm(path: str) -> bool:
    """Whether the name, or what it leads to, is what LVM calls a pool's metadata.

    LVM calls it POOL_tmeta. ``/dev/VG/POOL_tmeta`` and ``/dev/mapper/VG-POOL_tmeta`` may
    be links to a device-mapper node, ``/dev/dm-3``, whose name only sysfs knows.
    """
    real = os.path.realpath(path)
    names = [os.path.basename(path), os.path.basename(real)]
    try:
        with open(f"{SYSFS}/{names[1]}/dm/name", encoding="utf-8") as name:
            names.append(name.read().strip())
    except (OSError, ValueError):  # no device-mapper node
        pass
    return any(_is_metadata_name(name) for name in names)


def _is_metadata_name(name: str) -> bool:
    pool, mark, rest = name.rpartition("_tmeta")
    return bool(pool and mark) and (not rest or (rest.isascii() and rest.isdigit()))
