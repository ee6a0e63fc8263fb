"""What lies where in a pool's data."""

from __future__ import annotations

from thinmeta.arguments import number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, overload

    from numpy.typing import NDArray

    from thinmeta import _core
    from thinmeta.tools import Writer
    from thinmeta.types import ReverseRun

__all__ = ["ReverseMap"]


class ReverseMap:
    """A table of the blocks of all volumes, by where they lie in the pool's data.

    A row is a run of blocks that are side by side in a volume as in the data. What several
    volumes share is there for each of them. Columns, all uint64 and in data blocks:

    ================= =====================================
    ``data_begin``    first block of the pool's data
    ``length_blocks`` number of blocks
    ``device_id``     the thin device whose blocks they are
    ``virtual_begin`` first block in that device
    ================= =====================================

    Rows ascend by ``data_begin``, then ``length_blocks``, ``device_id`` and
    ``virtual_begin``. Iterating gives :class:`thinmeta.ReverseRun`; ``__arrow_c_stream__``
    lets pyarrow, polars, duckdb and others take the table whole.
    """

    __slots__ = ("_native",)

    def __init__(self, native: _core.ReverseMap) -> None:
        self._native = native

    def __len__(self) -> int:
        return len(self._native)

    def __iter__(self) -> Iterator[ReverseRun]:
        from thinmeta.types import ReverseRun

        columns = self._native.columns()
        names = ("data_begin", "length_blocks", "device_id", "virtual_begin")
        return map(ReverseRun, *(memoryview(columns[name]) for name in names))

    if TYPE_CHECKING:

        @overload
        def __getitem__(self, index: int) -> ReverseRun: ...

        @overload
        def __getitem__(self, index: slice) -> list[ReverseRun]: ...

    def __getitem__(self, index: int | slice) -> ReverseRun | list[ReverseRun]:
        """One row, or a list of them; a negative index counts from the end."""
        rows = len(self)
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(rows))]
        from thinmeta.types import ReverseRun

        index = number(index, "a row of a reverse map")
        if not -rows <= index < rows:
            raise IndexError(f"row {index} of a reverse map of {rows} rows")
        return ReverseRun(*self._native.row(index % rows))

    def __repr__(self) -> str:
        return f"<thinmeta.ReverseMap rows={len(self)}>"

    @property
    def data_block_size_bytes(self) -> int:
        """Size of a data block in bytes."""
        return self._native.block_size_bytes

    def write(
        self, out: int | Writer, *, progress: Callable[[int, int], object] | None = None
    ) -> None:
        """Write the rows as lines, as thin_rmap does.

        Args:
            out: A file descriptor, or a binary file, which takes longer.
            progress: Called now and then.
        """
        self._native.write(out, progress=progress)

    def to_numpy(self) -> dict[str, NDArray[Any]]:
        """The columns as arrays by name.

        Raises:
            ImportError: NumPy is not installed.
        """
        from thinmeta.mappings import as_array

        return {name: as_array(column) for name, column in self._native.columns().items()}

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Export as a stream of record batches (Arrow PyCapsule interface)."""
        return self._native.__arrow_c_stream__(requested_schema)

    def __arrow_c_schema__(self) -> object:
        """Export the columns' types (Arrow PyCapsule interface)."""
        return self._native.__arrow_c_schema__()
