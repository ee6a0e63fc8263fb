"""A device's mappings, and answers to many look-ups, as tables."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from thinmeta import _core

__all__ = ["BlockMappings", "Mappings"]


def as_array(column: _core.Column) -> NDArray[Any]:
    """View a native column as an array, without copying it."""
    import numpy as np

    return np.asarray(memoryview(column))


def as_masked_array(column: _core.Column, valid: _core.Column) -> Any:
    """View a native column that has gaps as a masked array; only the mask is new."""
    import numpy as np

    return np.ma.MaskedArray(as_array(column), mask=as_array(valid) == 0)


class Mappings:
    """Every mapping of a thin device, as a table in ascending virtual order.

    Columns, one row a block: ``virtual_block`` and ``data_block`` (uint64, in data
    blocks) and ``time`` (uint32, the pool's clock when the block was written).

    Nothing is held: every export reads the device anew. The Arrow export streams
    batches, so that its memory does not grow with the volume; any library that
    speaks the Arrow PyCapsule interface takes it, for example
    ``pyarrow.table(device.mappings())`` or ``polars.DataFrame(device.mappings())``.
    """

    __slots__ = ("_native",)

    def __init__(self, native: _core.Mappings) -> None:
        self._native = native

    def __len__(self) -> int:
        return len(self._native)

    def to_numpy(self) -> dict[str, NDArray[Any]]:
        """Read all mappings into arrays, one for each column, by name.

        Raises:
            DamagedBlockError: A mapping node failed its check.
            ImportError: NumPy is not installed.
        """
        return {name: as_array(column) for name, column in self._native.columns().items()}

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Export as a stream of record batches (Arrow PyCapsule interface)."""
        return self._native.__arrow_c_stream__(requested_schema)

    def __arrow_c_schema__(self) -> object:
        """Export the columns' types (Arrow PyCapsule interface)."""
        return self._native.__arrow_c_schema__()


class BlockMappings:
    """Where many virtual blocks live: one row for each block asked for, in that order.

    The columns are attributes that speak the buffer protocol
    (``memoryview(answer.data_block)``).

    Attributes:
        data_block: uint64, in data blocks; meaningless where ``mapped`` is 0.
        time: uint32, the pool's clock when the block was written.
        shared: uint8, 1 where a snapshot may use the block too.
        mapped: uint8, 0 where the volume has a hole.
    """

    __slots__ = ("data_block", "mapped", "shared", "time")

    def __init__(self, columns: dict[str, _core.Column]) -> None:
        self.data_block, self.time = columns["data_block"], columns["time"]
        self.shared, self.mapped = columns["shared"], columns["mapped"]

    def __len__(self) -> int:
        return len(self.mapped)

    def to_numpy(self) -> dict[str, Any]:
        """The columns as arrays by name; all but ``mapped`` are masked where there is a hole.

        ``shared`` and ``mapped`` are views as booleans. Nothing but masks is copied.

        Raises:
            ImportError: NumPy is not installed.
        """
        import numpy as np

        mapped = as_array(self.mapped).view(np.bool_)
        shared = as_array(self.shared).view(np.bool_)
        return {
            "data_block": as_masked_array(self.data_block, self.mapped),
            "time": as_masked_array(self.time, self.mapped),
            "shared": np.ma.MaskedArray(shared, mask=~mapped),
            "mapped": mapped,
        }
