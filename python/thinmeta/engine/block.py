"""Blocks of a device: cached, locked, checked when read, sealed when written.

The lowest layer of the engine, for who builds a format of their own::

    >>> from thinmeta.engine import BlockManager, CrcValidator
    >>> leaf = CrcValidator("leaf", salt=0x1EAF)
    >>> bm = BlockManager.in_memory(blocks=16)
    >>> with bm.write_lock_zero(3, leaf) as lock, memoryview(lock) as view:
    ...     view[64:69] = b"hello"
    >>> bm.flush()
    >>> with bm.read_lock(3, leaf) as lock:
    ...     view = memoryview(lock)
    >>> bytes(view[64:69])          # read views survive the release
    b'hello'
    >>> view.release()
    >>> bm.close()

Blocks have 4096 bytes: a checksum in bytes 0 to 3 and the block's own number in bytes
8 to 15, which are put in when it is written, and whatever you like in the others. A
lock is a context manager, and a ``memoryview`` of it shows the bytes. Release the
views of a write lock before the lock: while one is in use, leaving the ``with`` block
quietly is a :class:`BufferError` and the lock stays held. Left by an exception, the
lock is released all the same; the block gets what the view shows at that moment, and
what is written to the view later goes nowhere.

What no ``CrcValidator`` describes is a subclass of :class:`Validator` that defines
``check(self, location, data)`` and ``prepare(self, location, data)``: both are called
with a memoryview of the block, and must not use the engine.
"""

from thinmeta._core import BlockManager, CrcValidator, ReadLock, Validator, WriteLock

__all__ = ["BlockManager", "CrcValidator", "ReadLock", "Validator", "WriteLock"]
