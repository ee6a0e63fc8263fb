"""What one large transaction adds to a process; `benches/run engine` reads its peak.

    memory.py hold   STORE KEYS COUNT CALL    imports and arrays alone
    memory.py insert STORE KEYS COUNT CALL    and the inserts: one transaction, CALL keys a call
    memory.py check  STORE KEYS COUNT CALL    whether the store holds 0..COUNT, each its own value

KEYS is a permutation of 0..COUNT. It is read into place, so that nothing but the arrays stands in
the peak of `hold`.
"""

from __future__ import annotations

import importlib
import sys
from array import array
from pathlib import Path
from typing import Any

CACHE_BYTES = 64 << 20
STORE_BYTES = 2 << 30


def read(path: str, count: int) -> memoryview:
    words = bytearray(8 * count)
    with open(path, "rb", buffering=0) as file:
        view, at = memoryview(words), 0
        while at < len(words):
            got = file.readinto(view[at:])
            if not got:
                raise ValueError(f"{path} has fewer keys")
            at += got
    return memoryview(words).cast("Q")


def insert(store_type: Any, path: str, keys: memoryview, values: memoryview, each: int) -> None:
    Path(path).unlink(missing_ok=True)
    with store_type.create(path, size_bytes=STORE_BYTES, cache_bytes=CACHE_BYTES) as store:
        with store.transaction() as txn:
            tree = txn.tree("m")
            for at in range(0, len(keys), each):
                tree.insert_many(keys[at : at + each], values[at : at + each])


def check(store_type: Any, path: str, count: int, each: int) -> None:
    with store_type.open(path, mode="r") as store, store.view() as view:
        tree = view.tree("m")
        for at in range(0, count, each):
            stop = min(at + each, count)
            entries, wanted = tree.entries(at, stop), array("Q", range(at, stop))
            if any(memoryview(words) != wanted for words in (entries.keys, entries.values)):
                raise SystemExit(f"the store is wrong between {at} and {stop}")
        if len(tree.entries(count)):
            raise SystemExit("the store holds more than was inserted")


def main() -> None:
    what, path, keys_path, count, each = sys.argv[1:]
    store_type = importlib.import_module("thinmeta.engine").Store
    if what == "check":
        check(store_type, path, int(count), int(each))
        return
    keys, values = read(keys_path, int(count)), read(keys_path, int(count))
    if what == "insert":
        insert(store_type, path, keys, values, int(each))


if __name__ == "__main__":
    main()
