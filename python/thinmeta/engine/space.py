"""Space maps: how many references blocks have, and which are free.

A block is handed out only when it is free now *and* was at the last commit, so that
nothing that the committed state reaches is ever overwritten::

    >>> from thinmeta.engine import SpaceMap
    >>> space = SpaceMap.in_memory(blocks=2)
    >>> space.new_block(), space.new_block()
    (0, 1)
    >>> space.commit()
    >>> space.dec(0)
    >>> space.nr_free, space.get_count(0)
    (0, 0)
    >>> space.commit()
    >>> space.new_block()
    0

The map that counts the metadata's own blocks comes with a
:class:`thinmeta.engine.TransactionManager`; maps of another device's blocks are made
in its transactions by :meth:`SpaceMap.create_data`, and go back to the last commit with
them. :class:`CheckingSpaceMap` holds any of them to the laws.
"""

from thinmeta._core import CheckingSpaceMap, SpaceMap

__all__ = ["CheckingSpaceMap", "SpaceMap"]
