"""Reading single blocks, and ways through trees of them, without ever failing.

Each call reads a bounded number of blocks, anew each time: nothing is kept, so that what
is shown of a pool in use is what is there now. Damage is a value, a :class:`Trouble`.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from thinmeta import _core
from thinmeta.arguments import MAX_U64
from thinmeta.explore.seen import BITMAP_ENTRIES, MANY, Found, Node, Seen, Trouble
from thinmeta.types import Superblock

if TYPE_CHECKING:
    from typing import Any, Literal

    from thinmeta.explore.places import Map, Role
    from thinmeta.types import SpaceMapRoot

__all__ = ["Metadata"]

#: How often block 0 of a pool in use is read again, and after what time.
LIVE_TRIES, LIVE_PAUSE_SECONDS = 4, 0.002
#: No tree is deeper.
MAX_DEPTH = 16
#: Nodes that are read for one list, beyond one for each row.
SPARE_NODES = 64


class Metadata:
    """The blocks of a metadata device or image, open for reading.

    Args:
        path: The device or image.
        metadata_snapshot: As :func:`thinmeta.open_pool` takes it; with it a pool in use
            may be read.

    Raises:
        OSError: It cannot be opened.
        DeviceInUseError: Somebody uses it, and no snapshot was asked for.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        metadata_snapshot: Literal["held"] | int | None = None,
    ) -> None:
        self.path = os.fspath(path)
        self.metadata_snapshot = metadata_snapshot
        self._native = _core.MetadataReader(self.path, metadata_snapshot=metadata_snapshot)
        self.nr_blocks = self._native.nr_blocks

    def close(self) -> None:
        """Let go of the device."""
        self._native.close()

    def pool(self) -> _core.Pool:
        """The pool, on the same open device, for what reads all of it."""
        return self._native.pool()

    def see(
        self,
        block: int,
        role: Role | None = None,
        *,
        low: int | None = None,
        high: int | None = None,
        path: tuple[int, ...] = (),
    ) -> Seen:
        """Read a block; the arguments are those of a :class:`BlockPlace`."""
        if block > MAX_U64:
            trouble = Trouble("bad-pointer", "fatal", "no device has such a block", block)
            return Seen(block=block, troubles=(trouble,))
        expected = "superblock" if role == "snapshot" else role
        fields = self._native.look(block, expected=expected, low=low, high=high)
        troubles = [
            Trouble(_code(role, code), severity, message, block)
            for code, severity, message in fields.pop("findings")
        ]
        if role is not None and block == 0 and role != "superblock":
            troubles.insert(0, Trouble("bad-pointer", "fatal", "block 0 is the superblock", 0))
        if block in path:
            text = f"the way leads back to it: {' > '.join(map(str, (*path, block)))}"
            troubles.insert(0, Trouble("tree-loop", "fatal", text, block))
        return Seen(
            block=block,
            raw=fields.get("bytes"),
            kind=fields.get("kind"),
            zeros=fields.get("zeros", False),
            troubles=tuple(troubles),
            superblock=_superblock(fields.get("superblock")),
            node=_node(fields.get("node")),
            bitmap=fields.get("bitmap"),
            index=fields.get("index"),
        )

    # ---- superblocks ----

    def live(self) -> Seen:
        """Block 0; of a pool in use it may just be written, and is read again."""
        seen = self.see(0, "superblock")
        for _ in range(LIVE_TRIES if self.metadata_snapshot is not None else 0):
            if seen.fatal is None:
                break
            time.sleep(LIVE_PAUSE_SECONDS)
            seen = self.see(0, "superblock")
        return seen

    def home(self) -> tuple[int, Role] | Trouble:
        """Block and role of the superblock whose roots are read."""
        if self.metadata_snapshot is None:
            return 0, "superblock"
        if self.metadata_snapshot != "held":
            return self.metadata_snapshot, "snapshot"
        live = self.live()
        if live.superblock is None or live.fatal is not None:
            return live.fatal or _no_superblock(live)
        if live.superblock.held_root == 0:
            text = "the pool holds no metadata snapshot (any more)"
            return Trouble("metadata-snapshot-damaged", "fatal", text, 0)
        return live.superblock.held_root, "snapshot"

    def roots(self) -> Superblock | Trouble:
        """The superblock whose roots are read, if it is sound."""
        home = self.home()
        if isinstance(home, Trouble):
            return home
        seen = self.see(*home)
        if seen.superblock is None or seen.fatal is not None:
            return seen.fatal or _no_superblock(seen)
        return seen.superblock

    # ---- ways through trees ----

    def find(self, root: int, key: int, role: Role) -> Found:
        """Go down a tree to the leaf of a key."""
        found, block = Found(), root
        low: int | None = None
        high: int | None = None
        for _ in range(MAX_DEPTH):
            seen = self.see(block, role, low=low, high=high, path=tuple(found.path))
            found.path.append(block)
            node = seen.node
            if seen.fatal is not None or node is None or node.keys is None:
                found.trouble = seen.fatal or _no_node(seen)
                return found
            at = _last_not_above(node.keys, key)
            if node.children is None:
                found.leaf = node
                found.at = at if at is not None and node.keys[at] == key else None
                return found
            # What is below the first key would be in the first child.
            at = at or 0
            block = node.children[at]
            low = node.keys[at]
            high = node.keys[at + 1] if at + 1 < len(node.keys) else high
        found.trouble = _too_deep(block)
        return found

    def height(self, seen: Seen, role: Role | None) -> int | Trouble:
        """Levels below a node, by the way through first children; 0 for a leaf."""
        path = [seen.block]
        for height in range(MAX_DEPTH):
            node = seen.node
            if seen.fatal is not None or node is None or node.keys is None:
                return seen.fatal or _no_node(seen)
            if not node.children:
                return height
            seen = self.see(node.children[0], role, path=tuple(path))
            path.append(seen.block)
        return _too_deep(seen.block)

    def entries(
        self, root: int, role: Role, first: int, limit: int
    ) -> tuple[list[tuple[int, Any]], list[Trouble]]:
        """The first entries of a tree from a key on, of those that can be read."""
        walk = _Walk(self, role, first, limit)
        walk.visit(root, None, None, ())
        return walk.entries, walk.troubles

    # ---- counts ----

    def space_map(self, which: Map) -> SpaceMapRoot | Trouble:
        """The root of a space map; they are the live superblock's."""
        live = self.live()
        if live.superblock is None or live.fatal is not None:
            return live.fatal or _no_superblock(live)
        if which == "data":
            return live.superblock.data_space_map_root
        return live.superblock.metadata_space_map_root

    def bitmap_of(self, which: Map, number: int) -> int | Trouble:
        """The metadata block of a bitmap."""
        root = self.space_map(which)
        if isinstance(root, Trouble):
            return root
        missing = Trouble(
            "space-map-damaged",
            "fatal",
            f"the index of the {which} space map has no bitmap {number}",
            root.bitmap_root,
        )
        if which == "metadata":
            seen = self.see(root.bitmap_root, "index")
            if seen.index is None or seen.fatal is not None:
                return seen.fatal or missing
            return seen.index[number][0] if number < len(seen.index) else missing
        found = self.find(root.bitmap_root, number, "index_tree")
        if found.trouble is not None:
            return found.trouble
        if found.at is None or found.leaf is None or found.leaf.index is None:
            return missing
        return found.leaf.index[found.at][0]

    def count(self, which: Map, block: int) -> int | Trouble | None:
        """The reference count of a block; ``None``: the map does not count it."""
        root = self.space_map(which)
        if isinstance(root, Trouble):
            return root
        if block >= root.nr_blocks:
            return None
        bitmap = self.bitmap_of(which, block // BITMAP_ENTRIES)
        if isinstance(bitmap, Trouble):
            return bitmap
        seen = self.see(bitmap, "bitmap")
        if seen.bitmap is None or seen.fatal is not None:
            return seen.fatal or Trouble("space-map-damaged", "fatal", "no bitmap", bitmap)
        count = seen.bitmap[block % BITMAP_ENTRIES]
        if count < MANY:
            return count
        found = self.find(root.ref_count_root, block, "counts")
        if found.trouble is not None:
            return found.trouble
        if found.at is None or found.leaf is None or found.leaf.counts is None:
            text = f"the bitmap says three or more of block {block}, and no count is stored"
            return Trouble("space-map-overflow", "fatal", text, bitmap)
        return found.leaf.counts[found.at]


class _Walk:
    """The entries of a tree in order, past damage, with a bound on what is read."""

    def __init__(self, metadata: Metadata, role: Role, first: int, limit: int) -> None:
        self._metadata, self._role = metadata, role
        self._first, self._limit = first, limit
        self._budget = limit + SPARE_NODES
        self._visited: set[int] = set()
        self.entries: list[tuple[int, Any]] = []
        self.troubles: list[Trouble] = []

    def visit(self, block: int, low: int | None, high: int | None, path: tuple[int, ...]) -> None:
        if len(self.entries) >= self._limit:
            return
        if self._budget == 0:
            return
        self._budget -= 1
        if self._budget == 0:
            text = "the list ends here: too many of its nodes are damaged or empty"
            self.troubles.append(Trouble("node-damaged", "fatal", text, block))
            return
        if len(path) >= MAX_DEPTH:
            self.troubles.append(_too_deep(block))
            return
        seen = self._metadata.see(block, self._role, low=low, high=high, path=path)
        node = seen.node
        again = block in self._visited
        self._visited.add(block)
        self.troubles.extend(seen.troubles)
        if seen.fatal is not None:
            return
        if again:
            text = "the tree has this node more than once"
            self.troubles.append(Trouble("tree-loop", "fatal", text, block))
            return
        if node is None or node.keys is None:
            self.troubles.append(_no_node(seen))
            return
        if node.children is None:
            rows = zip(node.keys, _values(node, self._role), strict=False)
            self.entries.extend(row for row in rows if row[0] >= self._first)
            return
        ends = [*node.keys[1:], high]
        for key, end, child in zip(node.keys, ends, node.children, strict=True):
            if end is None or end > self._first:
                self.visit(child, key, end, (*path, block))


def _values(node: Node, role: Role) -> list[Any]:
    lists: dict[str, list[Any] | None] = {
        "top_level": node.numbers,
        "mappings": node.mappings,
        "details": node.details,
        "index_tree": node.index,
        "counts": node.counts,
    }
    return lists[role] or []


def _last_not_above(keys: list[int], key: int) -> int | None:
    from bisect import bisect_right

    at = bisect_right(keys, key)
    return at - 1 if at else None


def _superblock(fields: dict[str, Any] | None) -> Superblock | None:
    return None if fields is None else Superblock.from_fields(fields)


def _node(fields: dict[str, Any] | None) -> Node | None:
    return None if fields is None else Node(**fields)


def _code(role: Role | None, code: str) -> str:
    """As check calls what is wrong with a metadata snapshot."""
    return "metadata-snapshot-damaged" if role == "snapshot" else code


def _no_superblock(seen: Seen) -> Trouble:
    return Trouble("superblock-damaged", "fatal", "no superblock is there", seen.block)


def _no_node(seen: Seen) -> Trouble:
    return Trouble("node-damaged", "fatal", "no node is there", seen.block)


def _too_deep(block: int) -> Trouble:
    text = f"the tree is deeper than {MAX_DEPTH} levels"
    return Trouble("tree-loop", "fatal", text, block)
