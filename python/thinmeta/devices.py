"""The thin devices of a pool."""

from __future__ import annotations

import os
from collections.abc import Mapping

from thinmeta import _core
from thinmeta.arguments import MAX_U64, mode_argument, number
from thinmeta.errors import NoSuchDeviceError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO, Literal, TypeAlias, overload

    from typing_extensions import Buffer

    from thinmeta.mappings import BlockMappings, Mappings
    from thinmeta.volume import Volume, WritableVolume

    Path: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]

__all__ = ["Devices", "ThinDevice"]


class ThinDevice(_core.ThinDevice):
    """One thin device (a volume or a snapshot) of an open pool.

    Attributes:
        id: Its number in the pool, 24 bits.
        mapped_blocks: How many data blocks it maps, its own and shared ones.
        transaction_id: The pool's transaction id when it was created.
        creation_time: The pool's clock when it was created.
        snapshotted_time: The pool's clock at the last snapshot of it, or its own
            creation as a snapshot.

    ``runs(start, stop)`` yields :class:`thinmeta.Run` values in ascending order,
    and ``find(virtual_block)`` gives a :class:`thinmeta.BlockMapping`, or ``None``
    for a hole; both count in data blocks. Two of these are equal if they are the same
    device of the same open pool.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ThinDevice):
            return NotImplemented
        return self.id == other.id and self._pool() is other._pool()

    def __hash__(self) -> int:
        return hash((id(self._pool()), self.id))

    # The two below wrap what the native methods give, so their types differ on purpose.
    # A wrapper object instead of a subclass would put a Python frame into every `find`.
    def mappings(self) -> Mappings:  # type: ignore[override]
        """Every mapping as a table, for Arrow and NumPy."""
        from thinmeta.mappings import Mappings

        return Mappings(super().mappings())

    def find_many(self, virtual_blocks: Buffer) -> BlockMappings:  # type: ignore[override]
        """Look up many virtual blocks in one call.

        Args:
            virtual_blocks: Unsigned 64-bit numbers in any buffer, for example
                ``array.array("Q", …)`` or a NumPy array of uint64. Ascending order
                is fastest.

        Returns:
            One row for each block, in the order given.

        Raises:
            DamagedBlockError: A mapping node on the way failed its check.
        """
        from thinmeta.mappings import BlockMappings

        return BlockMappings(super().find_many(virtual_blocks))

    if TYPE_CHECKING:

        @overload
        def open(
            self,
            *,
            mode: Literal["r"] = "r",
            size_bytes: int | None = None,
            external_origin: Path | BinaryIO | None = None,
        ) -> Volume: ...

        @overload
        def open(
            self,
            *,
            mode: Literal["r+"],
            size_bytes: int | None = None,
            external_origin: Path | BinaryIO | None = None,
        ) -> WritableVolume: ...

    def open(
        self,
        *,
        mode: Literal["r", "r+"] = "r",
        size_bytes: int | None = None,
        external_origin: Path | BinaryIO | None = None,
    ) -> Volume | WritableVolume:
        """Open the device's content as a file; the pool needs ``data=``.

        Args:
            mode: ``"r"`` reads; ``"r+"`` writes too, in a pool that is open so.
            size_bytes: Size of the volume, which the metadata does not know. ``None``
                takes the end of the highest mapped block, and then
                ``size_is_known`` of the result is false.
            external_origin: What unmapped blocks show, a path or a binary file that
                can seek; past its end, even in the middle of a block, zeros.

        Returns:
            A seekable raw file.

        Raises:
            UsageError: The pool was opened without ``data``, or is closed.
            ReadOnlyError: To write: the pool was opened with ``mode="r"``, or its state
                is ``"read_only"``.
            NoSuchDeviceError: The device was deleted.
            OSError: The data or the external origin cannot be opened.
            DamagedBlockError: A mapping node failed its check.
        """
        from thinmeta.volume import Volume, WritableVolume

        mode_argument(mode)
        if size_bytes is not None:
            size_bytes = number(size_bytes, "size_bytes")
            if not 0 <= size_bytes <= MAX_U64:
                raise UsageError(f"no volume can have {size_bytes} bytes")
        if isinstance(external_origin, bytes | os.PathLike):
            external_origin = os.fsdecode(external_origin)
        if mode == "r+":
            return WritableVolume(
                self._writable_volume(size_bytes=size_bytes, external_origin=external_origin)
            )
        return Volume(self._volume(size_bytes=size_bytes, external_origin=external_origin))

    def __repr__(self) -> str:
        return f"<thinmeta.ThinDevice {self.id} mapped_blocks={self.mapped_blocks}>"


class Devices(Mapping[int, ThinDevice]):
    """A pool's thin devices by id, in ascending order of the ids."""

    __slots__ = ("_native",)

    def __init__(self, native: _core.Pool) -> None:
        self._native = native

    def __getitem__(self, device_id: int) -> ThinDevice:
        """Look a device up.

        Raises:
            NoSuchDeviceError: The pool has no device of that id (also a ``KeyError``).
            TypeError: The id is not a number.
        """
        device_id = number(device_id, "a device id")
        if not 0 <= device_id <= MAX_U64:
            raise NoSuchDeviceError(device_id)
        return ThinDevice(self._native, device_id)

    def __contains__(self, device_id: object) -> bool:
        if isinstance(device_id, bool) or not isinstance(device_id, int):
            return False
        return super().__contains__(device_id)

    def __iter__(self) -> Iterator[int]:
        return iter(self._native.device_ids())

    def __len__(self) -> int:
        return len(self._native.device_ids())

    def __repr__(self) -> str:
        return f"<thinmeta.Devices {list(self)}>"
