"""Where two volumes of a pool differ."""

from __future__ import annotations

from thinmeta.arguments import number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, overload

    from thinmeta import _core
    from thinmeta.types import DeltaRange

__all__ = ["KINDS", "Delta"]

#: What a code in the native column ``kind`` means.
KINDS = ("changed", "left_only", "right_only", "same")


class Delta:
    """A table of the ranges in which two volumes differ, in ascending order.

    Two blocks are the same when both volumes map them to one block of the pool's
    data; nothing of the data itself is read. Columns:

    ==================== =========================================================
    ``kind``             ``"changed"``, ``"left_only"``, ``"right_only"``, and
                         ``"same"`` if it was asked for
    ``begin_blocks``     first virtual block, in data blocks
    ``length_blocks``    number of blocks
    ``begin_bytes``      the same in bytes
    ``length_bytes``     the same in bytes
    ``left_data_block``  where the left volume's first block lies, null if unmapped
    ``right_data_block`` the same for the right volume
    ==================== =========================================================

    Within a row the data blocks of both sides follow one another, so that one
    range may take several rows. Iterating gives :class:`thinmeta.DeltaRange`;
    ``__arrow_c_stream__`` lets pyarrow, polars, duckdb and others take the table
    whole, e.g. ``pyarrow.table(delta)``.
    """

    __slots__ = ("_native",)

    def __init__(self, native: _core.Delta) -> None:
        self._native = native

    def __len__(self) -> int:
        return len(self._native)

    def __iter__(self) -> Iterator[DeltaRange]:
        return (self[index] for index in range(len(self._native)))

    if TYPE_CHECKING:

        @overload
        def __getitem__(self, index: int) -> DeltaRange: ...

        @overload
        def __getitem__(self, index: slice) -> list[DeltaRange]: ...

    def __getitem__(self, index: int | slice) -> DeltaRange | list[DeltaRange]:
        """One row, or a list of them; a negative index counts from the end."""
        rows = len(self._native)
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(rows))]
        from thinmeta.types import DeltaRange

        index = number(index, "a row of a delta")
        if not -rows <= index < rows:
            raise IndexError(f"row {index} of a delta of {rows} rows")
        kind, begin, length, left, right = self._native.row(index % rows)
        size = self._native.block_size_bytes
        return DeltaRange(kind, begin, length, begin * size, length * size, left, right)

    def __repr__(self) -> str:
        return f"<thinmeta.Delta rows={len(self)} changed_bytes={self.changed_bytes}>"

    @property
    def data_block_size_bytes(self) -> int:
        """Size of a data block in bytes."""
        return self._native.block_size_bytes

    @property
    def changed_blocks(self) -> int:
        """How many data blocks differ: all rows but those of kind ``"same"``."""
        return self._native.changed_blocks

    @property
    def changed_bytes(self) -> int:
        """How many bytes differ: all rows but those of kind ``"same"``."""
        return self._native.changed_blocks * self._native.block_size_bytes

    def merged(self) -> list[tuple[str, int, int]]:
        """Ranges as ``(kind, begin_blocks, length_blocks)``, wherever the data lie.

        Neighbouring rows of one kind are joined, so that a range is listed once
        even if the pool keeps it in many pieces. In data blocks.
        """
        return self._native.merged()

    def to_numpy(self) -> dict[str, Any]:
        """The columns as arrays by name, which view the table without copying it.

        ``left_data_block`` and ``right_data_block`` are masked arrays, masked where
        the volume has no data. ``kind`` is made anew, as strings; ``kind_code``
        views the codes, which :data:`thinmeta.delta.KINDS` explains.

        Raises:
            ImportError: NumPy is not installed.
        """
        import numpy as np

        from thinmeta.mappings import as_array, as_masked_array

        columns = self._native.columns()
        codes = as_array(columns["kind"])
        units = ("begin_blocks", "length_blocks", "begin_bytes", "length_bytes")
        return {
            "kind": np.array(KINDS)[codes],
            "kind_code": codes,
            **{name: as_array(columns[name]) for name in units},
            "left_data_block": as_masked_array(columns["left_data_block"], columns["left_valid"]),
            "right_data_block": as_masked_array(
                columns["right_data_block"], columns["right_valid"]
            ),
        }

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Export as a stream of record batches (Arrow PyCapsule interface)."""
        return self._native.__arrow_c_stream__(requested_schema)

    def __arrow_c_schema__(self) -> object:
        """Export the columns' types (Arrow PyCapsule interface)."""
        return self._native.__arrow_c_schema__()
