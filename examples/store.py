#!/usr/bin/env python3
"""Keep the sizes of a folder's files in a store, and say what has changed since last time.

    store.py STORE FOLDER

Each run is one transaction: power may fail at any moment, and the next run finds the
state after some earlier run, whole. The state before each run is kept as a snapshot,
which costs a few blocks whatever it is of.
"""

import argparse
from pathlib import Path

from thinmeta.engine import BTree, Store


def scan(folder: Path) -> dict[int, int]:
    """The size of each file below a folder, by inode number."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        found[status.st_ino] = status.st_size
    return found


def update(tree: BTree[int], now: dict[int, int]) -> tuple[int, int, int]:
    """Make the tree what is there now; return how many came, changed and went."""
    before = dict(tree.items())
    gone = before.keys() - now.keys()
    changed = {key: size for key, size in now.items() if before.get(key) != size}
    tree.update(changed)
    for key in gone:
        del tree[key]
    new = len(changed.keys() - before.keys())
    return new, len(changed) - new, len(gone)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    if not options.store.exists():
        Store.create(options.store, size_bytes=64 << 20).close()  # a sparse file

    with Store.open(options.store) as store:
        with store.transaction() as txn:  # commits, or rolls back on an error
            runs = sum(name.startswith("run ") for name in txn.names())
            tree = txn.tree("now")
            txn.snapshot("now", f"run {runs:06}")  # the state before this run
            new, changed, gone = update(tree, scan(options.folder))
        with store.view() as view:
            files = len(view.tree("now"))
            space = store.space
    print(f"{files} entries; {new} new, {changed} changed, {gone} gone")
    print(f"{runs + 1} runs kept in {space.allocated} blocks of 4096 bytes")


if __name__ == "__main__":
    main()
