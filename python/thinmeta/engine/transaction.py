"""Transactions on blocks: all of what was changed becomes durable, or none of it.

Make a manager, change something, commit, and find it again::

    >>> from thinmeta.engine import (
    ...     Array, Bitset, BlockManager, CrcValidator, TransactionManager, Tree)
    >>> head, leaf = CrcValidator("head", salt=1, magic=0xFEED), CrcValidator("leaf", salt=2)
    >>> bm = BlockManager.in_memory(blocks=64)
    >>> tm, space, superblock = TransactionManager.create(bm, 0, head)
    >>> def fill(view: memoryview) -> None:
    ...     view[64:96] = space.copy_root()         # 32 bytes, wherever you want them
    ...     view[96:104] = where.to_bytes(8, "little")
    >>> with tm, tm.transaction(fill):              # commits, or rolls back on an error
    ...     with tm.new_block(leaf) as lock, memoryview(lock) as view:
    ...         where, view[64:69] = lock.location, b"hello"

    >>> tm, space, superblock = TransactionManager.open(
    ...     bm, 0, head, root_offset=64, root_max_len=32)
    >>> with superblock, memoryview(superblock) as view:
    ...     where = int.from_bytes(view[96:104], "little")
    >>> with tm, tm.read_lock(where, leaf) as lock, memoryview(lock) as view:
    ...     bytes(view[64:69])
    b'hello'
    >>> bm.close()

To change a block that is there, ask for :meth:`TransactionManager.shadow_block`: it
gives a copy where the last commit needs the old one, and then whatever points to the
block has to point to the copy.

A :class:`Tree` does that by itself. It is a B-tree whose root you keep::

    >>> tm, space, superblock = TransactionManager.create(
    ...     BlockManager.in_memory(blocks=64), 0, head)
    >>> def fill(view: memoryview) -> None:
    ...     view[64:96] = space.copy_root()
    ...     view[96:104] = tree.root.to_bytes(8, "little")
    >>> with tm.transaction(fill):
    ...     tree = Tree.create(tm, levels=2)        # trees in a tree: keys are pairs
    ...     tree[1, 100] = 7
    ...     tree[1, 50] = 8
    >>> tree[1, 50], (2, 50) in tree, list(tree.items(prefix=1))
    (8, False, [(50, 8), (100, 7)])

:class:`Array` and :class:`Bitset` hold many small things by their index::

    >>> array, bits = Array.create(tm, 1000), Bitset.create(tm, 1000)
    >>> array[10], bits[10] = 7, True
    >>> memoryview(array[9:12]).tolist(), bits.count()
    ([0, 7, 0], 1)
    >>> tm.close()
"""

from thinmeta._core import Array, Bitset, TransactionManager, TransactionScope, Tree

__all__ = ["Array", "Bitset", "TransactionManager", "TransactionScope", "Tree"]
