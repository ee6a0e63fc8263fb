"""The persistent-data engine as a library: crash-safe copy-on-write trees in a file or device.

Five lines are enough::

    from thinmeta.engine import Store

    with Store.create("s.img", size_bytes=64 << 20) as store:
        with store.transaction() as txn:
            txn.tree("inodes")[7] = 42
            txn.snapshot("inodes", "inodes@monday")
        with store.view() as view:
            assert view.tree("inodes")[7] == 42

A transaction is durable as a whole or has not happened; a snapshot costs the same
whatever its size; a view reads one commit while others are made. One process writes
at a time.

What a store is made of can be had by itself: :mod:`thinmeta.engine.block` (blocks under
locks), :mod:`thinmeta.engine.space` (reference counts) and
:mod:`thinmeta.engine.transaction` (transactions on blocks, and trees and
arrays whose roots you keep).

Names are imported when they are first used.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from thinmeta.engine.block import BlockManager, CrcValidator, ReadLock, Validator, WriteLock
    from thinmeta.engine.session import StoreTransaction, StoreView
    from thinmeta.engine.space import CheckingSpaceMap, SpaceMap
    from thinmeta.engine.store import Store
    from thinmeta.engine.transaction import (
        Array,
        Bitset,
        TransactionManager,
        TransactionScope,
        Tree,
    )
    from thinmeta.engine.tree import BTree, Entries

__all__ = [
    "Array",
    "BTree",
    "Bitset",
    "BlockManager",
    "CheckingSpaceMap",
    "CrcValidator",
    "Entries",
    "ReadLock",
    "SpaceMap",
    "Store",
    "StoreTransaction",
    "StoreView",
    "TransactionManager",
    "TransactionScope",
    "Tree",
    "Validator",
    "WriteLock",
]

if not TYPE_CHECKING:  # a checker must still refuse names that are not there
    _HOMES = {
        "block": "BlockManager CrcValidator ReadLock Validator WriteLock",
        "space": "CheckingSpaceMap SpaceMap",
        "session": "StoreTransaction StoreView",
        "store": "Store",
        "transaction": "Array Bitset TransactionManager TransactionScope Tree",
        "tree": "BTree Entries",
    }

    def __getattr__(name):
        from importlib import import_module

        for home, names in _HOMES.items():
            if name in names.split():
                value = globals()[name] = getattr(import_module(f"thinmeta.engine.{home}"), name)
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *__all__})
