"""What stands in the way of making a pool's metadata anew, in the words of a command."""

from __future__ import annotations

from contextlib import contextmanager

from thinmeta.errors import MetadataSnapshotHeldError, ReadOnlyError, ThinmetaError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["needs_whole_pool"]


@contextmanager
def needs_whole_pool(command: str, meta: str) -> Iterator[None]:
    """Say what has to be done before ``command`` can be.

    Raises:
        ThinmetaError: The pool holds a metadata snapshot, or has to be checked.
    """
    try:
        yield
    except MetadataSnapshotHeldError as error:
        raise ThinmetaError(
            f"{command}: {meta}: the pool holds a metadata snapshot, which new metadata would "
            "not have: let go of it first ('thinmeta release-snapshot')"
        ) from error
    except ReadOnlyError as error:
        raise ThinmetaError(
            f"{command}: {meta}: needs_check is set, the pool may be damaged: check it, and "
            "repair it or clear the mark, first ('thinmeta check', 'thinmeta repair')"
        ) from error
